"""`cuhlm-opt solve` from a cold start, as a whole process, against an interpreter that only imports numpy and scipy."""

import json
import subprocess
import sys
import time

import numpy as np

REPEATS = 7


def seconds(*arguments: str) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Print one JSON object: seconds of the command, of the reference, and the median of the ratios."""
    solve = ("-m", "cuhlm_opt", "solve", "--bandwidth", "10MHz", "--json")
    reference = ("-c", "import numpy, scipy.optimize")
    seconds(*solve), seconds(*reference)
    times = np.array([(seconds(*solve), seconds(*reference)) for _ in range(REPEATS)])
    value, base = np.median(times, axis=0)
    ratio = float(np.median(times[:, 0] / times[:, 1]))
    figures = {"value": float(value), "reference": float(base), "ratio": ratio, "unit": "s"}
    print(json.dumps({"name": "solve_cold_s", **figures}))


if __name__ == "__main__":
    main()
