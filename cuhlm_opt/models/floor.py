"""How far a model's law moves with the way its prefix was read: the floor under every measured bias.

Kernels differ with the number of tokens in a pass, and quantised weights round activations too, so that the same prefix
has not quite the same law when it was read token by token and when it was read in chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.artefacts import Floor
from cuhlm_opt.distributions import softmax, total_variation
from cuhlm_opt.models.pairs import Pair
from cuhlm_opt.models.protocol import LanguageModel

_DRAFT_CHUNK = 4


@dataclass(frozen=True, kw_only=True)
class NumericFloor:
    """Total variation between laws of the same prefix, read token by token and otherwise."""

    mean_chunked: float
    """Against chunks of 4 tokens, as a verifier of drafts reads; mean over prefixes."""
    max_chunked: float
    mean_plan: float
    """Against the chunks of the calibration plan."""
    max_plan: float
    plan_chunk: int
    positions: int

    @property
    def mean(self) -> float:
        """The larger of the two means."""
        return max(self.mean_chunked, self.mean_plan)


def numeric_floor(
    model: LanguageModel,
    tokens: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    chunk: int = 512,
    max_positions: int = 48,
) -> NumericFloor:
    """Read sequences one token at a time, in chunks of 4, and in chunks of the plan, and compare the laws.

    Lane 0 is cleared before and after.

    Args:
        model: any backend.
        tokens: sequences of token ids, at least one token in all.
        temperature: of the laws.
        chunk: tokens per pass in the calibration plan.
        max_positions: first tokens of each sequence that are read.

    Example:
        >>> from cuhlm_opt.models.tiny import Role, TinyModel
        >>> numeric_floor(TinyModel(Role.SLM), [[0, 1, 2, 3, 4, 0]]).mean
        0.0
    """
    chunked, plan = [], []
    for sequence in tokens:
        read = list(sequence[:max_positions])
        single = _laws(model, read, 1, temperature)
        chunked += [
            total_variation(p, q) for p, q in zip(single, _laws(model, read, _DRAFT_CHUNK, temperature), strict=True)
        ]
        plan += [total_variation(p, q) for p, q in zip(single, _laws(model, read, chunk, temperature), strict=True)]
    return NumericFloor(
        mean_chunked=float(np.mean(chunked)),
        max_chunked=max(chunked),
        mean_plan=float(np.mean(plan)),
        max_plan=max(plan),
        plan_chunk=chunk,
        positions=len(plan),
    )


def measure_floor(pair: Pair, probes: Sequence[Sequence[int]], *, temperature: float = 1.0, chunk: int = 512) -> Floor:
    """Numeric floor of both models of a pair, as a calibration keeps it: the larger mean of each."""
    floors = [numeric_floor(model, probes, temperature=temperature, chunk=chunk) for model in (pair.slm, pair.llm)]
    compared = f"one token at a time against chunks of {_DRAFT_CHUNK} and of {chunk}, {floors[0].positions} prefixes"
    return Floor(slm=floors[0].mean, llm=floors[1].mean, compared=compared)


def _laws(model: LanguageModel, tokens: list[int], chunk: int, temperature: float) -> list[NDArray[np.float64]]:
    """Laws after each of `tokens`, fed to an empty lane 0 in chunks."""
    model.truncate(0, 0)
    rows: list[NDArray[np.float64]] = []
    for start in range(0, len(tokens), chunk):
        rows += [softmax(row, temperature) for row in model.extend({0: tokens[start : start + chunk]})[0]]
    model.truncate(0, 0)
    return rows
