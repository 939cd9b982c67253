"""`cuhlm-opt report`."""

import json as json_format
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cuhlm_opt.channel import BLOCK_ERROR
from cuhlm_opt.cli import channel_options
from cuhlm_opt.cli.progress import PointProgress, note
from cuhlm_opt.errors import InputError
from cuhlm_opt.fading import NAKAGAMI_M, RICIAN_K
from cuhlm_opt.units import parse_bandwidth_hz, parse_fraction, parse_snr_db

if TYPE_CHECKING:
    from cuhlm_opt.solve.options import Options

_MOST = 5000
_AXIS = "Values to explore: a list a,b,c, or a range as in sweep; none: {}."


def report(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Page to write, .html.")],
    bandwidth: Annotated[str | None, typer.Option(help="Uplink bandwidth; none: 10MHz, or what a trace has.")] = None,
    snr: channel_options.Snr = "10dB",
    rtt: channel_options.Rtt = "0ms",
    downlink: channel_options.Downlink = "0ms",
    channel: channel_options.Channel = "awgn",
    coding: channel_options.Coding = None,
    fixed_rate: channel_options.FixedRate = None,
    rician_k: channel_options.RicianK = RICIAN_K,
    nakagami_m: channel_options.NakagamiM = NAKAGAMI_M,
    block_error: channel_options.BlockError = BLOCK_ERROR,
    trace: channel_options.Trace = None,
    overhead: channel_options.Overhead = "0b",
    domain: Annotated[str | None, typer.Option(help="Domain of the records.")] = None,
    max_bias: Annotated[float, typer.Option(help="As in solve.")] = 0.02,
    policy: Annotated[str, typer.Option(help="As in solve.")] = "certified",
    mode: Annotated[str | None, typer.Option(help="As in solve; none: the one to run on this link.")] = None,
    law_format: Annotated[str, typer.Option("--format", help="As in solve.")] = "compact",
    accounting: Annotated[str, typer.Option(help="As in solve.")] = "mean-latency",
    adaptive: channel_options.Adaptive = False,
    pipelining: channel_options.Pipelined = "none",
    answer_tokens: Annotated[int, typer.Option(help="Length of an answer.")] = 128,
    calibration: Annotated[str, typer.Option(help="Shipped calibration, or folder of one.")] = "qwen2.5-coder",
    bandwidths: Annotated[str | None, typer.Option(help=_AXIS.format("100kHz to 100MHz"))] = None,
    snrs: Annotated[str | None, typer.Option(help=_AXIS.format("-10dB to 30dB"))] = None,
    budgets: Annotated[str | None, typer.Option(help=_AXIS.format("0.005 to 0.1"))] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; none: one a core.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Write one self-contained page: the operating point in words, all modes, figures, and a grid to explore."""
    from cuhlm_opt.report.explorer import BANDWIDTHS, BUDGETS, SNRS, Axes
    from cuhlm_opt.report.making import make_report, solve_point
    from cuhlm_opt.sweep import parse_axis

    if out.suffix != ".html":
        raise InputError(f"--out {str(out)!r} is not allowed; give a file that ends in .html")
    if bandwidth is None and trace is None:
        bandwidth = "10MHz"
    link = channel_options.link_arguments(bandwidth, snr, rtt, downlink, overhead)
    asked: Options = {
        "bandwidth_hz": link["bandwidth_hz"],
        "snr_db": link["snr_db"],
        "rtt_s": link["rtt_s"],
        "downlink_s": link["downlink_s"],
        "overhead_bits": link["overhead_bits"],
        "channel": channel,
        "coding": coding,
        "fixed_rate": fixed_rate,
        "rician_k": rician_k,
        "nakagami_m": nakagami_m,
        "block_error": block_error,
        "trace": trace,
        "domain": domain,
        "max_bias": max_bias,
        "policy": policy,
        "law_format": law_format,
        "accounting": accounting,
        "adaptive": adaptive,
        "pipelining": pipelining,
        "answer_tokens": answer_tokens,
    }
    if mode is not None:
        asked["mode"] = mode
    if trace is not None and (bandwidths is not None or snrs is not None):
        raise InputError("--bandwidths and --snrs do not go with --channel trace: the trace has the rates")
    wanted = Axes(
        bandwidth_hz=parse_axis(bandwidths or BANDWIDTHS, "--bandwidths", parse_bandwidth_hz),
        snr_db=parse_axis(snrs or SNRS, "--snrs", parse_snr_db),
        max_bias=parse_axis(budgets or BUDGETS, "--budgets", parse_fraction),
    )
    if wanted.size > _MOST:
        raise InputError(
            f"--bandwidths, --snrs and --budgets make {wanted.size:,} points; a page holds {_MOST:,} at most"
        )
    point = solve_point(calibration, asked)
    axes = wanted.around(point)
    with PointProgress(axes.size) as progress:
        made = make_report(
            calibration, asked, point, axes, out, command=_command(context), workers=workers, solved=progress,
            drawing=lambda name: note(f"drawing {name}"),
        )  # fmt: skip
    if json:
        found = {
            "out": str(out),
            "mode": point.mode,
            "explored_points": axes.size,
            "figures": [figure.name for figure in made.figures],
            "not_drawn": made.left_out,
        }
        print(json_format.dumps(found, indent=2))
        return
    print(f"{out}: {point.mode}, {axes.size} points to explore, {len(made.figures)} figures; open it in a browser")
    if made.left_out:
        note(f"not drawn, the page says why: {', '.join(made.left_out)}")


def _command(context: typer.Context) -> str:
    """The command that was given, but for options that only say how it is run."""
    words = ["cuhlm-opt", "report"]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in ("json", "workers"):
            value = context.params[name]
            words += [parameter.opts[0]] if value is True else [parameter.opts[0], str(value)]
    return shlex.join(words)
