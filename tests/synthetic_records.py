"""Synthetic records for tests only: random peaked laws, scored by the package's own functions. No model was run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cuhlm_opt.artefacts import Calibration, Floor, Times
from cuhlm_opt.calibrate.fit import fit_records
from cuhlm_opt.calibrate.score import Scoring, score_position
from cuhlm_opt.distributions import sample, softmax
from cuhlm_opt.records import SCHEMA_VERSION, record_schema, write_records
from cuhlm_opt.truncation import size_grid
from cuhlm_opt.uncertainty import mean_uncertainty

TIMES = Times(slm_s=0.020, gate_s=0.001, llm_pass_s={1: 0.040, 2: 0.050, 4: 0.068, 8: 0.110})
FLOOR = Floor(slm=0.002, llm=0.003, compared="synthetic")


@dataclass(frozen=True)
class SyntheticPosition:
    """Both laws of one position in full, and the integral uncertainty of every token."""

    prompt_id: str
    domain: str
    x: np.ndarray
    y: np.ndarray
    u_bar: np.ndarray


def synthetic_positions(
    seed: int = 0, *, vocab_size: int = 300, prompts: int = 12, length: int = 8, noise: float = 0.8
) -> tuple[list[SyntheticPosition], pa.Table, dict]:
    """(positions, records, metadata): half of the prompts in domain `code`, peaked, half in `general`, flatter."""
    rng, answers = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    sizes = size_grid(vocab_size)
    positions, rows = [], []
    for prompt in range(prompts):
        domain, sharpness = ("code", 3.5) if prompt % 2 else ("general", 2.2)
        for place in range(length):
            slm = (sharpness * rng.uniform(0.5, 1.5) * rng.normal(size=vocab_size)).astype(np.float32)
            if rng.random() < 0.6:
                slm[rng.integers(vocab_size)] = slm.max() + rng.uniform(
                    1, 9
                )  # most real contexts have one likely token
            llm = (slm + noise * rng.normal(size=vocab_size)).astype(np.float32)
            row = score_position(slm, llm, sizes, Scoring(exact_share=1.0), rng)
            where = {"prompt_id": f"synthetic-{prompt:03d}", "domain": domain, "position": place, "source": "llm"}
            rows.append({**where, "context_token": sample(softmax(llm), answers), **row})
            u_bar = mean_uncertainty(slm, np.arange(vocab_size))
            positions.append(SyntheticPosition(where["prompt_id"], domain, softmax(slm), softmax(llm), u_bar))
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "k_grid": sizes.tolist(),
        "pair": {"name": "synthetic"},
        "source": "llm",
        "max_tokens": length,
        "scoring": {"temperature": 1.0, "top_p": 1.0},
    }
    return positions, pa.Table.from_pylist(rows, schema=record_schema(sizes.tolist())), metadata


def write_synthetic(folder: Path, table: pa.Table, metadata: dict, **settings) -> Calibration:
    """Write records and fitted calibration to `folder`."""
    write_records([table], folder / "records.parquet", metadata)
    settings = {"times": TIMES, "numeric_floor": FLOOR, **settings}
    calibration = fit_records(folder / "records.parquet", calibration_id="synthetic", pair="synthetic", **settings)
    calibration.write(folder / "calibration.json")
    return calibration
