"""A link that breaks and a server that lies: what came stays, and the answer goes on, with a server or without.

Servers die at a letter of the answer, from within the device's own thread: when that is does not depend on the clock.
"""

import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from remote_fakes import (
    ASKING,
    HASTY,
    PROMPT,
    STEADY,
    VARIANTS,
    VOCAB_SIZE,
    Events,
    Mortal,
    Paced,
    Tap,
    alone,
    ask,
    connected,
    interrupted,
    lasting,
    listening,
    point,
    require_sound,
    serving,
    steps,
    tokens,
)

from cuhlm_opt.decode.result import DecodeResult
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.models.tiny import Role, TinyModel
from cuhlm_opt.modes import Mode
from cuhlm_opt.remote import messages
from cuhlm_opt.remote import verifier_pb2 as pb
from cuhlm_opt.remote.connection import FaultError, Patience

IMPATIENT = Patience(deadline_s=0.3, offline_after_s=0.5)
RESIGNED = Patience(deadline_s=60.0, offline_after_s=0.05)
"""Goes on alone at the first fault."""
UNFORGIVING = Patience(deadline_s=0.5, offline_after_s=0.05)
AFTER = 4


@pytest.fixture
def nobody() -> str:
    """An address that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def require_alone(result: DecodeResult, n: int) -> None:
    """The last `n` tokens were verified by nobody, and the result says so."""
    assert [step.alone for step in result.steps] == [False] * (len(result.steps) - n) + [True] * n
    figures = result.to_json()
    assert figures["tokens_unverified"] == n
    assert "could not be reached" in figures["warnings"][-1]
    assert f"the last {n} tokens are the SLM's alone: none of them was verified" in figures["warnings"][-1]
    assert figures["bias_skip"] is None, "what was not verified has a risk that nobody knows"


@pytest.mark.parametrize("mode", ASKING)
def test_without_a_server_the_slm_answers_alone(nobody: str, mode: Mode) -> None:
    said: list[str] = []
    shown: list[str] = []
    result = ask(nobody, point(mode), seed=3, patience=IMPATIENT, notify=said.append, on_text=shown.append)
    require_sound(result)
    require_alone(result, len(result.steps))
    assert len(said) == 1, "one line for one fault"
    assert said[0].startswith(f"verifier {nobody}: unavailable")
    assert said[0].endswith("trying again")
    assert "".join(shown) == result.text
    assert result.traffic is not None
    assert (result.traffic.sent_bytes, result.traffic.messages, result.uploads) == (0, 0, ())
    if mode not in (Mode.EXACT, Mode.COARSE):  # which draw from decoded laws
        assert tokens(result) == tokens(alone(point(Mode.SLM), seed=3))


def test_alone_the_risk_is_an_estimate_from_the_calibration_line(nobody: str) -> None:
    result = ask(nobody, point("hlm", slope=0.5, intercept=0.1), patience=IMPATIENT)
    risks = [min(1.0, 0.5 * step.u + 0.1) for step in result.steps if step.u is not None]
    assert result.to_json()["risk_unverified"] == pytest.approx(np.mean(risks))
    assert ask(nobody, point("hlm"), patience=IMPATIENT).to_json()["risk_unverified"] is None


def answered(name: str, mortal: Mortal, events: Events, **options: Any) -> DecodeResult:
    return ask(
        mortal.address,
        VARIANTS[name],
        seed=lasting(name, AFTER),
        on_text=events.on_text,
        notify=events.faults.append,
        **options,
    )


@contextmanager
def dying(name: str, *, for_good: bool) -> Iterator[tuple[Mortal, Events]]:
    """A server that dies when `AFTER` letters were shown, and what the device sees."""

    def event() -> None:
        mortal.stop()
        if not for_good:
            mortal.start()

    events = Events(AFTER, event)
    model = (lambda: Paced(events.allowed)) if VARIANTS[name].mode is Mode.LLM else (lambda: TinyModel(Role.LLM))
    mortal = Mortal(model)
    try:
        yield mortal, events
    finally:
        mortal.stop()


@pytest.mark.parametrize("name", VARIANTS)
def test_an_answer_goes_on_with_a_server_that_comes_back(name: str) -> None:
    """To the token as one whose server draws from another stream from there on, all tokens known."""
    with dying(name, for_good=False) as (mortal, events):
        result = answered(name, mortal, events)
    require_sound(result)
    seed = lasting(name, AFTER)
    assert result.traffic is not None
    assert result.traffic.reconnects == 1
    assert len(events.faults) == 1
    assert not any(step.alone for step in result.steps)
    assert result.text == events.shown
    assert result.text[:AFTER] == alone(VARIANTS[name], seed=seed).text[:AFTER]
    assert steps(result) == interrupted(VARIANTS[name], seed, AFTER, for_good=False)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_answer_goes_on_without_a_server_that_stays_away(name: str) -> None:
    """To the token as one whose draws are the SLM's alone from the first that was asked for in vain."""
    with dying(name, for_good=True) as (mortal, events):
        result = answered(name, mortal, events, patience=HASTY)
    require_sound(result)
    seed = lasting(name, AFTER)
    expected = interrupted(VARIANTS[name], seed, AFTER, for_good=True)
    assert steps(result) == expected
    require_alone(result, sum(step.alone for step in expected))
    assert any(step.alone for step in expected)
    assert result.text == events.shown
    assert result.text[:AFTER] == alone(VARIANTS[name], seed=seed).text[:AFTER]


@pytest.mark.parametrize("after", [1, 2, 7])
@pytest.mark.parametrize("name", ["coarse", "speculative, triggered, coarse", "hlm"])
def test_an_answer_goes_on_wherever_the_server_dies(name: str, after: int) -> None:
    seed, mortal = lasting(name, 8), Mortal()

    def event() -> None:
        mortal.stop()
        mortal.start()

    events = Events(after, event)
    try:
        result = ask(mortal.address, VARIANTS[name], seed=seed, on_text=events.on_text)
    finally:
        mortal.stop()
    assert steps(result) == interrupted(VARIANTS[name], seed, after, for_good=False)


def test_a_server_that_dies_again_and_again_costs_no_token() -> None:
    mortal, seed, faults = Mortal(), lasting("hlm", AFTER), []

    def on_text(text: str) -> None:
        mortal.stop()
        mortal.start()

    try:
        result = ask(mortal.address, point("hlm"), seed=seed, on_text=on_text, notify=faults.append, max_tokens=8)
    finally:
        mortal.stop()
    require_sound(result, 8)
    assert result.traffic is not None
    assert result.traffic.reconnects == len(faults) == len(result.steps) - 1
    assert not any(step.alone for step in result.steps)


def test_a_server_that_is_late_is_waited_for(nobody: str) -> None:
    """It is started by the first fault."""
    mortal: list[Mortal] = []

    def notify(text: str) -> None:
        mortal.append(Mortal(address=nobody))

    try:
        result = ask(nobody, point("cu-hlm-offline"), seed=1, notify=notify)
    finally:
        mortal[0].stop()
    assert steps(result) == steps(alone(point("cu-hlm-offline"), seed=1))
    assert result.traffic is not None
    assert result.traffic.reconnects == 0, "nothing was connected before"


def test_attempts_that_reach_nobody_are_no_traffic() -> None:
    """One that comes back after some of them is reconnected to once, and has heard what one at once would have."""
    traffic = []
    for delay_s in (0.0, 0.6):
        mortal, starting = Mortal(), []

        def event(
            mortal: Mortal = mortal, starting: list[threading.Timer] = starting, delay_s: float = delay_s
        ) -> None:
            mortal.stop()
            starting.append(threading.Timer(delay_s, mortal.start))
            starting[0].start()
            if not delay_s:
                starting[0].join()

        events = Events(AFTER, event)
        try:
            result = answered("hlm", mortal, events)
        finally:
            starting[0].join()
            mortal.stop()
        traffic.append(result.traffic)
    assert traffic[0] == traffic[1]
    with dying("hlm", for_good=True) as (mortal, events):
        gone = answered("hlm", mortal, events, patience=HASTY).traffic
    assert gone is not None
    assert gone.reconnects == 0


def test_after_the_last_token_a_dead_server_costs_the_risk_of_the_last_skips_only() -> None:
    at = point("u-hlm", u_threshold=1.0)
    mortal = Mortal()
    events = Events(1, mortal.stop)
    result = ask(mortal.address, at, on_text=events.on_text, feedback=True, patience=HASTY)
    assert steps(result) == steps(alone(at))
    assert (result.bias_skip, result.flushed, result.to_json()["tokens_unverified"]) == (None, 0, 0)
    require_sound(result)


def test_a_socket_that_never_answers_is_given_up_at_the_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with connected(address, patience=IMPATIENT) as connection, pytest.raises(FaultError, match="deadline"):
            connection.describe()
        result = ask(address, point("cu-hlm-offline"), patience=IMPATIENT)
    require_sound(result)
    require_alone(result, len(result.steps))


@contextmanager
def tapped(change: Callable[[int, bytes], bytes], **options: Any) -> Iterator[tuple[Tap, str]]:
    tap = Tap(change, **options)
    with listening(tap) as address:
        yield tap, address


@pytest.mark.parametrize("silent_from", range(5))
@pytest.mark.parametrize("mode", [Mode.HLM, Mode.LLM, Mode.SPECULATIVE])
def test_a_server_that_falls_silent_is_given_up_at_the_deadline(mode: Mode, silent_from: int) -> None:
    """Before the prompt's tokens, before it has read them, or before one of the answer's."""
    done = threading.Event()

    def change(index: int, data: bytes) -> bytes:
        if index >= silent_from:
            done.wait(60)
        return data

    seed = lasting(str(mode), 8)
    with tapped(change) as (_, address):
        try:
            result = ask(address, point(mode), seed=seed, patience=UNFORGIVING)
        finally:
            done.set()
    require_sound(result)
    require_alone(result, sum(step.alone for step in result.steps))
    kept = [step.token for step in result.steps if not step.alone]
    assert kept == tokens(alone(point(mode), seed=seed))[: len(kept)]
    assert (len(kept) > 0) == (silent_from > 2)


def lying(**changes: Any) -> Callable[[bytes], bytes]:
    """A reply with some fields changed."""

    def change(data: bytes) -> bytes:
        reply = pb.Reply.FromString(data)
        for name, value in changes.items():
            reply.ClearField(name)
            getattr(reply, name).extend(value) if isinstance(value, list) else setattr(reply, name, value)
        return bytes(reply.SerializeToString())

    return change


LIES: dict[str, Callable[[bytes], bytes]] = {
    "no message": lambda data: b"\xff" * 7,
    "noise": lambda data: np.random.default_rng(len(data)).bytes(40),
    "nothing": lambda data: b"",
    "a token out of the vocabulary": lying(tokens=[VOCAB_SIZE]),
    "the largest token": lying(tokens=[2**32 - 1]),
    "too many tokens": lying(tokens=[0] * 9),
    "a rejection of NaN": lying(rejection=[math.nan]),
    "a rejection above 1": lying(rejection=[1.5]),
    "a rejection below 0": lying(rejection=[-0.5]),
    "too many rejections": lying(rejection=[0.5] * 50),
    "a cut": lambda data: data[:-1],
}
"""Replies that no server writes behind the beginning, where something was asked."""
ODDITIES: dict[str, Callable[[bytes], bytes]] = {
    "a time of NaN": lying(seconds=math.nan),
    "no end of time": lying(seconds=math.inf),
    "a time before": lying(seconds=-1e30),
    "many tokens read": lying(read=2**32 - 1),
    "acceptance": lying(accepted=True),
    "rejection": lying(accepted=False),
    "unknown fields": lambda data: data + b"\x7a\x03abc",
}
"""Replies with a figure that cannot be."""


def changing(change: Callable[[bytes], bytes], places: range) -> Callable[[int, bytes], bytes]:
    return lambda index, data: change(data) if index in places else data


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("mode", [Mode.HLM, Mode.CU_HLM_OFFLINE, Mode.SPECULATIVE, Mode.LLM, Mode.QUERY])
def test_a_server_that_lies_from_some_reply_on_is_left(mode: Mode, lie: str) -> None:
    if mode is Mode.LLM and "rejection" in lie:
        return  # of nothing: the device does not look
    seed = lasting(str(mode), 8)
    with tapped(changing(LIES[lie], range(4, 10**6))) as (_, address):
        result = ask(address, point(mode), seed=seed, patience=RESIGNED, feedback=True)
    require_sound(result)
    kept = [step.token for step in result.steps if not step.alone]
    assert len(kept) >= 2
    assert kept == tokens(alone(point(mode), seed=seed))[: len(kept)]
    require_alone(result, len(result.steps) - len(kept))


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_at_once_is_left(lie: str) -> None:
    """To the tokens of the prompt, of which there may be any number, and when they were read."""
    for first in (0, 1):
        if (first == 0 and lie in ("too many tokens", "a cut")) or "rejection" in lie:
            continue
        with tapped(changing(LIES[lie], range(first, 10**6))) as (_, address):
            result = ask(address, point("hlm"), patience=RESIGNED)
        require_sound(result)
        require_alone(result, len(result.steps))


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("mode", [Mode.CU_HLM_OFFLINE, Mode.SPECULATIVE])
def test_a_lie_is_asked_about_again(mode: Mode, lie: str) -> None:
    """A server that lies once, and is honest in the next conversation."""
    faults: list[str] = []
    with tapped(changing(LIES[lie], range(4, 5))) as (_, address):
        result = ask(address, point(mode), seed=lasting(str(mode), 8), notify=faults.append, feedback=True)
    require_sound(result)
    assert len(faults) == 1
    assert "nonsense" in faults[0]
    assert result.traffic is not None
    assert result.traffic.reconnects == 1
    assert not any(step.alone for step in result.steps)


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("mode", [Mode.HLM, Mode.CU_HLM_OFFLINE, Mode.SPECULATIVE, Mode.LLM])
def test_figures_that_cannot_be_do_no_harm(mode: Mode, oddity: str) -> None:
    with tapped(changing(ODDITIES[oddity], range(10**6))) as (_, address):
        result = ask(address, point(mode), seed=lasting(str(mode), 8), patience=RESIGNED, feedback=True)
    require_sound(result)


def test_tokens_of_a_round_that_are_no_drafts_are_nonsense() -> None:
    """All but the last are drafts that stood: else the SLM's cache would hold others than the answer does."""

    def change(data: bytes) -> bytes:
        reply = pb.Reply.FromString(data)
        if len(reply.tokens) < 2:
            return data
        reply.tokens[0] = (reply.tokens[0] + 1) % (VOCAB_SIZE - 1)
        return bytes(reply.SerializeToString())

    with tapped(changing(change, range(2, 10**6))) as (_, address):
        result = ask(address, point(Mode.SPECULATIVE), seed=lasting("speculative", 8), patience=RESIGNED)
    require_sound(result)
    require_alone(result, sum(step.alone for step in result.steps))


def test_tokens_behind_the_end_are_nonsense() -> None:
    def change(data: bytes) -> bytes:
        reply = pb.Reply.FromString(data)
        if len(reply.tokens) > 1:
            reply.tokens[0] = VOCAB_SIZE - 1
        return bytes(reply.SerializeToString())

    with tapped(changing(change, range(2, 10**6))) as (_, address):
        require_sound(ask(address, point(Mode.SPECULATIVE), seed=lasting("speculative", 8), patience=RESIGNED))


replies = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda tokens, accepted, rejection, read, seconds: pb.Reply(
            tokens=tokens, accepted=accepted, rejection=rejection, read=read, seconds=seconds
        ).SerializeToString(),
        st.lists(st.one_of(st.integers(0, 7), st.integers(0, 2**32 - 1)), max_size=6),
        st.booleans(),
        st.lists(st.floats(width=32), max_size=3),
        st.integers(0, 2**32 - 1),
        st.floats(width=32),
    ),
)


@pytest.fixture(scope="module")
def liar() -> Iterator[tuple[Tap, str]]:
    with tapped(lambda index, data: data) as found:
        yield found


@given(
    name=st.sampled_from(sorted(VARIANTS)),
    told=st.lists(st.one_of(st.none(), replies), min_size=3, max_size=30),
    feedback=st.booleans(),
)
def test_no_replies_break_the_device(
    liar: tuple[Tap, str], name: str, told: list[bytes | None], feedback: bool
) -> None:
    """Each reply is one of these in turn, or the genuine one."""
    tap, address = liar
    start = len(tap.replies)

    def change(index: int, data: bytes) -> bytes:
        lie = told[(index - start) % len(told)]
        return data if lie is None else lie

    tap.change = change
    require_sound(ask(address, VARIANTS[name], seed=5, max_tokens=20, feedback=feedback, patience=RESIGNED), 20)


class Stranger(grpc.GenericRpcHandler):
    """Answers whatever is asked with the same bytes, again and again."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        if details.method == messages.DESCRIBE:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: self._data)
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: (self._data for _ in requests))


@pytest.mark.parametrize("data", [b"\xff", b"\x80\x80", b"\x0a\x03\xff\xfe\xfd", b"{}"])
def test_a_stranger_is_no_verifier(data: bytes) -> None:
    with listening(Stranger(data)) as address:
        with connected(address) as connection, pytest.raises(FaultError, match="nonsense"):
            connection.describe()
        result = ask(address, point("coarse"), patience=RESIGNED)
    require_alone(result, len(result.steps))


def test_a_service_that_is_none_refuses() -> None:
    class Nothing(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> None:
            return None

    with listening(Nothing()) as address, pytest.raises(RunError, match="refuses: Method not found"):
        ask(address, point("hlm"))


def described(**changes: Any) -> bytes:
    reply = pb.DescribeReply(
        model="tiny",
        vocab_size=VOCAB_SIZE,
        vocabulary_sha256=messages.vocabulary_sha256(TinyModel(Role.SLM), VOCAB_SIZE),
        eos_tokens=[VOCAB_SIZE - 1],
        context_length=4096,
        provenance_json="{}",
    )
    for name, value in changes.items():
        setattr(reply, name, value)
    return bytes(reply.SerializeToString())


@pytest.mark.parametrize(
    "told",
    ["", "{", "[1]", "null", '{"a": NaN}', '{"sha256": 3, "backend": []}', "1" * 5000, "[" * 100_000, '{"a":' * 50_000],
)
def test_any_provenance_is_borne(told: str) -> None:
    """It is a text that the server may write as it likes."""
    with tapped(lambda index, data: data, description=described(provenance_json=told)) as (_, address):
        assert steps(ask(address, point("hlm"))) == steps(alone(point("hlm")))


@pytest.mark.parametrize(
    "changes", [{"vocab_size": 5}, {"vocab_size": 0}, {"vocabulary_sha256": b""}, {"vocabulary_sha256": bytes(32)}]
)
def test_another_vocabulary_is_refused(changes: dict[str, Any]) -> None:
    with tapped(lambda index, data: data, description=described(**changes)) as (tap, address):
        with pytest.raises(InputError, match="has 'tiny', of another vocabulary than the SLM's"):
            ask(address, point("hlm"))
        assert tap.requests == []


@pytest.mark.parametrize("vocab_size", [2, 5, 7, 26])
def test_a_model_with_another_vocabulary_is_refused(vocab_size: int) -> None:
    with (
        serving(TinyModel(Role.LLM, vocab_size=vocab_size)) as server,
        pytest.raises(InputError, match="another vocabulary"),
    ):
        ask(server.address, point("hlm"))


def test_a_server_that_comes_back_with_another_vocabulary_is_refused() -> None:
    """Its tokens mean something else."""
    mortal, shown = Mortal(), []

    def on_text(text: str) -> None:
        shown.append(text)
        if len(shown) == AFTER:
            mortal.stop()
            mortal.model = lambda: TinyModel(Role.LLM, vocab_size=26)
            mortal.start()

    try:
        with pytest.raises(InputError, match="another vocabulary"):
            ask(mortal.address, point("hlm"), seed=lasting("hlm", AFTER), on_text=on_text, patience=HASTY)
    finally:
        mortal.stop()
    assert len(shown) == AFTER


def test_a_refusal_in_the_middle_is_an_error_and_not_asked_again() -> None:
    """As of a server that came back with a context that the answer does not fit."""
    mortal, shown = Mortal(), []

    def on_text(text: str) -> None:
        shown.append(text)
        if len(shown) == AFTER:
            mortal.stop()
            mortal.model = lambda: TinyModel(Role.LLM, context_length=6)
            mortal.start()

    try:
        with pytest.raises(RunError, match="refuses: prompt has 8 tokens; at most 6"):
            ask(mortal.address, point("hlm"), seed=lasting("hlm", AFTER), on_text=on_text)
    finally:
        mortal.stop()
    assert len(shown) == AFTER


def test_failed_answers_leave_no_thread_behind(nobody: str) -> None:
    """Those of a server that is gone, those that one refuses, and prompts that are too long."""

    class Wrong(TinyModel):
        def extend(self, chunks: Any, *, last_only: bool = False) -> Any:
            raise InputError("no")

    with serving(Wrong(Role.LLM)) as wrong, serving() as server:
        before = threading.active_count()
        for _ in range(8):
            ask(nobody, point("hlm"), patience=RESIGNED)
            with pytest.raises(RunError, match="refuses: no"):
                ask(wrong.address, point("hlm"))
            with pytest.raises(InputError, match="prompt has 5001 tokens"):
                ask(server.address, point("hlm"), "a" * 5000)
        waited = threading.Event()
        most = before + 4  # of the servers, for the calls
        for _ in range(60):
            if threading.active_count() > most:
                waited.wait(0.05)
        assert threading.active_count() <= most


def test_a_proxy_of_the_system_is_not_asked_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts do not leave the machine on their way to a server on it."""
    with socket.socket() as proxy, serving() as server:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.setblocking(False)
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with connected(server.address, patience=Patience(deadline_s=2.0)) as connection:
            assert connection.describe().vocab_size == VOCAB_SIZE
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_prompts_of_any_text_cross(served: Any) -> None:
    for prompt in ("é🙂 \x00 ok", "a" * 1500, PROMPT):
        assert steps(ask(served.address, point("hlm"), prompt, patience=STEADY)) == steps(alone(point("hlm"), prompt))
