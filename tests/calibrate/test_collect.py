"""Collection on the tiny pair: the rows are the laws at the contexts, whatever happens to a run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.calibrate.collect import collect
from cuhlm_opt.calibrate.engines import InProcess
from cuhlm_opt.calibrate.prompts import Prompt
from cuhlm_opt.calibrate.record import Collection, Source, prompt_stream
from cuhlm_opt.calibrate.score import Scoring
from cuhlm_opt.calibrate.times import BATCH_SIZES, fastest_batch
from cuhlm_opt.cli.main import main
from cuhlm_opt.decode.default_point import tiny_operating_point
from cuhlm_opt.decode.loop import decode
from cuhlm_opt.distributions import softmax
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.models.pairs import load_pair
from cuhlm_opt.models.tiny import Role, TinyModel
from cuhlm_opt.modes import Mode
from cuhlm_opt.records import Records, read_metadata

PROMPTS = [Prompt(prompt_id=f"p{i}", domain="ab"[i % 2], text=f"prompt {i}") for i in range(22)]
COLLECTION = Collection(max_tokens=6, scoring=Scoring(exact_share=0.3))


@pytest.fixture(scope="module")
def pair():
    return load_pair("tiny", lanes=4)


@pytest.fixture(scope="module")
def undisturbed(pair, tmp_path_factory):
    return collect(InProcess(pair), PROMPTS, COLLECTION, tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("source", list(Source))
def test_rows_are_the_laws_at_their_contexts(pair, tmp_path, source):
    point = tiny_operating_point(pair, Mode.EXACT) if source is Source.HYBRID else None
    collection = Collection(max_tokens=6, source=source, operating_point=point)
    table = collect(InProcess(pair), PROMPTS[:5], collection, tmp_path)
    assert set(table["source"].to_pylist()) == {str(source)}
    answers: dict[str, list[int]] = {}
    for row in table.to_pylist():
        answer = answers.setdefault(row["prompt_id"], [])
        assert row["position"] == len(answer)
        context = pair.llm.chat_tokens(next(p.text for p in PROMPTS if p.prompt_id == row["prompt_id"])) + answer
        laws = []
        for model in (pair.slm, pair.llm):
            model.truncate(0, 0)
            laws.append(softmax(model.extend({0: context}, last_only=True)[0][-1]))
        x, y = laws
        np.testing.assert_allclose(row["top_x"][: len(x)], np.sort(x)[::-1][:8], rtol=1e-6)
        np.testing.assert_allclose(row["top_y"][: len(x)], y[row["top_id"][: len(x)]], rtol=1e-6)
        assert row["tv"] == pytest.approx(0.5 * np.abs(x - y).sum(), abs=1e-6)
        answer.append(row["context_token"])
    eos = pair.llm.eos_tokens
    for answer in answers.values():
        assert not eos & set(answer[:-1])
        assert len(answer) == 6 or answer[-1] in eos


@pytest.mark.parametrize("mode", [Mode.SLM, Mode.U_HLM, Mode.COARSE, Mode.SPECULATIVE])
def test_hybrid_contexts_are_what_the_decoder_writes(pair, tmp_path, mode):
    point = tiny_operating_point(pair, mode)
    collection = Collection(max_tokens=6, source=Source.HYBRID, operating_point=point)
    table = collect(InProcess(pair), PROMPTS[:6], collection, tmp_path)
    for prompt in PROMPTS[:6]:
        recorded = [row["context_token"] for row in table.to_pylist() if row["prompt_id"] == prompt.prompt_id]
        seed = int(prompt_stream(0, prompt.prompt_id)[0].integers(2**63))
        assert recorded == decode(pair, point, prompt.text, seed=seed, max_tokens=6).to_json()["tokens"]
    assert OperatingPoint.model_validate(read_metadata(table)["operating_point"]) == point
    with pytest.raises(InputError, match="operating_point"):
        collect(InProcess(pair), PROMPTS[:6], replace(collection, operating_point=None), tmp_path, resume=True)


def test_hybrid_contexts_by_command(tmp_path, capfd):
    point = tiny_operating_point(load_pair("tiny"), Mode.COARSE)
    path = tmp_path / "point.json"
    path.write_text(point.model_dump_json())
    options = ["--pair", "tiny", "--prompts", "general", "--limit", "4", "--source", "hybrid"]
    out = tmp_path / "run"
    assert main(["calibrate", *options, "--operating-point", str(path), "--out", str(out), "--workers", "2"]) == 0
    assert Records.read(out / "records.parquet", "general").sources == {"hybrid"}
    capfd.readouterr()
    elsewhere = tmp_path / "elsewhere"
    cold = [*options, "--temperature", "0.5", "--operating-point", str(path), "--out", str(elsewhere)]
    for arguments, part in ((cold, "--temperature 0.5"), ([*options, "--out", str(elsewhere)], "--operating-point")):
        assert main(["calibrate", *arguments]) == 2
        assert part in capfd.readouterr().err
    assert not elsewhere.exists()


def test_batch_size_that_is_found_is_kept(pair, tmp_path, capfd):
    """The first run measures, the second takes what the first began with."""
    command = ["calibrate", "--pair", "tiny", "--limit", "3", "--max-tokens", "4", "--out", str(tmp_path / "run")]
    assert main([*command, "--batch-size", "auto"]) == 0
    found = int(re.search(r"--batch-size (\d+) is the fewest", capfd.readouterr().err)[1])
    assert found in BATCH_SIZES
    assert json.loads((tmp_path / "run" / "run.json").read_text())["lanes"] == found
    (tmp_path / "run" / "records.parquet").unlink()
    assert main([*command, "--batch-size", "auto", "--resume"]) == 0
    assert "is the fewest" not in capfd.readouterr().err
    assert main([*command, "--batch-size", "auto", "--engine", "ray", "--resume"]) == 2
    assert "with --engine ray give a number" in capfd.readouterr().err
    for wrong in ("0", "-1", "2.5", "many", ""):
        assert main([*command, "--batch-size", wrong]) == 2
        assert f"--batch-size {wrong!r} is not allowed; give a whole number from 1, or auto" in capfd.readouterr().err


def test_every_number_of_lanes_is_timed_on_as_many_contexts(monkeypatch):
    """A clock by which a pass costs 8, and 1 more for each lane: twice as many lanes pay until 16."""
    clock, steps = [0.0], []

    class Timed(TinyModel):
        def extend(self, chunks, *, last_only=False):
            clock[0] += 8 + len(chunks)
            steps.append(len(chunks))
            return super().extend(chunks, last_only=last_only)

    monkeypatch.setattr("cuhlm_opt.calibrate.times.time.perf_counter", lambda: clock[0])
    model = Timed(Role.LLM, lanes=16, context_length=64)
    prompt = model.chat_tokens("ab")
    assert fastest_batch(model, prompt) == 16
    assert set(steps) == set(BATCH_SIZES)
    assert fastest_batch(Timed(Role.LLM, lanes=5, context_length=64), prompt) == 4

    class Small(Timed):
        def extend(self, chunks, *, last_only=False):
            if len(chunks) > 2:
                raise RunError("no memory")
            return super().extend(chunks, last_only=last_only)

    assert fastest_batch(Small(Role.LLM, lanes=16, context_length=len(prompt)), prompt) == 2


def test_mean_rejection_is_mean_total_variation(pair, tmp_path):
    """E[beta_d] = TV(x, y) [N, THEORY 4.1], within 4 standard errors of the difference."""
    prompts = [Prompt(prompt_id=str(i), domain="a", text=f"{i}") for i in range(200)]
    records = Records.of(collect(InProcess(pair), prompts, Collection(max_tokens=8), tmp_path), "a")
    difference = records.beta - records.tv
    assert records.tv.mean() > 0.02
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))


class InterruptedRunError(Exception):
    """Stands for whatever ends a run between two parts."""


@pytest.mark.parametrize("stops", [(1,), (2, 3), (5, 1)])
def test_interrupted_and_resumed_run_has_the_rows_of_an_undisturbed_one(pair, tmp_path, undisturbed, stops):
    for stop in stops:
        parts = []

        def give_up(tokens: int, done: int, note: str, parts: list = parts, stop: int = stop) -> None:
            if note == "recorded":
                parts.append(done)
            if len(parts) == stop:
                raise InterruptedRunError

        with pytest.raises(InterruptedRunError):
            collect(InProcess(pair), PROMPTS, COLLECTION, tmp_path, resume=True, progress=give_up)
    assert collect(InProcess(pair), PROMPTS, COLLECTION, tmp_path, resume=True).equals(undisturbed)
    assert not (tmp_path / "parts").exists()
    assert collect(InProcess(pair), PROMPTS, COLLECTION, tmp_path, resume=True).equals(undisturbed)


def test_killed_process_loses_and_doubles_nothing(tmp_path):
    """SIGKILL at arbitrary moments of the real command, then --resume."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"prompt {i}"}) + "\n" for i in range(400)))

    def command(out: str) -> list[str]:
        options = ["--pair", "tiny", "--prompts", str(prompts), "--max-tokens", "12", "--out", str(tmp_path / out)]
        return [sys.executable, "-m", "cuhlm_opt", "calibrate", *options, "--resume", "--json"]

    whole = subprocess.run(command("whole"), capture_output=True, check=True)
    killed = 0
    for _ in range(3):
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        parts = tmp_path / "killed" / "parts"
        seen = len(list(parts.glob("0*"))) if parts.exists() else 0
        while process.poll() is None and not (parts.exists() and len(list(parts.glob("0*"))) > seen + 2):
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= 1
    resumed = subprocess.run(command("killed"), capture_output=True, check=True)
    tables = [pq.read_table(tmp_path / out / "records.parquet") for out in ("whole", "killed")]
    assert tables[0].equals(tables[1])
    fits = [json.loads(run.stdout)["domains"] for run in (whole, resumed)]
    assert fits[0] == fits[1]
    assert not list((tmp_path / "killed").glob(".*"))


def test_same_seed_same_rows_and_another_seed_others(pair, tmp_path, undisturbed):
    assert collect(InProcess(pair), PROMPTS, COLLECTION, tmp_path / "again").equals(undisturbed)
    other = collect(InProcess(pair), PROMPTS, Collection(max_tokens=6, seed=1), tmp_path / "other")
    assert other["context_token"] != undisturbed["context_token"]


def test_rows_of_a_prompt_do_not_depend_on_its_neighbours(pair, tmp_path, undisturbed):
    alone = collect(InProcess(pair), PROMPTS[7:8], COLLECTION, tmp_path)
    assert alone.to_pylist() == [row for row in undisturbed.to_pylist() if row["prompt_id"] == "p7"]


def test_folder_of_another_run_is_refused_with_the_first_difference(pair, tmp_path):
    collect(InProcess(pair), PROMPTS[:4], COLLECTION, tmp_path)
    with pytest.raises(InputError, match="already holds a run; add --resume"):
        collect(InProcess(pair), PROMPTS[:4], COLLECTION, tmp_path)
    with pytest.raises(InputError, match="max_tokens is 6 there, 7 here"):
        collect(
            InProcess(pair), PROMPTS[:4], Collection(max_tokens=7, scoring=COLLECTION.scoring), tmp_path, resume=True
        )
    with pytest.raises(InputError, match="n_prompts is 4 there, 5 here"):
        collect(InProcess(pair), PROMPTS[:5], COLLECTION, tmp_path, resume=True)


def test_provenance_is_in_the_file(undisturbed):
    metadata = read_metadata(undisturbed)
    assert metadata["seed"] == 0
    assert metadata["max_tokens"] == 6
    assert metadata["scoring"]["convention"] == "uniform"
    assert metadata["pair"]


def test_empty_and_too_long_prompts_are_refused_before_any_work(pair, tmp_path):
    with pytest.raises(InputError, match="prompt 'e' is empty"):
        collect(InProcess(pair), [Prompt(prompt_id="e", domain="a", text=" \n")], COLLECTION, tmp_path)
    long = "a" * (pair.llm.context_length + 1)
    with pytest.raises(InputError, match=r"prompt 'l' has \d+ tokens; at most"):
        collect(InProcess(pair), [Prompt(prompt_id="l", domain="a", text=long)], COLLECTION, tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_full_disk_is_one_error_and_resumes(pair, tmp_path, monkeypatch, undisturbed):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    parts = []

    def fill_up(tokens: int, done: int, note: str) -> None:
        parts.append(done)
        if len(parts) == 2:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(RunError, match="No space left on device"):
        collect(InProcess(pair), PROMPTS, COLLECTION, tmp_path, progress=fill_up)
    monkeypatch.undo()
    assert collect(InProcess(pair), PROMPTS, COLLECTION, tmp_path, resume=True).equals(undisturbed)
