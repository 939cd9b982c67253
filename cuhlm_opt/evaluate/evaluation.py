"""HumanEval at several operating points: every answer is judged by its tests, every point answers the same tasks.

Answers are kept one by one, so that a run that was stopped goes on where it was; points and tasks may be added to it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from cuhlm_opt.artefacts import Artefact, Estimate, OperatingPoint
from cuhlm_opt.bootstrap import LEVEL, ClusterBootstrap, ratios
from cuhlm_opt.calibrate.engines import first_difference
from cuhlm_opt.decode.loop import decode
from cuhlm_opt.decode.result import DecodeResult
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.evaluate.sandbox import failure
from cuhlm_opt.human_eval import Task
from cuhlm_opt.models.batching import side_by_side
from cuhlm_opt.models.pairs import Pair
from cuhlm_opt.modes import Mode
from cuhlm_opt.records import SCHEMA_VERSION, write_atomically

EVALUATION = "evaluation.json"
_RUN, _ANSWERS = "run.json", "answers.jsonl"
_RESAMPLES = 2000


class JudgedAnswer(Artefact):
    """One answer, and what it cost; skipped and uploaded tokens are counted, bits are the codec's."""

    point: str
    task_id: str
    seed: int
    passed: bool
    failure: str | None
    """Why not: what the tests raised."""
    finish_reason: str
    n_tokens: int
    skipped: int
    uploads: int
    payload_bits: int
    risk: float | None
    """Skip risk summed over the answer, expected where it is known."""
    text: str


class Paired(Artefact):
    """Pass rates over the tasks that both points answered, this one's minus the other's."""

    other: str
    n_tasks: int
    difference: Estimate
    """Of pass@1."""
    ratio: Estimate
    """This one's pass@1 over the other's."""
    only_this: int
    only_other: int


class PointResult(Artefact):
    """What one operating point reached."""

    mode: Mode
    bias_budget: float | None
    """Largest TV per token against the LLM's law that the point was solved for; null without a meaning in the mode."""
    n_tasks: int
    n_tokens: int
    pass_at_1: Estimate
    skip_rate: Estimate
    """Share of tokens kept without asking."""
    risk: Estimate
    """Skip risk per token that was met."""
    payload_bits: float | None
    """Per upload."""
    cut: int
    """Answers that met the length limit."""
    against: Paired | None
    """The first point's answers beside these."""


class Evaluation(Artefact):
    """Result of `evaluate`; intervals are of 95 %, a bootstrap over tasks."""

    schema_version: int = SCHEMA_VERSION
    pair: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    points: dict[str, PointResult]
    provenance: dict[str, Any]


def evaluate(
    pair: Pair,
    points: Mapping[str, OperatingPoint],
    tasks: Sequence[Task],
    out: Path,
    *,
    seed: int = 0,
    max_tokens: int = 512,
    timeout_s: float = 10.0,
    resume: bool = False,
    progress: Callable[[int, int], None] = lambda tokens, done: None,
) -> Evaluation:
    """Answer every task at every point, run the tests, and compare each point with the first, task by task.

    Points and answers that `out` holds already are in the result as well.

    Args:
        pair: both models; as many tasks as they have lanes are answered at once.
        points: operating points by name; all of one temperature and top-p.
        tasks: at least one.
        out: folder for the answers and the result.
        seed: task i is answered with `seed` + i at every point.
        max_tokens: length limit of an answer.
        timeout_s: for the tests of one answer.
        resume: go on with what `out` holds.
        progress: called after each answer with its tokens (0 for one that was there) and the number done.

    Raises:
        InputError: points of different laws, `out` holds another run, or tasks that do not fit the context.
        RunError: a model failed, the sandbox does not start, or answers that are there cannot be read.
    """
    if not points or not tasks:
        raise InputError("there is nothing to answer; give at least one operating point and one task")
    run: dict[str, Any] = {"pair": pair.provenance(), "seed": seed, "max_tokens": max_tokens, "timeout_s": timeout_s}
    every = _claim(out, run, points, resume)
    answers = {(answer.point, answer.task_id): answer for answer in _read(out / _ANSWERS)}
    asked = [(name, task, seed + at) for at, task in enumerate(tasks) for name in points]
    missing = [(name, task, own) for name, task, own in asked if (name, task.task_id) not in answers]
    done = len(asked) - len(missing)
    progress(0, done)

    def answered(own: Pair, what: tuple[str, Task, int]) -> DecodeResult:
        name, task, own_seed = what
        return decode(own, points[name], task.request, seed=own_seed, max_tokens=max_tokens, audit=False)

    for index, result in side_by_side(pair, answered, missing):
        name, task, _ = missing[index]
        answer = _judged(name, task, result, timeout_s)
        _append(out / _ANSWERS, answer)
        answers[name, task.task_id] = answer
        done += 1
        progress(answer.n_tokens, done)
    of_point: dict[str, list[JudgedAnswer]] = {}
    for name in every:
        if own := [answer for (point, _), answer in answers.items() if point == name]:
            of_point[name] = sorted(own, key=lambda answer: answer.seed)  # in the order of the tasks
    first = next(iter(of_point))
    evaluation = Evaluation(
        pair=pair.name,
        temperature=every[first].temperature,
        top_p=every[first].top_p,
        max_tokens=max_tokens,
        seed=seed,
        points={
            name: _result(every[name], own, None if name == first else (first, of_point[first]))
            for name, own in of_point.items()
        },
        provenance=run["pair"],
    )
    evaluation.write(out / EVALUATION)
    return evaluation


def _judged(name: str, task: Task, result: DecodeResult, timeout_s: float) -> JudgedAnswer:
    why = failure(task.program(result.text), timeout_s)
    risk = result.bias_skip if result.risk_expected is None else result.risk_expected
    return JudgedAnswer(
        point=name,
        task_id=task.task_id,
        seed=result.seed,
        passed=why is None,
        failure=why,
        finish_reason=result.finish_reason,
        n_tokens=len(result.steps),
        skipped=sum(step.skipped for step in result.steps),
        uploads=len(result.uploads),
        payload_bits=result.payload_bits_total,
        risk=None if risk is None else risk * len(result.steps),
        text=result.text,
    )


def _result(
    point: OperatingPoint, answers: Sequence[JudgedAnswer], first: tuple[str, Sequence[JudgedAnswer]] | None
) -> PointResult:
    risks = [np.nan if answer.risk is None else answer.risk for answer in answers]
    columns = [(answer.n_tokens, answer.skipped, risk) for answer, risk in zip(answers, risks, strict=True)]
    per_token = _estimates(np.array(columns, dtype=np.float64), "skip_rate", "risk")
    per_task = _estimates(np.array([(1, answer.passed) for answer in answers], dtype=np.float64), "pass_at_1")
    uploads = sum(answer.uploads for answer in answers)
    return PointResult(
        mode=point.mode,
        bias_budget=point.bias_budget if point.mode.skips else None,
        n_tasks=len(answers),
        n_tokens=sum(answer.n_tokens for answer in answers),
        **per_token,
        **per_task,
        payload_bits=sum(answer.payload_bits for answer in answers) / uploads if uploads else None,
        cut=sum(answer.finish_reason != "eos" for answer in answers),
        against=None if first is None else _paired(*first, answers),
    )


def _paired(other: str, theirs: Sequence[JudgedAnswer], ours: Sequence[JudgedAnswer]) -> Paired | None:
    """Over the tasks of both; None where there is none."""
    reference = {answer.task_id: answer.passed for answer in theirs}
    both = [(1, answer.passed, reference[answer.task_id]) for answer in ours if answer.task_id in reference]
    if not both:
        return None
    sums = np.array(both, dtype=np.float64)
    own, others = sums[:, 1], sums[:, 2]

    def statistics(totals: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        n, passed, reference = totals[..., 0], totals[..., 1], totals[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"difference": (passed - reference) / n, "ratio": passed / reference}

    bootstrap = ClusterBootstrap.draw(len(sums), np.random.default_rng(0), _RESAMPLES)
    found = bootstrap.intervals(statistics, sums, LEVEL)
    return Paired(
        other=other,
        n_tasks=len(sums),
        difference=Estimate.of(found["difference"]),
        ratio=Estimate.of(found["ratio"]),
        only_this=int(np.sum(own > others)),
        only_other=int(np.sum(own < others)),
    )


def _estimates(sums: NDArray[np.float64], *names: str) -> dict[str, Estimate]:
    """Means of the columns over the first, whole answers resampled."""
    bootstrap = ClusterBootstrap.draw(len(sums), np.random.default_rng(0), _RESAMPLES)
    return {name: Estimate.of(found) for name, found in bootstrap.intervals(ratios(*names), sums, LEVEL).items()}


def _claim(
    out: Path, run: dict[str, Any], points: Mapping[str, OperatingPoint], resume: bool
) -> dict[str, OperatingPoint]:
    """Mark `out` as holding the run with these points and those that it holds already, which it returns, or refuse."""
    path = out / _RUN
    asked = {name: point.model_dump(mode="json") for name, point in points.items()}
    held: dict[str, Any] = {}
    kept: dict[str, OperatingPoint] = {}
    if path.exists():
        if not resume:
            raise InputError(f"--out {str(out)!r} already holds a run; add --resume, or give another folder")
        try:
            stored = json.loads(path.read_bytes())
            held = dict(stored.pop("points"))
            kept = {name: OperatingPoint.model_validate(point) for name, point in held.items()}
        except (ValueError, KeyError, AttributeError, TypeError):  # pydantic's is a ValueError
            raise RunError(f"{path} is damaged; it said what the run in this folder is, give another folder") from None
        same = {name: point for name, point in held.items() if name in asked}
        now = {name: asked[name] for name in same}
        if difference := first_difference({**stored, "points": same}, json.loads(json.dumps({**run, "points": now}))):
            raise InputError(f"--resume: {out} holds another run: {difference}")
    every = {**kept, **points}
    laws = {(point.temperature, point.top_p) for point in every.values()}
    if len(laws) > 1:
        raise InputError(f"operating points of different temperature or top-p are not comparable: {sorted(laws)}")
    write_atomically(path, json.dumps({**run, "points": {**held, **asked}}, indent=2) + "\n")
    return every


def _read(path: Path) -> Iterator[JudgedAnswer]:
    """Answers that are there; a last line that a kill has cut is removed."""
    if not path.exists():
        return
    *lines, cut = path.read_bytes().split(b"\n")
    if cut:
        write_atomically(path, b"".join(line + b"\n" for line in lines))
    for number, line in enumerate(lines, start=1):
        try:
            yield JudgedAnswer.model_validate_json(line)
        except ValidationError:
            raise RunError(f"{path}: line {number} holds no answer; remove it, and --resume answers it again") from None


def _append(path: Path, answer: JudgedAnswer) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(answer.model_dump_json() + "\n")
