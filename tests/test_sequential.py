"""Capital is fair under its hypothesis by enumeration, stopping at will errs as stated, and changes are found."""

import math
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad

from cuhlm_opt.errors import InputError
from cuhlm_opt.sequential import (
    POWERS,
    RISK_BETS,
    conformal_p_values,
    log_capital,
    log_change_e_values,
    log_risk_e_values,
    risk_bounds,
)

ALPHA, LEVEL = 0.05, 0.02
STREAMS, PROMPTS = 2000, 150
LAWS = {
    "coins": ((0.0, 1.0), (1 - LEVEL, LEVEL)),
    "three values": ((0.0, 0.01, 0.06), (0.5, 0.25, 0.25 - 1e-12)),
    "below the level": ((0.0, 0.03), (0.6, 0.4)),
}
"""Losses and their probabilities, of mean at most LEVEL."""

losses = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1))


def capital_by_definition(factors: np.ndarray) -> np.ndarray:
    """K_n = 1/(n + 1) + mean_b sum_s prod_{i = s..n} f_{b,i} / (s (s + 1))."""
    bets, prompts = factors.shape
    return np.array(
        [
            1 / (n + 1)
            + sum(factors[b, s - 1 : n].prod() / (s * (s + 1)) for b in range(bets) for s in range(1, n + 1)) / bets
            for n in range(1, prompts + 1)
        ]
    )


def test_capital_is_that_of_its_definition():
    factors = np.random.default_rng(0).uniform(0.1, 3.0, (3, 12))
    np.testing.assert_allclose(np.exp(log_capital(np.log(factors))), capital_by_definition(factors), rtol=1e-12)


@pytest.mark.parametrize("law", LAWS)
def test_the_mean_capital_is_at_most_1_by_enumeration(law):
    """E[K_n] <= 1, = 1 where the mean is the level."""
    values, chances = LAWS[law]
    for n in (1, 2, 5):
        paths = np.array(list(product(values, repeat=n)))
        weights = np.array(list(product(chances, repeat=n))).prod(axis=1)
        mean = weights @ np.exp([log_risk_e_values(path, LEVEL)[-1] for path in paths])
        exact = math.isclose(np.dot(values, chances), LEVEL, abs_tol=1e-9)
        assert mean <= 1 + 1e-9
        assert not exact or mean == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_stopping_at_the_most_tempting_moment_errs_as_stated(law):
    """P(any K_n >= 1/alpha) <= alpha under H0, within 3 standard errors."""
    values, chances = np.array(LAWS[law])
    rng = np.random.default_rng(1)
    streams = rng.choice(values, (STREAMS, PROMPTS), p=chances / chances.sum())
    errors = np.mean([log_risk_e_values(each, LEVEL).max() >= -math.log(ALPHA) for each in streams])
    assert errors <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / STREAMS)


def test_exchangeable_prompts_look_changed_as_rarely_as_stated():
    rng = np.random.default_rng(2)
    rejected = []
    for _ in range(STREAMS):
        scores = rng.normal(rng.normal(), 1.0, 150).round(1)  # ties, and a mean of its own: exchangeable
        p_values = conformal_p_values(scores[50:], scores[:50], rng)
        rejected.append(log_change_e_values(p_values).max() >= -math.log(ALPHA))
    assert np.mean(rejected) <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / STREAMS)


@pytest.mark.parametrize("quiet", [0, 60])
def test_losses_above_the_level_are_found(quiet):
    """Mean 0.08 after `quiet` prompts of 0.01; the capital needs 1/alpha, and s (s + 1) more for the later begin."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(200):
        stream = np.concatenate([rng.choice([0.0, 0.02], quiet), rng.choice([0.0, 0.16], 100)])
        (crossed,) = np.nonzero(log_risk_e_values(stream, LEVEL) >= -math.log(ALPHA))
        found.append(len(crossed) and quiet <= crossed[0] <= quiet + 50)
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("shift", [-2.0, 2.0])
def test_scores_that_move_either_way_are_found(shift):
    rng = np.random.default_rng(4)
    found = []
    for _ in range(100):
        scores = np.concatenate([rng.normal(size=30), rng.normal(shift, 1.0, 40)])
        log_e = log_change_e_values(conformal_p_values(scores, rng.normal(size=200), rng))
        (crossed,) = np.nonzero(log_e >= -math.log(ALPHA))
        found.append(len(crossed) and crossed[0] >= 30)
    assert np.mean(found) >= 0.9


@given(losses, st.integers(0, 29), st.floats(0, 1))
def test_capital_grows_with_every_loss(values, at, other):
    higher = values.copy()
    higher[at % len(values)] = max(other, values[at % len(values)])
    assert np.all(log_risk_e_values(higher, 0.1) >= log_risk_e_values(values, 0.1) - 1e-9)


@given(losses)
def test_what_is_over_the_level_is_what_the_lower_bound_says(values):
    """A level is excluded from below iff the capital against it reaches 1/alpha."""
    low, high = risk_bounds(values, np.ones(len(values)), 1, ALPHA)
    assert 0 <= low <= high <= 1
    for level in (0.5 * low, 0.99 * low - 1e-9, min(1.01 * low + 1e-9, 0.999)):
        if 0 < level < 1:
            assert (log_risk_e_values(values, level).max() >= -math.log(ALPHA)) == (level < low)


def test_the_bounds_of_the_risk_per_token_cover_it_at_all_times():
    """The ratio E[S]/E[N], lengths that go with the risk; both bounds at the end of the stream, each within alpha."""
    rng = np.random.default_rng(5)
    kinds, chances = np.array([[0.0, 8.0], [0.5, 4.0], [0.0, 3.0]]), np.array([0.5, 0.3, 0.2])
    risk = float(chances @ kinds[:, 0] / (chances @ kinds[:, 1]))
    outside = []
    for _ in range(400):
        drawn = kinds[rng.choice(3, 80, p=chances)]
        low, high = risk_bounds(drawn[:, 0], drawn[:, 1], 8, ALPHA)
        outside.append((low > risk, high < risk))
    limit = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 400)
    assert np.all(np.mean(outside, axis=0) <= limit)
    assert low > 0.02
    assert high < 0.25


def test_bets_are_fair_and_p_values_are_ranks():
    for kappa in POWERS:
        for power in (lambda p, k=kappa: k * p ** (k - 1), lambda p, k=kappa: k * (1 - p) ** (k - 1)):
            assert quad(power, 0, 1, limit=200)[0] == pytest.approx(1, abs=1e-6)
    assert all(0 < c < 1 for c in RISK_BETS)
    rng = np.random.default_rng(6)
    np.testing.assert_array_equal(np.ceil(3 * conformal_p_values(np.array([5.0]), np.array([1.0, 9.0]), rng)), [2])
    p_values = conformal_p_values(np.array([5.0, 4.0]), np.array([1.0]), rng)
    np.testing.assert_array_equal(np.ceil(p_values * [2, 3]), [1, 2])


def test_ranks_of_exchangeable_scores_are_uniform_by_enumeration():
    """Over all orders of four scores, two of them recorded, every pair of ranks comes equally often."""
    rng = np.random.default_rng(7)
    ranks = [
        tuple(np.ceil(conformal_p_values(np.array(order[2:]), np.array(order[:2]), rng) * [3, 4]).astype(int))
        for order in permutations([1.0, 2.0, 3.0, 4.0])
    ]
    assert sorted(ranks) == sorted(2 * [*product((1, 2, 3), (1, 2, 3, 4))])


@pytest.mark.parametrize(
    "call",
    [
        lambda: log_risk_e_values(np.array([0.5, 1.1]), 0.1),
        lambda: log_risk_e_values(np.array([-0.1]), 0.1),
        lambda: log_risk_e_values(np.array([np.nan]), 0.1),
        lambda: log_risk_e_values(np.zeros(3), 0.0),
        lambda: log_risk_e_values(np.zeros((2, 2)), 0.1),
        lambda: log_change_e_values(np.array([0.0])),
        lambda: risk_bounds(np.array([2.0]), np.array([1.0]), 4, ALPHA),
        lambda: risk_bounds(np.array([0.0]), np.array([5.0]), 4, ALPHA),
        lambda: risk_bounds(np.zeros(1), np.ones(1), 4, 0.0),
    ],
)
def test_what_is_out_of_range_is_refused(call):
    with pytest.raises(InputError):
        call()
