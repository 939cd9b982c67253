"""Which drafts to keep: the rule on the uncertainty, and the largest threshold within a bias.

For t < `T_LIMIT` the average over drafts is a sum over the skippable tokens, all of which are recorded [N, THEORY
6.1]. At t = 1 every draft is kept and the risk is TV(x, y). Between the two, and for every signal but `u_bar`, the
recorded draft stands for all: 1[u_d <= t] beta_d, unbiased but noisier.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.artefacts import SignalFit
from cuhlm_opt.latency import Asks
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.records import T_LIMIT, Records
from cuhlm_opt.runs import MOST_PROMPTS, ask_runs
from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.losses import LossUnit, losses_of, prompt_curves, threshold_grid
from cuhlm_opt.solve.skipping import Curve, LikelyTokens, Skipping, merge

_Floats = NDArray[np.float64]

_Value = TypeVar("_Value")

_RECENT_POSITIONS = 2_000_000
"""Positions times thresholds whose skipping a gate keeps at most."""
_FEW_PROMPTS = 512
"""Prompts in which runs are counted at many thresholds, and ways to draft ranked."""
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


@dataclass(frozen=True)
class Gate:
    """The skipping rule `keep the draft iff its signal is at most t`, on the records of one domain."""

    records: Records
    signal: Signal
    answer_tokens: int = 128
    """Length of the answers in which runs of skipped tokens are counted."""
    decoded_by: tuple[Quantiser, int] | None = None
    """How the masses that drafts are drawn by were rounded, with b_prob; None draws from x itself."""
    weights: tuple[float, ...] = ()
    """Of the learned combination, where that is the signal."""

    @cached_property
    def values(self) -> _Floats:
        """The signal of the recorded drafts, shape (n,)."""
        return self.records.signal(self.signal, self.weights)

    @cached_property
    def some(self) -> "Gate":
        """The same rule on some of the prompts, to rank candidates by; itself where there are few."""
        return self._on_prompts(MOST_PROMPTS)

    @cached_property
    def few(self) -> "Gate":
        """The same rule on fewer still, for what is counted many times."""
        return self._on_prompts(_FEW_PROMPTS)

    def _on_prompts(self, most: int) -> "Gate":
        records = self.records.some_prompts(most)
        return self if records is self.records else replace(self, records=records)

    def of_prompts(self, prompts: NDArray[np.integer]) -> "Gate":
        """The same rule on some prompts, given by their increasing indices."""
        return replace(self, records=self.records.of_prompts(prompts))

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
            if len(self._recent) >= max(_RECENT_POSITIONS // self.records.n_tokens, 2):
                del self._recent[next(iter(self._recent))]
            self._recent[threshold] = self._at(threshold)
        return self._recent[threshold]

    def _at(self, threshold: float | None) -> Skipping:
        records, n = self.records, self.records.n_tokens
        if threshold is None:
            return Skipping(skip=np.zeros(n), risk=np.zeros(n), query=np.zeros(n), kept=np.zeros(n))
        if self.signal is Signal.U_BAR and threshold >= 1:
            return Skipping(skip=np.ones(n), risk=records.tv, query=records.tv, kept=np.zeros(n))
        if self.signal is not Signal.U_BAR or threshold >= T_LIMIT:
            skip = (self.values <= threshold).astype(np.float64)
            return Skipping(skip=skip, risk=skip * records.beta, query=None, kept=None)
        return self.likely.skipping(threshold)

    def is_exact_at(self, threshold: float | None) -> bool:
        """Whether `at(threshold)` averages over all drafts, not over the recorded one."""
        return threshold is None or (self.signal is Signal.U_BAR and (threshold < T_LIMIT or threshold >= 1))

    @cached_property
    def likely(self) -> LikelyTokens:
        """Tokens that a threshold below `T_LIMIT` may keep."""
        tokens = LikelyTokens.of(self.records)
        return tokens if self.decoded_by is None else tokens.decoded(*self.decoded_by)

    def decoded(self, quantiser: Quantiser, b_prob: int) -> "Gate":
        """The gate over what is decoded of each likely token, for the modes that draw their drafts from that [N]."""
        return self.remembered(("decoded", quantiser, b_prob), lambda: replace(self, decoded_by=(quantiser, b_prob)))

    def losses(self, eps: float, max_tokens: int) -> _Floats:
        """L_i(t) of each prompt on `threshold_grid`, per emitted token [N, THEORY 6.4]; shape (n_prompts, G).

        But for `u_bar` the recorded draft stands for all: its loss 1[u_d <= t] beta_d has the same mean.
        """
        lengths = np.bincount(self.records.prompt)
        return losses_of(self.risk_sums, lengths, max_tokens=max_tokens, unit=LossUnit.EMITTED, eps=eps)

    @cached_property
    def risk_sums(self) -> _Floats:
        """Risk summed over each prompt's tokens on `threshold_grid`, shape (n_prompts, G)."""
        records, grid = self.records, threshold_grid()
        if self.signal is not Signal.U_BAR:
            total = np.bincount(records.prompt, records.beta)
            return prompt_curves(records.prompt, self.values[:, None], records.beta[:, None], grid, total)
        prompt, risk = records.prompt[self.likely.position], np.maximum(self.likely.x - self.likely.y, 0.0)
        total = np.bincount(records.prompt, records.tv)
        return prompt_curves(prompt, self.likely.u_bar[:, None], risk[:, None], grid, total)

    @cached_property
    def curve(self) -> Curve:
        """Skip rate, risk and query bias at every level of the signal."""
        if self.signal is Signal.U_BAR:
            return self.likely.curve(float(np.mean(self.records.tv)))
        return _curve_of_drafts(self.values, self.records.beta)

    @cached_property
    def run_curve(self) -> tuple[_Floats, _Floats]:
        """Skip rates and laws of the runs at up to `_RUN_LEVELS` thresholds from none to all, shapes (m,), (m, L)."""
        curve = self.curve
        wanted = np.linspace(0.0, 1.0, _RUN_LEVELS)
        spread = np.searchsorted(curve.skip_rate, wanted * curve.skip_rate[-1])
        at = np.unique(spread if len(curve.levels) > _RUN_LEVELS else np.arange(len(curve.levels)))
        thresholds = [None, *curve.levels[np.minimum(at, len(curve.levels) - 1)].tolist()]
        laws = [self.few.asks(self.few._at(threshold).skip) for threshold in thresholds]
        return np.array([1.0 - law.rate for law in laws]), np.array([law.weights[0] for law in laws])

    def asks(self, skip: _Floats, bits: _Floats | None = None, states: Sequence[float] | None = None) -> Asks:
        """The tokens that ask, where each position keeps its draft with probability `skip`.

        Args:
            skip: shape (n,), or (H, n) for each state of the channel.
            bits: length of the message that each position would send, of the same shape; None sends nothing.
            states: probabilities of the states, shape (H,); None where none is known before.
        """
        kept, sent = np.atleast_2d(skip), np.atleast_2d(np.zeros_like(skip) if bits is None else bits)
        probabilities = np.ones(1) if states is None else np.array(states)
        messages = [np.unique(each, return_inverse=True) for each in sent]
        first = np.cumsum([0, *(len(lengths) for lengths, _ in messages)])
        classes = np.array([start + own for start, (_, own) in zip(first, messages, strict=False)])
        asking = probabilities[:, None] * (1.0 - kept)
        asks = Asks(
            bits=np.concatenate([lengths for lengths, _ in messages]),
            weights=ask_runs(self.records.prompt, asking, classes, int(first[-1]), self.answer_tokens),
            states=None if states is None else np.repeat(np.arange(len(kept)), np.diff(first)),
        )
        # Runs of many prompts are counted in some; how many tokens ask is known from all.
        return asks.scaled(float(np.mean(probabilities @ kept)))

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


def _curve_of_drafts(values: _Floats, beta: _Floats) -> Curve:
    """Levels of the recorded drafts' signal, and t = 1."""
    levels, (count, risk) = merge(values, [np.ones(len(beta)), beta])
    if levels[-1] < 1:
        levels, count, risk = np.append(levels, 1.0), np.append(count, count[-1]), np.append(risk, risk[-1])
    return Curve(levels=levels, skip_rate=count / len(beta), risk=risk / len(beta), query=None)
