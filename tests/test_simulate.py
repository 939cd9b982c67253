"""Replays through every channel against what the laws state: within standard errors, fades and packets drawn."""

import json

import numpy as np
import pytest
from synthetic_records import FLOOR, TIMES, synthetic_positions, write_synthetic

from cuhlm_opt.cli.main import main
from cuhlm_opt.simulate import Replayed, draw_uplink_s, simulate
from cuhlm_opt.solve.modes_table import mode_point
from cuhlm_opt.solve.options import pose

CHANNELS = {
    "awgn": {},
    "rayleigh": {"channel": "rayleigh"},
    "rician": {"channel": "rician"},
    "nakagami": {"channel": "nakagami"},
    "ergodic": {"channel": "rayleigh", "coding": "ergodic"},
    "instantaneous": {"channel": "nakagami", "coding": "instantaneous"},
    "short packets": {"channel": "short-packet"},
    "trace": {"channel": "trace"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic")
    _, table, metadata = synthetic_positions(seed=8, vocab_size=120, prompts=60, length=8)
    write_synthetic(path, table, metadata, times=TIMES, numeric_floor=FLOOR)
    rates = np.random.default_rng(5).lognormal(10, 1, 60)
    path.joinpath("trace.csv").write_text("".join(f"{at / 10},{rate:.1f}\n" for at, rate in enumerate(rates)))
    return path


@pytest.mark.parametrize("mode", ["u-hlm", "cu-hlm-online", "coarse"])
@pytest.mark.parametrize("name", list(CHANNELS))
@pytest.mark.parametrize("pipelining", ["none", "eager"])
def test_mean_and_late_quantile_are_within_three_standard_errors(folder, name, mode, pipelining):
    link = CHANNELS[name] | ({"trace": str(folder / "trace.csv")} if name == "trace" else {"bandwidth_hz": 2e4})
    options = {"domain": "code", "policy": "budget", "max_bias": 0.05, "answer_tokens": 24, "rtt_s": 0.01}
    options["pipelining"] = pipelining
    posed = pose(str(folder), mode=mode, **options, **link)
    point, problem = mode_point(posed.problem, posed.mode), posed.problem
    replayed = Replayed(
        mode=posed.mode, times=problem.compute_times, link=problem.link, prompt=problem.gate.records.prompt,
        skip=point.skip, bits=point.bits, tokens=24,
    )  # fmt: skip
    found, count = simulate(replayed, precision=1e-9, least=60, most=60, seed=3)
    assert count == 60
    law = point.time
    assert abs(found["skip_rate"].value - point.skip_rate) < 3 * found["skip_rate"].se + 1e-12
    assert abs(found["latency_s"].value - law.mean_s) < 3 * found["latency_s"].se + 1e-12
    assert abs(found["uplink_bits_per_s"].value - law.uplink_bps) < 3 * found["uplink_bits_per_s"].se
    # A quantile of discrete times sits on an atom, or between the two that the draws choose from; messages that span a
    # finite number of blocks scatter around the ergodic limit by a twentieth.
    late, error = found["latency_p95_s"], found["latency_p95_s"].se
    scatter = 0.05 * problem.link.service(float(np.max(point.bits))).mean_s if name == "ergodic" else 0.0
    reached = (law.quantile(0.95 - spread) for spread in (0.006, -0.006))
    low, high = sorted(reached)
    assert low - 3 * error - scatter - 1e-9 <= late.value <= high + 3 * error + scatter + 1e-9


def test_the_same_seed_the_same_figures_and_early_stop(folder):
    posed = pose(str(folder), mode="coarse", domain="code", policy="budget", bandwidth_hz=2e4, answer_tokens=8)
    point, problem = mode_point(posed.problem, posed.mode), posed.problem
    replayed = Replayed(
        mode=posed.mode, times=problem.compute_times, link=problem.link, prompt=problem.gate.records.prompt,
        skip=point.skip, bits=point.bits, tokens=8,
    )  # fmt: skip
    first, again = (simulate(replayed, precision=0.01, seed=4) for _ in range(2))
    assert first == again
    figures, count = first
    assert count < 400
    assert figures["latency_s"].se <= 0.01 * figures["latency_s"].value
    assert simulate(replayed, precision=0.01, seed=5)[0] != figures
    assert figures["answer_p50_s"].value <= figures["answer_p95_s"].value <= figures["answer_p99_s"].value


def test_nothing_to_send_takes_no_time(folder):
    rng = np.random.default_rng(0)
    for name, link in CHANNELS.items():
        given = link | ({"trace": str(folder / "trace.csv")} if name == "trace" else {"bandwidth_hz": 2e4})
        uplink = pose(str(folder), domain="code", **given).problem.link.uplink
        assert draw_uplink_s(uplink, np.zeros(3), rng) == pytest.approx(np.zeros(3), abs=1e-12)
        assert uplink.service(0.0).mean_s == 0.0


def test_command_line(folder, capsys):
    given = ["--calibration", str(folder), "--domain", "code", "--policy", "budget", "--answer-tokens", "8"]
    assert main(["simulate", "--bandwidth", "20kHz", "--mode", "coarse", "--most", "5", "--json", *given]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["latency_s"]["stated"] == pytest.approx(figures["latency_s"]["simulated"], rel=0.1)
    assert main(["simulate", "--bandwidth", "20kHz", "--mode", "coarse", "--most", "5", *given]) == 0
    assert "latency_p95_s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "llm"], "--mode 'llm' cannot be replayed"),
        (["--precision", "0"], "--precision 0.0"),
        (["--most", "1"], "--most 1"),
        (["--channel", "rician", "--rician-k", "-1"], "--rician-k -1.0"),
        (["--channel", "nakagami", "--nakagami-m", "0.4"], "--nakagami-m 0.4"),
        (["--channel", "rayleigh", "--coding", "instantaneous"], "is infinite; use fixed-rate or ergodic"),
        (["--coding", "ergodic"], "--coding 'ergodic' goes with"),
        (["--channel", "trace"], "--channel 'trace' and --trace FILE go together"),
        (["--channel", "rayligh"], "did you mean rayleigh"),
    ],
)
def test_bad_replays_end_with_one_line_and_2(folder, capsys, arguments, message):
    given = ["--calibration", str(folder), "--domain", "code", "--policy", "budget", "--bandwidth", "20kHz"]
    assert main(["simulate", *given, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
