"""`cu-hlm-offline` and `cu-hlm-online` at their best truncation, coding and threshold."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from cuhlm_opt.latency import Pipelining
from cuhlm_opt.modes import Distortion, Mode
from cuhlm_opt.solve.joint import share
from cuhlm_opt.solve.points import ModePoint, excess, preference, rated
from cuhlm_opt.solve.problem import Problem
from cuhlm_opt.solve.settling import sending, settled
from cuhlm_opt.solve.skipping import Skipping
from cuhlm_opt.solve.threshold import Gate, Policy
from cuhlm_opt.solve.truncation import (
    SURROGATE_THETA,
    Sizes,
    Truncation,
    offline_by_bound,
    offline_by_surrogate,
    offline_choices,
    online_by_bound,
    online_by_surrogate,
    online_choices,
)

_CANDIDATES = 8
"""Truncations that are tried where late quantiles matter, at least; fewer than twice as many."""
_DRAFT_DEPENDENT = "k depends on the draft: the mean of TV(x, x_hat) is no bound"
UNMEASURED = "what rounding adds was not measured at any recorded position"


def truncated(problem: Problem, gate: Gate, mode: Mode) -> ModePoint:
    """The published system: k entries of x, the rest spread evenly, verification with what is decoded.

    The first candidate that keeps budget and limits: they come by worth. Where worth does not see all, as late
    quantiles, the best of some along the trade of budget against bits.
    """
    ranked = list(_truncations(problem, gate, mode))
    blind = problem.late or problem.pipelining is Pipelining.EAGER
    found: list[tuple[bool, ModePoint]] = []
    for truncation in [ranked[0], *ranked[1 :: max(1, len(ranked) // _CANDIDATES) if blind else 1]]:
        whole = truncation.over(gate.records)
        point = rated(problem, _truncated_at(problem, gate, mode, whole))
        found.append((whole.spent > problem.budget, point))
        if not blind and not found[-1][0] and not excess(problem, point):
            break
    best = min(found, key=lambda each: (each[0], preference(problem, each[1])))[1]
    return replace(best, limited_by=excess(problem, found[0][1]))


def _truncated_at(problem: Problem, gate: Gate, mode: Mode, truncation: Truncation) -> ModePoint:
    """The point of one truncation, at the threshold that the rest of the budget allows."""

    def build(point: ModePoint, skipping: Skipping) -> ModePoint:
        entries = skipping.mean_over_asking(truncation.sizes)
        key = ("sent", mode, point.threshold, truncation.identity)  # links change more often
        return replace(sending(point, gate, skipping.skip, truncation.bits, key), entries=entries)

    point = replace(
        settled(problem, gate, mode, build, spent=truncation.spent),
        k=truncation.k,
        truncation=truncation,
        bias_truncation=truncation.bias,
        bias_quantisation=truncation.bias_quantisation,
        bias_kind="bound",
        b_prob=truncation.coding.b_prob,
        quantiser=truncation.coding.quantiser,
    )
    if truncation.bias is None:
        return replace(point, bias_kind="none", law=_DRAFT_DEPENDENT)
    return point if point.bias is not None else replace(point, bias_kind="none", law=f"{point.law}; {UNMEASURED}")


def _truncations(problem: Problem, gate: Gate, mode: Mode) -> Iterator[Truncation]:
    """Sizes and codings of `cu-hlm-*`, the best first; a published policy leaves one.

    Where there are very many prompts, these are over some of them, to be ranked only.
    """
    if not problem.policy.is_published:
        some = gate if problem.theta is not None or problem.distortion is Distortion.SURROGATE else gate.some
        choices = _sizes(problem, some, mode, problem.budget)
        skip_within = problem.certified_skip(some) if problem.policy is Policy.CERTIFIED else None
        return share(some, problem.budget, problem.worth, choices, problem.codings(some), skip_within)
    left = problem.budget
    if not problem.degenerate:
        risk = float(np.mean(gate.at(problem.computed_threshold).risk))
        left = left - risk if risk < left else left
    choices = _sizes(problem, gate, mode, left)
    affordable = [choice for choice in choices if (choice.bias or 0.0) <= left / 2]
    return iter([(affordable or choices)[-1].cheapest(problem.codings(gate), left)])


def _sizes(problem: Problem, gate: Gate, mode: Mode, limit: float) -> Sequence[Sizes]:
    """The sizes to choose from, more of them left out from each to the next: one where the tolerance is settled."""
    offline, theta, records = mode is Mode.CU_HLM_OFFLINE, problem.theta, gate.records
    if problem.distortion is Distortion.SURROGATE:
        tolerance = SURROGATE_THETA if theta is None else theta
        if offline:
            return [offline_by_surrogate(records, tolerance)]
        return [online_by_surrogate(records, tolerance, gate.values, problem.line.a, problem.line.b)]
    if theta is None:
        if offline:
            return gate.remembered("offline sizes", lambda: offline_choices(records))
        choices = gate.remembered("online sizes", lambda: online_choices(records))
        return [choice for choice in choices if (choice.bias or 0.0) <= limit]
    return [(offline_by_bound if offline else online_by_bound)(records, theta)]
