"""An answer with a server at the end of a link is that of one process, and so are its figures and its errors."""

import json
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from remote_fakes import (
    ASKING,
    PROMPT,
    VARIANTS,
    Relay,
    Tap,
    alone,
    ask,
    connected,
    lasting,
    listening,
    point,
    require_sound,
    serving,
    steps,
    tokens,
)

from cuhlm_opt.decode.loop import decode
from cuhlm_opt.errors import InputError
from cuhlm_opt.models.pairs import Pair
from cuhlm_opt.models.tiny import Role, TinyModel
from cuhlm_opt.modes import Mode
from cuhlm_opt.remote import verifier_pb2 as pb
from cuhlm_opt.remote.client import decode_remotely
from cuhlm_opt.remote.messages import wire_bytes
from cuhlm_opt.remote.serving import Server

SKIPPING = [name for name, at in VARIANTS.items() if at.mode.skips]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
QUESTIONS = [("abc", 0), ("abc", 1), ("e", 2), ("dd ab", 3)]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_server_gives_the_answer_of_one_process(served: Server, name: str) -> None:
    for prompt, seed in [*QUESTIONS, (PROMPT, lasting(name, 4))]:
        expected = alone(VARIANTS[name], prompt, seed=seed)
        shown: list[str] = []
        result = ask(served.address, VARIANTS[name], prompt, seed=seed, on_text=shown.append)
        assert steps(result) == steps(expected), "drafts, verdicts, bits and passes among them"
        assert (result.text, result.finish_reason) == (expected.text, expected.finish_reason)
        assert result.prompt_tokens == expected.prompt_tokens
        assert "".join(shown) == result.text
        assert result.warnings == expected.warnings
        require_sound(result)


@given(
    name=st.sampled_from(sorted(VARIANTS)),
    prompt=st.text(min_size=1, max_size=8).filter(lambda text: text.strip()),
    seed=st.integers(0, 2**64 - 1),
    max_tokens=st.integers(1, 30),
)
def test_any_answer_is_that_of_one_process(served: Server, name: str, prompt: str, seed: int, max_tokens: int) -> None:
    expected = alone(VARIANTS[name], prompt, seed=seed, max_tokens=max_tokens)
    assert steps(ask(served.address, VARIANTS[name], prompt, seed=seed, max_tokens=max_tokens)) == steps(expected)


@pytest.mark.parametrize("name", SKIPPING)
def test_with_feedback_the_risk_of_every_skip_is_learned(served: Server, name: str) -> None:
    for seed in (0, 3, lasting(name, 4)):
        expected = alone(VARIANTS[name], seed=seed)
        result = ask(served.address, VARIANTS[name], seed=seed, feedback=True)
        assert steps(result) == steps(expected)
        assert result.flushed == expected.flushed
        assert result.bias_skip == pytest.approx(expected.bias_skip, abs=1e-6)
        for own, other in zip(result.steps, expected.steps, strict=True):
            assert (own.risk is None) == (other.risk is None)
            if own.skipped:
                assert own.risk is not None
                assert other.risk is not None
                assert own.risk.beta == pytest.approx(other.risk.beta, abs=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_without_feedback_no_risk_of_skips_is_known(served: Server, name: str) -> None:
    result = ask(served.address, VARIANTS[name], seed=lasting(name, 4))
    assert result.flushed == 0
    if any(step.skipped for step in result.steps):
        assert result.bias_skip is None
        assert result.to_json()["bias_skip"] is None
    else:
        assert result.bias_skip == 0


def test_an_answer_that_asks_nothing_sends_its_beginning_only() -> None:
    tap = Tap()
    with listening(tap) as address:
        result = ask(address, point("u-hlm", u_threshold=1.0))
        assert result.to_json()["skip_rate"] == 1
        assert [pb.Request.FromString(data).WhichOneof("kind") for data in tap.requests] == ["begin"]
        tap.requests.clear()
        told = ask(address, point("u-hlm", u_threshold=1.0), feedback=True)
        assert [pb.Request.FromString(data).WhichOneof("kind") for data in tap.requests] == ["begin", "catch_up"]
    assert told.bias_skip == pytest.approx(alone(point("u-hlm", u_threshold=1.0)).bias_skip, abs=1e-6)


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_traffic_is_what_crossed(name: str, feedback: bool) -> None:
    tap = Tap()
    with listening(tap) as address:
        result = ask(address, VARIANTS[name], seed=lasting(name, 4), feedback=feedback)
    traffic = result.traffic
    assert traffic is not None
    asked = [data for data in tap.requests if pb.Request.FromString(data).WhichOneof("kind") == "verify"]
    assert traffic.sent_bytes == sum(map(wire_bytes, tap.requests))
    assert traffic.received_bytes == sum(map(wire_bytes, tap.replies))
    assert (traffic.messages, traffic.message_bytes) == (len(asked), sum(map(wire_bytes, asked)))
    assert traffic.reconnects == 0
    figures = json.loads(json.dumps(result.to_json(), allow_nan=False))
    wire = figures["wire"]
    assert figures["wire_bytes"] == wire["sent_bytes"] == traffic.sent_bytes
    assert wire["codec_bytes"] + wire["overhead_bytes"] == wire["message_bytes"] == traffic.message_bytes
    assert wire["codec_bytes"] == sum((step.payload_bits + 7) // 8 for step in result.uploads)
    assert wire["messages"] == figures["uploads"] == len(result.uploads)
    assert figures["uplink_s"] is None, "measured, not priced"


def data_bytes(crossed: bytes, start: int) -> dict[int, int]:
    """Bytes of HTTP/2's DATA frames by stream, headers of the frames included."""
    found: dict[int, int] = defaultdict(int)
    while start < len(crossed):
        size, kind = int.from_bytes(crossed[start : start + 3], "big") + 9, crossed[start + 3]
        if kind == 0:
            found[int.from_bytes(crossed[start + 5 : start + 9], "big")] += size
        start += size
    return found


@pytest.mark.parametrize(("name", "prompt"), [("hlm", PROMPT), ("llm", PROMPT), ("coarse", "a" * 1500)])
def test_the_traffic_is_that_of_the_data_frames_on_the_connection(name: str, prompt: str) -> None:
    """Read off a relay in between; the second stream is the conversation, the first one was Describe."""
    with serving() as server:
        relay = Relay(server.address)
        result = ask(relay.address, VARIANTS[name], prompt, seed=lasting(name, 4))
        relay.close()
    assert result.traffic is not None
    sent, received = data_bytes(relay.sent, len(PREFACE)), data_bytes(relay.received, 0)
    assert relay.sent.startswith(PREFACE)
    assert (sent[3], received[3]) == (result.traffic.sent_bytes, result.traffic.received_bytes)
    assert sent.keys() == received.keys() == {1, 3}


def test_probabilities_cross_with_feedback_only() -> None:
    tap = Tap()
    with listening(tap) as address:
        for feedback in (False, True):
            tap.requests.clear()
            ask(address, point("cu-hlm-offline"), seed=lasting("cu-hlm-offline", 4), feedback=feedback)
            verified = [pb.Request.FromString(data).verify for data in tap.requests]
            skipped = sum(len(verify.skipped) for verify in verified)
            assert skipped > 0
            assert sum(len(verify.skipped_probability) for verify in verified) == (skipped if feedback else 0)


def test_no_seed_or_law_is_sent_but_in_the_beginning_and_the_message() -> None:
    """A request holds the draft and the codec's bits, to the bit; nothing else but what was skipped."""
    tap = Tap()
    at = point("cu-hlm-offline")
    with listening(tap) as address:
        result = ask(address, at, seed=lasting("cu-hlm-offline", 4))
    verified = [pb.Request.FromString(data).verify for data in tap.requests[1:]]
    uploads = result.uploads
    assert [verify.drafts[0].token for verify in verified] == [step.draft for step in uploads]
    sizes = [8 * len(verify.drafts[0].message) - verify.drafts[0].spare_bits for verify in verified]
    assert sizes == [step.payload_bits for step in uploads]


def test_devices_side_by_side_get_what_they_get_alone() -> None:
    asked = [(name, prompt, seed) for prompt, seed in QUESTIONS[:2] for name in VARIANTS]
    with serving(TinyModel(Role.LLM, lanes=4)) as server, ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda each: ask(server.address, VARIANTS[each[0]], each[1], seed=each[2]), asked))
    for (name, prompt, seed), result in zip(asked, found, strict=True):
        assert steps(result) == steps(alone(VARIANTS[name], prompt, seed=seed))


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("feedback", [False, True])
def test_conversations_whose_caches_are_evicted_get_the_same(lanes: int, feedback: bool) -> None:
    """All have begun before any goes on: there are more of them than caches."""
    names = ["cu-hlm-offline", "coarse", "speculative, fixed, truncated", "llm", "exact"]
    meeting = threading.Barrier(len(names))

    def one(name: str, address: str) -> tuple[list[int], int]:
        shown: list[str] = []

        def on_text(text: str) -> None:
            shown.append(text)
            if len(shown) in (1, 3, 5):
                meeting.wait(60)

        result = ask(address, VARIANTS[name], seed=lasting(name, 4), on_text=on_text, feedback=feedback)
        return tokens(result), result.flushed

    with serving(TinyModel(Role.LLM, lanes=lanes)) as server, ThreadPoolExecutor(len(names)) as pool:
        found = list(pool.map(lambda name: one(name, server.address), names))
        assert server.service.caches.evictions > 0
    expected = [alone(VARIANTS[name], seed=lasting(name, 4)) for name in names]
    assert [own for own, _ in found] == [tokens(result) for result in expected]
    assert [flushed for _, flushed in found] == [result.flushed if feedback else 0 for result in expected]


def test_one_connection_serves_answers_in_turn(served: Server) -> None:
    with connected(served.address) as connection:
        for seed, mode in enumerate(ASKING):
            result = decode_remotely(connection, point(mode), PROMPT, pair="tiny", seed=seed, max_tokens=20)
            assert steps(result) == steps(alone(point(mode), seed=seed, max_tokens=20))


@pytest.mark.parametrize("mode", ASKING)
def test_a_small_context_ends_the_answer_as_in_one_process(mode: Mode) -> None:
    """Of the LLM, and of the SLM; and a prompt that is too long for it is refused with the same words."""
    at = point(mode)
    for slm_context, llm_context in ((4096, 10), (10, 4096)):
        with serving(TinyModel(Role.LLM, context_length=llm_context)) as server, connected(server.address) as link:
            link.slm = TinyModel(Role.SLM, context_length=slm_context)
            pair = Pair(name="tiny", slm=link.slm, llm=TinyModel(Role.LLM, context_length=llm_context))
            for seed in range(4):
                result = decode_remotely(link, at, PROMPT, pair="tiny", seed=seed)
                expected = decode(pair, at, PROMPT, seed=seed)
                assert (steps(result), result.finish_reason) == (steps(expected), expected.finish_reason)
            if mode is Mode.LLM and slm_context < llm_context:
                continue  # the SLM reads nothing
            said = set()
            for call in (
                lambda: decode(pair, at, "a" * 40),  # noqa: B023
                lambda: decode_remotely(link, at, "a" * 40, pair="tiny"),
            ):
                with pytest.raises(InputError, match="prompt has 41 tokens") as caught:
                    call()
                said.add(str(caught.value))
            assert len(said) == 1


def test_what_needs_no_server_or_no_answer_is_refused_before_one_is_asked() -> None:
    tap = Tap()
    with listening(tap) as address:
        for named, arguments in (
            ("mode 'slm' asks no verifier", {"at": point(Mode.SLM)}),
            ("below 2\\^64", {"seed": 2**64}),
            ("prompt is empty", {"prompt": " "}),
            ("max_tokens 0", {"max_tokens": 0}),
            ("seed -1", {"seed": -1}),
        ):
            with pytest.raises(InputError, match=named):
                ask(address, **{"at": point("hlm"), **arguments})
    assert tap.requests == []
