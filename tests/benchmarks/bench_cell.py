"""A cell of 1 000 devices of distinct SNRs, both domains and three modes, against as many sorts of as many numbers."""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cuhlm_opt.cell import read_cell, solve_cell

DEVICES = 1000


def cell() -> str:
    """The file."""
    rng = np.random.default_rng(0)
    lines = ['bandwidth = "20MHz"']
    for number, snr_db in enumerate(rng.uniform(-10, 30, DEVICES)):
        domain, mode = ("code", "general")[number % 2], ("cu-hlm-offline", "coarse", "u-hlm")[number % 3]
        lines += ["[[device]]", f'name = "{number}"', f'snr = "{snr_db:.4f}dB"']
        lines += [f'domain = "{domain}"', f'mode = "{mode}"']
    return "\n".join(lines)


def main() -> None:
    """Print one JSON object: seconds of the cell, of the reference, their ratio, and the residual of optimality."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cell.toml"
        path.write_text(cell())
        start = time.perf_counter()
        solution = solve_cell(read_cell(path))
        value = time.perf_counter() - start
    numbers = np.random.default_rng(0).random((DEVICES, 1000))
    start = time.perf_counter()
    for row in numbers:
        np.sort(row)
    base = time.perf_counter() - start
    figures = {"value": value, "reference": base, "ratio": value / base, "unit": "s", "residual": solution.residual}
    print(json.dumps({"name": "cell_1000_s", **figures}))


if __name__ == "__main__":
    main()
