"""Whatever a device sends, its conversation is refused as malformed or answered, and the next one is answered."""

import socket
from collections import Counter
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from frames import KINDS, Frames, answered_to, conversations, genuine
from remote_fakes import VARIANTS, VOCAB_SIZE, beginning, converse, point, request, serving

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.codec import Message
from cuhlm_opt.decode.wire import Terms
from cuhlm_opt.models.tiny import Role, TinyModel
from cuhlm_opt.remote import verifier_pb2 as pb
from cuhlm_opt.remote.access import split_address
from cuhlm_opt.remote.serving import Server
from cuhlm_opt.verification import Upload

FRAMES = 2000


@pytest.fixture(scope="module")
def recorded() -> list[Frames]:
    return genuine()


@pytest.fixture(scope="module")
def target() -> Iterator[tuple[Server, grpc.Channel]]:
    """A server of a short context, so that no stream is long, with room for few conversations."""
    model = TinyModel(Role.LLM, lanes=2, context_length=64)
    with serving(model, conversations=4) as server, grpc.insecure_channel(server.address) as channel:
        yield server, channel


def require_answers(channel: grpc.Channel, frames: Frames) -> None:
    """A genuine conversation is answered to its end."""
    code, details, replies = converse(channel, frames)
    assert (code, details) == ("OK", "")
    assert len(replies) >= len(frames)


def test_genuine_conversations_are_answered(target: tuple[Server, grpc.Channel], recorded: list[Frames]) -> None:
    assert len(recorded) == 2 * len(VARIANTS)
    for frames in recorded:
        require_answers(target[1], frames)


def test_random_and_mutated_frames_are_refused_or_answered(
    target: tuple[Server, grpc.Channel], recorded: list[Frames]
) -> None:
    _, channel = target
    outcomes: Counter[tuple[str, str]] = Counter()
    rng = np.random.default_rng(2026)
    for index, (kind, frames) in enumerate(conversations(rng, recorded)):
        if index == FRAMES:
            break
        code, wrong = answered_to(channel, kind, frames)
        assert wrong is None
        outcomes[kind, code] += 1
        if index % 20 == 0:
            require_answers(channel, recorded[index // 20 % len(recorded)])
    require_answers(channel, recorded[0])
    for kind in KINDS:
        assert outcomes[kind, "INVALID_ARGUMENT"] > 0, kind
    assert sum(n for (_, code), n in outcomes.items() if code == "OK") > FRAMES / 20, "some were well-formed"


HLM, SPECULATIVE, LLM, QUERY, COARSE = (
    beginning(point(mode)) for mode in ("hlm", "speculative", "llm", "query", "coarse")
)


def begin(at: OperatingPoint, **changes: object) -> bytes:
    return request(begin=beginning(at, **changes))


def tokens(*ids: int) -> pb.Begin:
    return pb.Begin(terms=HLM.terms, tokens=pb.Tokens(ids=ids))


WHOLE = pb.Draft(token=0, message=bytes(9), spare_bits=6)  # 6 entries of 11 bits
REFUSED: dict[str, tuple[list[bytes], str]] = {
    "no request": ([b""], "a conversation begins with begin, not None"),
    "no beginning": ([request(stream=pb.Stream(tokens=1))], "a conversation begins with begin, not 'stream'"),
    "bytes": ([b"\xff\xff\xff"], "3 bytes are no Request"),
    "two beginnings": ([request(begin=HLM)] * 2, "takes no request 'begin'"),
    "no request behind": ([request(begin=HLM), b""], "takes no request None"),
    "a stream in hlm": ([request(begin=HLM), request(stream=pb.Stream(tokens=1))], "takes no request 'stream'"),
    "drafts in llm": ([request(begin=LLM), request(verify=pb.Verify(drafts=[WHOLE]))], "takes no request 'verify'"),
    "no terms": ([request(begin=pb.Begin(prompt="a"))], "mode '' is unknown"),
    "a mode": ([begin(point("hlm"), mode="u_hlm")], "mode 'u_hlm' is unknown"),
    "a quantiser": ([begin(point("hlm"), quantiser="x")], "quantiser 'x' is unknown"),
    "a format": ([begin(point("hlm"), format="x")], "format 'x' is unknown"),
    "pending data": ([begin(point("speculative"), pending_data="x")], "pendingdata 'x' is unknown"),
    "a temperature": ([begin(point("hlm"), temperature=float("nan"))], "temperature nan is not allowed"),
    "a nucleus": ([begin(point("hlm"), top_p=0.0)], "top_p 0.0 is not allowed"),
    "a vocabulary": ([begin(point("hlm"), vocab_size=0)], "vocab_size 0"),
    "a large vocabulary": ([begin(point("hlm"), vocab_size=7)], "a vocabulary of 7 tokens; the model here has 6"),
    "bits": ([begin(point("hlm"), b_prob=17)], "b_prob 17 is not from 2 to 16"),
    "no k": ([begin(point("exact"), k=None)], "needs k"),
    "no context": ([request(begin=pb.Begin(terms=HLM.terms))], "the context is empty"),
    "no tokens": ([request(begin=tokens())], "the context is empty"),
    "a token": ([request(begin=tokens(0, VOCAB_SIZE))], "a token that is not within |V| = 6"),
    "a long prompt": ([request(begin=tokens(*[0] * 65))], "prompt has 65 tokens; at most 64"),
    "no draft": ([request(begin=HLM), request(verify=pb.Verify())], "0 drafts; mode 'hlm' sends 1"),
    "two drafts": ([request(begin=HLM), request(verify=pb.Verify(drafts=[WHOLE] * 2))], "2 drafts; mode 'hlm' sends 1"),
    "a draft in query": ([request(begin=QUERY), request(verify=pb.Verify(drafts=[WHOLE]))], "mode 'query' sends 0"),
    "an end in hlm": ([request(begin=HLM), request(verify=pb.Verify(drafts=[WHOLE], ended=True))], "1 drafts; mode"),
    "a draft that is not told": (
        [request(begin=HLM), request(verify=pb.Verify(drafts=[pb.Draft(message=bytes(9), spare_bits=6)]))],
        "message: ids are not increasing",
    ),
    "spare bits": (
        [request(begin=HLM), request(verify=pb.Verify(drafts=[pb.Draft(token=0, message=b"a", spare_bits=9)]))],
        "9 spare bits in 1 bytes",
    ),
    "spare bits that are set": (
        [request(begin=HLM), request(verify=pb.Verify(drafts=[pb.Draft(token=0, message=b"\xff", spare_bits=1)]))],
        "unused bits of the last byte are not zero",
    ),
    "no law": ([request(begin=HLM), request(verify=pb.Verify(drafts=[pb.Draft(token=0)]))], "0 entries"),
    "a draft out of range": (
        [request(begin=COARSE), request(verify=pb.Verify(drafts=[pb.Draft(token=6)]))],
        "draft 6 is not within |V| = 6",
    ),
    "a skipped token": ([request(begin=COARSE), request(catch_up=pb.CatchUp(skipped=[6]))], "a skipped token is not"),
    "a chance": (
        [request(begin=COARSE), request(catch_up=pb.CatchUp(skipped=[1], skipped_probability=[0.0]))],
        "not in (0, 1]",
    ),
    "too few chances": (
        [request(begin=COARSE), request(catch_up=pb.CatchUp(skipped=[1, 1], skipped_probability=[0.5]))],
        "2 skipped tokens with 1 probabilities",
    ),
    "many skipped": ([request(begin=COARSE), request(catch_up=pb.CatchUp(skipped=[0] * 999))], "at most 64 fit"),
    "skips in a round": (
        [request(begin=SPECULATIVE), request(verify=pb.Verify(skipped=[1]))],
        "a round comes with no skipped tokens",
    ),
    "a round that ended with nothing": (
        [request(begin=SPECULATIVE), request(verify=pb.Verify(ended=True))],
        "no draft that ended the answer",
    ),
    "a round without a token": (
        [request(begin=SPECULATIVE), request(verify=pb.Verify(drafts=[pb.Draft()]))],
        "a draft of a round without its token",
    ),
    "a stream beyond the context": (
        [request(begin=beginning(point("llm"), vocab_size=5)), request(stream=pb.Stream(tokens=2**32 - 1))],
        "",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_device_sends_is_refused_by_name(
    target: tuple[Server, grpc.Channel], recorded: list[Frames], what: str
) -> None:
    frames, said = REFUSED[what]
    code, details, _ = converse(target[1], frames)
    assert (code, said in details) == ("INVALID_ARGUMENT", True), details
    require_answers(target[1], recorded[0])


def test_a_stream_of_nothing_is_nothing(target: tuple[Server, grpc.Channel]) -> None:
    code, _, replies = converse(target[1], [request(begin=LLM), request(stream=pb.Stream(tokens=0))])
    assert (code, len(replies)) == ("OK", 2)


def test_a_round_beyond_the_context_is_refused_before_its_laws_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a law over the vocabulary for the few bytes of a draft: one message could take all memory."""
    read: list[int | None] = []
    genuine_read = Terms.read

    def counted(self: Terms, draft: int | None, message: Message) -> Upload:
        read.append(draft)
        return genuine_read(self, draft, message)

    monkeypatch.setattr(Terms, "read", counted)
    many = [pb.Draft(token=0)] * 5000
    begun = request(begin=beginning(point("speculative", k=0)))
    with (
        serving(TinyModel(Role.LLM, context_length=64)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        code, *_ = converse(channel, [begun, request(verify=pb.Verify(drafts=many))])
    assert code == "INVALID_ARGUMENT"
    assert len(read) <= 64


def test_noise_on_the_socket_leaves_the_server_as_it_was(
    target: tuple[Server, grpc.Channel], recorded: list[Frames]
) -> None:
    """No HTTP/2 at all, or noise behind its preface, cut off or left open."""
    server, channel = target
    rng = np.random.default_rng(7)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    starts = [b"", b"GET / HTTP/1.1\r\n\r\n", preface, preface + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", preface[:9]]
    left = []
    for index in range(60):
        noisy = socket.create_connection(split_address(server.address, ""))
        left.append(noisy)
        noisy.sendall(starts[index % len(starts)] + rng.bytes(rng.integers(0, 2000)))
        if index % 3:
            noisy.close()
        if index % 10 == 0:
            require_answers(channel, recorded[index % len(recorded)])
    for noisy in left:
        noisy.close()
    require_answers(channel, recorded[0])
