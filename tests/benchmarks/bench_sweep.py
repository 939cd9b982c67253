"""A sweep of 1 000 links from the shipped records, against as many products of the records with one vector."""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cuhlm_opt.solve.options import pose
from cuhlm_opt.sweep import Sweep, sweep

DOMAIN = "code"


def main() -> None:
    """Print one JSON object: seconds of the sweep, of the reference, and their ratio."""
    axes = {
        "bandwidth_hz": tuple(np.geomspace(1e5, 1e8, 25).tolist()),
        "snr_db": tuple(np.linspace(-20.0, 20.0, 20).tolist()),
        "rtt_s": (0.0, 0.04),
        "max_bias": (0.02,),
    }
    plan = Sweep(axes=axes, calibration="qwen2.5-coder", options={"domain": DOMAIN, "bandwidth_hz": 1e6})
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        sweep(plan, Path(folder) / "sweep.parquet", progress=lambda done: None)
        value = time.perf_counter() - start
    gate = pose(domain=DOMAIN, bandwidth_hz=1e6).problem.gate
    assert gate is not None
    table, vector = gate.records.tv_x_xhat, np.ones(len(gate.records.k_grid), dtype=np.float32)
    start = time.perf_counter()
    for _ in plan.points:
        table @ vector
    base = time.perf_counter() - start
    figures = {"value": value, "reference": base, "ratio": value / base, "unit": "s"}
    print(json.dumps({"name": "sweep_1000_s", **figures}))


if __name__ == "__main__":
    main()
