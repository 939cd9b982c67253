"""`cuhlm-opt simulate`."""

from typing import Annotated

import typer

from cuhlm_opt.channel import BLOCK_ERROR
from cuhlm_opt.cli import channel_options as options
from cuhlm_opt.errors import InputError
from cuhlm_opt.fading import NAKAGAMI_M, RICIAN_K


def simulate(
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
    domain: Annotated[str | None, typer.Option(help="Domain of the records.")] = None,
    max_bias: Annotated[float, typer.Option(help="As in solve.")] = 0.02,
    policy: Annotated[str, typer.Option(help="As in solve.")] = "certified",
    mode: Annotated[str, typer.Option(help="As in solve.")] = "cu-hlm-offline",
    calibration: Annotated[str, typer.Option(help="Shipped calibration, or folder of one.")] = "qwen2.5-coder",
    adaptive: options.Adaptive = False,
    pipelining: options.Pipelined = "none",
    answer_tokens: Annotated[int, typer.Option(help="Length of an answer.")] = 128,
    precision: Annotated[float, typer.Option(help="Relative standard error of the mean latency to stop at.")] = 0.002,
    most: Annotated[int, typer.Option(help="Most replications of all recorded answers.")] = 400,
    seed: Annotated[int, typer.Option(help="Seed of the replay.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON on stdout.")] = False,
) -> None:
    """Replay the recorded answers through a link, fades and packets drawn one by one, beside what solve states."""
    from cuhlm_opt.simulate import Replayed
    from cuhlm_opt.simulate import simulate as run
    from cuhlm_opt.solve.modes_table import mode_point
    from cuhlm_opt.solve.options import pose
    from cuhlm_opt.solve.points import used_link

    if not 0 < precision < 1:
        raise InputError(f"--precision {precision!r} is not allowed; give a number between 0 and 1, both excluded")
    if most < 2:
        raise InputError(f"--most {most!r} is not allowed; give a whole number from 2")
    link = options.link_arguments(bandwidth, snr, rtt, downlink, overhead)
    posed = pose(
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
        mode=mode,
        adaptive=adaptive,
        pipelining=pipelining,
        answer_tokens=answer_tokens,
    )
    problem = posed.problem
    point, times = mode_point(problem, posed.mode), problem.compute_times
    if problem.gate is None or times is None or point.time is None or point.skip is None or point.bits is None:
        raise InputError(f"--mode {str(posed.mode)!r} cannot be replayed; give one that drafts and asks, with records")
    law = point.time
    replayed = Replayed(
        mode=posed.mode,
        times=times,
        link=used_link(problem, point),
        prompt=problem.gate.records.prompt,
        skip=point.skip,
        bits=point.bits,
        tokens=answer_tokens,
    )
    found, replications = run(replayed, precision=precision, most=most, least=min(20, most), seed=seed)
    stated: dict[str, float | None] = {
        "skip_rate": 1.0 - law.asks.rate,
        "latency_s": law.mean_s,
        "latency_p50_s": law.quantile(0.5),
        "latency_p95_s": law.quantile(0.95),
        "latency_p99_s": law.quantile(0.99),
        "uplink_bits_per_s": law.uplink_bps,
    }
    if json:
        import json as json_format

        figures = {
            name: {"stated": stated.get(name), "simulated": each.value, "se": each.se} for name, each in found.items()
        }
        print(json_format.dumps({"mode": str(posed.mode), "replications": replications, "figures": figures}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    answers = replications * problem.gate.records.n_prompts
    table = Table(title=f"{posed.mode}, {answers:,} answers of {answer_tokens} tokens", title_justify="left")
    for title in ("", "solve states", "simulated", "standard error"):
        table.add_column(title, justify="left" if not title else "right")
    for name, each in found.items():
        value = stated.get(name)
        table.add_row(name, "-" if value is None else f"{value:.5g}", f"{each.value:.5g}", f"{each.se:.2g}")
    console = Console()
    console.print(table)
    console.print(f"assumed: {replayed.link.uplink.describe()}", highlight=False)
    console.print(
        "assumed: recorded answers repeated to the length asked for; a draft is kept by its position's probability",
        highlight=False,
    )
