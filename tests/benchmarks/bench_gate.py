"""The gate (law, draft, integral uncertainty of the argmax) against one float32 softmax, same run, |V| = 151 936.

The logits are synthetic: Zipf's law with noise, shuffled.
"""

import json
import time
from collections.abc import Callable

import numpy as np

from cuhlm_opt.distributions import sample, softmax
from cuhlm_opt.uncertainty import mean_uncertainty

VOCAB_SIZE, REPEATS = 151_936, 101


def seconds(work: Callable[[], object]) -> float:
    """One timed call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print one JSON object: milliseconds of the gate, of the softmax, and the median of the ratios."""
    rng = np.random.default_rng(0)
    zipf = -1.5 * np.log(1.0 + np.arange(VOCAB_SIZE))
    logits = rng.permutation(zipf + rng.normal(size=VOCAB_SIZE)).astype(np.float32)

    def gate() -> None:
        sample(softmax(logits), rng)
        mean_uncertainty(logits, np.array([np.argmax(logits)]))

    def reference() -> None:
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()

    gate(), reference()
    times = np.array([(seconds(gate), seconds(reference)) for _ in range(REPEATS)])
    value, base = np.median(times, axis=0)
    ratio = float(np.median(times[:, 0] / times[:, 1]))
    figures = {"value": 1e3 * float(value), "reference": 1e3 * float(base), "ratio": ratio, "unit": "ms"}
    print(json.dumps({"name": "gate_vs_softmax", **figures}))


if __name__ == "__main__":
    main()
