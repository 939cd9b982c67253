"""The correlation model E[beta | u] = a u + b [P, THEORY 2.3], its errors, thresholds, and a monotone fit [N]."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import ndtri

from cuhlm_opt.distributions import Law
from cuhlm_opt.errors import InputError

BINS = 20
"""Of equal width over [0, 1], in which means are correlated."""


@dataclass(frozen=True, kw_only=True)
class LinearFit:
    """Least-squares line of beta on u over tokens.

    `a_se`, `b_se` are standard errors robust to heteroscedasticity and to dependence within a prompt (sandwich over
    prompts); nan where there is a single prompt. `r`, `r2` are per token; `r_binned`, `r2_binned` correlate the means
    of equal-width bins of u, as the published figure does: larger as a rule, since averaging removes scatter in beta.
    """

    a: float
    b: float
    a_se: float
    b_se: float
    r: float
    r2: float
    r_binned: float
    r2_binned: float
    n_tokens: int
    n_prompts: int


def fit_linear(u: Law, beta: Law, prompts: NDArray[np.integer], bins: int = BINS) -> LinearFit:
    """Fit E[beta | u] = a u + b by least squares.

    Args:
        u: uncertainty per token, shape (n,), in [0, 1].
        beta: rejection probability per token, shape (n,), in [0, 1].
        prompts: prompt index per token, shape (n,): the clusters.
        bins: equal-width bins of u in [0, 1] for the binned correlation.

    Raises:
        InputError: fewer than 3 tokens, or u constant.
    """
    u, beta = np.asarray(u, dtype=np.float64), np.asarray(beta, dtype=np.float64)
    if len(u) < 3 or np.ptp(u) == 0:
        raise InputError(f"records: {len(u)} positions with {len(np.unique(u))} values of u; a fit needs 3 and 2")
    design = np.column_stack([u, np.ones_like(u)])
    bread = np.linalg.inv(design.T @ design)
    a, b = bread @ design.T @ beta
    residual = beta - (a * u + b)
    labels, cluster = np.unique(prompts, return_inverse=True)
    scores = np.zeros((len(labels), 2))
    np.add.at(scores, cluster, design * residual[:, None])
    small_sample = len(labels) / (len(labels) - 1) if len(labels) > 1 else np.nan
    a_se, b_se = np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread) * small_sample)
    r = _correlation(u, beta)
    means = bin_means(u, beta, bins)
    r_binned = _correlation(means[0], means[1])
    return LinearFit(
        a=float(a), b=float(b), a_se=float(a_se), b_se=float(b_se), r=r, r2=r * r,
        r_binned=r_binned, r2_binned=r_binned**2, n_tokens=len(u), n_prompts=len(labels),
    )  # fmt: skip


def binned_correlation(u: Law, beta: Law, prompts: NDArray[np.integer]) -> tuple[float, float, tuple[float, float]]:
    """Correlation of the means of `BINS` bins, its standard error, and its 95 % interval.

    The jackknife over prompts: each is left out in turn. A bootstrap would not do, as resamples empty the bins of few
    tokens, and so lie below the estimate. The interval is symmetric in Fisher's z and says how far R would scatter over
    as many prompts; with more of them the means of bins scatter less, and R over bins is larger.

    Args:
        u: uncertainty per token, shape (n,), in [0, 1].
        beta: rejection probability per token, shape (n,).
        prompts: prompt index per token, shape (n,), 0 .. n_prompts - 1.

    Returns:
        (r, se, ends); nan where fewer than two prompts, or two bins, hold tokens.
    """
    n_prompts = int(prompts.max()) + 1
    cells = np.asarray(prompts) * BINS + _bin_of(u, BINS)
    sums = np.stack(
        [
            np.bincount(cells, weights=each, minlength=n_prompts * BINS).reshape(n_prompts, BINS)
            for each in (np.ones(len(u)), u, beta)
        ]
    )
    total = sums.sum(axis=1)
    r = _over_bins(total)
    left_out = np.array([_over_bins(total - sums[:, prompt]) for prompt in range(n_prompts)])
    scatter = np.mean((left_out - left_out.mean()) ** 2) if n_prompts > 1 else np.nan
    se = float(np.sqrt((n_prompts - 1) * scatter))
    if not np.isfinite(se) or abs(r) >= 1:
        return r, se, (np.nan, np.nan)
    half = ndtri(0.975) * se / (1 - r * r)
    low, high = np.tanh(np.arctanh(r) + np.array([-half, half]))
    return r, se, (float(low), float(high))


def _over_bins(sums: NDArray[np.float64]) -> float:
    """Correlation of the means of bins from their counts and sums, shape (3, bins); nan where too few hold tokens."""
    count, u, beta = sums[:, sums[0] > 0.5]
    return _correlation(u / count, beta / count) if len(count) > 1 else np.nan


def _bin_of(u: Law, bins: int) -> NDArray[np.int64]:
    return np.minimum((np.asarray(u) * bins).astype(np.int64), bins - 1)


def bin_means(
    u: Law, beta: Law, bins: int = BINS
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean u, mean beta and number of tokens in each non-empty bin of equal width over [0, 1]."""
    index = _bin_of(u, bins)
    count = np.bincount(index, minlength=bins)
    used = count > 0
    mean_u = np.bincount(index, weights=u, minlength=bins)[used] / count[used]
    mean_beta = np.bincount(index, weights=beta, minlength=bins)[used] / count[used]
    return mean_u, mean_beta, count[used]


def fit_isotonic(u: Law, beta: Law) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nondecreasing least-squares fit of E[beta | u] [N]: knots (u, value), one per distinct level of the fit.

    E[beta | u] at u is the value of the last knot at or below u.
    """
    levels, inverse = np.unique(np.asarray(u, dtype=np.float64), return_inverse=True)
    weights = np.bincount(inverse).astype(np.float64)
    means = np.bincount(inverse, weights=beta) / weights
    fitted = isotonic_regression(means, weights=weights).x
    starts = np.flatnonzero(np.diff(fitted, prepend=-np.inf) > 0)
    return levels[starts], fitted[starts]


def risk_averse_threshold(a: float, b: float) -> float:
    """u_th = -b/a: where the line crosses zero rejection [P2, THEORY 2.4]; nan unless a > 0. It may leave [0, 1].

    >>> round(risk_averse_threshold(0.815, -0.066), 4)
    0.081
    """
    return risk_prone_threshold(a, b, 0.0)


def risk_prone_threshold(a: float, b: float, delta: float) -> float:
    """u_th = (Delta - b)/a with Delta = P(y_d < x_d) [P2, THEORY 2.4]; nan unless a > 0. It may leave [0, 1].

    >>> round(risk_prone_threshold(0.815, -0.066, 0.5955), 4)
    0.8117
    """
    return (delta - b) / a if a > 0 else float("nan")


def _correlation(p: Law, q: Law) -> float:
    """Pearson's R; nan where a side is constant or fewer than two points are given."""
    if len(p) < 2 or np.ptp(p) == 0 or np.ptp(q) == 0:
        return float("nan")
    return float(np.corrcoef(p, q)[0, 1])
