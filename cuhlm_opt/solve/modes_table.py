"""Every mode on the same link under the same accounting, each at its own best point within the same bias budget.

What each law is, and how far it is from the LLM's, is the mode table of THEORY 3; every bias is said to be exact, a
proved bound, or unknown.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cuhlm_opt.artefacts import ModeRow
from cuhlm_opt.latency import TokenTime, token_time
from cuhlm_opt.modes import Distortion, Mode
from cuhlm_opt.payload import Format, coarse_bits, full_law_bits, published_bits
from cuhlm_opt.solve.joint import share_offline, share_online
from cuhlm_opt.solve.problem import Problem
from cuhlm_opt.solve.threshold import Gate, Policy, Signal, Skipping
from cuhlm_opt.solve.truncation import (
    SURROGATE_THETA,
    Truncation,
    offline_by_bound,
    offline_by_surrogate,
    online_by_bound,
    online_by_surrogate,
    online_within,
)

_LAWS = {
    Mode.SLM: "x",
    Mode.LLM: "y",
    Mode.HLM: "y",
    Mode.RANDOM: "TV = p TV(x, y)",
    Mode.U_HLM: "TV = E[s beta]",
    Mode.CU_HLM_OFFLINE: "TV <= E[s beta] + TV(x, x_hat)",
    Mode.CU_HLM_ONLINE: "TV <= E[s beta] + TV(x, x_hat), k from x alone",
    Mode.QUERY: "TV = 1/2 sum |s_v x_v - S y_v|",
    Mode.EXACT: "TV = E[s beta]: x_hat = x on the skippable tokens, which are all among the k kept",
    Mode.COARSE: "TV = E[s beta]",
}
_DRAFT_DEPENDENT = "k depends on the draft: the mean of TV(x, x_hat) is no bound"
_NEEDS_RECORDS = "needs records"
_NEEDS_U_BAR = "needs u_bar, a function of x and d"
_BEYOND_RECORDS = "not determined by the records for this threshold"


@dataclass(frozen=True, kw_only=True)
class ModePoint:
    """One mode at its own point; None where records or times are missing."""

    mode: Mode
    threshold: float | None = None
    skip_rate: float | None = None
    payload_bits: float | None = None
    entries: float | None = None
    """Mean vocabulary entries of one upload."""
    k: int | None = None
    truncation: Truncation | None = None
    bias_skip: float | None = None
    bias_truncation: float | None = None
    bias_kind: Literal["exact", "bound", "none"] = "none"
    law: str
    time: TokenTime | None = None

    @property
    def bias(self) -> float | None:
        """TV per token against the LLM's law, of kind `bias_kind`."""
        if self.bias_skip is None or self.bias_truncation is None:
            return None
        return self.bias_skip + self.bias_truncation


def mode_point(problem: Problem, mode: Mode, random_rate: float | None = None) -> ModePoint:
    """Best point of `mode` within the budget, or at the published threshold.

    Args:
        problem: what is solved.
        mode: decoding mode.
        random_rate: skip rate of `random`, p.
    """
    point = _untimed(problem, mode, random_rate)
    times = problem.compute_times
    if times is None or point.skip_rate is None or point.payload_bits is None:
        return point
    time = token_time(
        mode,
        times,
        problem.channel,
        payload_bits=point.payload_bits,
        skip_rate=point.skip_rate,
        answer_tokens=problem.answer_tokens,
    )
    return replace(point, time=time)


def hlm_throughput(problem: Problem, law_format: Format) -> float | None:
    """Tokens per second of HLM with its full law in `law_format`."""
    return throughput(problem, mode_point(replace(problem, law_format=law_format), Mode.HLM))


def throughput(problem: Problem, point: ModePoint) -> float | None:
    """Tokens per second under the problem's accounting."""
    return None if point.time is None else point.time.throughput(problem.accounting)


def mode_row(problem: Problem, point: ModePoint) -> ModeRow:
    """A point as a row of the table."""
    passes = {Mode.SLM: 0.0, Mode.LLM: 1.0, Mode.HLM: 1.0}
    asked = None if point.skip_rate is None else 1.0 - point.skip_rate
    return ModeRow(
        mode=point.mode,
        throughput_tokens_per_s=throughput(problem, point),
        latency_s=None if point.time is None else point.time.mean_s,
        payload_bits=point.payload_bits,
        skip_rate=point.skip_rate,
        server_passes_per_token=passes.get(point.mode, asked),
        bias=point.bias,
        bias_kind=point.bias_kind,
        u_threshold=point.threshold,
        k=point.k,
        theta=None if point.truncation is None else point.truncation.theta,
        law=point.law,
    )


def _untimed(problem: Problem, mode: Mode, random_rate: float | None) -> ModePoint:
    """A point without its time."""
    mean_tv, vocab_size = problem.fit.mean_tv.value, problem.calibration.vocab_size
    law = _LAWS[mode]
    if mode is Mode.SLM:
        kind: Literal["exact", "none"] = "none" if mean_tv is None else "exact"
        return _plain(mode, law, skip_rate=1.0, bits=0.0, entries=0, bias=mean_tv, kind=kind)
    if mode is Mode.LLM:
        return _plain(mode, law, skip_rate=0.0, bits=0.0, entries=0, bias=0.0)
    full = full_law_bits(vocab_size, problem.b_prob, problem.law_format)
    if mode is Mode.HLM:
        return _plain(mode, law, skip_rate=0.0, bits=full, entries=vocab_size, bias=0.0)
    if mode is Mode.RANDOM:
        if random_rate is None or mean_tv is None:
            return ModePoint(mode=mode, payload_bits=full, entries=vocab_size, law=_NEEDS_RECORDS)
        return _plain(mode, law, skip_rate=random_rate, bits=full, entries=vocab_size, bias=random_rate * mean_tv)
    if problem.gate is None:
        bits = {Mode.U_HLM: full, Mode.QUERY: 0.0}.get(mode)
        published = None if problem.degenerate else problem.computed_threshold
        return ModePoint(mode=mode, threshold=published, payload_bits=bits, law=_NEEDS_RECORDS)
    if mode in (Mode.CU_HLM_OFFLINE, Mode.CU_HLM_ONLINE):
        return _truncated(problem, problem.gate, mode)
    threshold = _threshold(problem, problem.gate, mode)
    skipping = problem.gate.at(threshold)
    match mode:
        case Mode.QUERY:
            return _query(threshold, skipping)
        case Mode.COARSE:
            return _coarse(problem, threshold, skipping)
        case Mode.EXACT:
            return _exact(problem, threshold, skipping)
    return replace(_gated(mode, threshold, skipping), payload_bits=full, entries=vocab_size)


def _plain(
    mode: Mode,
    law: str,
    *,
    skip_rate: float,
    bits: float,
    entries: float,
    bias: float | None,
    kind: Literal["exact", "none"] = "exact",
) -> ModePoint:
    """A mode without a gate."""
    return ModePoint(
        mode=mode, skip_rate=skip_rate, payload_bits=bits, entries=entries,
        bias_skip=bias, bias_truncation=0.0, bias_kind=kind, law=law,
    )  # fmt: skip


def _gated(mode: Mode, threshold: float | None, skipping: Skipping) -> ModePoint:
    """A mode whose bias is the skip risk, exactly [N, THEORY 4.3]; its payload is to be filled in."""
    return ModePoint(
        mode=mode, threshold=threshold, skip_rate=skipping.skip_rate,
        bias_skip=float(np.mean(skipping.risk)), bias_truncation=0.0, bias_kind="exact", law=_LAWS[mode],
    )  # fmt: skip


def _threshold(problem: Problem, gate: Gate, mode: Mode, spent: float = 0.0) -> float | None:
    """The policy's threshold, where `spent` of the budget is taken already; None never skips."""
    if problem.policy.is_published:
        return None if problem.degenerate else problem.computed_threshold
    if problem.policy is Policy.CERTIFIED:
        certified = None if mode is Mode.QUERY else problem.certified(spent)  # query's bias need not grow with t
        return None if certified is None else certified.threshold
    if spent > problem.budget:
        return None
    if mode is Mode.QUERY and gate.signal is Signal.U_BAR:
        return gate.largest_query_within(problem.budget)
    return gate.largest_within(problem.budget, spent)


def _query(threshold: float | None, skipping: Skipping) -> ModePoint:
    """Nothing but ids crosses the link; skipping reads the draft, so the bias is more than the skip risk."""
    point = replace(_gated(Mode.QUERY, threshold, skipping), payload_bits=0.0, entries=0.0)
    if skipping.query is None:
        return replace(point, bias_skip=None, bias_kind="none", law=_BEYOND_RECORDS)
    return replace(point, bias_skip=float(np.mean(skipping.query)))


def _coarse(problem: Problem, threshold: float | None, skipping: Skipping) -> ModePoint:
    """An upload holds the skippable entries, none where nothing was skippable [N, THEORY 5]."""
    if problem.signal is not Signal.U_BAR:
        return ModePoint(mode=Mode.COARSE, law=_NEEDS_U_BAR)
    point = _gated(Mode.COARSE, threshold, skipping)
    if skipping.kept is None:
        return replace(point, law=f"{point.law}; payload {_BEYOND_RECORDS}")
    entries = skipping.mean_over_asking(skipping.kept)
    bits = coarse_bits(entries, problem.calibration.vocab_size, problem.b_prob)
    return replace(point, payload_bits=bits, entries=entries)


def _exact(problem: Problem, threshold: float | None, skipping: Skipping) -> ModePoint:
    """Drafts from x_hat: with k at least the number of skippable tokens, x_hat = x on them [N, THEORY 4.7, 4.2]."""
    if problem.signal is not Signal.U_BAR:
        return ModePoint(mode=Mode.EXACT, law=_NEEDS_U_BAR)
    vocab_size = problem.calibration.vocab_size
    k = most_skippable(threshold, vocab_size)
    bits = published_bits(k, vocab_size, problem.b_prob)
    return replace(_gated(Mode.EXACT, threshold, skipping), k=k, entries=float(k), payload_bits=bits)


def most_skippable(threshold: float | None, vocab_size: int) -> int:
    """Most tokens with u_bar <= t, floor(1/(1 - t)), since sum_v (1 - u_bar_v) = 1 [N, THEORY 4.2]; at least 1.

    >>> most_skippable(0.49, 32000), most_skippable(0.75, 32000), most_skippable(1.0, 32000)
    (1, 4, 32000)
    """
    if threshold is None:
        return 1
    return vocab_size if threshold >= 1 else min(vocab_size, math.floor(1 / (1 - threshold) + 1e-9))


def _truncated(problem: Problem, gate: Gate, mode: Mode) -> ModePoint:
    """The published system: k entries of x, the rest spread evenly, the draft tested with its true probability."""
    truncation, threshold = _truncation(problem, gate, mode)
    skipping = gate.at(threshold)
    entries = skipping.mean_over_asking(truncation.sizes)
    point = replace(
        _gated(mode, threshold, skipping),
        k=truncation.k,
        entries=entries,
        payload_bits=published_bits(entries, problem.calibration.vocab_size, problem.b_prob),
        truncation=truncation,
        bias_truncation=truncation.bias,
        bias_kind="bound",
    )
    return point if truncation.bias is not None else replace(point, bias_kind="none", law=_DRAFT_DEPENDENT)


def _truncation(problem: Problem, gate: Gate, mode: Mode) -> tuple[Truncation, float | None]:
    """Truncation and threshold of `cu-hlm-*`."""
    offline, records, theta = mode is Mode.CU_HLM_OFFLINE, gate.records, problem.theta
    if problem.distortion is Distortion.SURROGATE:
        tolerance = SURROGATE_THETA if theta is None else theta
        if offline:
            chosen = offline_by_surrogate(records, tolerance)
        else:
            chosen = online_by_surrogate(records, tolerance, problem.signal, problem.line.a, problem.line.b)
        return chosen, _threshold(problem, gate, mode)
    if theta is None and not problem.policy.is_published:
        share = share_offline if offline else share_online
        chosen = share(gate, problem.budget, problem.objective)
    elif theta is None:
        risk = float(np.mean(gate.at(_threshold(problem, gate, mode)).risk))
        left = problem.budget - risk if risk < problem.budget else problem.budget
        chosen = (offline_by_bound if offline else online_within)(records, left)
    else:
        chosen = (offline_by_bound if offline else online_by_bound)(records, theta)
    return chosen, _threshold(problem, gate, mode, spent=chosen.bias or 0.0)
