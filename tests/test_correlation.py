"""The correlation model: estimates against numpy, standard errors against a bootstrap, published thresholds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuhlm_opt.correlation import bin_means, fit_isotonic, fit_linear, risk_averse_threshold, risk_prone_threshold
from cuhlm_opt.errors import InputError


def clustered(seed: int, prompts: int = 150, tokens: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A synthetic population with an effect of the prompt: u, beta, prompt index."""
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(prompts), tokens)
    u = np.clip(rng.beta(0.6, 1.0, size=prompts * tokens) + 0.2 * rng.normal(size=prompts)[prompt], 0, 1)
    noise = 0.1 * rng.normal(size=prompts)[prompt] + 0.1 * rng.normal(size=prompts * tokens)
    return u, 0.5 * u + 0.05 + noise, prompt


def test_line_and_correlation_equal_numpy():
    u, beta, prompt = clustered(0)
    fit = fit_linear(u, beta, prompt)
    assert (fit.a, fit.b) == pytest.approx(tuple(np.polyfit(u, beta, 1)))
    assert fit.r == pytest.approx(np.corrcoef(u, beta)[0, 1])
    assert fit.r2 == pytest.approx(fit.r**2)
    assert (fit.n_tokens, fit.n_prompts) == (3000, 150)


def test_standard_errors_cover_the_dependence_within_a_prompt():
    """Sandwich errors equal a bootstrap over prompts within a tenth, and exceed those that ignore the prompts."""
    u, beta, prompt = clustered(1)
    fit = fit_linear(u, beta, prompt)
    rng = np.random.default_rng(2)
    rows = [np.flatnonzero(prompt == index) for index in range(150)]
    draws = []
    for _ in range(1500):
        chosen = np.concatenate([rows[index] for index in rng.integers(0, 150, size=150)])
        draws.append(np.polyfit(u[chosen], beta[chosen], 1))
    a_se, b_se = np.std(draws, axis=0)
    assert fit.a_se == pytest.approx(a_se, rel=0.1)
    assert fit.b_se == pytest.approx(b_se, rel=0.1)
    assert fit.b_se > 1.5 * fit_linear(u, beta, np.arange(len(u))).b_se


def test_binned_means_by_hand():
    mean_u, mean_beta, count = bin_means(np.array([0.0, 0.04, 0.5, 1.0]), np.array([0.0, 1.0, 0.5, 0.2]), bins=20)
    assert mean_u.tolist() == [0.02, 0.5, 1.0]
    assert mean_beta.tolist() == [0.5, 0.5, 0.2]
    assert count.tolist() == [2, 1, 1]


def pool_adjacent_violators(values: list[float], weights: list[float]) -> list[float]:
    """Textbook PAV."""
    blocks: list[list[float]] = []
    for value, weight in zip(values, weights, strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            v, w, n = blocks.pop()
            u, m, k = blocks.pop()
            blocks.append([(u * m + v * w) / (m + w), m + w, k + n])
    return [value for value, _, n in blocks for _ in range(int(n))]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10)), min_size=1, max_size=40))
def test_isotonic_fit_equals_pool_adjacent_violators(points):
    u = np.array([point[0] for point in points]) / 20
    beta = np.array([point[1] for point in points]) / 10
    knots, values = fit_isotonic(u, beta)
    levels = np.unique(u)
    means = [float(beta[u == level].mean()) for level in levels]
    expected = pool_adjacent_violators(means, [float(np.count_nonzero(u == level)) for level in levels])
    at = np.searchsorted(knots, levels, side="right") - 1
    np.testing.assert_allclose(values[at], expected, atol=1e-12)
    assert np.all(np.diff(values) > 0)


def test_published_thresholds_come_out():
    """0.0810 and 0.8117 (CU-HLM), 0.0732 and 0.430 (U-HLM)."""
    assert round(risk_averse_threshold(0.815, -0.066), 4) == 0.0810
    assert round(risk_prone_threshold(0.815, -0.066, 0.5955), 4) == 0.8117
    assert round(risk_averse_threshold(0.82, -0.06), 4) == 0.0732
    assert round(risk_prone_threshold(0.82, -0.06, 0.2926), 3) == 0.430


def test_no_threshold_without_a_positive_slope():
    assert np.isnan(risk_averse_threshold(0.0, 0.1))
    assert np.isnan(risk_prone_threshold(-0.2, 0.1, 0.5))


def test_degenerate_records_are_refused():
    with pytest.raises(InputError, match="2 positions"):
        fit_linear(np.array([0.1, 0.2]), np.array([0.0, 1.0]), np.array([0, 1]))
    with pytest.raises(InputError, match="1 values of u"):
        fit_linear(np.full(9, 0.5), np.linspace(0, 1, 9), np.arange(9))


def test_clustered_errors_and_binned_correlation_by_hand():
    """Five prompts: the sandwich with its factor G/(G - 1), written out, and R over 20 bins by a histogram."""
    u, beta, prompt = clustered(3, prompts=5, tokens=40)
    fit = fit_linear(u, beta, prompt)
    design = np.column_stack([u, np.ones_like(u)])
    bread = np.linalg.inv(design.T @ design)
    residual = beta - (fit.a * u + fit.b)
    meat = np.zeros((2, 2))
    for index in range(5):
        score = design[prompt == index].T @ residual[prompt == index]
        meat += np.outer(score, score)
    assert (fit.a_se, fit.b_se) == pytest.approx(np.sqrt(np.diag(bread @ meat @ bread) * 5 / 4))
    count, edges = np.histogram(u, bins=20, range=(0, 1))
    filled = count > 0
    sums = [np.histogram(u, bins=edges, weights=values)[0][filled] / count[filled] for values in (u, beta)]
    assert fit.r_binned == pytest.approx(np.corrcoef(*sums)[0, 1])
    assert fit.r2_binned == pytest.approx(fit.r_binned**2)


def test_errors_need_two_prompts_and_a_fit_three_tokens():
    u = np.array([0.1, 0.5, 0.9])
    assert np.isnan(fit_linear(u, u * u, np.zeros(3, dtype=int)).a_se)
    assert fit_linear(u, u * u, np.arange(3)).n_tokens == 3
    with pytest.raises(InputError, match="2 positions"):
        fit_linear(u[:2], u[:2], np.arange(2))
    with pytest.raises(InputError, match="1 values of u"):
        fit_linear(np.full(3, 0.5), u, np.arange(3))
