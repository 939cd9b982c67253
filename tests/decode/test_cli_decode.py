"""`cuhlm-opt decode`: what is printed where, which point is applied, and one clear line for every bad request."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from decode_fakes import fake_pair, operating_point

from cuhlm_opt.artefacts import ModeRow
from cuhlm_opt.cli.decode import decode
from cuhlm_opt.decode.default_point import default_operating_point, with_mode
from cuhlm_opt.errors import InputError
from cuhlm_opt.models import pairs
from cuhlm_opt.models.pairs import load_pair
from cuhlm_opt.modes import Mode

KEYS = {
    "text", "tokens", "mode", "seed", "pair", "finish_reason", "wire_bytes", "wire", "n_tokens",
    "prompt_tokens", "skip_rate",
    "tokens_unverified", "risk_unverified",
    "uploads", "rejections", "rejection_rate", "payload_bits", "payload_bits_total", "uplink_s", "link_total_s",
    "server_passes_per_token", "llm_tokens_read", "llm_tokens_flushed", "bias_skip", "risk_expected", "bias_budget",
    "bias_truncation", "bias_quantisation", "bias_ledger", "numeric_floor",
    "u_threshold", "state_thresholds", "signal", "k", "k_mean", "tokens_per_round", "drafts_per_round", "domain",
    "timing", "warnings", "assumptions",
}  # fmt: skip

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(decode)

    def call(*arguments: str) -> tuple[str, str]:
        app(args=list(arguments), standalone_mode=False)
        captured = capsys.readouterr()
        return captured.out, captured.err

    return call


def tiny(run: Run, *arguments: str) -> dict[str, Any]:
    out, _ = run("--pair", "tiny", "--json", "--max-tokens", "24", *arguments)
    return dict(json.loads(out))


@pytest.fixture
def point_file(tmp_path: Path) -> Callable[..., str]:
    def write(mode: str, **changes: Any) -> str:
        path = tmp_path / "point.json"
        operating_point(mode, **changes).write(path)
        return str(path)

    return write


def test_json_is_one_object_with_every_figure(run: Run) -> None:
    figures = tiny(run, "abc")
    assert set(figures) == KEYS
    assert (figures["mode"], figures["seed"], figures["pair"]) == ("cu-hlm-offline", 0, "tiny")
    assert figures["assumptions"]
    assert figures["warnings"] == []


def test_text_goes_to_stdout_and_figures_to_stderr(run: Run) -> None:
    out, err = run("--pair", "tiny", "--max-tokens", "24", "abc")
    assert out == tiny(run, "abc")["text"] + "\n"
    assert "risk of the skips" in err
    assert "assumed:" in err


@pytest.mark.parametrize("mode", list(Mode))
def test_every_mode_runs_on_the_tiny_pair_and_repeats(run: Run, mode: Mode) -> None:
    first, again = (tiny(run, "--mode", mode, "--seed", "7", "abc") for _ in range(2))
    assert first.pop("timing") != again.pop("timing")
    assert first == again
    assert first["mode"] == mode
    assert tiny(run, "--mode", mode, "--seed", "8", "abc")["tokens"] != first["tokens"]


def test_the_prompt_may_come_from_stdin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"abc")))
    assert tiny(run, "-")["tokens"] == tiny(run, "abc")["tokens"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    with pytest.raises(InputError, match="PROMPT is not UTF-8"):
        tiny(run, "-")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "cu-hlm-ofline", "a"], "--mode 'cu-hlm-ofline' is unknown; did you mean cu-hlm-offline"),
        (["--seed", "-1", "a"], "--seed -1 is not allowed; give an integer of at least 0"),
        (["--max-tokens", "0", "a"], "--max-tokens 0 is not allowed"),
        (["--context-length", "7", "a"], "--context-length 7 is not allowed"),
        ([""], "PROMPT is empty"),
        ([" \n\t"], "PROMPT is empty"),
        (["\udcff"], "PROMPT is not UTF-8"),
        (["--operating-point", "nowhere.json", "a"], "nowhere.json: no such file"),
    ],
)
def test_bad_requests(run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("models were loaded before the request was checked")

    monkeypatch.setattr(pairs, "load_pair", refuse)
    with pytest.raises(InputError, match=message):
        run(*arguments)


@pytest.mark.parametrize(("arguments", "message"), [(["--seed", "one", "a"], "--seed"), ([], "PROMPT")])
def test_options_that_do_not_parse_name_themselves(run: Run, arguments: list[str], message: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  typer's own error, which the command turns into one line
        run(*arguments)
    assert getattr(caught.value, "exit_code", None) == 2
    assert message in caught.value.format_message()  # type: ignore[attr-defined]


def test_a_damaged_operating_point_is_refused(run: Run, point_file: Callable[..., str]) -> None:
    path = Path(point_file("hlm"))
    whole = path.read_text()
    for damaged in (
        whole[:100],
        whole.replace('"k": 2', '"k": "two"'),
        whole.replace('"schema_version": 1', '"schema_version": 9'),
    ):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"operatingpoint .*point\.json"):
            run("--pair", "tiny", "--operating-point", str(path), "a")


def test_an_operating_point_is_applied_and_its_pair_is_checked(run: Run, point_file: Callable[..., str]) -> None:
    figures = tiny(run, "--operating-point", point_file("u-hlm", u_threshold=1.0), "abc")
    assert (figures["mode"], figures["skip_rate"], figures["uploads"]) == ("u-hlm", 1, 0)
    assert "solved for pair 'fake' and is applied to 'tiny'" in figures["warnings"][0]
    _, err = run("--pair", "tiny", "--operating-point", point_file("u-hlm"), "abc")
    assert "warning: the operating point was solved for pair 'fake'" in " ".join(err.split())


def test_the_mode_may_be_changed_where_the_point_allows_it(run: Run, point_file: Callable[..., str]) -> None:
    figures = tiny(run, "--operating-point", point_file("u-hlm", k=3), "--mode", "exact", "abc")
    assert (figures["mode"], figures["k"]) == ("exact", 3)
    with pytest.raises(InputError, match="mode 'exact' needs k"):
        tiny(run, "--operating-point", point_file("u-hlm", k=None), "--mode", "exact", "abc")
    with pytest.raises(InputError, match="mode 'coarse'"):
        tiny(run, "--operating-point", point_file("u-hlm", signal="u_mc"), "--mode", "coarse", "abc")


def test_another_mode_takes_what_the_solver_found_for_it() -> None:
    """A row that the solver determined is taken whole, never skipping included; without one the point's own is used."""
    row = ModeRow(
        mode=Mode.EXACT, throughput_tokens_per_s=1.0, latency_s=1.0, payload_bits=1.0, skip_rate=0.2,
        server_passes_per_token=0.8, bias=0.01, bias_kind="exact", u_threshold=0.3, k=5, theta=0.05, law="",
    )  # fmt: skip
    changed = with_mode(operating_point("u-hlm", baselines=(row,)), Mode.EXACT)
    assert (changed.mode, changed.u_threshold, changed.k, changed.skip_rate) == (Mode.EXACT, 0.3, 5, 0.2)
    assert changed.theta == 0.05
    assert with_mode(operating_point("u-hlm", baselines=(row,)), Mode.COARSE).u_threshold == 0.49
    never = row.model_copy(update={"u_threshold": None, "skip_rate": 0.0})
    assert with_mode(operating_point("u-hlm", baselines=(never,)), Mode.EXACT).u_threshold is None
    unknown = row.model_copy(update={"u_threshold": None, "skip_rate": None})
    assert with_mode(operating_point("u-hlm", baselines=(unknown,)), Mode.EXACT).u_threshold == 0.49


def test_the_default_point_of_the_tiny_pair_keeps_its_budget() -> None:
    pair = load_pair("tiny")
    point = default_operating_point(pair.name, None)
    assert point == default_operating_point(pair.name, Mode.CU_HLM_OFFLINE)
    assert point.bias_skip is not None
    assert 0 < point.bias_skip <= point.bias_budget
    assert point.skip_rate is not None
    assert 0 < point.skip_rate < 1


def test_models_are_closed_whatever_happens(
    run: Run, monkeypatch: pytest.MonkeyPatch, point_file: Callable[..., str]
) -> None:
    pair = fake_pair(context=3)
    monkeypatch.setattr(pairs, "load_pair", lambda *_, **__: pair)
    with pytest.raises(InputError, match="fit the context"):
        run("--operating-point", point_file("hlm"), "go")
    assert (pair.slm.closed, pair.llm.closed) == (True, True)
