"""Softmax, sampling, total variation, rejection and the residual law."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from strategies import law, laws, logits, pairs

from cuhlm_opt.distributions import rejection_probability, residual_law, sample, softmax, total_variation

ROUNDING = 1e-12
"""Sums of up to 2000 float64 terms below 1 err by at most 2000 * 2^-53 = 2e-13."""


class Scripted:
    """A random generator that returns the uniforms it was given, and no more."""

    def __init__(self, *uniforms):
        self.left = list(uniforms)

    def random(self):
        return self.left.pop(0)


@given(logits(), st.floats(0.05, 5.0))
def test_softmax_matches_scipy(z, temperature):
    """softmax(z)_v = exp(z_v / T) / sum_w exp(z_w / T)."""
    p = softmax(z, temperature)
    # In float32 (z - max)/T is off by up to 2^-23 |z/T|; entries below e^-80 are held to be 0.
    tolerance = 2e-5 if z.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(
        p, special.softmax(z.astype(np.float64) / temperature), rtol=tolerance, atol=tolerance / 10
    )
    assert p.dtype == np.float64
    assert p.sum() == pytest.approx(1, abs=ROUNDING)


def test_softmax_takes_masked_logits_and_shifts():
    z = np.array([1.0, -np.inf, 2.0, 0.0])
    expected = np.array([np.e, 0, np.e**2, 1]) / (np.e + np.e**2 + 1)
    np.testing.assert_allclose(softmax(z), expected, rtol=1e-14)
    np.testing.assert_allclose(softmax(z + 1e4), expected, rtol=1e-11)  # 1e4 + z keeps 12 digits of z


def test_softmax_at_zero_temperature_is_the_first_largest_logit():
    assert softmax(np.array([1.0, 3.0, 3.0]), temperature=0).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.05, [0.5]), (0.5, [0.5]), (0.51, [0.5, 0.25]), (0.75, [0.5, 0.25]), (0.76, [0.5, 0.25, 0.25])],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, kept):
    p = softmax(np.log([0.25, 0.5, 0.25]) + 3, top_p=top_p)
    expected = np.array(kept + [0.0] * (3 - len(kept))) / sum(kept)
    np.testing.assert_allclose(p, expected[[1, 0, 2]], atol=1e-15)  # the tie goes to the lower token


@given(logits(300), st.floats(0.01, 0.999))
def test_top_p_matches_brute_force(z, top_p):
    """The kept tokens are the most likely ones; they reach top_p, and do not without the least of them."""
    p, full = softmax(z, top_p=top_p), softmax(z)
    kept = p > 0
    assert full[kept].sum() >= top_p - ROUNDING
    assert full[kept].min() >= full[~kept & (full > 0)].max(initial=0.0)
    assert full[kept].sum() - full[kept].min() < top_p + ROUNDING
    np.testing.assert_allclose(p[kept] / p.max(), full[kept] / full.max(), rtol=1e-13)


def test_sample_uses_one_uniform_by_inversion():
    """All midpoints of 20 cells hit each token exactly 20 p_v times."""
    p = law(3, 0, 7, 10, 0)
    tokens = [sample(p, Scripted((cell + 0.5) / 20)) for cell in range(20)]
    assert np.bincount(tokens, minlength=5).tolist() == [3, 0, 7, 10, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sample_never_names_an_impossible_token(dtype):
    p = np.array([0, 0.1, 0, 0.9, 0], dtype=dtype)
    assert sample(p, Scripted(0.0)) == 1
    assert sample(p, Scripted(1.0 - 2.0**-53)) == 3
    assert sample(p, Scripted(1.0)) == 3  # what rounding could make of the largest uniform


def test_sample_frequencies():
    """Chi-square over 15 cells; with a fixed seed p > 0.001 is a statement about one stream, and stays true."""
    rng = np.random.default_rng(20240501)
    p = law(*(1.0 / np.arange(1, 16)))
    counts = np.bincount([sample(p, rng) for _ in range(20_000)], minlength=15)
    assert stats.chisquare(counts, 20_000 * p).pvalue > 0.001
    assert stats.chisquare(counts, 20_000 * law(*(1.0 / np.arange(1, 16) ** 1.1))).pvalue < 1e-6


@given(pairs(6))
def test_total_variation_is_the_largest_difference_over_events(pair):
    """TV(p, q) = max_A p(A) - q(A)."""
    p, q = pair
    events = np.array(list(product([0, 1], repeat=len(p))))
    assert total_variation(p, q) == pytest.approx((events @ (p - q)).max(), abs=1e-14)
    assert total_variation(p, q) == total_variation(q, p)


@given(pairs())
def test_total_variation_of_disjoint_laws_is_one(pair):
    p, q = pair
    if not (p * q).any():
        assert total_variation(p, q) == pytest.approx(1, abs=ROUNDING)
    assert total_variation(p, p) == 0


@pytest.mark.parametrize(
    ("x", "y", "beta"),
    [(0.5, 0.25, 0.5), (0.5, 0.5, 0), (0.5, 0.75, 0), (0.5, 0, 1), (0, 0.5, 0), (0, 0, 1), (1e-310, 0.5, 0), (1, 0, 1)],
)
def test_rejection_probability(x, y, beta):
    """(1 - y/x)+; 1 where y = 0, whatever x; a denormal x does not overflow."""
    assert float(rejection_probability(x, y)) == beta
    assert rejection_probability(np.array([x, x]), np.array([y, y])).tolist() == [beta, beta]


@given(pairs())
def test_mean_rejection_is_total_variation(pair):
    """E_{d~x}[beta_d] = TV(x, y) [N, THEORY 4.1]."""
    x, y = pair
    assert x @ rejection_probability(x, y) == pytest.approx(total_variation(x, y), abs=ROUNDING)


@given(pairs())
def test_residual_law_makes_the_speculative_step_exact(pair):
    """x_v (1 - beta_v) + TV(x, y) norm((y - x)+)_v = y_v [P, speculative sampling]."""
    x, y = pair
    output = x * (1 - rejection_probability(x, y)) + total_variation(x, y) * residual_law(y, x)
    np.testing.assert_allclose(output, y, atol=ROUNDING)


@given(pairs())
def test_residual_law_is_a_law_on_the_tokens_that_x_gives_too_little(pair):
    x, y = pair
    residual = residual_law(y, x)
    assert residual.sum() == pytest.approx(1, abs=ROUNDING)
    assert not residual[y == 0].any()
    if (y > x).any():
        assert not residual[y <= x].any()


@given(laws())
def test_residual_law_falls_back_to_y(y):
    """(y - x)+ = 0 everywhere: nothing is left but y itself."""
    np.testing.assert_allclose(residual_law(y, y), y, atol=ROUNDING)
    np.testing.assert_allclose(residual_law(y, y + 1e-3), y, atol=ROUNDING)
