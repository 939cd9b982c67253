"""Calibration against the forward passes of its two models alone, in the same run, pair smollm2-q2.

A part is recorded, with every call to a model noted; then the same calls are made again, and nothing else is done.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.calibrate.prompts import load_prompt_sets
from cuhlm_opt.calibrate.record import Collection, record
from cuhlm_opt.models.fetch import fetch
from cuhlm_opt.models.padding import WithoutPadding
from cuhlm_opt.models.pairs import Pair, load_pair
from cuhlm_opt.models.protocol import LanguageModel

PAIR, PARTS, LANES, TOKENS = "smollm2-q2", 3, 4, 16


class Noted(WithoutPadding):
    """A model whose calls are noted."""

    def __init__(self, model: LanguageModel, calls: list[Callable[[], object]]) -> None:
        super().__init__(model, model.vocab_size)
        self._calls = calls

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, NDArray[np.float32]]:
        """See `LanguageModel.extend`."""
        self._calls.append(partial(self._model.extend, dict(chunks), last_only=last_only))
        return super().extend(chunks, last_only=last_only)

    def truncate(self, lane: int, length: int) -> None:
        """See `LanguageModel.truncate`."""
        self._calls.append(partial(self._model.truncate, lane, length))
        super().truncate(lane, length)


def main() -> None:
    """Print one JSON object: tokens/s of calibration, of the passes alone, and the median of the ratios."""
    fetch(PAIR)
    models = load_pair(PAIR, lanes=LANES, context_length=512)
    collection, rates = Collection(max_tokens=TOKENS, lanes=LANES), []
    prompts = load_prompt_sets(["general"], limit=LANES * (PARTS + 1))
    for part in range(PARTS + 1):
        calls: list[Callable[[], object]] = []
        noted = Pair(name=models.name, slm=Noted(models.slm, calls), llm=Noted(models.llm, calls))
        start = time.perf_counter()
        rows = record(noted, prompts[part * LANES :][:LANES], collection)
        recorded = time.perf_counter()
        for call in calls:
            call()
        rates.append((len(rows) / (recorded - start), len(rows) / (time.perf_counter() - recorded)))
    models.close()
    warm = np.array(rates[1:])
    value, reference = np.median(warm, axis=0)
    ratio = float(np.median(warm[:, 0] / warm[:, 1]))
    figures = {"value": float(value), "reference": float(reference), "ratio": ratio, "unit": "tokens/s"}
    print(json.dumps({"name": "calibrate_vs_forward", **figures}))


if __name__ == "__main__":
    main()
