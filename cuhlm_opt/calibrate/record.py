"""One part of a run: a model answers some prompts side by side, and every position is scored with both models.

Every prompt has its own random stream, a hash of (seed, prompt_id), and its caches start empty, so that the rows do not
depend on the prompts beside it, nor on which worker records it.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa

from cuhlm_opt.artefacts import Floor, OperatingPoint, Times
from cuhlm_opt.calibrate.prompts import Prompt
from cuhlm_opt.calibrate.score import Scoring, score_position
from cuhlm_opt.calibrate.times import measure_times
from cuhlm_opt.decode.loop import decode
from cuhlm_opt.distributions import Logits, sample, softmax
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.models.feed import NanLogitError
from cuhlm_opt.models.floor import measure_floor
from cuhlm_opt.models.pairs import Pair
from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.records import record_schema
from cuhlm_opt.truncation import size_grid
from cuhlm_opt.uncertainty import ThetaConvention


class Source(StrEnum):
    """Whose tokens make up the contexts."""

    LLM = "llm"
    """The law of HLM's own output, on which a certificate rests [N, THEORY 6.5]."""
    SLM = "slm"
    """The law of the draft model alone."""
    HYBRID = "hybrid"
    """The law of the decoder at an operating point: what a device really writes there."""


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
    operating_point: OperatingPoint | None = None
    """Where the hybrid decoder writes the contexts; for that source alone."""

    @classmethod
    def as_recorded(cls, provenance: Mapping[str, Any]) -> "Collection":
        """How a calibration of this provenance was rolled out.

        Raises:
            KeyError, TypeError, ValueError: it does not say.
        """
        scoring = provenance["scoring"]
        return cls(
            source=Source(provenance["source"]),
            scoring=Scoring(**{**scoring, "convention": ThetaConvention(scoring["convention"])}),
            **{name: provenance[name] for name in ("max_tokens", "seed", "lanes", "chunk")},
        )


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What a run needs to know of its pair before it starts."""

    provenance: dict[str, Any]
    vocab_size: int


def outline(pair: Pair, prompts: Sequence[Prompt], max_tokens: int) -> Outline:
    """Check that every prompt can be answered, and tell what the pair is.

    Raises:
        InputError: a prompt is empty or does not fit the context.
    """
    for prompt in prompts:
        _encode(pair, prompt, max_tokens)
    return Outline(provenance=pair.provenance(), vocab_size=pair.slm.vocab_size)


def measure(pair: Pair, prompts: Sequence[Prompt], temperature: float) -> tuple[Times, Floor]:
    """Compute times and numeric floor of a pair, after `prompts` as contexts."""
    probes = [pair.llm.chat_tokens(prompt.text) for prompt in prompts]
    return measure_times(pair, probes[0]), measure_floor(pair, probes, temperature=temperature)


def record(pair: Pair, prompts: Sequence[Prompt], collection: Collection) -> pa.Table:
    """Rows of one part: roll out side by side, then score answer by answer.

    Args:
        pair: both models, with at least `len(prompts)` lanes each.
        prompts: what to answer.
        collection: how.

    Raises:
        InputError: a prompt is empty or does not fit the context.
        RunError: a model failed; where a logit is NaN, the prompt and the position are named.
    """
    sizes = size_grid(pair.slm.vocab_size)
    encoded = [_encode(pair, prompt, collection.max_tokens) for prompt in prompts]
    streams = [prompt_stream(collection.seed, prompt.prompt_id) for prompt in prompts]
    models = {Source.SLM: pair.slm, Source.LLM: pair.llm}
    known: dict[Source, list[list[Logits]]] = {}
    answers: list[list[int]] = []
    if collection.source in models:
        rollouts = [rollout for rollout, _ in streams]
        with _prompts_named(dict(enumerate(prompts))):
            answers, own = _roll_out(models[collection.source], encoded, rollouts, collection)
        known[collection.source] = own
    rows = []
    for at, (prompt, tokens, (rollout, scoring_rng)) in enumerate(zip(prompts, encoded, streams, strict=True)):
        with _prompts_named({0: prompt}):
            answer = answers[at] if answers else _hybrid_answer(pair, prompt, collection, rollout)
            slm, llm = (
                known[name][at] if name in known else _teacher_forced(model, tokens, answer, collection.chunk)
                for name, model in models.items()
            )
        for position, token in enumerate(answer):
            rows.append(
                {
                    "prompt_id": prompt.prompt_id,
                    "domain": prompt.domain,
                    "position": position,
                    "source": str(collection.source),
                    "context_token": token,
                    **score_position(slm[position], llm[position], sizes, collection.scoring, scoring_rng),
                }
            )
    return pa.Table.from_pylist(rows, schema=record_schema(sizes.tolist()))


def prompt_stream(seed: int, prompt_id: str) -> tuple[np.random.Generator, np.random.Generator]:
    """Random streams of one prompt, for the roll-out and for the scoring, from a hash of (seed, prompt_id)."""
    digest = hashlib.sha256(f"{seed}\n{prompt_id}".encode()).digest()
    rollout, scoring = np.random.SeedSequence(int.from_bytes(digest)).spawn(2)
    return np.random.default_rng(rollout), np.random.default_rng(scoring)


def _roll_out(
    model: LanguageModel, prompts: Sequence[list[int]], rngs: Sequence[np.random.Generator], collection: Collection
) -> tuple[list[list[int]], list[list[Logits]]]:
    """Sample an answer to each prompt, all lanes in step; also the logits that each token was drawn from."""
    scoring = collection.scoring
    answers: list[list[int]] = [[] for _ in prompts]
    logits: list[list[Logits]] = [[] for _ in prompts]
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


def _hybrid_answer(pair: Pair, prompt: Prompt, collection: Collection, rng: np.random.Generator) -> list[int]:
    """What the decoder writes at the operating point, the token that ends it included."""
    assert collection.operating_point is not None
    seed = int(rng.integers(2**63))
    result = decode(pair, collection.operating_point, prompt.text, seed=seed, max_tokens=collection.max_tokens)
    return [step.token for step in result.steps]


def _teacher_forced(model: LanguageModel, prompt: list[int], answer: list[int], chunk: int) -> list[Logits]:
    """Logits before each token of `answer`, read in chunks."""
    _prefill(model, 0, prompt)
    read = [prompt[-1], *answer[:-1]]
    return [row for at in range(0, len(read), chunk) for row in model.extend({0: read[at : at + chunk]})[0]]


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


@contextmanager
def _prompts_named(prompts: Mapping[int, Prompt]) -> Iterator[None]:
    """Name the prompt of the lane where a logit is NaN."""
    try:
        yield
    except NanLogitError as error:
        raise RunError(f"prompt {prompts[error.lane].prompt_id!r}: {error}; finished parts are kept") from None
