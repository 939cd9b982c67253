"""Rounds of several drafts in the decoder: caches go back with the text, nothing is put out beyond what was asked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from decode_fakes import PROMPT, SLM, certain, fake_pair, operating_point
from numpy.typing import NDArray
from scipy.stats import binom

from cuhlm_opt.decode.loop import decode
from cuhlm_opt.distributions import softmax
from cuhlm_opt.errors import InputError
from cuhlm_opt.models.pairs import load_pair
from cuhlm_opt.models.tiny import Role, TinyModel
from cuhlm_opt.modes import Drafting, Mode, PendingData
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.records import Records
from cuhlm_opt.rounds import round_rates
from cuhlm_opt.solve.speculating import DraftCoding, Way, chances
from cuhlm_opt.uncertainty import mean_uncertainty

FIXED = {"draft_length": 3, "drafting": Drafting.FIXED}
TRIGGERED = {"draft_length": 4, "drafting": Drafting.TRIGGERED, "u_threshold": 0.45}
TRUNCATED, COARSE = {"pending_data": PendingData.TRUNCATED}, {"pending_data": PendingData.COARSE, "k": 1}
WAYS = [FIXED | TRUNCATED, FIXED | COARSE, TRIGGERED | TRUNCATED, TRIGGERED | COARSE]
each_way = pytest.mark.parametrize("way", WAYS, ids=["fixed", "fixed coarse", "triggered", "triggered coarse"])
CYCLE = certain([1, 2, 3, 4, 5, 0])


class Rebuilding(TinyModel):
    """Reads its whole sequence anew at every call: there is no cache that could be wrong."""

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, Any]:
        ((lane, chunk),) = chunks.items()
        whole = [*self._held[lane], *chunk]
        self.truncate(lane, 0)
        rows = super().extend({lane: whole})[lane]
        return {lane: rows[-1:] if last_only else rows[-len(chunk) :]}


@each_way
@pytest.mark.parametrize("seed", range(5))
def test_text_is_that_of_a_decoder_that_rebuilds_its_caches(way: dict[str, Any], seed: int) -> None:
    point = operating_point("speculative", **way)
    rebuilding = replace(load_pair("tiny"), slm=Rebuilding(Role.SLM), llm=Rebuilding(Role.LLM))
    cached, rebuilt = (decode(pair, point, "ab", seed=seed, max_tokens=60) for pair in (load_pair("tiny"), rebuilding))
    assert cached.steps == rebuilt.steps
    assert cached.text == rebuilt.text


@each_way
def test_caches_hold_the_text_and_each_pass_reads_the_last_token_and_the_drafts(way: dict[str, Any]) -> None:
    pair = fake_pair()
    result = decode(pair, operating_point("speculative", **way), "go", seed=3, max_tokens=200)
    whole = [*PROMPT, *(step.token for step in result.steps)]
    assert pair.llm.cache == whole[:-1]
    assert pair.slm.cache == whole[: len(pair.slm.cache)]
    assert [len(chunk) for chunk in pair.llm.chunks[1:]] == [step.drafted + 1 for step in result.uploads]
    assert sum(step.drafted for step in result.uploads) == len(pair.slm.chunks) - 1, "one step of the SLM a draft"
    assert len(pair.llm.truncations) > 1, "some drafts were rolled back"
    figures = result.to_json()
    assert figures["tokens_per_round"] == 200 / len(result.uploads)
    assert figures["server_passes_per_token"] == len(result.uploads) / 200
    assert figures["bias_skip"] == figures["risk_expected"] == figures["skip_rate"] == 0
    assert figures["llm_tokens_flushed"] == 0


@each_way
def test_bits_are_those_of_every_pending_draft(way: dict[str, Any]) -> None:
    result = decode(fake_pair(), operating_point("speculative", **way), "go", seed=4, max_tokens=100)
    entry, k = 8 + 3, 1 if way["pending_data"] is PendingData.COARSE else 2
    assert all(step.payload_bits == step.drafted * k * entry for step in result.uploads)
    assert all(step.payload_bits == 0 for step in result.steps if step.follows)
    link = result.payload_bits_total / 1e3 + len(result.uploads) * 0.75
    assert result.link_s == pytest.approx(link), "a round trip and one downlink a round"


@each_way
@pytest.mark.parametrize("most", range(1, 8))
def test_no_more_is_drafted_than_may_be_put_out(way: dict[str, Any], most: int) -> None:
    for seed in range(10):
        result = decode(fake_pair(), operating_point("speculative", **way), "go", seed=seed, max_tokens=most)
        assert len(result.steps) == most
        start = 0
        for step in result.uploads:
            start = result.steps.index(step, start)
            assert step.drafted <= min(way["draft_length"], most - start - 1)


def test_a_certain_pair_puts_out_whole_rounds() -> None:
    pair = fake_pair(CYCLE, CYCLE)
    result = decode(pair, operating_point("speculative"), "go", max_tokens=9)
    assert [step.token for step in result.steps] == [4, 5, 0, 1, 2, 3, 4, 5, 0]
    assert [(step.drafted, step.read) for step in result.uploads] == [(3, 4), (3, 4), (0, 1)]
    assert pair.slm.chunks == [[0, 1, 2], [3], [4], [5], [0, 1], [2], [3]]
    assert [step.accepted for step in result.steps] == [True] * 3 + [None] + [True] * 3 + [None, None]


def test_the_first_that_fails_is_replaced_and_the_rest_rolled_back() -> None:
    """The LLM says 0 behind 4, the SLM 5: every round that crosses it ends there."""
    pair = fake_pair(CYCLE, certain([1, 2, 3, 4, 0, 0]))
    result = decode(pair, operating_point("speculative"), "go", max_tokens=8)
    assert [step.token for step in result.steps] == [4, 0, 1, 2, 3, 4, 0, 1]
    assert [step.accepted for step in result.steps] == [True, False, True, True, True, None, False, None]
    assert pair.llm.cache == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize("drafts", [1, 2, 3, 5])
def test_a_draft_that_ends_the_answer_ends_the_round(drafts: int) -> None:
    """4 5 follow the prompt, 5 ends: nothing is drafted or drawn behind it, and it is read by no model."""
    pair = fake_pair(CYCLE, CYCLE, eos=[5])
    result = decode(pair, operating_point("speculative", draft_length=drafts), "go", max_tokens=9)
    assert ([step.token for step in result.steps], result.finish_reason, result.text) == ([4, 5], "eos", "e")
    assert 5 not in [*pair.slm.cache, *pair.llm.cache]


def test_a_draft_that_would_end_the_answer_can_be_refused() -> None:
    pair = fake_pair(CYCLE, certain([1, 2, 3, 4, 0, 0]), eos=[5])
    result = decode(pair, operating_point("speculative"), "go", max_tokens=5)
    assert ([step.token for step in result.steps], result.finish_reason) == ([4, 0, 1, 2, 3], "length")


def test_triggered_drafting_stops_at_the_first_draft_above_the_threshold() -> None:
    threshold = 0.45
    result = decode(fake_pair(), operating_point("speculative", **TRIGGERED | TRUNCATED), "go", seed=1, max_tokens=400)
    rounds: list[list[Any]] = []
    for step in result.steps:
        if not step.follows:
            rounds.append([])
        rounds[-1].append(step)
    before, lengths = PROMPT[-1], Counter()
    for steps in rounds:
        drafted = steps[0].drafted
        for place, step in enumerate(steps):
            if step.draft is not None:
                assert step.u == pytest.approx(mean_uncertainty(SLM[before], np.array([step.draft]))[0])
                last = place == drafted - 1
                assert step.u <= threshold or last, "drafting stopped there"
                assert last is False or step.u > threshold or drafted == 4 or steps is rounds[-1]
            before = step.token
        lengths[drafted] += 1
    assert set(lengths) >= {1, 2, 3}


def test_no_threshold_stops_at_every_draft() -> None:
    way = TRIGGERED | TRUNCATED | {"u_threshold": None}
    result = decode(fake_pair(), operating_point("speculative", **way), "go", max_tokens=40)
    assert {step.drafted for step in result.uploads} <= {0, 1}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bits", [2, 8])
def test_first_tokens_of_the_tiny_pair_follow_the_llm(way: dict[str, Any], bits: int) -> None:
    """The first three tokens over seeds, whose laws depend on the two before, against the product of y's."""
    pair = load_pair("tiny")
    prompt, end, draws = pair.llm.chat_tokens("ab"), pair.llm.vocab_size - 1, 2500
    wanted: dict[tuple[int, ...], float] = {}
    for word in product(range(pair.llm.vocab_size), repeat=3):
        cut = word[: word.index(end) + 1] if end in word else word
        pair.llm.truncate(0, 0)
        rows = pair.llm.extend({0: [*prompt, *cut[:-1]]})[0][len(prompt) - 1 :]
        wanted[cut] = float(np.prod([softmax(row)[token] for row, token in zip(rows, cut, strict=True)]))
    assert sum(wanted.values()) == pytest.approx(1)
    point = operating_point("speculative", **way, b_prob=bits)
    drawn: Counter[tuple[int, ...]] = Counter()
    for seed in range(draws):
        steps = decode(pair, point, "ab", seed=seed, max_tokens=5).steps
        drawn[tuple(step.token for step in steps[:3])] += 1
    assert set(drawn) <= set(wanted)
    for word, probability in wanted.items():
        law = binom(draws, probability)
        assert law.cdf(drawn[word]) > 1e-6
        assert law.sf(drawn[word] - 1) > 1e-6


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"draft_length": 0}, "draft_length 0"),
        ({"k": None}, "needs k"),
        ({"drafting": None}, "needs drafting"),
        ({"pending_data": None}, "needs pending_data"),
        ({**TRIGGERED, "signal": "u_mc"}, "triggered drafting"),
    ],
)
def test_points_that_cannot_be_decoded_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        decode(fake_pair(), operating_point(Mode.SPECULATIVE, **changes), "go")


def recorded(slm: NDArray[np.float32], llm: NDArray[np.float32], tokens: int) -> Records:
    """What a calibration would record of one long answer of the LLM."""
    rng, before, rows = np.random.default_rng(0), PROMPT[-1], []
    laws = [(softmax(slm[v]), softmax(llm[v]), mean_uncertainty(slm[v], np.arange(len(slm)))) for v in range(len(slm))]
    for _ in range(tokens):
        x, y, u_bar = laws[before]
        top = np.argsort(-x, kind="stable")[:8]
        token = int(rng.choice(len(y), p=y))
        found = np.flatnonzero(top == token)
        rows.append((x[top], y[top], u_bar[top], found[0] if len(found) else -1))
        before = token
    x, y, u_bar, emitted = (np.array(column) for column in zip(*rows, strict=True))
    zero = np.zeros(tokens)
    return Records(
        prompt=np.repeat(np.arange(tokens // 250), 250), x_d=zero, beta=zero, u_mc=zero, u_bar=zero, tv=zero,
            entropy=zero,
        top_x=x.astype(np.float32), top_y=y.astype(np.float32), top_u_bar=u_bar.astype(np.float32),
        emitted=emitted.astype(np.int8), k_grid=np.array([0]), tv_x_xhat=np.zeros((tokens, 1), np.float32),
        tv_quantised=np.zeros((0, 4, 8, 1), np.float32), measured=np.zeros(0, np.intp),
    )  # fmt: skip


@each_way
def test_decoded_rounds_are_as_counted_on_records(way: dict[str, Any]) -> None:
    """Tokens and drafts a round, within 4 %: two standard errors of some 1 500 rounds, and the tail beyond 8 of 12.

    What is drafted in vain behind a refused draft is an estimate of the records: here the triggered drafts agree, too.
    """
    rng = np.random.default_rng(2)
    slm = rng.normal(0.0, 2.0, (12, 12)).astype(np.float32)
    llm = (slm + rng.normal(0.0, 0.7, (12, 12))).astype(np.float32)
    k = 1 if way["pending_data"] is PendingData.COARSE else 4
    threshold = way["u_threshold"] if way["drafting"] is Drafting.TRIGGERED else None
    coding = DraftCoding(vocab_size=12, b_prob=8, quantiser=Quantiser.UNIFORM, law_format=Format.PUBLISHED)
    data = chances(recorded(slm, llm, 20_000), coding, Way(data=way["pending_data"], k=k, threshold=threshold))
    rates = round_rates(data, way["draft_length"], 250)
    point = operating_point("speculative", **way | {"k": k})
    figures = decode(fake_pair(slm, llm), point, "go", max_tokens=4000).to_json()
    assert figures["tokens_per_round"] == pytest.approx(rates.tokens_per_round, rel=0.04)
    assert figures["drafts_per_round"] == pytest.approx(rates.drafts_per_round, rel=0.04)
    assert rates.tokens_per_round > 1.3
