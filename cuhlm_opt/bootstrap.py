"""Cluster bootstrap over prompts: intervals for whatever is a function of sums over prompts [N].

Tokens of one answer depend on each other, prompts do not: whole prompts are resampled. A resample is a vector of
counts, multinomial over prompts, and its sums are one product with the sums of each prompt, so that hundreds of
resamples cost milliseconds whatever the number of tokens. Intervals are of percentile type (Efron, Tibshirani, "An
Introduction to the Bootstrap", 1993; for clusters, Cameron, Gelbach, Miller, "Bootstrap-Based Improvements for
Inference with Clustered Errors", 2008): they follow monotone transformations, and are a little short for few prompts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.errors import InputError

Array = NDArray[np.float64]
Statistics = Callable[[Array], Mapping[str, Array]]
"""Named statistics of sums: shape (..., p) to shape (...) each; nan where one is undefined."""

LEVEL = 0.95
RESAMPLES = 500


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its percentile interval; the ends are nan for fewer than two prompts."""

    value: float
    low: float
    high: float
    undefined: float = 0.0
    """Share of resamples in which the statistic has no value; the ends are quantiles of the others."""

    def through(self, monotone: Callable[[float], float]) -> "Interval":
        """Interval of a monotone function of the estimate, as of throughput from the skip rate."""
        low, high = sorted((monotone(self.low), monotone(self.high)))
        return Interval(value=monotone(self.value), low=low, high=high, undefined=self.undefined)


@dataclass(frozen=True)
class ClusterBootstrap:
    """Resamples of n prompts; one object serves all statistics, which then vary together."""

    counts: Array
    """(resamples, n): how often each prompt is drawn; rows sum to n."""

    @classmethod
    def draw(cls, n_prompts: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> Self:
        """Draw `resamples` multinomial count vectors over `n_prompts` prompts."""
        if n_prompts < 1 or resamples < 1:
            raise InputError(f"{resamples} resamples of {n_prompts} prompts are not allowed; give at least one of each")
        counts = np.empty((resamples, n_prompts))
        for row in counts:
            row[:] = np.bincount(rng.integers(n_prompts, size=n_prompts), minlength=n_prompts)
        return cls(counts)

    def intervals(self, statistics: Statistics, sums: Array, level: float = LEVEL) -> dict[str, Interval]:
        """Intervals of statistics of the prompts' sums.

        Args:
            statistics: from total sums to named values, vectorised over leading axes.
            sums: sums of each prompt, shape (n, p), as of `prompt_sums`.
            level: coverage, in (0, 1).

        Returns:
            One interval a name; where a statistic has no value, nan.

        Example:
            >>> sums = np.column_stack([np.full(4, 10.0), [1.0, 2.0, 3.0, 4.0]])  # tokens, skipped tokens
            >>> rate = ClusterBootstrap.draw(4, np.random.default_rng(0)).intervals(ratios("skip"), sums)["skip"]
            >>> rate.value, rate.low < 0.2 < 0.3 < rate.high
            (0.25, True)
        """
        n = self.counts.shape[1]
        if sums.ndim != 2 or len(sums) != n:
            raise InputError(f"sums of shape {sums.shape} are not allowed; give one row for each of {n} prompts")
        resampled = np.einsum("bn,np->bp", self.counts, sums)  # too small for BLAS, whose threads wait for busy cores
        values, replicates = statistics(sums.sum(axis=0)), statistics(resampled)
        return {name: percentile_interval(float(values[name]), replicates[name], level, n) for name in values}


def prompt_sums(prompt: NDArray[np.integer], *columns: NDArray[np.floating]) -> Array:
    """Sums of columns over the tokens of each prompt, the number of tokens first: shape (n, 1 + len(columns)).

    Args:
        prompt: index of the prompt per token, shape (N,), 0 .. n - 1.
        columns: values per token, shape (N,) each.

    >>> prompt_sums(np.array([0, 0, 1]), np.array([0.5, 0.25, 1.0])).tolist()
    [[2.0, 0.75], [1.0, 1.0]]
    """
    return np.column_stack([np.bincount(prompt, weights=column) for column in (np.ones(len(prompt)), *columns)])


def ratios(*names: str) -> Statistics:
    """Means over tokens: column j of the sums over column 0, for j = 1, 2, .. in the order of `names`."""

    def statistics(sums: Array) -> dict[str, Array]:
        return {name: sums[..., j] / sums[..., 0] for j, name in enumerate(names, start=1)}

    return statistics


def line_sums(prompt: NDArray[np.integer], u: NDArray[np.floating], beta: NDArray[np.floating]) -> Array:
    """Sums that `line_statistics` needs: n, u, beta, u^2, u beta, beta^2, 1[beta > 0], per prompt, shape (n, 7)."""
    return prompt_sums(prompt, u, beta, u * u, u * beta, beta * beta, (beta > 0).astype(np.float64))


def line_statistics(sums: Array) -> dict[str, Array]:
    """Least-squares line of beta on u and what follows from it, from the totals of `line_sums` [P, P2, THEORY 2].

    Returns:
        `a`, `b` of E[beta | u] = a u + b; `r`, their correlation over tokens; `delta` = P(y_d < x_d); `mean_beta`;
        `risk_averse` = -b/a and `risk_prone` = (delta - b)/a, nan unless a > 0; all nan where u is constant.
    """
    n = sums[..., 0]
    u, beta, uu, ub, bb, rejected = (sums[..., j] / n for j in range(1, 7))
    var_u, var_beta, covariance = uu - u * u, bb - beta * beta, ub - u * beta
    varies = var_u > 1e-12  # rounding of a constant u, of mean at most 1
    a = _divide(covariance, var_u, varies)
    b = beta - a * u
    r = _divide(covariance, np.sqrt(np.maximum(var_u * var_beta, 0.0)), varies & (var_beta > 1e-12))
    return {
        "a": a,
        "b": b,
        "r": r,
        "delta": rejected,
        "mean_beta": beta,
        "risk_averse": _divide(-b, a, a > 0),
        "risk_prone": _divide(rejected - b, a, a > 0),
    }


def noise_sums(prompt: NDArray[np.integer], u_bar: NDArray[np.floating]) -> Array:
    """Sums that `noise_statistics` needs: n, u_bar, u_bar^2, per prompt, shape (n, 3)."""
    return prompt_sums(prompt, u_bar, u_bar * u_bar)


def noise_statistics(samples: int) -> Statistics:
    """Sampling error of u at M = `samples` and what it does to the slope [N, THEORY 4.2].

    `u_se` = sqrt(E[u_bar (1 - u_bar)] / M), root mean square over tokens; `attenuation` = Var(u_bar) / (Var(u_bar) +
    u_se^2), by which the slope on sampled u is smaller than that on u_bar. For independent temperatures.
    """

    def statistics(sums: Array) -> dict[str, Array]:
        mean, square = sums[..., 1] / sums[..., 0], sums[..., 2] / sums[..., 0]
        noise, spread = np.maximum(mean - square, 0.0) / samples, np.maximum(square - mean * mean, 0.0)
        return {"u_se": np.sqrt(noise), "attenuation": _divide(spread, spread + noise, spread + noise > 0)}

    return statistics


def _divide(numerator: Array, denominator: Array, where: NDArray[np.bool_]) -> Array:
    """Quotient, nan where not `where`."""
    quotient: Array = np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=where)
    return quotient


def percentile_interval(value: float, replicates: Array, level: float, n_prompts: int) -> Interval:
    """Interval of an estimate from its values in the resamples, shape (resamples,), nan where one has none."""
    defined = replicates[np.isfinite(replicates)]
    undefined = 1.0 - len(defined) / len(replicates)
    if n_prompts < 2 or len(defined) == 0 or not np.isfinite(value):
        return Interval(value=value, low=float("nan"), high=float("nan"), undefined=undefined)
    low, high = np.quantile(defined, [(1.0 - level) / 2, (1.0 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high), undefined=undefined)
