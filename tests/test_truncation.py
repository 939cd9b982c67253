"""Largest entries, the reconstructed law, and what truncation costs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import law, laws

from cuhlm_opt.distributions import total_variation
from cuhlm_opt.truncation import (
    RankedLaw,
    largest,
    largest_from,
    reconstruct,
    size_grid,
    smallest_size,
    truncation_distances,
)

ROUNDING = 1e-12


def truncated(x, kept):
    return reconstruct(kept, x[kept], len(x))


@given(laws(), st.data())
def test_largest_is_a_stable_sort(x, data):
    """The k largest, in decreasing order, ties by index; all of them where k exceeds |V|."""
    k = data.draw(st.integers(0, len(x) + 2))
    assert largest(x, k).tolist() == np.argsort(-x, kind="stable")[:k].tolist()
    assert largest(x.astype(np.float32), k).tolist() == np.argsort(-x.astype(np.float32), kind="stable")[:k].tolist()


@given(laws(), st.data())
def test_reconstruct_keeps_entries_and_spreads_the_rest(x, data):
    """x_hat_v = x_v on the kept set, (1 - kept mass)/(|V| - k) elsewhere [P2, THEORY 2.5]."""
    kept = np.array(data.draw(st.lists(st.integers(0, len(x) - 1), unique=True, max_size=20)), dtype=int)
    x_hat = truncated(x, kept)
    assert x_hat.sum() == pytest.approx(1, abs=ROUNDING)
    assert x_hat[kept].tolist() == x[kept].tolist()
    rest = np.delete(x_hat, kept)
    if len(rest):
        np.testing.assert_allclose(rest, max(0.0, 1 - x[kept].sum()) / len(rest), atol=1e-15)


def test_reconstruct_at_its_limits():
    x = law(5, 3, 2)
    assert truncated(x, np.arange(3)).tolist() == x.tolist()
    np.testing.assert_allclose(truncated(x, np.empty(0, dtype=int)), 1 / 3)
    over = reconstruct(np.array([0, 1]), np.array([0.6, 0.4 + 1e-9]), 4)  # rounding past 1 leaves no negative rest
    assert over.tolist() == [0.6, 0.4 + 1e-9, 0, 0]


@pytest.mark.parametrize("vocab_size", [1, 2, 7, 8, 9, 1000, 32000, 151936])
def test_size_grid(vocab_size):
    grid = size_grid(vocab_size)
    assert grid[0] == 0
    assert grid[-1] == vocab_size
    assert set(range(min(8, vocab_size) + 1)) <= set(grid.tolist())
    assert (np.diff(grid) > 0).all()
    assert (
        grid[2:] <= 2 ** (1 / 8) * (grid[1:-1] + 1)
    ).all()  # no gap is wider than an eighth of an octave, rounded down
    assert len(grid) <= 10 + 8 * np.log2(vocab_size)


@given(laws())
def test_truncation_distances_match_the_reconstruction(x):
    """Tail mass and TV(x, x_hat_k) from one cumulative sum are those of the law that the server rebuilds."""
    sizes = np.unique(np.append(size_grid(len(x), per_octave=2), len(x) // 2))
    tail_mass, tv = truncation_distances(np.sort(x)[::-1], sizes)
    for k, tail, distance in zip(sizes, tail_mass, tv, strict=True):
        kept = largest(x, int(k))
        assert tail == pytest.approx(1 - x[kept].sum(), abs=ROUNDING)
        assert distance == pytest.approx(total_variation(x, truncated(x, kept)), abs=ROUNDING)


@given(laws(), st.randoms(use_true_random=False))
def test_truncation_is_monotone_along_growing_kept_sets(x, random):
    """TV(x, x_hat) does not increase along any growing kept sets, the largest entries first or not [N, THEORY 4.6]."""
    order = list(range(len(x)))
    random.shuffle(order)
    steps = size_grid(len(x), per_octave=2)
    tv = [total_variation(x, truncated(x, np.array(order[:k], dtype=int))) for k in steps]
    assert (np.diff(tv) <= ROUNDING).all()
    assert (np.diff(truncation_distances(np.sort(x)[::-1], np.arange(len(x) + 1))[1]) <= ROUNDING).all()
    assert tv[-1] <= ROUNDING


@given(laws(), st.one_of(st.floats(0.0, 1.0), st.floats(1e-9, 0.05)))
def test_smallest_size_matches_brute_force(x, tolerance):
    """min{k : TV(x, x_hat_k) <= tolerance}; near-equalities may round."""
    k = smallest_size(x, tolerance)
    assert 0 <= k <= len(x)
    assert total_variation(x, truncated(x, largest(x, k))) <= tolerance + ROUNDING
    if k > 0:
        assert total_variation(x, truncated(x, largest(x, k - 1))) > tolerance - ROUNDING


@given(laws(), st.floats(1e-6, 0.5), st.randoms(use_true_random=False))
def test_smallest_size_reads_the_multiset_of_x_alone(x, tolerance, random):
    """It is a function of x, the same however the tokens are named [N, THEORY 4.4: k must not depend on the draft]."""
    order = list(range(len(x)))
    random.shuffle(order)
    assert smallest_size(x[order], tolerance) == smallest_size(x, tolerance)


@pytest.mark.parametrize(
    ("x", "tolerance", "k"),
    [
        (law(1, 1, 1, 1), 0.0, 0),
        (law(7, 1, 1, 1), 1e-9, 1),
        (law(7, 1, 1, 1), 0.46, 0),  # TV(x, flat) = 0.7 - 0.25 = 0.45
        (law(7, 1, 1, 1), 0.44, 1),
        (law(6, 3, 1), 0.0, 2),  # with |V| - 1 entries the last one is known
        (law(6, 3, 1), -1.0, 3),
    ],
)
def test_smallest_size_by_hand(x, tolerance, k):
    assert smallest_size(x, tolerance) == k


@given(laws(), st.data())
def test_largest_from_a_bound(x, data):
    """The set that `largest` finds, given its smallest entry; ties by index."""
    k = data.draw(st.integers(1, len(x)))
    chosen = largest_from(x, k, np.sort(x)[-k])
    assert sorted(chosen.tolist()) == sorted(largest(x, k).tolist())


@given(laws(), st.floats(0.1, 30.0), st.sampled_from([np.float32, np.float64]))
def test_ranked_weights_need_no_sum(x, scale, dtype):
    """Weights in proportion to a law, in either precision, have its distances."""
    weights = np.sort(x * scale).astype(dtype)
    exact = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    sizes = np.arange(len(x) + 1)
    got = np.array(RankedLaw(weights).distances(sizes))
    expected = [(exact[: len(x) - k], np.mean(exact[: len(x) - k]) if k < len(x) else 0.0) for k in sizes[:50]]
    tails = [np.sum(tail) for tail, _ in expected]
    distances = [np.sum(np.maximum(tail - mean, 0.0)) for tail, mean in expected]
    np.testing.assert_allclose(got[:, :50], [tails, distances], atol=ROUNDING)


@given(laws())
def test_inversion_by_rank(x):
    """Masses on both sides of every running sum name its entry and the next; entries of no mass are never named."""
    ranked = RankedLaw(np.sort(x))
    running = np.cumsum(ranked.ascending)
    for index in np.flatnonzero(ranked.ascending)[-40:]:
        middle = running[index] - 0.5 * ranked.ascending[index]
        assert ranked.ascending[ranked.index_at(middle)] == pytest.approx(ranked.ascending[index], abs=ROUNDING)
    assert ranked.ascending[ranked.index_at(0.0)] > 0
    assert ranked.index_at(ranked.total) == len(x) - 1
