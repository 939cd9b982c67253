"""The schema's messages from and to what the decoder works with, and what a message takes on the wire."""

import hashlib
import math
from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage

from cuhlm_opt.codec import Message
from cuhlm_opt.decode.verifier import Skipped
from cuhlm_opt.decode.wire import Terms
from cuhlm_opt.errors import CodecError
from cuhlm_opt.models.pairs import PROBE
from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.modes import Mode, PendingData
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.remote import verifier_pb2 as pb

_Proto = TypeVar("_Proto", bound=ProtoMessage)
_Name = TypeVar("_Name", bound=StrEnum)

SERVICE = "cuhlm.v1.Verifier"
DESCRIBE, CONVERSE = f"/{SERVICE}/Describe", f"/{SERVICE}/Converse"

_PREFIX, _FRAME_HEADER, _FRAME = 5, 9, 2**14
"""Bytes of gRPC's length prefix, of an HTTP/2 frame's header, and of the largest frame's content."""


def wire_bytes(message: bytes) -> int:
    """Bytes of a message in HTTP/2: with gRPC's prefix and the frames' headers, without TLS, TCP and IP.

    >>> wire_bytes(b"four")
    18
    """
    size = len(message) + _PREFIX
    return size + _FRAME_HEADER * math.ceil(size / _FRAME)


def parsed(kind: type[_Proto], data: bytes) -> _Proto:
    """A message of the schema.

    Raises:
        CodecError: the bytes are none.
    """
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise CodecError(f"{len(data)} bytes are no {kind.DESCRIPTOR.name}") from None
    return message


def written_terms(terms: Terms) -> pb.Terms:
    """`terms` as the schema has them."""
    return pb.Terms(
        vocab_size=terms.vocab_size,
        mode=terms.mode,
        temperature=terms.temperature,
        top_p=terms.top_p,
        k=terms.k,
        b_prob=terms.b_prob,
        quantiser=terms.quantiser,
        format=terms.format,
        pending_data=terms.pending_data,
    )


def read_terms(terms: pb.Terms) -> Terms:
    """The terms of a conversation.

    Raises:
        InputError: a name is unknown, or a number is out of range.
    """
    read = Terms(
        vocab_size=terms.vocab_size,
        mode=_named(Mode, terms.mode),
        temperature=terms.temperature,
        top_p=terms.top_p,
        k=terms.k if terms.HasField("k") else None,
        b_prob=terms.b_prob,
        quantiser=_named(Quantiser, terms.quantiser),
        format=_named(Format, terms.format),
        pending_data=_named(PendingData, terms.pending_data) if terms.HasField("pending_data") else None,
    )
    if read.mode not in (Mode.LLM, Mode.QUERY):
        _ = read.codec  # refuses what it cannot read
    return read


def written_draft(token: int | None, message: Message) -> pb.Draft:
    """A draft that the server is told, and what to verify it with."""
    return pb.Draft(token=token, spare_bits=8 * len(message.data) - message.bits, message=message.data)


def read_draft(draft: pb.Draft) -> tuple[int | None, Message]:
    """(token, message) of a draft."""
    if draft.spare_bits > min(7, 8 * len(draft.message)):
        raise CodecError(f"{draft.spare_bits} spare bits in {len(draft.message)} bytes")
    token = draft.token if draft.HasField("token") else None
    return token, Message(8 * len(draft.message) - draft.spare_bits, draft.message)


def read_skipped(tokens: Sequence[int], probabilities: Sequence[float], vocab_size: int) -> list[Skipped]:
    """Tokens that the device kept, with their probabilities, if it tells them."""
    if probabilities and len(probabilities) != len(tokens):
        raise CodecError(f"{len(tokens)} skipped tokens with {len(probabilities)} probabilities")
    if any(token >= vocab_size for token in tokens):
        raise CodecError(f"a skipped token is not within |V| = {vocab_size}")
    if not all(0 < probability <= 1 for probability in probabilities):
        raise CodecError("the probability of a skipped token is not in (0, 1]")
    told: Sequence[float | None] = probabilities or [None] * len(tokens)
    return [
        Skipped(token=token, probability=probability, skippable=None)
        for token, probability in zip(tokens, told, strict=True)
    ]


def vocabulary_sha256(model: LanguageModel, size: int) -> bytes:
    """Digest of the first `size` tokens' bytes, and of the ids that a probe text is cut into."""
    digest = hashlib.sha256()
    for token in range(size):
        piece = model.detokenize([token])
        digest.update(len(piece).to_bytes(4, "big") + piece)
    digest.update(np.array(model.tokenize(PROBE), dtype="<u4").tobytes())
    return digest.digest()


def _named(kind: type[_Name], name: str) -> _Name:
    try:
        return kind(name)
    except ValueError:
        raise CodecError(f"{kind.__name__.lower()} {name[:40]!r} is unknown") from None
