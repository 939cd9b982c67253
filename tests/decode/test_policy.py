"""The device's side: what is skipped, what is sent, what it costs; nothing more is computed than the mode needs."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from decode_fakes import operating_point
from numpy.typing import NDArray

from cuhlm_opt import gate
from cuhlm_opt.codec import LawCodec
from cuhlm_opt.decode.policy import Decision, Device, Draft
from cuhlm_opt.decode.wire import EMPTY, Terms
from cuhlm_opt.distributions import softmax, total_variation
from cuhlm_opt.errors import InputError
from cuhlm_opt.gate import Step, read_signal
from cuhlm_opt.modes import Distortion
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.signals import REGRESSORS, Signal
from cuhlm_opt.truncation import smallest_size
from cuhlm_opt.uncertainty import PerturbedLogits, mean_uncertainty
from cuhlm_opt.verification import CoarseProposal, Proposal, Query, Upload

SKIPPABLE = np.array([3.0, 0.0, -1.0, 0.5, -2.0], dtype=np.float32)  # u_bar of the argmax is below 0.49
UNSURE = np.array([0.3, 0.2, 0.1, 0.0, 0.25], dtype=np.float32)
INDEX_BITS = 3


def device(mode: str, seed: int = 0, **changes: Any) -> Device:
    return Device(operating_point(mode, **changes), np.random.default_rng(seed))


def draft_of(token: int, logits: NDArray[np.float32] = SKIPPABLE) -> Draft:
    return Draft(token=token, step=Step(logits))


def decide(mode: str, token: int, logits: NDArray[np.float32] = SKIPPABLE, **changes: Any) -> Decision:
    """Decision on `token`, whatever was drawn."""
    drafter = device(mode, **changes)
    return drafter.decide(replace(drafter.draw(logits), token=token))


def upload(mode: str, decision: Decision, **changes: Any) -> Upload:
    """What the server makes of a decision to ask."""
    assert decision.message is not None
    return Terms.of(operating_point(mode, **changes), 5).read(decision.told, decision.message)


def test_the_draft_follows_temperature_and_top_p() -> None:
    drafter = device("hlm", temperature=0.7, top_p=0.6)
    drafts = [drafter.draw(UNSURE) for _ in range(50)]
    np.testing.assert_allclose(drafts[0].law, softmax(UNSURE, 0.7, 0.6), rtol=1e-15)
    assert {draft.token for draft in drafts} <= set(np.flatnonzero(drafts[0].law))
    assert device("u-hlm", temperature=0.0).draw(UNSURE).token == 0


def rounded_down(masses: NDArray[np.float64], b_prob: int) -> NDArray[np.float64]:
    """To multiples of 1/(2^b_prob - 1)."""
    return np.floor(masses * (2**b_prob - 1)) / (2**b_prob - 1)


@pytest.mark.parametrize("b_prob", [2, 8, 16])
def test_exact_drafts_from_what_the_server_decodes(b_prob: int) -> None:
    law = device("exact", k=1, b_prob=b_prob).draw(SKIPPABLE).law
    mass = rounded_down(softmax(SKIPPABLE)[0], b_prob)
    np.testing.assert_allclose(law, [mass, *[(1 - mass) / 4] * 4])


@pytest.mark.parametrize("b_prob", [2, 8, 16])
def test_coarse_drafts_from_what_the_server_decodes(b_prob: int) -> None:
    law = device("coarse", u_threshold=0.49, b_prob=b_prob).draw(SKIPPABLE).law
    x, mass = softmax(SKIPPABLE), rounded_down(softmax(SKIPPABLE)[0], b_prob)
    np.testing.assert_allclose(law, [mass, *(x[1:] * (1 - mass) / (1 - x[0]))])


@pytest.mark.parametrize("mode", ["u-hlm", "cu-hlm-offline", "cu-hlm-online", "query", "coarse"])
def test_below_one_half_only_the_argmax_is_kept(mode: str) -> None:
    assert decide(mode, 0).message is None
    assert decide(mode, 3).message is not None
    assert decide(mode, 0, UNSURE).message is not None


def test_u_bar_is_not_computed_for_a_draft_that_cannot_be_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []

    def counting(logits: PerturbedLogits, tokens: NDArray[np.intp], *rest: Any) -> NDArray[np.float64]:
        asked.append(tokens.tolist())
        return mean_uncertainty(logits, tokens, *rest)

    monkeypatch.setattr(gate, "mean_uncertainty", counting)
    assert decide("u-hlm", 3).u is None
    assert not asked
    assert decide("u-hlm", 0).u == pytest.approx(mean_uncertainty(SKIPPABLE, np.array([0]))[0])
    assert asked == [[0]]
    assert decide("u-hlm", 2, u_threshold=1.0).message is None
    assert asked == [[0]], "everything is skipped at t = 1: nothing to compute"


@pytest.mark.parametrize("threshold", [-0.2, 0.0, 0.3, 0.49, 0.5, 0.6, 2 / 3, 0.75, 0.9, 0.99])
def test_the_gate_skips_exactly_the_tokens_within_the_threshold(threshold: float) -> None:
    """The candidates are the floor(1/(1 - t)) largest logits; no other token passes [N, THEORY 4.2]."""
    rng = np.random.default_rng(8)
    for logits in [SKIPPABLE, UNSURE, *rng.normal(0, 2, (20, 5)).astype(np.float32)]:
        u_bar = mean_uncertainty(logits, np.arange(5))
        for mode in ("u-hlm", "coarse"):
            kept = [decide(mode, token, logits, u_threshold=threshold).message is None for token in range(5)]
            assert kept == (u_bar <= threshold).tolist()


def test_the_coarse_message_is_the_same_whatever_the_draft() -> None:
    decisions = [decide("coarse", token, u_threshold=0.9) for token in range(5)]
    sent = [decision for decision in decisions if decision.message is not None]
    assert 0 < len(sent) < 5
    assert len({(decision.told, decision.message) for decision in sent}) == 1
    read = upload("coarse", sent[0])
    assert isinstance(read, CoarseProposal)
    assert read.draft is None
    np.testing.assert_allclose(read.masses, rounded_down(softmax(SKIPPABLE)[read.kept], 8), rtol=1e-12)
    assert sent[0].message is not None
    assert sent[0].message.bits == len(read.kept) * (8 + INDEX_BITS)


def test_a_coarse_message_without_skippable_tokens_is_empty() -> None:
    decision = decide("coarse", 0, UNSURE)
    read = upload("coarse", decision)
    assert isinstance(read, CoarseProposal)
    assert (len(read.kept), decision.message) == (0, EMPTY)


def test_coarse_leaves_out_tokens_that_top_p_forbids() -> None:
    read = upload("coarse", decide("coarse", 1, u_threshold=0.9, top_p=0.5))
    assert isinstance(read, CoarseProposal)
    assert read.kept.tolist() == [0]


@pytest.mark.parametrize(
    ("mode", "changes", "bits", "entries"),
    [
        ("hlm", {}, 5 * (8 + INDEX_BITS), 5),
        ("hlm", {"format": Format.DENSE}, 5 * 8, 5),
        ("u-hlm", {"b_prob": 16}, 5 * (16 + INDEX_BITS), 5),
        ("random", {"skip_rate": 0.0}, 5 * (8 + INDEX_BITS), 5),
        ("cu-hlm-offline", {}, 2 * (8 + INDEX_BITS), 2),
        ("cu-hlm-offline", {"k": 0}, 0, 0),
        ("cu-hlm-offline", {"k": 99}, 5 * (8 + INDEX_BITS), 5),
        ("exact", {"k": 3}, 3 * (8 + INDEX_BITS), 3),
        ("query", {}, 0, 0),
        ("coarse", {}, 8 + INDEX_BITS, 1),
    ],
)
def test_payload_bits(mode: str, changes: dict[str, Any], bits: float, entries: int) -> None:
    decision = decide(mode, 3, **changes)
    assert decision.message is not None
    assert (decision.message.bits, decision.entries) == (bits, entries)


def test_full_uploads_carry_x_and_truncated_ones_the_rebuilt_law() -> None:
    x, b_prob = softmax(SKIPPABLE), 16
    full, cut = (upload(mode, decide(mode, 2, b_prob=b_prob), b_prob=b_prob) for mode in ("u-hlm", "cu-hlm-offline"))
    assert isinstance(full, Proposal)
    assert isinstance(cut, Proposal)
    rounding = 5 * 2.0**-b_prob
    np.testing.assert_allclose(full.law, x, atol=rounding)
    np.testing.assert_allclose(
        cut.law, [x[0], *[(1 - x[0] - x[3]) / 3] * 2, x[3], (1 - x[0] - x[3]) / 3], atol=rounding
    )
    assert full.tested is cut.tested is None, "the server knows what it decodes of x_d and nothing else"
    assert isinstance(upload("query", decide("query", 2)), Query)


@pytest.mark.parametrize("quantiser", list(Quantiser))
@pytest.mark.parametrize("law_format", list(Format))
def test_few_bits_are_verified_as_decoded_and_their_error_is_known(law_format: Format, quantiser: Quantiser) -> None:
    drafter = device("u-hlm", b_prob=2, format=law_format, quantiser=quantiser)
    draft = replace(drafter.draw(UNSURE), token=1)
    decision, error = drafter.decide(draft), drafter.law_error(draft)
    read = upload("u-hlm", decision, b_prob=2, format=law_format, quantiser=quantiser)
    assert isinstance(read, Proposal)
    codec = LawCodec(vocab_size=5, b_prob=2, format=law_format, quantiser=quantiser, size=5)
    message, decoded = codec.transmit(softmax(UNSURE), 5)
    np.testing.assert_array_equal(read.law, decoded)
    assert decision.message == message
    assert error is not None
    assert (error.truncation, error.quantisation) == (0.0, total_variation(softmax(UNSURE), decoded))
    assert error.quantisation > 0.01


def test_online_bound_depends_on_x_alone() -> None:
    entries = {decide("cu-hlm-online", token, theta=0.05).entries for token in range(1, 5)}
    assert entries == {smallest_size(softmax(SKIPPABLE), 0.05)}


def test_online_surrogate_ends_at_the_vocabulary() -> None:
    changes = {"distortion": Distortion.SURROGATE, "theta": 0.0}
    assert decide("cu-hlm-online", 3, **changes).entries == 4, "four entries leave one, which holds the exact rest"
    assert decide("cu-hlm-online", 3, **changes | {"theta": 1e3}).entries == 0
    assert decide("cu-hlm-online", 3, signal="u_mc", **changes | {"theta": 0.3}).u is not None


def test_none_never_skips_and_one_always_does() -> None:
    for mode in ("u-hlm", "query", "cu-hlm-offline", "exact", "coarse"):
        assert all(decide(mode, token, u_threshold=None).message is not None for token in range(5))
        assert all(decide(mode, token, u_threshold=1.0).message is None for token in range(5))
    assert decide("hlm", 0, u_threshold=1.0).message is not None
    assert decide("slm", 4, u_threshold=None).message is None


def test_random_skips_at_the_rate_of_the_point_whatever_the_draft() -> None:
    coin = device("random", skip_rate=0.3)
    skips = sum(coin.decide(draft_of(i % 5)).message is None for i in range(4000))
    assert abs(skips - 1200) < 4 * math.sqrt(4000 * 0.3 * 0.7)


@pytest.mark.parametrize("signal", [s for s in Signal if s is not Signal.U_BAR])
def test_any_signal_may_gate(signal: Signal) -> None:
    weights = tuple(np.random.default_rng(0).normal(size=REGRESSORS))
    changes = {"signal_weights": weights} if signal is Signal.COMBINED else {}
    for token in range(5):
        known = device("u-hlm", signal=signal, u_threshold=0.4, **changes).decide(draft_of(token))
        assert known.u is not None
        assert (known.message is None) == (known.u <= 0.4)
        if not signal.is_sampled:
            step = draft_of(token).step
            assert known.u == read_signal(signal, weights, step, token, np.random.default_rng(0))


def test_sampled_signal_is_a_multiple_of_one_in_twenty() -> None:
    gate = device("u-hlm", signal="u_mc", u_threshold=0.3)
    decisions = [gate.decide(draft_of(0)) for _ in range(200)]
    levels = [decision.u for decision in decisions if decision.u is not None]
    assert len(levels) == 200
    assert all(abs(20 * u - round(20 * u)) < 1e-9 for u in levels)
    assert all((decision.message is None) == (decision.u <= 0.3) for decision in decisions)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("mode", "changes", "named"),
    [
        ("cu-hlm-offline", {"k": None}, "k"),
        ("exact", {"k": None}, "k"),
        ("random", {"skip_rate": None}, "skip_rate"),
        ("cu-hlm-online", {"theta": None}, "theta"),
        ("cu-hlm-online", {"distortion": None}, "distortion"),
        ("cu-hlm-online", {"distortion": Distortion.SURROGATE, "slope": None}, "slope"),
        ("coarse", {"signal": "u_mc"}, "u_mc"),
        ("u-hlm", {"signal": "u_baar"}, "u_bar"),
    ],
)
def test_a_point_without_what_its_mode_needs_is_refused(mode: str, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        device(mode, **changes)


def test_the_watched_set_is_the_skippable_set() -> None:
    for threshold in (0.49, 0.9):
        drafter = device("u-hlm", u_threshold=threshold)
        for token in range(5):
            draft = draft_of(token)
            watched = drafter.watch(draft, drafter.decide(draft))
            assert watched is not None
            wanted = np.flatnonzero(mean_uncertainty(SKIPPABLE, np.arange(5)) <= threshold)
            assert sorted(watched.tokens) == wanted.tolist()
            np.testing.assert_array_equal(watched.masses, draft.law[watched.tokens])


def test_nothing_is_watched_where_the_set_is_random_or_large() -> None:
    for mode, changes in (("random", {}), ("u-hlm", {"signal": "u_mc"})):
        drafter = device(mode, **changes)  # type: ignore[arg-type]
        assert drafter.watch(draft_of(3), drafter.decide(draft_of(3))) is None
    wide = np.zeros(100, dtype=np.float32)
    drafter = device("u-hlm", u_threshold=1.0)
    assert drafter.watch(draft_of(3, wide), drafter.decide(draft_of(3, wide))) is None
    hlm = device("hlm")
    watched = hlm.watch(draft_of(3), hlm.decide(draft_of(3)))
    assert watched is not None
    assert len(watched.tokens) == 0


@pytest.mark.parametrize("mode", ["exact", "coarse"])
def test_where_everything_is_kept_drafts_are_the_slm_s_own(mode: str) -> None:
    draft = device(mode, u_threshold=1.0, k=5, b_prob=2).draw(UNSURE)
    np.testing.assert_array_equal(draft.law, softmax(UNSURE))
    assert (draft.message, draft.entries) == (EMPTY, 0)
