"""`cuhlm-opt evaluate`: a table or JSON on stdout, progress on stderr, one clear line for every bad request."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cuhlm_opt.cli.main import main
from cuhlm_opt.decode.default_point import tiny_operating_point
from cuhlm_opt.evaluate.evaluation import EVALUATION, Evaluation
from cuhlm_opt.models.pairs import load_pair
from cuhlm_opt.modes import Mode

Refused = Callable[[Sequence[str], Sequence[str]], None]
TWO = ["evaluate", "--pair", "tiny", "--limit", "2", "--max-tokens", "8"]


@pytest.fixture
def point_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Write the tiny pair's point of a mode, elsewhere than into the folder of the test."""

    def write(mode: Mode, name: str) -> str:
        path = tmp_path_factory.mktemp("point") / name
        tiny_operating_point(load_pair("tiny"), mode).write(path)
        return str(path)

    return write


def test_a_table_goes_to_stdout_and_progress_to_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*TWO, "--mode", "llm", "--mode", "slm", "--out", str(tmp_path)]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("HumanEval, tiny, at most 8 tokens")
    rows = {words[1]: words[3] for line in out.splitlines() if len(words := line.split()) > 3 and words[0] == "│"}
    assert rows["llm"] == rows["slm"] == "2", "tasks"
    assert "temperature 1, top-p 1; 95 % intervals over tasks; differences against llm" in " ".join(out.split())
    assert "4/4 answers" in err
    assert Evaluation.read(tmp_path / EVALUATION).points["slm"].skip_rate.value == 1


def test_json_is_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*TWO, "--mode", "llm", "--mode", "slm", "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found == json.loads((tmp_path / EVALUATION).read_text())
    assert [*found["points"]] == ["llm", "slm"]
    assert found["points"]["slm"]["against"]["other"] == "llm"


def test_without_a_mode_the_llm_answers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*TWO, "--out", str(tmp_path), "--json"]) == 0
    assert [*json.loads(capfd.readouterr().out)["points"]] == ["llm"]


def test_every_mode_is_evaluated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    modes = [part for mode in Mode for part in ("--mode", mode)]
    assert main([*TWO, *modes, "--limit", "1", "--out", str(tmp_path), "--json"]) == 0
    assert [*json.loads(capfd.readouterr().out)["points"]] == list(Mode)


def test_a_mode_twice_is_one_point(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*TWO, "--mode", "slm", "--mode", "slm", "--out", str(tmp_path), "--json"]) == 0
    out, err = capfd.readouterr()
    assert [*json.loads(out)["points"]] == ["slm"]
    assert "2/2 answers" in err


def test_operating_points_stand_behind_the_modes(
    tmp_path: Path, point_file: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    """By the names of their files; modes are evaluated on the first one's link."""
    files = [
        "--operating-point",
        point_file(Mode.U_HLM, "b.json"),
        "--operating-point",
        point_file(Mode.QUERY, "a.json"),
    ]
    assert main([*TWO, *files, "--mode", "slm", "--mode", "llm", "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["points"]
    assert {name: point["mode"] for name, point in found.items()} == {
        "slm": "slm", "llm": "llm", "b": "u-hlm", "a": "query",
    }  # fmt: skip
    assert [*found] == ["slm", "llm", "b", "a"]


@pytest.mark.parametrize("lanes", ["1", "3"])
def test_the_batch_size_changes_no_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str], lanes: str) -> None:
    def answers(size: str) -> list[str]:
        out = tmp_path / size
        assert main([*TWO, "--mode", "u-hlm", "--batch-size", size, "--out", str(out)]) == 0
        return sorted((out / "answers.jsonl").read_text().splitlines())

    assert answers(lanes) == answers("8")


def test_a_run_goes_on_with_resume(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*TWO, "--mode", "llm", "--limit", "1", "--out", str(tmp_path)]) == 0
    capfd.readouterr()
    more = [*TWO, "--mode", "llm", "--mode", "slm", "--out", str(tmp_path)]
    assert main(more) == 2
    out, err = capfd.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "already holds a run; add --resume" in err
    assert main([*more, "--resume", "--seed", "1"]) == 2
    assert "holds another run: seed is 0 there, 1 here" in capfd.readouterr().err
    assert main([*more, "--resume", "--batch-size", "3", "--json"]) == 0
    points = json.loads(capfd.readouterr().out)["points"]
    assert {name: point["n_tasks"] for name, point in points.items()} == {"llm": 2, "slm": 2}


def test_a_damaged_answer_ends_with_code_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*TWO, "--out", str(tmp_path)]) == 0
    path = tmp_path / "answers.jsonl"
    path.write_text("{}\n" + path.read_text())
    capfd.readouterr()
    assert main([*TWO, "--out", str(tmp_path), "--resume"]) == 1
    out, err = capfd.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "answers.jsonl: line 1 holds no answer" in err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--mode", "llmm"], ["--mode 'llmm' is unknown", "did you mean", "llm"]),
        (["--mode", "llm", "--mode", ""], ["--mode '' is unknown"]),
        (["--limit", "0"], ["--limit"]),
        (["--max-tokens", "0"], ["--max-tokens"]),
        (["--batch-size", "0"], ["--batch-size"]),
        (["--timeout", "0"], ["--timeout"]),
        (["--seed", "-1"], ["--seed"]),
        (["--pair", "tinny"], ["tinny", "tiny"]),
        (["--operating-point", "nowhere.json"], ["nowhere.json: no such file"]),
    ],
)
def test_bad_requests(refused: Refused, arguments: list[str], parts: list[str]) -> None:
    refused([*TWO, "--out", "out", *arguments], parts)


def test_out_is_needed(refused: Refused) -> None:
    refused(TWO, ["--out"])


def test_two_operating_points_of_one_name_are_refused(refused: Refused, point_file: Callable[..., str]) -> None:
    files = [point_file(Mode.U_HLM, "point.json"), point_file(Mode.QUERY, "point.json")]
    options = [part for path in files for part in ("--operating-point", path)]
    refused([*TWO, "--out", "out", *options], ["--operating-point", "two files share a name"])


@pytest.mark.parametrize("modes", [[], ["--mode", "slm", "--mode", "llm"]])
def test_an_operating_point_with_the_name_of_a_mode_is_refused(
    refused: Refused, point_file: Callable[..., str], modes: list[str]
) -> None:
    options = [*modes, "--operating-point", point_file(Mode.U_HLM, "llm.json")]
    refused([*TWO, "--out", "out", *options], ["--operating-point 'llm' has the name of a --mode; rename the file"])


def test_points_of_different_temperatures_are_refused(
    refused: Refused, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("point") / "cold.json"
    tiny = load_pair("tiny")
    tiny_operating_point(tiny, Mode.U_HLM).model_copy(update={"temperature": 0.5}).write(path)
    warm = path.with_name("warm.json")
    tiny_operating_point(tiny, Mode.U_HLM).write(warm)
    options = ["--operating-point", str(path), "--operating-point", str(warm)]
    refused([*TWO, "--out", "out", *options], ["different temperature or top-p are not comparable"])
