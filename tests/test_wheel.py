"""A wheel installed into an empty environment outside the checkout: `solve` works there, and loads nothing heavy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "llama_cpp", "matplotlib", "sympy")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bin folder of a fresh environment that holds the built wheel and its dependencies only."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    (wheel,) = folder.glob("*.whl")
    pip = [
        str(folder / "env/bin/python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        str(ROOT / "constraints.txt"),
    ]
    subprocess.run([*pip, str(wheel)], check=True, cwd=folder)
    return folder / "env" / "bin"


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(installed / arguments[0]), *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, cwd=installed, env=environment, check=False)


def test_solve_works_right_after_installing(installed):
    done = run(installed, "cuhlm-opt", "solve", "--bandwidth", "10MHz", "--json")
    assert done.returncode == 0, done.stderr
    point = json.loads(done.stdout)
    assert point["calibration"]["pair"] == "qwen2.5-coder"
    assert point["domain"] == "general"
    assert point["recommended"]["mode"] in {row["mode"] for row in point["baselines"]}


def test_solve_loads_nothing_heavy(installed):
    code = (
        "import sys; from cuhlm_opt.cli.main import main; "
        "code = main(['solve', '--bandwidth', '10MHz', '--json']); "
        f"print([name for name in {HEAVY} if name in sys.modules], code, file=sys.stderr)"
    )
    done = run(installed, "python", "-c", code)
    assert done.stderr.splitlines()[-1] == "[] 0", done.stderr


def test_commands_that_need_an_extra_say_which(installed):
    done = run(installed, "cuhlm-opt", "derive")
    assert done.returncode != 0
    assert "cuhlm-opt[proofs]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_tiny_pair_decodes_without_any_backend(installed):
    done = run(installed, "cuhlm-opt", "decode", "--pair", "tiny", "--json", "abc")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_tokens"] > 0


def test_figures_are_listed_and_say_which_extra_draws_them(installed):
    done = run(installed, "cuhlm-opt", "figures", "--list")
    assert done.returncode == 0, done.stderr
    assert "pareto" in done.stdout
    done = run(installed, "cuhlm-opt", "figures", "table-modes", "--out", "tables")
    assert done.returncode == 0, done.stderr
    done = run(installed, "cuhlm-opt", "figures", "pareto", "--out", "drawn")
    assert done.returncode == 1
    assert "cuhlm-opt[figures]" in done.stderr
    assert len(done.stderr.splitlines()) == 1
