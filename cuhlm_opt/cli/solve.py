"""`cuhlm-opt solve`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cuhlm_opt.channel import BLOCK_ERROR
from cuhlm_opt.cli import channel_options as options
from cuhlm_opt.fading import NAKAGAMI_M, RICIAN_K
from cuhlm_opt.units import parse_rate_bps, parse_time_s

if TYPE_CHECKING:
    from rich.console import Console

    from cuhlm_opt.artefacts import OperatingPoint

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
    pair: Annotated[
        str | None, typer.Option(help="Pair it is meant for: warns where the calibration's differs.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Likewise: llama.cpp or transformers.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Likewise: sampling temperature.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Likewise: nucleus mass.")] = None,
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
    signal: Annotated[
        str | None,
        typer.Option(help="u_bar (integral), u_mc, u_mc_5, u_mc_100 (sampled), x_d, p_max, margin, entropy, combined."),
    ] = None,
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
        pair=pair,
        backend=backend,
        temperature=temperature,
        top_p=top_p,
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

    from cuhlm_opt.wording import facts, link_words

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=_WIDTH)
    console.print(
        f"{point.mode} on {link_words(point.channel)}, "
        f"calibration {point.calibration.id}, domain {point.domain}: {point.status}"
    )
    _print_lines(console, facts(point))
    _print_modes(console, point)
    _print_lines(console, [("recommended", f"{point.recommended.mode or 'none'}: {point.recommended.reason}")])
    _print_lines(console, [("warning", line) for line in point.warnings])
    _print_lines(console, [("assumed", line) for line in point.assumptions])
    if out is not None:
        console.print(f"written to {out}")


def _print_lines(console: "Console", lines: list[tuple[str, str]]) -> None:
    """Labels in one column, text wrapped in another."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=len("recommended"), no_wrap=True)
    for label, text in lines:
        grid.add_row(label, text)
    console.print(grid)


def _print_modes(console: "Console", point: "OperatingPoint") -> None:
    """Every mode on this link; the chosen one is marked. ± is half of a 95 % interval over prompts."""
    from rich import box
    from rich.table import Table

    from cuhlm_opt.wording import MODE_COLUMNS, mode_cells

    table = Table(box=box.SIMPLE, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for title in ("mode", *MODE_COLUMNS):
        table.add_column(title, justify="left" if title in ("mode", "bias") else "right", no_wrap=True)
    for row in point.baselines:
        marker = "* " if row.mode is point.mode else "  "
        table.add_row(marker + row.mode, *mode_cells(row))
    console.print(table)
