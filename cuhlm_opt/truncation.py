"""Truncated uploads: keep the k largest entries, the server spreads the rest evenly [P2, THEORY 2.5]; and the cost.

Everything here works on a law sorted once (`descending`), so that any number of k share one sort.
"""

import math

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.distributions import Law


def largest(law: Law, k: int) -> NDArray[np.intp]:
    """Indices of the k largest entries, in decreasing order, ties by index; O(|V| + k log k)."""
    k = min(k, len(law))
    if k == 0:
        return np.empty(0, dtype=np.intp)
    bound = np.partition(law, len(law) - k)[len(law) - k]
    above = np.flatnonzero(law > bound)
    ties = np.flatnonzero(law == bound)[: k - len(above)]
    chosen = np.concatenate([above, ties])
    return chosen[np.lexsort((chosen, -law[chosen]))]


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


def truncation_distances(
    descending: Law, sizes: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mass of the tail and TV(x, x_hat_k) for each k in `sizes` [N, THEORY 4.6].

    TV(x, x_hat_k) = sum_{i>k} (x_(i) - m_k)+ with m_k the mean of the tail: the tail entries above m_k are a prefix
    of the tail, found by binary search, so all sizes together cost one cumulative sum.

    Args:
        descending: the law sorted in decreasing order, shape (|V|,).
        sizes: truncation sizes in [0, |V|].

    Returns:
        (tail_mass, tv), each of the shape of `sizes`, in [0, 1]. `tv` does not increase with k.
    """
    vocab_size = len(descending)
    suffix = np.concatenate([np.cumsum(descending[::-1], dtype=np.float64)[::-1], [0.0]])
    tail_mass = suffix[sizes]
    mean = tail_mass / np.maximum(vocab_size - sizes, 1)
    above = vocab_size - np.searchsorted(descending[::-1], mean, side="right")  # entries of the law above the mean
    end = np.maximum(above, sizes)
    return tail_mass, np.maximum(0.0, tail_mass - suffix[end] - (end - sizes) * mean)


def smallest_size(law: Law, tolerance: float, head: int = 1024) -> int:
    """Smallest k with TV(x, x_hat_k) <= tolerance, from x alone [N, THEORY 4.4, 4.6]; O(|V|) after a partial sort.

    Only the `head` largest entries are sorted; the sum over the tail beyond them needs no order. Where the head is not
    enough, it is widened.

    >>> smallest_size(np.array([0.7, 0.1, 0.1, 0.1]), 1e-9)
    1
    """
    vocab_size = len(law)
    while True:
        head = min(head, vocab_size)
        top = np.asarray(law, dtype=np.float64)[largest(law, head)]
        rest = 1.0 - np.concatenate([[0.0], np.cumsum(top)])  # mass beyond the first k entries
        low, high = 0, head
        while low < high:  # TV does not increase with k, so bisection finds the smallest feasible size
            middle = (low + high) // 2
            if _tail_distance(law, top, rest, middle) <= tolerance:
                high = middle
            else:
                low = middle + 1
        if low < head or head == vocab_size or _tail_distance(law, top, rest, low) <= tolerance:
            return low
        head *= 8


def _tail_distance(law: Law, top: NDArray[np.float64], rest: NDArray[np.float64], k: int) -> float:
    """TV(x, x_hat_k), from the sorted head where the tail mean is above all beyond it, else from all of x."""
    vocab_size = len(law)
    if k >= vocab_size:
        return 0.0
    mean = max(rest[k], 0.0) / (vocab_size - k)
    if len(top) == vocab_size or mean >= top[-1]:
        tail = top[k:]
        return float(np.maximum(tail - mean, 0.0).sum())
    return float(np.maximum(law - mean, 0.0).sum(dtype=np.float64) - np.maximum(top[:k] - mean, 0.0).sum())
