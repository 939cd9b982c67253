"""What a result rests on, and what a reader must be told: sentences for people, made from the figures used."""

from cuhlm_opt.artefacts import LedgerEntry, Recommendation, Times
from cuhlm_opt.channel_states import channel_states
from cuhlm_opt.latency import Accounting, Pipelining
from cuhlm_opt.modes import Mode
from cuhlm_opt.payload import Format, dense_bits
from cuhlm_opt.records import T_LIMIT, TOP
from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.load import Evidence
from cuhlm_opt.solve.losses import threshold_grid
from cuhlm_opt.solve.points import ModePoint, throughput, used_link
from cuhlm_opt.solve.problem import Problem
from cuhlm_opt.solve.threshold import Gate, Policy
from cuhlm_opt.units import format_si

_TIE = 0.01
"""Throughputs this close are the same for choosing between a truncated law and a coarse message."""

_CONTEXTS = {
    "llm": "drawn by the LLM alone, the law of HLM's own output",
    "slm": "drawn by the SLM alone",
    "hybrid": "drawn by the hybrid",
}


_PIPELINING = {
    Pipelining.NONE: "no pipelining",
    Pipelining.EAGER: "pipelined: from each verdict the LLM reads on at once (a variant that `decode` does not run)",
}


def assumptions(problem: Problem, evidence: Evidence, point: ModePoint, given_times: tuple[str, ...]) -> list[str]:
    """Everything that entered the figures by default, by measurement or by choice."""
    link = used_link(problem, point)
    header = f", {link.overhead_bits:g} header bits a message" if link.overhead_bits else ""
    return [
        f"uplink: {link.uplink.describe()}; {format_si(link.uplink.rate_bps, 'bit/s')}",
        f"round trip {format_si(link.rtt_s, 's')}, downlink {format_si(link.downlink_s, 's')} a token{header}; "
        "token ids ride free in both directions, as published [P2]",
        *_formats(problem, point),
        _accounting(problem),
        f"one draft a round, in speculative several, {_PIPELINING[problem.pipelining]}; catching up on skipped tokens "
        "is one LLM pass, its length counted in the recorded answers position by position",
        "speculative: rounds are counted in the recorded answers position by position; what is drafted in vain behind "
        f"a refused draft is estimated from the positions in its place; a token beyond the {TOP} recorded ones counts "
        "as redrawn, which makes rounds shorter; the tokens of a round come at once, and a token's latency is the time "
        "since the one before it",
        f"answers of {problem.answer_tokens} tokens, over which llm spreads its one round trip; "
        "reading the prompt is not counted",
        *_times(problem, given_times),
        *_records(problem, evidence),
        *_threshold(problem, point),
        *_states(problem, point),
        *([f"truncation {point.truncation.rule}"] if point.truncation else []),
        "intervals are 95 %, by a cluster bootstrap over prompts at the threshold shown; that of the throughput holds "
        "times and payload fixed",
        "a bias is a TV distance per token between the law of the output and the LLM's, averaged over positions",
        "compression is the share of vocabulary entries that an upload leaves out [P]",
    ]


def warnings(problem: Problem, evidence: Evidence, point: ModePoint) -> list[str]:
    """What should keep a reader from using the figures as they are."""
    found = []
    if problem.degenerate:
        found.append(_degenerate(problem))
    if not evidence.domain_given and len(evidence.calibration.domains) > 1:
        others = ", ".join(sorted(evidence.calibration.domains))
        found.append(
            f"domain not chosen, {evidence.domain!r} taken (recorded: {others}); "
            "a threshold does not carry over from one domain to another"
        )
    if point.certified is not None and point.certified.warning:
        found.append(point.certified.warning)
    floor = numeric_floor(problem)
    if floor is not None and floor >= problem.budget:
        found.append(
            f"numeric floor {floor:.4f} at or above the budget {problem.budget:g}: one model read in two ways differs "
            "from itself by as much; keep one chunk plan for calibrating and decoding"
        )
    if problem.gate is None:
        found.append(
            f"calibration {evidence.calibration.id!r} has no records: skip rate, truncation, bias and what follows "
            "from them are null"
            + (
                f"; the {problem.policy} policy needs records, use risk-averse or risk-prone"
                if not problem.policy.is_published
                else ""
            )
        )
    if problem.times is None:
        found.append("no compute times: throughput and latency are null; give --slm-time and --llm-time")
    if point.bias is not None and point.bias > problem.budget:
        found.append(f"{point.bias_kind} bias {point.bias:.4f} of {point.mode} exceeds the budget {problem.budget:g}")
    if problem.gate is not None and point.bias is None:
        found.append(f"bias of {point.mode} unknown: {point.law}")
    if (
        problem.gate is not None
        and point.mode.skips
        and point.skip_rate == 0
        and not (problem.degenerate or point.limited_by or problem.late)
    ):
        found.append(f"no threshold keeps a draft within the budget {problem.budget:g}: every token asks")
    dense = dense_bits(problem.calibration.vocab_size, problem.bits)
    if point.payload_bits is not None and point.mode.truncates and not point.speculation and point.payload_bits > dense:
        found.append(
            f"the truncated upload with its indices takes more bits than all of x sent dense ({dense:,.0f}): "
            "u-hlm is better here"
        )
    if problem.gate is not None and not problem.gate.is_exact_at(point.threshold):
        found.append(
            f"figures at this threshold rest on the one recorded draft of each position, "
            f"not on all drafts (signal {problem.signal}, thresholds from {T_LIMIT} below 1)"
        )
    return found


def bias_ledger(problem: Problem, point: ModePoint) -> list[LedgerEntry]:
    """What the distance to the LLM's law is made of, and how well each part is known."""
    query, limit = point.mode is Mode.QUERY, problem.calibration.max_tokens
    skipping = (
        "1/2 sum |s_v x_v - S y_v|, mean over recorded positions"
        if query
        else ("E[s beta], the skip-risk identity, mean over recorded positions")
    )
    exact = problem.gate is None or not point.mode.skips or problem.gate.is_exact_at(point.threshold)
    entries = [
        LedgerEntry(
            term="skipping", value=point.bias_skip, kind="exact" if exact else "estimate", meaning=skipping
        ),
        LedgerEntry(
            term="truncation", value=point.bias_truncation, kind="bound",
            meaning="TV(x, x_hat), mean over recorded positions",
        ),
        LedgerEntry(
            term="quantisation", value=point.bias_quantisation, kind="bound",
            meaning=f"TV(x_hat, decoded x_hat), mean over {_measured(problem)} of them, drawn at random",
        ),
        LedgerEntry(
            term="numeric floor", value=numeric_floor(problem), kind="estimate",
            meaning="TV between the laws of one model read in two ways, beside the others and not added to them",
        ),
    ]  # fmt: skip
    if problem.gate is not None and limit is not None:
        length = problem.gate.records.n_tokens / problem.gate.records.n_prompts
        answer = None if point.bias is None else min(1.0, point.bias * length)
        meaning = f"TV of whole answers of up to {limit} tokens: the sum over their tokens of the first three terms"
        entries.append(LedgerEntry(term="answer", value=answer, kind="bound", meaning=meaning))
    return entries


def numeric_floor(problem: Problem) -> float | None:
    """The larger of the two models' floors."""
    floor = problem.calibration.numeric_floor
    return None if floor is None else max(floor.slm, floor.llm)


def recommend(problem: Problem, points: list[ModePoint]) -> Recommendation:
    """The fastest mode whose exact or bounded bias is within the budget, in one sentence with those it beat.

    `random` is a control and is not recommended; between equals the one that sends less is, and `coarse` stands in for
    a truncated law that is not noticeably faster.
    """
    speeds = {point.mode: throughput(problem, point) for point in points}
    fit = [
        point
        for point in points
        if point.mode is not Mode.RANDOM
        and speeds[point.mode] is not None
        and point.bias_kind != "none"
        and point.bias is not None
        and point.bias <= problem.budget
        and (point.asks is None or not problem.limits.excess(point.asks, point.time))
    ]
    if problem.times is None or not fit:
        return Recommendation(mode=None, reason="no compute times are known, so modes cannot be ranked")
    ranked = sorted(fit, key=lambda point: (-(speeds[point.mode] or 0.0), point.payload_bits or 0.0))
    fastest = ranked[0]
    ranked.sort(key=lambda point: not _stands_in(point, fastest, speeds))
    best = ranked[0]

    def describe(point: ModePoint) -> str:
        return f"{speeds[point.mode]:.4g} tokens/s, {_bias(point)}"

    parts = [f"fastest within the budget {problem.budget:g}: {describe(best)}"]
    if best is not fastest:
        parts[0] = f"as fast within {_TIE:.0%} as {fastest.mode}, with a law no further off: {describe(best)}"
    if best.mode is Mode.COARSE:
        parts[0] += f", {best.payload_bits:.1f} bits an upload, and nothing lost to truncation"
    if len(ranked) > 1:
        parts.append(f"next {ranked[1].mode}: {describe(ranked[1])}")
    if Mode.LLM not in (point.mode for point in ranked[:2]):
        parts.append(f"llm: {speeds[Mode.LLM]:.4g} tokens/s")
    hybrid = next((point for point in ranked if point.mode.skips and point.skip_rate), None)
    if best.mode is Mode.LLM and hybrid is not None:
        parts.append(
            f"a hybrid is slower here, its case is {hybrid.passes:.2f} LLM passes a token "
            f"({hybrid.mode}), privacy, and going on without a network"
        )
    return Recommendation(mode=best.mode, reason="; ".join(parts))


def _stands_in(point: ModePoint, fastest: ModePoint, speeds: dict[Mode, float | None]) -> bool:
    """Whether `coarse` does what a truncated law does, as fast but for `_TIE`, with fewer bits and no more bias."""
    return (
        point.mode is Mode.COARSE
        and fastest.mode in (Mode.CU_HLM_OFFLINE, Mode.CU_HLM_ONLINE, Mode.EXACT)
        and (speeds[point.mode] or 0.0) >= (1 - _TIE) * (speeds[fastest.mode] or 0.0)
        and (point.bias or 0.0) <= (fastest.bias or 0.0)
        and (point.payload_bits or 0.0) <= (fastest.payload_bits or 0.0)
    )


def binding(problem: Problem, point: ModePoint) -> str | None:
    """What keeps the threshold from being larger: the bias budget, the reach of the records, or a published policy."""
    if problem.gate is None or not point.mode.skips or point.mode is Mode.RANDOM:
        return None
    if point.limited_by:
        return point.limited_by[0].removeprefix("--").replace("-", "_")
    if problem.policy.is_published:
        return "policy"
    if problem.policy is Policy.CERTIFIED:
        if point.threshold is not None and point.threshold >= threshold_grid()[-2]:
            return None if point.threshold >= 1 else "records"
        return "max_bias"
    levels = problem.gate.curve.levels
    if point.threshold is not None and point.threshold >= levels[-1]:
        return None
    beyond = problem.signal is Signal.U_BAR and len(levels) > 1 and point.threshold == levels[-2]
    return "records" if beyond else "max_bias"


def infeasible_theta(problem: Problem, theta: float, bias: float) -> str:
    """Why a given tolerance leaves nothing to solve, and what to relax."""
    return (
        f"--theta {theta!r} lets truncation add {bias:.4f}, above --max-bias "
        f"{problem.budget!r}; lower --theta to {problem.budget!r}, or raise --max-bias"
    )


def infeasible_limits(problem: Problem, point: ModePoint, relaxed: list[tuple[str, str]]) -> str:
    """Which limits are not reached, and to what they would have to give."""
    names = ", ".join(limit for limit, _ in relaxed)
    wanted = ", ".join(phrase for _, phrase in relaxed)
    given = "is not reached" if len(relaxed) == 1 else "are not reached together"
    return (
        f"{names} {given} by {point.mode}, which skips {point.skip_rate or 0.0:.4f} within --max-bias "
        f"{problem.budget!r} by policy {problem.policy}; relax {wanted}, or raise --max-bias"
    )


def _measured(problem: Problem) -> int:
    """Positions at which the records hold what rounding does."""
    return 0 if problem.gate is None else len(problem.gate.records.tv_quantised)


def _bias(point: ModePoint) -> str:
    if not point.bias:
        return "no bias"
    return f"{'bias' if point.bias_kind == 'exact' else 'bias at most'} {point.bias:.4f}"


def _formats(problem: Problem, point: ModePoint) -> list[str]:
    if problem.law_format is Format.PUBLISHED:
        laws = "laws are sent with an index for each entry [P2]"
    else:
        laws = "laws are sent as a set of ids and the masses in their order [N], all of x without ids"
    used = (
        "" if point.b_prob is None else f"; {point.mode}: {point.b_prob} bits a probability, {point.quantiser} levels"
    )
    return [
        f"{laws}, coarse messages with an index for each entry{used}",
        "the server verifies with what it decodes: in hlm, random, u-hlm and cu-hlm-* rounding is part of the bias, "
        "exact, coarse and speculative draw their drafts from the decoded law",
    ]


def _accounting(problem: Problem) -> str:
    if problem.accounting is Accounting.MEAN_LATENCY:
        return "throughput is 1 / E[latency of a token], in every row"
    return "throughput is E[1 / latency of a token], at least 1 / E[latency], in every row"


def _times(problem: Problem, given: tuple[str, ...]) -> list[str]:
    times: Times | None = problem.times
    if times is None:
        return []
    passes = ", ".join(f"{n}: {format_si(seconds, 's')}" for n, seconds in sorted(times.llm_pass_s.items()))
    source = "measured with the calibration" if problem.calibration.times else "as given"
    override = f"; given: {', '.join(given)}" if given and problem.calibration.times else ""
    return [
        f"compute times {source}{override}: SLM step {format_si(times.slm_s, 's')}, "
        f"gate {format_si(times.gate_s, 's')}, LLM pass over n tokens {passes}"
    ]


def _records(problem: Problem, evidence: Evidence) -> list[str]:
    calibration = problem.calibration
    if problem.gate is None:
        return ["temperature and top-p are not part of a published model and stand at 1"]
    records = problem.gate.records
    source = str(calibration.provenance.get("source", "llm"))
    return [
        f"records: {records.n_tokens} positions of {records.n_prompts} prompts, domain {evidence.domain!r}, "
        f"temperature {_given_or_1(calibration.temperature)}, top-p {_given_or_1(calibration.top_p)}, "
        f"contexts {_CONTEXTS.get(source, source)}",
        *_signal(problem.gate),
        *_sampled(problem.gate),
    ]


def _signal(gate: Gate) -> list[str]:
    """What a signal that was not read from the logits of these records rests on."""
    if gate.signal is Signal.COMBINED:
        return ["signal combined was learned on every other prompt of the domain; all figures rest on the others"]
    if gate.signal.samples is not None:
        return [
            f"signal {gate.signal} was drawn given u_bar, which is its law for independent uniform temperatures [N]"
        ]
    return []


def _sampled(gate: Gate) -> list[str]:
    """What was taken from some of the prompts only."""
    if gate.some is gate:
        return []
    return [
        f"truncations were ranked, and runs and rounds counted, on {gate.some.records.n_prompts} of the prompts; "
        "thresholds, skip rates and biases are of all"
    ]


def _states(problem: Problem, point: ModePoint) -> list[str]:
    """What thresholds that follow the channel rest on."""
    if not problem.adaptive:
        return []
    if not point.rule:
        return ["the thresholds do not follow the channel: nothing of it is known before sending, or the mode has none"]
    seen = "; ".join(state.seen for state in channel_states(problem.link.uplink))
    return [
        f"thresholds follow the channel by E[beta | u] <= mu L(h) [N]; states, independent from token to token: {seen}"
    ]


def _threshold(problem: Problem, point: ModePoint) -> list[str]:
    certified = point.certified
    if certified is not None:
        shared = (
            ""
            if certified.eps == problem.budget
            else f"; it was taken for the {certified.eps:g} that truncation and rounding leave, a split chosen on the "
            "same records, whose part is a plug-in"
        )
        return [
            f"threshold certified by {certified.method} from {certified.n_prompts} prompts: {certified.claim}{shared}",
            "the loss is the skip risk summed over an answer's tokens, over the mean length",
            *certified.assumptions,
        ]
    if problem.policy is Policy.CERTIFIED:
        return []
    if problem.policy.is_published:
        return [
            f"threshold from the line E[beta | u] = {problem.line.a:.4g} u {problem.line.b:+.4g} "
            f"of signal {problem.signal} by the {problem.policy} formula [P2]"
        ]
    if problem.gate is None:
        return []
    averaged = "averaged over all drafts" if problem.signal is Signal.U_BAR else "from the one recorded draft"
    return [
        f"each mode's threshold is the largest recorded level of {problem.signal} whose bias, {averaged}, is within "
        "the budget: a plug-in estimate without a certificate; beside a truncation bound the budget is shared so that "
        "throughput is largest"
    ]


def _degenerate(problem: Problem) -> str:
    line, computed = problem.line, problem.computed_threshold
    if problem.policy is Policy.RISK_AVERSE:
        formula, numbers = "-b/a", f"-({line.b:.4g})/{line.a:.4g}"
    else:
        delta = problem.fit.delta.value
        known = "unknown" if delta is None else f"{delta:.4g}"
        formula, numbers = "(Delta - b)/a", f"({known} - ({line.b:.4g}))/{line.a:.4g}"
    outcome = "has no value" if computed is None else f"= {computed:.4f} leaves [0, 1]"
    return (
        f"degenerate: the {problem.policy} threshold {formula} = {numbers} {outcome}; it is not used, every token asks"
    )


def _given_or_1(value: float | None) -> str:
    return "1, assumed" if value is None else f"{value:g}"
