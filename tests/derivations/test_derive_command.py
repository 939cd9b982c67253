"""`cuhlm-opt derive`: its output and its exit codes, on a folder of small derivations."""

import json

import pytest
import typer
from typer.testing import CliRunner

from cuhlm_opt.cli import derive as command
from cuhlm_opt.errors import RunError
from cuhlm_opt.resources import derivations_dir

SCRIPT = '''
"""A result."""

import sympy as sp
from derivation import Derivation, Source


def derive():
    return Derivation(
        name="{name}", theory="{theory}", statement="TV <= {name} & 50% [x_d]", latex="x^2", source=Source.OWN,
        assumptions=("x_d > 0",), method="algebra", result=sp.Symbol("x") ** 2, holds={holds},
    )
'''


@pytest.fixture
def app():
    app = typer.Typer()
    app.command()(command.derive)
    return app


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with two derivations, `late_result` of section 10 and `early_result` of section 4.1."""
    (tmp_path / "derivation.py").write_text((derivations_dir() / "derivation.py").read_text())
    write(tmp_path, "late_result", "10")
    write(tmp_path, "early_result", "4.1")
    monkeypatch.setattr(command, "derivations_dir", lambda: tmp_path)
    yield tmp_path
    for name in ("late_result", "early_result", "broken_result", "false_result"):
        command.sys.modules.pop(name, None)


def write(folder, name, theory, *, holds=True):
    (folder / f"{name}.py").write_text(SCRIPT.format(name=name, theory=theory, holds=holds))


def test_table(app, folder):
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0, done.output
    assert done.stdout.index("early_result") < done.stdout.index("late_result")
    assert "[N] THEORY 4.1" in done.stdout
    assert "2 of 2 hold" in done.stdout


def test_json_is_one_list_and_nothing_else(app, folder):
    done = CliRunner().invoke(app, ["--json"])
    assert done.exit_code == 0
    first, second = json.loads(done.stdout)
    assert first == {
        "name": "early_result",
        "theory": "4.1",
        "statement": "TV <= early_result & 50% [x_d]",
        "source": "N",
        "assumptions": ["x_d > 0"],
        "method": "algebra",
        "holds": True,
        "latex": "x^2",
        "result": "x**2",
    }
    assert second["name"] == "late_result"


def test_one_that_does_not_hold_is_shown_and_fails(app, folder):
    write(folder, "false_result", "5", holds=False)
    done = CliRunner().invoke(app, ["--json"])
    assert [record["holds"] for record in json.loads(done.stdout)] == [True, False, True]
    assert isinstance(done.exception, RunError)
    assert done.exception.exit_code == 1
    assert str(done.exception) == "1 of 3 derivations do not hold: false_result"


def test_a_script_that_fails_is_one_line(app, folder):
    (folder / "broken_result.py").write_text("def derive():\n    raise ArithmeticError('no sign')\n")
    done = CliRunner().invoke(app, [])
    assert isinstance(done.exception, RunError)
    assert str(done.exception) == "derivation broken_result: ArithmeticError: no sign"


def test_latex_appendix(app, folder, tmp_path):
    target = tmp_path / "out" / "appendix.tex"
    done = CliRunner().invoke(app, ["--latex", str(target)])
    assert done.exit_code == 0
    text = target.read_text()
    assert r"TV $\le$ early\_result \& 50\% [x\_d]." in text
    for environment in ("tabular", "gather*"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") > 0
    assert text.count(r"\begingroup") == text.count(r"\endgroup") == 2
    assert text.count(r"\paragraph") == 2


def test_empty_folder(app, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "derivations_dir", lambda: tmp_path)
    done = CliRunner().invoke(app, [])
    assert isinstance(done.exception, RunError)
    assert "no derivation found" in str(done.exception)


def test_sympy_missing(app, folder, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    done = CliRunner().invoke(app, [])
    assert isinstance(done.exception, RunError)
    assert "cuhlm-opt[proofs]" in str(done.exception)
