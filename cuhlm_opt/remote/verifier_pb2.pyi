from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ("vocab_size",)
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    vocab_size: int
    def __init__(self, vocab_size: _Optional[int] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("model", "vocab_size", "vocabulary_sha256", "eos_tokens", "context_length", "provenance_json")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SHA256_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_JSON_FIELD_NUMBER: _ClassVar[int]
    model: str
    vocab_size: int
    vocabulary_sha256: bytes
    eos_tokens: _containers.RepeatedScalarFieldContainer[int]
    context_length: int
    provenance_json: str
    def __init__(self, model: _Optional[str] = ..., vocab_size: _Optional[int] = ..., vocabulary_sha256: _Optional[bytes] = ..., eos_tokens: _Optional[_Iterable[int]] = ..., context_length: _Optional[int] = ..., provenance_json: _Optional[str] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("begin", "verify", "catch_up", "stream")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    CATCH_UP_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    begin: Begin
    verify: Verify
    catch_up: CatchUp
    stream: Stream
    def __init__(self, begin: _Optional[_Union[Begin, _Mapping]] = ..., verify: _Optional[_Union[Verify, _Mapping]] = ..., catch_up: _Optional[_Union[CatchUp, _Mapping]] = ..., stream: _Optional[_Union[Stream, _Mapping]] = ...) -> None: ...

class Terms(_message.Message):
    __slots__ = ("vocab_size", "mode", "temperature", "top_p", "k", "b_prob", "quantiser", "format", "pending_data")
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    B_PROB_FIELD_NUMBER: _ClassVar[int]
    QUANTISER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    PENDING_DATA_FIELD_NUMBER: _ClassVar[int]
    vocab_size: int
    mode: str
    temperature: float
    top_p: float
    k: int
    b_prob: int
    quantiser: str
    format: str
    pending_data: str
    def __init__(self, vocab_size: _Optional[int] = ..., mode: _Optional[str] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., k: _Optional[int] = ..., b_prob: _Optional[int] = ..., quantiser: _Optional[str] = ..., format: _Optional[str] = ..., pending_data: _Optional[str] = ...) -> None: ...

class Tokens(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Begin(_message.Message):
    __slots__ = ("terms", "seed", "prompt", "tokens", "resumed")
    TERMS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    terms: Terms
    seed: int
    prompt: str
    tokens: Tokens
    resumed: int
    def __init__(self, terms: _Optional[_Union[Terms, _Mapping]] = ..., seed: _Optional[int] = ..., prompt: _Optional[str] = ..., tokens: _Optional[_Union[Tokens, _Mapping]] = ..., resumed: _Optional[int] = ...) -> None: ...

class Verify(_message.Message):
    __slots__ = ("skipped", "skipped_probability", "drafts", "ended")
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    skipped: _containers.RepeatedScalarFieldContainer[int]
    skipped_probability: _containers.RepeatedScalarFieldContainer[float]
    drafts: _containers.RepeatedCompositeFieldContainer[Draft]
    ended: bool
    def __init__(self, skipped: _Optional[_Iterable[int]] = ..., skipped_probability: _Optional[_Iterable[float]] = ..., drafts: _Optional[_Iterable[_Union[Draft, _Mapping]]] = ..., ended: _Optional[bool] = ...) -> None: ...

class Draft(_message.Message):
    __slots__ = ("token", "spare_bits", "message")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SPARE_BITS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    token: int
    spare_bits: int
    message: bytes
    def __init__(self, token: _Optional[int] = ..., spare_bits: _Optional[int] = ..., message: _Optional[bytes] = ...) -> None: ...

class CatchUp(_message.Message):
    __slots__ = ("skipped", "skipped_probability")
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    skipped: _containers.RepeatedScalarFieldContainer[int]
    skipped_probability: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, skipped: _Optional[_Iterable[int]] = ..., skipped_probability: _Optional[_Iterable[float]] = ...) -> None: ...

class Stream(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    def __init__(self, tokens: _Optional[int] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("tokens", "accepted", "rejection", "read", "seconds")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    accepted: bool
    rejection: _containers.RepeatedScalarFieldContainer[float]
    read: int
    seconds: float
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., accepted: _Optional[bool] = ..., rejection: _Optional[_Iterable[float]] = ..., read: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...
