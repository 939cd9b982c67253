"""Bias and payload of every mode against laws enumerated draft by draft with the verifier that the decoder runs."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_records import FLOOR, TIMES, SyntheticPosition, synthetic_positions, write_synthetic

from cuhlm_opt.channel import AwgnUplink, Link
from cuhlm_opt.codec import LawCodec, Message, coarse_codec, lumped_law
from cuhlm_opt.distributions import total_variation
from cuhlm_opt.latency import Accounting, Asks, ComputeTimes, token_law
from cuhlm_opt.modes import Distortion, Mode
from cuhlm_opt.payload import Format
from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.load import load_evidence
from cuhlm_opt.solve.modes_table import hlm_throughput, mode_point
from cuhlm_opt.solve.operating_point import mode_row
from cuhlm_opt.solve.points import ModePoint, throughput
from cuhlm_opt.solve.problem import Problem
from cuhlm_opt.solve.settling import most_skippable
from cuhlm_opt.solve.statements import recommend
from cuhlm_opt.solve.threshold import Gate, Policy
from cuhlm_opt.verification import CoarseProposal, Proposal, Query

V = 60
POSITIONS, TABLE, METADATA = synthetic_positions(seed=3, vocab_size=V, prompts=6, length=6)
CODE = [position for position in POSITIONS if position.domain == "code"]
FLOAT32 = 2e-6
ROUNDING = 2**-17  # step of the recorded TV(x_hat, decoded x_hat)


@pytest.fixture(scope="module")
def problem(tmp_path_factory) -> Problem:
    folder = tmp_path_factory.mktemp("synthetic")
    write_synthetic(folder, TABLE, METADATA, times=TIMES, numeric_floor=FLOOR)
    evidence = load_evidence(str(folder), "code")
    return Problem(
        calibration=evidence.calibration,
        fit=evidence.fit,
        signal=Signal.U_BAR,
        gate=Gate(evidence.records, Signal.U_BAR),
        times=TIMES,
        link=Link(uplink=AwgnUplink(bandwidth_hz=1e6, snr=10.0)),
        budget=0.05,
        policy=Policy.BUDGET,
        distortion=Distortion.BOUND,
        theta=None,
        b_prob=8,
        quantiser=None,
        law_format=Format.COMPACT,
        accounting=Accounting.MEAN_LATENCY,
        answer_tokens=128,
    )


def middle(threshold: float) -> float:
    """A threshold between the level and the next one, so that float32 moves no token across it."""
    levels = np.sort(np.concatenate([position.u_bar for position in CODE]))
    above = levels[levels > threshold + 1e-6]
    return (threshold + above[0]) / 2


def output_law(
    problem: Problem, point: ModePoint, position: SyntheticPosition, threshold: float | None
) -> tuple[np.ndarray, float, float]:
    """(law of the output, probability to ask, bits sent on average over drafts), draft by draft, through the codec."""
    x, y, mode = position.x, position.y, point.mode
    kept = np.array([], dtype=int) if threshold is None else np.flatnonzero(position.u_bar <= threshold)
    drafts, message, decoded = x, Message(0, b""), x
    match mode:
        case Mode.COARSE:
            codec = coarse_codec(V, point.b_prob, point.quantiser)
            message = codec.encode(kept, x[kept])
            kept, masses = codec.decode(message)
            drafts = lumped_law(x, kept, masses)
        case Mode.QUERY:
            pass
        case _:
            k = V if point.k is None else point.k
            way = {"b_prob": point.b_prob, "quantiser": point.quantiser, "format": problem.truncated_format, "size": k}
            message, decoded = LawCodec(vocab_size=V, down=mode is Mode.EXACT, **way).transmit(x, k)
            drafts = decoded if mode is Mode.EXACT else x
    law, asking = np.zeros(V), 0.0
    for d in range(V):
        if d in kept:
            law[d] += drafts[d]
            continue
        upload = Query() if mode is Mode.QUERY else Proposal(draft=d, law=decoded)
        if mode is Mode.COARSE:
            upload = CoarseProposal(kept=kept, masses=masses, draft=None)
        law += drafts[d] * upload.verify(y).law()
        asking += drafts[d]
    return law, asking, asking * message.bits


def enumerated(problem: Problem, point: ModePoint, threshold: float | None) -> tuple[float, float, float]:
    """(mean bias, skip rate, mean bits of an upload)."""
    rows = []
    for position in CODE:
        law, asking, bits = output_law(problem, point, position, threshold)
        assert law.sum() == pytest.approx(1)
        rows.append((total_variation(law, position.y), asking, bits))
    bias, asking, bits = np.mean(rows, axis=0)
    return bias, 1 - asking, bits / asking


@pytest.mark.parametrize("law_format", list(Format))
@pytest.mark.parametrize("budget", [0.0, 0.01, 0.05, 0.12])
@pytest.mark.parametrize("mode", [Mode.U_HLM, Mode.QUERY, Mode.COARSE, Mode.EXACT, Mode.CU_HLM_OFFLINE])
def test_bias_skip_rate_and_payload_by_enumerating_drafts(problem, mode, budget, law_format):
    problem = replace(problem, budget=budget, law_format=law_format)
    point = mode_point(problem, mode)
    threshold = None if point.threshold is None else middle(point.threshold)
    bias, skip_rate, bits = enumerated(problem, point, threshold)
    assert point.skip_rate == pytest.approx(skip_rate, abs=FLOAT32)
    assert point.payload_bits == pytest.approx(bits, rel=1e-4, abs=1e-4)
    if mode in (Mode.QUERY, Mode.COARSE, Mode.EXACT):
        assert (point.bias_kind, point.bias) == ("exact", pytest.approx(bias, abs=FLOAT32))
        assert point.bias <= budget
    else:
        assert point.bias_kind == "bound"
        assert bias <= point.bias + FLOAT32
        assert point.bias <= budget or point.threshold is None


@pytest.mark.parametrize("b_prob", [2, 8])
@pytest.mark.parametrize("threshold", [0.3, 0.55, 0.7, 0.8])
@pytest.mark.parametrize("mode", [Mode.U_HLM, Mode.QUERY, Mode.COARSE, Mode.EXACT])
def test_modes_at_a_given_threshold_by_enumerating_drafts(problem, mode, threshold, b_prob):
    """The same at thresholds where several tokens are skippable, through a published policy that gives just these."""
    line = problem.line.model_copy(update={"risk_averse": middle(threshold)})
    fit = problem.fit.model_copy(update={"signals": {"u_bar": line}})
    point = mode_point(replace(problem, fit=fit, policy=Policy.RISK_AVERSE, b_prob=b_prob), mode)
    assert point.threshold == middle(threshold)
    bias, skip_rate, bits = enumerated(problem, point, point.threshold)
    assert point.bias == pytest.approx(bias, abs=FLOAT32) or (mode is Mode.U_HLM and bias < point.bias)
    assert point.bias - (point.bias_quantisation or 0.0) <= bias + (point.bias_quantisation or 0.0) + FLOAT32
    assert point.skip_rate == pytest.approx(skip_rate, abs=FLOAT32)
    assert point.payload_bits == pytest.approx(bits, rel=1e-4)


def rounding_of_all(point: ModePoint) -> float:
    """Mean TV(x, decoded x)."""
    codec = LawCodec(vocab_size=V, b_prob=point.b_prob, quantiser=point.quantiser)
    return float(np.mean([total_variation(q.x, codec.transmit(q.x, V)[1]) for q in CODE]))


def test_random_is_a_coin(problem):
    """TV = p TV(x, y) but for rounding: keep x with probability p, else y."""
    p = 0.37
    point = mode_point(problem, Mode.RANDOM, p)
    reference = np.mean([total_variation(p * q.x + (1 - p) * q.y, q.y) for q in CODE])
    assert point.bias_skip == pytest.approx(reference, abs=FLOAT32)
    assert point.bias_quantisation == pytest.approx(rounding_of_all(point), abs=ROUNDING)
    assert point.skip_rate == p


def test_plain_modes(problem):
    slm, llm, hlm = (mode_point(problem, mode) for mode in (Mode.SLM, Mode.LLM, Mode.HLM))
    assert slm.bias == pytest.approx(np.mean([total_variation(q.x, q.y) for q in CODE]), abs=FLOAT32)
    assert (llm.bias, llm.bias_kind) == (0, "exact")
    assert (hlm.bias_kind, hlm.bias) == ("bound", pytest.approx(rounding_of_all(hlm), abs=ROUNDING))
    assert throughput(problem, slm) == pytest.approx(1 / 0.020)
    assert throughput(problem, llm) == pytest.approx(1 / 0.040)
    rate = problem.link.uplink.rate_bps
    assert throughput(problem, hlm) == pytest.approx(1 / (0.020 + 8 * V / rate + 0.040))
    assert hlm_throughput(problem, Format.PUBLISHED) == pytest.approx(1 / (0.060 + (8 + 6) * V / rate))


def test_online_counts_the_entries_of_tokens_that_ask(problem):
    point = mode_point(problem, Mode.CU_HLM_ONLINE)
    skip = problem.gate.at(point.threshold).skip
    sizes = point.truncation.sizes
    assert point.entries == pytest.approx(np.sum((1 - skip) * sizes) / np.sum(1 - skip))
    assert point.bias_kind == "bound"
    assert point.bias <= problem.budget


def test_online_surrogate_claims_no_bound(problem):
    point = mode_point(replace(problem, distortion=Distortion.SURROGATE), Mode.CU_HLM_ONLINE)
    assert (point.bias, point.bias_kind) == (None, "none")
    offline = mode_point(replace(problem, distortion=Distortion.SURROGATE), Mode.CU_HLM_OFFLINE)
    assert offline.bias_kind == "bound"
    assert offline.truncation.theta == 0.1


@pytest.mark.parametrize("mode", [Mode.CU_HLM_OFFLINE, Mode.CU_HLM_ONLINE])
def test_published_policy_leaves_truncation_what_the_budget_leaves(problem, mode):
    line = problem.line.model_copy(update={"risk_averse": 0.4})
    fit = problem.fit.model_copy(update={"signals": {"u_bar": line}})
    problem = replace(problem, policy=Policy.RISK_AVERSE, fit=fit)
    risk = float(np.mean(problem.gate.at(0.4).risk))
    assert risk > 0
    point = mode_point(replace(problem, budget=1.2 * risk), mode)
    assert point.threshold == 0.4
    least = 1.15 if mode is Mode.CU_HLM_OFFLINE else 1.1  # online, no tolerance of the grid comes as close
    assert least * risk < point.bias <= 1.2 * risk or point.bias_truncation < 0.05 * risk
    beyond = mode_point(replace(problem, budget=0.5 * risk), mode)
    assert beyond.bias_truncation <= 0.5 * risk < beyond.bias


def test_control_is_not_recommended_even_where_it_is_the_fastest(problem):
    points = [mode_point(problem, mode) for mode in Mode if mode is not Mode.RANDOM]
    instant = ComputeTimes(slm_s=1e-6, gate_s=0.0, llm_pass_s={1: 1.0})
    law = token_law(Mode.RANDOM, instant, problem.link, Asks.never(), 1)
    control = replace(mode_point(problem, Mode.RANDOM, 0.0), time=law)
    assert control.bias < problem.budget
    assert recommend(problem, [*points, control]) == recommend(problem, points)


def test_bias_grows_and_time_falls_with_the_budget(problem):
    """Monotone in the budget: throughput, skip rate; above the budget only rounding, never skipping."""
    for mode in (Mode.U_HLM, Mode.COARSE, Mode.EXACT, Mode.QUERY, Mode.CU_HLM_OFFLINE, Mode.CU_HLM_ONLINE):
        budgets = np.linspace(0, 0.4, 21)
        points = [mode_point(replace(problem, budget=float(budget)), mode) for budget in budgets]
        for point, budget in zip(points, budgets, strict=True):
            assert point.bias <= budget or (point.threshold is None and point.bias_quantisation > 0)
        speeds = np.array([throughput(problem, point) for point in points])
        assert np.all(np.diff(speeds) >= -1e-9 * speeds[1:])
        if not mode.truncates or mode is Mode.EXACT:
            assert np.all(np.diff([point.skip_rate for point in points]) >= 0)


def test_sampled_signal_leaves_what_needs_the_skippable_set_unknown(problem):
    problem = replace(problem, signal=Signal.U_MC, gate=Gate(problem.gate.records, Signal.U_MC))
    for mode in (Mode.COARSE, Mode.EXACT, Mode.QUERY):
        assert mode_point(problem, mode).bias is None
    assert mode_point(problem, Mode.U_HLM).bias <= problem.budget


def test_without_records_the_link_still_gives_what_it_can(problem):
    problem = replace(problem, gate=None)
    assert throughput(problem, mode_point(problem, Mode.HLM)) is not None
    row = mode_row(problem, mode_point(problem, Mode.CU_HLM_OFFLINE))
    assert (row.bias, row.skip_rate, row.payload_bits, row.throughput_tokens_per_s) == (None, None, None, None)
    assert row.law == "needs records"


@pytest.mark.parametrize(("threshold", "most"), [(None, 1), (0.0, 1), (0.49, 1), (0.5, 2), (0.75, 4), (0.874, 7)])
def test_most_skippable_tokens(threshold, most):
    """sum_v (1 - u_bar_v) = 1, so at most floor(1/(1 - t)) tokens have u_bar <= t [N, THEORY 4.2]."""
    assert most_skippable(threshold, V) == most
    if threshold is not None:
        assert max(np.sum(position.u_bar <= threshold) for position in POSITIONS) <= most
