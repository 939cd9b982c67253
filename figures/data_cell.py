"""One uplink bandwidth shared by devices that stand near and far: shares and latencies for each way to split it."""

import numpy as np
import pyarrow as pa

from cuhlm_opt.allocation import Fairness
from cuhlm_opt.cell import Cell, Device, solve_cell
from cuhlm_opt.modes import Mode

READS = ("records",)
DECIBELS = np.linspace(-5.0, 25.0, 7)
"""Over `REFERENCE_HZ`; in each domain one device stands at each. The layout is made up."""
REFERENCE_HZ = 10e6
"""Powers are fixed: over twice the bandwidth the noise is twice as strong."""
MODES = (Mode.U_HLM, Mode.CU_HLM_OFFLINE)
"""The other skipping modes send hundreds of bits and less: there sharing hardly matters."""
MAX_BIAS = 0.02
BANDWIDTHS_HZ = np.geomspace(1e5, 1e7, 5)


def table(inputs):
    """One row a mode, bandwidth, way to split and device; proportional fairness at `REFERENCE_HZ` alone."""
    rows = []
    for mode in MODES:
        for bandwidth_hz in BANDWIDTHS_HZ.tolist():
            splits = {}
            for fairness in Fairness if bandwidth_hz == REFERENCE_HZ else (Fairness.SUM, Fairness.MAX):
                cell = Cell(bandwidth_hz=bandwidth_hz, fairness=fairness, devices=devices(inputs, mode, bandwidth_hz))
                solution = solve_cell(cell)
                splits[str(fairness)] = solution.best
            splits |= {"equal": solution.equal, "by-load": solution.proportional}
            for split, found in splits.items():
                rows += [
                    {
                        "mode": mode, "bandwidth_hz": bandwidth_hz, "split": split, "domain": domain, "snr_db": snr_db,
                        "reference_hz": REFERENCE_HZ, "max_bias": MAX_BIAS, "share": share_hz / bandwidth_hz,
                        "latency_s": latency_s, "bits_per_token": bits,
                    }
                    for (domain, snr_db), share_hz, latency_s, bits in zip(
                        layout(inputs), found.shares_hz.tolist(), found.latency_s.tolist(),
                        found.demands.bits.tolist(), strict=True,
                    )
                ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def layout(inputs):
    """Domain and SNR of each device."""
    return [(domain, snr_db) for domain in inputs.domains for snr_db in DECIBELS.tolist()]


def devices(inputs, mode, bandwidth_hz):
    """The devices; their SNR over all of a bandwidth follows from their powers."""
    return tuple(
        Device(
            name=f"{domain} at {snr_db:g} dB",
            snr=10 ** (snr_db / 10) * REFERENCE_HZ / bandwidth_hz,
            weight=1.0,
            most_s=float("inf"),
            calibration=str(inputs.calibration_folder),
            options={"mode": mode, "domain": domain, "max_bias": MAX_BIAS},
        )
        for domain, snr_db in layout(inputs)
    )
