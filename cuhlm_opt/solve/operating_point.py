"""`solve`: from a calibration, a link and a bias budget to an operating point."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Unpack

import numpy as np

from cuhlm_opt.artefacts import (
    AnswerLatency,
    CalibrationRef,
    Certificate,
    MarginalWorth,
    ModeRow,
    OperatingPoint,
    StateThreshold,
)
from cuhlm_opt.channel_states import channel_states, state_links
from cuhlm_opt.errors import InfeasibleError, InputError
from cuhlm_opt.links import link_of, settled
from cuhlm_opt.modes import Distortion, Mode, Pending
from cuhlm_opt.payload import Format
from cuhlm_opt.simulate import Replayed, replications
from cuhlm_opt.solve.certificate import CertifiedThreshold
from cuhlm_opt.solve.intervals import spans
from cuhlm_opt.solve.modes_table import hlm_throughput, mode_point
from cuhlm_opt.solve.options import Options, Posed, pose
from cuhlm_opt.solve.points import ModePoint, throughput, used_link
from cuhlm_opt.solve.problem import Problem
from cuhlm_opt.solve.statements import (
    assumptions,
    bias_ledger,
    binding,
    infeasible_limits,
    infeasible_theta,
    numeric_floor,
    recommend,
    warnings,
)

_REPLAYS = 10
_REPLAYED_ANSWERS = 4000
"""Beyond so many answers they are replayed fewer times, once at least."""
_LONGEST_REPLAY = 2048
"""Longest answers that are replayed."""
_STEP = 0.2
"""Relative step of the differences that marginal worth is taken from: thresholds move in steps of their own."""


def solve(calibration: str = "qwen2.5-coder", **options: Unpack[Options]) -> OperatingPoint:
    """Solve for the operating point of one mode, beside every other mode on the same link.

    Args:
        calibration: name of a shipped calibration, or the folder of one.
        options: see `Options`.

    Returns:
        The operating point. What needs records or times that are not there is null, and a warning says so. A published
        threshold outside [0, 1] has status `degenerate`: it is shown, and not used.

    Raises:
        InputError: an argument or a file is wrong.
        InfeasibleError: a given `theta` alone exceeds the budget, or a limit is not reached.

    Example:
        >>> point = solve("published-cu-hlm", bandwidth_hz=10e6, policy="risk-averse")
        >>> round(point.u_threshold, 4), point.skip_rate, point.status
        (0.081, None, 'incomplete')
    """
    posed = pose(calibration, **options)
    problem, points = posed.problem, solve_modes(posed.problem, posed.mode)
    point = points[posed.mode]
    truncation = point.truncation
    if problem.theta is not None and truncation is not None and truncation.distortion is Distortion.BOUND:
        added = truncation.bias or 0.0
        if added > problem.budget and not problem.policy.is_published:
            raise InfeasibleError(infeasible_theta(problem, problem.theta, added))
    if point.asks is not None and (relaxed := problem.limits.relaxed(point.asks, point.time)):
        raise InfeasibleError(infeasible_limits(problem, point, relaxed))
    return operating_point(posed, points)


def operating_point(posed: Posed, points: Mapping[Mode, ModePoint]) -> OperatingPoint:
    """The artefact of a problem whose modes are solved."""
    problem, evidence, mode = posed.problem, posed.evidence, posed.mode
    point = points[mode]
    truncation, time, rounds = point.truncation, point.time, point.speculation
    tokens_per_s = throughput(problem, point)
    calibration = problem.calibration
    found = spans(problem, point)
    return OperatingPoint(
        status="degenerate" if problem.degenerate else "incomplete" if tokens_per_s is None else "optimal",
        policy=problem.policy,
        mode=mode,
        signal=problem.signal,
        signal_weights=() if problem.gate is None else problem.gate.weights,
        u_threshold=point.threshold,
        u_threshold_computed=problem.computed_threshold if problem.policy.is_published else point.threshold,
        state_thresholds=_state_thresholds(problem, point),
        skip_rate=point.skip_rate,
        skip_rate_ci=found.skip_rate,
        k=point.k,
        k_mean=point.entries if mode.truncates else None,
        truncation_rule=None if truncation is None else truncation.rule,
        distortion=None if truncation is None else truncation.distortion,
        theta=None if truncation is None else truncation.theta,
        b_prob=problem.bits if point.b_prob is None else point.b_prob,
        quantiser=point.quantiser or problem.mass_quantiser,
        format=problem.truncated_format if mode.truncates else problem.law_format,
        draft_length=1 if rounds is None else rounds.draft_length,
        drafting=None if rounds is None else rounds.way.drafting,
        pending=_pending(point),
        pending_data=None if rounds is None else rounds.way.data,
        payload_bits=point.payload_bits,
        compression=_compression(point, calibration.vocab_size),
        uplink_s=_uplink_s(problem, point),
        latency_s=None if time is None else time.mean_s,
        latency_p50_s=None if time is None else time.quantile(0.5),
        latency_p95_s=None if time is None else time.quantile(0.95),
        latency_p99_s=None if time is None else time.quantile(0.99),
        answer_latency=_answer_latency(problem, point),
        throughput_tokens_per_s=tokens_per_s,
        throughput_ci=found.throughput,
        speedup_vs_hlm=_ratio(tokens_per_s, hlm_throughput(problem, Format.DENSE)),
        speedup_vs_hlm_published=_ratio(tokens_per_s, hlm_throughput(problem, Format.PUBLISHED)),
        bias_skip=point.bias_skip,
        bias_skip_ci=found.bias_skip,
        bias_truncation=point.bias_truncation,
        bias_quantisation=point.bias_quantisation,
        bias_total=point.bias,
        bias_total_ci=found.bias,
        bias_budget=problem.budget,
        numeric_floor=numeric_floor(problem),
        bias_ledger=tuple(bias_ledger(problem, point)),
        certificate=_certificate(point.certified),
        binding=binding(problem, point),
        marginal_worth=_marginal_worth(posed),
        accounting=problem.accounting,
        pipelining=problem.pipelining,
        domain=evidence.domain,
        temperature=1.0 if calibration.temperature is None else calibration.temperature,
        top_p=1.0 if calibration.top_p is None else calibration.top_p,
        slope=problem.line.a,
        intercept=problem.line.b,
        answer_tokens=problem.answer_tokens,
        channel=settled(posed.settings, used_link(problem, point)),
        times=problem.times,
        baselines=tuple(mode_row(problem, other) for other in points.values()),
        recommended=recommend(problem, list(points.values())),
        assumptions=tuple(assumptions(problem, evidence, point, posed.given_times)),
        calibration=CalibrationRef(
            id=calibration.id,
            pair=calibration.pair,
            domain=evidence.domain,
            models=calibration.provenance.get("pair"),
        ),
        warnings=(*posed.mismatches, *warnings(problem, evidence, point)),
    )


def solve_modes(problem: Problem, chosen: Mode) -> dict[Mode, ModePoint]:
    """Every mode at its own point; `random` at the skip rate of the chosen mode, or of `u-hlm` where that has none."""
    points: dict[Mode, ModePoint] = {mode: mode_point(problem, mode) for mode in Mode if mode is not Mode.RANDOM}
    model = points[chosen if chosen.skips and chosen is not Mode.RANDOM else Mode.U_HLM]
    points[Mode.RANDOM] = mode_point(problem, Mode.RANDOM, model.skip_rate)
    return {mode: points[mode] for mode in Mode}


def _marginal_worth(posed: Posed) -> MarginalWorth | None:
    """Tokens per second that a little more of each resource brings, by central differences over `_STEP` either way."""
    problem, settings = posed.problem, posed.settings
    if problem.times is None or problem.gate is None:
        return None

    def slope(below: Problem, above: Problem, width: float) -> float:
        speeds = [throughput(each, mode_point(each, posed.mode, None)) for each in (below, above)]
        return ((speeds[1] or 0.0) - (speeds[0] or 0.0)) / width

    def on_link(**changes: float) -> Problem:
        return replace(problem, link=link_of(settings.model_copy(update=changes)))

    def slope_in(name: str, value: float, width: float) -> float | None:
        try:
            return slope(on_link(**{name: value - width}), on_link(**{name: value + width}), 2 * width)
        except InputError:  # a fixed rate that is allowed here need not be at a lower SNR
            return None

    budget, bandwidth = problem.budget, settings.bandwidth_hz
    bias = None
    if budget > 0 and not problem.policy.is_published:
        least, most = (1 - _STEP) * budget, min((1 + _STEP) * budget, 1.0)
        bias = slope(replace(problem, budget=least), replace(problem, budget=most), most - least)
    if bandwidth is None:
        return MarginalWorth(per_bias=bias, per_hz=None, per_db=None)
    return MarginalWorth(
        per_bias=bias,
        per_hz=slope_in("bandwidth_hz", bandwidth, _STEP * bandwidth),
        per_db=slope_in("snr_db", settings.snr_db, 10 * math.log10(1 + _STEP)),
    )


def mode_row(problem: Problem, point: ModePoint) -> ModeRow:
    """A point as a row of the table."""
    found = spans(problem, point)
    rounds = point.speculation
    return ModeRow(
        mode=point.mode,
        throughput_tokens_per_s=throughput(problem, point),
        latency_s=None if point.time is None else point.time.mean_s,
        payload_bits=point.payload_bits,
        skip_rate=point.skip_rate,
        skip_rate_ci=found.skip_rate,
        throughput_ci=found.throughput,
        server_passes_per_token=point.passes,
        bias=point.bias,
        bias_ci=found.bias,
        bias_kind=point.bias_kind,
        u_threshold=point.threshold,
        k=point.k,
        theta=None if point.truncation is None else point.truncation.theta,
        b_prob=point.b_prob,
        quantiser=point.quantiser,
        draft_length=1 if rounds is None else rounds.draft_length,
        drafting=None if rounds is None else rounds.way.drafting,
        pending_data=None if rounds is None else rounds.way.data,
        law=point.law,
    )


def _answer_latency(problem: Problem, point: ModePoint) -> AnswerLatency | None:
    """Time of an answer; by replaying the recorded ones, up to `_REPLAYS` times each, where tokens differ."""
    gate, times, law, tokens = problem.gate, problem.compute_times, point.time, problem.answer_tokens
    if law is None or times is None or (gate is None and point.mode is Mode.HLM) or point.speculation is not None:
        return None
    if gate is None or point.mode in (Mode.SLM, Mode.LLM) or tokens > _LONGEST_REPLAY:
        whole = tokens * law.mean_s if point.mode in (Mode.SLM, Mode.LLM) else None
        return None if whole is None else AnswerLatency(mean_s=whole, p50_s=whole, p95_s=whole, p99_s=whole, answers=0)
    replayed = Replayed(
        mode=point.mode,
        times=times,
        link=used_link(problem, point),
        prompt=gate.records.prompt,
        skip=np.zeros(gate.records.n_tokens) if point.skip is None else point.skip,
        bits=np.full(gate.records.n_tokens, point.payload_bits or 0.0) if point.bits is None else point.bits,
        tokens=tokens,
    )
    replays = max(1, min(_REPLAYS, _REPLAYED_ANSWERS // gate.records.n_prompts))
    draws = np.concatenate([each.answers_s for each in islice(replications(replayed), replays)])
    median, late, last = (float(value) for value in np.quantile(draws, (0.5, 0.95, 0.99)))
    return AnswerLatency(mean_s=float(draws.mean()), p50_s=median, p95_s=late, p99_s=last, answers=len(draws))


def _state_thresholds(problem: Problem, point: ModePoint) -> tuple[StateThreshold, ...]:
    """Thresholds that follow the channel."""
    if not point.rule:
        return ()
    bits = 0.0 if point.asks is None else point.asks.mean_bits
    states, links = channel_states(problem.link.uplink), state_links(problem.link)
    return tuple(
        StateThreshold(
            seen=state.seen,
            probability=state.probability,
            uplink_s=float(link.mean_uplink_s(bits)),
            u_threshold=threshold,
        )
        for state, link, threshold in zip(states, links, point.rule, strict=True)
    )


def _pending(point: ModePoint) -> Pending | None:
    """What becomes of pending drafts; None where none ever is."""
    if point.speculation is not None:
        return Pending.ROLL_BACK
    return Pending.KEEP if point.mode.skips else None


def _uplink_s(problem: Problem, point: ModePoint) -> float | None:
    """Mean time of an upload."""
    if point.time is not None:
        return point.time.uplink_s
    return None if point.payload_bits is None else float(problem.link.mean_uplink_s(point.payload_bits))


def _certificate(certified: CertifiedThreshold | None) -> Certificate | None:
    if certified is None:
        return None
    return Certificate(
        method=certified.method,
        delta=certified.delta,
        n_prompts=certified.n_prompts,
        assumptions=(certified.claim, *certified.assumptions),
    )


def _compression(point: ModePoint, vocab_size: int) -> float | None:
    """Share of the vocabulary that an upload leaves out, 1 - k/|V| [P]; None where nothing is uploaded."""
    if point.entries is None or point.mode in (Mode.SLM, Mode.LLM):
        return None
    return 1.0 - point.entries / vocab_size


def _ratio(value: float | None, reference: float | None) -> float | None:
    return value / reference if value is not None and reference else None
