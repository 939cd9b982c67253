"""What crosses the wire is what was meant, and takes the bytes that are counted."""

import ast
import math
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cuhlm_opt.codec import Message
from cuhlm_opt.decode.wire import Terms
from cuhlm_opt.distributions import softmax
from cuhlm_opt.errors import CodecError, InputError
from cuhlm_opt.models.tiny import Role, TinyModel
from cuhlm_opt.modes import Mode, PendingData
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.remote import messages
from cuhlm_opt.remote import verifier_pb2 as pb

ROOT = Path(__file__).parents[2]
PROTO = "cuhlm_opt/remote/verifier.proto"


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    """Terms of every mode, those that have a codec."""
    vocab_size = draw(st.integers(1, 2**20))
    mode = draw(st.sampled_from(Mode))
    known = mode in (Mode.CU_HLM_OFFLINE, Mode.EXACT, Mode.SPECULATIVE)
    k = st.integers(0, vocab_size)
    return Terms(
        vocab_size=vocab_size,
        mode=mode,
        temperature=draw(st.floats(0.125, 8.0) | st.just(0.0)),
        top_p=draw(st.floats(0.0, 1.0, exclude_min=True)),
        k=draw(k if known else st.none() | k),
        b_prob=draw(st.integers(2, 16)),
        quantiser=draw(st.sampled_from(Quantiser)),
        format=draw(st.sampled_from(Format)),
        pending_data=draw(st.none() | st.sampled_from(PendingData)),
    )


@given(terms=terms())
def test_terms_are_read_as_they_were_written(terms: Terms) -> None:
    data = messages.written_terms(terms).SerializeToString()
    assert messages.read_terms(messages.parsed(pb.Terms, data)) == terms


@given(
    token=st.none() | st.integers(0, 2**32 - 1),
    data=st.binary(max_size=64),
    spare=st.integers(0, 7),
)
def test_drafts_are_read_as_they_were_written(token: int | None, data: bytes, spare: int) -> None:
    """To the bit, and a draft that is not told is not token 0."""
    bits = max(0, 8 * len(data) - spare)
    assume(data or not spare)
    if data:
        data = data[:-1] + bytes([data[-1] >> spare << spare])
    message = Message(bits, data)
    written = messages.written_draft(token, message).SerializeToString()
    assert messages.read_draft(messages.parsed(pb.Draft, written)) == (token, message)


@given(
    tokens=st.lists(st.integers(0, 99), max_size=8),
    told=st.booleans(),
    chance=st.lists(st.floats(2.0**-99, 1.0, width=32), min_size=8, max_size=8),
)
def test_skipped_tokens_are_read_as_they_were_written(tokens: list[int], told: bool, chance: list[float]) -> None:
    verify = pb.Verify(skipped=tokens, skipped_probability=chance[: len(tokens)] if told else [])
    read = messages.parsed(pb.Verify, verify.SerializeToString())
    found = messages.read_skipped(read.skipped, read.skipped_probability, 100)
    assert [skip.token for skip in found] == tokens
    assert [skip.probability for skip in found] == (chance[: len(tokens)] if told else [None] * len(tokens))


@pytest.mark.parametrize(
    ("tokens", "probabilities"),
    [([1, 2], [0.5]), ([1], [0.5, 0.5]), ([], [0.5]), ([6], []), ([1], [0.0]), ([1], [-0.1]), ([1], [1.1]),
     ([1], [math.nan]), ([1], [math.inf])],
)  # fmt: skip
def test_skipped_tokens_that_no_device_writes_are_refused(tokens: list[int], probabilities: list[float]) -> None:
    with pytest.raises(CodecError):
        messages.read_skipped(tokens, probabilities, 6)


@pytest.mark.parametrize(
    ("spare", "data"), [(8, b"\x00"), (1, b""), (2**32 - 1, b"\x00"), (3, b"\x04"), (7, b"\x40"), (1, b"\x00\x01")]
)
def test_spare_bits_that_are_none_are_refused(spare: int, data: bytes) -> None:
    with pytest.raises(CodecError):
        messages.read_draft(pb.Draft(spare_bits=spare, message=data))


VALID = {
    "vocab_size": 6, "mode": "cu-hlm-offline", "temperature": 1.0, "top_p": 1.0, "k": 2, "b_prob": 8,
    "quantiser": "uniform", "format": "published",
}  # fmt: skip
WRONG = [
    ("vocab_size", 0), ("mode", ""), ("mode", "U-HLM"), ("mode", "x" * 10_000), ("temperature", math.nan),
    ("temperature", math.inf), ("temperature", -1.0), ("top_p", 0.0), ("top_p", -0.5), ("top_p", 1.5),
    ("top_p", math.nan), ("b_prob", 0), ("b_prob", 1), ("b_prob", 17), ("b_prob", 2**32 - 1), ("quantiser", "unknown"),
    ("quantiser", ""), ("format", "Published"), ("pending_data", ""), ("pending_data", "none"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_terms_that_no_device_writes_are_refused(name: str, value: object) -> None:
    assert messages.read_terms(pb.Terms(**VALID)).k == 2
    with pytest.raises(InputError) as caught:
        messages.read_terms(pb.Terms(**{**VALID, name: value}))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("mode", ["cu-hlm-offline", "exact", "speculative"])
def test_a_mode_that_needs_k_is_refused_without_it(mode: str) -> None:
    wanting = pb.Terms(**{**VALID, "mode": mode})
    wanting.ClearField("k")
    with pytest.raises(InputError, match="needs k"):
        messages.read_terms(wanting)


@pytest.mark.parametrize("temperature", [5e-324, 1e-50, 1e-44, 1e-38, 1e300])
def test_every_temperature_that_is_read_gives_a_law(temperature: float) -> None:
    """Logits are float32, where some numbers are 0 or infinite: these are refused, or do no harm."""
    with suppress(InputError):
        terms = messages.read_terms(pb.Terms(**{**VALID, "temperature": temperature}))
        assert softmax(np.array([3.0, 1.0, 2.0], dtype=np.float32), terms.temperature).sum() == pytest.approx(1)


@given(data=st.binary(max_size=60))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    for kind in (pb.Request, pb.Reply, pb.DescribeRequest, pb.DescribeReply):
        with suppress(CodecError):
            assert isinstance(messages.parsed(kind, data), kind)


@given(size=st.integers(0, 10**7))
def test_bytes_on_the_wire_are_the_message_a_prefix_and_frames(size: int) -> None:
    content = size + 5
    frames = [min(2**14, content - start) + 9 for start in range(0, content, 2**14)]
    assert messages.wire_bytes(bytes(size)) == sum(frames)


def test_bytes_on_the_wire_at_the_border_of_a_frame() -> None:
    full = 2**14 - 5
    assert [messages.wire_bytes(bytes(size)) - size for size in (0, full - 1, full, full + 1, full + 2**14)] == [
        14, 14, 14, 23, 23,
    ]  # fmt: skip
    assert messages.wire_bytes(bytes(full + 2**14 + 1)) == full + 2**14 + 1 + 5 + 27


def test_vocabularies_are_told_apart() -> None:
    """By a token's bytes, by where bytes are cut, and by the cuts of a text; not by the role of a model."""
    own = messages.vocabulary_sha256(TinyModel(Role.SLM), 6)
    assert own == messages.vocabulary_sha256(TinyModel(Role.LLM), 6)
    assert len(own) == 32

    class Other(TinyModel):
        pieces = (b"a", b"b", b"c", b"d", b"e", b"")

        def detokenize(self, tokens: object) -> bytes:
            return b"".join(self.pieces[token] for token in tokens)  # type: ignore[attr-defined]

    class Cut(TinyModel):
        def tokenize(self, text: str) -> list[int]:
            return super().tokenize(text)[1:]

    assert messages.vocabulary_sha256(Other(Role.SLM), 6) == own
    Other.pieces = (b"ab", b"", b"c", b"d", b"e", b"")
    others = [
        messages.vocabulary_sha256(Other(Role.SLM), 6),
        messages.vocabulary_sha256(Cut(Role.SLM), 6),
        messages.vocabulary_sha256(TinyModel(Role.SLM), 5),
        messages.vocabulary_sha256(TinyModel(Role.SLM, vocab_size=7), 6),
    ]
    assert len({own, *others}) == 5


def test_the_generated_module_is_that_of_the_schema(tmp_path: Path) -> None:
    """Its descriptor, which does not depend on who generated it."""
    command = ["-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={tmp_path}", str(ROOT / PROTO)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    generated = ast.parse((tmp_path / PROTO).with_name("verifier_pb2.py").read_text())
    calls = [
        node for node in ast.walk(generated) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    (descriptor,) = [
        argument.value
        for call in calls
        if call.func.attr == "AddSerializedFile"  # type: ignore[attr-defined]
        for argument in call.args
        if isinstance(argument, ast.Constant)
    ]
    assert pb.DESCRIPTOR.serialized_pb == descriptor


def test_the_methods_are_those_of_the_schema() -> None:
    (service,) = pb.DESCRIPTOR.services_by_name.values()
    assert service.full_name == messages.SERVICE
    assert {f"/{service.full_name}/{method.name}" for method in service.methods} == {
        messages.DESCRIBE,
        messages.CONVERSE,
    }
