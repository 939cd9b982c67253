"""Evaluation: answers are those of `decode`, whatever happens to a run; points are compared task by task.

The tiny pair writes a few letters, which solve nothing: where some answers are to pass, the judge is replaced.
"""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.decode.default_point import tiny_operating_point
from cuhlm_opt.decode.loop import decode
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.evaluate import evaluation
from cuhlm_opt.evaluate.evaluation import EVALUATION, Evaluation, JudgedAnswer, Paired, evaluate
from cuhlm_opt.human_eval import load_tasks
from cuhlm_opt.models.pairs import Pair, load_pair
from cuhlm_opt.models.tiny import Role, TinyModel
from cuhlm_opt.modes import Mode

TASKS = load_tasks()
POINTS = {str(mode): tiny_operating_point(load_pair("tiny"), mode) for mode in (Mode.LLM, Mode.SLM, Mode.U_HLM)}
ONE = {"llm": POINTS["llm"]}
N = 4
FIXED = {"seed": 3, "max_tokens": 6}


class Spelled(TinyModel):
    """The tiny model with one text for all letters."""

    def __init__(self, role: Role, text: str) -> None:
        super().__init__(role)
        self.text = text

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        return self.text.encode() * len(super().detokenize(tokens))


def spelled(text: str) -> Pair:
    return Pair(name="spelled", slm=Spelled(Role.SLM, text), llm=Spelled(Role.LLM, text))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("tiny", lanes=4)


@pytest.fixture(scope="module")
def undisturbed(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    out = tmp_path_factory.mktemp("run")
    return out, evaluate(pair, POINTS, TASKS[:N], out, **FIXED)


def lines_of(out: Path) -> list[str]:
    path = out / "answers.jsonl"
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


def answers_in(out: Path) -> dict[tuple[str, str], JudgedAnswer]:
    read = [JudgedAnswer.model_validate_json(line) for line in lines_of(out)]
    answers = {(answer.point, answer.task_id): answer for answer in read}
    assert len(answers) == len(read), "each once"
    return answers


@pytest.fixture
def copied(undisturbed: tuple[Path, Evaluation], tmp_path: Path) -> Path:
    """The folder of a run that ended."""
    for path in undisturbed[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


class Told:
    """What progress told: tokens of each answer, and how many were done."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.done: list[int] = []

    def __call__(self, tokens: int, done: int) -> None:
        self.tokens.append(tokens)
        self.done.append(done)


def judged(monkeypatch: pytest.MonkeyPatch, outcomes: Sequence[bool], why: str = "AssertionError:") -> None:
    """Let answers pass or fail as they come; with one lane they come task by task, in the order of the points."""
    coming = iter(outcomes)
    monkeypatch.setattr(evaluation, "failure", lambda program, timeout_s: None if next(coming) else why)


def test_every_task_is_answered_at_every_point_as_decode_answers(undisturbed: tuple[Path, Evaluation]) -> None:
    """Task i with seed + i, at every point."""
    answers = answers_in(undisturbed[0])
    single = load_pair("tiny")
    assert answers.keys() == {(name, task.task_id) for name in POINTS for task in TASKS[:N]}
    for name, point in POINTS.items():
        for at, task in enumerate(TASKS[:N]):
            answer = answers[name, task.task_id]
            result = decode(single, point, task.request, seed=3 + at, max_tokens=6, audit=False)
            assert (answer.seed, answer.text, answer.finish_reason) == (3 + at, result.text, result.finish_reason)
            assert (answer.n_tokens, answer.skipped) == (len(result.steps), sum(s.skipped for s in result.steps))
            assert (answer.uploads, answer.payload_bits) == (len(result.uploads), result.payload_bits_total)
            risks = [step.risk.beta for step in result.steps if step.skipped and step.risk is not None]
            assert answer.risk == (None if name == "slm" else pytest.approx(sum(risks)))


def test_the_judge_sees_the_program_of_the_answer(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float]] = []

    def judge(program: str, timeout_s: float) -> str | None:
        seen.append((program, timeout_s))
        return "AssertionError: seen"

    monkeypatch.setattr(evaluation, "failure", judge)
    evaluate(pair, ONE, TASKS[:N], tmp_path, timeout_s=2.5)
    answers = answers_in(tmp_path)
    assert sorted(seen) == sorted((task.program(answers["llm", task.task_id].text), 2.5) for task in TASKS[:N])
    assert {(answer.passed, answer.failure) for answer in answers.values()} == {(False, "AssertionError: seen")}


def test_what_the_tiny_pair_writes_passes_no_test(undisturbed: tuple[Path, Evaluation]) -> None:
    for answer in answers_in(undisturbed[0]).values():
        assert not answer.passed
        assert answer.failure
        assert answer.failure != "took more than 10 s"
    for point in undisturbed[1].points.values():
        assert (point.pass_at_1.value, point.pass_at_1.ci) == (0, (0, 0))


def test_the_result_is_in_the_folder(undisturbed: tuple[Path, Evaluation]) -> None:
    out, result = undisturbed
    assert Evaluation.read(out / EVALUATION) == result
    assert sorted(path.name for path in out.iterdir()) == ["answers.jsonl", EVALUATION, "run.json"]
    assert (result.pair, result.seed, result.max_tokens) == ("tiny", 3, 6)
    assert (result.temperature, result.top_p) == (1, 1)
    assert result.provenance == load_pair("tiny").provenance()
    assert list(result.points) == list(POINTS)


def test_figures_follow_from_the_answers(undisturbed: tuple[Path, Evaluation]) -> None:
    out, result = undisturbed
    for name, point in result.points.items():
        own = [answer for (of, _), answer in answers_in(out).items() if of == name]
        tokens = sum(answer.n_tokens for answer in own)
        assert (point.n_tasks, point.n_tokens, point.mode) == (N, tokens, name)
        assert point.skip_rate.value == pytest.approx(sum(answer.skipped for answer in own) / tokens)
        assert point.cut == sum(answer.finish_reason == "length" for answer in own)
    llm, slm, hybrid = result.points.values()
    assert (llm.skip_rate.value, slm.skip_rate.value) == (0, 1)
    assert (llm.skip_rate.ci, slm.skip_rate.ci) == ((0, 0), (1, 1))
    assert (llm.risk.value, slm.risk.value, slm.risk.ci) == (0, None, None), "the SLM's risk is not known"
    assert (llm.payload_bits, slm.payload_bits) == (None, None), "nothing is uploaded"
    assert hybrid.payload_bits == 6 * (8 + 3), "six entries of eight bits, ids of three"
    assert (llm.bias_budget, hybrid.bias_budget) == (None, POINTS["u-hlm"].bias_budget)
    assert hybrid.skip_rate.value is not None
    assert 0 < hybrid.skip_rate.value < 1
    assert hybrid.skip_rate.ci is not None
    assert hybrid.skip_rate.ci[0] <= hybrid.skip_rate.value <= hybrid.skip_rate.ci[1]
    assert hybrid.risk.value == pytest.approx(
        sum(answer.risk or 0 for (of, _), answer in answers_in(out).items() if of == "u-hlm") / hybrid.n_tokens
    )


def test_progress_tells_tokens_and_answers(pair: Pair, tmp_path: Path) -> None:
    told, again = Told(), Told()
    evaluate(pair, POINTS, TASKS[:2], tmp_path, **FIXED, progress=told)
    assert told.done == list(range(7))
    assert told.tokens == [0, *(answer.n_tokens for answer in answers_in(tmp_path).values())]
    evaluate(pair, POINTS, TASKS[:2], tmp_path, **FIXED, resume=True, progress=again)
    assert (again.tokens, again.done) == ([0], [6])


class InterruptedRunError(Exception):
    """Stands for whatever ends a run between two answers."""


@pytest.mark.parametrize("stops", [(0,), (1,), (5, 8), (2, 3, 11), (12,)])
def test_an_interrupted_and_resumed_run_has_the_answers_of_an_undisturbed_one(
    pair: Pair, tmp_path: Path, undisturbed: tuple[Path, Evaluation], stops: Sequence[int]
) -> None:
    threads = threading.active_count()
    for stop in stops:

        def give_up(tokens: int, done: int, stop: int = stop) -> None:
            if done >= stop:
                raise InterruptedRunError

        with pytest.raises(InterruptedRunError):
            evaluate(pair, POINTS, TASKS[:N], tmp_path, **FIXED, resume=True, progress=give_up)
        assert len(lines_of(tmp_path)) == stop
        assert threading.active_count() == threads
        assert not (tmp_path / EVALUATION).exists()
    evaluate(pair, POINTS, TASKS[:N], tmp_path, **FIXED, resume=True)
    assert answers_in(tmp_path) == answers_in(undisturbed[0])


def test_an_answered_run_is_not_answered_again(pair: Pair, copied: Path, undisturbed: tuple[Path, Evaluation]) -> None:
    before = (copied / "answers.jsonl").read_bytes()
    (copied / EVALUATION).unlink()
    assert evaluate(pair, POINTS, TASKS[:N], copied, **FIXED, resume=True) == undisturbed[1]
    assert (copied / "answers.jsonl").read_bytes() == before


def test_the_result_does_not_depend_on_the_order_of_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which differs from run to run, as answers side by side are done when they are done."""
    judged(monkeypatch, [i % 3 == 0 for i in range(20)])
    single, tasks = load_pair("tiny"), TASKS[:20]
    point = {"u-hlm": POINTS["u-hlm"]}
    before = evaluate(single, point, tasks, tmp_path, max_tokens=20)
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert evaluate(single, point, tasks, tmp_path, max_tokens=20, resume=True) == before


@settings(max_examples=4)
@given(share=st.floats(0, 1))
@example(share=0.0)
@example(share=1.0)
def test_a_file_that_is_cut_anywhere_goes_on(share: float, pair: Pair, undisturbed: tuple[Path, Evaluation]) -> None:
    whole = (undisturbed[0] / "answers.jsonl").read_bytes()
    cut = whole[: round(share * len(whole))]
    with TemporaryDirectory() as folder:
        out = Path(folder)
        (out / "run.json").write_bytes((undisturbed[0] / "run.json").read_bytes())
        (out / "answers.jsonl").write_bytes(cut)
        told = Told()
        evaluate(pair, POINTS, TASKS[:N], out, **FIXED, resume=True, progress=told)
        assert told.done[0] == cut.count(b"\n")
        assert answers_in(out) == answers_in(undisturbed[0])


def test_a_whole_line_without_its_end_is_answered_again(pair: Pair, copied: Path) -> None:
    path = copied / "answers.jsonl"
    before = answers_in(copied)
    path.write_bytes(path.read_bytes()[:-1])
    told = Told()
    evaluate(pair, POINTS, TASKS[:N], copied, **FIXED, resume=True, progress=told)
    assert told.done == [11, 12]
    assert answers_in(copied) == before


@pytest.mark.parametrize("bytes_cut", [1, 2, 3])
def test_a_line_that_is_cut_within_a_character_is_answered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_cut: int
) -> None:
    judged(monkeypatch, [False] * 3)
    models = spelled("🙂")
    evaluate(models, ONE, TASKS[:2], tmp_path, **FIXED)
    path = tmp_path / "answers.jsonl"
    before, whole = answers_in(tmp_path), path.read_bytes()
    path.write_bytes(whole[: whole.rindex("🙂".encode()) + bytes_cut])
    evaluate(models, ONE, TASKS[:2], tmp_path, **FIXED, resume=True)
    assert answers_in(tmp_path) == before


@pytest.mark.parametrize(
    "character",
    [*'\n\r\t\x00\x0b\x0c\x1c\x1d\x1e"\\é🙂\ufeff\ufffd\x85\u2028\u2029'],
)
def test_an_answer_of_any_character_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, character: str
) -> None:
    judged(monkeypatch, [False] * 2)
    models = spelled(character)
    evaluate(models, ONE, TASKS[:2], tmp_path, **FIXED)
    assert all(set(answer.text) == {character} for answer in answers_in(tmp_path).values())
    again = evaluate(models, ONE, TASKS[:2], tmp_path, **FIXED, resume=True)
    assert again.points["llm"].n_tasks == 2


@pytest.mark.parametrize("number", [1, 2, 12])
@pytest.mark.parametrize("damage", ["", "{}", '{"point": "llm"}', "[1]", "NaN", "\0", '{"point": "llm", "task_id'])
def test_a_damaged_line_is_named(pair: Pair, copied: Path, number: int, damage: str) -> None:
    lines = lines_of(copied)
    lines[number - 1] = damage
    text = "\n".join(lines) + "\n"
    (copied / "answers.jsonl").write_text(text)
    with pytest.raises(RunError, match=rf"answers\.jsonl: line {number} holds no answer; remove it, and --resume"):
        evaluate(pair, POINTS, TASKS[:N], copied, **FIXED, resume=True)
    assert (copied / "answers.jsonl").read_text() == text, "it is left as it is"


def test_a_line_that_is_no_text_is_named(pair: Pair, copied: Path) -> None:
    lines = [line.encode() for line in lines_of(copied)]
    lines[1] = b"\xff" * 20
    (copied / "answers.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(RunError, match="line 2"):
        evaluate(pair, POINTS, TASKS[:N], copied, **FIXED, resume=True)


def test_a_damaged_line_that_is_removed_is_answered_again(pair: Pair, copied: Path) -> None:
    before = answers_in(copied)
    lines = lines_of(copied)
    del lines[4]
    (copied / "answers.jsonl").write_text("\n".join(lines) + "\n")
    evaluate(pair, POINTS, TASKS[:N], copied, **FIXED, resume=True)
    assert answers_in(copied) == before


def test_a_folder_that_holds_a_run_needs_resume(pair: Pair, copied: Path) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(InputError, match="already holds a run; add --resume, or give another folder"):
        evaluate(pair, POINTS, TASKS[:N], copied, **FIXED)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 4}, "seed is 3 there, 4 here"),
        ({"max_tokens": 7}, "max_tokens is 6 there, 7 here"),
        ({"timeout_s": 9.0}, "timeout_s is 10.0 there, 9.0 here"),
    ],
)
def test_a_run_of_other_settings_is_not_resumed(
    pair: Pair, copied: Path, changes: dict[str, Any], difference: str
) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(InputError, match=f"--resume: .* holds another run: {difference}"):
        evaluate(pair, POINTS, TASKS[:N], copied, **{**FIXED, **changes}, resume=True)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_a_run_of_other_models_is_not_resumed(copied: Path) -> None:
    other = Pair(name="tiny", slm=TinyModel(Role.SLM), llm=TinyModel(Role.SLM))
    with pytest.raises(InputError, match=r"holds another run: pair\.llm\.role is 'llm' there, 'slm' here"):
        evaluate(other, POINTS, TASKS[:N], copied, **FIXED, resume=True)


def test_another_point_of_the_same_name_is_not_resumed(pair: Pair, copied: Path) -> None:
    other = POINTS["u-hlm"].model_copy(update={"u_threshold": 0.25})
    with pytest.raises(InputError, match=r"holds another run: points\.u-hlm\.u_threshold is .* there, 0\.25 here"):
        evaluate(pair, {**POINTS, "u-hlm": other}, TASKS[:N], copied, **FIXED, resume=True)
    with pytest.raises(InputError, match=r"holds another run: points\.slm\."):
        evaluate(pair, {"slm": POINTS["llm"]}, TASKS[:N], copied, **FIXED, resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        "", "{", "1", "{}", '"points"',
        "[]",
        '{"points": 1}',
    ],
)  # fmt: skip
def test_a_damaged_run_is_told(pair: Pair, copied: Path, damage: str) -> None:
    (copied / "run.json").write_text(damage)
    with pytest.raises(RunError, match=r"run\.json is damaged; .*give another folder"):
        evaluate(pair, POINTS, TASKS[:N], copied, **FIXED, resume=True)


def test_a_damaged_point_of_the_folder_is_told(pair: Pair, copied: Path) -> None:
    run = json.loads((copied / "run.json").read_text())
    run["points"]["slm"]["mode"] = "slim"
    (copied / "run.json").write_text(json.dumps(run))
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        evaluate(pair, ONE, TASKS[:N], copied, **FIXED, resume=True)


def test_points_and_tasks_may_be_added(pair: Pair, tmp_path: Path, undisturbed: tuple[Path, Evaluation]) -> None:
    """Point by point and task by task: the answers are those of one run."""
    names = list(POINTS)
    for n_points, n_tasks in ((1, 2), (2, 2), (2, N), (3, N)):
        held = len(lines_of(tmp_path))
        told = Told()
        some = {name: POINTS[name] for name in names[:n_points]}
        result = evaluate(pair, some, TASKS[:n_tasks], tmp_path, **FIXED, resume=True, progress=told)
        assert told.done == list(range(held, n_points * n_tasks + 1))
        assert list(result.points) == names[:n_points]
        assert {point.n_tasks for point in result.points.values()} == {n_tasks}
    assert answers_in(tmp_path) == answers_in(undisturbed[0])
    assert json.loads((tmp_path / "run.json").read_text()) == json.loads((undisturbed[0] / "run.json").read_text())


def test_points_that_are_not_asked_for_stay(pair: Pair, copied: Path, undisturbed: tuple[Path, Evaluation]) -> None:
    """In the result, where they are compared as before, and known when they come back."""
    one = {"u-hlm": POINTS["u-hlm"]}
    assert evaluate(pair, one, TASKS[:N], copied, **FIXED, resume=True) == undisturbed[1]
    other = POINTS["llm"].model_copy(update={"b_prob": 9})
    with pytest.raises(InputError, match=r"points\.llm\.b_prob is 8 there, 9 here"):
        evaluate(pair, {"llm": other}, TASKS[:N], copied, **FIXED, resume=True)
    assert len(answers_in(copied)) == 3 * N


def test_a_point_of_another_law_than_those_held_is_refused(pair: Pair, copied: Path) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    cold = {"cold": POINTS["u-hlm"].model_copy(update={"temperature": 0.5})}
    with pytest.raises(InputError, match="different temperature or top-p are not comparable"):
        evaluate(pair, cold, TASKS[:N], copied, **FIXED, resume=True)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_points_are_compared_though_the_first_of_the_folder_has_no_answer(pair: Pair, tmp_path: Path) -> None:
    """It was asked for, and stopped before it was answered."""

    def give_up(tokens: int, done: int) -> None:
        raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        evaluate(pair, ONE, TASKS[:2], tmp_path, **FIXED, progress=give_up)
    two = {name: POINTS[name] for name in ("slm", "u-hlm")}
    result = evaluate(pair, two, TASKS[:2], tmp_path, **FIXED, resume=True)
    assert list(result.points) == ["slm", "u-hlm"]
    against = result.points["u-hlm"].against
    assert against is not None
    assert against.other == "slm"


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"top_p": 0.9}])
def test_points_of_different_laws_are_refused(pair: Pair, tmp_path: Path, change: dict[str, float]) -> None:
    other: OperatingPoint = POINTS["slm"].model_copy(update=change)
    with pytest.raises(InputError, match="different temperature or top-p are not comparable"):
        evaluate(pair, {"llm": POINTS["llm"], "slm": other}, TASKS[:1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_task_that_does_not_fit_is_told_and_leaves_no_thread(tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(InputError, match=r"prompt has \d+ tokens; at most 64 fit the context"):
        evaluate(load_pair("tiny", lanes=2, context_length=64), POINTS, TASKS[:3], tmp_path)
    assert threading.active_count() == threads


def paired(outcomes: Sequence[tuple[bool, bool]]) -> Paired:
    """The second point beside the first where the first and the second pass like that, task by task."""
    points = {"reference": POINTS["llm"], "other": POINTS["slm"]}
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        judged(patch, [passed for both in outcomes for passed in both])
        result = evaluate(load_pair("tiny"), points, TASKS[: len(outcomes)], Path(folder), max_tokens=1)
        again = Evaluation.read(Path(folder, EVALUATION))
    assert again == result
    reference, other = result.points["reference"], result.points["other"]
    first, second = np.mean(outcomes, axis=0)
    assert reference.pass_at_1.value == pytest.approx(first)
    assert other.pass_at_1.value == pytest.approx(second)
    assert reference.against is None
    assert other.against is not None
    assert (other.against.other, other.against.n_tasks) == ("reference", len(outcomes))
    return other.against


def test_a_known_pattern() -> None:
    """Of ten tasks three pass at both points, two at the first only, one at the second only."""
    found = paired([(True, True)] * 3 + [(True, False)] * 2 + [(False, True)] + [(False, False)] * 4)
    assert (found.only_this, found.only_other) == (1, 2)
    assert found.difference.value == pytest.approx(-0.1)
    assert found.ratio.value == pytest.approx(4 / 5)
    assert found.difference.ci is not None
    assert found.difference.ci[0] < -0.1 < found.difference.ci[1]
    assert found.ratio.ci is not None
    assert found.ratio.ci[0] < 0.8 < found.ratio.ci[1]


@settings(max_examples=10)
@given(outcomes=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_any_pattern(outcomes: list[tuple[bool, bool]]) -> None:
    found = paired(outcomes)
    first, second = np.sum(outcomes, axis=0)
    assert found.difference.value == pytest.approx((second - first) / len(outcomes))
    assert found.ratio.value == (None if first == 0 else pytest.approx(second / first))
    assert found.only_this - found.only_other == second - first
    assert found.only_this == outcomes.count((False, True))
    assert found.only_other == outcomes.count((True, False))
    if found.difference.ci is not None:
        low, high = found.difference.ci
        assert -1 <= low <= high <= 1


def test_the_same_passes_differ_by_nothing() -> None:
    """Whatever is resampled: the tasks are paired."""
    found = paired([(True, True)] * 3 + [(False, False)] * 4)
    assert (found.difference.value, found.difference.ci) == (0, (0, 0))
    assert (found.ratio.value, found.ratio.ci) == (1, (1, 1))


def test_nothing_to_divide_by_has_no_ratio() -> None:
    found = paired([(False, True), (False, False)])
    assert (found.ratio.value, found.ratio.ci) == (None, None)


def test_the_interval_of_the_difference_is_that_of_paired_tasks() -> None:
    """Of n = 100 tasks 60 are alike, 25 pass at the second only: s.e. sqrt((0.4 - 0.1^2) / n), half of an unpaired."""
    outcomes = [(True, True)] * 30 + [(False, False)] * 30 + [(False, True)] * 25 + [(True, False)] * 15
    found = paired(outcomes)
    assert found.difference.ci is not None
    half = (found.difference.ci[1] - found.difference.ci[0]) / 2
    assert half == pytest.approx(1.96 * np.sqrt((0.4 - 0.1**2) / 100), rel=0.1)


@pytest.mark.parametrize("longer", ["llm", "slm"])
def test_points_are_compared_on_the_tasks_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longer: str) -> None:
    """One of them has answered two tasks more; they are its own."""
    single, points = load_pair("tiny"), {name: POINTS[name] for name in ("llm", "slm")}
    judged(monkeypatch, [True, False, True, True, True, True])
    evaluate(single, points, TASKS[:2], tmp_path, max_tokens=1)
    result = evaluate(single, {longer: POINTS[longer]}, TASKS[:4], tmp_path, max_tokens=1, resume=True)
    llm, slm = result.points.values()
    assert {name: point.n_tasks for name, point in result.points.items()} == {"llm": 2, "slm": 2, longer: 4}
    assert (llm.pass_at_1.value, slm.pass_at_1.value) == (1, 0.75 if longer == "slm" else 0.5)
    assert llm.against is None
    assert slm.against is not None
    assert (slm.against.n_tasks, slm.against.only_this, slm.against.only_other) == (2, 0, 1)
    assert (slm.against.difference.value, slm.against.ratio.value) == (-0.5, 0.5)
