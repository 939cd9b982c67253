"""One reading of a step against x in full: the draft's law, u_bar, k, and the entries to send."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import logits

from cuhlm_opt.distributions import softmax, total_variation
from cuhlm_opt.gate import Step, read_step
from cuhlm_opt.truncation import largest, reconstruct, smallest_size
from cuhlm_opt.uncertainty import mean_uncertainty

ROUNDING = 1e-12
SETTINGS = [(1.0, 1.0), (0.7, 1.0), (1.0, 0.9), (1.3, 0.5), (0.0, 1.0), (0.0, 0.9)]


class Uniform(np.random.Generator):
    """A stream whose next uniform is known."""

    def __init__(self, value):
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self):
        return self.value


@given(logits(), st.sampled_from(SETTINGS))
def test_the_law_is_softmax(z, setting):
    """x, all of it or some tokens alone, with temperature and top-p; ties at the edge of the nucleus by index."""
    step, x = Step(z, *setting), softmax(z, *setting)
    np.testing.assert_allclose(step.law, x, rtol=1e-6, atol=1e-12)  # float32: exponentials of other batches
    np.testing.assert_array_equal(step.law > 0, x > 0)
    tokens = np.arange(len(z))[:: max(1, len(z) // 10)]
    np.testing.assert_allclose(step.masses(tokens), step.law[tokens], rtol=1e-6)
    assert step.law.sum() == pytest.approx(1, abs=1e-6)


@given(logits(8), st.sampled_from(SETTINGS))
def test_drafts_have_the_law(z, setting):
    """Uniforms in equal steps fall on each token in proportion to x, and on none of mass 0."""
    step, n = Step(z, *setting), 2000
    drafts = [step.draw(Uniform((i + 0.5) / n)) for i in range(n)]
    shares = np.bincount(drafts, minlength=len(z)) / n
    np.testing.assert_allclose(shares, step.law, atol=1.001 / n)
    assert step.law[step.draw(Uniform(0.0))] > 0
    assert step.law[step.draw(Uniform(1 - 2**-53))] > 0


@given(logits(), st.one_of(st.floats(0.0, 1.0), st.floats(1e-9, 0.05)), st.sampled_from(SETTINGS), st.integers(0, 99))
def test_the_reading_of_a_step(z, tolerance, setting, seed):
    """Draft, u_bar, k and entries are those that x and the logits give one by one."""
    reading = read_step(z, np.random.default_rng(seed), tolerance, temperature=setting[0], top_p=setting[1])
    step = Step(z, *setting)
    x, k = step.law, len(reading.kept)
    assert reading.draft == step.draw(np.random.default_rng(seed))
    assert reading.argmax == np.argmax(z)
    expected = mean_uncertainty(z, np.array([reading.draft, reading.argmax]))
    assert [reading.u_bar, reading.u_bar_argmax] == pytest.approx(expected, abs=1e-6)
    assert sorted(reading.kept.tolist()) == sorted(largest(z, k).tolist())
    np.testing.assert_allclose(reading.masses, x[reading.kept], rtol=1e-6)
    rounding = ROUNDING if z.dtype == np.float64 else 1e-7
    assert total_variation(x, reconstruct(reading.kept, reading.masses, len(z))) <= tolerance + rounding
    if k > 0:
        less = largest(z, k - 1)
        assert total_variation(x, reconstruct(less, x[less], len(z))) > tolerance - rounding


@pytest.mark.parametrize("tolerance", [0.3, 0.01, 1e-4, 1e-6])
@pytest.mark.parametrize("top_p", [1.0, 0.999, 0.9])
def test_the_size_is_that_of_the_whole_law_in_order(tolerance, top_p):
    """|V| = 151 936, float32: k by a cumulative sum over all of x sorted, every size tried."""
    rng = np.random.default_rng(3)
    for exponent in (0.0, 1.0, 1.5, 3.0):
        zipf = -exponent * np.log(1.0 + np.arange(151_936))
        z = rng.permutation(zipf + rng.normal(size=151_936)).astype(np.float32)
        x = softmax(z, 1.0, top_p)
        descending = np.sort(x)[::-1]
        tail = np.append(np.cumsum(descending[::-1])[::-1], 0.0)
        mean = tail[:-1] / np.arange(len(x), 0, -1)
        above = len(x) - np.searchsorted(descending[::-1], mean, side="right")
        sizes = np.arange(len(x))
        above = np.maximum(above, sizes)
        tv = np.append(tail[:-1] - tail[above] - (above - sizes) * mean, 0.0)
        k = int(np.argmax(tv <= tolerance))
        assert Step(z, 1.0, top_p).smallest_size(tolerance) == k
        assert smallest_size(x, tolerance) == k


def test_ties_are_settled_by_index():
    step = Step(np.array([1.0, 2.0, 2.0, 2.0, 0.0]), top_p=0.5)
    assert np.flatnonzero(step.law).tolist() == [1, 2]
    assert sorted(step.largest(2).tolist()) == [1, 2]
    assert sorted(step.largest(9).tolist()) == [0, 1, 2, 3, 4]
    assert step.largest(0).tolist() == []
    assert {step.draw(Uniform(u)) for u in np.linspace(0, 0.999, 50)} == {1, 2}
    assert step.argmax == 1
