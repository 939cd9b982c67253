"""The whole reading of a step against one float32 softmax, same run, one thread, over recorded logits, |V| = 151 936.

The reading is a draft, u_bar of it and of the argmax, k, and the entries to send. The logits are those of the default
pair's SLM along its own answers. The softmax writes to memory of its own, so that it is as fast as numpy can make it.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # read when numpy is loaded

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.distributions import sample, softmax
from cuhlm_opt.gate import read_step
from cuhlm_opt.models.pairs import load_pair

PROMPTS = Path(__file__).parents[2] / "calibration" / "prompts"
PAIR, PER_FILE, TOKENS, REPEATS = "qwen2.5-coder", 5, 20, 2
TOLERANCES = (0.01, 1e-4)


def recorded_logits() -> Iterator[NDArray[np.float32]]:
    """Logits of up to 20 tokens of answers to five prompts of each file, shape (|V|,) each."""
    pair, rng = load_pair(PAIR, threads=1), np.random.default_rng(0)
    for path in (PROMPTS / "general.jsonl", PROMPTS / "stdlib.jsonl"):
        lines = path.read_text().splitlines()
        for line in lines[:: len(lines) // PER_FILE][:PER_FILE]:
            chunk = pair.slm.chat_tokens(json.loads(line)["prompt"])
            pair.slm.truncate(0, 0)
            for _ in range(TOKENS):
                logits = pair.slm.extend({0: chunk}, last_only=True)[0][-1]
                yield logits
                chunk = [sample(softmax(logits), rng)]
                if chunk[0] in pair.slm.eos_tokens:
                    break
    pair.close()


def milliseconds(work: Callable[[], object]) -> float:
    """One timed call."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Print one JSON object: medians in milliseconds, median and 95th percentile of the ratios; theta is of k."""
    positions, rng = list(recorded_logits()), np.random.default_rng(0)
    weights = np.empty_like(positions[0])

    def reference(logits: NDArray[np.float32]) -> None:
        np.subtract(logits, logits.max(), out=weights)
        np.exp(weights, out=weights)
        np.divide(weights, weights.sum(), out=weights)

    rows = []
    for position in positions[:3] + positions * REPEATS:
        logits = position.copy()  # in the cache for all of them, as a model leaves it
        base = milliseconds(lambda z=logits: reference(z))
        rows.append((base, *(milliseconds(lambda z=logits, t=t: read_step(z, rng, t)) for t in TOLERANCES)))
    times = np.array(rows[3:])  # the first ones warm up
    figures = [
        {
            "theta": tolerance,
            "value": float(np.median(own)),
            "ratio": float(np.median(own / times[:, 0])),
            "ratio_p95": float(np.percentile(own / times[:, 0], 95)),
        }
        for tolerance, own in zip(TOLERANCES, times.T[1:], strict=True)
    ]
    shared = {"reference": float(np.median(times[:, 0])), "unit": "ms", "positions": len(positions)}
    print(json.dumps({"name": "gate_vs_softmax", **figures[0], **shared, "also": figures[1:]}))


if __name__ == "__main__":
    main()
