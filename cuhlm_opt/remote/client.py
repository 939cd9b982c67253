"""The device's view of a verifier at the other end of a link: asks in turns, and bears with its faults.

A conversation that breaks is begun again from its tokens, and what was not answered is asked again. No token that came
back is asked for twice.
"""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.codec import Message
from cuhlm_opt.decode.loop import Answer
from cuhlm_opt.decode.result import DecodeResult, Traffic
from cuhlm_opt.decode.timing import Stopwatch
from cuhlm_opt.decode.verifier import Risk, Ruling, Skipped, UnreachableError
from cuhlm_opt.decode.wire import Terms
from cuhlm_opt.errors import CodecError, InputError, RunError
from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.modes import Mode
from cuhlm_opt.remote import messages
from cuhlm_opt.remote import verifier_pb2 as pb
from cuhlm_opt.remote.serving import is_loopback, split_address

_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.OUT_OF_RANGE,
}
"""What asking again would not change."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a device waits."""

    deadline_s: float = 60.0
    """For one reply."""
    offline_after_s: float = 30.0
    """For a server that does not answer, from the first fault on."""


class FaultError(Exception):
    """The conversation broke; asking again may help."""


class Connection:
    """A channel to a server, whose model was checked to share the device's vocabulary once `describe` returned.

    Args:
        address: HOST:PORT.
        slm: the device's model.
        tls: root certificates in PEM; empty for those of the system; None for no TLS, on loopback only.
        token: shown to the server.
        patience: how long to wait.

    Raises:
        InputError: the address is none, or not loopback without TLS.
    """

    def __init__(
        self,
        address: str,
        slm: LanguageModel,
        *,
        tls: bytes | None = None,
        token: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        host, _ = split_address(address, "--verifier")
        if tls is None and not is_loopback(host):
            raise InputError(f"--verifier {address!r} is no loopback address: it needs --tls or --tls-ca")
        self.address, self.slm, self.patience = address, slm, patience or Patience()
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        options = [
            ("grpc.max_receive_message_length", 2**20),
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", int(1e3 * _FIRST_WAIT_S)),
            ("grpc.max_reconnect_backoff_ms", int(1e3 * _LONGEST_WAIT_S)),
        ]
        if tls is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(tls or None), options)
        self._description: pb.DescribeReply | None = None
        self._vocabulary = b""

    def describe(self) -> pb.DescribeReply:
        """What the server is, asked once.

        Raises:
            FaultError: it does not answer.
            InputError: it has another vocabulary.
            RunError: it refuses.
        """
        if self._description is None:
            size = self.slm.vocab_size
            call = self._channel.unary_unary(messages.DESCRIBE)
            request = pb.DescribeRequest(vocab_size=size).SerializeToString()
            try:
                data = call(request, timeout=self.patience.deadline_s, metadata=self._metadata)
                found = messages.parsed(pb.DescribeReply, data)
            except grpc.RpcError as error:
                raise self.failure(error) from None
            except CodecError:
                raise FaultError("it answers nonsense") from None
            self._vocabulary = self._vocabulary or messages.vocabulary_sha256(self.slm, size)
            if found.vocab_size != size or found.vocabulary_sha256 != self._vocabulary:
                raise InputError(
                    f"--verifier {self.address!r} has {found.model!r}, of another vocabulary than the SLM's"
                )
            self._description = found
        return self._description

    def forget(self) -> None:
        """Ask the server anew what it is, before the next conversation."""
        self._description = None

    def provenance(self) -> dict[str, Any]:
        """Of the server's model, as far as it told."""
        try:
            told = json.loads(self._description.provenance_json) if self._description else {}
        except (ValueError, RecursionError):
            return {}
        return told if isinstance(told, dict) else {}

    def open(self) -> "Stream":
        """A stream for one conversation."""
        return Stream(self, self._channel.stream_stream(messages.CONVERSE), self._metadata)

    def failure(self, error: grpc.RpcError) -> RunError | FaultError:
        """What to raise for a call that failed."""
        code, details = error.code(), " ".join((error.details() or "").split())
        if code in _REFUSALS:
            return RunError(f"verifier {self.address} refuses: {details or code.name}")
        return FaultError(f"{code.name.lower().replace('_', ' ')}" + (f" ({details[:200]})" if details else ""))

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


class Stream:
    """Requests out, replies in, with a deadline for each."""

    def __init__(self, connection: Connection, method: Any, metadata: Any) -> None:
        self._connection = connection
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[bytes | RunError | FaultError] = queue.SimpleQueue()
        self._call = method(iter(self._requests.get, None), metadata=metadata)
        threading.Thread(target=self._receive, daemon=True).start()

    def send(self, request: bytes) -> None:
        """Put a request on its way."""
        self._requests.put(request)

    def reply(self, deadline_s: float) -> bytes:
        """The next reply.

        Raises:
            FaultError: it does not come in time, or the conversation broke.
            RunError: the server refuses.
        """
        try:
            reply = self._replies.get(timeout=deadline_s)
        except queue.Empty:
            raise FaultError(f"no reply within {deadline_s:g} s") from None
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self, *, politely: bool) -> None:
        """End the conversation, or drop it."""
        self._requests.put(None)
        if not politely:
            self._call.cancel()

    def _receive(self) -> None:
        try:
            for reply in self._call:
                self._replies.put(reply)
            self._replies.put(FaultError("it hung up"))
        except grpc.RpcError as error:
            self._replies.put(self._connection.failure(error))


class RemoteVerifier:
    """Asks a server; implements `decode.verifier.Server`. One answer.

    Args:
        connection: to the server.
        terms: of the operating point.
        seed: of the answer, below 2^64; the server derives its own stream from it.
        stopwatch: time of the LLM, as the server tells it, under `llm`; the rest of the waiting under `link`.
        feedback: tell the probabilities of skipped tokens, so that the server tells the risk of skipping them.
        notify: told once for each fault.
    """

    def __init__(
        self,
        connection: Connection,
        terms: Terms,
        seed: int,
        stopwatch: Stopwatch,
        *,
        feedback: bool = False,
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._connection, self._terms, self._seed, self._stopwatch = connection, terms, seed, stopwatch
        self._feedback, self._notify = feedback, notify
        self._stream: Stream | None = None
        self._prompt = ""
        self._prompt_tokens: list[int] = []
        self._answer: list[int] = []  # what the server knows of it
        self._most = self._streaming = 0
        self._is_read = False
        self.traffic = Traffic()

    @property
    def eos_tokens(self) -> frozenset[int]:
        """Of the LLM."""
        return frozenset(self._connection.describe().eos_tokens)

    @property
    def context_length(self) -> int:
        """Of the LLM."""
        return self._connection.describe().context_length

    def chat_tokens(self, prompt: str) -> list[int]:
        """Token ids of `prompt` in the LLM's chat template: begins the conversation."""
        self._prompt = prompt
        with self._stopwatch("prefill_llm"):
            self._persist(lambda: None)
        return list(self._prompt_tokens)

    def prefill(self, prompt: Sequence[int], most: int) -> None:
        """Wait until the server has read the prompt; in mode `llm` it will be told to draw `most` tokens."""
        self._most = most
        with self._stopwatch("prefill_llm"):
            self._persist(self._read_context)

    def verify(self, skipped: Sequence[Skipped], told: int | None, message: Message, skippable: object) -> Ruling:
        """Ask for the next token; in mode `llm` wait for it."""
        if self._terms.mode is Mode.LLM:
            reply = self._persist(self._streamed)
        else:
            drafts = [] if self._terms.mode is Mode.QUERY else [messages.written_draft(told, message)]
            tokens, probabilities = self._written(skipped)
            verify = pb.Verify(skipped=tokens, skipped_probability=probabilities, drafts=drafts)
            reply = self._persist(lambda: self._asked(pb.Request(verify=verify), skipped, 1))
        self._answer += [*(skip.token for skip in skipped), *reply.tokens]
        return Ruling(
            token=reply.tokens[0],
            accepted=reply.accepted,
            risks=(*_risks(reply, skipped), Risk(beta=None, expected=None)),
            read=reply.read,
        )

    def verify_round(self, drafts: Sequence[tuple[int, Message]], *, ended: bool) -> tuple[tuple[int, ...], int]:
        """Ask for the tokens of a round."""
        written = [messages.written_draft(token, message) for token, message in drafts]
        request = pb.Request(verify=pb.Verify(drafts=written, ended=ended))

        def asked() -> pb.Reply:
            reply = self._asked(request, (), len(drafts) + (not ended))
            stood = len(reply.tokens) - 1
            if list(reply.tokens[:stood]) != [token for token, _ in drafts[:stood]]:
                raise FaultError("it answers nonsense")
            return reply

        reply = self._persist(asked)
        self._answer += reply.tokens
        return tuple(reply.tokens), reply.read

    def flush(self, skipped: Sequence[Skipped]) -> tuple[tuple[Risk, ...], int]:
        """Learn the risk of the last skips, where feedback is wanted, and end the conversation."""
        risks: tuple[Risk, ...] = tuple(Risk(beta=None, expected=None) for _ in skipped)
        read = 0
        if skipped and self._feedback:
            tokens, probabilities = self._written(skipped)
            request = pb.Request(catch_up=pb.CatchUp(skipped=tokens, skipped_probability=probabilities))
            reply = self._persist(lambda: self._asked(request, skipped, 0), label="flush")
            risks, read = _risks(reply, skipped), reply.read
        if self._stream is not None:
            self._stream.close(politely=True)
            self._stream = None
        return risks, read

    def close(self) -> None:
        """Drop the conversation, if it is not over: another server may answer next."""
        if self._stream is not None:
            self._stream.close(politely=False)
            self._stream = None
            self._connection.forget()

    def _persist(self, ask: Callable[[], pb.Reply | None], label: str = "llm") -> pb.Reply:
        """Ask until there is an answer.

        Raises:
            UnreachableError: none came for `offline_after_s`.
        """
        patience, first, wait = self._connection.patience, None, _FIRST_WAIT_S
        while True:
            start = time.monotonic()
            try:
                if self._stream is None:
                    self._begin()
                reply = ask()
                if reply is None:
                    return pb.Reply()
                waited = time.monotonic() - start
                told = min(reply.seconds, waited) if reply.seconds > 0 else 0.0
                self._stopwatch.seconds[label] += told
                self._stopwatch.seconds["link"] += waited - told
                return reply
            except FaultError as fault:
                self.close()
                now = time.monotonic()
                if first is None:
                    first = start
                    self._notify(f"verifier {self._connection.address}: {fault}; trying again")
                if now - first + wait > patience.offline_after_s:
                    raise UnreachableError(
                        f"verifier {self._connection.address} could not be reached for {now - first:.1f} s: {fault}"
                    ) from None
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_S)

    def _begin(self) -> None:
        """Open a conversation, at first with the prompt, later with all tokens that are certain."""
        self._connection.describe()
        self._stream, self._streaming, self._is_read = self._connection.open(), 0, False
        begin = pb.Begin(terms=messages.written_terms(self._terms), seed=self._seed)
        if self._prompt_tokens:
            self.traffic.reconnects += 1
            begin.tokens.ids.extend([*self._prompt_tokens, *self._answer])
            begin.resumed = len(self._answer)
        else:
            begin.prompt = self._prompt
        self._send(pb.Request(begin=begin))
        tokens = list(self._receive(0, any_tokens=True).tokens)
        if self._prompt_tokens:
            self._read_context()
        elif tokens:
            self._prompt_tokens = tokens
        else:
            raise FaultError("it answers nonsense")

    def _read_context(self) -> None:
        """Wait until the server has read what the conversation began with."""
        if not self._is_read:
            self._receive(0)
            self._is_read = True

    def _asked(self, request: pb.Request, skipped: Sequence[Skipped], most: int) -> pb.Reply:
        """The reply to one request, checked: at least a token if `most` are allowed."""
        size = self._send(request)
        if most:
            self.traffic.messages += 1
            self.traffic.message_bytes += size
        reply = self._receive(most)
        told = len(skipped) if self._feedback else 0
        if len(reply.rejection) != told or not all(0 <= beta <= 1 for beta in reply.rejection):
            raise FaultError("it answers nonsense")
        return reply

    def _streamed(self) -> pb.Reply:
        """The next token of mode `llm`."""
        if not self._streaming:
            self._streaming = self._most - len(self._answer)
            self._send(pb.Request(stream=pb.Stream(tokens=self._streaming)))
        reply = self._receive(1)
        self._streaming -= 1
        return reply

    def _send(self, request: pb.Request) -> int:
        assert self._stream is not None
        data = request.SerializeToString()
        size = messages.wire_bytes(data)
        self.traffic.sent_bytes += size
        self._stream.send(data)
        return size

    def _receive(self, most: int, *, any_tokens: bool = False) -> pb.Reply:
        """A reply with 1 to `most` tokens of the vocabulary, none if `most` is 0."""
        assert self._stream is not None
        data = self._stream.reply(self._connection.patience.deadline_s)
        self.traffic.received_bytes += messages.wire_bytes(data)
        try:
            reply = messages.parsed(pb.Reply, data)
        except CodecError:
            raise FaultError("it answers nonsense") from None
        counted = min(most, 1) <= len(reply.tokens) <= most or any_tokens
        if not counted or any(token >= self._terms.vocab_size for token in reply.tokens):
            raise FaultError("it answers nonsense")
        return reply

    def _written(self, skipped: Sequence[Skipped]) -> tuple[list[int], list[float]]:
        told = [skip.probability for skip in skipped if skip.probability is not None] if self._feedback else []
        return [skip.token for skip in skipped], told


def _risks(reply: pb.Reply, skipped: Sequence[Skipped]) -> tuple[Risk, ...]:
    betas: Iterator[float] = iter(reply.rejection)
    return tuple(Risk(beta=next(betas, None), expected=None) for _ in skipped)


def decode_remotely(
    connection: Connection,
    point: OperatingPoint,
    prompt: str,
    *,
    pair: str,
    seed: int = 0,
    max_tokens: int = 128,
    feedback: bool = False,
    on_text: Callable[[str], None] | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> DecodeResult:
    """Answer `prompt` at `point` with the LLM of a server: the text that one process would write.

    Where the server stops answering, the SLM goes on alone, and the result says from which token on.

    Args:
        connection: to the server; lane 0 of its SLM is cleared and used.
        point: as `decode.loop.decode`.
        prompt: as there.
        pair: name of the model pair.
        seed: as there, and below 2^64.
        max_tokens: as there.
        feedback: send the probabilities of skipped tokens along, to learn their risk.
        on_text: as there.
        notify: told of a fault in a line.

    Raises:
        InputError: as there; or the server has another vocabulary, or mode `slm` asks none.
        RunError: as there; or the server refuses.
    """
    if point.mode is Mode.SLM:
        raise InputError("mode 'slm' asks no verifier; leave --verifier out")
    if seed >= 2**64:
        raise InputError(f"seed {seed!r} is not allowed with a verifier; give an integer below 2^64")
    stopwatch = Stopwatch()
    terms = Terms.of(point, connection.slm.vocab_size)
    server = RemoteVerifier(connection, terms, seed, stopwatch, feedback=feedback, notify=notify)
    answer = Answer(connection.slm, server, point, stopwatch, seed=seed, on_text=on_text)
    try:
        answer.decode(prompt, max_tokens)
    finally:
        server.close()
    provenance = {"name": pair, "slm": connection.slm.provenance(), "llm": connection.provenance()}
    return answer.result(pair, provenance, server.traffic)
