"""Certificates: their inequalities by exact enumeration, their coverage on hostile laws and a synthetic population."""

from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_population import SyntheticPopulation

from cuhlm_opt.errors import InputError
from cuhlm_opt.solve.certificate import (
    Bound,
    betting_p_value,
    certify,
    conformal_threshold,
    high_probability_threshold,
    hoeffding_bentkus_p_value,
    p_values,
    prompts_needed,
    prompts_needed_high_probability,
)
from cuhlm_opt.solve.losses import LossUnit, prompt_curves, prompt_losses, threshold_grid

GRID = threshold_grid()
POPULATIONS = {"synthetic": SyntheticPopulation(), "synthetic-failing": SyntheticPopulation(failing=0.02)}


def losses_of(population: SyntheticPopulation, n: int, rng: np.random.Generator, **options) -> np.ndarray:
    drawn = population.draw(n, rng)
    return prompt_losses(**vars(drawn), grid=GRID, max_tokens=population.max_tokens, **options)


def toy_records(seed: int) -> dict[str, np.ndarray]:
    """A few answers of unequal length over laws of 5 tokens, all of them recorded."""
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(4), [1, 6, 3, 5])
    x, y = rng.dirichlet(np.full(5, 0.5), len(prompt)), rng.dirichlet(np.full(5, 0.5), len(prompt))
    return {
        "prompt": prompt,
        "top_u_bar": np.clip(1 - x, 0, 1),
        "top_x": x,
        "top_y": y,
        "tv": 0.5 * np.abs(x - y).sum(1),
    }


@pytest.mark.parametrize("seed", range(5))
def test_losses_against_a_double_loop(seed):
    toy, grid, limit, eps = toy_records(seed), np.array([0.05, 0.3, 0.31, 0.8, 1.0]), 7, 0.1
    lengths = np.bincount(toy["prompt"])
    for i, (g, t) in product(range(4), enumerate(grid)):
        total = 0.0
        for row in np.flatnonzero(toy["prompt"] == i):
            x, y, u = toy["top_x"][row], toy["top_y"][row], toy["top_u_bar"][row]
            total += toy["tv"][row] if t == 1 else sum(max(x[v] - y[v], 0) for v in range(5) if u[v] <= t)
        expected = {
            LossUnit.ALLOWED: total / limit,
            LossUnit.ANSWER: total / lengths[i],
            LossUnit.EMITTED: (total + eps * (limit - lengths[i])) / limit,
        }
        for unit, value in expected.items():
            losses = prompt_losses(**toy, grid=grid, max_tokens=limit, unit=unit, eps=eps)
            assert losses[i, g] == pytest.approx(value, abs=1e-12)
            assert np.all(np.diff(losses, axis=1) >= 0)
            assert losses.min() >= 0
            assert losses.max() <= 1


def test_a_level_of_the_grid_itself_is_skipped():
    one = np.ones((1, 1))
    curve = prompt_curves(np.array([0]), 0.3 * one, one, np.array([0.2999, 0.3, 0.5]))
    assert curve.tolist() == [[0.0, 1.0, 1.0]]


def test_loss_per_emitted_token_bounds_the_ratio_of_sums():
    """Mean L <= eps iff sum of risk <= eps sum of lengths."""
    toy, eps = toy_records(3), 0.07
    allowed = prompt_losses(**toy, grid=GRID, max_tokens=9).sum(axis=0) * 9
    emitted = prompt_losses(**toy, grid=GRID, max_tokens=9, unit=LossUnit.EMITTED, eps=eps).mean(axis=0)
    assert np.array_equal(emitted <= eps, allowed <= eps * len(toy["prompt"]))


@pytest.mark.parametrize("bad", [{"max_tokens": 5}, {"max_tokens": 9, "unit": LossUnit.EMITTED}])
def test_losses_refuse_what_they_cannot_divide(bad):
    with pytest.raises(InputError, match=r"max_tokens 5|eps is missing"):
        prompt_losses(**toy_records(0), grid=GRID, **bad)


def test_losses_refuse_thresholds_the_records_do_not_determine():
    with pytest.raises(InputError, match="grid"):
        prompt_losses(**toy_records(0), grid=np.array([0.5, 0.9, 1.0]), max_tokens=9)


def mean_loss_over_orders(losses: np.ndarray, choose) -> Fraction:
    """E[L_{n+1}(t)] over all orders of a fixed set of n + 1 prompts; only which prompt comes last matters."""
    grid = np.arange(1, losses.shape[1] + 1) / 10
    total = Fraction(0)
    for last in range(len(losses)):
        t = choose(np.delete(losses, last, axis=0), grid)
        total += 0 if t is None else Fraction(losses[last, round(t * 10) - 1])
    return total / len(losses)


@st.composite
def monotone_losses(draw):
    n, levels = draw(st.integers(2, 12)), draw(st.integers(1, 5))
    cells = draw(st.lists(st.lists(st.integers(0, 8), min_size=levels, max_size=levels), min_size=n, max_size=n))
    return np.sort(np.array(cells) / 8, axis=1)


@given(monotone_losses(), st.integers(1, 63))
@settings(deadline=None, max_examples=200)
def test_conformal_inequality_holds_exactly(losses, eps_64):
    """E[L_{n+1}(t)] <= eps for exchangeable prompts, in exact arithmetic: losses in eighths, eps in 64ths."""
    eps = eps_64 / 64
    assert mean_loss_over_orders(losses, lambda seen, grid: conformal_threshold(seen, grid, eps)) <= Fraction(eps)


def test_conformal_inequality_fails_without_the_added_one():
    """The plug-in rule on the same enumeration: a rare prompt of loss 1, which the others do not show."""
    losses = np.zeros((5, 1))
    losses[0] = 1.0
    eps = 1 / 8

    def plug_in(seen, grid):
        return grid[0] if seen.mean() <= eps else None

    assert mean_loss_over_orders(losses, plug_in) == Fraction(1, 5) > eps
    assert mean_loss_over_orders(losses, lambda seen, grid: conformal_threshold(seen, grid, eps)) == 0


@pytest.mark.parametrize("eps", [0.02, 0.05, 0.1, 0.07, 1 / 49, 0.3])
def test_prompts_needed_is_the_first_that_passes(eps):
    grid = np.array([0.1])
    for mean in (0.0, 0.37 * eps):
        n = prompts_needed(eps, mean)
        assert conformal_threshold(np.full((n, 1), mean), grid, eps) is not None
        assert n == 1 or conformal_threshold(np.full((n - 1, 1), mean), grid, eps) is None
    for bound, delta in product(Bound, (0.1, 0.01)):
        n = prompts_needed_high_probability(eps, delta, bound)
        assert high_probability_threshold(np.zeros((n, 1)), grid, eps, delta, bound) is not None
        assert high_probability_threshold(np.zeros((n - 1, 1)), grid, eps, delta, bound) is None
    assert prompts_needed_high_probability(eps, 0.1, Bound.BETTING, eps) is None


@pytest.mark.parametrize("bound", Bound)
@pytest.mark.parametrize("eps", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("n", [1, 5, 20, 100, 400])
def test_p_value_is_valid_for_bernoulli_losses_by_enumeration(bound, eps, n):
    """P(p <= delta) <= delta at E[L] = eps, for every delta that p attains: 2^n outcomes, n + 1 kinds."""
    columns = (np.arange(n)[:, None] < np.arange(n + 1)).astype(float)  # column s has s losses of 1
    p = p_values(columns, eps, bound)
    law = np.array([comb(n, s) * eps**s * (1 - eps) ** (n - s) for s in range(n + 1)])
    assert np.all(np.diff(p) >= 0)
    assert np.all(np.cumsum(law)[p < 1] <= p[p < 1] * (1 + 1e-9))


@pytest.mark.parametrize("low", [0.0, 0.05, 0.25])
def test_p_values_are_valid_for_two_point_losses_by_enumeration(low):
    """The law that the bets are made against: L = low, or rarely 1, of mean eps."""
    n, eps = 60, 0.3
    q = (eps - low) / (1 - low)
    columns = np.where(np.arange(n)[:, None] < np.arange(n + 1), 1.0, low)
    law = np.array([comb(n, s) * q**s * (1 - q) ** (n - s) for s in range(n + 1)])
    for bound in Bound:
        p = p_values(columns, eps, bound)
        assert np.all(np.cumsum(law)[p < 1] <= p[p < 1] * (1 + 1e-9))


def test_capital_of_a_fair_bet_has_mean_one():
    """E[K] = 1 at E[L] = eps, by enumeration over three-point losses: nothing is given away."""
    eps, points, law = 0.25, np.array([0.0, 0.5, 0.75]), np.array([0.6, 0.2, 0.2])
    assert points @ law == pytest.approx(eps)
    columns = np.array(list(product(range(3), repeat=4))).T
    losses, weights = points[columns], law[columns].prod(axis=0)
    with np.errstate(divide="ignore"):
        p = betting_p_value(losses, eps)
    assert np.all(p <= 1)
    assert weights @ np.where(p < 1, 1 / p, 0.0) <= 1 + 1e-12
    assert p[np.flatnonzero((losses == 0).all(axis=0))[0]] == pytest.approx(
        1 / (0.8 * (4 / 3) ** 4 + 0.1 * (7 / 6) ** 4 + 0.1 * (16 / 15) ** 4)
    )


@pytest.mark.parametrize("bound", Bound)
@pytest.mark.parametrize(
    "law",
    [lambda rng, shape: rng.beta(0.05, 0.95, shape), lambda rng, shape: rng.beta(2, 38, shape),
     lambda rng, shape: (rng.random(shape) < 0.05) * 1.0],
    ids=["beta-spread", "beta-narrow", "bernoulli"],
)  # fmt: skip
def test_p_value_coverage_on_hostile_laws(bound, law):
    """P(p <= delta) <= delta at E[L] = eps = 0.05, within 3 standard errors of 4 000 samples."""
    losses = law(np.random.default_rng(7), (150, 4000))
    for delta in (0.05, 0.1, 0.3):
        share = np.mean(p_values(losses, 0.05, bound) <= delta)
        assert share <= delta + 3 * np.sqrt(delta * (1 - delta) / 4000)


def test_hoeffding_bentkus_limits():
    assert hoeffding_bentkus_p_value(0.0, 50, 0.1) == pytest.approx(0.9**50)
    assert hoeffding_bentkus_p_value(0.1, 50, 0.1) == 1.0
    assert hoeffding_bentkus_p_value(1.0, 50, 0.1) == 1.0


def test_synthetic_population_has_the_law_it_states():
    """Closed-form risk, skip rate and loss against 40 000 prompts, within 4 standard errors."""
    for population in POPULATIONS.values():
        drawn = population.draw(40_000, np.random.default_rng(1))
        losses = prompt_losses(**vars(drawn), grid=GRID, max_tokens=population.max_tokens)
        skips = prompt_curves(drawn.prompt, drawn.top_u_bar, drawn.top_x, GRID, np.bincount(drawn.prompt))
        skips /= population.max_tokens * population.mean_length_share
        for g in (0, 20, 90, 170, -1):
            for sample, truth in ((losses, population.loss), (skips, population.skip)):
                error = 4 * sample[:, g].std() / np.sqrt(len(sample)) + 1e-12
                assert abs(sample[:, g].mean() - truth(GRID[g])) < error


@pytest.mark.parametrize("population", POPULATIONS.values(), ids=POPULATIONS)
@pytest.mark.parametrize(("eps", "n"), [(0.02, 200), (0.05, 120), (0.1, 60)])
def test_coverage_on_the_synthetic_population(population, eps, n):
    """Population risk above eps in at most delta + 3 standard errors of 300 calibrations; conformal: in the mean."""
    rng, delta, repeats = np.random.default_rng(11), 0.1, 300
    risks = {name: np.empty(repeats) for name in ("conformal", *Bound)}
    for repeat in range(repeats):
        losses = losses_of(population, n, rng)
        risks["conformal"][repeat] = population.loss(conformal_threshold(losses, GRID, eps))
        for bound in Bound:
            risks[bound][repeat] = population.loss(high_probability_threshold(losses, GRID, eps, delta, bound))
    for bound in Bound:
        assert np.mean(risks[bound] > eps) <= delta + 3 * np.sqrt(delta * (1 - delta) / repeats)
    conformal = risks["conformal"]
    assert conformal.mean() <= eps + 3 * conformal.std() / np.sqrt(repeats)
    assert conformal.mean() > 0


def test_losses_near_their_mean_favour_betting():
    losses = losses_of(POPULATIONS["synthetic"], 200, np.random.default_rng(3))
    found = [high_probability_threshold(losses, GRID, 0.05, 0.1, bound) for bound in Bound]
    assert found[0] > found[1]
    assert conformal_threshold(losses, GRID, 0.05) >= found[0]


def test_fixed_sequence_stops_at_the_first_that_fails():
    losses = np.column_stack([np.full(300, 0.0), np.full(300, 0.2), np.full(300, 0.2)])
    assert high_probability_threshold(losses, np.array([0.1, 0.2, 0.3]), 0.05, 0.1) == 0.1


def test_certificate_says_what_it_assumes_or_what_it_lacks():
    grid = np.array([0.1, 0.2])
    found = certify(np.full((400, 2), 0.001), grid, 0.02)
    assert (found.threshold, found.warning, found.n_prompts, found.delta) == (0.2, None, 400, None)
    assert found.mean_loss == pytest.approx(0.001)
    assert "exchangeable" in found.assumptions[0]
    assert found.claim == "E[skip risk] <= 0.02 for the next prompt, on average over recorded sets"
    few = certify(np.zeros((30, 2)), grid, 0.02)
    assert few.threshold is None
    assert (
        few.warning
        == "30 prompts certify no threshold at the budget of 0.02: never skip; at least 49 prompts are needed"
    )
    likely = certify(np.zeros((30, 2)), grid, 0.02, delta=0.1)
    assert likely.method == "betting"
    assert "independent" in likely.assumptions[0]
    assert f"at least {prompts_needed_high_probability(0.02, 0.1)} prompts" in likely.warning
    hopeless = certify(np.full((500, 2), 0.5), grid, 0.02)
    assert hopeless.prompts_needed is None
    assert "more prompts do not help" in hopeless.warning


@pytest.mark.parametrize(("eps", "delta"), [(0.0, 0.1), (1.0, 0.1), (float("nan"), 0.1), (0.1, 0.0), (0.1, 1.0)])
def test_levels_outside_the_unit_interval_are_refused(eps, delta):
    with pytest.raises(InputError, match=r"(eps|delta) .* is not allowed"):
        certify(np.zeros((9, 1)), np.array([0.1]), eps, delta)


@pytest.mark.parametrize("losses", [[[0.2, 0.1]], [[0.1, 1.1]], [[-0.1, 0.1]], [[float("nan"), 0.1]], [[0.1]], []])
def test_losses_that_are_not_monotone_in_the_unit_interval_are_refused(losses):
    with pytest.raises(InputError, match="losses"):
        conformal_threshold(np.array(losses), np.array([0.1, 0.2]), 0.1)
