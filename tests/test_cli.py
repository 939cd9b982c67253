"""The command as a whole: one line and exit code 2 for bad input, the documented commands, nothing heavy at import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cuhlm_opt import __version__
from cuhlm_opt.cli.main import main

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["solve"], ["--bandwidth"]),
        (["solve", "--bandwidth", "0"], ["--bandwidth", "'0'", "10MHz"]),
        (["solve", "--bandwidth", "-5MHz"], ["--bandwidth", "'-5MHz'"]),
        (["solve", "--bandwidth", "10"], ["--bandwidth", "'10'", "unit"]),
        (["solve", "--bandwidth", "10 parsecs"], ["--bandwidth", "'10 parsecs'"]),
        (["solve", "--bandwidth", "NaN"], ["--bandwidth", "'NaN'"]),
        (["solve", "--bandwidth", "10MHz", "--snr", "very good"], ["--snr", "'very good'", "decibels"]),
        (["solve", "--bandwidth", "10MHz", "--max-bias", "1.5"], ["--max-bias", "1.5", "between 0 and 1"]),
        (["solve", "--bandwidth", "10MHz", "--max-bias", "nan"], ["--max-bias", "nan"]),
        (["solve", "--bandwidth", "10MHz", "--max-bias", "lots"], ["--max-bias", "lots"]),
        (["solve", "--bandwidth", "10MHz", "--policy", "budgie"], ["--policy", "'budgie'", "did you mean budget"]),
        (["solve", "--bandwidth", "10MHz", "--mode", "cu-hlm"], ["--mode", "cu-hlm-offline"]),
        (["solve", "--bandwidth", "10MHz", "--calibration", "qwen2.5"], ["'qwen2.5'", "qwen2.5-coder"]),
        (["solve", "--bandwidth", "10MHz", "--surprise"], ["--surprise"]),
        (["decode", "--pair", "tyni", "abc"], ["'tyni'", "tiny"]),
        (["decode", "--pair", "tiny", ""], ["empty"]),
        (["decode", "--pair", "tiny", "--mode", "fast", "abc"], ["--mode", "'fast'"]),
        (["decode", "--pair", "tiny", "--max-tokens", "0", "abc"], ["--max-tokens", "0"]),
        (["decode", "--pair", "tiny", "a" * 5000], ["context"]),
        (["calibrate", "--pair", "tiny", "--prompts", "genral", "--out", "x"], ["'genral'", "general"]),
        (["calibrate", "--pair", "tiny", "--temperature", "0", "--out", "x"], ["--temperature", "0.0"]),
        (["pairs", "fetch", "qwen"], ["'qwen'", "qwen2.5-coder"]),
        (["fit", "none.parquet", "--out", "x"], ["none.parquet", "no such file"]),
        (["sovle"], ["sovle"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(refused, arguments, parts):
    refused(arguments, parts)


def test_help_names_every_command_of_the_readme(capfd):
    assert main(["--help"]) == 0
    shown = capfd.readouterr().out
    commands = ("calibrate", "fit", "solve", "sweep", "simulate", "cell", "decode", "pairs", "derive", "figures")
    for command in commands:
        assert command in shown
        assert f"| `{command}` |" in README


def test_version(capfd):
    assert main(["--version"]) == 0
    assert capfd.readouterr().out.strip() == __version__


def test_read_only_folder_is_exit_code_1(tmp_path, capfd):
    """Root may write anywhere, so a file stands where the folder should be."""
    (tmp_path / "taken").write_text("")
    assert main(["calibrate", "--pair", "tiny", "--limit", "1", "--out", str(tmp_path / "taken" / "run")]) == 1
    err = capfd.readouterr().err.splitlines()
    assert len(err) == 1
    assert "cannot write" in err[0]


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, cuhlm_opt, cuhlm_opt.cli.main; print(sorted(sys.modules))"
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    loaded = set(eval(done.stdout))
    assert not loaded & {"torch", "transformers", "llama_cpp", "matplotlib", "sympy", "scipy"}
