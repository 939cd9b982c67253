"""The integral uncertainty against quadrature, the sampled one against the method that draws every token."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from strategies import logits

from cuhlm_opt.uncertainty import (
    SAMPLES,
    THETA_MAX,
    PerturbedLogits,
    ThetaConvention,
    mean_uncertainty,
    sampled_uncertainty,
    sampling_variance,
    slope_attenuation,
)

CLAIMED = 1e-3
"""Error whatever the logits."""
GROUPED = 1 / 256
"""Share of the partition function that groups of logits may take off it."""


def quadrature(z, tokens, theta_max=THETA_MAX):
    """u_bar by composite Gauss-Legendre over 48 octaves of theta, 24 nodes each: the integrand is smooth in log theta.

    Below theta_max 2^-48 the integrand is at most 1, so that at most 4e-15 are left out.
    """
    points, weights = np.polynomial.legendre.leggauss(24)
    z = z.astype(np.float64)
    agree = np.zeros(len(tokens))
    for octave in range(48):
        high = theta_max * 2.0**-octave
        thetas = 0.25 * high * (points + 1) + 0.5 * high
        p = special.softmax((z - z.max()) / thetas[:, None], axis=1)[:, tokens]
        agree += 0.25 * high * weights @ p
    return 1 - agree / theta_max


def every(z):
    return np.arange(len(z))


def test_quadrature_matches_mpmath():
    """The oracle of this file against adaptive quadrature in 30 digits, at a near-tie and at a plain law."""
    for z in ([0.0, -1e-3, -2.0], [1.5, 0.2, -0.7]):

        def agree(theta, z=z):
            return 1 / mpmath.fsum(mpmath.exp((value - z[0]) / theta) for value in z)

        with mpmath.workdps(30):
            integral = mpmath.quad(agree, [0, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 2])
        assert quadrature(np.array(z), [0])[0] == pytest.approx(1 - float(integral) / 2, abs=1e-9)


@settings(max_examples=40)
@given(logits())
def test_mean_uncertainty_matches_quadrature(z):
    """|u_bar - (1 - (1/theta_max) int softmax(z/theta)_v dtheta)| < 1e-3 [N, THEORY 4.2]."""
    tokens = np.argsort(-z, kind="stable")[:40]
    exact = quadrature(z, tokens)
    assert np.abs(mean_uncertainty(z, tokens) - exact).max() < CLAIMED
    if len(z) <= 512:  # no groups: what is left is the error of the quadrature
        assert np.abs(mean_uncertainty(z, tokens, nodes=128) - exact).max() < 1e-5


@pytest.mark.parametrize("rivals", [1, 10, 1000, 100_000])
def test_mean_uncertainty_at_near_ties(rivals):
    """Many rivals at one gap are the worst case of the quadrature: from 1 to 1/(1 + rivals) within a narrow range."""
    for gap in (0.0, 1e-6, 1e-3, 0.03, 0.2, 0.5, 1.0, 3.0, 8.0, 15.0, 23.0):
        z = np.concatenate([[0.0], np.full(rivals, -gap)])
        thetas = THETA_MAX * 2.0 ** -np.linspace(0, 48, 40_001)
        agree = 1 / (1 + rivals * np.exp(-gap / thetas))
        exact = 1 + np.trapezoid(agree, thetas) / THETA_MAX  # thetas decrease; second order, 1e-6 at this step
        token = np.array([0])
        assert mean_uncertainty(z, token)[0] == pytest.approx(exact, abs=2e-4)
        assert mean_uncertainty(z, token, nodes=128)[0] == pytest.approx(exact, abs=1.1e-5)
        assert mean_uncertainty(z.astype(np.float32), token)[0] == pytest.approx(exact, abs=2.1e-4)


@st.composite
def crowds(draw):
    """(gaps, counts) of crowds of tokens below the largest logit, up to |V| = 151 936 together, at any gaps."""
    gaps, counts, room = [0.0], [1], 151_935
    for _ in range(draw(st.integers(1, 8))):
        count = min(room, int(2 ** draw(st.floats(0, 17.3))))
        if count:
            gaps.append(draw(st.one_of(st.floats(0, 45), st.floats(0, 1), st.just(math.inf), st.just(1e4))))
            counts.append(count)
            room -= count
    return np.array(gaps), np.array(counts)


def crowd_quadrature(gaps, counts, own):
    """u_bar of a token at the gap `own`, as `quadrature` but with crowds of equal logits counted, not summed."""
    points, weights = np.polynomial.legendre.leggauss(24)
    agree = 0.0
    for octave in range(48):
        high = THETA_MAX * 2.0**-octave
        thetas = (0.25 * high * (points + 1) + 0.5 * high)[:, None]
        agree += 0.25 * high * weights @ (np.exp(-own / thetas[:, 0]) / (np.exp(-gaps / thetas) @ counts))
    return 1 - agree / THETA_MAX


@settings(max_examples=60)
@given(crowds(), st.integers(0, 2**32 - 1))
def test_mean_uncertainty_of_crowds(crowd, seed):
    """Crowds of 1 to 151 935 near-ties at any gap, float32: spikes, flat laws, huge ranges, -inf."""
    gaps, counts = crowd
    rng = np.random.default_rng(seed)
    z = np.float32(rng.normal()) - rng.permutation(np.repeat(gaps, counts)).astype(np.float32)
    own = z.max() - z
    tokens = np.array([int(np.argmax(z)), int(rng.integers(len(z)))])
    exact = [crowd_quadrature(gaps, counts, float(own[token])) for token in tokens]
    assert mean_uncertainty(z, tokens) == pytest.approx(np.array(exact), abs=CLAIMED)


def test_mean_uncertainty_of_a_large_heavy_tailed_law():
    """|V| = 151 936, float32, Zipf logits with noise: the head and some of the tail, against every entry one by one."""
    rng = np.random.default_rng(8)
    z = (-1.1 * np.log(np.arange(1, 151_937)) + rng.normal(size=151_936)).astype(np.float32)
    tokens = np.append(np.argsort(-z)[:8], [1000, 150_000])
    points, weights = np.polynomial.legendre.leggauss(48)
    roots = 0.5 * (points + 1)
    p = np.array([special.softmax(z.astype(np.float64) / (THETA_MAX * root**2))[tokens] for root in roots])
    exact = 1 - weights * roots @ p
    assert mean_uncertainty(z, tokens) == pytest.approx(exact, abs=1e-5)  # no near-tie here: far below the claim


@pytest.mark.parametrize("size", [1, 2, 5])
def test_equal_logits(size):
    """Softmax is flat at every temperature: u_bar = 1 - 1/|V|."""
    assert mean_uncertainty(np.full(size, 3.7), every(np.zeros(size))) == pytest.approx(1 - 1 / size, abs=1e-14)


def test_a_certain_token_has_no_uncertainty():
    z = np.array([0.0, 500.0, -np.inf])
    assert mean_uncertainty(z, every(z)) == pytest.approx([1, 0, 1], abs=1e-12)


@pytest.mark.parametrize("theta_max", [0.5, 2.0, 30.0])
def test_theta_max(theta_max):
    """u_bar depends on z/theta_max alone; entries hundreds of nats below the top count where theta is large."""
    z = np.linspace(0, -300, 400) * theta_max / 30
    assert mean_uncertainty(z, every(z), theta_max) == pytest.approx(quadrature(z, every(z), theta_max), abs=1e-5)
    assert mean_uncertainty(z, every(z), theta_max) == pytest.approx(
        mean_uncertainty(z / theta_max, every(z), 1.0), abs=1e-6
    )


@given(logits())
def test_agreements_sum_to_one(z):
    """sum_v (1 - u_bar_v) = 1, so at most floor(1/(1-t)) tokens have u_bar <= t, the likeliest ones [N, THEORY 4.2]."""
    u_bar = mean_uncertainty(z, every(z))
    rounding = 2e-5  # float32 exponentials of up to 2000 entries
    assert -rounding <= np.sum(1 - u_bar) - 1 <= GROUPED / (1 - GROUPED) + rounding  # F is not overestimated
    assert (u_bar > -1e-12).all()
    assert (u_bar < 1 + 1e-12).all()
    for t in (0.1, 0.499, 0.5, 0.6, 0.7, 0.9, 0.99):
        skippable = np.flatnonzero(u_bar <= t - 4e-3)
        assert len(skippable) <= math.floor(1 / (1 - t))
        if t < 0.5:
            assert skippable.tolist() in ([], [int(np.argmax(z))])


@given(logits(300))
def test_likelier_tokens_are_less_uncertain(z):
    u_bar = mean_uncertainty(z, every(z))
    assert (np.diff(u_bar[np.argsort(-z, kind="stable")]) >= -1e-12).all()


@given(logits(), st.floats(1e-3, 30.0))
def test_groups_keep_the_partition_function(z, theta):
    """(1 - 1/256) F <= sum over groups <= F, all entries counted."""
    perturbed = PerturbedLogits(z)
    gaps = z.max() - z
    exact = np.sum(np.exp(-gaps.astype(np.float64) / theta))
    grouped = np.exp(perturbed.values.astype(np.float64) / theta) @ perturbed.counts
    assert perturbed.counts.sum() == len(z)
    # Means of float32 are off by 1e-7 of themselves, which a small theta magnifies; far below the top that is nothing.
    assert (1 - GROUPED - 1e-5) * exact <= grouped <= (1 + 1e-5) * exact


@pytest.mark.parametrize("size", [1, 511, 512, 513, 514, 5000, 151_936])
def test_groups_of_rank(size):
    """The 512 largest singly; every other group within 1/256 of the entries above it."""
    perturbed = PerturbedLogits(np.arange(size, dtype=np.float64))
    assert perturbed.counts.sum() == size
    assert (perturbed.counts[-512:] == 1).all()
    above = size - np.cumsum(perturbed.counts)
    assert (perturbed.counts[:-512] <= GROUPED * above[: len(perturbed.counts) - 512 if size > 512 else 0]).all()
    assert perturbed.values @ perturbed.counts == pytest.approx(-size * (size - 1) / 2, rel=1e-12)


def test_probabilities_at_any_temperature():
    z = np.array([1.0, 0.0, -1.0])
    p = PerturbedLogits(z).probabilities(np.array([2, 0]), np.array([0.0, 0.5, 2.0]))
    assert p[0].tolist() == [0, 1]
    np.testing.assert_allclose(p[1], special.softmax(z / 0.5)[[2, 0]], rtol=1e-12)
    np.testing.assert_allclose(p[2], special.softmax(z / 2.0)[[2, 0]], rtol=1e-12)


def test_conventions():
    """Uniform on (0, theta_max]; theta_max (m-1)/(M-1); uniform on (0.05, theta_max] [P2, THEORY 2.2]."""
    rng = np.random.default_rng(0)
    n = 20_000
    for convention, low in ((ThetaConvention.UNIFORM, 0.0), (ThetaConvention.UNIFORM_FROM_0_05, 0.05)):
        thetas = convention.temperatures(n, 2.0, rng)
        assert low < thetas.min() < low + 0.01
        assert 1.99 < thetas.max() <= 2.0
        spread = (2.0 - low) / math.sqrt(12)
        assert thetas.mean() == pytest.approx((2 + low) / 2, abs=4 * spread / math.sqrt(n))
        assert thetas.std() == pytest.approx(spread, rel=0.02)  # its relative standard error is 0.0032
    grid = ThetaConvention.GRID.temperatures(5, 2.0, rng)
    assert grid.tolist() == [0, 0.5, 1.0, 1.5, 2.0]


def direct_uncertainty(z, draft, convention, runs, rng):
    """As published: draw M tokens, each from softmax(z/theta_m), and count those that differ from the draft."""
    u = np.empty(runs)
    for run in range(runs):
        thetas = convention.temperatures(SAMPLES, THETA_MAX, rng)
        laws = np.array([special.softmax(z / t) if t > 0 else np.eye(len(z))[np.argmax(z)] for t in thetas])
        draws = (laws.cumsum(axis=1) < rng.random(SAMPLES)[:, None]).sum(axis=1)
        u[run] = np.mean(draws != draft)
    return u


def exact_moments(z, draft, convention):
    """Mean and variance of u: a sum of M independent coins, of one law if theta is drawn, of M laws on the grid."""
    if convention is ThetaConvention.GRID:
        thetas = np.linspace(0, THETA_MAX, SAMPLES)[1:]
        differ = np.append(1 - special.softmax(z / thetas[:, None], axis=1)[:, draft], float(draft != np.argmax(z)))
        return differ.mean(), np.sum(differ * (1 - differ)) / SAMPLES**2
    low = 0.05 if convention is ThetaConvention.UNIFORM_FROM_0_05 else 0.0
    whole = THETA_MAX * (1 - quadrature(z, [draft])[0])
    below = low * (1 - quadrature(z, [draft], low)[0]) if low else 0.0
    mean = 1 - (whole - below) / (THETA_MAX - low)
    return mean, float(sampling_variance(mean))


@pytest.mark.parametrize("convention", ThetaConvention)
@pytest.mark.parametrize("draft", [0, 1])
def test_sampled_uncertainty_has_the_law_of_the_direct_method(convention, draft):
    """Mean and variance of both, against their closed forms, within 4.5 standard errors of the simulation."""
    z = np.array([1.0, 0.7, 0.0, -1.0, -1.0])
    rng = np.random.default_rng(31)
    mean, variance = exact_moments(z, draft, convention)
    by_coins = np.array([sampled_uncertainty(z, draft, rng, convention=convention) for _ in range(3000)])
    for u in (by_coins, direct_uncertainty(z, draft, convention, 800, rng)):
        assert np.abs(u * SAMPLES - np.round(u * SAMPLES)).max() < 1e-12
        n = len(u)
        assert u.mean() == pytest.approx(mean, abs=4.5 * math.sqrt(variance / n))
        # Var of a sample variance: (mu_4 - sigma^4)/n, with mu_4 at most 3 sigma^4 up to 1/M for sums of coins.
        assert u.var() == pytest.approx(variance, rel=4.5 * math.sqrt(2.2 / n))


def test_conventions_differ():
    """The same logits, other means: the convention is part of a calibration's provenance [THEORY 2.2]."""
    means = [exact_moments(np.array([1.0, 0.7, 0.0]), 0, convention)[0] for convention in ThetaConvention]
    assert min(abs(p - q) for i, p in enumerate(means) for q in means[:i]) > 0.003


def test_sampling_variance():
    """u_bar (1 - u_bar)/M: the standard error reaches 0.11 at M = 20 [N, THEORY 3, 4.2]."""
    assert sampling_variance(np.array([0.0, 0.5, 1.0]), 10).tolist() == [0, 0.025, 0]
    assert math.sqrt(sampling_variance(0.5)) == pytest.approx(0.1118, abs=1e-4)


def test_slope_attenuation():
    """u_bar = (.2, .4): Var 0.01, E[u(1-u)] = 0.2, M = 20: 0.01/(0.01 + 0.01)."""
    assert slope_attenuation(np.array([0.2, 0.4])) == pytest.approx(0.5, rel=1e-14)
    assert slope_attenuation(np.array([0.2, 0.4]), samples=60) == pytest.approx(0.75, rel=1e-14)
    assert slope_attenuation(np.array([0.0, 0.0])) == 1.0
    assert slope_attenuation(np.array([0.3, 0.3])) == 0.0


def test_noise_attenuates_the_slope():
    """The least-squares slope on sampled u is lambda times that on u_bar [N, THEORY 4.2]."""
    rng = np.random.default_rng(4)
    u_bar = rng.beta(1, 2, size=40_000)
    beta = 0.8 * u_bar + 0.1
    u = rng.binomial(SAMPLES, u_bar) / SAMPLES
    slope = np.polyfit(u, beta, 1)[0]
    residual = beta - np.polyval(np.polyfit(u, beta, 1), u)
    error = residual.std() / (u.std() * math.sqrt(len(u)))
    assert slope == pytest.approx(0.8 * slope_attenuation(u_bar), abs=4.5 * error)


@given(st.integers(0, 2**32 - 1))
def test_the_same_seed_gives_the_same_uncertainty(seed):
    z = np.array([1.0, 0.5, 0.0])
    first, second = (sampled_uncertainty(z, 1, np.random.default_rng(seed)) for _ in range(2))
    assert first == second
