"""Roll a model out on prompts, score every position with both models, and keep the rows: resumable, deterministic.

Work is cut into parts of `lanes` prompts. A part is written whole or not at all; a run that was killed does the
missing parts again. Every prompt has its own random stream, a hash of (seed, prompt_id), and its caches start empty,
so that the rows do not depend on which parts came from which run.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cuhlm_opt.calibrate.prompts import Prompt
from cuhlm_opt.calibrate.score import Scoring, score_position
from cuhlm_opt.distributions import sample, softmax
from cuhlm_opt.errors import InputError
from cuhlm_opt.models.pairs import Pair
from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.records import SCHEMA_VERSION, read_records, record_schema, write_atomically, write_records
from cuhlm_opt.truncation import size_grid

RECORDS = "records.parquet"
_RUN, _PARTS = "run.json", "parts"


class Source(StrEnum):
    """Whose tokens make up the contexts."""

    LLM = "llm"
    """The law of HLM's own output, on which a certificate rests [N, THEORY 6.5]."""
    SLM = "slm"
    """The law of the draft model alone."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What determines the rows of a run, together with the pair and the prompts."""

    source: Source = Source.LLM
    max_tokens: int = 32
    """T_max, the length limit of an answer."""
    seed: int = 0
    lanes: int = 4
    """Prompts rolled out side by side."""
    chunk: int = 4
    """Tokens per pass when the other model reads an answer. With `lanes` this is the chunk plan of the run."""
    scoring: Scoring = field(default_factory=Scoring)


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
    pair: Pair,
    prompts: Sequence[Prompt],
    collection: Collection,
    out: Path,
    *,
    resume: bool = False,
    progress: Callable[[int, int, str], None] = lambda tokens, prompts_done, note: None,
) -> pa.Table:
    """Record every position of the answers to `prompts` into `out`/records.parquet.

    Args:
        pair: both models, with at least `collection.lanes` lanes each.
        prompts: what to answer.
        collection: how.
        out: folder of the run; parts of an unfinished run are kept in it.
        resume: go on with what is there; without it a folder that holds a run is refused.
        progress: called after each part with tokens recorded in it, prompts done so far, and a note.

    Returns:
        The records, in the order of the prompts, as written.

    Raises:
        InputError: a prompt is empty or does not fit the context; the folder holds another run.
        RunError: a model or the disk failed; finished parts are kept.
    """
    for part in record(pair, prompts, collection, out, resume=resume):
        progress(part.tokens, part.prompts_done, part.note)
    return read_records(out / RECORDS)


def record(
    pair: Pair, prompts: Sequence[Prompt], collection: Collection, out: Path, *, resume: bool = False
) -> Iterator[Part]:
    """As `collect`, part by part: whoever stops before the last keeps the parts, and a run with `resume` goes on."""
    encoded = [_encode(pair, prompt, collection.max_tokens) for prompt in prompts]
    run = _identity(pair, prompts, collection)
    _claim(out, run, resume)
    if (out / RECORDS).exists():
        yield Part(path=out / RECORDS, tokens=0, prompts_done=len(prompts), note="complete")
        return
    sizes = size_grid(pair.slm.vocab_size)
    metadata = {"schema_version": SCHEMA_VERSION, "k_grid": sizes.tolist(), **run}
    starts = range(0, len(prompts), collection.lanes)
    for start in starts:
        part = _part(out, start)
        stop = min(start + collection.lanes, len(prompts))
        if part.exists():
            yield Part(path=part, tokens=0, prompts_done=stop, note="kept")
            continue
        rows = _record(pair, prompts[start:stop], encoded[start:stop], sizes, collection)
        write_records(pa.Table.from_pylist(rows, schema=record_schema(sizes.tolist())), part, metadata)
        yield Part(path=part, tokens=len(rows), prompts_done=stop, note="recorded")
    table = pa.concat_tables([read_records(_part(out, start)) for start in starts]).combine_chunks()
    write_records(table, out / RECORDS, metadata)
    for start in starts:
        _part(out, start).unlink()
    (out / _PARTS).rmdir()


def prompt_stream(seed: int, prompt_id: str) -> tuple[np.random.Generator, np.random.Generator]:
    """Random streams of one prompt, for the roll-out and for the scoring, from a hash of (seed, prompt_id)."""
    digest = hashlib.sha256(f"{seed}\n{prompt_id}".encode()).digest()
    return tuple(map(np.random.default_rng, np.random.SeedSequence(int.from_bytes(digest)).spawn(2)))  # type: ignore[return-value]


def _record(
    pair: Pair,
    prompts: Sequence[Prompt],
    encoded: Sequence[list[int]],
    sizes: NDArray[np.int64],
    collection: Collection,
) -> list[dict[str, Any]]:
    """Rows of one part: roll out side by side, then score answer by answer."""
    source, other = (pair.llm, pair.slm) if collection.source is Source.LLM else (pair.slm, pair.llm)
    streams = [prompt_stream(collection.seed, prompt.prompt_id) for prompt in prompts]
    answers, own_logits = _roll_out(source, encoded, [rollout for rollout, _ in streams], collection)
    rows = []
    for prompt, tokens, answer, own, (_, scoring_rng) in zip(
        prompts, encoded, answers, own_logits, streams, strict=True
    ):
        others = _teacher_forced(other, tokens, answer, collection.chunk)
        for position, token in enumerate(answer):
            pairwise = (others[position], own[position])
            slm, llm = pairwise if collection.source is Source.LLM else pairwise[::-1]
            rows.append(
                {
                    "prompt_id": prompt.prompt_id,
                    "domain": prompt.domain,
                    "position": position,
                    "source": str(collection.source),
                    "context_token": token,
                    **score_position(slm, llm, sizes, collection.scoring, scoring_rng),
                }
            )
    return rows


def _roll_out(
    model: LanguageModel, prompts: Sequence[list[int]], rngs: Sequence[np.random.Generator], collection: Collection
) -> tuple[list[list[int]], list[list[NDArray[np.float32]]]]:
    """Sample an answer to each prompt, all lanes in step; also the logits that each token was drawn from."""
    scoring = collection.scoring
    answers: list[list[int]] = [[] for _ in prompts]
    logits: list[list[NDArray[np.float32]]] = [[] for _ in prompts]
    for lane in range(model.lanes):
        model.truncate(lane, 0)
    for lane, prompt in enumerate(prompts):
        _prefill(model, lane, prompt)
    latest = model.extend({lane: prompt[-1:] for lane, prompt in enumerate(prompts)}, last_only=True)
    for _ in range(collection.max_tokens):
        chunks = {}
        for lane, rows in latest.items():
            token = sample(softmax(rows[-1], scoring.temperature, scoring.top_p), rngs[lane])
            answers[lane].append(token)
            logits[lane].append(rows[-1])
            if token not in model.eos_tokens and len(answers[lane]) < collection.max_tokens:
                chunks[lane] = [token]
        if not chunks:
            break
        latest = model.extend(chunks, last_only=True)
    return answers, logits


def _teacher_forced(model: LanguageModel, prompt: list[int], answer: list[int], chunk: int) -> NDArray[np.float32]:
    """Logits before each token of `answer`, shape (len(answer), |V|), read in chunks."""
    _prefill(model, 0, prompt)
    read = [prompt[-1], *answer[:-1]]
    return np.concatenate([model.extend({0: read[at : at + chunk]})[0] for at in range(0, len(read), chunk)])


def _prefill(model: LanguageModel, lane: int, prompt: list[int]) -> None:
    """Read a prompt as the decoder does: on its own, but for its last token, which belongs to the first step."""
    model.truncate(lane, 0)
    if len(prompt) > 1:
        model.extend({lane: prompt[:-1]}, last_only=True)


def _encode(pair: Pair, prompt: Prompt, max_tokens: int) -> list[int]:
    if not prompt.text.strip():
        raise InputError(f"prompt {prompt.prompt_id!r} is empty; give some text")
    tokens = pair.llm.chat_tokens(prompt.text)
    room = min(pair.slm.context_length, pair.llm.context_length) - max_tokens
    if len(tokens) > room:
        raise InputError(f"prompt {prompt.prompt_id!r} has {len(tokens)} tokens; at most {room} fit the context")
    return tokens


def _identity(pair: Pair, prompts: Sequence[Prompt], collection: Collection) -> dict[str, Any]:
    """What a run is, as JSON: two runs with the same identity have the same rows."""
    digest = hashlib.sha256(json.dumps([asdict(prompt) for prompt in prompts]).encode()).hexdigest()
    identity = {"pair": pair.provenance(), "n_prompts": len(prompts), "prompts_sha256": digest, **asdict(collection)}
    loaded: dict[str, Any] = json.loads(json.dumps(identity))
    return loaded


def _claim(out: Path, run: dict[str, Any], resume: bool) -> None:
    """Mark `out` as holding `run`, or check that it already does."""
    path = out / _RUN
    if not path.exists():
        write_atomically(path, json.dumps(run, indent=2) + "\n")
        return
    if not resume:
        raise InputError(f"--out {str(out)!r} already holds a run; add --resume, or give another folder")
    stored = json.loads(path.read_text())
    difference = _first_difference(stored, run)
    if difference:
        raise InputError(f"--resume: {out} holds another run: {difference}")


def _first_difference(stored: Any, asked: Any, where: str = "") -> str | None:
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted({*stored, *asked}):
            found = _first_difference(stored.get(key), asked.get(key), f"{where}.{key}" if where else key)
            if found:
                return found
        return None
    return None if stored == asked else f"{where} is {stored!r} there, {asked!r} here"


def _part(out: Path, start: int) -> Path:
    return out / _PARTS / f"{start:06d}.parquet"
