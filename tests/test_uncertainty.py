"""Uncertainty by temperature perturbation: the integral, the sampled law, and what follows from them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from scipy.integrate import quad
from strategies import logits

from cuhlm_opt.uncertainty import (
    ThetaConvention,
    compress_logits,
    mean_uncertainty,
    perturbed_probabilities,
    sampled_uncertainty,
    sampling_variance,
    slope_attenuation,
)


def reference(z: np.ndarray, token: int, theta_max: float = 2.0) -> float:
    """u_bar by adaptive quadrature on all |V| entries, split where near-ties make the integrand steep."""
    gaps = z.astype(float) - float(z.max())

    def agreement(theta: float) -> float:
        scaled = gaps / max(theta, 1e-12)
        return float(np.exp(scaled[token]) / np.exp(scaled).sum())

    cuts = [0.0, 1e-6, 1e-4, 1e-2, 0.1, 0.5, theta_max]
    return 1 - sum(quad(agreement, a, b, limit=200)[0] for a, b in itertools.pairwise(cuts)) / theta_max


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("scale", [0.3, 3.0, 12.0])
def test_integral_is_within_1e_3_of_quadrature(seed, scale):
    """u_bar_v = 1 - (1/theta_max) int softmax(z/theta)_v dtheta; 32 nodes below 1e-3, 128 below 1e-5."""
    z = scale * np.random.default_rng(seed).normal(size=300)
    tokens = np.argsort(-z)[:4]
    expected = [reference(z, int(token)) for token in tokens]
    np.testing.assert_allclose(mean_uncertainty(z, tokens), expected, atol=1e-3)
    np.testing.assert_allclose(mean_uncertainty(z, tokens, nodes=128), expected, atol=2e-5)


@pytest.mark.parametrize("gap", [0.0, 1e-6, 1e-3, 1e-2, 0.1])
def test_near_ties_are_within_1e_3(gap):
    z = np.concatenate([[5.0, 5.0 - gap], np.zeros(50)])
    np.testing.assert_allclose(mean_uncertainty(z, np.array([0])), [reference(z, 0)], atol=1e-3)


def test_large_heavy_tailed_vocabulary():
    rng = np.random.default_rng(0)
    z = rng.permutation(-1.3 * np.log(np.arange(1, 151_937)) + 0.3 * rng.normal(size=151_936)).astype(np.float32)
    top = np.argsort(-z)[:2]
    assert abs(mean_uncertainty(z, top)[0] - reference(z, int(top[0]))) < 1e-3


@given(logits())
def test_agreements_sum_to_one(z):
    """sum_v (1 - u_bar_v) = 1."""
    agreement = 1 - mean_uncertainty(z, np.arange(len(z)))
    assert agreement.sum() == pytest.approx(1, abs=1e-4)


@given(logits())
def test_few_tokens_are_skippable(z):
    """At most floor(1/(1-t)) tokens have u_bar <= t; below 1/2 it is the argmax."""
    u_bar = mean_uncertainty(z, np.arange(len(z)))
    for t in (0.2, 0.45, 0.6, 0.8):
        assert np.count_nonzero(u_bar <= t) <= np.floor(1 / (1 - t)) + 1e-9
    assert set(np.flatnonzero(u_bar <= 0.499)) <= {int(np.argmax(z))}


@given(logits())
def test_uncertainty_falls_with_the_logit(z):
    """A larger logit has a larger probability at every temperature: the top tokens of x are those of u_bar."""
    u_bar = mean_uncertainty(z, np.argsort(-z, kind="stable"))
    assert np.all(np.diff(u_bar) >= -1e-12)


def test_compressed_logits_keep_every_entry_within_range():
    z = np.random.default_rng(0).normal(size=5000) * 4
    values, counts = compress_logits(z)
    assert counts.sum() == np.count_nonzero(z.max() - z < 80)
    for theta in (0.3, 1.0, 2.0):
        exact = np.exp((z - z.max()) / theta).sum()
        assert np.exp(values / theta) @ counts == pytest.approx(exact, rel=1e-4)


def direct(z: np.ndarray, draft: int, thetas: np.ndarray, rng: np.random.Generator) -> float:
    """The published way: draw a token from each perturbed law and count the disagreements."""
    drawn = []
    for theta in thetas:
        if theta == 0:
            drawn.append(int(np.argmax(z)))
            continue
        weights = np.exp((z - z.max()) / theta)
        drawn.append(int(rng.choice(len(z), p=weights / weights.sum())))
    return float(np.mean(np.array(drawn) != draft))


@pytest.mark.parametrize("convention", list(ThetaConvention))
def test_sampled_uncertainty_has_the_law_of_drawing_tokens(convention):
    """Mean and variance equal those of M drawn tokens, within 4 standard errors."""
    z, n, m = np.array([2.0, 1.5, 0.0, -1.0]), 3000, 20
    rng = np.random.default_rng(1)
    coins = np.array([sampled_uncertainty(z, 0, rng, m, 2.0, convention) for _ in range(n)])
    drawn = np.array([direct(z, 0, convention.temperatures(m, 2.0, rng), rng) for _ in range(n)])
    spread = np.sqrt((coins.var() + drawn.var()) / n)
    assert abs(coins.mean() - drawn.mean()) < 4 * spread
    assert abs(coins.var() - drawn.var()) < 4 * coins.var() * np.sqrt(4 / n)
    assert set(np.round(coins * m, 9)) <= set(range(m + 1))


def test_mean_and_variance_for_uniform_temperatures():
    """E[u] = u_bar and Var(u) = u_bar (1 - u_bar)/M for independent uniform temperatures."""
    z, n = np.array([1.0, 0.5, 0.0]), 20_000
    rng = np.random.default_rng(2)
    u = np.array([sampled_uncertainty(z, 0, rng) for _ in range(n)])
    u_bar = float(mean_uncertainty(z, np.array([0]), nodes=128)[0])
    variance = float(sampling_variance(u_bar))
    assert abs(u.mean() - u_bar) < 4 * np.sqrt(variance / n)
    assert abs(u.var() - variance) < 4 * variance * np.sqrt(2 / n)


def test_grid_convention_starts_at_the_argmax():
    thetas = ThetaConvention.GRID.temperatures(5, 2.0, np.random.default_rng(0))
    assert thetas.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    z = np.array([0.0, 1.0])
    np.testing.assert_array_equal(perturbed_probabilities(z, np.array([0, 1]), np.array([0.0])), [[0.0, 1.0]])


def test_noise_attenuates_the_slope_by_the_stated_factor():
    """Regressing on u instead of u_bar multiplies the slope by lambda."""
    rng = np.random.default_rng(3)
    u_bar = rng.beta(0.7, 1.2, size=200_000)
    u = rng.binomial(20, u_bar) / 20
    beta = 0.6 * u_bar
    slope = np.cov(u, beta)[0, 1] / u.var()
    assert slope / 0.6 == pytest.approx(slope_attenuation(u_bar), abs=0.005)
    assert slope_attenuation(u_bar) < 0.95
