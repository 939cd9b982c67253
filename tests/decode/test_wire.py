"""The server makes of the bits alone what the device proposes, in every mode; what no device writes is refused."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from decode_fakes import operating_point
from hypothesis import given
from hypothesis import strategies as st

from cuhlm_opt.codec import Message, lumped_law
from cuhlm_opt.decode.drafting import Drafter
from cuhlm_opt.decode.policy import Device
from cuhlm_opt.decode.wire import EMPTY, Terms
from cuhlm_opt.distributions import sample
from cuhlm_opt.errors import CodecError
from cuhlm_opt.gate import Step
from cuhlm_opt.modes import Mode, PendingData
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.verification import CoarseProposal, Proposal, Query

ASKING = ("query", "hlm", "random", "u-hlm", "cu-hlm-offline", "cu-hlm-online", "exact", "coarse")
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("mode", ASKING)
@given(seed=seeds, format=st.sampled_from(Format), quantiser=st.sampled_from(Quantiser))
def test_the_server_reads_what_the_device_proposes(mode: str, seed: int, format: Format, quantiser: Quantiser) -> None:
    rng = np.random.default_rng(seed)
    if quantiser is Quantiser.TYPES and (format is not Format.COMPACT or mode in ("coarse", "exact")):
        quantiser = Quantiser.UNIFORM
    if format is Format.DENSE and mode in ("cu-hlm-offline", "cu-hlm-online", "exact"):
        format = Format.COMPACT
    changes: dict[str, Any] = {"format": format, "quantiser": quantiser, "u_threshold": 0.6, "skip_rate": 0.2}
    point = operating_point(mode, **changes)
    logits = rng.normal(scale=2.0, size=12).astype(np.float32)
    device = Device(point, rng)
    draft = device.draw(logits)
    decision = device.decide(draft)
    if decision.message is None:
        return
    terms = Terms.of(point, 12)
    read = terms.read(decision.told, decision.message)
    match read:
        case Proposal():
            assert read.draft == draft.token
            _, decoded = terms.codec.transmit(draft.step.law, decision.entries)
            np.testing.assert_array_equal(read.law, decoded)
        case CoarseProposal():  # the draft is in the lump
            np.testing.assert_array_equal(draft.law[read.kept], read.masses)
            assert draft.token not in read.kept
        case Query():
            assert (mode, decision.told) == ("query", None)
    if mode == "exact":
        np.testing.assert_array_equal(read.law, draft.law)


@pytest.mark.parametrize("data", PendingData)
@given(seed=seeds)
def test_the_server_reads_the_drafts_of_a_round(data: PendingData, seed: int) -> None:
    rng = np.random.default_rng(seed)
    point = operating_point("speculative", pending_data=data, k=2)
    logits = rng.normal(scale=2.0, size=12).astype(np.float32)
    same = deepcopy(rng)
    draft = Drafter(point, rng).draw(logits)
    read = Terms.of(point, 12).read(draft.token, draft.message)
    if isinstance(read, CoarseProposal):
        law = lumped_law(Step(logits).law, read.kept, read.masses)
    else:
        assert isinstance(read, Proposal)
        law = read.law
    assert sample(law, same) == draft.token, "drawn from what the server reads"


def test_a_coarse_draft_in_the_lump_is_not_told() -> None:
    upload = Terms.of(operating_point("coarse"), 12).read(None, EMPTY)
    assert isinstance(upload, CoarseProposal)
    assert (upload.draft, len(upload.kept)) == (None, 0)


@pytest.mark.parametrize(
    ("mode", "draft", "message"),
    [
        ("u-hlm", 12, EMPTY), ("u-hlm", -1, EMPTY), ("u-hlm", 3, EMPTY), ("u-hlm", 3, Message(5, b"\xf8")),
        ("query", 3, EMPTY), ("query", None, Message(8, b"a")), ("llm", None, Message(8, b"a")),
        ("coarse", None, Message(7, b"\x02")), ("exact", 1, EMPTY),
    ],
)  # fmt: skip
def test_what_no_device_writes_is_refused(mode: str, draft: int | None, message: Message) -> None:
    with pytest.raises(CodecError):
        Terms.of(operating_point(mode), 12).read(draft, message)


def test_a_law_without_its_draft_is_refused() -> None:
    point = operating_point(Mode.HLM)
    message, _ = Terms.of(point, 12).codec.transmit(np.full(12, 1 / 12), 12)
    with pytest.raises(CodecError, match="sends a draft"):
        Terms.of(point, 12).read(None, message)
