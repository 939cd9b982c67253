"""Listening: who may ask, what is refused, and an end that lets answers finish."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from remote_fakes import (
    HASTY,
    PROMPT,
    VOCAB_SIZE,
    alone,
    ask,
    beginning,
    connected,
    converse,
    lasting,
    point,
    request,
    serving,
    steps,
    until,
)

from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.models.tiny import Role, TinyModel
from cuhlm_opt.modes import Mode
from cuhlm_opt.remote import messages
from cuhlm_opt.remote import verifier_pb2 as pb
from cuhlm_opt.remote.access import is_loopback, read_token, split_address
from cuhlm_opt.remote.connection import Connection, FaultError, Patience
from cuhlm_opt.remote.serving import Server, Tls, require_allowed

TOKEN = "correct-horse-battery-staple"
HELLO = request(begin=beginning(point("hlm")))
NOT_LONG = Patience(deadline_s=5.0, offline_after_s=0.3)


@contextmanager
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as found:
        yield found


@contextmanager
def held(address: str) -> Iterator[Callable[[], grpc.StatusCode]]:
    """A conversation that has begun and asks for nothing; calling it waits for its end."""
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with channel(address) as found:
        call = found.stream_stream(messages.CONVERSE)(iter(requests.get, None))
        requests.put(HELLO)
        next(call)
        next(call)

        def end() -> grpc.StatusCode:
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
            return caught.value.code()  # type: ignore[attr-defined]

        try:
            yield end
        finally:
            requests.put(None)


def health(found: grpc.Channel, service: str = "", token: str | None = None) -> Any:
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    stub = health_pb2_grpc.HealthStub(found)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60, metadata=metadata).status


LOOPBACK = ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1"]
ELSEWHERE = [
    "0.0.0.0:1", "[::]:1", "10.0.0.1:1", "192.168.1.7:1", "example.org:1", "localhost.example.org:1", "127.0.0.1.nip:1",
    "*:1", "dns:///127.0.0.1:1", "unix:socket:1",
]  # fmt: skip
NO_ADDRESS = [
    "",
    ":",
    ":1",
    "localhost",
    "localhost:",
    "localhost:x",
    "localhost:-1",
    "localhost:65536",
    "localhost: 1",
]
SOME_TLS = Tls(certificate=b"", key=b"")


@pytest.mark.parametrize("address", LOOPBACK)
def test_on_loopback_anyone_may_listen(address: str) -> None:
    assert require_allowed(address, None, None) == address[:-2]
    assert is_loopback(address[:-2])
    Connection(address, TinyModel(Role.SLM)).close()


@pytest.mark.parametrize("address", ELSEWHERE)
def test_elsewhere_tls_and_a_token_are_needed(address: str) -> None:
    for tls, token in ((None, None), (SOME_TLS, None), (None, TOKEN)):
        with pytest.raises(InputError, match="is no loopback address: it needs --tls-cert, --tls-key and --token"):
            require_allowed(address, tls, token)
        with pytest.raises(InputError, match="is no loopback address"):
            Server(TinyModel(Role.LLM), "tiny", address, tls=tls, token=token)
    assert require_allowed(address, SOME_TLS, TOKEN) == address[:-2]
    with pytest.raises(InputError, match="is no loopback address: it needs --tls or --tls-ca"):
        Connection(address, TinyModel(Role.SLM), token=TOKEN)


@pytest.mark.parametrize("address", NO_ADDRESS)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"--listen '.*' is not allowed; give HOST:PORT"):
        require_allowed(address, SOME_TLS, TOKEN)
    with pytest.raises(InputError, match=r"--verifier '.*' is not allowed; give HOST:PORT"):
        Connection(address, TinyModel(Role.SLM), tls=b"")


def test_addresses_are_split_at_the_last_colon() -> None:
    assert split_address("[::1]:65535", "--listen") == ("[::1]", 65535)
    assert split_address("localhost:0", "--listen") == ("localhost", 0)


def test_a_free_port_is_taken_and_told() -> None:
    with serving() as one, serving() as other:
        assert one.address != other.address
        assert split_address(one.address, "")[1] > 0


def test_a_port_that_is_taken_is_an_error() -> None:
    with serving() as server, pytest.raises(RunError, match=f"cannot listen on {server.address}"):
        Server(TinyModel(Role.LLM), "tiny", server.address)


def test_a_key_that_is_none_is_an_error(secrets: Path) -> None:
    certificate, key = ((secrets / name).read_bytes() for name in ("cert.pem", "key.pem"))
    for tls in (Tls(certificate=b"none", key=b"none"), Tls(certificate=certificate, key=b"none"),
                Tls(certificate=key, key=key)):  # fmt: skip
        with pytest.raises(RunError, match="cannot listen on 127"):
            Server(TinyModel(Role.LLM), "tiny", "127.0.0.1:0", tls=tls)


@pytest.fixture(scope="module")
def guarded(secrets: Path) -> Iterator[str]:
    """Address of a server with TLS and a token, by the name in its certificate."""
    tls = Tls(certificate=(secrets / "cert.pem").read_bytes(), key=(secrets / "key.pem").read_bytes())
    with serving(tls=tls, token=read_token(secrets / "token")) as server:
        yield f"localhost:{split_address(server.address, '')[1]}"


def test_tls_with_the_token_and_the_certificate_works(guarded: str, secrets: Path) -> None:
    for mode in (Mode.CU_HLM_OFFLINE, Mode.LLM, Mode.SPECULATIVE):
        result = ask(guarded, point(mode), seed=4, tls=(secrets / "cert.pem").read_bytes(), token=TOKEN)
        assert steps(result) == steps(alone(point(mode), seed=4))


@pytest.mark.parametrize("token", [None, "", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), f"Bearer {TOKEN}", "x" * 4000])
def test_without_the_right_token_every_call_is_refused(guarded: str, secrets: Path, token: str | None) -> None:
    certificate = (secrets / "cert.pem").read_bytes()
    with pytest.raises(RunError, match="refuses: the bearer token is missing or wrong"):
        ask(guarded, point("hlm"), tls=certificate, token=token)
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.secure_channel(guarded, grpc.ssl_channel_credentials(certificate)) as found:
        assert converse(found, [HELLO], metadata) == ("UNAUTHENTICATED", "the bearer token is missing or wrong", [])
        for method in ("/cuhlm.v1.Verifier/Nothing", "/grpc.health.v1.HealthX/Check", messages.DESCRIBE):
            with pytest.raises(grpc.RpcError) as caught:
                found.unary_unary(method)(b"", metadata=metadata, timeout=60)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]


@pytest.mark.parametrize("scheme", ["bearer {}", "Basic {}", "{}", "Bearer  {}", "Bearer {} x", "Bearer x, Bearer {}"])
def test_the_token_stands_alone_behind_bearer(scheme: str) -> None:
    with serving(token=TOKEN) as server, channel(server.address) as found:
        shown = (("authorization", scheme.format(TOKEN)),)
        assert converse(found, [HELLO], shown)[0] == "UNAUTHENTICATED"
        assert converse(found, [HELLO], (("authorization", f"Bearer {TOKEN}"),))[0] == "OK"


def test_a_token_is_asked_for_on_loopback_as_well() -> None:
    with serving(token=TOKEN) as server:
        assert steps(ask(server.address, point("hlm"), token=TOKEN)) == steps(alone(point("hlm")))
        with pytest.raises(RunError, match="bearer token"):
            ask(server.address, point("hlm"))


@pytest.mark.parametrize("method", [messages.CONVERSE, "/grpc.health.v1.Health/Check"])
def test_calls_without_the_token_that_ask_for_nothing_keep_nobody_out(method: str) -> None:
    """As many as there are threads, and more."""
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with serving(token=TOKEN, conversations=1) as server, channel(server.address) as found:
        calls = [found.stream_stream(method)(iter(requests.get, None)) for _ in range(20)]
        with connected(server.address, token=TOKEN, patience=NOT_LONG) as connection:
            try:
                assert connection.describe().vocab_size == VOCAB_SIZE
            finally:
                for call in calls:
                    call.cancel()
                    requests.put(None)


def test_without_the_right_certificate_nothing_is_sent(guarded: str, secrets: Path) -> None:
    """The system's, another one, none at all, and one for another name; then the SLM goes on alone."""
    other, own = ((secrets / name).read_bytes() for name in ("other-cert.pem", "cert.pem"))
    by_number = guarded.replace("localhost", "127.0.0.1")
    for address, tls in ((guarded, b""), (guarded, other), (guarded, None), (guarded, b"none"), (by_number, own)):
        with connected(address, tls=tls, token=TOKEN, patience=HASTY) as connection, pytest.raises(FaultError):
            connection.describe()
        result = ask(address, point("hlm"), tls=tls, token=TOKEN, patience=HASTY)
        assert all(step.alone for step in result.steps)
        assert result.traffic is not None
        assert result.traffic.sent_bytes == 0


def test_tls_is_not_spoken_to_a_server_without() -> None:
    with (
        serving() as server,
        connected(server.address, tls=b"", patience=HASTY) as connection,
        pytest.raises(FaultError, match="unavailable"),
    ):
        connection.describe()


def test_health_asks_for_the_token(guarded: str, secrets: Path) -> None:
    credentials = grpc.ssl_channel_credentials((secrets / "cert.pem").read_bytes())
    serves = health_pb2.HealthCheckResponse.SERVING
    with (
        serving(token=TOKEN) as server,
        channel(server.address) as plain,
        grpc.secure_channel(guarded, credentials) as encrypted,
    ):
        for found in (plain, encrypted):
            assert health(found, token=TOKEN) == health(found, messages.SERVICE, token=TOKEN) == serves
            with pytest.raises(grpc.RpcError) as caught:
                health(found)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
        with pytest.raises(grpc.RpcError) as caught:
            health(plain, "another", token=TOKEN)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


def test_a_server_says_what_it_is() -> None:
    with serving(TinyModel(Role.LLM, context_length=99)) as server, connected(server.address) as connection:
        assert connection.provenance == {}
        told = connection.describe()
        assert connection.describe() is told, "asked once"
        assert (told.model, told.vocab_size, list(told.eos_tokens), told.context_length) == (
            "tiny",
            VOCAB_SIZE,
            [5],
            99,
        )
        assert told.vocabulary_sha256 == messages.vocabulary_sha256(TinyModel(Role.SLM), VOCAB_SIZE)
        assert connection.provenance == TinyModel(Role.LLM).provenance()


@pytest.mark.parametrize(("size", "told"), [(1, 1), (5, 5), (6, 6), (7, 6), (2**24, 6)])
def test_a_vocabulary_is_described_as_far_as_both_have_it(size: int, told: int) -> None:
    with serving() as server, channel(server.address) as found:
        describe = found.unary_unary(messages.DESCRIBE)
        reply = pb.DescribeReply.FromString(describe(pb.DescribeRequest(vocab_size=size).SerializeToString()))
        assert reply.vocab_size == told
        assert reply.vocabulary_sha256 == messages.vocabulary_sha256(TinyModel(Role.LLM), told)


@pytest.mark.parametrize(
    "data", [b"", b"\xff", pb.DescribeRequest(vocab_size=2**24 + 1).SerializeToString(), b"\x08\xff\xff\xff\xff\x0f"]
)
def test_a_description_of_no_vocabulary_is_refused(data: bytes) -> None:
    with serving() as server, channel(server.address) as found:
        with pytest.raises(grpc.RpcError) as caught:
            found.unary_unary(messages.DESCRIBE)(data)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


def test_too_long_a_message_is_refused() -> None:
    with serving(max_message_bytes=1024) as server, channel(server.address) as found:
        for size, code in ((900, "OK"), (1100, "RESOURCE_EXHAUSTED"), (10**6, "RESOURCE_EXHAUSTED")):
            assert converse(found, [request(begin=beginning(point("hlm"), "a" * size))])[0] == code
        assert converse(found, [HELLO, b"\x00" * 2000])[0] == "RESOURCE_EXHAUSTED"
        assert converse(found, [HELLO])[0] == "OK"


def test_too_many_conversations_are_refused_and_may_come_again() -> None:
    with serving(conversations=2) as server, channel(server.address) as found:
        with held(server.address), held(server.address):
            code, details, replies = converse(found, [HELLO])
            assert (code, replies) == ("RESOURCE_EXHAUSTED", [])
            assert "too many conversations; try again later" in details
        until(lambda: converse(found, [HELLO])[0] == "OK")


def test_a_device_waits_until_there_is_room() -> None:
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    said: list[str] = []

    def notify(text: str) -> None:
        said.append(text)
        requests.put(None)

    with serving(conversations=1) as server, channel(server.address) as found:
        call = found.stream_stream(messages.CONVERSE)(iter(requests.get, None))
        requests.put(HELLO)
        next(call)
        result = ask(server.address, point("hlm"), notify=notify)
    assert steps(result) == steps(alone(point("hlm")))
    assert "resource exhausted (too many conversations" in said[0]


def test_an_idle_conversation_is_ended() -> None:
    """Its room is free again, and one that has not even begun goes the same way."""
    with serving(conversations=1, idle_s=0.2) as server, channel(server.address) as found:
        with held(server.address) as end:
            assert end() is grpc.StatusCode.CANCELLED
        until(lambda: converse(found, [HELLO])[0] == "OK")
        requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        silent = found.stream_stream(messages.CONVERSE)(iter(requests.get, None))
        with pytest.raises(grpc.RpcError):
            next(silent)
        requests.put(None)
        until(lambda: converse(found, [HELLO])[0] == "OK")


def test_a_conversation_that_goes_on_is_not_idle() -> None:
    """However long the server takes: what it waits for is counted only."""

    class Slow(TinyModel):
        def extend(self, chunks: Any, *, last_only: bool = False) -> Any:
            threading.Event().wait(0.5)
            return super().extend(chunks, last_only=last_only)

    with serving(Slow(Role.LLM), idle_s=0.3) as server, channel(server.address) as found:
        code, _, replies = converse(
            found, [request(begin=beginning(point("llm"))), request(stream=pb.Stream(tokens=1))]
        )
    assert (code, len(replies)) == ("OK", 3)


def test_an_abandoned_conversation_leaves_its_room() -> None:
    with serving(TinyModel(Role.LLM), conversations=1) as server, channel(server.address) as found:
        for _ in range(5):
            requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            call = found.stream_stream(messages.CONVERSE)(iter(requests.get, None))
            requests.put(HELLO)
            until(lambda call=call: next(call) is not None)
            call.cancel()
            requests.put(None)
            until(lambda: converse(found, [HELLO])[0] == "OK")


def test_a_graceful_stop_lets_a_running_answer_finish() -> None:
    seed, shown = lasting("hlm", 4), []
    with serving() as server, channel(server.address) as found:
        stopping = threading.Thread(target=server.stop, args=(60.0,), daemon=True)
        assert health(found) == health_pb2.HealthCheckResponse.SERVING

        def is_stopping() -> bool:
            try:
                return health(found) == health_pb2.HealthCheckResponse.NOT_SERVING
            except grpc.RpcError:
                return True

        def on_text(text: str) -> None:
            shown.append(text)
            if len(shown) == 2:
                stopping.start()
                until(is_stopping)

        result = ask(server.address, point("hlm"), seed=seed, on_text=on_text)
        stopping.join(60)
        assert not stopping.is_alive()
        assert ask(server.address, point("hlm"), patience=HASTY).steps[0].alone, "no new one is taken"
    assert steps(result) == steps(alone(point("hlm"), seed=seed))
    assert result.traffic is not None
    assert result.traffic.reconnects == 0


def test_a_stop_ends_what_does_not_end_in_time() -> None:
    with serving() as server, held(server.address) as end:
        server.stop(0.1)
        assert end() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_other_methods_are_not_implemented() -> None:
    with serving() as server, channel(server.address) as found:
        for method in ("/cuhlm.v1.Verifier/Other", "/cuhlm.v2.Verifier/Describe", "/x/y"):
            with pytest.raises(grpc.RpcError) as caught:
                found.unary_unary(method)(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


def test_a_model_that_fails_is_an_error_of_the_server() -> None:
    """The device tries again, and goes on alone."""

    class Failing(TinyModel):
        def extend(self, chunks: Any, *, last_only: bool = False) -> Any:
            raise RunError("no memory\nleft")

    with serving(Failing(Role.LLM)) as server, channel(server.address) as found:
        code, details, replies = converse(found, [HELLO])
        assert (code, details, len(replies)) == ("INTERNAL", "no memory left", 1)
        said: list[str] = []
        result = ask(server.address, point("hlm"), PROMPT, patience=HASTY, notify=said.append)
    assert all(step.alone for step in result.steps)
    assert "internal (no memory left)" in said[0]
