"""Each bound on laws of any size; the modes themselves are enumerated in test_exact_laws.py."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import law, laws_of, pairs, skips_of

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

ROUNDING = 1e-12


@st.composite
def steps(draw):
    """(x, y, s, x_hat): a pair of laws, a skip rule, and x truncated to k entries or any other law fixed before d."""
    x, y = draw(pairs())
    if draw(st.booleans()):
        kept = largest(x, draw(st.integers(0, len(x))))
        x_hat = reconstruct(kept, x[kept], len(x))
    else:
        x_hat = draw(laws_of(len(x)))
    return x, y, draw(skips_of(len(x))), x_hat


def output(x, y, skip, tested, redraw):
    """Law of the step, in closed form: kept drafts, accepted drafts, and what is redrawn."""
    beta = rejection_probability(tested, y)
    return x * skip + x * (1 - skip) * (1 - beta) + np.sum(x * (1 - skip) * beta) * redraw


@given(steps())
def test_skip_risk_identity(step):
    """TV(output, y) = E_{d~x}[s_d beta_d] under exact verification of the drafts that are not kept [N, THEORY 4.3]."""
    x, y, skip, _ = step
    bias = total_variation(output(x, y, skip, x, residual_law(y, x)), y)
    assert bias == pytest.approx(skip_risk(x, y, skip), abs=ROUNDING)
    assert bias == pytest.approx(np.sum(x * skip * rejection_probability(x, y)), abs=ROUNDING)


def test_skip_risk_by_hand():
    """X = (.6, .3, .1), y = (.2, .3, .5): beta = (2/3, 0, 0), so keeping token 0 half of the time costs 0.2."""
    x, y = law(6, 3, 1), law(2, 3, 5)
    assert skip_risk(x, y, np.array([0.5, 1, 1])) == pytest.approx(0.2, abs=1e-15)
    assert skip_risk(x, y, np.zeros(3)) == 0
    assert skip_risk(x, y, np.ones(3)) == pytest.approx(total_variation(x, y), abs=1e-15)


@given(steps())
def test_query_bias_identity(step):
    """TV(s x + (1 - S) y, y) = 1/2 sum_v |s_v x_v - S y_v|; at least the skip risk for a certain gate [N, THEORY 3]."""
    x, y, skip, _ = step
    bias = total_variation(skip * x + (1 - np.sum(skip * x)) * y, y)
    assert query_bias(x, y, skip) == pytest.approx(bias, abs=ROUNDING)
    certain = np.round(skip)
    assert query_bias(x, y, certain) >= skip_risk(x, y, certain) - ROUNDING


@given(steps())
def test_truncation_bound_a(step):
    """The server runs the whole step with x_hat: TV(output, y) <= TV(x, x_hat), by data processing [N, THEORY 4.4]."""
    x, y, _, x_hat = step
    bias = total_variation(output(x, y, np.zeros(len(x)), x_hat, residual_law(y, x_hat)), y)
    assert bias <= float(truncation_bound(total_variation(x, x_hat))) + ROUNDING


@given(steps())
def test_truncation_bound_b(step):
    """Tested with the true x_d: TV(output, y) <= TV(x, x_hat) R / max(R, R') [N, THEORY 4.4]."""
    x, y, _, x_hat = step
    bias = total_variation(output(x, y, np.zeros(len(x)), x, residual_law(y, x_hat)), y)
    r, r_hat = total_variation(x, y), total_variation(x_hat, y)
    bound = float(truncation_bound_true_draft(total_variation(x, x_hat), r, r_hat))
    assert bias <= bound + ROUNDING
    assert bound <= float(truncation_bound(total_variation(x, x_hat))) + ROUNDING


def test_truncation_bounds_are_met_with_equality():
    """(A), (B): y refuses the one draft that x_hat gets wrong, and redraws it where y does not want it."""
    x, y, x_hat = law(6, 4, 0), law(2, 0, 1), np.full(3, 1 / 3)
    nothing = np.zeros(3)
    lost, r, r_hat = total_variation(x, x_hat), total_variation(x, y), total_variation(x_hat, y)
    by_draft = total_variation(output(x, y, nothing, x, residual_law(y, x_hat)), y)
    assert by_draft == pytest.approx(float(truncation_bound_true_draft(lost, r, r_hat)), abs=1e-15)
    whole = total_variation(output(x, y, nothing, x_hat, residual_law(y, x_hat)), y)
    assert whole == pytest.approx(float(truncation_bound(lost)), abs=1e-15)


def test_bound_b_by_hand():
    assert truncation_bound_true_draft(0.3, 0.2, 0.4) == pytest.approx(0.15, abs=1e-15)
    assert truncation_bound_true_draft(0.3, 0.4, 0.2) == pytest.approx(0.3, abs=1e-15)
    assert truncation_bound_true_draft(np.array([0.3, 0.3]), 0.0, np.array([0.0, 0.2])).tolist() == [0, 0]


@given(steps())
def test_lemma_of_the_redraws(step):
    """TV(norm(y-x)+, norm(y-x_hat)+) <= TV(x, x_hat) / max(R, R') [N, THEORY 4.4], where both residuals exist."""
    x, y, _, x_hat = step
    r, r_hat = total_variation(x, y), total_variation(x_hat, y)
    if min(r, r_hat) > 1e-9:
        # A residual is known to 1e-16 |V| of the mass before it is normalised by R or R'.
        slack = ROUNDING / min(r, r_hat)
        redraws = total_variation(residual_law(y, x), residual_law(y, x_hat))
        assert redraws <= total_variation(x, x_hat) / max(r, r_hat) + slack


@given(steps())
def test_skipping_and_truncation_together(step):
    """TV(output, y) <= E[s beta] + TV(x, x_hat) E[(1-s) beta] / max(R, R') <= E[s beta] + TV(x, x_hat) [N, 4.5]."""
    x, y, skip, x_hat = step
    lost, r, r_hat = total_variation(x, x_hat), total_variation(x, y), total_variation(x_hat, y)
    risk = skip_risk(x, y, skip)
    published = total_variation(output(x, y, skip, x, residual_law(y, x_hat)), y)
    asked = r - risk
    finer = lost * asked / max(r, r_hat) if r > 0 else 0.0
    assert published <= risk + finer + ROUNDING
    assert finer <= lost + ROUNDING
    whole = total_variation(output(x, y, skip, x_hat, residual_law(y, x_hat)), y)
    assert whole <= risk + lost + ROUNDING


@pytest.mark.parametrize(
    ("distance", "x_d", "beta", "eta", "surrogate"),
    [
        (0.5, 0.0, 0.3, 1, 1 / math.log(1 + math.exp(-1))),
        (0.5, 1.0, 0.0, 1, 1 / math.log(2)),
        (0.5, 1.0, 1.0, 1, 1 / math.log(1 + math.exp(-1))),
        (0.1, 0.25, 0.6, 1, 0.2 / (0.75 * math.log(1 + math.exp(-1)) + 0.25 * math.log(1 + math.exp(-0.6)))),
        (0.1, 0.25, 0.6, 3, 0.6 / (0.75 * math.log(1 + math.exp(-3)) + 0.25 * math.log(1 + math.exp(-1.8)))),
        (0.0, 0.25, 0.6, 1, 0.0),
    ],
)
def test_published_surrogate(distance, x_d, beta, eta, surrogate):
    """U = sum |x - x_hat| / [(1 - x_d) l(-1) + x_d l(-beta_d)], l(z) = ln(1 + e^(eta z))/eta [P2, THEORY 2.7]."""
    assert published_surrogate(distance, x_d, beta, eta) == pytest.approx(surrogate, rel=1e-14)


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=5), st.floats(0, 1))
def test_smallest_within(rows, tolerance):
    """The first feasible index of each row; the last one where none is."""
    expected = [next((i for i, value in enumerate(row) if value <= tolerance), 3) for row in rows]
    assert smallest_within(np.array(rows), tolerance).tolist() == expected
    assert int(smallest_within(np.array(rows[0]), tolerance)) == expected[0]
