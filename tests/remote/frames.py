"""Conversations that no device has: noise, genuine requests damaged, out of order and out of range.

Shared with `tests/long/measure_faults.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from remote_fakes import PROMPT, VARIANTS, Tap, ask, beginning, converse, lasting, listening, request

from cuhlm_opt.modes import Mode, PendingData
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.remote import verifier_pb2 as pb

Frames = list[bytes]
Rng = np.random.Generator

NUMBERS = (0, 1, 2, 3, 5, 6, 7, 16, 17, 100, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
FLOATS = (0.0, -0.0, 0.5, 1.0, 1.0000001, 2.0, -1.0, 5e-324, 1e-300, 1e-50, 1e-44, 1e-38, 1e38, 1e39, 1e300,
          float("inf"), float("-inf"), float("nan"))  # fmt: skip
NAMES = ("", " ", "hlm", "HLM", "none", "uniform", "types", "x" * 5000, "é🙂", "\x00")
TERMS: Mapping[str, Sequence[Any]] = {
    "vocab_size": NUMBERS,
    "mode": (*Mode, *NAMES),
    "temperature": FLOATS,
    "top_p": FLOATS,
    "k": (*NUMBERS, None),
    "b_prob": (*range(18), *NUMBERS),
    "quantiser": (*Quantiser, *NAMES),
    "format": (*Format, *NAMES),
    "pending_data": (*PendingData, *NAMES, None),
}
"""What a term may be set to, None to leave it out."""
LARGEST = 40
"""Most bytes that are put in at one place."""


def genuine() -> list[Frames]:
    """The requests of one answer at each point of `VARIANTS`, with and without feedback."""
    tap, recorded = Tap(), []
    with listening(tap) as address:
        for name, at in VARIANTS.items():
            for feedback in (False, True):
                ask(address, at, PROMPT, seed=lasting(name, 4), max_tokens=16, feedback=feedback)
                recorded.append(tap.requests.copy())
                tap.requests.clear()
    return recorded


def conversations(rng: Rng, recorded: Sequence[Frames]) -> Iterator[tuple[str, Frames]]:
    """(kind, frames) without end."""
    kinds = [*KINDS]
    while True:
        kind = kinds[rng.integers(len(kinds))]
        yield kind, KINDS[kind](rng, recorded)


def answered_to(channel: grpc.Channel, kind: str, frames: Frames) -> tuple[str, str | None]:
    """The status code of a conversation, and what is wrong with it: it is to be refused as what it is, or answered."""
    code, details, replies = converse(channel, frames)
    is_named = 0 < len(details) <= 500 and "\n" not in details
    try:
        for reply in replies:
            pb.Reply.FromString(reply)
    except DecodeError:
        is_named = False
    if (code == "OK" and len(replies) >= 2) or (code == "INVALID_ARGUMENT" and is_named):
        return code, None
    sent = [frame[:200].hex() for frame in frames]
    return code, f"{kind}: {code} ({details}) after {len(replies)} replies to {sent}"


def _noise(rng: Rng, recorded: Sequence[Frames]) -> Frames:
    """Random bytes, at the beginning or behind it."""
    before = _some(rng, recorded)[: rng.integers(0, 2)]
    return [*before, *(rng.bytes(rng.integers(0, LARGEST)) for _ in range(rng.integers(1, 3)))]


def _damaged(rng: Rng, recorded: Sequence[Frames]) -> Frames:
    """A genuine conversation, up to a request that is damaged, and the next."""
    frames = _some(rng, recorded)
    place = int(rng.integers(min(4, len(frames))))
    broken = frames[place]
    for _ in range(rng.integers(1, 4)):
        broken = DAMAGES[rng.integers(len(DAMAGES))](rng, broken)
    return [*frames[:place], broken, *frames[place + 1 : place + 2]]


def _out_of_order(rng: Rng, recorded: Sequence[Frames]) -> Frames:
    """Genuine requests of any conversations in any order."""
    return [_any(rng, _some(rng, recorded)) for _ in range(rng.integers(1, 5))]


def _of_another(rng: Rng, recorded: Sequence[Frames]) -> Frames:
    """The beginning of one conversation and what follows in another."""
    return [_some(rng, recorded)[0], *_some(rng, recorded)[1:4]]


def _hostile_terms(rng: Rng, recorded: Sequence[Frames]) -> Frames:
    """A beginning with terms out of range, and what follows."""
    frames = _some(rng, recorded)
    begin = pb.Request.FromString(frames[0])
    for name in rng.choice([*TERMS], size=rng.integers(1, 4), replace=False).tolist():
        value = _any(rng, TERMS[name])
        if value is None:
            begin.begin.terms.ClearField(name)
        else:
            setattr(begin.begin.terms, name, value)
    return [begin.SerializeToString(), *frames[1:3]]


def _hostile_context(rng: Rng, recorded: Sequence[Frames]) -> Frames:
    """A prompt or tokens that are empty, long or none of the vocabulary, a resumed answer of any length."""
    begin = beginning(_any(rng, [*VARIANTS.values()]))
    begin.seed = int(rng.integers(0, 2**64, dtype=np.uint64))
    match rng.integers(5):
        case 0:
            begin.prompt = _any(rng, ["", " ", "\n", "a" * 5000, "é🙂\x00", "a"])
        case 1:
            begin.ClearField("prompt")
        case _:
            begin.tokens.ids.extend(_tokens(rng, _any(rng, (0, 1, 3, 60, 70, 5000))))
            begin.resumed = _any(rng, NUMBERS)
    return [request(begin=begin), *_some(rng, recorded)[1:3]]


def _hostile_verify(rng: Rng, recorded: Sequence[Frames]) -> Frames:
    """Drafts and skipped tokens of any number and content behind a genuine beginning."""
    first = _some(rng, recorded)[0]
    verify = pb.Verify(ended=bool(rng.integers(2)), **_skipped(rng))
    for _ in range(_any(rng, (0, 1, 1, 1, 2, 3, 5, 50, 200))):
        draft = verify.drafts.add(message=rng.bytes(rng.integers(0, 12)))
        if rng.integers(4):
            draft.token = _tokens(rng, 1)[0]
        draft.spare_bits = _any(rng, (0, 0, 0, 0, 1, 4, 7, 8, 9, 2**32 - 1))
    return [first, *([request(verify=verify)] * rng.integers(1, 3))]


def _hostile_draft(rng: Rng, recorded: Sequence[Frames]) -> Frames:
    """A genuine request whose drafts have other tokens, bits or skips."""
    frames = _some(rng, recorded)[:4]
    changed = pb.Request.FromString(frames[-1])
    if changed.WhichOneof("kind") == "verify":
        for draft in changed.verify.drafts:
            match rng.integers(4):
                case 0:
                    draft.token = _tokens(rng, 1)[0]
                case 1:
                    draft.ClearField("token")
                case 2:
                    draft.spare_bits = int(rng.integers(0, 10))
                case _:
                    draft.message = DAMAGES[rng.integers(len(DAMAGES))](rng, draft.message)
        if not rng.integers(3):
            changed.verify.skipped.extend(_tokens(rng, int(rng.integers(1, 4))))
        if not rng.integers(3):
            changed.verify.skipped_probability.append(_any(rng, FLOATS))
    return [*frames[:-1], changed.SerializeToString()]


def _hostile_catch_up(rng: Rng, recorded: Sequence[Frames]) -> Frames:
    """Skipped tokens of any number and content, once or again."""
    first = _some(rng, recorded)[0]
    return [first, *([request(catch_up=pb.CatchUp(**_skipped(rng)))] * rng.integers(1, 4))]


def _hostile_stream(rng: Rng, recorded: Sequence[Frames]) -> Frames:
    """Streams of any length, also where none are drawn."""
    first = recorded[0][0] if rng.integers(4) else _some(rng, recorded)[0]
    return [first, *(request(stream=pb.Stream(tokens=_any(rng, NUMBERS))) for _ in range(rng.integers(1, 3)))]


KINDS: Mapping[str, Callable[[Rng, Sequence[Frames]], Frames]] = {
    "noise": _noise,
    "damaged": _damaged,
    "damaged more": _damaged,
    "out of order": _out_of_order,
    "of another conversation": _of_another,
    "hostile terms": _hostile_terms,
    "hostile context": _hostile_context,
    "hostile verify": _hostile_verify,
    "hostile draft": _hostile_draft,
    "hostile catch-up": _hostile_catch_up,
    "hostile stream": _hostile_stream,
}


def _flipped(rng: Rng, data: bytes) -> bytes:
    """One to three bits the other way."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        if changed:
            changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _overwritten(rng: Rng, data: bytes) -> bytes:
    """One byte another."""
    changed = bytearray(data)
    if changed:
        changed[rng.integers(len(changed))] = int(rng.integers(256))
    return bytes(changed)


def _cut(rng: Rng, data: bytes) -> bytes:
    """Without its end."""
    return data[: rng.integers(len(data) + 1)]


def _without(rng: Rng, data: bytes) -> bytes:
    """Without a piece."""
    start, stop = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:start] + data[stop:]


def _inserted(rng: Rng, data: bytes) -> bytes:
    """With random bytes at some place."""
    place = int(rng.integers(len(data) + 1))
    return data[:place] + rng.bytes(rng.integers(1, LARGEST)) + data[place:]


def _repeated(rng: Rng, data: bytes) -> bytes:
    """With a piece twice."""
    start, stop = sorted(rng.integers(len(data) + 1, size=2).tolist())
    return data[:stop] + data[start:stop] + data[stop:]


DAMAGES = (_flipped, _overwritten, _cut, _without, _inserted, _repeated)


def _some(rng: Rng, recorded: Sequence[Frames]) -> Frames:
    return recorded[rng.integers(len(recorded))]


def _any(rng: Rng, values: Sequence[Any]) -> Any:
    return values[rng.integers(len(values))]


def _tokens(rng: Rng, n: int) -> list[int]:
    """Mostly of the vocabulary."""
    found = rng.integers(0, 6, size=n).tolist()
    if n and not rng.integers(3):
        found[rng.integers(n)] = _any(rng, NUMBERS)
    return list(found)


def _skipped(rng: Rng) -> dict[str, list[Any]]:
    n = _any(rng, (0, 0, 1, 2, 5, 70, 5000))
    told = n if rng.integers(3) else _any(rng, (0, 1, n + 1))
    chances = rng.random(told).astype(np.float32)
    if told and not rng.integers(2):
        chances[rng.integers(told)] = np.clip(_any(rng, FLOATS), -3e38, 3e38)
    return {"skipped": _tokens(rng, n), "skipped_probability": chances.tolist() if rng.integers(2) else []}
