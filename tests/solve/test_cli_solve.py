"""`cuhlm-opt solve` as it is typed."""

import json
import subprocess
import sys

import pytest
from synthetic_records import synthetic_positions, write_synthetic

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.cli.main import main
from cuhlm_opt.modes import Mode

_, TABLE, METADATA = synthetic_positions(seed=5, prompts=6)
HEAVY = ("torch", "transformers", "llama_cpp", "matplotlib", "sympy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic")
    write_synthetic(path, TABLE, METADATA)
    return path


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["solve", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_is_one_object_and_nothing_else(folder, capsys, tmp_path):
    out = tmp_path / "deep" / "point.json"
    code, stdout, stderr = run(
        capsys, "--bandwidth", "10MHz", "--calibration", str(folder), "--domain", "code", "--out", str(out), "--json"
    )
    assert (code, stderr) == (0, "")
    document = json.loads(stdout)
    assert document["channel"]["bandwidth_hz"] == 10e6
    assert document == json.loads(out.read_text())
    assert OperatingPoint.read(out).mode is Mode.CU_HLM_OFFLINE


def test_units_reach_the_link(folder, capsys):
    _, stdout, _ = run(
        capsys, "--bandwidth", "200kHz", "--snr", "-5dB", "--rtt", "20ms", "--downlink", "1ms", "--calibration",
        str(folder), "--llm-time", "80ms", "--slm-time", "10ms", "--gate-time", "0ms", "--json",
    )  # fmt: skip
    document = json.loads(stdout)
    link = document["channel"]
    assert (link["bandwidth_hz"], link["snr_db"], link["rtt_s"], link["downlink_s"]) == (200e3, -5.0, 0.02, 0.001)
    assert document["times"]["slm_s"] == 0.01
    assert document["times"]["gate_s"] == 0
    assert document["times"]["llm_pass_s"]["1"] == pytest.approx(0.08)


@pytest.mark.parametrize("mode", list(Mode))
def test_table_shows_every_mode_and_assumption_within_100_columns(folder, capsys, mode):
    code, stdout, _ = run(capsys, "--bandwidth", "10MHz", "--calibration", str(folder), "--mode", mode)
    assert code == 0
    lines = stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in stdout
    first_words = [line.split()[0] for line in lines if line.split()]
    for other in Mode:
        assert other in first_words or (other is mode and f"* {mode}" in stdout)
    for label in ("threshold", "skip rate", "bias", "recommended", "warning", "assumed"):
        assert any(line.startswith(label) for line in lines), label


def test_degenerate_is_said_at_the_threshold(capsys, folder):
    document = json.loads((folder / "calibration.json").read_text())
    computed = document["domains"]["code"]["signals"]["u_bar"]["risk_prone"]
    assert computed > 1
    code, stdout, _ = run(
        capsys, "--bandwidth", "10MHz", "--calibration", str(folder), "--domain", "code", "--policy", "risk-prone"
    )
    assert code == 0
    assert f"risk-prone gives {computed:.4f}, degenerate and not used" in stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--bandwidth", "0"), ("--bandwidth", "'0'")),
        (("--bandwidth", "-5MHz"), ("--bandwidth", "'-5MHz'")),
        (("--bandwidth", "10"), ("--bandwidth", "'10'", "10MHz")),
        (("--bandwidth", "10 parsecs"), ("--bandwidth", "'10 parsecs'")),
        (("--bandwidth", "NaN"), ("--bandwidth", "'NaN'")),
        (("--bandwidth", "infHz"), ("--bandwidth", "'infHz'")),
        (("--bandwidth", "10MHz", "--snr", "ten"), ("--snr", "'ten'", "decibels")),
        (("--bandwidth", "10MHz", "--snr", "10"), ("--snr", "'10'", "decibels")),
        (("--bandwidth", "10MHz", "--rtt", "20"), ("--rtt", "'20'")),
        (("--bandwidth", "10MHz", "--max-bias", "nan"), ("--max-bias", "nan")),
        (("--bandwidth", "10MHz", "--max-bias", "2"), ("--max-bias", "2.0", "between 0 and 1")),
        (("--bandwidth", "10MHz", "--channel", "awng"), ("--channel", "did you mean awgn")),
        (("--bandwidth", "10MHz", "--policy", "risk-avers"), ("--policy", "did you mean risk-averse")),
        (("--bandwidth", "10MHz", "--mode", "uhlm"), ("--mode", "u-hlm")),
        (("--bandwidth", "10MHz", "--calibration", "published-uhlm"), ("--calibration", "published-u-hlm")),
    ],
)
def test_bad_input_is_one_line_and_exit_2(capsys, arguments, parts):
    code, stdout, stderr = run(capsys, *arguments)
    assert (code, stdout) == (2, "")
    assert len(stderr.splitlines()) == 1
    for part in parts:
        assert part in stderr


def test_infeasible_is_exit_3(capsys, folder):
    code, _, stderr = run(
        capsys, "--bandwidth", "10MHz", "--calibration", str(folder), "--theta", "0.5", "--max-bias", "0.01"
    )
    assert code == 3
    assert "--theta" in stderr


def test_cold_start_loads_nothing_heavy(folder):
    script = (
        "import sys; from cuhlm_opt.cli.main import main; "
        f"code = main(['solve', '--bandwidth', '10MHz', '--calibration', {str(folder)!r}, '--json']); "
        f"sys.stderr.write(','.join(name for name in {HEAVY!r} if name in sys.modules)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert json.loads(done.stdout)["calibration"]["id"] == "synthetic"
