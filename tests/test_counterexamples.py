"""Statements that look true and are not, each with the laws that refute it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import law, pairs

from cuhlm_opt.bounds import published_surrogate, query_bias, skip_risk
from cuhlm_opt.correlation import fit_linear
from cuhlm_opt.distributions import rejection_probability, residual_law, sample, total_variation
from cuhlm_opt.truncation import largest, reconstruct
from cuhlm_opt.verification import Proposal

DRAWS = 600


def zipf(rng, size=6):
    return law(*(np.arange(1, size + 1) ** -1.2 * rng.exponential(size=size)))


def flat_dirichlet(rng, size=100):
    return rng.dirichlet(np.ones(size))


def excess_over_surrogate(draw, k, seed):
    """TV(norm(y-x)+, norm(y-x_hat)+) / U over random laws and drafts: above 1 the published surrogate is no bound."""
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(DRAWS):
        x, y = draw(rng)
        kept = largest(x, k)
        x_hat = reconstruct(kept, x[kept], len(x))
        d = sample(x, rng)
        surrogate = published_surrogate(total_variation(x, x_hat), x[d], rejection_probability(x[d], y[d]))
        ratios.append(total_variation(residual_law(y, x), residual_law(y, x_hat)) / float(surrogate))
    return np.array(ratios)


def near(x, noise):
    return x, 0.9 * x + 0.1 * noise


def test_surrogate_is_no_bound_where_y_is_close_to_x():
    """Y = 0.9 x + 0.1 noise, Zipf laws over 6 tokens, k = 2: it fails at most positions, by more than 10 at some.

    R = TV(x, y) is then at most 0.1, while the surrogate divides by no less than ln(1 + 1/e) / 2 = 0.16. A share over
    600 draws has a standard error of at most 0.0205; 0.6 lies ten of them below the share found, 0.83.
    """
    ratios = excess_over_surrogate(lambda rng: near(zipf(rng), zipf(rng)), k=2, seed=1)
    assert 0.6 < np.mean(ratios > 1) < 0.95
    assert ratios.max() > 10


def test_surrogate_holds_between_independent_flat_laws():
    """Dirichlet(1) laws over 100 tokens: R is 1/2 within 0.05, above ln(2)/2, so that the lemma makes it a bound."""
    ratios = excess_over_surrogate(lambda rng: (flat_dirichlet(rng), flat_dirichlet(rng)), k=50, seed=2)
    assert ratios.max() <= 1


def test_surrogate_fails_now_and_then_between_independent_zipf_laws():
    """Over 6 tokens R falls below ln(2)/2 now and then: some draws in a hundred fail (0.037 of 2000, error 0.004)."""
    ratios = excess_over_surrogate(lambda rng: (zipf(rng), zipf(rng)), k=2, seed=3)
    assert 0.005 < np.mean(ratios > 1) < 0.09


@given(pairs(8), st.data())
def test_surrogate_is_a_bound_where_y_is_far_from_x(pair, data):
    """Its denominator is at most ln 2, so with max(R, R') >= ln(2)/2 the lemma of 4.4 gives TV(redraws) <= U."""
    x, y = pair
    kept = largest(x, data.draw(st.integers(0, len(x))))
    x_hat = reconstruct(kept, x[kept], len(x))
    if max(total_variation(x, y), total_variation(x_hat, y)) >= math.log(2) / 2:
        redraws = total_variation(residual_law(y, x), residual_law(y, x_hat))
        surrogates = published_surrogate(total_variation(x, x_hat), x, rejection_probability(x, y))
        assert (redraws <= surrogates + 1e-12).all()


def test_skipping_makes_query_inexact():
    """The server draws from y itself; still the output is not y, and further from it than with exact verification.

    x = (.9, .1), y = (.5, .5), the argmax is skipped: the output is (.95, .05), against (.9, .1) with verification.
    """
    x, y, skip = law(9, 1), law(1, 1), np.array([1.0, 0.0])
    assert query_bias(x, y, skip) == pytest.approx(0.45, abs=1e-15)
    assert skip_risk(x, y, skip) == pytest.approx(0.4, abs=1e-15)


def test_query_with_coins_that_read_the_draft_can_be_better_than_verification():
    """The order of `query` and the skip risk holds for certain gates only: here they are 0 and 1/12."""
    x, y, skip = law(1, 1), law(1, 2), np.array([0.5, 1.0])
    assert query_bias(x, y, skip) == pytest.approx(0, abs=1e-15)
    assert skip_risk(x, y, skip) == pytest.approx(1 / 12, abs=1e-15)


def test_a_size_that_depends_on_the_draft_escapes_the_mean_distance():
    """X = (1/2, 1/2, 0), y = (1/2, 0, 1/2), k(0) = 3, k(1) = 0: bias 1/4, E_d[TV(x, x_hat_{k(d)})] = 1/6."""
    x, y = law(1, 1, 0), law(1, 0, 1)
    rebuilt = {0: x, 1: np.full(3, 1 / 3)}
    output = sum(x[d] * Proposal(draft=d, tested=x[d], law=rebuilt[d]).verify(y).law() for d in (0, 1))
    assert total_variation(output, y) == pytest.approx(1 / 4, abs=1e-15)
    assert sum(x[d] * total_variation(x, rebuilt[d]) for d in (0, 1)) == pytest.approx(1 / 6, abs=1e-15)


def test_the_truncation_term_does_not_scale_with_the_transmitted_mass():
    """E[s beta] + (1 - S) TV(x, x_hat) is no bound: the asked drafts are the risky ones.

    x = (.6, .4, 0), y = (2/3, 0, 1/3), token 0 is skipped, k = 0: every asked draft is refused and redrawn as token 0.
    The output is (1, 0, 0), at 1/3 from y; the claim is 0 + 0.4/3. The proved factor E[(1-s) beta]/max(R, R') is 1.
    """
    x, y, skip = law(6, 4, 0), law(2, 0, 1), np.array([1.0, 0.0, 0.0])
    x_hat = np.full(3, 1 / 3)
    output = np.array([0.6, 0, 0]) + 0.4 * Proposal(draft=1, tested=x[1], law=x_hat).verify(y).law()
    lost = total_variation(x, x_hat)
    assert total_variation(output, y) == pytest.approx(1 / 3, abs=1e-15)
    assert skip_risk(x, y, skip) + (1 - 0.6) * lost == pytest.approx(0.4 / 3, abs=1e-15)
    factor = 0.4 / max(total_variation(x, y), total_variation(x_hat, y))
    assert skip_risk(x, y, skip) + lost * factor == pytest.approx(1 / 3, abs=1e-15)


def test_the_largest_entries_are_not_always_the_best_kept_set():
    """(.33, .33, .33, .01), k = 1: keeping .01 leaves an even tail and loses nothing; a largest entry costs 0.2133."""
    x = law(33, 33, 33, 1)
    lost = [total_variation(x, reconstruct(np.array([kept]), x[[kept]], 4)) for kept in range(4)]
    assert largest(x, 1).tolist() == [0]
    assert lost[0] == pytest.approx(0.67 / 3 - 0.01, abs=1e-15)  # the tail's mean less its one small entry
    assert lost[3] == pytest.approx(0, abs=1e-15)


def test_truncation_is_not_monotone_after_crude_quantisation():
    """Two bits a probability, steps of 1/4: x = (.6, .14, .13, .13) costs 0.1 with one entry sent and 0.11 with two."""
    x = law(60, 14, 13, 13)
    coded = np.round(4 * x) / 4  # .5, .25, .25, .25
    lost = [total_variation(x, reconstruct(np.arange(k), coded[:k], 4)) for k in (1, 2)]
    assert lost == pytest.approx([0.1, 0.11], abs=1e-15)


def test_quantised_masses_can_exceed_one():
    """The kept masses are then no part of a law: the server's rest is cut at 0, and x_hat sums to more than 1."""
    coded = np.round(4 * law(60, 14, 13, 13)) / 4
    assert coded.sum() == 1.25
    assert reconstruct(np.arange(4), coded, 4).sum() == 1.25


def test_binned_correlation_is_not_always_larger():
    """Bins count alike however few tokens they hold: one odd token in a bin of its own undoes a strong correlation."""
    u = np.concatenate([np.repeat([0.02, 0.32, 0.62], 100), [0.97]])
    beta = np.concatenate([np.repeat([0.1, 0.4, 0.7], 100), [0.0]])
    fit = fit_linear(u, beta, np.arange(len(u)))
    assert fit.r > 0.95
    assert abs(fit.r_binned) < 0.3
