"""Tables behind figures: each is still what its solver gives, and is made anew only where it must be."""

import numpy as np
import pytest
from synthetic_records import synthetic_positions, write_synthetic

from cuhlm_opt.allocation import SLACK
from cuhlm_opt.cli.main import main
from cuhlm_opt.figures.data import data_scripts, make_data
from cuhlm_opt.figures.inputs import Inputs
from cuhlm_opt.modes import Drafting, Mode
from cuhlm_opt.resources import figures_dir
from cuhlm_opt.solve.modes_table import mode_point
from cuhlm_opt.solve.options import pose
from cuhlm_opt.solve.points import throughput
from cuhlm_opt.solve.speculating import MOST_DRAFTS
from cuhlm_opt.sweep import AXES, Solver

PAIR = "qwen2.5-coder"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return Inputs(PAIR, figures_dir(), tmp_path_factory.mktemp("out"))


@pytest.mark.parametrize("name", ["snr", "bandwidth", "pareto", "map"])
def test_a_shipped_table_is_what_the_solver_gives_today(inputs, name):
    rows = inputs.data(name)
    row = rows[np.random.default_rng(0).integers(len(rows))]
    solver = Solver(PAIR, bandwidth_hz=1e6, domain=row["domain"], channel=row.get("channel", "awgn"))
    now = {each["mode"]: each for each in solver.rows({axis: row[axis] for axis in AXES})}
    for then in rows:
        if all(then.get(key) == row.get(key) for key in ("domain", "channel", *AXES)):
            own = now[then["mode"]]
            assert then["throughput_tokens_per_s"] == pytest.approx(own["throughput_tokens_per_s"], rel=1e-9)
            assert then["bias"] == pytest.approx(own["bias"], rel=1e-9)
            assert then["recommended"] == own["recommended"]


def test_without_compute_times_nothing_is_made(tmp_path, capsys):
    _, table, metadata = synthetic_positions(prompts=8)
    write_synthetic(tmp_path / "untimed", table, metadata, times=None)
    assert main(["figures-data", "points", "--calibration", str(tmp_path / "untimed"), "--out", str(tmp_path)]) == 2
    assert "no compute times" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_parts_of_a_token_s_time_make_up_its_latency(inputs):
    parts = ("slm_s", "gate_s", "uplink_s", "round_trip_s", "llm_s")
    for row in inputs.data("points"):
        assert sum(row[part] for part in parts) == pytest.approx(row["latency_s"], rel=1e-9)
        assert all(row[part] >= 0 for part in parts)


def test_draft_lengths_are_what_the_solver_gives_today(inputs):
    rows = [row for row in inputs.data("drafting") if row["way"] in list(Drafting)]
    for row in np.random.default_rng(0).choice(rows, 3, replace=False):
        way = {"mode": "speculative", "drafting": row["way"], "draft_length": row["draft_length"]}
        link = {"bandwidth_hz": row["bandwidth_hz"], "snr_db": row["snr_db"], "rtt_s": row["rtt_s"]}
        problem = pose(PAIR, domain=row["domain"], max_bias=row["max_bias"], **link, **way).problem
        now = throughput(problem, mode_point(problem, Mode.SPECULATIVE))
        assert row["throughput_tokens_per_s"] == pytest.approx(now, rel=1e-9)


def test_the_chosen_draft_length_is_the_fastest_of_all(inputs):
    rows = [row for row in inputs.data("drafting") if row["way"] in list(Drafting)]
    for chosen in (row for row in rows if row["chosen"]):
        alike = [row for row in rows if all(row[key] == chosen[key] for key in ("domain", "rtt_s", "way"))]
        assert len(alike) == 1 + MOST_DRAFTS
        speeds = [row["throughput_tokens_per_s"] for row in alike]
        assert chosen["throughput_tokens_per_s"] == pytest.approx(max(speeds), rel=1e-12)


def test_no_split_of_a_cell_beats_the_one_that_is_best_at_it(inputs):
    rows = inputs.data("cell")
    for mode, bandwidth_hz in {(row["mode"], row["bandwidth_hz"]) for row in rows}:
        own = [row for row in rows if (row["mode"], row["bandwidth_hz"]) == (mode, bandwidth_hz)]
        latency_s = {split: [r["latency_s"] for r in own if r["split"] == split] for split in {r["split"] for r in own}}
        shares = {split: [r["share"] for r in own if r["split"] == split] for split in latency_s}
        assert all(sum(each) == pytest.approx(1.0, rel=1e-9) for each in shares.values())
        assert sum(latency_s["sum"]) <= min(map(sum, latency_s.values())) * (1 + 1e-9)
        assert max(latency_s["max"]) <= min(map(max, latency_s.values())) * (1 + 2 * SLACK)


def test_a_split_of_a_cell_is_what_the_solver_gives_today(inputs):
    """Loads and latencies of equal shares, solved for each device on a link of its own."""
    rows = [row for row in inputs.data("cell") if row["split"] == "equal"]
    for row in np.random.default_rng(0).choice(rows, 3, replace=False):
        bandwidth_hz = row["share"] * row["bandwidth_hz"]
        snr_db = row["snr_db"] + 10 * np.log10(row["reference_hz"] / bandwidth_hz)
        options = {"bandwidth_hz": bandwidth_hz, "snr_db": snr_db, "domain": row["domain"], "max_bias": row["max_bias"]}
        problem = pose(PAIR, **options).problem
        latency_s = mode_point(problem, Mode(row["mode"])).time.mean_s
        # Points are solved at rates in steps of RATE_STEP: next to the best the latency is flat.
        assert row["latency_s"] == pytest.approx(latency_s, rel=0.01)


def test_data_are_made_once_and_again_when_their_script_changes(tmp_path):
    folder, out = tmp_path / "scripts", tmp_path / "out"
    folder.mkdir()
    path = folder / "data_count.py"
    text = (
        '"""Counts."""\nimport pyarrow as pa\nREADS = ("calibration",)\n'
        'def table(inputs):\n    return pa.table({"n": [1, 2]})\n'
    )
    path.write_text(text)
    notes: list[str] = []

    def run():
        inputs = Inputs(PAIR, folder, out)
        return make_data(data_scripts(folder).values(), inputs, out, progress=notes.append), inputs

    written, inputs = run()
    assert [each.name for each in written] == ["count.parquet"]
    assert inputs.data("count") == [{"n": 1}, {"n": 2}]
    content = written[0].read_bytes()
    assert run()[0] == []
    assert "up to date" in notes[-1]
    path.write_text(text.replace("[1, 2]", "[3]"))
    (written, inputs) = run()
    assert inputs.data("count") == [{"n": 3}]
    path.write_text(text)
    assert run()[0][0].read_bytes() == content


def test_shipped_data_are_up_to_date(capfd, tmp_path):
    assert {script.kind for script in data_scripts(figures_dir()).values()} == {"data"}
    assert main(["figures-data", "--out", str(figures_dir())]) == 0
    assert "0 tables made" in capfd.readouterr().out
