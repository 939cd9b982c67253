"""An operating point in words and in the cells of a table, the same on the terminal and on a page."""

from cuhlm_opt.artefacts import AnswerLatency, ChannelSettings, ModeRow, OperatingPoint
from cuhlm_opt.modes import Drafting, Mode
from cuhlm_opt.units import format_si

MODE_COLUMNS = ("tokens/s", "bits/upload", "skip", "passes", "u_th", "k", "bias")
"""What `mode_cells` gives of each mode. ± is half of a 95 % interval over prompts."""
_RELATION = {"exact": "=", "bound": "≤", "none": "?"}
"""What is known of a bias."""


def link_words(link: ChannelSettings) -> str:
    """The uplink by its name and size."""
    if link.bandwidth_hz is None:
        return f"trace {link.trace}"
    kind = "" if link.kind == "awgn" else f", {link.kind}" + (f" {link.coding}" if link.coding else "")
    return f"{format_si(link.bandwidth_hz, 'Hz')} at {link.snr_db:g} dB{kind}"


def plain_words(point: OperatingPoint) -> list[str]:
    """What the point does, what that brings and what it costs, a sentence or two each."""
    return [sentence for sentence in (_work(point), _speed(point), _fidelity(point)) if sentence]


def _work(point: OperatingPoint) -> str:
    match point.mode:
        case Mode.SLM:
            return "The device answers alone and sends nothing."
        case Mode.LLM:
            return "The server answers alone and streams its tokens; the device's model is not used."
        case Mode.SPECULATIVE:
            limit = "" if point.drafting is Drafting.FIXED else f", as long as {point.signal} ≤ {point.u_threshold}"
            return (
                f"The device drafts up to {point.draft_length} tokens{limit}, and sends {_bits(point.payload_bits)} "
                "bits with them. The LLM tests all of them in one pass; the text goes on behind the first that fails."
            )
    asks = (
        f"the device uploads {_bits(point.payload_bits)} bits ({_seconds(point.uplink_s)}), and the LLM accepts the "
        "draft or draws another token"
    )
    if point.mode is Mode.QUERY:
        asks = "the LLM draws the token itself"
    if not point.skip_rate:
        return f"At every token {asks}." if point.skip_rate == 0 else ""
    kept = (
        ""
        if point.u_threshold is None
        else f", those whose uncertainty {point.signal} is at most {point.u_threshold:g}"
    )
    if point.state_thresholds:
        kept = f", those whose uncertainty {point.signal} is within a threshold that follows the channel"
    return (
        f"The device keeps its own draft and sends nothing for {point.skip_rate:.1%} of the tokens{kept}. "
        f"For the other {1 - point.skip_rate:.1%} {asks}."
    )


def _speed(point: OperatingPoint) -> str:
    speed = point.throughput_tokens_per_s
    if speed is None:
        return ""
    others = {row.mode: row.throughput_tokens_per_s for row in point.baselines if row.mode is not point.mode}
    beside = [
        f"{speed / other:.3g} times {name}"
        for name, other in (
            ("the LLM alone", others.get(Mode.LLM)),
            ("HLM, which uploads at every token", others.get(Mode.HLM)),
        )
        if other
    ]
    return f"That makes {speed:.3g} tokens per second{': ' if beside else ''}{', '.join(beside)}."


def _fidelity(point: OperatingPoint) -> str:
    row = next(row for row in point.baselines if row.mode is point.mode)
    if row.bias is None or row.bias_kind == "none":
        return "How far the text is from the LLM's cannot be told from this calibration."
    if row.bias == 0:
        return "The text has exactly the law of the LLM's own."
    most = "at most " if row.bias_kind == "bound" else ""
    over = ", which this exceeds" if row.bias > point.bias_budget else ""
    certificate = "" if point.certificate is None else f" Certified: {point.certificate.assumptions[0]}."
    return (
        f"In return a token's law is on average {most}{row.bias:.4f} away from the LLM's, in total variation (0: the "
        f"same, 1: nothing in common); the budget is {point.bias_budget:g}{over}.{certificate}"
    )


def facts(point: OperatingPoint) -> list[tuple[str, str]]:
    """The operating point, a line each."""
    kind = next(row.bias_kind for row in point.baselines if row.mode is point.mode)
    equals = "at most " if kind == "bound" else ""
    certificate = point.certificate
    promised = (
        []
        if certificate is None
        else [("certificate", f"{certificate.method}, {certificate.n_prompts} prompts: {certificate.assumptions[0]}")]
    )
    return [
        ("threshold", _threshold(point) + ("" if point.drafting else f"; policy {point.policy}")),
        *promised,
        *_rounds(point),
        ("skip rate", f"{_number(point.skip_rate)}{_span(point.skip_rate_ci)}"),
        ("upload", f"{_entries(point)}{_bits(point.payload_bits)} bits, {_seconds(point.uplink_s)}"),
        (
            "bias",
            f"{equals}{_bias(point.bias_total)}{_span(point.bias_total_ci)}: skipping {_bias(point.bias_skip)}"
            f"{_span(point.bias_skip_ci)}, truncation {_bias(point.bias_truncation)}, quantisation "
            f"{_bias(point.bias_quantisation)}; budget {point.bias_budget:g}, "
            f"numeric floor {_bias(point.numeric_floor)}",
        ),
        ("latency", f"{_latencies(point)} a token{_answer(point)}"),
        (
            "throughput",
            f"{_number(point.throughput_tokens_per_s)} tokens/s{_span(point.throughput_ci)}; "
            f"{_number(point.speedup_vs_hlm)} x HLM sending dense laws, "
            f"{_number(point.speedup_vs_hlm_published)} x in the published format",
        ),
        *_worth(point),
    ]


def _latencies(law: OperatingPoint | AnswerLatency) -> str:
    names = ("mean_s", "p50_s", "p95_s", "p99_s")
    if isinstance(law, OperatingPoint):
        names = ("latency_s", "latency_p50_s", "latency_p95_s", "latency_p99_s")
    mean, *quantiles = (_seconds(getattr(law, name)) for name in names)
    return f"{mean} (50, 95, 99 %: {', '.join(quantiles)})"


def _answer(point: OperatingPoint) -> str:
    law = point.answer_latency
    return "" if law is None else f", {_latencies(law)} an answer of {point.answer_tokens} tokens"


def _span(interval: tuple[float, float] | None) -> str:
    """A 95 % interval over prompts."""
    return "" if interval is None else f" ({interval[0]:.4g} to {interval[1]:.4g})"


def _threshold(point: OperatingPoint) -> str:
    computed = point.u_threshold_computed
    if point.status == "degenerate":
        given = "no value" if computed is None else f"{computed:.4f}"
        return f"{point.policy} gives {given}, degenerate and not used: every token asks"
    if point.state_thresholds:
        found = [state.u_threshold for state in point.state_thresholds]
        return f"keep the draft when {point.signal} <= " + ", ".join("-" if t is None else f"{t:.4f}" for t in found)
    if point.u_threshold is not None and point.drafting is not None:
        return f"draft on while {point.signal} <= {point.u_threshold:.4f}, every draft is tested"
    if point.u_threshold is not None:
        return f"keep the draft when {point.signal} <= {point.u_threshold:.4f}"
    return "unknown" if point.skip_rate is None else "none in use"


def _rounds(point: OperatingPoint) -> list[tuple[str, str]]:
    """What a round is, where it has several drafts."""
    if point.drafting is None:
        return []
    limit = "up to " if point.drafting == "triggered" else ""
    return [("rounds", f"{limit}{point.draft_length} drafts, {point.drafting}, {point.pending_data} data of each")]


def _entries(point: OperatingPoint) -> str:
    if point.k is not None:
        return f"k = {point.k}, "
    return "" if point.k_mean is None else f"k = {point.k_mean:.1f} on average, "


def _worth(point: OperatingPoint) -> list[tuple[str, str]]:
    """What a little more would bring."""
    worth = point.marginal_worth
    if worth is None:
        return []
    parts = [
        f"{value * scale:+.3g} tokens/s {unit}"
        for value, scale, unit in (
            (worth.per_bias, 1e-3, "for 0.001 of bias"),
            (worth.per_hz, 1e6, "for 1 MHz"),
            (worth.per_db, 1.0, "for 1 dB"),
        )
        if value is not None
    ]
    binding = "" if point.binding is None else f"; binding: {point.binding}"
    return [("worth", ", ".join(parts) + binding)]


def mode_cells(row: ModeRow) -> tuple[str, ...]:
    """One mode under `MODE_COLUMNS`."""
    return (
        f"{_number(row.throughput_tokens_per_s)}{_half(row.throughput_ci, 2)}",
        _bits(row.payload_bits),
        "-" if row.skip_rate is None else f"{row.skip_rate:.1%}{_half(row.skip_rate_ci, 1, 100)}",
        "-" if row.server_passes_per_token is None else f"{row.server_passes_per_token:.2f}",
        _bias(row.u_threshold),
        "-" if row.k is None else f"{row.draft_length} x {row.k}" if row.drafting else str(row.k),
        "unknown" if row.bias is None else f"{_RELATION[row.bias_kind]} {row.bias:.4f}{_half(row.bias_ci, 4)}",
    )


def _half(interval: tuple[float, float] | None, digits: int, scale: float = 1) -> str:
    """Half the width of a 95 % interval over prompts, where it has one."""
    if interval is None or interval[0] == interval[1]:
        return ""
    return f" ±{scale * (interval[1] - interval[0]) / 2:.{digits}f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _bias(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _bits(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else format_si(value, "s")
