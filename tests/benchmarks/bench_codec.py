"""Time of encode plus decode of k = 64 entries over |V| = 151 936, against one float32 softmax in the same process."""

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.codec import LawCodec
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.truncation import largest

VOCAB_SIZE, K = 151_936, 64


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bench_codec(repeats: int = 200) -> dict[str, str | float]:
    """Median times, the two measured in turn so that other load falls on both; the first round warms the tables."""
    rng = np.random.default_rng(0)
    logits = rng.permutation(-1.2 * np.log(np.arange(1, VOCAB_SIZE + 1))).astype(np.float32)
    law = _softmax(logits)
    kept = largest(law, K)
    codec = LawCodec(vocab_size=VOCAB_SIZE, format=Format.COMPACT, quantiser=Quantiser.TYPES, size=K)
    times = [
        (_seconds(lambda: codec.decode(codec.encode(kept, law[kept]))), _seconds(lambda: _softmax(logits)))
        for _ in range(repeats + 1)
    ][1:]
    value, reference = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = value / reference
    return {"name": "codec_vs_softmax", "value": value, "reference": reference, "ratio": ratio, "unit": "s"}


def report() -> None:
    """Print the result as one line of JSON."""
    print(json.dumps(bench_codec()))


if __name__ == "__main__":
    report()
