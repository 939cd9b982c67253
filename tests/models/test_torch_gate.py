"""The batched reading of torch tensors against the numpy one, in float32."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cuhlm_opt.gate import Step, read_steps
from cuhlm_opt.models.torch_gate import TorchStep, read_batch
from cuhlm_opt.uncertainty import sampled_uncertainty

SETTINGS = [(1.0, 1.0), (0.7, 1.0), (1.0, 0.9), (1.3, 0.5), (0.0, 1.0)]


def batch(seed, size, rows=4):
    """Rows that are spread out, flat, with ties at the top, and with entries of -inf."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, size)) * np.array([3.0, 0.0, 1.0, 30.0])[:rows, None]
    z[2, : size // 2 + 1] = z[2].max()
    z[3, rng.permutation(size)[: size // 3]] = -np.inf
    return z.astype(np.float32)


def assert_agrees(z, uniforms, tolerance, temperature=1.0, top_p=1.0):
    got = read_batch(
        torch.from_numpy(z), torch.from_numpy(uniforms), tolerance, temperature=temperature, top_p=top_p
    )  # fmt: skip
    for row, logits in enumerate(z):
        step = Step(logits, temperature, top_p)
        draft, k = int(got.draft[row]), int(got.k[row])
        assert int(got.argmax[row]) == step.argmax
        expected = step.u_bar(np.array([draft, step.argmax]))
        assert [float(got.u_bar[row]), float(got.u_bar_argmax[row])] == pytest.approx(expected, abs=1e-5)
        # Exponentials of two libraries differ in the last digit: k may differ where TV is that close to the tolerance.
        distances = step.ranked.distances(np.array([k, max(k - 1, 0)]))[1]
        assert distances[0] <= tolerance + 1e-6
        assert k == 0 or distances[1] > tolerance - 1e-6
        kept = got.ids[row, :k].numpy()
        assert sorted(kept.tolist()) == sorted(step.largest(k).tolist())
        np.testing.assert_allclose(got.masses[row, :k].numpy(), step.masses(kept), rtol=1e-5, atol=1e-12)
        below = float(np.sort(step.law)[::1].cumsum()[len(logits) - 1 - int(np.flatnonzero(got.ids[row] == draft)[0])])
        assert (
            below - step.law[draft] - 1e-6 <= uniforms[row] <= below + 1e-6
        )  # the draft is the inverse at the uniform


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 1500), st.floats(1e-5, 0.5), st.sampled_from(SETTINGS))
def test_a_batch_is_read_as_its_rows(seed, size, tolerance, setting):
    assert_agrees(batch(seed, size), np.random.default_rng(seed).random(4), tolerance, *setting)


def test_a_whole_vocabulary():
    """|V| = 151 936: Zipf's law with noise, and the same shuffled, on the device where the logits lie."""
    rng = np.random.default_rng(1)
    zipf = -1.5 * np.log(1.0 + np.arange(151_936)) + rng.normal(size=151_936)
    z = np.array([zipf, rng.permutation(zipf)], dtype=np.float32)
    for tolerance in (0.01, 1e-4):
        assert_agrees(z, rng.random(2), tolerance)
    sizes = read_batch(torch.from_numpy(z), torch.zeros(2, dtype=torch.float64), 0.01).k
    assert [int(k) for k in sizes] == [Step(row).smallest_size(0.01) for row in z]


def test_results_stay_on_the_device():
    """A meta tensor has no values: whatever asked for one, and so would make a GPU wait, fails on it."""
    logits, uniforms = torch.empty((2, 40), device="meta"), torch.empty(2, dtype=torch.float64, device="meta")
    for setting in SETTINGS:
        got = read_batch(logits, uniforms, 0.1, temperature=setting[0], top_p=setting[1])
        assert {value.device.type for value in vars(got).values()} == {"meta"}
        assert not got.masses.requires_grad


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 1500), st.floats(1e-5, 0.5), st.sampled_from(SETTINGS))
def test_a_step_of_tensors_is_that_of_arrays(seed, size, tolerance, setting):
    z = batch(seed, size)
    tokens = np.random.default_rng(seed).integers(size, size=3)
    for got, expected in zip(
        read_steps(list(torch.from_numpy(z)), *setting), read_steps(list(z), *setting), strict=True
    ):
        assert isinstance(got, TorchStep)
        assert (got.vocab_size, got.argmax) == (expected.vocab_size, expected.argmax)
        assert got.draw(np.random.default_rng(seed)) == expected.draw(np.random.default_rng(seed))
        assert sorted(got.largest(size // 2)) == sorted(expected.largest(size // 2))
        np.testing.assert_allclose(got.law, expected.law, rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(got.masses(tokens), expected.masses(tokens), rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(got.u_bar(tokens), expected.u_bar(tokens), atol=1e-5)
        np.testing.assert_array_equal(got.logits, expected.logits)
        assert got.ranked.distances(np.array([got.smallest_size(tolerance)]))[1][0] <= tolerance + 1e-6
        sampled = [
            sampled_uncertainty(step.perturbed, int(tokens[0]), np.random.default_rng(1)) for step in (got, expected)
        ]
        assert sampled[0] == sampled[1]
