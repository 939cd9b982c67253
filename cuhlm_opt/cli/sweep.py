"""`cuhlm-opt sweep`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cuhlm_opt.channel import BLOCK_ERROR
from cuhlm_opt.cli import channel_options as options
from cuhlm_opt.cli.progress import PointProgress
from cuhlm_opt.errors import InputError
from cuhlm_opt.fading import NAKAGAMI_M, RICIAN_K
from cuhlm_opt.units import parse_bandwidth_hz, parse_bits, parse_fraction, parse_snr_db, parse_time_s

if TYPE_CHECKING:
    from cuhlm_opt.solve.options import Options

_MANY = 100_000


def sweep(
    out: Annotated[Path, typer.Option(help="Table to write, .csv or .parquet.")],
    bandwidth: Annotated[
        str | None, typer.Option(help="Value, list a,b,c, or range a:b:step, a:b:lin:n, a:b:log:n; none with a trace.")
    ] = None,
    snr: Annotated[str, typer.Option(help="Likewise; begin with --snr= where it is negative.")] = "10dB",
    rtt: Annotated[str, typer.Option(help="Likewise.")] = "0ms",
    max_bias: Annotated[str, typer.Option(help="Likewise.")] = "0.02",
    downlink: options.Downlink = "0ms",
    channel: options.Channel = "awgn",
    coding: options.Coding = None,
    fixed_rate: options.FixedRate = None,
    rician_k: options.RicianK = RICIAN_K,
    nakagami_m: options.NakagamiM = NAKAGAMI_M,
    block_error: options.BlockError = BLOCK_ERROR,
    trace: options.Trace = None,
    overhead: options.Overhead = "0b",
    domain: Annotated[str | None, typer.Option(help="Domain of the records.")] = None,
    policy: Annotated[str, typer.Option(help="As in solve.")] = "certified",
    law_format: Annotated[str, typer.Option("--format", help="As in solve.")] = "compact",
    accounting: Annotated[str, typer.Option(help="As in solve.")] = "mean-latency",
    adaptive: options.Adaptive = False,
    pipelining: options.Pipelined = "none",
    calibration: Annotated[str, typer.Option(help="Shipped calibration, or folder of one.")] = "qwen2.5-coder",
    answer_tokens: Annotated[int, typer.Option(help="Length of an answer.")] = 128,
    workers: Annotated[int | None, typer.Option(help="Processes; none: one a core.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with what an interrupted sweep left.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help=f"Solve more than {_MANY:,} points.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on stdout.")] = False,
) -> None:
    """Solve many links and budgets, every mode at its own point, into one table."""
    from cuhlm_opt.sweep import Sweep, parse_axis
    from cuhlm_opt.sweep import sweep as run

    axes = {
        "bandwidth_hz": (None,) if bandwidth is None else parse_axis(bandwidth, "--bandwidth", parse_bandwidth_hz),
        "snr_db": parse_axis(snr, "--snr", parse_snr_db),
        "rtt_s": parse_axis(rtt, "--rtt", parse_time_s),
        "max_bias": parse_axis(max_bias, "--max-bias", parse_fraction),
    }
    if trace is not None and (bandwidth is not None or len(axes["snr_db"]) > 1):
        raise InputError("--bandwidth and ranges of --snr do not go with --channel trace: the trace has the rates")
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers!r} is not allowed; give a whole number from 1")
    total = math.prod(len(values) for values in axes.values())
    if total > _MANY and not yes:
        raise InputError(f"{total:,} points would be solved; add --yes to mean it, or sweep {_MANY:,} at most")
    fixed: Options = {
        "downlink_s": parse_time_s(downlink, "--downlink"),
        "overhead_bits": parse_bits(overhead, "--overhead"),
        "bandwidth_hz": axes["bandwidth_hz"][0],
        "channel": channel,
        "coding": coding,
        "fixed_rate": fixed_rate,
        "rician_k": rician_k,
        "nakagami_m": nakagami_m,
        "block_error": block_error,
        "trace": trace,
        "domain": domain,
        "policy": policy,
        "law_format": law_format,
        "accounting": accounting,
        "adaptive": adaptive,
        "pipelining": pipelining,
        "answer_tokens": answer_tokens,
    }
    plan = Sweep(axes=axes, calibration=calibration, options=fixed)
    try:
        with PointProgress(total) as progress:
            table = run(plan, out, resume=resume, workers=workers, progress=progress)
    except KeyboardInterrupt:
        Console(stderr=True).print(f"interrupted; finished points are kept beside {out}, add --resume to go on")
        raise typer.Exit(130) from None
    chosen = table.filter(table["recommended"]).column("mode").to_pylist()
    counts = {mode: chosen.count(mode) for mode in sorted(set(chosen))}
    if json:
        import json as json_format

        print(json_format.dumps({"out": str(out), "points": total, "rows": len(table), "recommended": counts}))
    else:
        won = ", ".join(f"{mode} at {count}" for mode, count in counts.items())
        print(f"{total} points, {len(table)} rows in {out}; fastest within the budget: {won}")
