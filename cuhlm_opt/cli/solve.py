"""`cuhlm-opt solve`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cuhlm_opt.channel import BLOCK_ERROR
from cuhlm_opt.cli import channel_options as options
from cuhlm_opt.fading import NAKAGAMI_M, RICIAN_K
from cuhlm_opt.units import format_si, parse_rate_bps, parse_time_s

if TYPE_CHECKING:
    from rich.console import Console

    from cuhlm_opt.artefacts import AnswerLatency, ChannelSettings, ModeRow, OperatingPoint

_WIDTH = 100


def solve(
    bandwidth: options.Bandwidth = None,
    snr: options.Snr = "10dB",
    rtt: options.Rtt = "0ms",
    downlink: options.Downlink = "0ms",
    channel: options.Channel = "awgn",
    coding: options.Coding = None,
    fixed_rate: options.FixedRate = None,
    rician_k: options.RicianK = RICIAN_K,
    nakagami_m: options.NakagamiM = NAKAGAMI_M,
    block_error: options.BlockError = BLOCK_ERROR,
    trace: options.Trace = None,
    overhead: options.Overhead = "0b",
    domain: Annotated[str | None, typer.Option(help="Domain of the records, such as code or general.")] = None,
    max_bias: Annotated[float, typer.Option(help="Largest TV per token against the LLM's law.")] = 0.02,
    policy: Annotated[
        str, typer.Option(help="Threshold: certified, budget (plug-in), risk-averse, risk-prone (published).")
    ] = "certified",
    delta: Annotated[
        float | None, typer.Option(help="Certified: probability that the guarantee may fail; none: in expectation.")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="What each point is best at: throughput, latency-p95, bits, passes.")
    ] = "throughput",
    max_latency_p95: Annotated[
        str | None, typer.Option(help="Largest 95th percentile of a token's latency; exit 3 where it is not reached.")
    ] = None,
    max_uplink: Annotated[str | None, typer.Option(help="Largest mean uplink rate, such as 50kbps; likewise.")] = None,
    max_passes: Annotated[float | None, typer.Option(help="Most LLM passes per token; likewise.")] = None,
    min_skip: Annotated[float | None, typer.Option(help="Least skip rate; likewise.")] = None,
    mode: Annotated[
        str,
        typer.Option(
            help="slm, llm, query, hlm, random, u-hlm, cu-hlm-offline, cu-hlm-online (truncation for all positions "
            "or for each), exact, coarse, speculative (several drafts a round)."
        ),
    ] = "cu-hlm-offline",
    signal: Annotated[str | None, typer.Option(help="u_bar (integral) or u_mc (sampled).")] = None,
    distortion: Annotated[str, typer.Option(help="What sets k: bound (proved) or surrogate (published).")] = "bound",
    theta: Annotated[
        float | None, typer.Option(help="Truncation tolerance; by default what the budget leaves.")
    ] = None,
    b_prob: Annotated[
        int | None, typer.Option(help="Bits of a probability, 2 to 16; none: chosen for cu-hlm-*, 8 elsewhere.")
    ] = None,
    quantiser: Annotated[
        str | None, typer.Option(help="Values of a probability: uniform, log, cube, types; none: least measured bias.")
    ] = None,
    law_format: Annotated[
        str, typer.Option("--format", help="Laws: compact, published (an index for each entry), dense (all of x).")
    ] = "compact",
    accounting: Annotated[str, typer.Option(help="Throughput: mean-latency or mean-rate.")] = "mean-latency",
    calibration: Annotated[str, typer.Option(help="Shipped calibration, or folder of one.")] = "qwen2.5-coder",
    adaptive: options.Adaptive = False,
    pipelining: options.Pipelined = "none",
    answer_tokens: Annotated[int, typer.Option(help="Length of an answer.")] = 128,
    slm_time: Annotated[str | None, typer.Option(help="SLM step, instead of what was measured.")] = None,
    gate_time: Annotated[str | None, typer.Option(help="Gate, instead of what was measured.")] = None,
    llm_time: Annotated[str | None, typer.Option(help="LLM pass over one token, instead of what was measured.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the operating point, for `decode`.")] = None,
    draft_length: Annotated[
        int | None, typer.Option(help="Speculative: drafts of a round, or the most of them; none: chosen.")
    ] = None,
    drafting: Annotated[str | None, typer.Option(help="Speculative: fixed or triggered; none: chosen.")] = None,
    pending: Annotated[
        str, typer.Option(help="Speculative: roll-back (test all, exact) or keep (as coarse and exact do).")
    ] = "roll-back",
    pending_data: Annotated[
        str | None, typer.Option(help="Speculative: truncated or coarse data of each draft; none: chosen.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the operating point as JSON on stdout.")] = False,
) -> None:
    """Choose the threshold and the truncation for a link, and compare every mode on it."""
    link = options.link_arguments(bandwidth, snr, rtt, downlink, overhead)
    slm_s, gate_s, llm_s = (
        None if text is None else parse_time_s(text, name)
        for text, name in ((slm_time, "--slm-time"), (gate_time, "--gate-time"), (llm_time, "--llm-time"))
    )
    from cuhlm_opt.solve import solve as solve_point

    point = solve_point(
        calibration,
        **link,
        channel=channel,
        coding=coding,
        fixed_rate=fixed_rate,
        rician_k=rician_k,
        nakagami_m=nakagami_m,
        block_error=block_error,
        trace=trace,
        domain=domain,
        max_bias=max_bias,
        policy=policy,
        delta=delta,
        objective=objective,
        max_latency_p95_s=None if max_latency_p95 is None else parse_time_s(max_latency_p95, "--max-latency-p95"),
        max_uplink_bps=None if max_uplink is None else parse_rate_bps(max_uplink, "--max-uplink"),
        max_passes=max_passes,
        min_skip=min_skip,
        mode=mode,
        signal=signal,
        distortion=distortion,
        theta=theta,
        b_prob=b_prob,
        quantiser=quantiser,
        law_format=law_format,
        accounting=accounting,
        adaptive=adaptive,
        pipelining=pipelining,
        answer_tokens=answer_tokens,
        slm_s=slm_s,
        gate_s=gate_s,
        llm_s=llm_s,
        draft_length=draft_length,
        drafting=drafting,
        pending=pending,
        pending_data=pending_data,
    )
    if out is not None:
        point.write(out)
    if json:
        print(point.model_dump_json(indent=2))
    else:
        _show(point, out)


def _show(point: "OperatingPoint", out: Path | None) -> None:
    """The point in plain lines, the table of modes, what to beware of, what was assumed."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=_WIDTH)
    console.print(
        f"{point.mode} on {_channel(point.channel)}, "
        f"calibration {point.calibration.id}, domain {point.domain}: {point.status}"
    )
    _print_lines(console, _facts(point))
    _print_modes(console, point)
    _print_lines(console, [("recommended", f"{point.recommended.mode or 'none'}: {point.recommended.reason}")])
    _print_lines(console, [("warning", line) for line in point.warnings])
    _print_lines(console, [("assumed", line) for line in point.assumptions])
    if out is not None:
        console.print(f"written to {out}")


def _channel(link: "ChannelSettings") -> str:
    if link.bandwidth_hz is None:
        return f"trace {link.trace}"
    kind = "" if link.kind == "awgn" else f", {link.kind}" + (f" {link.coding}" if link.coding else "")
    return f"{format_si(link.bandwidth_hz, 'Hz')} at {link.snr_db:g} dB{kind}"


def _print_lines(console: "Console", lines: list[tuple[str, str]]) -> None:
    """Labels in one column, text wrapped in another."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=len("recommended"), no_wrap=True)
    for label, text in lines:
        grid.add_row(label, text)
    console.print(grid)


def _facts(point: "OperatingPoint") -> list[tuple[str, str]]:
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


def _latencies(law: "OperatingPoint | AnswerLatency") -> str:
    names = ("latency_s", "latency_p50_s", "latency_p95_s", "latency_p99_s")
    if law.__class__.__name__ == "AnswerLatency":
        names = ("mean_s", "p50_s", "p95_s", "p99_s")
    mean, *quantiles = (_seconds(getattr(law, name)) for name in names)
    return f"{mean} (50, 95, 99 %: {', '.join(quantiles)})"


def _answer(point: "OperatingPoint") -> str:
    law = point.answer_latency
    return "" if law is None else f", {_latencies(law)} an answer of {point.answer_tokens} tokens"


def _span(interval: tuple[float, float] | None) -> str:
    """A 95 % interval over prompts."""
    return "" if interval is None else f" ({interval[0]:.4g} to {interval[1]:.4g})"


def _threshold(point: "OperatingPoint") -> str:
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


def _rounds(point: "OperatingPoint") -> list[tuple[str, str]]:
    """What a round is, where it has several drafts."""
    if point.drafting is None:
        return []
    limit = "up to " if point.drafting == "triggered" else ""
    return [("rounds", f"{limit}{point.draft_length} drafts, {point.drafting}, {point.pending_data} data of each")]


def _entries(point: "OperatingPoint") -> str:
    if point.k is not None:
        return f"k = {point.k}, "
    return "" if point.k_mean is None else f"k = {point.k_mean:.1f} on average, "


def _print_modes(console: "Console", point: "OperatingPoint") -> None:
    """Every mode on this link; the chosen one is marked. ± is half of a 95 % interval over prompts."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for title in ("mode", "tokens/s", "bits/upload", "skip", "passes", "u_th", "k", "bias"):
        table.add_column(title, justify="left" if title in ("mode", "bias") else "right", no_wrap=True)
    for row in point.baselines:
        marker = "* " if row.mode is point.mode else "  "
        table.add_row(marker + row.mode, *_cells(row))
    console.print(table)


def _worth(point: "OperatingPoint") -> list[tuple[str, str]]:
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


def _cells(row: "ModeRow") -> tuple[str, ...]:
    return (
        f"{_number(row.throughput_tokens_per_s)}{_half(row.throughput_ci, 2)}",
        _bits(row.payload_bits),
        "-" if row.skip_rate is None else f"{row.skip_rate:.1%}{_half(row.skip_rate_ci, 1, 100)}",
        "-" if row.server_passes_per_token is None else f"{row.server_passes_per_token:.2f}",
        _bias(row.u_threshold),
        "-" if row.k is None else f"{row.draft_length} x {row.k}" if row.drafting else str(row.k),
        "unknown" if row.bias is None else f"{_RELATION[row.bias_kind]} {row.bias:.4f}{_half(row.bias_ci, 4)}",
    )


_RELATION = {"exact": "=", "bound": "≤", "none": "?"}
"""What is known of a bias."""


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
