"""Thresholds of a mode: the largest within the budget, a smaller one where that is better, or one for each state."""

import math
from collections.abc import Callable, Hashable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.channel_states import channel_states, state_links
from cuhlm_opt.latency import Pipelining
from cuhlm_opt.modes import Mode
from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.adaptive import FIT_EVERY, Follower
from cuhlm_opt.solve.certificate import CertifiedThreshold
from cuhlm_opt.solve.limits import Objective
from cuhlm_opt.solve.points import ModePoint, excess, preference, rated
from cuhlm_opt.solve.problem import Problem
from cuhlm_opt.solve.skipping import Skipping
from cuhlm_opt.solve.threshold import Gate, Policy

_Floats = NDArray[np.float64]

LAWS = {
    Mode.SLM: "x",
    Mode.LLM: "y",
    Mode.HLM: "y but for rounding: TV <= TV(x, decoded x)",
    Mode.RANDOM: "TV <= p TV(x, y) + TV(x, decoded x)",
    Mode.U_HLM: "TV <= E[s beta] + TV(x, decoded x)",
    Mode.CU_HLM_OFFLINE: "TV <= E[s beta] + TV(x, x_hat) + TV(x_hat, decoded x_hat)",
    Mode.CU_HLM_ONLINE: "TV <= E[s beta] + TV(x, x_hat) + TV(x_hat, decoded x_hat), k from x alone",
    Mode.QUERY: "TV = 1/2 sum |s_v x_v - S y_v|",
    Mode.EXACT: "TV = E[s beta] of decoded x_hat, the law of the drafts; all skippable tokens are among the k kept",
    Mode.COARSE: "TV = E[s beta] of the decoded masses, by which drafts are drawn",
    Mode.SPECULATIVE: "y: every draft is drawn from what is decoded, and tested",
}
_THRESHOLDS = 16
"""Smaller thresholds that are tried where the largest need not be the best, evenly in the skip rate."""
_RERANKED = 3
"""Of them, those for which a rate is chosen."""
BEYOND_RECORDS = "not determined by the records for this threshold"


def gated(problem: Problem, gate: Gate, mode: Mode, spent: float = 0.0) -> ModePoint:
    """A mode at its threshold, whose bias is the skip risk, exactly [N, THEORY 4.3]; its payload is to be filled in."""
    threshold, certified = _threshold(problem, gate, mode, spent)
    skipping = gate.at(threshold)
    if mode in (Mode.EXACT, Mode.COARSE) and not gate.is_exact_at(threshold):
        return ModePoint(mode=mode, threshold=threshold, skip_rate=skipping.skip_rate, law=BEYOND_RECORDS)
    return ModePoint(
        mode=mode, threshold=threshold, skip_rate=skipping.skip_rate, certified=certified,
        bias_skip=float(np.mean(skipping.risk)), bias_truncation=0.0, bias_quantisation=0.0, bias_kind="exact",
        law=LAWS[mode],
    )  # fmt: skip


def settled(
    problem: Problem,
    gate: Gate,
    mode: Mode,
    build: Callable[[ModePoint, Skipping], ModePoint],
    spent: float = 0.0,
) -> ModePoint:
    """A mode at its best threshold, or thresholds where they follow the channel."""
    point = _at_one_threshold(problem, gate, mode, build, spent)
    return _following(problem, gate, mode, build, spent, point) if problem.adaptive else point


def _at_one_threshold(
    problem: Problem, gate: Gate, mode: Mode, build: Callable[[ModePoint, Skipping], ModePoint], spent: float
) -> ModePoint:
    """A mode at its largest threshold, or at the best one below.

    More skipping is better in throughput, bits and passes, but not in late quantiles of the latency: a token that asks
    after a long run waits for a long pass. Nor where the LLM reads on from each verdict: a message that follows one at
    once needs no further pass. Then smaller thresholds are tried.
    """
    top = gated(problem, gate, mode, spent)
    point = build(top, gate.at(top.threshold))
    doubtful = (
        problem.objective is Objective.LATENCY_P95
        or "--max-latency-p95" in excess(problem, point)
        or problem.pipelining is Pipelining.EAGER
    )
    if not doubtful or problem.times is None or problem.policy.is_published or top.threshold is None:
        return point
    skip_rates = np.linspace(0.0, top.skip_rate or 0.0, _THRESHOLDS, endpoint=False)
    levels = gate.curve.levels[np.unique(np.searchsorted(gate.curve.skip_rate, skip_rates))]
    found = [point]
    for threshold in [None, *levels[levels < top.threshold].tolist()]:
        skipping = gate.at(threshold)
        lower = replace(
            top,
            threshold=threshold,
            skip_rate=skipping.skip_rate,
            bias_skip=float(np.mean(skipping.risk)),
        )
        found.append(build(lower, skipping))
    # The bias of `query` need not grow with the threshold: what is within the budget above may not be below.
    most = max(problem.budget, point.bias or 0.0)
    found = [each for each in found if each.bias is None or each.bias <= most]
    found.sort(key=lambda each: preference(problem, each))
    best = min((rated(problem, each) for each in found[:_RERANKED]), key=lambda each: preference(problem, each))
    return replace(best, limited_by=excess(problem, point))


def _following(
    problem: Problem,
    gate: Gate,
    mode: Mode,
    build: Callable[[ModePoint, Skipping], ModePoint],
    spent: float,
    fixed: ModePoint,
) -> ModePoint:
    """A mode with a threshold for each state of the channel [N, THEORY 6.2]; `fixed` where that cannot be."""
    states = channel_states(problem.link.uplink)
    left = min(problem.budget - spent, 1 - 1e-9)
    if len(states) == 1 or mode is Mode.QUERY or problem.policy.is_published or fixed.bits is None or left < 0:
        return fixed
    certifies = problem.policy is Policy.CERTIFIED
    if certifies and fixed.certified is None:
        return fixed
    probabilities = np.array([state.probability for state in states])
    fitted = gate.records.prompt % FIT_EVERY == 0 if certifies else slice(None)
    follower = Follower(
        gate=gate, probabilities=probabilities, latencies_s=_asking_s(problem, float(np.mean(fixed.bits[fitted])))
    )
    certified = None
    if certifies:
        thresholds, certified = follower.certified(left, problem.length_limit, problem.delta)
        certified = replace(certified, budget=problem.budget)
    else:
        thresholds = follower.within(left)
    below = [threshold for threshold in thresholds if threshold is not None and threshold < 1]
    k = most_skippable(max(below, default=None), problem.calibration.vocab_size) if mode is Mode.EXACT else None
    parts = [
        build(replace(fixed, threshold=threshold, skip_rate=gate.at(threshold).skip_rate, k=k), gate.at(threshold))
        for threshold in thresholds
    ]
    skip, bits = np.array([part.skip for part in parts]), np.array([part.bits for part in parts])
    asks = gate.asks(skip, bits, probabilities.tolist())
    asking = probabilities * [1.0 - (part.skip_rate or 0.0) for part in parts]
    entries = asking @ [part.entries or 0.0 for part in parts] / asking.sum() if asking.sum() > 0 else 0.0
    return replace(
        fixed, threshold=thresholds[0], rule=tuple(thresholds), skip_rate=float(probabilities @ skip.mean(axis=1)),
        bias_skip=follower.risk(thresholds), certified=certified, skip=skip, bits=bits, asks=asks, k=k,
        payload_bits=asks.mean_bits, entries=float(entries),
    )  # fmt: skip


def _asking_s(problem: Problem, bits: float) -> _Floats:
    """Latency that a message of `bits` costs in each state of the channel; the LLM reads kept tokens sooner or later.

    Of the LLM's pass only what does not grow with the tokens it reads is due to asking.
    """
    link, times = problem.link, problem.compute_times
    passes = 0.0
    if times is not None:
        longest = max(times.llm_pass_s)
        per_token = float(times.llm_s(longest) - times.llm_s(1)) / max(longest - 1, 1)
        passes = max(float(times.llm_s(1)) - per_token, 0.0)
    asked = link.rtt_s + link.downlink_s + passes
    return np.array([asked + float(each.mean_uplink_s(bits)) for each in state_links(link)]) + 1e-12


def skipping_of(problem: Problem, gate: Gate, point: ModePoint) -> Skipping:
    """What a point keeps and risks at each position, over the states of the channel."""
    if not point.rule:
        return gate.at(point.threshold)
    each = [gate.at(threshold) for threshold in point.rule]
    probabilities = np.array([state.probability for state in channel_states(problem.link.uplink)])
    skip, risk = (probabilities @ np.array(values) for values in ([s.skip for s in each], [s.risk for s in each]))
    return Skipping(skip=skip, risk=risk, query=None, kept=None)


def sending(
    point: ModePoint, gate: Gate, skip: _Floats, bits: _Floats | float, key: Hashable | None = None
) -> ModePoint:
    """`point` with what each recorded position keeps and would send; `key` names that where it will come again."""
    lengths = np.broadcast_to(np.asarray(bits, dtype=np.float64), skip.shape)
    asks = gate.asks(skip, lengths) if key is None else gate.remembered(key, lambda: gate.asks(skip, lengths))
    return replace(point, skip=skip, bits=lengths, asks=asks, payload_bits=asks.mean_bits)


def _threshold(
    problem: Problem, gate: Gate, mode: Mode, spent: float
) -> tuple[float | None, CertifiedThreshold | None]:
    """The policy's threshold where `spent` of the budget is taken already (None never skips), and its certificate."""
    if problem.policy.is_published:
        return None if problem.degenerate else problem.computed_threshold, None
    if problem.policy is Policy.CERTIFIED:
        certified = None if mode is Mode.QUERY else problem.certified(gate, spent)  # query's bias need not grow with t
        return None if certified is None else certified.threshold, certified
    if spent > problem.budget:
        return None, None
    if mode is Mode.QUERY and gate.signal is Signal.U_BAR:
        return gate.largest_query_within(problem.budget), None
    return gate.largest_within(problem.budget, spent), None


def most_skippable(threshold: float | None, vocab_size: int) -> int:
    """Most tokens with u_bar <= t, floor(1/(1 - t)), since sum_v (1 - u_bar_v) = 1 [N, THEORY 4.2]; at least 1.

    >>> most_skippable(0.49, 32000), most_skippable(0.75, 32000), most_skippable(1.0, 32000)
    (1, 4, 32000)
    """
    if threshold is None:
        return 1
    return vocab_size if threshold >= 1 else min(vocab_size, math.floor(1 / (1 - threshold) + 1e-9))
