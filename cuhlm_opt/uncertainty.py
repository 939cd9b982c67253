"""Uncertainty of the SLM about its draft, by temperature perturbation: sampled [P] and by its integral [N, THEORY 4.2].

Both rest on G(theta) = log sum_v exp(z_v / theta). Entries within `_EXACT_NATS` of the largest logit enter one by
one, the others through the means of narrow bins, so that a node of theta costs a few thousand exponentials, not |V|.
"""

from enum import StrEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.distributions import Law

_EXACT_NATS = 1.0
_BINS_PER_NAT = 128
_RANGE = 40.0  # in units of the largest theta: beyond it an entry's weight is under 1e-17 of the largest one

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


def compress_logits(logits: Law, theta_max: float = THETA_MAX) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits relative to the largest one, as (values, counts) of the entries within 40 theta_max nats of it.

    A bin of width 1/128 nat is represented by its mean, so that exp(values/theta) @ counts has a relative error below
    (1/128)^2 / (8 theta^2) on the binned part, which itself weighs at most |V| exp(-1/theta).
    """
    gap = logits.max() - logits
    exact = gap[gap < _EXACT_NATS].astype(np.float64)
    rest = gap[(gap >= _EXACT_NATS) & (gap < _RANGE * theta_max)]
    index = (rest * np.float32(_BINS_PER_NAT)).astype(np.int32)
    counts = np.bincount(index)
    used = np.flatnonzero(counts)
    means = np.bincount(index, weights=rest)[used] / counts[used]
    return -np.concatenate([exact, means]), np.concatenate([np.ones(len(exact)), counts[used]])


def perturbed_probabilities(logits: Law, tokens: NDArray[np.integer], thetas: Law) -> NDArray[np.float64]:
    """softmax(z / theta)_v, shape (len(thetas), len(tokens)); theta = 0 is the point mass on the argmax."""
    values, counts = compress_logits(logits, float(np.max(thetas)))
    own = np.asarray(logits[tokens], dtype=np.float64) - float(logits.max())
    safe = np.where(thetas > 0, thetas, 1.0)[:, None]
    probabilities = np.exp(own / safe) / (np.exp(values / safe) @ counts)[:, None]
    point_mass = (np.asarray(tokens) == int(np.argmax(logits))).astype(np.float64)
    return np.where(np.asarray(thetas)[:, None] > 0, probabilities, point_mass)


def sampled_uncertainty(
    logits: Law,
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
    agree = perturbed_probabilities(logits, np.array([draft]), thetas)[:, 0]
    return float(np.mean(rng.random(samples) >= agree))


def mean_uncertainty(
    logits: Law, tokens: NDArray[np.integer], theta_max: float = THETA_MAX, nodes: int = 32
) -> NDArray[np.float64]:
    """u_bar_v = 1 - (1/theta_max) int_0^theta_max softmax(z/theta)_v dtheta, E[u] for uniform theta [N, THEORY 4.2].

    Args:
        logits: shape (|V|,).
        tokens: token ids v, shape (n,).
        theta_max: largest perturbing temperature, > 0.
        nodes: Gauss-Legendre nodes in sqrt(theta / theta_max), dense near 0, where near-ties make the integrand steep:
            32 keep the error below 1e-3, 128 below 1e-5, with up to 10^5 tokens that nearly tie.

    Returns:
        u_bar of each token, shape (n,), in [0, 1].

    Example:
        >>> mean_uncertainty(np.zeros(4), np.array([0, 3])).round(6).tolist()
        [0.75, 0.75]
    """
    roots, weights = _nodes(nodes)
    return 1.0 - weights * roots @ perturbed_probabilities(logits, tokens, theta_max * roots**2)


@cache
def _nodes(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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
