"""Sweeps: every point as `solve` has it, ranges, the Pareto front, resuming, and what is refused."""

import json
import math
from itertools import pairwise

import pyarrow.csv
import pyarrow.parquet
import pytest
from synthetic_records import FLOOR, TIMES, synthetic_positions, write_synthetic

from cuhlm_opt import sweep as module
from cuhlm_opt.cli.main import main
from cuhlm_opt.errors import InputError
from cuhlm_opt.modes import Mode
from cuhlm_opt.solve import solve
from cuhlm_opt.sweep import Solver, Sweep, pareto, parse_axis, sweep
from cuhlm_opt.units import parse_bandwidth_hz


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("synthetic")
    _, table, metadata = synthetic_positions(seed=1, vocab_size=60, prompts=10, length=6)
    write_synthetic(path, table, metadata, times=TIMES, numeric_floor=FLOOR)
    return str(path)


def plan(folder: str, **axes) -> Sweep:
    fixed = {"bandwidth_hz": 1e4, "domain": "code", "policy": "budget"}
    defaults = {"bandwidth_hz": (1e4, 1e6), "snr_db": (0.0, 10.0), "rtt_s": (0.0,), "max_bias": (0.02, 0.1)}
    return Sweep(axes=defaults | axes, calibration=folder, options=fixed)


def test_every_point_is_as_solve_has_it(folder, tmp_path):
    counted: list[int] = []
    table = sweep(plan(folder), tmp_path / "s.parquet", workers=1, progress=counted.append)
    assert counted == list(range(9))
    rows = pyarrow.parquet.read_table(tmp_path / "s.parquet").to_pylist()
    assert rows == table.to_pylist()
    assert len(rows) == 8 * (len(Mode) - 1)
    for row in rows[:: len(rows) // 7]:
        names = ("bandwidth_hz", "snr_db", "rtt_s", "max_bias")
        point = solve(folder, domain="code", policy="budget", **{name: row[name] for name in names})
        own = next(each for each in point.baselines if each.mode == row["mode"])
        assert row["throughput_tokens_per_s"] == pytest.approx(own.throughput_tokens_per_s)
        assert (row["bias"], row["k"], row["u_threshold"]) == (own.bias, own.k, own.u_threshold)
        assert row["recommended"] == (point.recommended.mode == row["mode"])
    speeds = [row for row in rows if row["mode"] == "coarse"]
    assert all(row["speedup_vs_hlm"] <= row["speedup_vs_hlm_published"] for row in speeds)


def test_where_late_quantiles_matter_every_mode_depends_on_the_link(folder):
    fixed = {"domain": "code", "policy": "budget", "objective": "latency-p95"}
    solver = Solver(folder, bandwidth_hz=1e3, **fixed)
    for bandwidth_hz in (1e3, 1e6):
        link = {"bandwidth_hz": bandwidth_hz, "snr_db": 10.0, "rtt_s": 0.0, "max_bias": 0.1}
        rows = {row["mode"]: row for row in solver.rows(link)}
        for own in solve(folder, **link, **fixed).baselines:
            if own.mode is not Mode.RANDOM:
                assert rows[str(own.mode)]["u_threshold"] == own.u_threshold


def test_processes_and_csv_give_the_same(folder, tmp_path):
    sweep(plan(folder), tmp_path / "one.csv", workers=1, progress=lambda done: None)
    sweep(plan(folder), tmp_path / "two.csv", workers=2, progress=lambda done: None)
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text()
    assert pyarrow.csv.read_csv(tmp_path / "one.csv").num_rows == 80


def test_an_interrupted_sweep_goes_on_where_it_stopped(folder, tmp_path, monkeypatch):
    solved: list[float] = []
    rows = Solver.rows

    def counting(self, point):
        if len(solved) == 3:
            raise KeyboardInterrupt
        solved.append(point["bandwidth_hz"])
        return rows(self, point)

    monkeypatch.setattr(module.Solver, "rows", counting)
    out = tmp_path / "s.csv"
    with pytest.raises(KeyboardInterrupt):
        sweep(plan(folder), out, workers=1, progress=lambda done: None)
    assert not out.exists()
    journal = tmp_path / ".s.csv.partial"
    journal.write_text(journal.read_text()[:-20])  # the last line was cut while it was written
    solved.clear()
    monkeypatch.setattr(module.Solver, "rows", lambda self, point: (solved.append(1.0), rows(self, point))[1])
    with pytest.raises(InputError, match="of another sweep"):
        sweep(plan(folder, rtt_s=(0.1,)), out, resume=True, workers=1, progress=lambda done: None)
    resumed = sweep(plan(folder), out, resume=True, workers=1, progress=lambda done: None)
    assert len(solved) == 8 - 2
    assert not journal.exists()
    whole = sweep(plan(folder), tmp_path / "whole.csv", workers=1, progress=lambda done: None)
    assert resumed.equals(whole)


def test_pareto_front_by_definition():
    points = [(3.0, 0.1), (5.0, 0.1), (5.0, 0.2), (9.0, 0.4), (1.0, 0.0), (0.5, 0.0), (None, 0.0), (2.0, None)]
    assert pareto(points) == [False, True, False, True, True, False, False, False]


def number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name} {text!r} is not a number") from None


def test_ranges():
    assert parse_axis("1MHz:4MHz:log:3", "--x", parse_bandwidth_hz) == pytest.approx((1e6, 2e6, 4e6))
    assert parse_axis("-20:20:10", "--x", number) == (-20.0, -10.0, 0.0, 10.0, 20.0)
    assert len(parse_axis("0:0.3:0.1", "--x", number)) == 4
    assert parse_axis("5:5:lin:1", "--x", number) == (5.0,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2:1:0.5", "is empty: it ends below"),
        ("1:2:0", "is empty: its step"),
        ("1:2:log", "--x"),
        ("1:2:geo:3", "is not a range"),
        ("1:2:lin:0", "is not a range"),
        ("0:2:log:3", "begins above 0"),
        ("1,,2", "is not a range"),
        ("1:2", "is not a range"),
    ],
)
def test_ranges_that_are_none(text, message):
    with pytest.raises(InputError) as caught:
        parse_axis(text, "--x", number)
    assert message in str(caught.value)


def test_command_line(folder, tmp_path, capsys):
    out = tmp_path / "s.csv"
    link = ["--bandwidth", "10kHz:1MHz:log:3", "--snr=-10dB:10dB:20dB", "--max-bias", "0.02,0.1"]
    given = ["--calibration", folder, "--domain", "code", "--policy", "budget", "--out", str(out), "--json"]
    assert main(["sweep", *link, *given]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["points"], summary["rows"]) == (12, 120)
    assert sum(summary["recommended"].values()) == 12
    assert math.isclose(pyarrow.csv.read_csv(out)["bandwidth_hz"].to_pylist()[0], 1e4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bandwidth", "1MHz:2MHz:lin:1000000"], "1,000,000 points would be solved; add --yes"),
        (["--bandwidth", "1MHz", "--out", "s.txt"], "give a .csv or a .parquet file"),
        (["--bandwidth", "1MHz", "--max-bias", "much"], "--max-bias 'much' is not a number"),
        (["--bandwidth", "1MHz", "--max-bias", "2"], "--max-bias 2.0"),
        (["--bandwidth", "1MHz", "--workers", "0"], "--workers 0"),
        (["--bandwidth", "2MHz:1MHz:lin:3"], "is empty"),
    ],
)
def test_bad_sweeps_end_with_one_line_and_2(folder, tmp_path, capsys, arguments, message):
    defaults = ["--calibration", folder, "--domain", "code"]
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "s.csv")]
    assert main(["sweep", *arguments, *defaults, *out]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_where_the_llm_reads_on_a_larger_budget_is_never_slower(folder):
    """Skipping can cost then: a message that follows a verdict at once needs no further pass."""
    fixed = {"domain": "code", "policy": "budget", "pipelining": "eager", "llm_s": 0.03}
    solver = Solver(folder, bandwidth_hz=1e6, **fixed)
    speeds = {mode: [] for mode in ("u-hlm", "coarse", "exact", "cu-hlm-offline")}
    for budget in (0.0, 0.02, 0.1, 0.2):
        rows = solver.rows({"bandwidth_hz": 1e6, "snr_db": 10.0, "rtt_s": 0.0, "max_bias": budget})
        for row in rows:
            if row["mode"] in speeds:
                speeds[row["mode"]].append(row["throughput_tokens_per_s"])
    for mode in ("coarse", "exact"):  # the others spend a budget of 0 on rounding
        assert all(after >= before * (1 - 1e-9) for before, after in pairwise(speeds[mode]))
    assert all(after >= before * (1 - 1e-9) for each in speeds.values() for before, after in pairwise(each[1:]))


def test_a_link_that_cannot_be_is_named_before_any_is_solved(folder, tmp_path, capsys):
    arguments = ["sweep", "--calibration", folder, "--domain", "code", "--out", str(tmp_path / "s.csv")]
    fading = ["--bandwidth", "1MHz", "--channel", "rayleigh", "--fixed-rate", "4", "--snr=-10dB,20dB"]
    assert main([*arguments, *fading]) == 2
    assert "at --snr -10dB: --fixed-rate 4.0" in capsys.readouterr().err
    trace = tmp_path / "trace.csv"
    trace.write_text("0,1e4\n1,2e4\n2,1e4\n")
    through = ["--channel", "trace", "--trace", str(trace)]
    for axis in (["--bandwidth", "1MHz"], ["--snr", "0dB,10dB"]):
        assert main([*arguments, *through, *axis]) == 2
        assert "do not go with --channel trace" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace.csv"]


def test_resuming_notices_another_trace(folder, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("0,1e4\n1,2e4\n2,1e4\n")
    through = plan(folder, bandwidth_hz=(None,), snr_db=(10.0,))
    through.options.update(channel="trace", trace=str(trace), bandwidth_hz=None)

    def stop(done: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(through, tmp_path / "s.csv", workers=1, progress=stop)
    trace.write_text("0,1e5\n1,2e5\n2,1e5\n")
    with pytest.raises(InputError, match="of another sweep"):
        sweep(through, tmp_path / "s.csv", resume=True, workers=1, progress=lambda done: None)
