"""`calibrate --check`: a shifted stream is found, an unshifted one is not, and the loss is that of the solver."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cuhlm_opt.artefacts import StateThreshold
from cuhlm_opt.calibrate.check import Checked, check
from cuhlm_opt.calibrate.collect import record_parts
from cuhlm_opt.calibrate.engines import InProcess
from cuhlm_opt.calibrate.fit import fit_records
from cuhlm_opt.calibrate.prompts import Prompt
from cuhlm_opt.calibrate.record import Collection
from cuhlm_opt.cli.main import main
from cuhlm_opt.errors import InputError
from cuhlm_opt.models.pairs import load_pair
from cuhlm_opt.modes import Mode
from cuhlm_opt.records import Records, read_metadata, read_records, write_records
from cuhlm_opt.resources import calibration_dir
from cuhlm_opt.solve import solve
from cuhlm_opt.solve.losses import threshold_grid
from cuhlm_opt.solve.threshold import Gate, Signal

SHIPPED = calibration_dir() / "recorded" / "qwen2.5-coder" / "records.parquet"
BUDGET = 0.02
FOUND_WITHIN = 600
"""Tokens within which general text after code is found; `tests/long/measure_transfer.py` measures how many it takes."""


@pytest.fixture(scope="module")
def rows() -> dict[str, list[pa.Table]]:
    """The recorded answers of each domain in a random order."""
    table = read_records(SHIPPED)
    first = pc.unique(table["prompt_id"]).to_pylist()
    answers = dict.fromkeys(first)
    starts = np.flatnonzero(np.diff(table["prompt_id"].combine_chunks().dictionary_encode().indices, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(table)], strict=True):
        answers[table["prompt_id"][start].as_py()] = table.slice(start, stop - start)
    found: dict[str, list[pa.Table]] = {"code": [], "general": []}
    for answer in answers.values():
        found[answer["domain"][0].as_py()].append(answer)
    rng = np.random.default_rng(0)
    for each in found.values():
        rng.shuffle(each)
    return found


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory) -> Path:
    """A calibration of half of the recorded prompts."""
    path = tmp_path_factory.mktemp("half")
    half = pa.concat_tables([*rows["code"][:200], *rows["general"][:200]])
    write_records([half], path / "records.parquet", read_metadata(half))
    fit_records(path / "records.parquet", calibration_id="half", pair="p").write(path / "calibration.json")
    return path


@pytest.fixture(scope="module")
def checked(folder) -> Checked:
    point = solve(str(folder), bandwidth_hz=10e6, domain="code", max_bias=BUDGET, mode=Mode.COARSE)
    return Checked.of(str(folder), point)


def test_the_same_domain_is_not_refused(checked, rows):
    result = check(checked, rows["code"][200:])
    assert result.holds
    assert (result.n_prompts, result.n_tokens) == (200, sum(map(len, rows["code"][200:])))
    assert result.risk_at_least <= result.mean_risk <= result.risk_at_most
    assert result.mean_risk < BUDGET


@pytest.mark.parametrize("before", [0, 60])
def test_general_text_after_code_is_found(checked, rows, before):
    code, general = rows["code"][200 : 200 + before], rows["general"][200:]
    result = check(checked, [*code, *general])
    assert not result.holds
    assert result.exchangeable.refused
    assert result.exchangeable.e_value >= result.exchangeable.refused_at == 40
    assert before < result.n_prompts
    assert result.n_tokens - sum(map(len, code)) <= FOUND_WITHIN


def test_one_table_and_many_say_the_same(checked, rows):
    stream = [*rows["code"][200:230], *rows["general"][200:]]
    assert check(checked, [pa.concat_tables(stream)]) == check(checked, stream)


def test_a_risk_above_the_budget_is_found_and_bounded_from_below(checked, rows):
    """The threshold that keeps nearly all drafts, on the calibration's own domain."""
    point = checked.point.model_copy(update={"u_threshold": 0.85, "mode": Mode.U_HLM})
    result = check(_with(checked, point), rows["code"][200:])
    assert result.budget.refused
    assert not result.exchangeable.refused
    assert result.risk_at_least > BUDGET


def _with(checked: Checked, point) -> Checked:
    return Checked(point=point, evidence=checked.evidence, recorded_ids=checked.recorded_ids)


def test_the_loss_is_that_of_the_certificate(checked, rows):
    """Risk sums of fresh answers against the curves that the certificate is taken from."""
    fresh = pa.concat_tables(rows["code"][200:240])
    at = int(np.searchsorted(threshold_grid(), 0.3))
    answers = _with(
        checked, checked.point.model_copy(update={"u_threshold": float(threshold_grid()[at]), "mode": Mode.U_HLM})
    ).answers(fresh)
    gate = Gate(Records.of(fresh, "code"), Signal.U_BAR)  # prompts in the order of their ids
    ids = pc.unique(fresh["prompt_id"]).to_pylist()
    order = np.argsort(ids)
    np.testing.assert_allclose(answers.risk[order], gate.risk_sums[:, at], atol=1e-9)
    np.testing.assert_array_equal(answers.lengths[order], np.bincount(gate.records.prompt))


@pytest.mark.parametrize("signal", [Signal.U_MC, Signal.COMBINED])
def test_a_point_of_another_signal_skips_as_it_was_solved_to(folder, rows, signal):
    """Fresh prompts of the same domain, within 4 standard errors of a share of 200 prompts, at most 0.5 / sqrt(200)."""
    point = solve(str(folder), bandwidth_hz=10e6, domain="code", mode=Mode.U_HLM, signal=signal)
    result = check(Checked.of(str(folder), point), rows["code"][200:])
    assert result.skip_rate == pytest.approx(point.skip_rate, abs=2 / np.sqrt(200))
    assert 0 < result.mean_risk < BUDGET


def test_thresholds_of_states_are_averaged(checked, rows):
    fresh = pa.concat_tables(rows["code"][200:210])

    def risk(**changes) -> np.ndarray:
        return _with(checked, checked.point.model_copy(update=changes)).answers(fresh).risk

    states = tuple(
        StateThreshold(seen="", probability=share, uplink_s=0.0, u_threshold=threshold)
        for share, threshold in ((0.25, None), (0.75, 0.4))
    )
    np.testing.assert_allclose(risk(state_thresholds=states), 0.75 * risk(u_threshold=0.4))


def test_recorded_prompts_are_left_out_and_nothing_fresh_is_refused(checked, rows):
    result = check(checked, [*rows["code"][:50], *rows["code"][200:220]])
    assert result.n_prompts == 20
    with pytest.raises(InputError, match="no prompt is fresh"):
        check(checked, rows["code"][:50])


def test_contexts_of_another_source_are_refused(checked, rows):
    other = rows["code"][201]
    other = other.set_column(other.schema.get_field_index("source"), "source", pa.array(["slm"] * len(other)))
    with pytest.raises(InputError, match="drawn by slm, those of the calibration by llm"):
        check(checked, [other])


def test_the_command_on_records(folder, rows, tmp_path, capsys):
    stream = pa.concat_tables([*rows["code"][200:220], *rows["general"][200:]])
    write_records([stream], tmp_path / "fresh.parquet", {**read_metadata(stream), "scoring": {"temperature": 0.7}})
    arguments = ["calibrate", "--check", str(folder), "--records", str(tmp_path / "fresh.parquet")]
    assert main([*arguments, "--domain", "code", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["holds"] is False
    assert document["exchangeable"]["refused"]
    assert "temperature 1.0 recorded, 0.7 in use" in document["warnings"]
    solve(str(folder), bandwidth_hz=1e6, domain="code", mode="u-hlm").write(tmp_path / "point.json")
    assert main([*arguments, "--operating-point", str(tmp_path / "point.json")]) == 0
    shown = capsys.readouterr().out
    assert "no longer holds" in shown
    assert "at most 0.02 per emitted token" in shown
    assert "probability 0.05 at most" in shown


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A calibration of the tiny pair, and files of prompts."""
    path = tmp_path_factory.mktemp("tiny")
    for name, count in (("old", 60), ("new", 90)):
        lines = [json.dumps({"id": f"p{at}", "domain": "d", "prompt": f"prompt {at}"}) for at in range(count)]
        (path / f"{name}.jsonl").write_text("\n".join(lines))
    run = ["calibrate", "--pair", "tiny", "--prompts", str(path / "old.jsonl"), "--max-tokens", "8"]
    assert main([*run, "--out", str(path / "run")]) == 0
    return path


def test_fresh_prompts_are_rolled_out_as_the_calibration_was(tiny, capsys):
    command = ["calibrate", "--check", str(tiny / "run"), "--prompts", str(tiny / "new.jsonl"), "--max-bias", "0.1"]
    capsys.readouterr()
    assert main([*command, "--out", str(tiny / "fresh"), "--json", "--limit", "20"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["holds"]
    assert result["n_prompts"] == 20
    assert "60 prompts are among those of the calibration and are left out" in err
    assert result["warnings"] == []
    kept, recorded = (read_metadata(read_records(tiny / name / "records.parquet")) for name in ("fresh", "run"))
    differing = {key for key in kept if kept[key] != recorded.get(key)}
    assert differing == {"n_prompts", "prompts_sha256"}
    assert main([*command, "--out", str(tiny / "fresh"), "--json", "--limit", "20", "--resume"]) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert main([*command, "--out", str(tiny / "fresh"), "--limit", "20"]) == 2


def test_a_refusal_ends_the_roll_out_and_keeps_what_there_is(tiny, tmp_path, capsys):
    point = solve(str(tiny / "run"), bandwidth_hz=1e6, max_bias=0.1, mode="u-hlm")
    point.model_copy(update={"bias_budget": 0.005, "u_threshold": 1.0}).write(tmp_path / "point.json")
    prompts = tmp_path / "many.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": f"other {at}"}) for at in range(400)))
    command = ["calibrate", "--check", str(tiny / "run"), "--prompts", str(prompts)]
    command += ["--operating-point", str(tmp_path / "point.json"), "--out", str(tmp_path / "fresh"), "--json"]
    capsys.readouterr()
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["budget"]["refused"]
    parts = len(list((tmp_path / "fresh" / "parts").iterdir()))
    assert 4 * (parts - 1) < result["n_prompts"] <= 4 * parts < 400
    assert main([*command, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert len(list((tmp_path / "fresh" / "parts").iterdir())) == parts


def test_parts_that_are_there_are_read_and_the_others_recorded(tmp_path):
    pair, prompts = load_pair("tiny", lanes=4), [Prompt(prompt_id=str(at), domain="d", text="a") for at in range(10)]
    list(islice(record_parts(InProcess(pair), prompts, Collection(max_tokens=4), tmp_path), 2))
    notes = [
        part.note for part in record_parts(InProcess(pair), prompts, Collection(max_tokens=4), tmp_path, resume=True)
    ]
    assert notes == ["kept", "kept", "recorded"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--check", "qwen2.5-coder", "--domain", "code"], ["--prompts", "--records"]),
        (["--check", "qwen2.5-coder", "--records", "none.parquet"], ["--domain is missing", "code, general"]),
        (["--check", "qwen2.5-coder", "--domain", "code", "--records", "none.parquet"], ["no such file"]),
        (["--check", "qwen2.5-coder", "--domain", "code", "--records", str(SHIPPED)], ["no prompt is fresh"]),
        (["--check", "qwen2.5-coder", "--domain", "code", "--records", "x", "--prompts", "general"], ["either"]),
        (["--check", "qwen2.5-coder", "--domain", "code", "--prompts", "general"], ["--out is missing"]),
        (["--check", "qwen", "--domain", "code", "--records", "x"], ["'qwen'", "qwen2.5-coder"]),
        (["--check", "published-cu-hlm", "--records", "x"], ["has no records"]),
        (["--check", "qwen2.5-coder", "--records", "x", "--temperature", "1"], ["--temperature", "leave it out"]),
        (["--check", "qwen2.5-coder", "--domain", "code", "--records", str(SHIPPED), "--alpha", "1"], ["--alpha 1.0"]),
        (["--alpha", "0.1", "--out", "x"], ["--alpha", "--check"]),
        (["--pair", "tiny"], ["--out is missing"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(refused, arguments, parts):
    refused(["calibrate", *arguments], parts)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": Mode.QUERY}, "mode 'query' is not checked"),
        ({"mode": Mode.LLM}, "mode 'llm' is not checked"),
        ({"u_threshold": None}, "never skips"),
        ({"bias_budget": 0.0}, "never skips"),
    ],
)
def test_points_without_a_threshold_to_check_are_refused(folder, checked, changes, words):
    with pytest.raises(InputError, match=words):
        Checked.of(str(folder), checked.point.model_copy(update=changes))
    with pytest.raises(InputError, match="was solved for calibration 'half'"):
        Checked.of("qwen2.5-coder", checked.point)
