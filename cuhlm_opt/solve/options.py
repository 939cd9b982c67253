"""What can be asked of `solve`, `simulate` and `sweep`, and the problem that it poses."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypedDict, TypeVar, Unpack

from cuhlm_opt.artefacts import ChannelSettings
from cuhlm_opt.errors import InputError, unknown_name
from cuhlm_opt.latency import Accounting, Pipelining
from cuhlm_opt.links import link_of
from cuhlm_opt.modes import Distortion, Drafting, Mode, Pending, PendingData
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import LEAST_BITS, MOST_BITS, Quantiser
from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.limits import Limits, Objective
from cuhlm_opt.solve.load import Evidence, load_evidence
from cuhlm_opt.solve.problem import Problem, choose_signal, effective_times
from cuhlm_opt.solve.speculating import RoundOptions
from cuhlm_opt.solve.threshold import Gate, Policy
from cuhlm_opt.solve.use import mismatches
from cuhlm_opt.units import check_fraction

_Choice = TypeVar("_Choice", bound=StrEnum)

_CHANNEL = {"channel": "kind"} | {name: name for name in ChannelSettings.model_fields if name != "kind"}


class Options(TypedDict, total=False):
    """Everything but the calibration; SI units."""

    bandwidth_hz: float | None
    """W > 0; none for a trace."""
    snr_db: float
    """Signal-to-noise ratio in [-100, 100] dB, of fading its mean; 10."""
    rtt_s: float
    """Round trip >= 0; 0."""
    downlink_s: float
    """Downlink of one token >= 0; 0."""
    channel: str
    """awgn (default), rayleigh, rician, nakagami, short-packet or trace."""
    coding: str | None
    """Of fading: fixed-rate (default), ergodic or instantaneous."""
    fixed_rate: float | None
    """Of fixed-rate coding, bit/s/Hz > 0; none chooses it."""
    rician_k: float
    """K >= 0; 6."""
    nakagami_m: float
    """m >= 1/2; 2."""
    block_error: float
    """Target of short packets, in (0, 1/2]; 1e-3."""
    trace: str | None
    """CSV file of time in seconds and rate in bit/s."""
    overhead_bits: float
    """Header of every message >= 0; 0."""
    pair: str | None
    """Pair that the point is meant for; a warning says where the calibration is of another, as with the next three."""
    backend: str | None
    temperature: float | None
    top_p: float | None
    domain: str | None
    """Domain of the records; None takes the only one, or `general`, with a warning."""
    max_bias: float
    """Budget, the largest TV per token against the LLM's law, in [0, 1]; 0.02."""
    policy: str
    """How the threshold is chosen, see `Policy`; certified."""
    delta: float | None
    """For `certified`, the probability in (0, 1) that the guarantee may fail; None guarantees an expectation."""
    mode: str
    """Decoding mode, see `Mode`; cu-hlm-offline."""
    signal: str | None
    """Uncertainty that the gate reads, see `Signal`; None takes `u_bar` where it was fitted."""
    distortion: str
    """What the truncation size is chosen by, see `Distortion`; bound."""
    theta: float | None
    """Truncation tolerance >= 0; None takes what the budget leaves (bound), or 0.1 [P2] (surrogate)."""
    b_prob: int | None
    """Bits of a probability, 2 to 16; None chooses them for cu-hlm-*, and takes 8 [P2] elsewhere and in the published
    format."""
    quantiser: str | None
    """How they are spent, see `Quantiser`; None takes the way of least measured bias, in the published format uniform
    levels."""
    law_format: str
    """How laws are written, see `Format`; compact."""
    accounting: str
    """How latencies become throughput, see `Accounting`; mean-latency."""
    adaptive: bool
    """Whether thresholds follow the state of the channel; False."""
    pipelining: str
    """What the LLM does between messages, see `Pipelining`; none."""
    answer_tokens: int
    """T >= 1, the length of an answer; 128."""
    slm_s: float | None
    """Time of an SLM step, instead of the measured one."""
    gate_s: float | None
    """Time of the gate, likewise."""
    llm_s: float | None
    """Time of an LLM pass over one token, likewise; passes over more tokens scale with it."""
    objective: str
    """What each mode's point is best at, see `Objective`; throughput."""
    max_latency_p95_s: float | None
    """Largest 95th percentile of a token's latency > 0."""
    max_uplink_bps: float | None
    """Largest mean rate of uploaded bits > 0."""
    max_passes: float | None
    """Most LLM passes per token >= 0."""
    min_skip: float | None
    """Least skip rate, in [0, 1]."""
    draft_length: int | None
    """Of `speculative`: drafts of a round, at most so many where drafting is triggered, 1 to 64; None chooses."""
    drafting: str | None
    """Of `speculative`: when drafting stops, see `Drafting`; None chooses."""
    pending: str
    """Of `speculative`: what becomes of pending drafts, see `Pending`; roll-back. `keep` solves `coarse`, or `exact`
    where the data are truncated."""
    pending_data: str | None
    """Of `speculative`: what is sent of each draft's law, see `PendingData`; None chooses."""


@dataclass(frozen=True, kw_only=True)
class Posed:
    """A validated problem with where it came from."""

    problem: Problem
    evidence: Evidence
    mode: Mode
    settings: ChannelSettings
    given_times: tuple[str, ...]
    """Compute times that were given, by name."""
    mismatches: tuple[str, ...]
    """Where the calibration is not of the use that is made of it."""


def pose(calibration: str = "qwen2.5-coder", **options: Unpack[Options]) -> Posed:
    """Validate options against a calibration.

    Raises:
        InputError: an argument or a file is wrong.
    """
    unknown = set(options) - set(Options.__annotations__)
    if unknown:
        raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
    settings = channel_settings(options)
    budget = check_fraction(options.get("max_bias", 0.02), "--max-bias")
    mode = _choose("--mode", options.get("mode", Mode.CU_HLM_OFFLINE), Mode)
    rounds, mode = _rounds(options, mode)
    policy = _choose("--policy", options.get("policy", Policy.CERTIFIED), Policy)
    length = _check_count("--answer-tokens", options.get("answer_tokens", 128), 10**9)
    b_prob, quantiser = options.get("b_prob"), options.get("quantiser")
    evidence = load_evidence(calibration, options.get("domain"))
    signal = choose_signal(evidence.fit, options.get("signal"))
    if mode in (Mode.EXACT, Mode.COARSE) and signal is not Signal.U_BAR and evidence.records is not None:
        raise InputError(f"--signal {str(signal)!r} is not allowed in mode {str(mode)!r}; use u_bar")
    times = {"SLM step": options.get("slm_s"), "gate": options.get("gate_s"), "LLM pass": options.get("llm_s")}
    problem = Problem(
        calibration=evidence.calibration,
        fit=evidence.fit,
        signal=signal,
        gate=_gate(evidence, signal, length),
        times=effective_times(evidence.calibration.times, *times.values()),
        link=link_of(settings),
        budget=budget,
        policy=policy,
        distortion=_choose("--distortion", options.get("distortion", Distortion.BOUND), Distortion),
        theta=_check_theta(options.get("theta")),
        b_prob=None if b_prob is None else _check_count("--b-prob", b_prob, MOST_BITS, LEAST_BITS),
        quantiser=None if quantiser is None else _choose("--quantiser", quantiser, Quantiser),
        law_format=_choose("--format", options.get("law_format", Format.COMPACT), Format),
        accounting=_choose("--accounting", options.get("accounting", Accounting.MEAN_LATENCY), Accounting),
        answer_tokens=length,
        adaptive=options.get("adaptive", False),
        pipelining=_choose("--pipelining", options.get("pipelining", Pipelining.NONE), Pipelining),
        delta=_check_delta(options.get("delta"), policy),
        objective=_choose("--objective", options.get("objective", Objective.THROUGHPUT), Objective),
        limits=Limits(
            latency_p95_s=options.get("max_latency_p95_s"),
            uplink_bps=options.get("max_uplink_bps"),
            passes=options.get("max_passes"),
            skip_rate=options.get("min_skip"),
        ),
        rounds=rounds,
    )
    if mode is Mode.SPECULATIVE and problem.accounting is Accounting.MEAN_RATE:
        raise InputError("--accounting 'mean-rate' goes with one draft a round; use mean-latency in mode 'speculative'")
    if rounds.drafting is Drafting.TRIGGERED and signal is not Signal.U_BAR and evidence.records is not None:
        raise InputError(f"--signal {str(signal)!r} is not allowed with --drafting triggered; use u_bar")
    given_times = tuple(name for name, value in times.items() if value is not None)
    stated = {name: options.get(name) for name in ("pair", "backend", "temperature", "top_p")}
    return Posed(
        problem=problem,
        evidence=evidence,
        mode=mode,
        settings=settings,
        given_times=given_times,
        mismatches=tuple(mismatches(evidence.calibration, stated)),
    )


def _gate(evidence: Evidence, signal: Signal, answer_tokens: int) -> Gate | None:
    """The gate on the records; a learned signal is judged by the prompts that it was not learned on."""
    if evidence.records is None:
        return None
    weights = evidence.fit.signals[signal].weights if signal in evidence.fit.signals else ()
    records = evidence.records.halves()[1] if weights else evidence.records
    return Gate(records, signal, answer_tokens, weights=weights)


def channel_settings(options: Options) -> ChannelSettings:
    """What the options say of the link; `link_of` checks the values."""
    return ChannelSettings.model_validate(
        {_CHANNEL[name]: value for name, value in options.items() if name in _CHANNEL}
    )


def _rounds(options: Options, mode: Mode) -> tuple[RoundOptions, Mode]:
    """What is asked of rounds, and the mode that it comes to: to keep what is pending is to skip."""
    drafting, data, length = options.get("drafting"), options.get("pending_data"), options.get("draft_length")
    rounds = RoundOptions(
        draft_length=None if length is None else _check_count("--draft-length", length, 64),
        drafting=None if drafting is None else _choose("--drafting", drafting, Drafting),
        data=None if data is None else _choose("--pending-data", data, PendingData),
    )
    pending = _choose("--pending", options.get("pending", Pending.ROLL_BACK), Pending)
    if mode is not Mode.SPECULATIVE or pending is Pending.ROLL_BACK:
        return rounds, mode
    if rounds.drafting is Drafting.FIXED or length is not None:
        raise InputError("--pending 'keep' goes with triggered drafting of any length; leave --draft-length out")
    return rounds, Mode.EXACT if rounds.data is PendingData.TRUNCATED else Mode.COARSE


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
