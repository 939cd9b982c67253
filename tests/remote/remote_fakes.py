"""Devices and servers of the tiny pair on loopback: genuine ones, one that is listened in on, and one that can die."""

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from typing import Any

import grpc
import numpy as np

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.decode.default_point import tiny_operating_point
from cuhlm_opt.decode.loop import Answer, decode, server_stream
from cuhlm_opt.decode.result import DecodeResult, Step
from cuhlm_opt.decode.timing import Stopwatch
from cuhlm_opt.decode.verifier import UnreachableError, Verifier
from cuhlm_opt.decode.wire import Terms
from cuhlm_opt.models.pairs import load_pair
from cuhlm_opt.models.tiny import Role, TinyModel
from cuhlm_opt.modes import Distortion, Drafting, Mode, PendingData
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.remote import messages
from cuhlm_opt.remote import verifier_pb2 as pb
from cuhlm_opt.remote.access import split_address
from cuhlm_opt.remote.client import decode_remotely
from cuhlm_opt.remote.connection import Connection, Patience
from cuhlm_opt.remote.service import VerifierService
from cuhlm_opt.remote.serving import Server

PROMPT, END, VOCAB_SIZE = "abc", 5, 6
ASKING = [mode for mode in Mode if mode is not Mode.SLM]
STEADY = Patience(deadline_s=60.0, offline_after_s=60.0)
"""Of a device whose server comes back, on however slow a machine."""
HASTY = Patience(deadline_s=60.0, offline_after_s=0.3)
"""Of a device whose server is known to be gone."""


@cache
def point(mode: Mode | str, **changes: Any) -> OperatingPoint:
    return tiny_operating_point(load_pair("tiny"), Mode(mode)).model_copy(update=changes)


VARIANTS = {
    **{str(mode): point(mode) for mode in ASKING},
    **{
        f"speculative, {drafting}, {data}": point(Mode.SPECULATIVE, drafting=drafting, pending_data=data)
        for drafting in Drafting
        for data in PendingData
    },
    "cu-hlm-online by the surrogate": point(
        Mode.CU_HLM_ONLINE, distortion=Distortion.SURROGATE, slope=0.8, intercept=-0.05
    ),
    "hlm in types": point(Mode.HLM, format=Format.COMPACT, quantiser=Quantiser.TYPES),
    "cu-hlm-online, compact": point(Mode.CU_HLM_ONLINE, format=Format.COMPACT, quantiser=Quantiser.LOG, b_prob=5),
    "exact, warm nucleus": point(Mode.EXACT, temperature=1.3, top_p=0.9),
    "coarse, wide": point(Mode.COARSE, u_threshold=0.7),
}
"""Operating points that ask a server."""


@contextmanager
def serving(model: TinyModel | None = None, **options: Any) -> Iterator[Server]:
    server = Server(model or TinyModel(Role.LLM, lanes=8), "tiny", "127.0.0.1:0", **options)
    try:
        yield server
    finally:
        server.stop(0)


@contextmanager
def connected(address: str, **options: Any) -> Iterator[Connection]:
    connection = Connection(address, TinyModel(Role.SLM), **{"patience": STEADY, **options})
    try:
        yield connection
    finally:
        connection.close()


def ask(
    address: str, at: OperatingPoint, prompt: str = PROMPT, *, seed: int = 0, max_tokens: int = 40,
    feedback: bool = False, on_text: Callable[[str], None] | None = None,
    notify: Callable[[str], None] = lambda text: None, **options: Any,
) -> DecodeResult:  # fmt: skip
    """The answer of a device with a server at `address`."""
    with connected(address, **options) as connection:
        return decode_remotely(
            connection, at, prompt, pair="tiny", seed=seed, max_tokens=max_tokens, feedback=feedback, on_text=on_text,
            notify=notify,
        )  # fmt: skip


def alone(at: OperatingPoint, prompt: str = PROMPT, *, seed: int = 0, max_tokens: int = 40) -> DecodeResult:
    """The answer of one process."""
    return decode(load_pair("tiny"), at, prompt, seed=seed, max_tokens=max_tokens)


def steps(result: DecodeResult) -> list[Step]:
    """Each step but for its risk, of which a server tells less."""
    return [replace(step, risk=None) for step in result.steps]


def tokens(result: DecodeResult) -> list[int]:
    return [step.token for step in result.steps]


def require_sound(result: DecodeResult, most: int = 40) -> None:
    """Whatever the server did: tokens of the vocabulary, one end, text and figures that follow from them."""
    found = tokens(result)
    assert 1 <= len(found) <= most
    assert all(0 <= token < VOCAB_SIZE for token in found)
    assert END not in found[:-1], "nothing stands behind the token that ends the answer"
    assert (result.finish_reason == "eos") == (found[-1] == END)
    assert result.text == "".join(chr(ord("a") + token) for token in found if token != END)
    figures = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert all(seconds >= 0 for seconds in figures["timing"].values())
    assert figures["link_total_s"] >= 0
    assert figures["tokens_unverified"] == sum(step.alone for step in result.steps)
    flags = [step.alone for step in result.steps]
    assert flags == sorted(flags), "tokens that nobody verified are the last"


@cache
def lasting(at: str, shown: int, max_tokens: int = 40) -> int:
    """A seed whose answer at a point of `VARIANTS` asks again after `shown` letters, and is not near its end."""

    def lasts(seed: int) -> bool:
        result = alone(VARIANTS[at], seed=seed, max_tokens=max_tokens)
        later = result.steps[shown + 3 :]
        return len(result.text) >= shown + 8 and any(not step.skipped for step in later)

    return next(seed for seed in range(1000) if lasts(seed))


def until(what: Callable[[], bool]) -> None:
    """Wait for what must come, a minute at most."""
    waited = threading.Event()
    for _ in range(1200):
        if what():
            return
        waited.wait(0.05)
    raise AssertionError("it does not come")


class Tap(grpc.GenericRpcHandler):
    """A genuine service whose conversations are written down, and whose replies may be changed on their way.

    Args:
        change: from the number of a reply since the start and its bytes to what is sent instead.
        description: what Describe is answered with, unless None.
    """

    def __init__(
        self, change: Callable[[int, bytes], bytes] = lambda index, data: data, description: bytes | None = None
    ) -> None:
        self.behind = VerifierService(TinyModel(Role.LLM, lanes=8), "tiny")
        self.change, self._description = change, description
        self.requests: list[bytes] = []
        self.replies: list[bytes] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        handler = self.behind.service(details)
        if details.method == messages.DESCRIBE and self._description is not None:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: self._description)
        if details.method != messages.CONVERSE:
            return handler

        def heard(requests: Iterator[bytes]) -> Iterator[bytes]:
            for request in requests:
                self.requests.append(request)
                yield request

        def converse(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            for reply in handler.stream_stream(heard(requests), context):
                data = self.change(len(self.replies), handler.response_serializer(reply))
                self.replies.append(data)
                yield data

        return grpc.stream_stream_rpc_method_handler(converse)


@contextmanager
def listening(handler: grpc.GenericRpcHandler) -> Iterator[str]:
    """Address of a server with this handler."""
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


class Relay:
    """Passes bytes on to a server, and keeps them: `sent` to it, and `received` from it."""

    def __init__(self, address: str) -> None:
        self._to = split_address(address, "")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.sent, self.received = bytearray(), bytearray()
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._join, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        for end in (self._listening, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(60)

    def _join(self) -> None:
        with suppress(OSError):
            device, _ = self._listening.accept()
            server = socket.create_connection(self._to)
            self._ends += [device, server]
            for ends in ((device, server, self.sent), (server, device, self.received)):
                self._threads.append(threading.Thread(target=self._pass, args=ends, daemon=True))
                self._threads[-1].start()

    def _pass(self, reading: socket.socket, writing: socket.socket, kept: bytearray) -> None:
        with suppress(OSError):
            while data := reading.recv(2**16):
                kept += data
                writing.sendall(data)
            writing.shutdown(socket.SHUT_WR)


class Paced(TinyModel):
    """Reads as many chunks behind the prompt as it was allowed to: a stream that is not ahead of its reader."""

    def __init__(self, allowed: threading.Semaphore) -> None:
        super().__init__(Role.LLM)
        self._allowed = allowed

    def extend(self, chunks: Any, *, last_only: bool = False) -> Any:
        if not last_only:
            assert self._allowed.acquire(timeout=60)
        return super().extend(chunks, last_only=last_only)


class Mortal:
    """A server that can be stopped at once, and started again where it was."""

    def __init__(
        self, model: Callable[[], TinyModel] = lambda: TinyModel(Role.LLM), address: str = "127.0.0.1:0"
    ) -> None:
        self.model, self.address = model, address
        self.start()

    def start(self) -> None:
        self._server = Server(self.model(), "tiny", self.address)
        self.address = self._server.address

    def stop(self) -> None:
        self._server.stop(0)


class Events:
    """An answer in the making: what it has shown, and what happens once that is `after` letters.

    In mode `llm` the server is held in step with what is shown.
    """

    def __init__(self, after: int, event: Callable[[], None]) -> None:
        self._after, self._event = after, event
        self.allowed = threading.Semaphore(1)
        self.shown = ""
        self.faults: list[str] = []

    def on_text(self, text: str) -> None:
        self.shown += text
        if len(self.shown) == self._after:
            self._event()
            self.allowed.release(10_000)
        self.allowed.release()


def interrupted(at: OperatingPoint, seed: int, after: int, *, for_good: bool, max_tokens: int = 40) -> list[Step]:
    """In one process, what becomes of an answer whose server goes after so many letters, and comes back or not.

    A server that comes back draws from the stream of an answer that is resumed behind the tokens it was told.
    """
    pair, stopwatch = load_pair("tiny"), Stopwatch()
    rng = _Switched(server_stream(seed))
    server = _Departing(pair.llm, Terms.of(at, VOCAB_SIZE), rng, stopwatch)  # type: ignore[arg-type]

    def event() -> None:
        known = len(answer.steps)
        while known and answer.steps[known - 1].skipped:
            known -= 1
        rng.inner = server_stream(seed, known)
        server.gone = for_good

    events = Events(after, event)
    answer = Answer(pair.slm, server, at, stopwatch, seed=seed, on_text=events.on_text)
    answer.decode(PROMPT, max_tokens)
    return [replace(step, risk=None) for step in answer.steps]


class _Switched:
    """A random stream that gives way to another."""

    def __init__(self, inner: np.random.Generator) -> None:
        self.inner = inner

    def random(self) -> float:
        return float(self.inner.random())


class _Departing(Verifier):
    gone = False

    def verify(self, *arguments: Any) -> Any:
        self._stay()
        return super().verify(*arguments)

    def verify_round(self, *arguments: Any, **named: Any) -> Any:
        self._stay()
        return super().verify_round(*arguments, **named)

    def _stay(self) -> None:
        if self.gone:
            raise UnreachableError("gone")


def request(**kind: Any) -> bytes:
    """A request of the schema, written."""
    return bytes(pb.Request(**kind).SerializeToString())


def beginning(at: OperatingPoint, prompt: str = PROMPT, **changes: Any) -> pb.Begin:
    """What a conversation at a point begins with, some of its terms changed."""
    begin = pb.Begin(terms=messages.written_terms(Terms.of(at, VOCAB_SIZE)), prompt=prompt)
    for name, value in changes.items():
        begin.terms.ClearField(name) if value is None else setattr(begin.terms, name, value)
    return begin


def converse(
    channel: grpc.Channel, frames: Iterable[bytes], metadata: Sequence[tuple[str, str]] = ()
) -> tuple[str, str, list[bytes]]:
    """(status code, what is said with it, replies) of a conversation."""
    call = channel.stream_stream(messages.CONVERSE)(iter(frames), metadata=metadata, timeout=60)
    replies: list[bytes] = []
    try:
        replies.extend(call)  # keeps what came before an error
    except grpc.RpcError as error:
        return error.code().name, error.details() or "", replies
    return "OK", "", replies
