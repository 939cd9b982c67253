"""`solve`: from a calibration, a link and a bias budget to an operating point."""

from enum import StrEnum
from typing import TypeVar

from cuhlm_opt.artefacts import CalibrationRef, Certificate, ChannelSettings, ModeRow, OperatingPoint
from cuhlm_opt.channel import BLOCK_ERROR
from cuhlm_opt.errors import InfeasibleError, InputError, unknown_name
from cuhlm_opt.fading import NAKAGAMI_M, RICIAN_K
from cuhlm_opt.latency import Accounting
from cuhlm_opt.links import link_of, with_rate
from cuhlm_opt.modes import Distortion, Mode
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import LEAST_BITS, MOST_BITS, Quantiser
from cuhlm_opt.solve.certificate import CertifiedThreshold
from cuhlm_opt.solve.intervals import spans
from cuhlm_opt.solve.load import Evidence, load_evidence
from cuhlm_opt.solve.modes_table import ModePoint, hlm_throughput, mode_point, throughput
from cuhlm_opt.solve.problem import Problem, choose_signal, effective_times
from cuhlm_opt.solve.statements import (
    assumptions,
    bias_ledger,
    binding,
    infeasible_theta,
    numeric_floor,
    recommend,
    warnings,
)
from cuhlm_opt.solve.threshold import Gate, Policy, Signal
from cuhlm_opt.units import check_fraction

_Choice = TypeVar("_Choice", bound=StrEnum)


def solve(
    calibration: str = "qwen2.5-coder",
    *,
    bandwidth_hz: float | None = None,
    snr_db: float = 10.0,
    rtt_s: float = 0.0,
    downlink_s: float = 0.0,
    channel: str = "awgn",
    coding: str | None = None,
    rician_k: float = RICIAN_K,
    nakagami_m: float = NAKAGAMI_M,
    block_error: float = BLOCK_ERROR,
    trace: str | None = None,
    overhead_bits: float = 0.0,
    domain: str | None = None,
    max_bias: float = 0.02,
    policy: str = Policy.CERTIFIED,
    delta: float | None = None,
    mode: str = Mode.CU_HLM_OFFLINE,
    signal: str | None = None,
    distortion: str = Distortion.BOUND,
    theta: float | None = None,
    b_prob: int | None = None,
    quantiser: str | None = None,
    law_format: str = Format.COMPACT,
    accounting: str = Accounting.MEAN_LATENCY,
    answer_tokens: int = 128,
    slm_s: float | None = None,
    gate_s: float | None = None,
    llm_s: float | None = None,
    min_skip: float | None = None,
) -> OperatingPoint:
    """Solve for the operating point of one mode, beside every other mode on the same link.

    Args:
        calibration: name of a shipped calibration, or the folder of one.
        bandwidth_hz: W > 0; none for a trace.
        snr_db: signal-to-noise ratio in [-100, 100] dB, of fading its mean.
        rtt_s: round trip >= 0.
        downlink_s: downlink of one token >= 0.
        channel: awgn, rayleigh, rician, nakagami, short-packet or trace.
        coding: of fading: fixed-rate (None), ergodic or instantaneous.
        rician_k: K >= 0.
        nakagami_m: m >= 1/2.
        block_error: target of short packets, in (0, 1/2].
        trace: CSV file of time in seconds and rate in bit/s.
        overhead_bits: header of every message >= 0.
        domain: domain of the records; None takes the only one, or `general`, with a warning.
        max_bias: budget, the largest TV per token against the LLM's law, in [0, 1].
        policy: how the threshold is chosen, see `Policy`.
        delta: for `certified`, the probability in (0, 1) that the guarantee may fail; None guarantees an expectation.
        mode: decoding mode, see `Mode`.
        signal: uncertainty that the gate reads, see `Signal`; None takes `u_bar` where it was fitted.
        distortion: what the truncation size is chosen by, see `Distortion`.
        theta: truncation tolerance >= 0; None takes what the budget leaves (bound), or 0.1 [P2] (surrogate).
        b_prob: bits of a probability, 2 to 16; None chooses them for cu-hlm-*, and takes 8 [P2] elsewhere and in the
            published format.
        quantiser: how they are spent, see `Quantiser`; None takes the way of least measured bias, in the published
            format uniform levels.
        law_format: how laws are written, see `Format`.
        accounting: how latencies become throughput, see `Accounting`.
        answer_tokens: T >= 1, over which `llm` spreads its one round trip.
        slm_s: time of an SLM step, instead of the measured one.
        gate_s: time of the gate, likewise.
        llm_s: time of an LLM pass over one token, likewise; passes over more tokens scale with it.
        min_skip: least skip rate wanted, in [0, 1].

    Returns:
        The operating point. What needs records or times that are not there is null, and a warning says so. A published
        threshold outside [0, 1] has status `degenerate`: it is shown, and not used.

    Raises:
        InputError: an argument or a file is wrong.
        InfeasibleError: a given `theta` alone exceeds the budget, or `min_skip` is not reached.

    Example:
        >>> point = solve("published-cu-hlm", bandwidth_hz=10e6, policy="risk-averse")
        >>> round(point.u_threshold, 4), point.skip_rate, point.status
        (0.081, None, 'incomplete')
    """
    settings = ChannelSettings(
        kind=channel, coding=coding, bandwidth_hz=bandwidth_hz, snr_db=snr_db, rician_k=rician_k,
        nakagami_m=nakagami_m, block_error=block_error, trace=trace, rtt_s=rtt_s, downlink_s=downlink_s,
        overhead_bits=overhead_bits,
    )  # fmt: skip
    budget, tolerance = check_fraction(max_bias, "--max-bias"), _check_theta(theta)
    chosen_mode, chosen_policy = _choose("--mode", mode, Mode), _choose("--policy", policy, Policy)
    rule = _choose("--distortion", distortion, Distortion)
    full_format, counting = _choose("--format", law_format, Format), _choose("--accounting", accounting, Accounting)
    length = _check_count("--answer-tokens", answer_tokens, 10**9)
    bits = None if b_prob is None else _check_count("--b-prob", b_prob, MOST_BITS, LEAST_BITS)
    spending = None if quantiser is None else _choose("--quantiser", quantiser, Quantiser)
    evidence = load_evidence(calibration, domain)
    chosen_signal = choose_signal(evidence.fit, signal)
    if chosen_mode in (Mode.EXACT, Mode.COARSE) and chosen_signal is not Signal.U_BAR and evidence.records is not None:
        raise InputError(f"--signal {str(chosen_signal)!r} is not allowed in mode {str(chosen_mode)!r}; use u_bar")
    problem = Problem(
        calibration=evidence.calibration,
        fit=evidence.fit,
        signal=chosen_signal,
        gate=None if evidence.records is None else Gate(evidence.records, chosen_signal, length),
        times=effective_times(evidence.calibration.times, slm_s, gate_s, llm_s),
        link=link_of(settings),
        budget=budget,
        policy=chosen_policy,
        distortion=rule,
        theta=tolerance,
        b_prob=bits,
        quantiser=spending,
        law_format=full_format,
        accounting=counting,
        answer_tokens=length,
        delta=_check_delta(delta, chosen_policy),
    )
    times = {"SLM step": slm_s, "gate": gate_s, "LLM pass": llm_s}
    overridden = tuple(name for name, value in times.items() if value is not None)
    point = _operating_point(problem, evidence, chosen_mode, settings, overridden)
    given = not problem.policy.is_published and tolerance is not None and point.distortion is Distortion.BOUND
    if given and (point.bias_truncation or 0.0) > problem.budget:
        raise InfeasibleError(infeasible_theta(point))
    if min_skip is not None and (point.skip_rate or 0.0) < check_fraction(min_skip, "--min-skip"):
        raise InfeasibleError(
            f"--min-skip {min_skip!r} is not reached: {point.mode} skips {point.skip_rate or 0.0:.4f} within "
            f"--max-bias {problem.budget!r} by policy {problem.policy}; raise --max-bias, or lower --min-skip"
        )
    return point


def _operating_point(
    problem: Problem, evidence: Evidence, mode: Mode, settings: ChannelSettings, given_times: tuple[str, ...]
) -> OperatingPoint:
    """Solve every mode, and put the chosen one in the foreground."""
    points = _solve_modes(problem, mode)
    point = points[mode]
    truncation, time = point.truncation, point.time
    tokens_per_s = throughput(problem, point)
    calibration = problem.calibration
    found = spans(problem, point)
    return OperatingPoint(
        status="degenerate" if problem.degenerate else "incomplete" if tokens_per_s is None else "optimal",
        policy=problem.policy,
        mode=mode,
        signal=problem.signal,
        u_threshold=point.threshold,
        u_threshold_computed=problem.computed_threshold if problem.policy.is_published else point.threshold,
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
        draft_length=1,
        payload_bits=point.payload_bits,
        compression=_compression(point, calibration.vocab_size),
        uplink_s=None if point.payload_bits is None else float(problem.link.mean_uplink_s(point.payload_bits)),
        latency_s=None if time is None else time.mean_s,
        latency_p50_s=None if time is None else time.quantile(0.5),
        latency_p95_s=None if time is None else time.quantile(0.95),
        latency_p99_s=None if time is None else time.quantile(0.99),
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
        accounting=problem.accounting,
        domain=evidence.domain,
        temperature=1.0 if calibration.temperature is None else calibration.temperature,
        top_p=1.0 if calibration.top_p is None else calibration.top_p,
        slope=problem.line.a,
        intercept=problem.line.b,
        answer_tokens=problem.answer_tokens,
        channel=with_rate(settings),
        times=problem.times,
        baselines=tuple(mode_row(problem, other) for other in points.values()),
        recommended=recommend(problem, list(points.values())),
        assumptions=tuple(assumptions(problem, evidence, point, given_times)),
        calibration=CalibrationRef(id=calibration.id, pair=calibration.pair, domain=evidence.domain),
        warnings=tuple(warnings(problem, evidence, point)),
    )


def _solve_modes(problem: Problem, chosen: Mode) -> dict[Mode, ModePoint]:
    """Every mode at its own point; `random` at the skip rate of the chosen mode, or of `u-hlm` where that has none."""
    points: dict[Mode, ModePoint] = {mode: mode_point(problem, mode) for mode in Mode if mode is not Mode.RANDOM}
    model = points[chosen if chosen.skips and chosen is not Mode.RANDOM else Mode.U_HLM]
    points[Mode.RANDOM] = mode_point(problem, Mode.RANDOM, model.skip_rate)
    return {mode: points[mode] for mode in Mode}


def mode_row(problem: Problem, point: ModePoint) -> ModeRow:
    """A point as a row of the table."""
    passes = {Mode.SLM: 0.0, Mode.LLM: 1.0, Mode.HLM: 1.0}
    found = spans(problem, point)
    asked = None if point.skip_rate is None else 1.0 - point.skip_rate
    return ModeRow(
        mode=point.mode,
        throughput_tokens_per_s=throughput(problem, point),
        latency_s=None if point.time is None else point.time.mean_s,
        payload_bits=point.payload_bits,
        skip_rate=point.skip_rate,
        skip_rate_ci=found.skip_rate,
        throughput_ci=found.throughput,
        server_passes_per_token=passes.get(point.mode, asked),
        bias=point.bias,
        bias_ci=found.bias,
        bias_kind=point.bias_kind,
        u_threshold=point.threshold,
        k=point.k,
        theta=None if point.truncation is None else point.truncation.theta,
        b_prob=point.b_prob,
        quantiser=point.quantiser,
        law=point.law,
    )


def _certificate(certified: CertifiedThreshold | None) -> Certificate | None:
    if certified is None:
        return None
    return Certificate(
        method=certified.method,
        delta=certified.delta,
        n_prompts=certified.n_prompts,
        assumptions=certified.assumptions,
    )


def _compression(point: ModePoint, vocab_size: int) -> float | None:
    """Share of the vocabulary that an upload leaves out, 1 - k/|V| [P]; None where nothing is uploaded."""
    if point.entries is None or point.mode in (Mode.SLM, Mode.LLM):
        return None
    return 1.0 - point.entries / vocab_size


def _ratio(value: float | None, reference: float | None) -> float | None:
    return value / reference if value is not None and reference else None


def _choose(argument: str, value: str, names: type[_Choice]) -> _Choice:
    """The member of `names` that `value` names."""
    if value not in list(names):
        raise unknown_name(argument, str(value), list(names))
    return names(value)


def _check_theta(theta: float | None) -> float | None:
    if theta is not None and not 0 <= theta < float("inf"):
        raise InputError(f"--theta {theta!r} is not allowed; give a finite number >= 0")
    return theta


def _check_count(argument: str, value: int, largest: int, least: int = 1) -> int:
    if not least <= value <= largest:
        raise InputError(f"{argument} {value!r} is not allowed; give a whole number from {least} to {largest}")
    return value


def _check_delta(delta: float | None, policy: Policy) -> float | None:
    if delta is None:
        return None
    if policy is not Policy.CERTIFIED:
        raise InputError(f"--delta {delta!r} goes with --policy certified, not {str(policy)!r}")
    if not 0 < delta < 1:
        raise InputError(f"--delta {delta!r} is not allowed; give a number between 0 and 1, both excluded")
    return delta
