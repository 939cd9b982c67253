"""The whole path on a small real pair, SmolLM2 at Q2_K drafting for itself at Q4_1: calibrate, solve, decode."""

import json
from pathlib import Path

import numpy as np
import pytest

from cuhlm_opt.artefacts import Calibration, OperatingPoint
from cuhlm_opt.calibrate.collect import collect
from cuhlm_opt.calibrate.engines import InProcess
from cuhlm_opt.calibrate.prompts import load_prompt_sets
from cuhlm_opt.calibrate.record import Collection
from cuhlm_opt.cli.main import main
from cuhlm_opt.decode.loop import decode
from cuhlm_opt.distributions import softmax
from cuhlm_opt.models.fetch import fetch
from cuhlm_opt.models.pairs import load_model, load_pair
from cuhlm_opt.records import read_records
from cuhlm_opt.remote.client import decode_remotely
from cuhlm_opt.remote.connection import Connection
from cuhlm_opt.remote.serving import Server
from cuhlm_opt.solve import solve

PAIR = "smollm2-q2"
pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short calibration made by the command."""
    fetch(PAIR)
    out = tmp_path_factory.mktemp("real") / "calibration"
    options = ["--pair", PAIR, "--prompts", "general", "--limit", "6", "--max-tokens", "12", "--out", str(out)]
    assert main(["calibrate", *options]) == 0
    return out


def test_calibration_of_a_real_pair(calibrated):
    calibration = Calibration.read(calibrated / "calibration.json")
    fit = calibration.domains["general"]
    assert calibration.vocab_size == 49_152
    assert fit.n_prompts == 6
    assert 0.05 < fit.mean_tv.value < 0.8
    assert fit.signals["u_bar"].a > 0
    assert calibration.times.llm_pass_s[1] > 0
    assert calibration.provenance["pair"]["llm"]["sha256"]


def test_recorded_laws_are_those_that_the_decoder_sees(calibrated):
    """One chunk plan: laws recorded with several lanes and chunks are bit-equal to reading one token at a time."""
    table = read_records(calibrated / "records.parquet").to_pylist()
    pair = load_pair(PAIR)
    try:
        prompts = {prompt.prompt_id: prompt.text for prompt in load_prompt_sets(["general"], limit=6)}
        for prompt_id in prompts:
            rows = [row for row in table if row["prompt_id"] == prompt_id]
            tokens = pair.llm.chat_tokens(prompts[prompt_id])
            for model, ids in ((pair.slm, "x"), (pair.llm, "y")):
                model.truncate(0, 0)
                model.extend({0: tokens[:-1]}, last_only=True)
                last = tokens[-1]
                for row in rows:
                    law = softmax(model.extend({0: [last]})[0][0])
                    np.testing.assert_array_equal(np.float32(law[row["top_id"]]), np.float32(row[f"top_{ids}"]))
                    last = row["context_token"]
    finally:
        pair.close()


def test_rows_do_not_depend_on_what_is_recorded_before_or_beside_them(tmp_path):
    """Short contexts make the caches wrap within the run; prompts recorded one by one with fresh caches are equal."""
    fetch(PAIR)
    prompts = load_prompt_sets(["general"], limit=12)
    tables = []
    for start, stop, lanes in ((0, 12, 2), (8, 12, 1)):
        collection = Collection(max_tokens=6, lanes=lanes)
        pair = load_pair(PAIR, lanes=lanes, context_length=400)
        try:
            tables.append(collect(InProcess(pair), prompts[start:stop], collection, tmp_path / str(start)))
        finally:
            pair.close()
    alone = tables[1].to_pylist()
    assert alone == [row for row in tables[0].to_pylist() if row["prompt_id"] in {row["prompt_id"] for row in alone}]


def test_solve_and_decode_at_the_point(calibrated, capfd, tmp_path):
    point = tmp_path / "point.json"
    options = ["--calibration", str(calibrated), "--max-bias", "0.1", "--out", str(point)]
    assert main(["solve", "--bandwidth", "10MHz", *options]) == 0
    capfd.readouterr()
    solved = OperatingPoint.read(point)
    assert solved.bias_total <= 0.1
    command = [
        "decode",
        "--pair",
        PAIR,
        "--operating-point",
        str(point),
        "--max-tokens",
        "24",
        "--json",
    ]
    answers = []
    for seed in ("0", "0", "1"):
        assert main([*command, "--seed", seed, "Why is the sky blue?"]) == 0
        answers.append(json.loads(capfd.readouterr().out))
    for answer in answers:
        answer.pop("timing")
    assert answers[0] == answers[1]
    assert answers[0]["text"] != answers[2]["text"]
    assert answers[0]["n_tokens"] <= 24
    assert answers[0]["server_passes_per_token"] == pytest.approx(1 - answers[0]["skip_rate"])


@pytest.mark.parametrize("mode", ["cu-hlm-offline", "coarse", "speculative", "llm"])
def test_a_server_elsewhere_gives_the_text_of_one_process(calibrated: Path, mode: str) -> None:
    """The same seed and chunk plan, with the LLM at the other end of a connection."""
    pair = load_pair(PAIR)
    name, llm = load_model("llm", PAIR)
    server = Server(llm, name, "127.0.0.1:0")
    connection = Connection(server.address, pair.slm)
    point = solve(str(calibrated), bandwidth_hz=10e6, max_bias=0.1, policy="budget", mode=mode)
    try:
        here = decode(pair, point, "Why is the sky blue?", seed=3, max_tokens=24)
        there = decode_remotely(connection, point, "Why is the sky blue?", pair=PAIR, seed=3, max_tokens=24)
    finally:
        connection.close()
        server.stop(0)
        llm.close()
        pair.close()
    assert [step.token for step in there.steps] == [step.token for step in here.steps]
    assert there.traffic is not None
    assert there.traffic.reconnects == 0
