"""The verifier as a gRPC service: every stream is one conversation, with a state that nothing else can reach."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc

from cuhlm_opt.decode.loop import server_stream
from cuhlm_opt.decode.timing import Stopwatch
from cuhlm_opt.decode.verifier import Risk, Verifier
from cuhlm_opt.decode.wire import EMPTY
from cuhlm_opt.errors import CodecError, InputError, RunError
from cuhlm_opt.models.padding import WithoutPadding
from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.modes import Mode
from cuhlm_opt.remote import messages
from cuhlm_opt.remote import verifier_pb2 as pb
from cuhlm_opt.remote.caches import Caches


class Conversation:
    """One answer: what came so far, and the replies to what comes next.

    Args:
        llm: of this conversation alone.
        begin: its first request.

    Raises:
        InputError: the request is none that a device writes, or its context does not fit.
    """

    def __init__(self, llm: LanguageModel, begin: pb.Begin) -> None:
        self._terms = terms = messages.read_terms(begin.terms)
        if terms.vocab_size > llm.vocab_size:
            raise InputError(f"a vocabulary of {terms.vocab_size} tokens; the model here has {llm.vocab_size}")
        self._llm = llm if terms.vocab_size == llm.vocab_size else WithoutPadding(llm, terms.vocab_size)
        self._stopwatch = Stopwatch()
        stream = server_stream(begin.seed, begin.resumed)
        self._verifier = Verifier(self._llm, terms, stream, self._stopwatch)
        self._is_text = begin.HasField("prompt")
        tokens = llm.chat_tokens(begin.prompt) if self._is_text else list(begin.tokens.ids)
        if not tokens or max(tokens) >= terms.vocab_size:
            raise CodecError(f"the context is empty, or holds a token that is not within |V| = {terms.vocab_size}")
        self._context = tokens

    def opening(self) -> pb.Reply:
        """Tokens of the prompt, if it was text."""
        return pb.Reply(tokens=self._context if self._is_text else ())

    def prefilled(self) -> pb.Reply:
        """Read the context."""
        with self._stopwatch("reply"):
            self._verifier.prefill(self._context, 0)
        return pb.Reply(read=len(self._context) - 1, seconds=self._seconds())

    def replies(self, request: pb.Request) -> Iterator[pb.Reply]:
        """What `request` is answered with, in turn."""
        match request.WhichOneof("kind"):
            case "verify" if self._terms.mode is Mode.SPECULATIVE:
                yield self._round(request.verify)
            case "verify" if self._terms.mode not in (Mode.SLM, Mode.LLM):
                yield self._verified(request.verify)
            case "catch_up":
                yield self._caught_up(request.catch_up)
            case "stream" if self._terms.mode is Mode.LLM:
                yield from self._streamed(request.stream.tokens)
            case kind:
                raise CodecError(f"a conversation in mode {str(self._terms.mode)!r} takes no request {kind!r}")

    def _verified(self, verify: pb.Verify) -> pb.Reply:
        skipped = messages.read_skipped(verify.skipped, verify.skipped_probability, self._terms.vocab_size)
        expected = 0 if self._terms.mode is Mode.QUERY else 1
        if len(verify.drafts) != expected or verify.ended:
            raise CodecError(f"{len(verify.drafts)} drafts; mode {str(self._terms.mode)!r} sends {expected}")
        token, message = messages.read_draft(verify.drafts[0]) if expected else (None, EMPTY)
        with self._stopwatch("reply"):
            ruling = self._verifier.verify(skipped, token, message, None)
        return pb.Reply(
            tokens=[ruling.token],
            accepted=ruling.accepted,
            rejection=_told(ruling.risks[:-1]),
            read=ruling.read,
            seconds=self._seconds(),
        )

    def _round(self, verify: pb.Verify) -> pb.Reply:
        if verify.skipped or verify.skipped_probability:
            raise CodecError("a round comes with no skipped tokens")
        if len(verify.drafts) > self._llm.context_length:
            raise CodecError(f"a round of {len(verify.drafts)} drafts")
        read = [messages.read_draft(draft) for draft in verify.drafts]
        drafts = [(token, message) for token, message in read if token is not None]
        if len(drafts) < len(read) or (verify.ended and not drafts):
            raise CodecError("a draft of a round without its token, or no draft that ended the answer")
        with self._stopwatch("reply"):
            tokens, n_read = self._verifier.verify_round(drafts, ended=verify.ended)
        return pb.Reply(tokens=tokens, read=n_read, seconds=self._seconds())

    def _caught_up(self, caught: pb.CatchUp) -> pb.Reply:
        skipped = messages.read_skipped(caught.skipped, caught.skipped_probability, self._terms.vocab_size)
        with self._stopwatch("reply"):
            risks, read = self._verifier.flush(skipped)
        return pb.Reply(rejection=_told(risks), read=read, seconds=self._seconds())

    def _streamed(self, most: int) -> Iterator[pb.Reply]:
        for _ in range(most):
            with self._stopwatch("reply"):
                ruling = self._verifier.verify((), None, EMPTY, None)
            yield pb.Reply(tokens=[ruling.token], read=ruling.read, seconds=self._seconds())
            if ruling.token in self._llm.eos_tokens:
                return

    def _seconds(self) -> float:
        """What the reply in the making took."""
        return self._stopwatch.seconds.pop("reply")


class VerifierService(grpc.GenericRpcHandler):
    """Handlers of the service.

    Args:
        llm: lanes bound the caches that are kept.
        name: of the model, for whoever asks.
        conversations: most of them at a time.
        idle_s: a conversation that asks for nothing for so long is ended.
    """

    def __init__(self, llm: LanguageModel, name: str, *, conversations: int = 64, idle_s: float = 600.0) -> None:
        self._llm, self._name, self._idle_s = llm, name, idle_s
        self.caches = Caches(llm)
        self._room = threading.BoundedSemaphore(conversations)
        self._described: dict[int, pb.DescribeReply] = {}
        self._describing = threading.Lock()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Handler of a method, requests as bytes, so that what is malformed is refused here."""
        if details.method == messages.DESCRIBE:
            return grpc.unary_unary_rpc_method_handler(self._describe, response_serializer=_written)
        if details.method == messages.CONVERSE:
            return grpc.stream_stream_rpc_method_handler(self._converse, response_serializer=_written)
        return None

    def _describe(self, data: bytes, context: grpc.ServicerContext) -> pb.DescribeReply:
        with _refusing(context):
            size = messages.parsed(pb.DescribeRequest, data).vocab_size
            if not 1 <= size <= 2**24:
                raise CodecError(f"a vocabulary of {size} tokens")
            with self._describing, self.caches.batching.alone():  # the digest takes a moment
                size = min(size, self._llm.vocab_size)
                if size not in self._described:
                    self._described = {size: self._description(size)}
                return self._described[size]

    def _description(self, size: int) -> pb.DescribeReply:
        return pb.DescribeReply(
            model=self._name,
            vocab_size=size,
            vocabulary_sha256=messages.vocabulary_sha256(self._llm, size),
            eos_tokens=sorted(self._llm.eos_tokens),
            context_length=self._llm.context_length,
            provenance_json=json.dumps(self._llm.provenance()),
        )

    def _converse(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[pb.Reply]:
        if not self._room.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many conversations; try again later")
        llm = self.caches.open()
        idle = _Alarm(self._idle_s, context.cancel)
        try:
            with _refusing(context):
                first = _next(requests, idle)
                if first is None:
                    return
                begin = messages.parsed(pb.Request, first)
                if begin.WhichOneof("kind") != "begin":
                    raise CodecError(f"a conversation begins with begin, not {begin.WhichOneof('kind')!r}")
                conversation = Conversation(llm, begin.begin)
                yield conversation.opening()
                yield conversation.prefilled()
                while (data := _next(requests, idle)) is not None:
                    yield from conversation.replies(messages.parsed(pb.Request, data))
        finally:
            idle.stop()
            llm.close()
            self._room.release()


class _Alarm:
    """Calls `ring` if it is set and not stopped for `seconds`."""

    def __init__(self, seconds: float, ring: Any) -> None:
        self._seconds, self._ring = seconds, ring
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        self._timer = threading.Timer(self._seconds, self._ring)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _next(requests: Iterator[bytes], idle: _Alarm) -> bytes | None:
    """The next request, None behind the last."""
    idle.start()
    try:
        return next(requests, None)
    finally:
        idle.stop()


@contextmanager
def _refusing(context: grpc.ServicerContext) -> Iterator[None]:
    """Turn what is refused or fails into a status code."""
    try:
        yield
    except InputError as error:
        _abort(context, grpc.StatusCode.INVALID_ARGUMENT, error)
    except RunError as error:
        _abort(context, grpc.StatusCode.INTERNAL, error)


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, error: Exception) -> NoReturn:
    context.abort(code, " ".join(str(error).split())[:500])
    raise AssertionError  # abort does not return


def _told(risks: Sequence[Risk]) -> list[float]:
    """Rejection probabilities of skipped drafts, if their own probabilities were told."""
    return [risk.beta for risk in risks if risk.beta is not None]


def _written(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
