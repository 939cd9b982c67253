"""What b_prob bits say of a probability: the values they stand for, and the value a mass is rounded to [N, THEORY 9].

The mass that is not sent is implied, so rounded masses must not exceed 1. Largest-remainder rounding cannot exceed it.
Rounding each mass by itself can (and leaves a negative rest if nothing is done about it): there the masses are divided
by their sum. With k = |V| there is nothing to spread a rest over, and the sum is made 1.
"""

import math
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.distributions import Law
from cuhlm_opt.errors import CodecError

_Floats = NDArray[np.float64]

MEASURED_BITS = (2, 4, 6, 8, 10, 12, 14, 16)
"""b_prob at which a calibration measures what rounding does."""
LEAST_BITS, MOST_BITS = MEASURED_BITS[0], MEASURED_BITS[-1]


class Quantiser(StrEnum):
    """What the 2^b_prob values of a mass are, and how a mass is rounded to them."""

    UNIFORM = "uniform"
    """Multiples of 1/(2^b_prob - 1), each mass to the nearest."""
    LOG = "log"
    """0 and a geometric sequence over 2 b_prob + 4 octaves up to 1, each mass to the nearest. Levels as dense as the
    root of the masses' density lose least in TV (high-resolution theory): this is the density of Zipf's exponent 1."""
    CUBE = "cube"
    """Cubes of the uniform levels, each mass to the nearest: by the same rule, the density of Zipf's exponent 3."""
    TYPES = "types"
    """n/N with N = 2^b_prob - 1, all masses and the rest together by largest remainder: they sum to 1."""


def quantise(
    masses: Law, quantiser: Quantiser, b_prob: int, vocab_size: int, *, down: bool = False
) -> NDArray[np.int64]:
    """Round k masses of a law over `vocab_size` tokens.

    Args:
        masses: at least 0, sum at most 1, shape (k,).
        quantiser: how they are rounded.
        b_prob: bits of a mass.
        vocab_size: |V|.
        down: take the level below, not the nearest. Then no sum exceeds 1, so that what a mass becomes does not depend
            on the masses beside it. Types are not affected.

    Returns:
        Codes in 0 .. 2^b_prob - 1, shape (k,); of a type with k < |V|, shape (k + 1,), the last that of the rest.

    Raises:
        CodecError: all of |V| masses are 0.
    """
    if quantiser is not Quantiser.TYPES:
        return _below(masses, quantiser, b_prob) if down else _nearest(masses, quantiser, b_prob)
    rest = max(0.0, 1.0 - math.fsum(masses.tolist()))
    cells = np.append(masses, rest) if len(masses) < vocab_size else np.asarray(masses, dtype=np.float64)
    if not cells.any():
        raise CodecError("probabilities: all of |V| entries are 0")
    return _largest_remainder(cells, 2**b_prob - 1)


def dequantise(codes: NDArray[np.int64], quantiser: Quantiser, b_prob: int, vocab_size: int) -> _Floats:
    """Masses that the codes of k entries stand for, sum at most 1 (1 for k = |V|); of a type without the rest's code.

    Raises:
        CodecError: counts of a type that sum to more than N, or for k = |V| to less.
    """
    full, last, total = len(codes) == vocab_size, 2**b_prob - 1, int(codes.sum())
    if quantiser is Quantiser.TYPES and (total > last or (full and total != last)):
        raise CodecError(f"message: counts sum to {total}, allowed {last}")
    masses = _levels(quantiser, b_prob)[codes]
    mass = math.fsum(masses[codes > 0].tolist())  # exactly rounded, so the same on both sides; code 0 stands for 0
    if full and mass == 0:
        return np.full(vocab_size, 1 / vocab_size)
    return masses / mass if full or mass > 1 else masses


def level_below(masses: Law, quantiser: Quantiser, b_prob: int) -> _Floats:
    """What each mass is rounded down to, any shape; not for types, whose masses are rounded together."""
    return _levels(quantiser, b_prob)[_below(masses, quantiser, b_prob)]


def quantisation_distances(descending: Law, sizes: NDArray[np.integer]) -> _Floats:
    """TV(x_hat_k, decoded x_hat_k) for every quantiser, b_prob in `MEASURED_BITS`, and k in `sizes`.

    Args:
        descending: the law sorted in decreasing order, shape (|V|,).
        sizes: truncation sizes in [0, |V|], shape (S,).

    Returns:
        Shape (quantisers, bits, S), in [0, 1].

    Example:
        >>> quantisation_distances(np.array([0.7, 0.1, 0.1, 0.1]), np.array([1]))[0, :4, 0].round(4).tolist()
        [0.0333, 0.0333, 0.0016, 0.002]
    """
    vocab_size = len(descending)
    table = np.empty((len(Quantiser), len(MEASURED_BITS), len(sizes)))
    for row, quantiser in enumerate(Quantiser):
        for column, b_prob in enumerate(MEASURED_BITS):
            if quantiser is not Quantiser.TYPES:  # each mass by itself: all sizes share one rounding
                codes = quantise(descending, quantiser, b_prob, vocab_size)
            for at, k in enumerate(sizes):
                kept = descending[:k]
                own = quantise(kept, quantiser, b_prob, vocab_size) if quantiser is Quantiser.TYPES else codes[:k]
                moved = dequantise(own[:k], quantiser, b_prob, vocab_size) - kept
                # Both tails are even, so that theirs is the distance of the rests.
                table[row, column, at] = 0.5 * (np.abs(moved).sum() + abs(moved.sum()))
    return table


def measured_sizes(vocab_size: int) -> NDArray[np.int64]:
    """Truncation sizes at which a calibration measures what rounding does: powers of two up to 2^14, and |V|.

    >>> measured_sizes(20).tolist()
    [1, 2, 4, 8, 16, 20]
    """
    powers = 2 ** np.arange(15)
    return np.append(powers[powers < vocab_size], vocab_size)


@lru_cache(maxsize=64)
def _levels(quantiser: Quantiser, b_prob: int) -> _Floats:
    """The values of a mass, increasing from 0 to 1, shape (2^b_prob,)."""
    last = 2**b_prob - 1
    levels: _Floats = np.arange(last + 1) / last
    if quantiser is Quantiser.CUBE:
        levels = np.arange(last + 1) ** 3 / last**3
    if quantiser is Quantiser.LOG:
        powers = np.exp2(np.linspace(-(2 * b_prob + 4), 0, last))
        levels[1:] = powers.astype(np.float32)  # so that machines whose exp2 differ in the last bit agree
    levels.flags.writeable = False
    return levels


def _nearest(masses: Law, quantiser: Quantiser, b_prob: int) -> NDArray[np.int64]:
    """Index of the nearest level of each mass."""
    levels = _levels(quantiser, b_prob)
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, masses).astype(np.int64)


def _below(masses: Law, quantiser: Quantiser, b_prob: int) -> NDArray[np.int64]:
    """Index of the largest level that is at most each mass."""
    return np.searchsorted(_levels(quantiser, b_prob), masses, side="right").astype(np.int64) - 1


def _largest_remainder(cells: _Floats, total: int) -> NDArray[np.int64]:
    """Counts that sum to `total`, each cell's share rounded down or up, the largest remainders up, ties by position."""
    shares = cells * (total / math.fsum(cells.tolist()))
    counts = np.floor(shares).astype(np.int64)
    missing = total - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:missing]] += 1
    return counts
