"""Risk, skip rate and query bias against sums over the whole vocabulary; the largest threshold against a scan."""

import json

import numpy as np
import pytest
from synthetic_records import synthetic_positions

from cuhlm_opt.artefacts import SignalFit
from cuhlm_opt.bounds import query_bias, skip_risk
from cuhlm_opt.records import T_LIMIT, Records
from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.threshold import Gate, Policy, published_threshold

POSITIONS, TABLE, METADATA = synthetic_positions(seed=1)
GENERAL = [position for position in POSITIONS if position.domain == "general"]
FLOAT32 = 2e-6
"""Records are float32: a probability moves by up to 6e-8, a sum over 8 tokens by a few times that."""


@pytest.fixture(scope="module")
def records() -> Records:
    return Records.of(TABLE.replace_schema_metadata({b"cuhlm_opt": json.dumps(METADATA)}), "general")


@pytest.fixture(scope="module")
def gate(records) -> Gate:
    return Gate(records, Signal.U_BAR)


def brute(threshold: float) -> dict[str, np.ndarray]:
    """Skip probability, risk, query bias and skippable tokens of each position from the definitions."""
    skips = [(position.u_bar <= threshold).astype(float) for position in GENERAL]
    pairs = list(zip(GENERAL, skips, strict=True))
    return {
        "skip": np.array([s @ p.x for p, s in pairs]),
        "risk": np.array([skip_risk(p.x, p.y, s) for p, s in pairs]),
        "query": np.array([query_bias(p.x, p.y, s) for p, s in pairs]),
        "kept": np.array([s.sum() for s in skips]),
    }


def thresholds() -> list[float]:
    """Between the levels, so that float32 does not move a token across."""
    levels = np.sort(np.concatenate([position.u_bar for position in GENERAL]))
    levels = levels[levels < T_LIMIT - 1e-3]
    gaps = np.flatnonzero(np.diff(levels) > 1e-5)
    return ((levels[gaps] + levels[gaps + 1]) / 2)[:: max(1, len(gaps) // 25)].tolist()


@pytest.mark.parametrize("name", ["skip", "risk", "query", "kept"])
def test_every_threshold_below_the_limit_is_exact_per_position(gate, name):
    for threshold in thresholds():
        np.testing.assert_allclose(getattr(gate.at(threshold), name), brute(threshold)[name], atol=FLOAT32)


def test_skipping_everything_costs_the_total_variation(gate):
    everything = gate.at(1.0)
    reference = np.array([0.5 * np.abs(position.x - position.y).sum() for position in GENERAL])
    np.testing.assert_allclose(everything.risk, reference, atol=FLOAT32)
    np.testing.assert_allclose(everything.query, reference, atol=FLOAT32)
    assert everything.skip_rate == 1.0


def test_never_skipping_costs_nothing(gate):
    never = gate.at(None)
    assert never.skip_rate == 0
    assert not never.risk.any()


def test_query_is_never_better_than_the_skip_risk(gate):
    for threshold in thresholds():
        assert np.all(gate.at(threshold).query >= gate.at(threshold).risk - FLOAT32)


def test_curve_is_the_mean_at_every_level(gate):
    curve = gate.curve
    assert np.all(np.diff(curve.levels) > 0)
    assert curve.levels[-1] == 1.0
    for index in range(0, len(curve.levels), 3):
        at = gate.at(float(curve.levels[index]))
        assert curve.skip_rate[index] == pytest.approx(at.skip_rate, abs=1e-12)
        assert curve.risk[index] == pytest.approx(np.mean(at.risk), abs=1e-12)
        assert curve.query[index] == pytest.approx(np.mean(at.query), abs=1e-12)


@pytest.mark.parametrize("budget", [0.0, 1e-4, 0.005, 0.02, 0.05, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("spent", [0.0, 0.004])
def test_largest_threshold_by_scanning_every_level(gate, budget, spent):
    """max{t : risk(t) + spent <= budget} over the levels; risk is a nondecreasing step function [N, THEORY 6.1]."""
    within = [level for level in gate.curve.levels if np.mean(gate.at(float(level)).risk) + spent <= budget]
    assert gate.largest_within(budget, spent) == (max(within) if within else None)


@pytest.mark.parametrize("budget", [0.0, 0.005, 0.02, 0.1, 1.0])
def test_largest_query_threshold_by_scanning_every_level(gate, budget):
    within = [level for level in gate.curve.levels if np.mean(gate.at(float(level)).query) <= budget]
    assert gate.largest_query_within(budget) == (max(within) if within else None)


def test_budget_at_a_level_takes_that_level_and_just_below_it_does_not(gate):
    index = len(gate.curve.levels) // 2
    level = float(gate.curve.levels[index])
    risk = float(np.mean(gate.at(level).risk))
    assert gate.largest_within(risk) >= level
    below = gate.largest_within(np.nextafter(risk, 0) - 1e-12)
    assert below is None or np.mean(gate.at(below).risk) < risk


def test_tied_levels_stand_or_fall_together():
    """Two positions with the same level, one with risk 0.4, one with none: the level costs their mean."""
    n = 2
    far = np.full((n, 7), 1.0)
    records = Records(
        prompt=np.array([0, 1]), x_d=np.full(n, 0.9), beta=np.array([0.0, 0.4]), u_mc=np.full(n, 0.1),
        u_bar=np.full(n, 0.1), tv=np.array([0.05, 0.45]), entropy=np.full(n, 0.3),
        top_x=np.hstack([[[0.9], [0.9]], far * 0]),
        top_y=np.hstack([[[0.9], [0.5]], far * 0]), top_u_bar=np.hstack([[[0.1], [0.1]], far]),
        emitted=np.zeros(n, dtype=np.int8), k_grid=np.array([0, 1]), tv_x_xhat=np.zeros((n, 2), dtype=np.float32),
        tv_quantised=np.zeros((0, 4, 8, 1), dtype=np.float32),
        measured=np.zeros(0, dtype=np.intp),
    )  # fmt: skip
    gate = Gate(records, Signal.U_BAR)
    np.testing.assert_allclose(gate.curve.levels, [0.1, 1.0])
    np.testing.assert_allclose(gate.curve.risk, [0.2, 0.25])
    assert gate.largest_within(0.19) is None
    assert gate.largest_within(0.2) == 0.1
    assert gate.largest_within(0.25) == 1.0


def test_sampled_signal_uses_the_recorded_draft_at_every_threshold(records):
    gate = Gate(records, Signal.U_MC)
    for threshold in (0.0, 0.05, 0.5, 0.95, 1.0):
        skip = (records.u_mc <= threshold).astype(float)
        at = gate.at(threshold)
        np.testing.assert_array_equal(at.skip, skip)
        np.testing.assert_array_equal(at.risk, skip * records.beta)
        assert at.query is None
    for budget in (0.0, 0.01, 0.05, 1.0):
        within = [t for t in gate.curve.levels if np.mean(gate.at(float(t)).risk) <= budget]
        assert gate.largest_within(budget) == (max(within) if within else None)
    assert gate.largest_within(1.0) == 1.0


def test_between_the_limit_and_one_the_recorded_draft_stands_for_all(gate, records):
    at = gate.at(0.9)
    np.testing.assert_array_equal(at.skip, (records.u_bar <= 0.9).astype(float))
    assert at.query is None
    assert not gate.is_exact_at(0.9)
    assert gate.is_exact_at(0.5)
    assert gate.is_exact_at(1.0)


def test_recorded_draft_is_an_unbiased_estimate_of_the_sum_over_drafts():
    """E_d[1[u_d <= t] beta_d] = sum_v 1[u_v <= t] (x_v - y_v)+ within four standard errors [N, THEORY 6.1]."""
    _, table, metadata = synthetic_positions(seed=9, vocab_size=60, prompts=60, length=30)
    table = table.replace_schema_metadata({b"cuhlm_opt": json.dumps(metadata)})
    records = Records.of(table, "general")
    exact = Gate(records, Signal.U_BAR).at(0.6).risk
    sampled = (records.u_bar <= 0.6) * records.beta
    difference = sampled - exact
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))


@pytest.mark.parametrize(
    ("a", "b", "delta", "averse", "prone"),
    [(0.815, -0.066, 0.5955, 0.0810, 0.8117), (0.82, -0.06, 0.2926, 0.0732, 0.43)],
)
def test_published_thresholds(a, b, delta, averse, prone):
    line = SignalFit(a=a, b=b, risk_averse=-b / a, risk_prone=(delta - b) / a)
    assert published_threshold(line, Policy.RISK_AVERSE) == pytest.approx(averse, abs=5e-5)
    assert published_threshold(line, Policy.RISK_PRONE) == pytest.approx(prone, abs=5e-5)


def test_a_line_without_a_threshold_has_none():
    line = SignalFit(a=-0.1, b=0.2, risk_averse=float("nan"), risk_prone=None)
    assert published_threshold(line, Policy.RISK_AVERSE) is None
    assert published_threshold(line, Policy.RISK_PRONE) is None
