"""Signals compared on the same prompts: correlation, ranking, and what each lets a device skip [N].

The combination is learned on every other prompt, and all signals are compared on the rest. A signal is as good as the
tokens it skips within a bias; the recorded draft stands for all, in every signal alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from cuhlm_opt.artefacts import Estimate, SignalComparison, SignalTable
from cuhlm_opt.bootstrap import LEVEL, RESAMPLES, ClusterBootstrap, percentile_interval
from cuhlm_opt.correlation import binned_correlation
from cuhlm_opt.signals import Features, Signal, logistic, regressors

_Floats = NDArray[np.float64]

BUDGETS = (0.01, 0.02, 0.05)
"""Biases at which skip rates are compared; signals are ranked at the middle one."""
_RANKED_AT = 0.02
_RIDGE = 1e-4


def learn_combination(features: Features, beta: _Floats) -> _Floats:
    """Weights of `Signal.COMBINED`: logistic regression of beta in [0, 1] on the design, with a small ridge."""
    design = regressors(features)

    def loss(weights: _Floats) -> tuple[float, _Floats]:
        value = design @ weights
        fitted = logistic(value)
        # log(1 + exp(v)) - beta v, the cross-entropy of a share
        cost = np.mean(np.logaddexp(0.0, value) - beta * value) + 0.5 * _RIDGE * weights @ weights
        return float(cost), design.T @ (fitted - beta) / len(beta) + _RIDGE * weights

    return np.asarray(minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x, dtype=np.float64)


@dataclass(frozen=True)
class _Ranked:
    """Positions in the order of a signal, ties together."""

    order: NDArray[np.intp]
    last: NDArray[np.intp]
    """Last position of each tie."""

    @classmethod
    def by(cls, values: _Floats) -> "_Ranked":
        order = np.argsort(values, kind="stable")
        return cls(order, np.flatnonzero(np.diff(values[order], append=np.inf) > 0))

    def figures(self, values: _Floats, beta: _Floats, weights: _Floats) -> _Floats:
        """(R, AUROC, skip rate at each of `BUDGETS`), positions weighted."""
        w, b = weights[self.order], beta[self.order]
        total = w.sum()
        count, risk = np.cumsum(w)[self.last], np.cumsum(w * b)[self.last]
        within = np.searchsorted(risk, np.array(BUDGETS) * total * (1 + 1e-9), side="right")
        skip = np.concatenate([[0.0], count])[within] / total
        rejected, accepted = np.diff(risk, prepend=0.0), np.diff(count - risk, prepend=0.0)
        below = np.cumsum(accepted) - 0.5 * accepted
        pairs = rejected.sum() * accepted.sum()
        auroc = rejected @ below / pairs if pairs > 0 else np.nan
        return np.array([_correlation(values, beta, weights), auroc, *skip])


def _correlation(u: _Floats, beta: _Floats, weights: _Floats) -> float:
    weights = weights / weights.sum()
    du, db = u - weights @ u, beta - weights @ beta
    spread = np.sqrt((weights @ du**2) * (weights @ db**2))
    return float(weights @ (du * db) / spread) if spread > 0 else np.nan


def compare(
    values: Mapping[Signal, _Floats], beta: _Floats, prompt: NDArray[np.integer], resamples: int = RESAMPLES
) -> SignalTable:
    """Compare signals.

    Args:
        values: each signal per position, shape (n,), in [0, 1], on prompts that none was learned on.
        beta: rejection probability of the drafts, shape (n,).
        prompt: index of the prompt per position, shape (n,), 0 .. n_prompts - 1.
        resamples: of the bootstrap over prompts; all signals share them.

    Returns:
        A row for each signal, the one that skips most within a bias of 0.02, and those not significantly worse: the
        95 % interval of the difference reaches 0.
    """
    n_prompts = int(prompt.max()) + 1
    counts = ClusterBootstrap.draw(n_prompts, np.random.default_rng(0), resamples).counts
    found, drawn = {}, {}
    for signal, u in values.items():
        ranked = _Ranked.by(u)
        found[signal] = ranked.figures(u, beta, np.ones(len(u)))
        drawn[signal] = np.array([ranked.figures(u, beta, row[prompt]) for row in counts])
    rows = {}
    for signal, values_found in found.items():
        r, auroc, *skipped = (
            _estimate(float(value), replicates, n_prompts)
            for value, replicates in zip(values_found, drawn[signal].T, strict=True)
        )
        by_budget = {f"{budget:g}": skip for budget, skip in zip(BUDGETS, skipped, strict=True)}
        rows[str(signal)] = SignalComparison(
            r=r,
            r2=float(values_found[0] ** 2),
            r_binned=_over_bins(values[signal], beta, prompt),
            auroc=auroc,
            skip_rate=by_budget,
        )
    place = 2 + BUDGETS.index(_RANKED_AT)
    best = max(found, key=lambda signal: found[signal][place])
    low = (1 - LEVEL) / 2
    alike = [s for s in found if np.quantile(drawn[best][:, place] - drawn[s][:, place], low) <= 0]
    return SignalTable(
        n_prompts=n_prompts,
        rows=rows,
        best=str(best),
        not_worse=tuple(map(str, alike)),
    )


def recommended(table: SignalTable, costs_s: Mapping[str, float]) -> str:
    """The cheapest signal that is not significantly worse than the best; the best where costs were not measured.

    Args:
        table: from `compare`.
        costs_s: seconds a token of each signal.
    """
    known = all(signal in costs_s for signal in table.not_worse)
    return min(table.not_worse, key=lambda signal: costs_s[signal]) if known else table.best


def _over_bins(u: _Floats, beta: _Floats, prompt: NDArray[np.integer]) -> Estimate:
    r, se, ends = binned_correlation(u, beta, prompt)
    known = np.isfinite(ends).all()
    return Estimate(value=r if np.isfinite(r) else None, se=se if known else None, ci=ends if known else None)


def _estimate(value: float, replicates: _Floats, n_prompts: int) -> Estimate:
    return Estimate.of(percentile_interval(value, replicates, LEVEL, n_prompts))
