"""Runs of skipped tokens against tossed coins and against independent skips."""

import numpy as np
import pytest

from cuhlm_opt.runs import ask_runs, repeated


def runs_of(prompt, skip, classes, n_classes, tokens):
    """One state of the channel."""
    return ask_runs(prompt, 1 - skip[None], classes[None], n_classes, tokens)


def simulated(prompt, skip, classes, n_classes, tokens, rng, rounds=4000):
    """The same by tossing coins, answer by answer."""
    weights = np.zeros((n_classes, 400))
    n = len(prompt)
    for label in np.unique(prompt):
        rows = np.flatnonzero(prompt == label)
        total = -(-tokens // len(rows)) * len(rows)
        order = rows[np.arange(total) % len(rows)]
        for _ in range(rounds):
            pending = 0
            for row, kept in zip(order, rng.random(total) < skip[order], strict=True):
                pending += 1
                if not kept:
                    weights[classes[row], pending - 1] += len(rows) / n / total / rounds
                    pending = 0
    return weights


def test_law_of_the_runs_by_coins():
    rng = np.random.default_rng(0)
    prompt = np.array([0, 0, 0, 1, 1, 2])
    skip, classes = rng.random(6), rng.integers(0, 2, 6)
    exact = runs_of(prompt, skip, classes, 2, tokens=8)
    draws = simulated(prompt, skip, classes, 2, 8, rng)[:, : exact.shape[1]]
    assert np.abs(exact - draws).max() < 0.01
    assert exact.sum() == pytest.approx(1 - skip.mean())
    assert runs_of(prompt, skip, np.zeros(6, int), 1, tokens=8)[0] == pytest.approx(exact.sum(axis=0))


def test_independent_skips_of_one_rate_make_geometric_runs():
    """P(ask after n - 1 skips) = ((T - n) (1 - p)^2 + (1 - p)) p^(n - 1) / T: one run reaches back to the beginning."""
    tokens = 250
    runs = runs_of(np.zeros(50, int), np.full(50, 0.6), np.zeros(50, int), 1, tokens=tokens)[0]
    n = np.arange(1, tokens + 1)
    assert runs == pytest.approx(((tokens - n) * 0.4**2 + 0.4) * 0.6 ** (n - 1.0) / tokens, abs=1e-15)


def test_clustered_skips_make_longer_runs():
    """The same rate in two blocks: more tokens ask alone, and the runs that there are are longer."""
    clustered = np.repeat([0.98, 0.22], 16)
    mixed = runs_of(np.zeros(32, int), np.full(32, 0.6), np.zeros(32, int), 1, tokens=64)[0]
    runs = runs_of(np.zeros(32, int), clustered, np.zeros(32, int), 1, tokens=64)[0]
    assert runs.sum() == pytest.approx(mixed.sum())
    assert runs[0] > mixed[0]
    assert runs[12:].sum() > mixed[12:].sum()


def test_answers_are_repeated_a_whole_number_of_times():
    starts, lengths, totals = repeated(np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2]), 7)
    assert lengths.tolist() == [5, 3, 2]
    assert totals.tolist() == [10, 9, 8]
    assert starts.tolist() == [5, 0, 3]


def test_never_and_always():
    everything = runs_of(np.zeros(4, int), np.ones(4), np.zeros(4, int), 1, tokens=4)
    assert everything.sum() == 0
    nothing = runs_of(np.zeros(4, int), np.zeros(4), np.zeros(4, int), 1, tokens=4)[0]
    assert nothing.tolist() == [1.0, 0.0, 0.0, 0.0]
