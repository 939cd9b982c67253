"""Uncertainty of the SLM about its draft, by temperature perturbation: sampled [P] and by its integral [N, THEORY 4.2].

Both rest on F(theta) = sum_v exp((z_v - max z) / theta). The largest logits enter one by one, the others through the
means of groups of neighbours in the sorted logits, so that a node of theta costs two thousand exponentials, not |V|.
"""

from enum import StrEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.distributions import Law

_SINGLE = 512
"""Logits that enter one by one."""
_SHARE = 256
"""A group has at most 1/256 as many entries as there are above it."""
MEAN_NODES = 48
"""Nodes of the integral uncertainty."""

SAMPLES = 20
"""M of the published method [P2]."""
THETA_MAX = 2.0
"""Largest perturbing temperature of the published method [P2]."""


class ThetaConvention(StrEnum):
    """How the perturbing temperatures are chosen; public re-implementations differ (THEORY 2.2)."""

    UNIFORM = "uniform"
    """theta_m uniform on (0, theta_max], independent."""
    GRID = "grid"
    """theta_m = theta_max (m - 1)/(M - 1), the argmax at 0."""
    UNIFORM_FROM_0_05 = "uniform-from-0.05"
    """theta_m uniform on (0.05, theta_max], independent."""

    def temperatures(self, samples: int, theta_max: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """`samples` perturbing temperatures, shape (samples,)."""
        if self is ThetaConvention.GRID:
            return np.linspace(0.0, theta_max, samples)
        low = 0.0 if self is ThetaConvention.UNIFORM else 0.05
        return theta_max - (theta_max - low) * rng.random(samples)


class PerturbedLogits:
    """The logits of one position at any temperature, sorted and compressed once.

    Beyond the `_SINGLE` largest, a value is the mean of a group of neighbours in rank. With N_b entries above group b
    and n_b <= N_b / 256 in it, at gaps a_b to c_b, its part of F exceeds that of its mean by at most
    n_b (exp(-a_b/theta) - exp(-c_b/theta)). As F(theta) = int N(g) exp(-g/theta) dg / theta, where N(g) counts the
    entries within the gap g, these add up to at most F / 256: what is used for F is in [(1 - 1/256) F, F], whatever the
    logits. Where they lie densely the error is second order in the width of a group, 1e-6 and less.

    Args:
        logits: shape (|V|,), not all -inf; exponentials are taken in their precision.
        gaps: sorted logits less the largest one, where they are at hand; the last one is 0.
    """

    def __init__(self, logits: Law, gaps: Law | None = None) -> None:
        self.logits, self.largest = logits, logits.max()
        gaps = np.sort(logits - self.largest) if gaps is None else gaps
        starts, counts = groups_of_rank(len(gaps))
        self.counts = counts.astype(gaps.dtype)
        means = np.add.reduceat(gaps[:-_SINGLE], starts) / self.counts[: len(starts)] if len(starts) else gaps[:0]
        self.values = np.concatenate([means, gaps[-_SINGLE:]])

    def probabilities(self, tokens: NDArray[np.integer], thetas: NDArray[np.float64]) -> NDArray[np.float64]:
        """softmax(z / theta)_v, shape (len(thetas), len(tokens)); theta = 0 is the point mass on the argmax."""
        inverse = (1.0 / np.where(thetas > 0, thetas, 1.0)).astype(self.values.dtype)[:, None]
        exponents = inverse * self.values
        partition = np.exp(exponents, out=exponents) @ self.counts
        own = inverse * (self.logits[tokens] - self.largest)
        probabilities = np.exp(own).astype(np.float64) / partition[:, None]
        if np.any(thetas == 0):
            probabilities[thetas == 0] = np.asarray(tokens) == int(np.argmax(self.logits))
        return probabilities


@cache
def groups_of_rank(vocab_size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Groups of rank in increasing logits: where each starts, and how many entries it has; 1 for each single entry.

    >>> starts, counts = groups_of_rank(515)
    >>> starts.tolist(), counts[:3].tolist(), len(counts)
    ([0, 1], [1, 2, 1], 514)
    """
    bounds, rank = [], _SINGLE
    while rank < vocab_size:
        bounds.append(vocab_size - rank)
        rank += rank // _SHARE
    starts = np.array([0, *bounds[:0:-1]] if bounds else [], dtype=np.intp)
    sizes = np.diff(np.append(starts, bounds[:1]))
    return starts, np.append(sizes, np.ones(min(vocab_size, _SINGLE))).astype(np.intp)


def sampled_uncertainty(
    logits: Law | PerturbedLogits,
    draft: int,
    rng: np.random.Generator,
    samples: int = SAMPLES,
    theta_max: float = THETA_MAX,
    convention: ThetaConvention = ThetaConvention.UNIFORM,
) -> float:
    """U = (1/M) sum_m 1[d_m != d] with d_m ~ softmax(z / theta_m) [P, THEORY 2.2], in [0, 1], a multiple of 1/M.

    Given theta_m the indicator is a coin of probability 1 - softmax(z / theta_m)_d, which is what is drawn: the law
    of u is the published one, without drawing M tokens from |V| entries.
    """
    thetas = convention.temperatures(samples, theta_max, rng)
    agree = _perturbed(logits).probabilities(np.array([draft]), thetas)[:, 0]
    return float(np.mean(rng.random(samples) >= agree))


def mean_uncertainty(
    logits: Law | PerturbedLogits, tokens: NDArray[np.integer], theta_max: float = THETA_MAX, nodes: int = MEAN_NODES
) -> NDArray[np.float64]:
    """u_bar_v = 1 - (1/theta_max) int_0^theta_max softmax(z/theta)_v dtheta, E[u] for uniform theta [N, THEORY 4.2].

    The error has two parts. Groups of logits take a share d <= 1/256 off F, d <= (1 - p_v)/256 for what is among the
    single entries, which moves u_bar by the mean of p_v (1 - p_v)/255 over theta at most: under 1e-3, whatever the
    logits. The quadrature is worst where all of |V| nearly ties: 2e-4 at 48 nodes, 1e-5 at 128.

    Args:
        logits: shape (|V|,).
        tokens: token ids v, shape (n,).
        theta_max: largest perturbing temperature, > 0.
        nodes: Gauss-Legendre nodes in sqrt(theta / theta_max), dense near 0, where near-ties make the integrand steep.

    Returns:
        u_bar of each token, shape (n,), in [0, 1].

    Example:
        >>> mean_uncertainty(np.zeros(4), np.array([0, 3])).round(6).tolist()
        [0.75, 0.75]
    """
    roots, weights = quadrature_nodes(nodes)
    return 1.0 - weights * roots @ _perturbed(logits).probabilities(tokens, theta_max * roots**2)


def _perturbed(logits: Law | PerturbedLogits) -> PerturbedLogits:
    return logits if isinstance(logits, PerturbedLogits) else PerturbedLogits(logits)


@cache
def quadrature_nodes(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Legendre nodes on [0, 1], and their weights on [-1, 1]."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return 0.5 * (points + 1.0), weights


def sampling_variance(u_bar: Law | float, samples: int = SAMPLES) -> NDArray[np.float64]:
    """Var(u | z, d) = u_bar (1 - u_bar) / M for independent temperatures, not for the grid [N, THEORY 4.2]."""
    mean = np.asarray(u_bar, dtype=np.float64)
    return mean * (1.0 - mean) / samples


def slope_attenuation(u_bar: Law, samples: int = SAMPLES) -> float:
    """Var(u_bar) / (Var(u_bar) + E[u_bar (1 - u_bar)] / M): how far noise in u shrinks the slope [N, THEORY 4.2]."""
    spread = float(np.var(u_bar))
    total = spread + float(np.mean(sampling_variance(u_bar, samples)))
    return spread / total if total > 0 else 1.0
