"""Tables behind figures: each is still what its solver gives, and is made anew only where it must be."""

import numpy as np
import pytest

from cuhlm_opt.cli.main import main
from cuhlm_opt.figures.data import data_scripts, make_data
from cuhlm_opt.figures.inputs import Inputs
from cuhlm_opt.resources import figures_dir
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


def test_parts_of_a_token_s_time_make_up_its_latency(inputs):
    parts = ("slm_s", "gate_s", "uplink_s", "round_trip_s", "llm_s")
    for row in inputs.data("points"):
        assert sum(row[part] for part in parts) == pytest.approx(row["latency_s"], rel=1e-9)
        assert all(row[part] >= 0 for part in parts)


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
