"""Every mode on the same link under the same accounting, each at its own best point within the same bias budget.

What each law is, and how far it is from the LLM's, is the mode table of THEORY 3; every bias is said to be exact, a
proved bound, or unknown.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.channel import Link, RetransmissionUplink
from cuhlm_opt.latency import Accounting, Asks, TokenLaw, token_law
from cuhlm_opt.modes import Distortion, Mode
from cuhlm_opt.payload import Format, coarse_bits, law_bits
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.solve.certificate import CertifiedThreshold
from cuhlm_opt.solve.joint import share
from cuhlm_opt.solve.limits import Objective
from cuhlm_opt.solve.problem import Problem
from cuhlm_opt.solve.skipping import Skipping
from cuhlm_opt.solve.speculating import DraftCoding, Speculation, speculations
from cuhlm_opt.solve.threshold import Gate, Policy, Signal
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

_Floats = NDArray[np.float64]

_LAWS = {
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
_CANDIDATES = 8
"""Truncations that are tried where late quantiles matter, at least; fewer than twice as many."""
_LATE = 0.05
"""Share of tokens beyond the late quantile."""
_THRESHOLDS = 16
"""Smaller thresholds that are tried where late quantiles matter, evenly in the skip rate."""
_DRAFT_DEPENDENT = "k depends on the draft: the mean of TV(x, x_hat) is no bound"
_NEEDS_RECORDS = "needs records"
_NEEDS_LLM_CONTEXTS = "needs contexts drawn by the LLM"
_NEEDS_U_BAR = "needs u_bar, a function of x and d"
_BEYOND_RECORDS = "not determined by the records for this threshold"
_UNMEASURED = "what rounding adds was not measured at any recorded position"


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
    bias_quantisation: float | None = None
    bias_kind: Literal["exact", "bound", "none"] = "none"
    law: str
    b_prob: int | None = None
    quantiser: Quantiser | None = None
    certified: CertifiedThreshold | None = None
    """Where the threshold comes from a certificate, or is None because of one."""
    skip: _Floats | None = None
    """Probability to keep the draft at each recorded position, shape (n,)."""
    bits: _Floats | None = None
    """Length of the message that each position would send, shape (n,)."""
    asks: Asks | None = None
    """The tokens that ask, with their messages."""
    speculation: Speculation | None = None
    """Of `speculative`: the rounds."""
    limited_by: tuple[str, ...] = ()
    """Limits for whose sake the most worth was passed over."""
    time: TokenLaw | None = None

    @property
    def bias(self) -> float | None:
        """TV per token against the LLM's law, of kind `bias_kind`."""
        parts = (self.bias_skip, self.bias_truncation, self.bias_quantisation)
        return None if None in parts else math.fsum(part for part in parts if part is not None)


def mode_point(problem: Problem, mode: Mode, random_rate: float | None = None) -> ModePoint:
    """Best point of `mode` within the budget, or at the published threshold.

    Args:
        problem: what is solved.
        mode: decoding mode.
        random_rate: skip rate of `random`, p.
    """
    return timed(problem, untimed(problem, mode, random_rate))


def timed(problem: Problem, point: ModePoint) -> ModePoint:
    """The point with the law of its latency, where the messages and the compute times are known."""
    times = problem.compute_times
    if times is None or point.asks is None:
        return point
    asks, rounds = point.asks, point.speculation
    if rounds is not None and problem.accounting is Accounting.MEAN_RATE:
        return point  # the tokens of a round come at once: none has a rate of its own
    laws = [
        token_law(point.mode, times, link, asks, problem.answer_tokens) if rounds is None else rounds.time(times, link)
        for link in _links(problem, asks)
    ]
    return replace(point, time=min(laws, key=lambda law: _rank(problem, law, asks)))


def _links(problem: Problem, asks: Asks) -> list[Link]:
    """The link; under fixed-rate fading, where late quantiles matter, also at rates for their sake."""
    link, uplink = problem.link, problem.link.uplink
    late = problem.objective is Objective.LATENCY_P95 or problem.limits.latency_p95_s is not None
    if not late or not isinstance(uplink, RetransmissionUplink) or uplink.rate is not None or asks.rate <= _LATE:
        return [link]
    rates = uplink.rates_missing(_LATE / asks.rate)
    return [link, *(replace(link, uplink=replace(uplink, rate=rate)) for rate in rates)]


def used_link(problem: Problem, point: ModePoint) -> Link:
    """The link at the rate that was chosen for the point."""
    return problem.link if point.time is None or point.time.link is None else point.time.link


def hlm_throughput(problem: Problem, law_format: Format) -> float | None:
    """Tokens per second of HLM with its full law in `law_format`, at 8 bits a probability [P2]."""
    reference = replace(problem, law_format=law_format, b_prob=None)
    return throughput(problem, mode_point(reference, Mode.HLM))


def throughput(problem: Problem, point: ModePoint) -> float | None:
    """Tokens per second under the problem's accounting."""
    return None if point.time is None else point.time.throughput(problem.accounting)


def untimed(problem: Problem, mode: Mode, random_rate: float | None = None) -> ModePoint:
    """A point without its time, as `mode_point`."""
    mean_tv = problem.fit.mean_tv.value
    law = _LAWS[mode]
    if mode is Mode.SLM:
        kind: Literal["exact", "none"] = "none" if mean_tv is None else "exact"
        return replace(_plain(mode, law, skip_rate=1.0, bias=mean_tv, kind=kind), asks=Asks.never())
    if mode is Mode.LLM:
        return replace(_plain(mode, law, skip_rate=0.0, bias=0.0), asks=Asks.always(0.0))
    if mode is Mode.HLM:
        return _whole(problem, _plain(mode, law, skip_rate=0.0, bias=0.0))
    gate = problem.gate_of(mode)
    if mode is Mode.SPECULATIVE:
        return _speculative(problem, gate)
    if mode is Mode.RANDOM:
        if gate is None or random_rate is None or mean_tv is None:
            return _whole(problem, ModePoint(mode=mode, law=_NEEDS_RECORDS))
        point = _whole(problem, _plain(mode, law, skip_rate=random_rate, bias=random_rate * mean_tv))
        return _sending(point, gate, np.full(gate.records.n_tokens, random_rate), point.payload_bits or 0.0)
    if gate is None:
        published = None if problem.degenerate else problem.computed_threshold
        point = ModePoint(mode=mode, threshold=published, law=_NEEDS_RECORDS)
        return {Mode.U_HLM: _whole(problem, point), Mode.QUERY: replace(point, payload_bits=0.0)}.get(mode, point)
    match mode:
        case Mode.CU_HLM_OFFLINE | Mode.CU_HLM_ONLINE:
            return _truncated(problem, gate, mode)
        case Mode.QUERY:
            return _query(problem, gate)
        case Mode.COARSE:
            return _coarse(problem, gate)
        case Mode.EXACT:
            return _exact(problem, gate)

    def build(point: ModePoint, skipping: Skipping) -> ModePoint:
        whole = _whole(problem, point)
        return _sending(whole, gate, skipping.skip, whole.payload_bits or 0.0)

    return _settled(problem, gate, mode, build, spent=_rounding_of_all(problem) or 0.0)


def _plain(
    mode: Mode, law: str, *, skip_rate: float, bias: float | None, kind: Literal["exact", "none"] = "exact"
) -> ModePoint:
    """A mode without a gate."""
    return ModePoint(
        mode=mode, skip_rate=skip_rate, payload_bits=0.0, entries=0.0,
        bias_skip=bias, bias_truncation=0.0, bias_quantisation=0.0, bias_kind=kind, law=law,
    )  # fmt: skip


def _gated(problem: Problem, gate: Gate, mode: Mode, spent: float = 0.0) -> ModePoint:
    """A mode at its threshold, whose bias is the skip risk, exactly [N, THEORY 4.3]; its payload is to be filled in."""
    threshold, certified = _threshold(problem, gate, mode, spent)
    skipping = gate.at(threshold)
    if mode in (Mode.EXACT, Mode.COARSE) and not gate.is_exact_at(threshold):
        return ModePoint(mode=mode, threshold=threshold, skip_rate=skipping.skip_rate, law=_BEYOND_RECORDS)
    return ModePoint(
        mode=mode, threshold=threshold, skip_rate=skipping.skip_rate, certified=certified,
        bias_skip=float(np.mean(skipping.risk)), bias_truncation=0.0, bias_quantisation=0.0, bias_kind="exact",
        law=_LAWS[mode],
    )  # fmt: skip


def _settled(
    problem: Problem,
    gate: Gate,
    mode: Mode,
    build: Callable[[ModePoint, Skipping], ModePoint],
    spent: float = 0.0,
) -> ModePoint:
    """A mode at its largest threshold, or at the best one below.

    More skipping is better in throughput, bits and passes, but not in late quantiles of the latency: a token that asks
    after a long run waits for a long pass. Where these are limited or sought, smaller thresholds are tried.
    """
    top = _gated(problem, gate, mode, spent)
    point = build(top, gate.at(top.threshold))
    late = problem.objective is Objective.LATENCY_P95 or "--max-latency-p95" in _excess(problem, point)
    if not late or problem.times is None or problem.policy.is_published or top.threshold is None:
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
    best = min(found, key=lambda each: _preference(problem, each))
    return replace(best, limited_by=_excess(problem, point))


def _excess(problem: Problem, point: ModePoint) -> tuple[str, ...]:
    """Limits that a point does not keep."""
    return () if point.asks is None else tuple(problem.limits.excess(point.asks, timed(problem, point).time))


def _preference(problem: Problem, point: ModePoint) -> tuple[float, float]:
    """How a point stands among others of its mode, smaller is better: by how much it passes a limit, then its worth."""
    return (1.0, 0.0) if point.asks is None else _rank(problem, timed(problem, point).time, point.asks)


def _rank(problem: Problem, law: TokenLaw | None, asks: Asks) -> tuple[float, float]:
    """As `_preference`."""
    passed = max(problem.limits.excess(asks, law).values(), default=1.0)
    if problem.objective is Objective.BITS:
        return passed, asks.rate * asks.mean_bits
    if problem.objective is Objective.PASSES or law is None:
        return passed, asks.rate if law is None else law.passes
    if problem.objective is Objective.LATENCY_P95:
        return passed, law.quantile(1 - _LATE)
    return passed, -law.throughput(problem.accounting)


def _rounding_of_all(problem: Problem) -> float | None:
    """Mean TV(x, decoded x), which bounds what rounding all of x adds; None where it was not measured."""
    coding = problem.full_coding
    rounding = math.nan if coding is None else coding.whole_bias
    return None if math.isnan(rounding) else rounding


def _whole(problem: Problem, point: ModePoint) -> ModePoint:
    """`point` with all of x in every upload: drafts from x, verification with what is decoded [P, THEORY 2.1]."""
    coding, vocab_size, rounding = problem.full_coding, problem.calibration.vocab_size, _rounding_of_all(problem)
    quantiser = Quantiser.UNIFORM if coding is None else coding.quantiser
    bits = float(law_bits(vocab_size, vocab_size, problem.bits, problem.law_format, quantiser))
    known = point.bias_skip is not None and rounding is not None
    asks = Asks.always(bits) if point.mode is Mode.HLM else None
    return replace(
        point, asks=asks, payload_bits=bits, entries=float(vocab_size), b_prob=problem.bits, quantiser=quantiser,
        bias_quantisation=rounding, bias_kind="bound" if known else "none",
        law=point.law if known or coding is None else f"{point.law}; {_UNMEASURED}",
    )  # fmt: skip


def _sending(point: ModePoint, gate: Gate, skip: _Floats, bits: _Floats | float) -> ModePoint:
    """`point` with what each recorded position keeps and would send."""
    lengths = np.broadcast_to(np.asarray(bits, dtype=np.float64), skip.shape)
    asks = gate.asks(skip, lengths)
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


def _query(problem: Problem, gate: Gate) -> ModePoint:
    """Nothing but ids crosses the link; skipping reads the draft, so the bias is more than the skip risk."""

    def build(point: ModePoint, skipping: Skipping) -> ModePoint:
        point, bias = _sending(replace(point, entries=0.0), gate, skipping.skip, 0.0), skipping.query
        if bias is None:
            return replace(point, bias_skip=None, bias_kind="none", law=_BEYOND_RECORDS)
        return replace(point, bias_skip=float(np.mean(bias)))

    return _settled(problem, gate, Mode.QUERY, build)


def _coarse(problem: Problem, gate: Gate) -> ModePoint:
    """An upload holds the skippable entries, none where nothing was skippable [N, THEORY 5]."""
    if problem.signal is not Signal.U_BAR:
        return ModePoint(mode=Mode.COARSE, law=_NEEDS_U_BAR)

    def build(point: ModePoint, skipping: Skipping) -> ModePoint:
        point = replace(point, b_prob=problem.bits, quantiser=problem.mass_quantiser)
        if skipping.kept is None:
            return replace(point, law=f"{point.law}; payload {_BEYOND_RECORDS}")
        bits = coarse_bits(skipping.kept, problem.calibration.vocab_size, problem.bits)
        entries = skipping.mean_over_asking(skipping.kept)
        return replace(_sending(point, gate, skipping.skip, bits), entries=entries)

    return _settled(problem, gate, Mode.COARSE, build)


def _exact(problem: Problem, gate: Gate) -> ModePoint:
    """Drafts from decoded x_hat, with k at least the number of skippable tokens [N, THEORY 4.7, 4.2]."""
    if problem.signal is not Signal.U_BAR:
        return ModePoint(mode=Mode.EXACT, law=_NEEDS_U_BAR)
    vocab_size, quantiser = problem.calibration.vocab_size, problem.mass_quantiser

    def build(point: ModePoint, skipping: Skipping) -> ModePoint:
        k = most_skippable(point.threshold, vocab_size)
        bits = float(law_bits(k, vocab_size, problem.bits, problem.truncated_format, quantiser))
        point = replace(point, k=k, entries=float(k), b_prob=problem.bits, quantiser=quantiser)
        return _sending(point, gate, skipping.skip, bits)

    return _settled(problem, gate, Mode.EXACT, build)


def _speculative(problem: Problem, gate: Gate | None) -> ModePoint:
    """Rounds of several drafts, at the best of their draft lengths, stopping rules and messages on this link."""
    mode = Mode.SPECULATIVE
    if gate is None or gate.records.sources != {"llm"}:
        return ModePoint(mode=mode, law=_NEEDS_RECORDS if gate is None else _NEEDS_LLM_CONTEXTS)
    coding = DraftCoding(
        vocab_size=problem.calibration.vocab_size,
        b_prob=problem.bits,
        quantiser=problem.mass_quantiser,
        law_format=problem.truncated_format,
    )
    found = [
        replace(
            _plain(mode, _LAWS[mode], skip_rate=0.0, bias=0.0),
            threshold=rounds.way.threshold,
            k=rounds.way.k,
            entries=float(rounds.way.k),
            b_prob=coding.b_prob,
            quantiser=coding.quantiser,
            asks=rounds.asks,
            payload_bits=rounds.asks.mean_bits,
            speculation=rounds,
        )
        for rounds in speculations(
            gate, coding, problem.rounds, problem.compute_times, problem.link, problem.answer_tokens
        )
    ]
    return min(found, key=lambda each: _preference(problem, each))


def most_skippable(threshold: float | None, vocab_size: int) -> int:
    """Most tokens with u_bar <= t, floor(1/(1 - t)), since sum_v (1 - u_bar_v) = 1 [N, THEORY 4.2]; at least 1.

    >>> most_skippable(0.49, 32000), most_skippable(0.75, 32000), most_skippable(1.0, 32000)
    (1, 4, 32000)
    """
    if threshold is None:
        return 1
    return vocab_size if threshold >= 1 else min(vocab_size, math.floor(1 / (1 - threshold) + 1e-9))


def _truncated(problem: Problem, gate: Gate, mode: Mode) -> ModePoint:
    """The published system: k entries of x, the rest spread evenly, verification with what is decoded.

    The first candidate that keeps the limits: they come by worth. For late quantiles, which the worth does not see, the
    best of some along the trade of budget against bits.
    """
    candidates = _truncations(problem, gate, mode)
    point = _truncated_at(problem, gate, mode, next(candidates))
    if problem.objective is not Objective.LATENCY_P95 and _preference(problem, point)[0] <= 1:
        return point
    others, found = list(candidates), [point]
    late = problem.objective is Objective.LATENCY_P95 or problem.limits.latency_p95_s is not None
    for truncation in others[:: max(1, len(others) // _CANDIDATES) if late else 1]:
        found.append(_truncated_at(problem, gate, mode, truncation))
        if not late and not _excess(problem, found[-1]):
            break
    return replace(min(found, key=lambda each: _preference(problem, each)), limited_by=_excess(problem, point))


def _truncated_at(problem: Problem, gate: Gate, mode: Mode, truncation: Truncation) -> ModePoint:
    """The point of one truncation, at the threshold that the rest of the budget allows."""

    def build(point: ModePoint, skipping: Skipping) -> ModePoint:
        entries = skipping.mean_over_asking(truncation.sizes)
        return replace(_sending(point, gate, skipping.skip, truncation.bits), entries=entries)

    point = replace(
        _settled(problem, gate, mode, build, spent=truncation.spent),
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
    return point if point.bias is not None else replace(point, bias_kind="none", law=f"{point.law}; {_UNMEASURED}")


def _truncations(problem: Problem, gate: Gate, mode: Mode) -> Iterator[Truncation]:
    """Sizes and codings of `cu-hlm-*`, the best first; a published policy leaves one.

    They are ranked on some of the prompts where there are very many, then measured on all of them.
    """
    if not problem.policy.is_published:
        some = gate if problem.theta is not None or problem.distortion is Distortion.SURROGATE else gate.some
        choices = _sizes(problem, some, mode, problem.budget)
        skip_within = problem.certified_skip(some) if problem.policy is Policy.CERTIFIED else None
        found = share(some, problem.budget, problem.worth, choices, problem.codings(some), skip_within)
        return found if some is gate else _measured(found, gate, problem.budget)
    left = problem.budget
    if not problem.degenerate:
        risk = float(np.mean(gate.at(problem.computed_threshold).risk))
        left = left - risk if risk < left else left
    choices = _sizes(problem, gate, mode, left)
    affordable = [choice for choice in choices if (choice.bias or 0.0) <= left / 2]
    return iter([(affordable or choices)[-1].cheapest(problem.codings(gate), left)])


def _measured(found: Iterator[Truncation], gate: Gate, budget: float) -> Iterator[Truncation]:
    """Truncations over all records, those within the budget; else the one that is least over it."""
    over: list[Truncation] = []
    within = False
    for truncation in found:
        whole = truncation.over(gate.records)
        if whole.spent <= budget:
            within = True
            yield whole
        else:
            over.append(whole)
    if not within:
        yield min(over, key=lambda truncation: truncation.spent)


def _sizes(problem: Problem, gate: Gate, mode: Mode, limit: float) -> Sequence[Sizes]:
    """The sizes to choose from, more of them left out from each to the next: one where the tolerance is settled."""
    offline, theta, records = mode is Mode.CU_HLM_OFFLINE, problem.theta, gate.records
    if problem.distortion is Distortion.SURROGATE:
        tolerance = SURROGATE_THETA if theta is None else theta
        if offline:
            return [offline_by_surrogate(records, tolerance)]
        return [online_by_surrogate(records, tolerance, problem.signal, problem.line.a, problem.line.b)]
    if theta is None:
        if offline:
            return gate.remembered("offline sizes", lambda: offline_choices(records))
        choices = gate.remembered("online sizes", lambda: online_choices(records))
        return [choice for choice in choices if (choice.bias or 0.0) <= limit]
    return [(offline_by_bound if offline else online_by_bound)(records, theta)]
