"""Which drafts to keep: what a threshold on the uncertainty costs and saves, and the largest one within a bias.

[N, THEORY 6.1] At a context, skip(t) = sum_v 1[u_bar_v <= t] x_v and risk(t) = sum_v 1[u_bar_v <= t] (x_v - y_v)+:
the average over drafts is a sum over the few skippable tokens, all of which are recorded for t < `T_LIMIT`. At t = 1
every draft is kept and the risk is TV(x, y). Between the two, and for the sampled signal `u_mc`, the recorded draft
stands for all: 1[u_d <= t] beta_d, unbiased but noisier.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.artefacts import SignalFit
from cuhlm_opt.latency import Asks
from cuhlm_opt.quantisation import Quantiser, level_below
from cuhlm_opt.records import T_LIMIT, TOP, Records
from cuhlm_opt.runs import MOST_PROMPTS, ask_runs
from cuhlm_opt.solve.losses import LossUnit, losses_of, prompt_curves, threshold_grid

_Floats = NDArray[np.float64]

_Value = TypeVar("_Value")

_RECENT_POSITIONS = 4_000_000
"""Positions times thresholds whose skipping a gate keeps at most."""
_RUN_LEVELS = 48
"""Thresholds at which the runs are counted; between them they are interpolated in the skip rate."""


class Policy(StrEnum):
    """How the threshold is chosen."""

    RISK_AVERSE = "risk-averse"
    """-b/a, where the fitted line crosses zero rejection [P2, THEORY 2.4]."""
    RISK_PRONE = "risk-prone"
    """(Delta - b)/a [P2, THEORY 2.4]."""
    BUDGET = "budget"
    """The largest threshold whose recorded bias is within the budget, plug-in [N, THEORY 6.1]."""
    CERTIFIED = "certified"
    """The largest threshold with a finite-sample guarantee over prompts [N, THEORY 6.4]."""

    @property
    def is_published(self) -> bool:
        """Whether the threshold comes from the fitted line alone, whatever the budget."""
        return self in (Policy.RISK_AVERSE, Policy.RISK_PRONE)


class Signal(StrEnum):
    """What the device measures about its draft, in [0, 1]."""

    U_BAR = "u_bar"
    """The integral over temperatures, a function of the logits and the draft [N, THEORY 4.2]."""
    U_MC = "u_mc"
    """The sampled uncertainty [P]."""


@dataclass(frozen=True, kw_only=True)
class Skipping:
    """One threshold, position by position; all arrays of shape (n,)."""

    skip: _Floats
    """Probability that the draft is kept."""
    risk: _Floats
    """E_{d~x}[s_d beta_d], exactly the bias under exact verification [N, THEORY 4.3]."""
    query: _Floats | None
    """Bias of `query`, 1/2 sum_v |s_v x_v - S y_v| [N, THEORY 3]; None where the records do not determine it."""
    kept: _Floats | None
    """Number of skippable tokens of positive probability, the entries of a `coarse` upload; None likewise."""

    @property
    def skip_rate(self) -> float:
        """Mean over positions of the probability to keep the draft."""
        return float(np.mean(self.skip))

    def mean_over_asking(self, values: _Floats) -> float:
        """Mean of a per-position figure over the tokens that ask; 0 where none does."""
        asking = 1.0 - self.skip
        total = float(asking.sum())
        return float(asking @ values) / total if total > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Means over positions as right-continuous step functions of the threshold, 0 below the first level."""

    levels: _Floats
    """(m,) increasing; the last is 1."""
    skip_rate: _Floats
    risk: _Floats
    query: _Floats | None

    def skip_at(self, threshold: float | None) -> float:
        """Skip rate at a threshold, to rounding that of `Gate.at`."""
        at = 0 if threshold is None else int(np.searchsorted(self.levels, threshold, side="right"))
        return float(self.skip_rate[at - 1]) if at else 0.0

    def skip_within(self, limits: _Floats) -> _Floats:
        """Skip rate at the largest threshold whose risk is at most each of `limits`."""
        at = np.searchsorted(self.risk, limits, side="right")
        return np.concatenate([[0.0], self.skip_rate])[at]


@dataclass(frozen=True)
class Gate:
    """The skipping rule `keep the draft iff its signal is at most t`, on the records of one domain."""

    records: Records
    signal: Signal
    answer_tokens: int = 128
    """Length of the answers in which runs of skipped tokens are counted."""
    support: NDArray[np.bool_] | None = None
    """(n, TOP) likely tokens that the SLM can draw, where `records` hold decoded masses, some of them 0."""

    @cached_property
    def _memo(self) -> dict[Hashable, Any]:
        return {}

    def remembered(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """What `make` returns, made once per key: links change more often than records and budgets."""
        if key not in self._memo:
            self._memo[key] = make()
        found: _Value = self._memo[key]
        return found

    @cached_property
    def _recent(self) -> dict[float | None, Skipping]:
        return {}

    def at(self, threshold: float | None) -> Skipping:
        """What the gate does at `threshold`; None never skips. The last few are kept, as many as memory allows."""
        if threshold not in self._recent:
            if len(self._recent) >= max(_RECENT_POSITIONS // self.records.n_tokens, 8):
                del self._recent[next(iter(self._recent))]
            self._recent[threshold] = self._at(threshold)
        return self._recent[threshold]

    def _at(self, threshold: float | None) -> Skipping:
        records, n = self.records, self.records.n_tokens
        if threshold is None:
            return Skipping(skip=np.zeros(n), risk=np.zeros(n), query=np.zeros(n), kept=np.zeros(n))
        if self.signal is Signal.U_BAR and threshold >= 1:
            return Skipping(skip=np.ones(n), risk=records.tv, query=records.tv, kept=np.zeros(n))
        if self.signal is Signal.U_MC or threshold >= T_LIMIT:
            u = records.u_mc if self.signal is Signal.U_MC else records.u_bar
            skip = (u <= threshold).astype(np.float64)
            return Skipping(skip=skip, risk=skip * records.beta, query=None, kept=None)
        skippable = (records.top_u_bar <= threshold) & (records.top_x > 0)
        support = records.top_x > 0 if self.support is None else self.support
        x, y = np.where(skippable, records.top_x, 0.0), np.where(skippable, records.top_y, 0.0)
        skip = np.minimum(x.sum(axis=1), 1.0)
        outside = np.maximum(1.0 - y.sum(axis=1), 0.0)
        return Skipping(
            skip=skip,
            risk=np.maximum(x - y, 0.0).sum(axis=1),
            query=0.5 * (np.abs(x - skip[:, None] * y).sum(axis=1) + skip * outside),
            kept=((records.top_u_bar <= threshold) & support).sum(axis=1).astype(np.float64),
        )

    def is_exact_at(self, threshold: float | None) -> bool:
        """Whether `at(threshold)` averages over all drafts, not over the recorded one."""
        return threshold is None or (self.signal is Signal.U_BAR and (threshold < T_LIMIT or threshold >= 1))

    def decoded(self, quantiser: Quantiser, b_prob: int) -> "Gate":
        """The gate over what is decoded of each likely token, for the modes that draw their drafts from that [N]."""

        def make() -> "Gate":
            records = replace(self.records, top_x=level_below(self.records.top_x, quantiser, b_prob))
            return replace(self, records=records, support=self.records.top_x > 0)

        return self.remembered(("decoded", quantiser, b_prob), make)

    def losses(self, eps: float, max_tokens: int) -> _Floats:
        """L_i(t) of each prompt on `threshold_grid`, per emitted token [N, THEORY 6.4]; shape (n_prompts, G).

        For `u_mc` the recorded draft stands for all: its loss 1[u_d <= t] beta_d has the same mean.
        """
        lengths = np.bincount(self.records.prompt)
        return losses_of(self._risk_sums, lengths, max_tokens=max_tokens, unit=LossUnit.EMITTED, eps=eps)

    @cached_property
    def _risk_sums(self) -> _Floats:
        """Risk summed over each prompt's tokens on `threshold_grid`, shape (n_prompts, G)."""
        records, grid = self.records, threshold_grid()
        if self.signal is Signal.U_BAR:
            risk = np.maximum(records.top_x - records.top_y, 0.0)
            return prompt_curves(records.prompt, records.top_u_bar, risk, grid, records.tv)
        beta = records.beta
        return prompt_curves(records.prompt, records.u_mc[:, None], beta[:, None], grid, beta)

    @cached_property
    def curve(self) -> Curve:
        """Skip rate, risk and query bias at every level of the signal."""
        return _curve_u_bar(self.records) if self.signal is Signal.U_BAR else _curve_u_mc(self.records)

    @cached_property
    def run_curve(self) -> tuple[_Floats, _Floats]:
        """Skip rates and laws of the runs at up to `_RUN_LEVELS` thresholds from none to all, shapes (m,), (m, L)."""
        curve = self.curve
        wanted = np.linspace(0.0, 1.0, _RUN_LEVELS)
        spread = np.searchsorted(curve.skip_rate, wanted * curve.skip_rate[-1])
        at = np.unique(spread if len(curve.levels) > _RUN_LEVELS else np.arange(len(curve.levels)))
        thresholds = [None, *curve.levels[np.minimum(at, len(curve.levels) - 1)].tolist()]
        some = replace(self, records=self.records.some_prompts(MOST_PROMPTS))
        laws = [some.asks(some._at(threshold).skip) for threshold in thresholds]
        return np.array([1.0 - law.rate for law in laws]), np.array([law.weights[0] for law in laws])

    def asks(self, skip: _Floats, bits: _Floats | None = None) -> Asks:
        """The tokens that ask, where each position keeps its draft with probability `skip`.

        Args:
            skip: shape (n,).
            bits: length of the message that each position would send, shape (n,); None sends nothing.
        """
        lengths, classes = np.unique(np.zeros_like(skip) if bits is None else bits, return_inverse=True)
        weights = ask_runs(self.records.prompt, skip, classes, len(lengths), self.answer_tokens)
        return Asks(bits=lengths, weights=weights)

    def largest_within(self, budget: float, spent: float = 0.0) -> float | None:
        """Largest level t of the signal with mean risk(t) + spent <= budget; None where even the first exceeds it."""
        return self._largest("risk", budget, spent)

    def largest_query_within(self, budget: float) -> float | None:
        """Largest level t whose mean `query` bias is at most `budget`; that bias need not be monotone in t."""
        return self._largest("query", budget, 0.0)

    def _largest(self, kind: Literal["risk", "query"], budget: float, spent: float) -> float | None:
        return self.remembered((kind, budget, spent), lambda: self._found(kind, budget, spent))

    def _found(self, kind: Literal["risk", "query"], budget: float, spent: float) -> float | None:
        values = self.curve.risk if kind == "risk" else self.curve.query
        if values is None:
            return None
        # The curve is a running sum: rounding may have moved it across the limit, so the direct mean has the last word.
        for index in np.flatnonzero(values <= (budget - spent) * (1 + 1e-9))[::-1]:
            level = float(self.curve.levels[index])
            if np.mean(getattr(self.at(level), kind)) + spent <= budget:
                return level
        return None


def published_threshold(line: SignalFit, policy: Policy) -> float | None:
    """Threshold of a published policy, as its formula gave it [P2, THEORY 2.4]; None where it has no value (a <= 0)."""
    value = line.risk_averse if policy is Policy.RISK_AVERSE else line.risk_prone
    return None if value is None or not np.isfinite(value) else value


def _curve_u_bar(records: Records) -> Curve:
    """Add the tokens of each position in the order of u_bar, then merge the steps of all positions.

    Tied tokens are added one by one: within a tie the running values are wrong, and only its end is kept.
    """
    order = np.argsort(records.top_u_bar, axis=1, kind="stable")
    levels, x, y = (
        np.take_along_axis(values, order, axis=1) for values in (records.top_u_bar, records.top_x, records.top_y)
    )
    skip = np.minimum(np.cumsum(x, axis=1), 1.0)
    risk = np.cumsum(np.maximum(x - y, 0.0), axis=1)
    query = 0.5 * skip * np.maximum(1.0 - np.cumsum(y, axis=1), 0.0)
    for first in range(TOP):  # |x_v - S y_v| of token `first`, for every set that contains it
        query[:, first:] += 0.5 * np.abs(x[:, first, None] - skip[:, first:] * y[:, first, None])
    recorded = levels < T_LIMIT
    ends, merged = _merge(
        levels[recorded], [np.diff(values, axis=1, prepend=0.0)[recorded] for values in (skip, risk, query)]
    )
    skip_rate, mean_risk, mean_query = (values / records.n_tokens for values in merged)
    mean_tv = float(np.mean(records.tv))
    return Curve(
        levels=np.append(ends, 1.0),
        skip_rate=np.append(skip_rate, 1.0),
        risk=np.append(mean_risk, mean_tv),
        query=np.append(mean_query, mean_tv),
    )


def _curve_u_mc(records: Records) -> Curve:
    """Levels of the recorded draft, and t = 1."""
    levels, (count, risk) = _merge(records.u_mc, [np.ones(records.n_tokens), records.beta])
    if levels[-1] < 1:
        levels, count, risk = np.append(levels, 1.0), np.append(count, count[-1]), np.append(risk, risk[-1])
    return Curve(levels=levels, skip_rate=count / records.n_tokens, risk=risk / records.n_tokens, query=None)


def _merge(levels: _Floats, steps: list[_Floats]) -> tuple[_Floats, list[_Floats]]:
    """Distinct levels in order, and the sum of each kind of step up to and including each level."""
    order = np.argsort(levels, kind="stable")
    ordered = levels[order]
    last = np.flatnonzero(np.diff(ordered, append=np.inf) > 0)
    return ordered[last], [np.cumsum(step[order])[last] for step in steps]
