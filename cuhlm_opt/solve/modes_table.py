"""Every mode on the same link under the same accounting, each at its own best point within the same bias budget.

What each law is, and how far it is from the LLM's, is the mode table of THEORY 3; every bias is said to be exact, a
proved bound, or unknown.
"""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.latency import Asks
from cuhlm_opt.modes import Mode
from cuhlm_opt.payload import Format, coarse_bits, law_bits
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.limits import Limits, Objective
from cuhlm_opt.solve.points import ModePoint, preference, rated, throughput, timed
from cuhlm_opt.solve.problem import Problem
from cuhlm_opt.solve.settling import BEYOND_RECORDS, LAWS, most_skippable, sending, settled
from cuhlm_opt.solve.skipping import Skipping
from cuhlm_opt.solve.speculating import DraftCoding, speculations
from cuhlm_opt.solve.threshold import Gate
from cuhlm_opt.solve.truncated import UNMEASURED, truncated

_Floats = NDArray[np.float64]

_NEEDS_RECORDS = "needs records"
_NEEDS_LLM_CONTEXTS = "needs contexts drawn by the LLM"
_NEEDS_U_BAR = "needs u_bar, a function of x and d"


def mode_point(problem: Problem, mode: Mode, random_rate: float | None = None) -> ModePoint:
    """Best point of `mode` within the budget, or at the published threshold.

    Args:
        problem: what is solved.
        mode: decoding mode.
        random_rate: skip rate of `random`, p.
    """
    return timed(problem, rated(problem, untimed(problem, mode, random_rate)))


def hlm_throughput(problem: Problem, law_format: Format) -> float | None:
    """Tokens per second of HLM with its full law in `law_format`, at 8 bits a probability [P2]."""
    reference = replace(problem, law_format=law_format, b_prob=None, objective=Objective.THROUGHPUT, limits=Limits())
    return throughput(problem, mode_point(reference, Mode.HLM))


def untimed(problem: Problem, mode: Mode, random_rate: float | None = None) -> ModePoint:
    """A point without its time, as `mode_point`."""
    mean_tv = problem.fit.mean_tv.value
    law = LAWS[mode]
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
        return sending(point, gate, np.full(gate.records.n_tokens, random_rate), point.payload_bits or 0.0)
    if gate is None:
        published = None if problem.degenerate else problem.computed_threshold
        point = ModePoint(mode=mode, threshold=published, law=_NEEDS_RECORDS)
        return {Mode.U_HLM: _whole(problem, point), Mode.QUERY: replace(point, payload_bits=0.0)}.get(mode, point)
    match mode:
        case Mode.CU_HLM_OFFLINE | Mode.CU_HLM_ONLINE:
            return truncated(problem, gate, mode)
        case Mode.QUERY:
            return _query(problem, gate)
        case Mode.COARSE:
            return _coarse(problem, gate)
        case Mode.EXACT:
            return _exact(problem, gate)

    def build(point: ModePoint, skipping: Skipping) -> ModePoint:
        whole = _whole(problem, point)
        return sending(whole, gate, skipping.skip, whole.payload_bits or 0.0)

    return settled(problem, gate, mode, build, spent=_rounding_of_all(problem) or 0.0)


def _plain(
    mode: Mode, law: str, *, skip_rate: float, bias: float | None, kind: Literal["exact", "none"] = "exact"
) -> ModePoint:
    """A mode without a gate."""
    return ModePoint(
        mode=mode, skip_rate=skip_rate, payload_bits=0.0, entries=0.0,
        bias_skip=bias, bias_truncation=0.0, bias_quantisation=0.0, bias_kind=kind, law=law,
    )  # fmt: skip


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
        law=point.law if known or coding is None else f"{point.law}; {UNMEASURED}",
    )  # fmt: skip


def _query(problem: Problem, gate: Gate) -> ModePoint:
    """Nothing but ids crosses the link; skipping reads the draft, so the bias is more than the skip risk."""

    def build(point: ModePoint, skipping: Skipping) -> ModePoint:
        point, bias = sending(replace(point, entries=0.0), gate, skipping.skip, 0.0), skipping.query
        if bias is None:
            return replace(point, bias_skip=None, bias_kind="none", law=BEYOND_RECORDS)
        return replace(point, bias_skip=float(np.mean(bias)))

    return settled(problem, gate, Mode.QUERY, build)


def _coarse(problem: Problem, gate: Gate) -> ModePoint:
    """An upload holds the skippable entries, none where nothing was skippable [N, THEORY 5]."""
    if problem.signal is not Signal.U_BAR:
        return ModePoint(mode=Mode.COARSE, law=_NEEDS_U_BAR)

    def build(point: ModePoint, skipping: Skipping) -> ModePoint:
        point = replace(point, b_prob=problem.bits, quantiser=problem.mass_quantiser)
        if skipping.kept is None:
            return replace(point, law=f"{point.law}; payload {BEYOND_RECORDS}")
        bits = coarse_bits(skipping.kept, problem.calibration.vocab_size, problem.bits)
        entries = skipping.mean_over_asking(skipping.kept)
        return replace(sending(point, gate, skipping.skip, bits), entries=entries)

    return settled(problem, gate, Mode.COARSE, build)


def _exact(problem: Problem, gate: Gate) -> ModePoint:
    """Drafts from decoded x_hat, with k at least the number of skippable tokens [N, THEORY 4.7, 4.2]."""
    if problem.signal is not Signal.U_BAR:
        return ModePoint(mode=Mode.EXACT, law=_NEEDS_U_BAR)
    vocab_size, quantiser = problem.calibration.vocab_size, problem.mass_quantiser

    def build(point: ModePoint, skipping: Skipping) -> ModePoint:
        k = most_skippable(point.threshold, vocab_size) if point.k is None else point.k
        bits = float(law_bits(k, vocab_size, problem.bits, problem.truncated_format, quantiser))
        point = replace(point, k=k, entries=float(k), b_prob=problem.bits, quantiser=quantiser)
        return sending(point, gate, skipping.skip, bits)

    return settled(problem, gate, Mode.EXACT, build)


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
            _plain(mode, LAWS[mode], skip_rate=0.0, bias=0.0),
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
    return min(found, key=lambda each: preference(problem, each))
