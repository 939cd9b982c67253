"""The strategies yield laws, and every hard shape that they promise is found among them."""

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import LARGEST, law, laws, logits, pairs, sizes, skips_of

EXPLORE = hypothesis.settings(
    max_examples=2000, derandomize=True, deadline=None, database=None, phases=[hypothesis.Phase.generate]
)


def finds(strategy: st.SearchStrategy, condition: object) -> None:
    """`hypothesis.find` raises NoSuchExample where no drawn value meets `condition`."""
    hypothesis.find(strategy, condition, settings=EXPLORE)


def is_law(p: np.ndarray) -> bool:
    # A sum of n float64 terms errs by at most n 2^-53 relative to 1: 2e-13 at n = 2000.
    return p.dtype == np.float64 and p.ndim == 1 and bool((p >= 0).all()) and abs(p.sum() - 1) < 1e-12


@given(laws())
def test_laws_are_laws(p):
    assert is_law(p)
    assert 1 <= len(p) <= LARGEST


@given(pairs())
def test_pairs_are_two_laws_over_one_vocabulary(pair):
    x, y = pair
    assert is_law(x)
    assert is_law(y)
    assert x.shape == y.shape


@given(st.data())
def test_skips_are_probabilities_of_the_size_asked_for(data):
    size = data.draw(sizes(50))
    skip = data.draw(skips_of(size))
    assert skip.shape == (size,)
    assert ((skip >= 0) & (skip <= 1)).all()


@given(logits())
def test_logits_are_finite(z):
    assert np.isfinite(z).all()
    assert z.dtype in (np.float32, np.float64)


@pytest.mark.parametrize(
    "shape",
    [
        lambda p: len(p) == 1,
        lambda p: len(p) > 1000,
        lambda p: len(p) > 1 and p.max() == 1.0,
        lambda p: len(p) > 1 and np.ptp(p) == 0,
        lambda p: len(p) > 2 and 0 < (p == 0).sum() < len(p) - 1,
        lambda p: len(np.unique(p[p > 0])) < (p > 0).sum() and np.ptp(p[p > 0]) > 0,
        lambda p: len(p) > 100 and 0.1 < p.max() < 0.9 and (p > 0).all(),
        lambda p: len(p) > 100 and (p == 0).mean() > 0.5 and (p > 0).sum() > 2,
        lambda p: 0 < p[p > 0].min() < 1e-10,
    ],
    ids=["single", "large", "one-hot", "flat", "zeros", "ties", "heavy-tailed", "sparse", "tiny"],
)
def test_every_shape_of_law_is_drawn(shape):
    finds(laws(), shape)


@pytest.mark.parametrize(
    "shape",
    [
        lambda x, y: len(x) > 2 and np.array_equal(x, y) and x.max() < 1,
        lambda x, y: len(x) > 2 and not (x * y).any(),
        lambda x, y: len(x) > 2 and 0 < np.abs(x - y).sum() < 1e-6,
        lambda x, y: len(x) > 2 and 0.01 < np.abs(x - y).sum() < 0.2 and (0.89 * x < y)[x > 0].all(),
        lambda x, y: bool(((x > 0) & (y == 0)).any() and ((x == 0) & (y > 0)).any() and (x * y).any()),
        lambda x, y: len(x) > 1000 and not np.array_equal(x, y),
    ],
    ids=["equal", "disjoint", "rounded", "close", "partly overlapping", "large"],
)
def test_every_shape_of_pair_is_drawn(shape):
    finds(pairs(), lambda pair: shape(*pair))


def test_skips_are_drawn_with_and_without_coins():
    finds(skips_of(4), lambda skip: set(skip) == {0.0, 1.0})
    finds(skips_of(4), lambda skip: bool(((skip > 0) & (skip < 1)).any()))


def test_logits_tie_and_nearly_tie_at_the_top():
    finds(logits(), lambda z: len(z) > 2 and np.sort(z)[-1] == np.sort(z)[-2] > z.min())
    finds(logits(), lambda z: len(z) > 2 and 0 < np.sort(z)[-1] - np.sort(z)[-2] < 1e-4 < np.ptp(z))


def test_law_normalises_its_weights():
    assert law(1, 3).tolist() == [0.25, 0.75]
