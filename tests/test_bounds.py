"""Theorems on one step as properties on hostile laws, and the counterexamples to what does not hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import pairs, pairs_of, skips_of

from cuhlm_opt.bounds import (
    published_surrogate,
    query_bias,
    skip_risk,
    smallest_within,
    truncation_bound,
    truncation_bound_true_draft,
)
from cuhlm_opt.distributions import rejection_probability, residual_law, total_variation
from cuhlm_opt.truncation import largest, reconstruct

TINY = 1e-9


@given(pairs())
def test_mean_rejection_is_total_variation(pair):
    """E_{d~x}[beta_d] = TV(x, y)."""
    x, y = pair
    assert float(x @ rejection_probability(x, y)) == pytest.approx(total_variation(x, y), abs=TINY)


@st.composite
def triples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, y, x_hat): two laws and any third one, not only a truncation."""
    size = draw(st.integers(1, 8))
    x, y = draw(pairs_of(size))
    return x, y, draw(pairs_of(size))[0]


@given(triples())
def test_residual_laws_are_close_where_the_laws_are(triple):
    """TV(norm(y-x)+, norm(y-x_hat)+) <= TV(x, x_hat) / max(R, R') where both residuals exist."""
    x, y, x_hat = triple
    r, r_hat = total_variation(x, y), total_variation(x_hat, y)
    if min(r, r_hat) > 1e-6:
        distance = total_variation(residual_law(y, x), residual_law(y, x_hat))
        assert distance <= total_variation(x, x_hat) / max(r, r_hat) + 1e-6


def output(x, y, tested, law):
    """Output law without skipping: accept by `tested`, redraw from the residual of `law`."""
    accepted = x * (1 - rejection_probability(tested, y))
    return accepted + (1 - accepted.sum()) * residual_law(y, law)


@given(triples())
def test_truncation_bounds(triple):
    """(A) TV(output, y) <= TV(x, x_hat); (B) TV(output, y) <= TV(x, x_hat) R / max(R, R') <= TV(x, x_hat)."""
    x, y, x_hat = triple
    distance = total_variation(x, x_hat)
    assert total_variation(output(x, y, x_hat, x_hat), y) <= truncation_bound(distance) + TINY
    r, r_hat = total_variation(x, y), total_variation(x_hat, y)
    finer = float(truncation_bound_true_draft(distance, r, r_hat))
    assert finer <= distance + TINY
    if r > 1e-6:
        assert total_variation(output(x, y, x, x_hat), y) <= finer + 1e-6


@given(st.integers(1, 8).flatmap(lambda size: st.tuples(pairs_of(size), skips_of(size))))
def test_query_costs_at_least_the_skip_risk_without_coins(case):
    """1/2 sum |s_v x_v - S y_v| >= sum s_v (x_v - y_v)+ for s_v in {0, 1}."""
    (x, y), coins = case
    skip = np.round(coins)
    assert query_bias(x, y, skip) >= skip_risk(x, y, skip) - TINY


def test_smallest_within_takes_the_first_feasible_and_else_the_last():
    assert smallest_within(np.array([0.5, 0.2, 0.3, 0.1]), 0.2) == 1
    assert smallest_within(np.array([0.5, 0.4]), 0.1) == 1
    assert smallest_within(np.array([[0.5, 0.1], [0.1, 0.0]]), 0.1).tolist() == [1, 0]


def test_surrogate_value_by_hand():
    """U = sum |x - x_hat| / [(1 - x_d) l(-1) + x_d l(-beta)], at x_d = 1/2, beta = 0, sum = 0.2."""
    denominator = 0.5 * np.log(1 + np.exp(-1)) + 0.5 * np.log(2)
    assert float(published_surrogate(0.1, 0.5, 0.0)) == pytest.approx(0.2 / denominator)
    eta = 3.0
    denominator = 0.5 * np.log(1 + np.exp(-eta)) / eta + 0.5 * np.log(1 + np.exp(-eta * 0.5)) / eta
    assert float(published_surrogate(0.1, 0.5, 0.5, eta)) == pytest.approx(0.2 / denominator)


def surrogate_failures(mix: float, draws: int = 2000) -> tuple[float, float]:
    """How often, and by which largest factor, the exact distance of the redraw laws passes U.

    Named law: |V| = 20, x and the noise Dirichlet(1), y = (1 - mix) x + mix noise, k = 5, d ~ x.
    """
    rng = np.random.default_rng(7)
    ratios = []
    for _ in range(draws):
        x, noise = rng.dirichlet(np.ones(20)), rng.dirichlet(np.ones(20))
        y = (1 - mix) * x + mix * noise
        kept = largest(x, 5)
        x_hat = reconstruct(kept, x[kept], 20)
        d = rng.choice(20, p=x)
        u = published_surrogate(total_variation(x, x_hat), x[d], rejection_probability(x, y)[d])
        ratios.append(total_variation(residual_law(y, x), residual_law(y, x_hat)) / float(u))
    return float(np.mean(np.array(ratios) > 1)), max(ratios)


def test_published_surrogate_is_not_a_bound():
    """It fails often where y is close to x, and rarely where the laws are independent."""
    close, factor = surrogate_failures(mix=0.1)
    independent, _ = surrogate_failures(mix=1.0)
    assert close > 0.3
    assert factor > 1.2
    assert independent < close / 3


def test_scaling_the_truncation_term_by_the_transmitted_mass_is_false():
    """Bias <= E[s beta] + (1 - S) TV(x, x_hat) fails where the gate reads the draft: a search finds a case."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(3000):
        size = int(rng.integers(2, 6))
        x, y = rng.dirichlet(np.full(size, 0.6)), rng.dirichlet(np.full(size, 0.6))
        kept = largest(x, 1)
        x_hat = reconstruct(kept, x[kept], size)
        skip = (rng.random(size) < 0.5).astype(float)
        accepted = x * (1 - skip) * (1 - rejection_probability(x, y))
        rejected = float(np.sum(x * (1 - skip) * rejection_probability(x, y)))
        bias = total_variation(x * skip + accepted + rejected * residual_law(y, x_hat), y)
        scaled = skip_risk(x, y, skip) + (1 - float(skip @ x)) * total_variation(x, x_hat)
        worst = max(worst, bias - scaled)
    assert worst > 0.01


def test_top_k_is_not_always_the_best_kept_set():
    """(.33, .33, .33, .01), k = 1: keeping the smallest entry is exact up to rounding, keeping a largest one is not."""
    x = np.array([0.33, 0.33, 0.33, 0.01])
    best = total_variation(x, reconstruct(np.array([3]), x[[3]], 4))
    top = total_variation(x, reconstruct(largest(x, 1), x[largest(x, 1)], 4))
    assert best < 1e-12
    assert top > 0.2


def test_crude_quantisation_breaks_monotonicity():
    """With entries rounded down to quarters, more kept entries can be further from x."""
    x = np.array([0.5, 0.24, 0.24, 0.02])
    distances = []
    for k in range(5):
        kept = largest(x, k)
        distances.append(total_variation(x, reconstruct(kept, np.floor(x[kept] * 4) / 4, 4)))
    assert np.any(np.diff(distances) > 0.01)
