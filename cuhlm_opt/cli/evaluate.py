"""`cuhlm-opt evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cuhlm_opt.errors import InputError, unknown_name

if TYPE_CHECKING:
    from cuhlm_opt.artefacts import Estimate, OperatingPoint
    from cuhlm_opt.evaluate.evaluation import Evaluation
    from cuhlm_opt.models.pairs import Pair
    from cuhlm_opt.modes import Mode


def evaluate(
    out: Annotated[Path, typer.Option(help="Folder for answers and result.")],
    mode: Annotated[
        list[str] | None, typer.Option(help="Mode to answer in, at the first operating point's link; repeatable; llm.")
    ] = None,
    operating_point: Annotated[list[Path] | None, typer.Option(help="From `solve`; repeatable.")] = None,
    pair: Annotated[str | None, typer.Option(help="Name of a model pair; see `pairs list`.")] = None,
    limit: Annotated[int | None, typer.Option(help="First tasks only; all 164 without it.", min=1)] = None,
    max_tokens: Annotated[int, typer.Option(help="Length limit of an answer.", min=1)] = 512,
    timeout: Annotated[float, typer.Option(help="Seconds for the tests of one answer.", min=0.1)] = 10.0,
    seed: Annotated[int, typer.Option(help="Seed of all draws.", min=0)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    slm: Annotated[str | None, typer.Option(help="SLM: hub id, folder or GGUF file, instead of --pair.")] = None,
    llm: Annotated[str | None, typer.Option(help="LLM: hub id, folder or GGUF file, instead of --pair.")] = None,
    backend: Annotated[str | None, typer.Option(help="llama.cpp or transformers.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda (transformers).")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto (transformers).")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Answers side by side.", min=1)] = 8,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all.", min=1)] = None,
    context_length: Annotated[int, typer.Option(help="Tokens of prompt and answer.", min=8)] = 2048,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Accuracy: HumanEval pass@1 of modes and operating points, each beside the first, task by task."""
    from cuhlm_opt.cli.progress import TokenProgress
    from cuhlm_opt.evaluate.evaluation import evaluate as run
    from cuhlm_opt.human_eval import load_tasks
    from cuhlm_opt.models.pairs import load_pair
    from cuhlm_opt.modes import Mode

    modes = mode or ["llm"]
    for name in modes:
        if name not in list(Mode):
            raise unknown_name("--mode", name, list(Mode))
    solved = _named(operating_point or [])
    tasks = load_tasks()[:limit]
    models = load_pair(
        pair,
        slm=slm,
        llm=llm,
        backend=backend,
        device=device,
        dtype=dtype,
        lanes=batch_size,
        shared_cache=batch_size > 1,
        context_length=context_length,
        threads=threads,
    )
    try:
        points = _points(models, [Mode(name) for name in modes], solved)
        with TokenProgress(len(tasks) * len(points), "answers") as progress:
            result = run(
                models,
                points,
                tasks,
                out,
                seed=seed,
                max_tokens=max_tokens,
                timeout_s=timeout,
                resume=resume,
                progress=progress,
            )
    finally:
        models.close()
    if json:
        print(result.model_dump_json(indent=2))
    else:
        _show(result)


def _named(paths: list[Path]) -> "dict[str, OperatingPoint]":
    """Operating points by the names of their files."""
    from cuhlm_opt.artefacts import OperatingPoint

    points = {path.stem: OperatingPoint.read(path) for path in paths}
    if len(points) < len(paths):
        raise InputError("--operating-point: two files share a name; points are told apart by it")
    return points


def _points(pair: "Pair", modes: "list[Mode]", solved: "dict[str, OperatingPoint]") -> "dict[str, OperatingPoint]":
    """The modes by their own names, then the solved points."""
    from cuhlm_opt.decode.default_point import default_operating_point, with_mode

    first = next(iter(solved.values()), None)
    named = {
        str(mode): default_operating_point(pair.name, mode) if first is None else with_mode(first, mode)
        for mode in modes
    }
    if both := named.keys() & solved.keys():
        raise InputError(f"--operating-point {min(both)!r} has the name of a --mode; rename the file")
    return {**named, **solved}


def _show(result: "Evaluation") -> None:
    table = Table(title=f"HumanEval, {result.pair}, at most {result.max_tokens} tokens", title_justify="left")
    columns = ("", "tasks", "pass@1", "difference", "only this / only other", "skip rate", "bits per upload")
    for title in columns:
        table.add_column(title, justify="right" if title else "left")
    for name, point in result.points.items():
        paired = point.against
        table.add_row(
            name,
            str(point.n_tasks),
            _with_interval(point.pass_at_1),
            "-" if paired is None else _with_interval(paired.difference),
            "-" if paired is None else f"{paired.only_this} / {paired.only_other}",
            _with_interval(point.skip_rate),
            "-" if point.payload_bits is None else f"{point.payload_bits:,.0f}",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(f"temperature {result.temperature:g}, top-p {result.top_p:g}; 95 % intervals over tasks; differences")
    console.print(f"against {next(iter(result.points))} on the tasks of both", soft_wrap=True)


def _with_interval(estimate: "Estimate") -> str:
    if estimate.value is None:
        return "-"
    return f"{estimate.value:.3f}" + ("" if estimate.ci is None else " [{:.3f}, {:.3f}]".format(*estimate.ci))
