"""Records and artefacts: round trips, and every way a file can be wrong."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cuhlm_opt.artefacts import Calibration, DomainFit, Estimate, SignalFit
from cuhlm_opt.calibrate.score import Scoring, score_position
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.records import (
    Records,
    read_metadata,
    read_records,
    record_schema,
    sha256_of,
    write_atomically,
    write_records,
)
from cuhlm_opt.truncation import size_grid

SIZES = size_grid(12)


@pytest.fixture
def table() -> pa.Table:
    """Six scored positions of random logits, two prompts, two domains."""
    rng = np.random.default_rng(3)
    rows = []
    for position in range(6):
        slm, llm = rng.normal(size=(2, 12)).astype(np.float32) * 2
        row = score_position(slm, llm, SIZES, Scoring(exact_share=0.5), rng)
        place = {"prompt_id": f"p{position % 2}", "domain": "ab"[position // 4], "position": position}
        rows.append({**place, "source": "llm", "context_token": 1, **row})
    return pa.Table.from_pylist(rows, schema=record_schema(SIZES.tolist()))


METADATA = {"schema_version": 1, "k_grid": SIZES.tolist()}


def test_round_trip_keeps_every_value(table, tmp_path):
    write_records([table], tmp_path / "r.parquet", METADATA)
    back = read_records(tmp_path / "r.parquet")
    assert back.to_pylist() == table.to_pylist()
    assert read_metadata(back) == METADATA


def test_rows_that_are_written_are_not_held(table, tmp_path, monkeypatch):
    """Memory while 240 tables are gathered is that of a few row groups, and the file is that of all of them."""
    part = pa.concat_tables([table] * 200).combine_chunks()
    group, tables = 2 * len(part) + 7, 240
    monkeypatch.setattr("cuhlm_opt.records._ROW_GROUP", group)
    before, most = pa.total_allocated_bytes(), 0

    def parts():
        nonlocal most
        for _ in range(tables):
            most = max(most, pa.total_allocated_bytes() - before)
            yield pa.concat_tables([part.slice(0, 500), part.slice(500)]).combine_chunks()

    write_records(parts(), tmp_path / "r.parquet", METADATA)
    assert most < 12 * part.nbytes
    file = pq.ParquetFile(tmp_path / "r.parquet")
    sizes = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
    assert set(sizes[:-1]) == {group}
    assert sum(sizes) == tables * len(part)
    back, own = read_records(tmp_path / "r.parquet").combine_chunks(), part.replace_schema_metadata(None)
    for at in range(tables):
        assert back.slice(at * len(part), len(part)).replace_schema_metadata(None).equals(own)


def test_one_table_of_several_row_groups(table, tmp_path, monkeypatch):
    monkeypatch.setattr("cuhlm_opt.records._ROW_GROUP", 4)
    write_records([table, table], tmp_path / "r.parquet", METADATA)
    assert read_records(tmp_path / "r.parquet").to_pylist() == [*table.to_pylist(), *table.to_pylist()]
    assert pq.ParquetFile(tmp_path / "r.parquet").num_row_groups == 3


def test_nothing_is_left_of_a_file_whose_parts_cannot_be_had(table, tmp_path):
    def parts():
        yield table
        raise InputError("gone")

    (tmp_path / "r.parquet").write_bytes(b"old")
    with pytest.raises(InputError, match="gone"):
        write_records(parts(), tmp_path / "r.parquet", METADATA)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("r.parquet", b"old")]


def test_records_of_a_domain_are_its_rows(table, tmp_path):
    write_records([table], tmp_path / "r.parquet", METADATA)
    records = Records.of(read_records(tmp_path / "r.parquet"), "a")
    rows = sorted(
        (row for row in table.to_pylist() if row["domain"] == "a"), key=lambda row: (row["prompt_id"], row["position"])
    )
    assert records.measured.tolist() == [at for at, row in enumerate(rows) if row["tv_quantised"] is not None]
    assert records.n_tokens == len(rows) == 4
    assert records.n_prompts == 2
    np.testing.assert_array_equal(records.top_x, np.array([row["top_x"] for row in rows]))
    np.testing.assert_array_equal(records.tv_x_xhat, np.array([row["tv_x_xhat"] for row in rows], dtype=np.float32))


def test_rows_in_any_order_are_put_along_their_answers(table):
    stored = table.replace_schema_metadata({b"cuhlm_opt": json.dumps(METADATA).encode()})
    straight = stored.sort_by([("prompt_id", "ascending"), ("position", "ascending")])
    shuffled = straight.take(pa.array([3, 0, 5, 1, 4, 2]))
    first, again = Records.of(straight, "a"), Records.of(shuffled, "a")
    np.testing.assert_array_equal(first.u_bar, again.u_bar)
    np.testing.assert_array_equal(first.prompt, again.prompt)
    np.testing.assert_array_equal(first.measured, again.measured)


def test_some_prompts_are_whole_answers(table):
    stored = table.replace_schema_metadata({b"cuhlm_opt": json.dumps(METADATA).encode()})
    records = Records.of(stored, "a")
    some = records.some_prompts(1)
    assert (some.n_prompts, records.n_prompts) == (1, 2)
    np.testing.assert_array_equal(some.u_bar, records.u_bar[records.prompt == 0])
    np.testing.assert_array_equal(some.tv_quantised, records.tv_quantised[records.prompt[records.measured] == 0])
    assert records.some_prompts(2) is records


def test_unknown_domain_names_the_known_ones(table, tmp_path):
    write_records([table], tmp_path / "r.parquet", METADATA)
    with pytest.raises(InputError, match="domain 'c' has no records; recorded: a, b"):
        Records.of(read_records(tmp_path / "r.parquet"), "c")


def test_cut_file_is_refused_in_one_line(table, tmp_path):
    path = tmp_path / "r.parquet"
    write_records([table], path, METADATA)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"r\.parquet: not a readable parquet file") as caught:
        read_records(path)
    assert "\n" not in str(caught.value)


def test_missing_file_other_version_and_missing_column_are_refused(table, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_records(tmp_path / "none.parquet")
    write_records([table], tmp_path / "v.parquet", {**METADATA, "schema_version": 99})
    with pytest.raises(InputError, match="schema version 99; this release reads version 1"):
        read_records(tmp_path / "v.parquet")
    write_records([table.drop_columns(["beta"])], tmp_path / "c.parquet", METADATA)
    with pytest.raises(InputError, match="column 'beta'"):
        read_records(tmp_path / "c.parquet")
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "foreign.parquet")
    with pytest.raises(InputError, match="schema version None"):
        read_records(tmp_path / "foreign.parquet")


def test_atomic_write_keeps_the_old_file_when_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_atomically(path, "old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RunError, match="No space left on device"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_regular_file_is_left_alone(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(InputError, match="no regular file"):
            write_atomically(path, "new")
    assert pipe.is_fifo()


def calibration() -> Calibration:
    fit = SignalFit(a=0.5, b=0.0, risk_averse=0.0, risk_prone=1.1)
    domain = DomainFit(
        delta=Estimate(value=0.5), mean_beta=Estimate(value=None), mean_tv=Estimate(value=None), signals={"u_bar": fit}
    )
    return Calibration(id="c", kind="imported", pair="p", vocab_size=12, domains={"a": domain}, provenance={})


def test_calibration_round_trip(tmp_path):
    calibration().write(tmp_path / "c.json")
    assert Calibration.read(tmp_path / "c.json") == calibration()
    assert len(sha256_of(tmp_path / "c.json")) == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "not readable as JSON"),
        (lambda text: "[]", "holds no JSON object"),
        (lambda text: json.dumps({**json.loads(text), "schema_version": 7}), "schema version 7"),
        (lambda text: json.dumps({**json.loads(text), "vocab_size": "many"}), "vocab_size"),
        (lambda text: json.dumps({**json.loads(text), "surprise": 1}), "surprise"),
    ],
)
def test_broken_calibration_is_refused_in_one_line(tmp_path, change, message):
    path = tmp_path / "c.json"
    calibration().write(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message) as caught:
        Calibration.read(path)
    assert "\n" not in str(caught.value)
