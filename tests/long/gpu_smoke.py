"""A pair from the model hub on CUDA: calibrate a little, solve, decode. UNVERIFIED: this has not run on a GPU yet.

Needs CUDA and the hub. Bfloat16 laws move with the batch; the numeric floor that is measured tells by how much.
"""

import argparse
import sys
from pathlib import Path

import torch

from cuhlm_opt.cli.main import main as cuhlm_opt


def main() -> int:
    """Run the three commands; the first that fails ends it with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", default="smollm2-hub")
    parser.add_argument("--out", type=Path, default=Path("gpu-smoke"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu-smoke: torch finds no CUDA device here; nothing was run", file=sys.stderr)
        return 1
    calibration, point = str(options.out / "calibration"), str(options.out / "operating-point.json")
    models = ["--pair", options.pair, "--device", "cuda", "--dtype", "bfloat16"]
    records = ["--prompts", "general", "--limit", "16", "--max-tokens", "32", "--batch-size", "16", "--resume"]
    commands = (
        ["calibrate", *models, *records, "--out", calibration],
        ["solve", "--bandwidth", "10MHz", "--calibration", calibration, "--policy", "budget", "--out", point],
        ["decode", *models, "--operating-point", point, "--max-tokens", "64", "Why is the sky blue?"],
    )
    return next((code for command in commands if (code := cuhlm_opt(command))), 0)


if __name__ == "__main__":
    sys.exit(main())
