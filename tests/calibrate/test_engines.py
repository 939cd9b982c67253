"""Engines: the same rows from any of them, whatever happens to their workers; real processes, a real Ray."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from cuhlm_opt.calibrate import ray_engine
from cuhlm_opt.calibrate.collect import collect
from cuhlm_opt.calibrate.engines import ATTEMPTS, Crew, InProcess, Outcome, Processes, WorkerLostError, first_difference
from cuhlm_opt.calibrate.prompts import Prompt
from cuhlm_opt.calibrate.ray_engine import RayActors
from cuhlm_opt.calibrate.record import Collection, record
from cuhlm_opt.calibrate.score import Scoring
from cuhlm_opt.cli.main import main
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.models.feed import NanLogitError, require_numbers
from cuhlm_opt.models.pairs import Pair, load_pair
from cuhlm_opt.models.tiny import Role, TinyModel
from cuhlm_opt.records import read_metadata, require_schema, rows_sha256, write_records

PROMPTS = [Prompt(prompt_id=f"p{i}", domain="ab"[i % 2], text=f"prompt {i}") for i in range(22)]
COLLECTION = Collection(max_tokens=6, lanes=2, scoring=Scoring(exact_share=0.3))
LOAD = partial(load_pair, "tiny", lanes=2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> str:
    """Hash of the rows from one worker."""
    folder = tmp_path_factory.mktemp("run")
    collect(InProcess(LOAD()), PROMPTS, COLLECTION, folder)
    return rows_sha256(folder / "records.parquet")


@pytest.fixture(scope="module")
def ray_actors():
    engine = RayActors(LOAD, 2)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its actors cannot import a test
    yield engine
    engine.close()


@pytest.fixture
def processes():
    engine = Processes(LOAD, 2)
    yield engine
    engine.close()


@pytest.fixture(params=["processes", "ray_actors"])
def crew(request) -> Crew:
    return request.getfixturevalue(request.param)


def die_once(pair: Pair, prompts: list[Prompt], mark: Path) -> int:
    """Be killed in the middle of work, unless somebody was before."""
    if prompts[0].prompt_id == "p4" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return len(prompts)


def die(pair: Pair, item: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_out_of_memory(pair: Pair, item: str) -> None:
    raise MemoryError


def refuse(pair: Pair, item: str) -> None:
    raise InputError(f"item {item!r} is not allowed")


def fail(pair: Pair, item: str) -> None:
    raise ZeroDivisionError(f"{item}\nand more")


def give_back(pair: Pair, item: int) -> int:
    return item


def process_id(pair: Pair) -> int:
    return os.getpid()


def test_rows_of_a_crew_are_those_of_one_worker(crew, tmp_path, undisturbed):
    collect(crew, PROMPTS, COLLECTION, tmp_path)
    assert rows_sha256(tmp_path / "records.parquet") == undisturbed


def test_the_hash_tells_rows_apart_and_nothing_else(tmp_path, undisturbed):
    table = collect(InProcess(LOAD()), PROMPTS, COLLECTION, tmp_path)

    def hashed(*tables: pa.Table, **metadata: object) -> str:
        write_records(tables, tmp_path / "other.parquet", read_metadata(table) | metadata)
        return rows_sha256(tmp_path / "other.parquet")

    assert hashed(table.slice(0, 7), table.slice(7), other="metadata") == undisturbed
    assert hashed(table.slice(1)) != undisturbed
    changed = table["u_mc"].to_numpy().copy()
    changed[-1] = np.nextafter(changed[-1], np.float32(2))
    column = table.schema.get_field_index("u_mc")
    assert hashed(table.set_column(column, table.schema.field("u_mc"), [changed])) != undisturbed


def test_a_worker_that_is_killed_loses_and_doubles_nothing(crew, tmp_path):
    items = [PROMPTS[at : at + 2] for at in range(0, len(PROMPTS), 2)]
    results = list(crew.map(partial(die_once, mark=tmp_path / "mark"), items))
    assert sorted(results) == [(index, 2) for index in range(len(items))]
    assert (tmp_path / "mark").exists()


def test_a_killed_idle_worker_is_replaced(processes):
    os.kill(processes.call(process_id), signal.SIGKILL)
    assert sorted(processes.map(give_back, range(6))) == [(index, index) for index in range(6)]


def test_workers_that_die_time_and_again_end_the_run(crew):
    with pytest.raises(RunError, match=f"{ATTEMPTS} workers died over one part .*; finished parts are kept") as caught:
        list(crew.map(die, ["part"]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (run_out_of_memory, RunError, "a worker ran out of memory"),
        (refuse, InputError, "item 'part' is not allowed"),
        (fail, RunError, "a worker failed: ZeroDivisionError: part$"),
    ],
)
def test_an_error_in_a_worker_is_told_in_one_line(crew, work, error, message):
    with pytest.raises(error, match=message):
        list(crew.map(work, ["part"]))


def test_a_pair_that_does_not_load_is_bad_input():
    crew = Processes(partial(load_pair, "tinny"), 1)
    with pytest.raises(InputError, match="'tinny' is unknown"):
        crew.call(process_id)
    crew.close()


class Scripted(Crew[int]):
    """Workers that tell what a script holds, one after the other."""

    def __init__(self, script: list[Outcome | WorkerLostError]) -> None:
        self._script, self._hired = script, 0
        super().__init__(2)

    def close(self) -> None:
        pass

    def _hire(self) -> int:
        self._hired += 1
        return self._hired

    def _give(self, worker, work, item) -> None:
        pass

    def _next(self, busy: list[int]) -> int:
        return busy[0]

    def _outcome(self, worker: int) -> Outcome:
        outcome = self._script.pop(0)
        if isinstance(outcome, WorkerLostError):
            raise outcome
        return outcome


def test_workers_whose_rows_would_differ_are_refused():
    crew = Scripted([Outcome(value={"slm": {"threads": 2}}), Outcome(value={"slm": {"threads": 4}})])
    with pytest.raises(RunError, match=r"workers are not alike, .*: slm\.threads is 2 there, 4 here"):
        list(crew.map(give_back, [1, 2, 3]))


def test_workers_that_die_while_they_load_end_the_run():
    with pytest.raises(RunError, match=r"3 workers died loading the models \(gone\)"):
        Scripted([WorkerLostError("gone")] * ATTEMPTS).call(process_id)


def test_first_difference_names_a_key_that_one_side_lacks():
    assert first_difference({"a": 1, "b": [1]}, {"a": 1, "b": [1], "c": 2}) == "c is None there, 2 here"
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None


class Breaking(TinyModel):
    """Gives NaN for one token behind position 8 of a lane whose prompt begins with "e"."""

    def extend(self, chunks, *, last_only=False):
        before = [self.length(lane) for lane in range(self.lanes)]
        logits = {lane: rows.copy() for lane, rows in super().extend(chunks, last_only=last_only).items()}
        for lane, rows in logits.items():
            row = 8 - (self.length(lane) - len(rows))
            if self._held[lane][1] == 4 and 0 <= row < len(rows):
                rows[row, 2] = np.nan
        require_numbers(logits, before, chunks)
        return logits


@pytest.mark.parametrize("broken", list(Role))
def test_nan_names_prompt_position_and_token(tmp_path, broken):
    models = {role: (Breaking if role is broken else TinyModel)(role, lanes=2) for role in Role}
    pair = Pair(name="breaking", slm=models[Role.SLM], llm=models[Role.LLM])
    prompts = [Prompt(prompt_id=name, domain="a", text=text) for name, text in (("good", "abc"), ("bad", "eabcdab"))]
    message = r"prompt 'bad': the logit of token 2 after position 8 of lane . is NaN"
    with pytest.raises(RunError, match=message) as caught:
        record(pair, prompts, COLLECTION)
    assert not isinstance(caught.value, NanLogitError)


def test_a_silent_address_ends_after_a_time_limit(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(ray_engine, "ADDRESS_TIMEOUT_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        options = ["--pair", "tiny", "--engine", "ray", "--ray-address", address, "--out", str(tmp_path / "run")]
        assert main(["calibrate", *options]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"cuhlm-opt: --ray-address '{address}' does not answer within 3 s\n"


CLUSTER = """
import ray
context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
print(context.address_info["gcs_address"], flush=True)
input()
"""


def test_an_existing_cluster(monkeypatch, tmp_path):
    for setting in ({"RAY_AUTH_MODE": "disabled"}, ray_engine._LOCAL_SETTINGS):
        for name, value in setting.items():
            monkeypatch.setenv(name, value)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", CLUSTER], text=True, **pipes) as cluster:
        address = cluster.stdout.readline().strip()
        assert address.startswith("127.")
        same = ["--prompts", "general", "--limit", "10", "--json"]
        there = calibrate(tmp_path / "there", *same, "--engine", "ray", "--workers", "2", "--ray-address", address)
        assert cluster.poll() is None
        cluster.communicate("\n")
    here = calibrate(tmp_path / "here", *same)
    hashes = {json.loads(run.stdout)["provenance"]["rows_sha256"] for run in (there, here)}
    assert len(hashes) == 1


def test_more_gpus_than_there_are(tmp_path):
    """In a process of its own, as Ray starts once in a process."""
    outcome = calibrate(tmp_path / "run", "--engine", "ray", "--ray-gpus", "0.5", "--workers", "2")
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert "--ray-gpus 0.5 is not allowed; 2 workers share 0 GPUs" in outcome.stderr.splitlines()[-1]


def test_ray_is_named_where_it_is_missing(monkeypatch, tmp_path, capfd):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["calibrate", "--pair", "tiny", "--engine", "ray", "--out", str(tmp_path / "run")]) == 1
    assert capfd.readouterr().err == "cuhlm-opt: ray is not installed; get it with: pip install 'cuhlm-opt[ray]'\n"


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--engine", "spark"], ["--engine", "'spark'", "local"]),
        (["--ray-address", "127.0.0.1:1"], ["--ray-address", "--engine ray"]),
        (["--ray-gpus", "1"], ["--ray-gpus", "--engine ray"]),
        (["--workers", "0"], ["--workers", "0"]),
    ],
)
def test_bad_options(refused, options, parts):
    refused(["calibrate", "--pair", "tiny", "--out", "run", *options], parts)


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "cuhlm_opt", "calibrate", "--pair", "tiny", "--out", str(out), *options]


def calibrate(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, *options), capture_output=True, text=True, check=False)


def test_one_worker_two_of_ray_and_a_run_killed_three_times_have_the_same_rows(tmp_path):
    """The whole command, by the hash that it states; the killed run goes from engine to engine."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"prompt {i}"}) + "\n" for i in range(600)))
    same = ["--prompts", str(prompts), "--max-tokens", "12", "--json"]
    two_of_ray = ["--engine", "ray", "--workers", "2"]
    stops = ((two_of_ray, signal.SIGKILL), (two_of_ray, signal.SIGINT), (["--workers", "2"], signal.SIGKILL))
    parts, kept = tmp_path / "killed" / "parts", 0
    for options, stop in stops:
        process = subprocess.Popen(
            command(tmp_path / "killed", *same, *options, "--resume"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while process.poll() is None and len(list(parts.glob("0*"))) < kept + 5:
            time.sleep(0.005)
        process.send_signal(stop)
        out, err = process.communicate()
        assert out == b""
        assert process.returncode == (130 if stop is signal.SIGINT else -stop), err.decode()
        kept = len(list(parts.glob("0*")))
    assert 15 <= kept < 150
    sorted(parts.glob("0*"))[3].write_bytes(sorted(parts.glob("0*"))[4].read_bytes()[:-100])  # cut by a crash
    fits = [
        json.loads(calibrate(tmp_path / "killed", *same, "--resume").stdout),
        json.loads(calibrate(tmp_path / "one", *same).stdout),
        json.loads(calibrate(tmp_path / "ray", *same, *two_of_ray).stdout),
    ]
    assert len({fit["provenance"]["rows_sha256"] for fit in fits}) == 1
    assert [fit["domains"] for fit in fits[1:]] == [fits[0]["domains"]] * 2
    files = [tmp_path / name / "records.parquet" for name in ("killed", "one", "ray")]
    assert {rows_sha256(file) for file in files} == {fits[0]["provenance"]["rows_sha256"]}
    metadata = [read_metadata(require_schema(file)) for file in files]
    assert metadata[1:] == metadata[:1] * 2


def test_cut_records_are_named(tmp_path):
    collect(InProcess(LOAD()), PROMPTS[:4], COLLECTION, tmp_path)
    records = tmp_path / "records.parquet"
    records.write_bytes(records.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"records\.parquet: not a readable parquet file .*; remove it and --resume"):
        collect(InProcess(LOAD()), PROMPTS[:4], COLLECTION, tmp_path, resume=True)
    records.unlink()
    assert len(collect(InProcess(LOAD()), PROMPTS[:4], COLLECTION, tmp_path, resume=True))


def test_a_damaged_run_file_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        collect(InProcess(LOAD()), PROMPTS[:4], COLLECTION, tmp_path, resume=True)
