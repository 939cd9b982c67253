"""Rounds on records: the chances of each position by enumeration, the rounds by decoding, the choice by search."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from synthetic_records import FLOOR, TIMES, synthetic_positions, write_synthetic

from cuhlm_opt.codec import LawCodec, coarse_codec, lumped_law
from cuhlm_opt.errors import InfeasibleError, InputError
from cuhlm_opt.modes import Drafting, Mode, Pending, PendingData
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.records import TOP, Records
from cuhlm_opt.rounds import round_rates
from cuhlm_opt.solve import solve
from cuhlm_opt.solve.load import load_evidence
from cuhlm_opt.solve.speculating import SIZES, DraftCoding, Way, chances
from cuhlm_opt.truncation import largest, reconstruct
from cuhlm_opt.verification import CoarseProposal, Proposal

V = 60
POSITIONS, TABLE, METADATA = synthetic_positions(seed=3, vocab_size=V, prompts=12, length=8)
CODE = [position for position in POSITIONS if position.domain == "code"]
CODING = DraftCoding(vocab_size=V, b_prob=8, quantiser=Quantiser.UNIFORM, law_format=Format.COMPACT)
FLOAT32 = 2e-6
each_data = pytest.mark.parametrize("data", list(PendingData))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("synthetic")
    write_synthetic(path, TABLE, METADATA, times=TIMES, numeric_floor=FLOOR)
    return path


@pytest.fixture(scope="module")
def records(folder) -> Records:
    found = load_evidence(str(folder), "code").records
    assert found is not None
    return found


def at(folder, **settings):
    given = {"bandwidth_hz": 1e6, "domain": "code", "policy": "budget", "mode": "speculative", **settings}
    return solve(str(folder), **given)


def drawn_and_standing(x, y, data: PendingData, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Law of the drafts, and the probability that each is drawn and stands, through the codec and the verdicts."""
    kept = largest(x, k)
    if data is PendingData.COARSE:
        codec = coarse_codec(V)
        kept, masses = codec.decode(codec.encode(kept, x[kept]))
        law = lumped_law(x, kept, masses)
        uploads = [CoarseProposal(kept=kept, masses=masses, draft=d if d in kept else None) for d in range(V)]
    else:
        codec = LawCodec(vocab_size=V, format=Format.COMPACT, down=True, size=k)
        law = reconstruct(*codec.decode(codec.encode(kept, x[kept])), V)
        uploads = [Proposal(draft=d, law=law) for d in range(V)]
    return law, np.array([law[d] * upload.verify(y).law()[d] for d, upload in enumerate(uploads)])


@each_data
@pytest.mark.parametrize("k", SIZES)
def test_chances_by_enumerating_drafts(records, data, k):
    threshold = 0.47
    fixed = chances(records, CODING, Way(data=data, k=k, threshold=None))
    triggered = chances(records, CODING, Way(data=data, k=k, threshold=threshold))
    assert np.all(fixed.on == 1)
    assert np.all(fixed.refused_on == 1)
    assert not fixed.stops.any()
    tokens = [row["context_token"] for row in TABLE.to_pylist() if row["domain"] == "code"]
    for at_position, (position, token) in enumerate(zip(CODE, tokens, strict=True)):
        x, y = position.x, position.y
        law, standing = drawn_and_standing(x, y, data, k)
        top = np.argsort(-x, kind="stable")[:TOP]
        on = np.isin(np.arange(V), top) & (position.u_bar <= threshold)
        inside = token in top
        expected = standing[token] / y[token] if inside else 0.0
        assert fixed.accepted[at_position] == pytest.approx(expected, abs=1e-4)
        assert triggered.accepted[at_position] == pytest.approx(expected, abs=1e-4)
        assert triggered.stops[at_position] == (position.u_bar[token] > threshold)
        assert triggered.on[at_position] == pytest.approx((law * on).sum(), abs=FLOAT32)
        refused = 1 - standing[top].sum()
        refused_on = ((law - standing) * on).sum() / refused
        assert triggered.refused_on[at_position] == pytest.approx(refused_on, abs=1e-4)


def test_the_throughput_is_tokens_of_a_round_over_its_mean_time(folder, records):
    point = at(folder, rtt_s=0.02, downlink_s=0.001, draft_length=4, drafting="fixed", pending_data="truncated")
    way = Way(data=PendingData.TRUNCATED, k=point.k, threshold=None)
    rates = round_rates(chances(records, CODING, way), 4, 128)
    bits, passes = CODING.bits(PendingData.TRUNCATED, point.k), {1: 0.04, 2: 0.05, 3: 0.059, 4: 0.068, 5: 0.0785}
    per_token = sum(
        weight * (drafts * TIMES.slm_s + drafts * bits / (1e6 * np.log2(11)) + 0.021 + passes[drafts + 1])
        for drafts, weight in enumerate(rates.weights)
    )
    assert point.throughput_tokens_per_s == pytest.approx(1 / per_token)
    assert point.latency_p50_s == 0, "most tokens come with the one before them"
    own = next(row for row in point.baselines if row.mode is Mode.SPECULATIVE)
    assert own.server_passes_per_token == pytest.approx(rates.rounds_per_token)
    assert (point.bias_total, point.skip_rate, own.bias_kind) == (0.0, 0.0, "exact")
    assert point.payload_bits == pytest.approx(bits * rates.drafts_per_round)


@pytest.mark.parametrize("rtt_s", [0.0, 0.02, 0.1])
def test_the_chosen_draft_length_is_the_best_of_all(folder, rtt_s):
    """Within 2 %: a length's messages are ranked as if rounds began everywhere alike, here on six answers of eight."""
    chosen = at(folder, rtt_s=rtt_s)
    speeds = [at(folder, rtt_s=rtt_s, draft_length=g).throughput_tokens_per_s for g in (1, 2, 3, 5, 8, 16)]
    assert chosen.throughput_tokens_per_s >= 0.98 * max(speeds)
    assert chosen.throughput_tokens_per_s == pytest.approx(max(speeds), rel=0.02) or rtt_s > 0
    assert rtt_s == 0 or speeds[0] < chosen.throughput_tokens_per_s


def test_a_longer_round_trip_asks_for_longer_rounds(folder):
    passes = []
    for rtt_s in (0.0, 0.1, 1.0):
        point = at(folder, rtt_s=rtt_s, drafting="fixed")
        passes.append(point.draft_length)
    assert passes == sorted(passes)
    assert passes[0] < passes[-1]


def test_what_is_asked_of_rounds_is_kept(folder):
    for drafting in Drafting:
        for data in PendingData:
            point = at(folder, draft_length=3, drafting=drafting, pending_data=data)
            assert (point.draft_length, point.drafting, point.pending_data) == (3, drafting, data)
            assert (point.pending, point.u_threshold is None) == (Pending.ROLL_BACK, drafting is Drafting.FIXED)
    assert at(folder, draft_length=40).draft_length == 40


def test_keep_is_skipping(folder):
    """The modes that skip are triggered drafting that keeps what is pending."""
    kept = at(folder, pending="keep")
    assert kept == at(folder, mode="coarse")
    assert (kept.mode, kept.pending, kept.drafting) == (Mode.COARSE, Pending.KEEP, None)
    assert at(folder, pending="keep", pending_data="truncated").mode is Mode.EXACT
    with pytest.raises(InputError, match="--pending 'keep' goes with triggered drafting"):
        at(folder, pending="keep", drafting="fixed")
    with pytest.raises(InputError, match="leave --draft-length out"):
        at(folder, pending="keep", draft_length=3)


def test_objectives_and_limits(folder):
    fastest, fewest, least = (at(folder, rtt_s=0.05, objective=name) for name in ("throughput", "passes", "bits"))

    def passes(point):
        return next(row for row in point.baselines if row.mode is Mode.SPECULATIVE).server_passes_per_token

    assert passes(fewest) <= passes(fastest)
    assert least.payload_bits * passes(least) <= fastest.payload_bits * passes(fastest)
    limited = at(folder, rtt_s=0.05, max_passes=passes(fewest) * 1.001)
    assert passes(limited) <= passes(fewest) * 1.001
    with pytest.raises(InfeasibleError, match="--min-skip"):
        at(folder, min_skip=0.1)


def test_what_has_no_speculation(folder, tmp_path):
    with pytest.raises(InputError, match="mean-rate"):
        at(folder, accounting="mean-rate")
    beside = at(folder, mode="coarse", accounting="mean-rate").baselines
    own = next(row for row in beside if row.mode is Mode.SPECULATIVE)
    assert own.throughput_tokens_per_s is None
    with pytest.raises(InputError, match="--drafting triggered"):
        at(folder, signal="u_mc", drafting="triggered")
    assert at(folder, signal="u_mc").drafting is Drafting.FIXED
    by_slm = TABLE.set_column(
        TABLE.schema.get_field_index("source"), "source", pa.array(["slm"] * len(TABLE), pa.string())
    )
    write_synthetic(tmp_path, by_slm, METADATA | {"source": "slm"}, times=TIMES, numeric_floor=FLOOR)
    point = at(tmp_path)
    assert point.throughput_tokens_per_s is None
    assert any("needs contexts drawn by the LLM" in line for line in point.warnings)
    published = solve("published-cu-hlm", bandwidth_hz=1e6, policy="risk-averse", mode="speculative")
    assert (published.throughput_tokens_per_s, published.draft_length) == (None, 1)


@pytest.mark.parametrize("value", [0, 65])
def test_draft_lengths_out_of_range_are_refused(folder, value):
    with pytest.raises(InputError, match="--draft-length"):
        at(folder, draft_length=value)


def test_emitted_tokens_are_found_among_the_likely_ones(records):
    rows = [row for row in TABLE.to_pylist() if row["domain"] == "code"]
    for emitted, row in zip(records.emitted, rows, strict=True):
        if emitted < 0:
            assert row["context_token"] not in row["top_id"]
        else:
            assert row["top_id"][emitted] == row["context_token"]
    assert 0.5 < np.mean(records.emitted >= 0) < 1


def test_a_point_is_written_and_read_back(folder, tmp_path):
    point = at(folder)
    point.write(tmp_path / "point.json")
    document = json.loads((tmp_path / "point.json").read_text())
    assert document["drafting"] in ("fixed", "triggered")
    assert document["pending"] == "roll-back"
