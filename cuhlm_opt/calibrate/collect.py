"""Record the answers to prompts into a folder: resumable, deterministic, by any number of workers.

Work is cut into parts of `lanes` prompts. A part is written whole or not at all; a run that was killed does the
missing parts again. The rows of a part do not depend on which worker recorded it, nor when. Memory is bounded by a part
of each worker, and by a row group of the file that the parts are gathered in.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from cuhlm_opt.calibrate.engines import Engine, first_difference
from cuhlm_opt.calibrate.prompts import Prompt
from cuhlm_opt.calibrate.record import Collection, outline, record
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.records import SCHEMA_VERSION, read_records, require_whole, write_atomically, write_records
from cuhlm_opt.truncation import size_grid

RECORDS = "records.parquet"
_RUN, _PARTS = "run.json", "parts"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some prompts of a run, in order, and its rows on disk."""

    path: Path
    tokens: int
    """Recorded just now; 0 where the part was there already."""
    prompts_done: int
    """Of the run, this part's included."""
    note: str


def collect(
    engine: Engine,
    prompts: Sequence[Prompt],
    collection: Collection,
    out: Path,
    *,
    resume: bool = False,
    progress: Callable[[int, int, str], None] = lambda tokens, prompts_done, note: None,
) -> pa.Table:
    """Record every position of the answers to `prompts` into `out`/records.parquet.

    Args:
        engine: pairs with at least `collection.lanes` lanes each.
        prompts: what to answer.
        collection: how.
        out: folder of the run; parts of an unfinished run are kept in it.
        resume: go on with what is there; without it a folder that holds a run is refused.
        progress: called after each part with tokens recorded in it, prompts done so far, and a note.

    Returns:
        The records, in the order of the prompts, as written.

    Raises:
        InputError: a prompt is empty or does not fit the context; the folder holds another run.
        RunError: a model, a worker or the disk failed, or the finished records were cut; finished parts are kept.
    """
    for part in record_parts(engine, prompts, collection, out, resume=resume):
        progress(part.tokens, part.prompts_done, part.note)
    return read_records(out / RECORDS)


def record_parts(
    engine: Engine, prompts: Sequence[Prompt], collection: Collection, out: Path, *, resume: bool = False
) -> Iterator[Part]:
    """As `collect`, part by part: whoever stops before the last keeps the parts, and a run with `resume` goes on.

    Parts that are there come first, then the others as they are done: with one worker in the order of the prompts.
    """
    pair = engine.call(partial(outline, prompts=prompts, max_tokens=collection.max_tokens))
    run = _identity(pair.provenance, prompts, collection)
    _claim(out, run, resume)
    if (out / RECORDS).exists():
        _require_whole(out / RECORDS)
        yield Part(path=out / RECORDS, tokens=0, prompts_done=len(prompts), note="complete")
        return
    metadata = {"schema_version": SCHEMA_VERSION, "k_grid": size_grid(pair.vocab_size).tolist(), **run}
    parts = {_part(out, at): prompts[at : at + collection.lanes] for at in range(0, len(prompts), collection.lanes)}
    done = 0
    for path in [path for path in parts if _is_whole(path)]:
        done += len(parts[path])
        yield Part(path=path, tokens=0, prompts_done=done, note="kept")
    missing = [path for path in parts if not path.exists()]
    recorded = engine.map(partial(record, collection=collection), [parts[path] for path in missing])
    for index, rows in recorded:
        write_records([rows], missing[index], metadata)
        done += len(parts[missing[index]])
        yield Part(path=missing[index], tokens=len(rows), prompts_done=done, note="recorded")
    write_records(map(read_records, parts), out / RECORDS, metadata)
    shutil.rmtree(out / _PARTS, ignore_errors=True)  # with what a kill left of a part in the writing


def begun(out: Path) -> tuple[int, str | None] | None:
    """Lanes and dtype of the run that `out` holds; None where it holds none, or one that `record_parts` refuses."""
    try:
        run = json.loads((out / _RUN).read_text())
        return int(run["lanes"]), run["pair"]["slm"].get("dtype")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _identity(provenance: dict[str, Any], prompts: Sequence[Prompt], collection: Collection) -> dict[str, Any]:
    """What a run is, as JSON: two runs with the same identity have the same rows."""
    digest = hashlib.sha256(json.dumps([asdict(prompt) for prompt in prompts]).encode()).hexdigest()
    identity = {"pair": provenance, "n_prompts": len(prompts), "prompts_sha256": digest, **asdict(collection)}
    loaded: dict[str, Any] = json.loads(json.dumps(identity, default=lambda point: point.model_dump(mode="json")))
    return loaded


def _claim(out: Path, run: dict[str, Any], resume: bool) -> None:
    """Mark `out` as holding `run`, or check that it already does."""
    path = out / _RUN
    if not path.exists():
        write_atomically(path, json.dumps(run, indent=2) + "\n")
        return
    if not resume:
        raise InputError(f"--out {str(out)!r} already holds a run; add --resume, or give another folder")
    try:
        stored = json.loads(path.read_text())
    except ValueError:
        raise RunError(f"{path} is damaged; it said what the run in this folder is, give another folder") from None
    if difference := first_difference(stored, run):
        raise InputError(f"--resume: {out} holds another run: {difference}")


def _require_whole(path: Path) -> None:
    """RunError where finished records cannot be read."""
    try:
        require_whole(path)
    except InputError as error:
        raise RunError(f"{error}; remove it and --resume to record it again") from None


def _is_whole(path: Path) -> bool:
    """Whether a part is there; one that a crash has cut is removed."""
    if not path.exists():
        return False
    try:
        require_whole(path)
    except InputError:
        path.unlink()
        return False
    return True


def _part(out: Path, start: int) -> Path:
    return out / _PARTS / f"{start:06d}.parquet"
