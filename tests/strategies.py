"""Hypothesis strategies for laws, pairs of laws, skip rules and logits: the shapes on which formulas break.

Small laws are built entry by entry, so that a failure shrinks to a readable one; large ones from a seed.
"""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Law = NDArray[np.float64]
LARGEST = 2000
"""Largest vocabulary drawn."""


def law(*weights: float) -> Law:
    """The law proportional to `weights`."""
    array = np.array(weights, dtype=np.float64)
    return array / array.sum()


def _normalised(weights: NDArray[np.floating]) -> Law:
    """Float64 law proportional to `weights`, or the flat one where they vanish."""
    weights = weights.astype(np.float64)
    return weights / weights.sum() if weights.sum() > 0 else np.full(len(weights), 1.0 / len(weights))


def flat(size: int) -> st.SearchStrategy[Law]:
    return st.just(np.full(size, 1.0 / size))


def one_hot(size: int) -> st.SearchStrategy[Law]:
    return st.integers(0, size - 1).map(lambda token: np.eye(1, size, token)[0])


def tied(size: int) -> st.SearchStrategy[Law]:
    """Weights 0 to 3: ties, exact zeros, one-hot laws."""
    return st.lists(st.integers(0, 3), min_size=size, max_size=size).map(lambda w: _normalised(np.array(w)))


def general(size: int) -> st.SearchStrategy[Law]:
    """Weights over twelve orders of magnitude, or zero."""
    weight = st.one_of(st.just(0.0), st.floats(1e-12, 1.0))
    return st.lists(weight, min_size=size, max_size=size).map(lambda w: _normalised(np.array(w)))


def rounded(size: int) -> st.SearchStrategy[Law]:
    """A law kept in float32: its sum is 1 within 1e-6 only before it is normalised again in float64."""
    return general(size).map(lambda p: _normalised(p.astype(np.float32)))


def heavy_tailed(size: int) -> st.SearchStrategy[Law]:
    """Zipf with a random exponent over shuffled tokens, perturbed, as the law of a language model is."""

    def build(seed: int, exponent: float) -> Law:
        rng = np.random.default_rng(seed)
        return rng.permutation(_normalised(np.arange(1, size + 1) ** -exponent * rng.exponential(size=size)))

    return st.builds(build, st.integers(0, 2**32 - 1), st.floats(0.5, 3.0))


def sparse(size: int) -> st.SearchStrategy[Law]:
    """Most entries exactly zero, as after top-p."""

    def build(seed: int, share: float) -> Law:
        rng = np.random.default_rng(seed)
        return _normalised(rng.exponential(size=size) * (rng.random(size) < share))

    return st.builds(build, st.integers(0, 2**32 - 1), st.floats(0.0, 0.5))


_SMALL: tuple[Callable[[int], st.SearchStrategy[Law]], ...] = (
    tied, general, rounded, flat, one_hot, heavy_tailed,
)  # fmt: skip
_LARGE: tuple[Callable[[int], st.SearchStrategy[Law]], ...] = (heavy_tailed, sparse, flat, one_hot)


def sizes(largest: int = LARGEST) -> st.SearchStrategy[int]:
    """Vocabulary sizes: mostly a few tokens, now and then up to `largest`."""
    few = st.integers(1, min(8, largest))
    return few if largest <= 8 else st.one_of(few, few, st.integers(9, largest))


def laws_of(size: int) -> st.SearchStrategy[Law]:
    """Laws over `size` tokens."""
    return st.one_of([build(size) for build in (_SMALL if size <= 8 else _LARGE)])


@st.composite
def laws(draw: st.DrawFn, largest: int = LARGEST) -> Law:
    """Laws over up to `largest` tokens."""
    return draw(laws_of(draw(sizes(largest))))


@st.composite
def pairs_of(draw: st.DrawFn, size: int) -> tuple[Law, Law]:
    """Pairs (x, y) over `size` tokens: independent, equal, close, equal but for float32 rounding, disjoint."""
    x, y = draw(laws_of(size)), draw(laws_of(size))
    kind = draw(st.sampled_from(["independent", "equal", "close", "rounded", "disjoint"]))
    if kind == "equal":
        y = x.copy()
    elif kind == "close":
        y = _normalised(0.9 * x + 0.1 * y)
    elif kind == "rounded":
        y = _normalised(x.astype(np.float32))
    elif kind == "disjoint" and size > 1:
        cut = draw(st.integers(1, size - 1))
        first = np.arange(size) < cut
        x, y = _normalised_on(x, first), _normalised_on(y, ~first)
    return x, y


def _normalised_on(p: Law, support: NDArray[np.bool_]) -> Law:
    """`p` restricted to `support`, flat on it where `p` vanishes there."""
    weights = np.where(support, p, 0.0)
    return _normalised(weights if weights.sum() > 0 else support.astype(np.float64))


@st.composite
def pairs(draw: st.DrawFn, largest: int = LARGEST) -> tuple[Law, Law]:
    """Pairs (x, y) over up to `largest` tokens."""
    return draw(pairs_of(draw(sizes(largest))))


def skips_of(size: int) -> st.SearchStrategy[Law]:
    """Skip probabilities s_v: deterministic, or with coins."""
    entry = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))
    certain = st.sampled_from([0.0, 1.0])
    if size > 8:
        return st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random(size).round(1))
    return st.one_of(
        [st.lists(value, min_size=size, max_size=size).map(np.array) for value in (certain, entry)]
    )  # fmt: skip


@st.composite
def logits(draw: st.DrawFn, largest: int = LARGEST) -> NDArray[np.floating]:
    """Logits, float32 or float64: spread out, all equal, equal at the top, and nearly equal at the top."""
    size = draw(sizes(largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(size=size) * draw(st.sampled_from([0.0, 0.3, 3.0, 30.0]))
    at_top = rng.permutation(size)[: draw(st.integers(1, 4))]
    values[at_top] = values.max()
    values[at_top] -= draw(st.sampled_from([0.0, 0.0, 1e-6, 1e-3, 1e-1])) * np.arange(len(at_top))
    return values.astype(draw(st.sampled_from([np.float32, np.float64])))
