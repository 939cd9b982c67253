"""Cluster bootstrap: against analytic cluster-robust errors, and its coverage on synthetic clustered populations."""

import numpy as np
import pytest

from cuhlm_opt.bootstrap import (
    ClusterBootstrap,
    Interval,
    line_statistics,
    line_sums,
    noise_statistics,
    noise_sums,
    prompt_sums,
    ratios,
)
from cuhlm_opt.calibrate.fit import cluster_mean
from cuhlm_opt.correlation import fit_linear, risk_averse_threshold, risk_prone_threshold
from cuhlm_opt.errors import InputError
from cuhlm_opt.uncertainty import sampling_variance, slope_attenuation


def clustered(n_prompts: int, rng: np.random.Generator, tokens: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of prompts with an effect of their own on beta: E[beta | u] = 0.5 u, lengths tokens/2 .. tokens."""
    lengths = rng.integers(tokens // 2, tokens + 1, n_prompts)
    prompt = np.repeat(np.arange(n_prompts), lengths)
    u = rng.random(len(prompt))
    beta = np.clip(
        u * (0.5 + 0.3 * rng.uniform(-1, 1, n_prompts)[prompt] + 0.2 * rng.uniform(-1, 1, len(prompt))), 0, 1
    )
    return prompt, u, beta


def test_counts_are_multinomial():
    counts = ClusterBootstrap.draw(7, np.random.default_rng(0), 4000).counts
    assert counts.shape == (4000, 7)
    assert np.all(counts.sum(axis=1) == 7)
    variance = 7 * (1 / 7) * (6 / 7)
    assert np.all(np.abs(counts.mean(axis=0) - 1) < 4 * np.sqrt(variance / 4000))
    assert np.cov(counts.T)[0, 1] == pytest.approx(-1 / 7, abs=4 * variance / np.sqrt(4000))


def test_statistics_of_a_resample_are_those_of_its_tokens():
    """Sums weighted by counts against the same tokens laid out again, and against `fit_linear`."""
    rng = np.random.default_rng(1)
    prompt, u, beta = clustered(9, rng)
    counts = ClusterBootstrap.draw(9, rng, 1).counts[0].astype(int)
    rows = np.concatenate([np.flatnonzero(prompt == i) for i in range(9) for _ in range(counts[i])])
    found = line_statistics(counts @ line_sums(prompt, u, beta))
    line = fit_linear(u[rows], beta[rows], prompt[rows])
    delta = np.mean(beta[rows] > 0)
    expected = {
        "a": line.a, "b": line.b, "r": line.r, "delta": delta, "mean_beta": beta[rows].mean(),
        "risk_averse": risk_averse_threshold(line.a, line.b), "risk_prone": risk_prone_threshold(line.a, line.b, delta),
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_interval_against_cluster_robust_errors():
    """Half-widths over 1.96 s.e. of `fit_linear` and `cluster_mean`: within 10 %, 4 Monte Carlo s.e. at B = 4 000."""
    rng = np.random.default_rng(2)
    prompt, u, beta = clustered(300, rng)
    bootstrap = ClusterBootstrap.draw(300, rng, 4000)
    found = bootstrap.intervals(line_statistics, line_sums(prompt, u, beta))
    line = fit_linear(u, beta, prompt)
    mean = cluster_mean(beta, prompt)
    for name, error in (("a", line.a_se), ("b", line.b_se), ("mean_beta", mean.se)):
        half = 0.5 * (found[name].high - found[name].low)
        assert half == pytest.approx(1.96 * error, rel=0.1), name
        assert found[name].low < found[name].value < found[name].high
    per_token = ClusterBootstrap.draw(len(beta), rng, 400)
    naive = per_token.intervals(ratios("beta"), prompt_sums(np.arange(len(beta)), beta))["beta"]
    assert naive.high - naive.low < 0.8 * (found["mean_beta"].high - found["mean_beta"].low)


def test_coverage_on_a_synthetic_clustered_population():
    """95 % intervals of the mean and of the slope from 60 prompts, 400 data sets: 3 s.e., and 3 % for few prompts."""
    rng, repeats, truth = np.random.default_rng(3), 400, {"a": 0.5, "mean_beta": 0.25}
    hits = dict.fromkeys(truth, 0)
    for _ in range(repeats):
        prompt, u, beta = clustered(60, rng)
        found = ClusterBootstrap.draw(60, rng, 300).intervals(line_statistics, line_sums(prompt, u, beta))
        for name, value in truth.items():
            hits[name] += found[name].low <= value <= found[name].high
    for name, count in hits.items():
        assert abs(count / repeats - 0.95) < 0.03 + 3 * np.sqrt(0.95 * 0.05 / repeats), (name, count / repeats)


def test_attenuation_where_the_noise_outweighs_the_spread():
    u_bar = np.array([0.4, 0.6, 0.4, 0.6])
    found = noise_statistics(20)(noise_sums(np.array([0, 0, 1, 1]), u_bar).sum(axis=0))
    assert found["attenuation"] == pytest.approx(0.01 / (0.01 + (0.5 - 0.26) / 20))


def test_noise_of_sampled_uncertainty_against_its_definition():
    rng = np.random.default_rng(4)
    prompt, u_bar, _ = clustered(40, rng)
    found = ClusterBootstrap.draw(40, rng).intervals(noise_statistics(20), noise_sums(prompt, u_bar))
    assert found["u_se"].value == pytest.approx(np.sqrt(np.mean(sampling_variance(u_bar, 20))))
    assert found["attenuation"].value == pytest.approx(slope_attenuation(u_bar, 20))
    assert found["attenuation"].low < found["attenuation"].value < found["attenuation"].high


def test_same_seed_same_interval():
    prompt, u, beta = clustered(30, np.random.default_rng(5))
    first, second = (
        ClusterBootstrap.draw(30, np.random.default_rng(0)).intervals(line_statistics, line_sums(prompt, u, beta))
        for _ in range(2)
    )
    assert first == second


def test_undefined_thresholds_are_counted():
    """A slope around 0: -b/a has no value where a <= 0."""
    rng = np.random.default_rng(6)
    prompt = np.repeat(np.arange(20), 5)
    found = ClusterBootstrap.draw(20, rng).intervals(
        line_statistics, line_sums(prompt, rng.random(100), rng.random(100))
    )
    assert found["a"].undefined == 0
    assert 0 < found["risk_averse"].undefined < 1


def test_constant_uncertainty_and_a_single_prompt_have_no_interval():
    constant = ClusterBootstrap.draw(3, np.random.default_rng(0)).intervals(
        line_statistics, line_sums(np.arange(3), np.full(3, 0.3), np.array([0.0, 0.1, 0.2]))
    )
    assert np.isnan([constant["a"].value, constant["a"].low]).all()
    assert constant["a"].undefined == 1
    single = ClusterBootstrap.draw(1, np.random.default_rng(0)).intervals(ratios("skip"), np.array([[4.0, 1.0]]))[
        "skip"
    ]
    assert single.value == 0.25
    assert np.isnan([single.low, single.high]).all()


def test_interval_of_a_decreasing_function():
    latency = Interval(value=0.5, low=0.25, high=0.75).through(lambda p: 1 - p)
    assert (latency.value, latency.low, latency.high) == (0.5, 0.25, 0.75)


def test_shapes_are_checked():
    with pytest.raises(InputError, match="one row for each of 3"):
        ClusterBootstrap.draw(3, np.random.default_rng(0)).intervals(ratios("skip"), np.ones((4, 2)))
    with pytest.raises(InputError, match="0 prompts"):
        ClusterBootstrap.draw(0, np.random.default_rng(0))
