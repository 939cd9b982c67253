"""Truncated uploads: keep the k largest entries, the server spreads the rest evenly [P2, THEORY 2.5]; and the cost.

Everything here works on a law sorted once, so that any number of k share one sort.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.distributions import Law

_BLOCK = 64
"""Entries whose sum is kept."""
_PROBES = 24
"""Sizes that are tried at once, about."""


def largest(law: Law, k: int) -> NDArray[np.intp]:
    """Indices of the k largest entries, in decreasing order, ties by index; O(|V| + k log k)."""
    k = min(k, len(law))
    if k == 0:
        return np.empty(0, dtype=np.intp)
    chosen = largest_from(law, k, np.partition(law, len(law) - k)[len(law) - k])
    return chosen[np.lexsort((chosen, -law[chosen]))]


def largest_from(law: Law, k: int, bound: float | np.floating) -> NDArray[np.intp]:
    """Indices of the k >= 1 largest entries, ties by index, in any order; `bound` is the k-th largest entry."""
    chosen = np.flatnonzero(law >= bound)
    if len(chosen) == k:
        return chosen
    values = law[chosen]
    return np.concatenate([chosen[values > bound], chosen[values == bound]])[:k]


def reconstruct(kept: NDArray[np.integer], probabilities: Law, vocab_size: int) -> NDArray[np.float64]:
    """Law x_hat that the server rebuilds: `probabilities` on `kept`, the rest of the mass spread evenly elsewhere.

    Args:
        kept: k distinct token ids.
        probabilities: their probabilities, shape (k,), sum at most 1 within rounding.
        vocab_size: |V| >= k. With k = |V| nothing is spread.

    Example:
        >>> reconstruct(np.array([2]), np.array([0.7]), 4).round(3).tolist()
        [0.1, 0.1, 0.7, 0.1]
    """
    k = len(kept)
    rest = max(0.0, 1.0 - float(np.sum(probabilities, dtype=np.float64)))
    law = np.full(vocab_size, rest / (vocab_size - k) if k < vocab_size else 0.0)
    law[kept] = probabilities
    return law


def size_grid(vocab_size: int, per_octave: int = 8) -> NDArray[np.int64]:
    """Truncation sizes at which profiles are kept: 0 to `per_octave`, then at most that many per octave, and |V|.

    >>> size_grid(20, per_octave=4).tolist()
    [0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 13, 16, 19, 20]
    """
    octaves = math.log2(vocab_size)
    steps = 2.0 ** (np.arange(math.ceil(octaves * per_octave) + 1) / per_octave)
    sizes = np.unique(np.floor(np.minimum(steps, vocab_size)).astype(np.int64))
    return np.unique(np.concatenate([[0], np.arange(1, min(per_octave, vocab_size) + 1), sizes, [vocab_size]]))


class RankedLaw:
    """A law in increasing order, with the sums that any truncation size needs: it is sorted once and summed once.

    TV(x, x_hat_k) = sum_{i>k} (x_(i) - m_k)+ with m_k the mean of the tail [N, THEORY 4.6]. The entries of the tail
    above m_k come first in it; binary search finds their number, and sums of blocks give both masses.

    Args:
        ascending: weights proportional to the law, sorted, shape (|V|,), at least 0, not all 0. Sums are in float64.
    """

    def __init__(self, ascending: Law) -> None:
        whole = len(ascending) // _BLOCK * _BLOCK
        blocks = np.einsum("ij->i", ascending[:whole].reshape(-1, _BLOCK), dtype=np.float64)
        self.ascending = ascending
        self._before = np.concatenate([[0.0], np.cumsum(blocks)])
        self.total = float(self._least(np.array([len(ascending)]))[0])

    def distances(self, sizes: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mass of the tail and TV(x, x_hat_k) for each k in `sizes`; see `truncation_distances`."""
        left = len(self.ascending) - np.asarray(sizes, dtype=np.intp)
        tail = self._least(left)
        mean = tail / np.maximum(left, 1)
        flat = np.minimum(np.searchsorted(self.ascending, self._rounded_down(mean), side="right"), left)
        distance = tail - self._least(flat) - (left - flat) * mean
        return tail / self.total, np.maximum(distance, 0.0) / self.total

    def smallest_size(self, tolerance: float) -> int:
        """Smallest k with TV(x, x_hat_k) <= tolerance, |V| if there is none.

        TV does not increase with k, so each round of sizes leaves the gap between two of them.
        """
        low, high, sizes = 0, len(self.ascending), _first_sizes(len(self.ascending))
        while low < high:
            within = np.flatnonzero(self.distances(sizes)[1] <= tolerance)
            first = int(within[0]) if len(within) else len(sizes)
            low = int(sizes[first - 1]) + 1 if first else low
            high = int(sizes[first]) if len(within) else high
            sizes = np.arange(low, high, max(1, (high - low) // _PROBES))
        return low

    def largest_masses(self, k: int) -> NDArray[np.float64]:
        """Masses of the k largest entries, in increasing order, shape (k,)."""
        return self.ascending[-k:].astype(np.float64) / self.total

    @property
    def entropy(self) -> float:
        """Entropy in nats."""
        own = self.ascending[np.searchsorted(self.ascending, 0.0, side="right") :]
        return float(np.log(self.total) - np.sum(own * np.log(own), dtype=np.float64) / self.total)

    def index_at(self, mass: float) -> int:
        """Index i of `ascending` at which the running sum passes `mass` in [0, total): inversion, for sampling."""
        block = int(np.searchsorted(self._before, mass, side="right")) - 1
        start = block * _BLOCK
        running = self._before[block] + np.cumsum(self.ascending[start : start + _BLOCK], dtype=np.float64)
        index = start + int(np.searchsorted(running, mass, side="right"))
        return min(index, len(self.ascending) - 1)  # rounding of the last sum must name no entry beyond it

    def _least(self, counts: NDArray[np.intp]) -> NDArray[np.float64]:
        """Sum of the `counts` smallest weights, for each count."""
        block = counts // _BLOCK
        places = (block * _BLOCK)[:, None] + np.arange(_BLOCK)
        part = np.where(places < counts[:, None], self.ascending[np.minimum(places, len(self.ascending) - 1)], 0.0)
        return self._before[block] + part.sum(axis=1, dtype=np.float64)

    def _rounded_down(self, values: NDArray[np.float64]) -> Law:
        """The largest numbers of the weights' precision that are at most `values` >= 0: searching needs one type."""
        cast = values.astype(self.ascending.dtype)
        return np.where(cast > values, np.nextafter(cast, cast.dtype.type(-1)), cast)


@cache
def _first_sizes(vocab_size: int) -> NDArray[np.int64]:
    return size_grid(vocab_size, per_octave=1)[:-1]


def truncation_distances(
    descending: Law, sizes: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mass of the tail and TV(x, x_hat_k) for each k in `sizes` [N, THEORY 4.6].

    Args:
        descending: the law sorted in decreasing order, shape (|V|,).
        sizes: truncation sizes in [0, |V|].

    Returns:
        (tail_mass, tv), each of the shape of `sizes`, in [0, 1]. `tv` does not increase with k.
    """
    return RankedLaw(descending[::-1]).distances(sizes)


def smallest_size(law: Law, tolerance: float) -> int:
    """Smallest k with TV(x, x_hat_k) <= tolerance, from x alone [N, THEORY 4.4, 4.6].

    >>> smallest_size(np.array([0.7, 0.1, 0.1, 0.1]), 1e-9)
    1
    """
    return RankedLaw(np.sort(law)).smallest_size(tolerance)
