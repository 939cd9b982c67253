"""Signals by their definitions, on laws written out; the sampled one by its law; what a device reads is the same."""

import numpy as np
import pytest
from scipy.stats import binom

from cuhlm_opt.distributions import softmax
from cuhlm_opt.gate import Step, StepFeatures, read_signal
from cuhlm_opt.signals import REGRESSORS, RecordedFeatures, Signal, resampled, value_of
from cuhlm_opt.uncertainty import mean_uncertainty, sampled_uncertainty

LOGITS = np.array([0.3, 2.5, -1.0, 2.2, -np.inf, 0.0], dtype=np.float32)
X = softmax(LOGITS)
DRAFT = 3


def recorded(x: np.ndarray, token: int, u_bar: float) -> RecordedFeatures:
    first, second = np.sort(x)[::-1][:2]
    entropy = -sum(p * np.log(p) for p in x if p > 0)
    values = {"u_bar": u_bar, "x_d": x[token], "p_max": first, "margin": first - second, "entropy": entropy}
    return RecordedFeatures(**{name: np.array([value]) for name, value in values.items()})


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7}, {"top_p": 0.8}])
@pytest.mark.parametrize("signal", [s for s in Signal if not s.is_sampled])
def test_a_device_reads_what_is_recorded(signal, settings):
    x = softmax(LOGITS, settings.get("temperature", 1.0), settings.get("top_p", 1.0))
    weights = tuple(np.random.default_rng(0).normal(size=REGRESSORS))
    known = recorded(x, DRAFT, float(mean_uncertainty(LOGITS, np.array([DRAFT]))[0]))
    read = read_signal(signal, weights, Step(LOGITS, **settings), DRAFT, np.random.default_rng(0))
    assert read == pytest.approx(float(value_of(signal, known, weights)[0]), abs=1e-6)
    assert 0 <= read <= 1


def test_values_by_definition():
    features = recorded(np.array([0.5, 0.3, 0.2, 0.0]), 1, 0.6)
    entropy = -(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2))
    expected = {"u_bar": 0.6, "x_d": 0.7, "p_max": 0.5, "margin": 0.8, "entropy": entropy / (1 + entropy)}
    for name, value in expected.items():
        assert value_of(Signal(name), features)[0] == pytest.approx(value)
    flat = list(expected.values())
    weights = np.random.default_rng(1).normal(size=REGRESSORS)
    score = weights @ [1.0, *flat, *(value**2 for value in flat)]
    assert value_of(Signal.COMBINED, features, weights)[0] == pytest.approx(1 / (1 + np.exp(-score)))


def test_all_are_certain_of_a_point_mass():
    step = Step(np.array([0.0, 200.0, 0.0], dtype=np.float32))
    features = StepFeatures(step, 1)
    for signal in (Signal.U_BAR, Signal.X_D, Signal.P_MAX, Signal.MARGIN, Signal.ENTROPY):
        assert value_of(signal, features)[0] == pytest.approx(0.0, abs=1e-2)


@pytest.mark.parametrize("signal", [Signal.U_MC_5, Signal.U_MC_100])
def test_sampled_signals_take_as_many_samples_as_they_say(signal):
    rng = np.random.default_rng(0)
    values = {read_signal(signal, (), Step(LOGITS), DRAFT, rng) * signal.samples for _ in range(30)}
    assert all(value == pytest.approx(round(value)) for value in values)
    assert max(values) <= signal.samples


def test_sampled_uncertainty_is_binomial_given_its_integral():
    """What `resampled` draws has the law of the published procedure: both against the binomial law, M = 5."""
    samples, draws = 5, 4000
    u_bar = float(mean_uncertainty(LOGITS, np.array([DRAFT]), nodes=128)[0])
    law = binom.pmf(np.arange(samples + 1), samples, u_bar)
    rng = np.random.default_rng(0)
    published = [sampled_uncertainty(LOGITS, DRAFT, rng, samples) for _ in range(draws)]
    again = resampled(np.full(draws, u_bar), samples, rng)
    for drawn in (published, again):
        counts = np.bincount(np.rint(np.array(drawn) * samples).astype(int), minlength=samples + 1) / draws
        error = np.sqrt(law * (1 - law) / draws)
        assert np.all(np.abs(counts - law) <= 4.5 * error + 1e-9)


def test_sampled_signals_are_no_function_of_the_features():
    with pytest.raises(ValueError, match="drawn at random"):
        value_of(Signal.U_MC, recorded(X, 1, 0.5))
