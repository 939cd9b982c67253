"""A scored position against the definitions of THEORY, written out directly."""

import numpy as np
import pytest
from scipy.integrate import quad

from cuhlm_opt.calibrate.score import Scoring, exact_bias_columns, score_position
from cuhlm_opt.distributions import softmax
from cuhlm_opt.records import GRID_STEP
from cuhlm_opt.truncation import size_grid
from cuhlm_opt.verification import Proposal

V = 40
SIZES = size_grid(V)


def logits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    slm = (3 * rng.normal(size=V)).astype(np.float32)
    return slm, (slm + rng.normal(size=V)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_row_against_definitions(seed, temperature):
    slm, llm = logits(seed)
    row = score_position(slm, llm, SIZES, Scoring(temperature=temperature), np.random.default_rng(seed))
    x, y = softmax(slm, temperature), softmax(llm, temperature)
    d = row["draft_token"]
    assert row["beta"] == pytest.approx(max(0.0, 1 - y[d] / x[d]), abs=1e-12)
    assert row["tv"] == pytest.approx(0.5 * np.abs(x - y).sum(), abs=1e-12)
    assert row["draft_rank"] == sorted(range(V), key=lambda v: -x[v]).index(d)
    assert row["entropy"] == pytest.approx(-(x @ np.log(x)), abs=1e-9)
    descending = np.sort(x)[::-1]
    assert (row["p_max"], row["margin"]) == pytest.approx((descending[0], descending[0] - descending[1]))
    assert list(row["top_id"]) == sorted(range(V), key=lambda v: -x[v])[:8]
    np.testing.assert_allclose(row["top_x"], x[row["top_id"]])
    np.testing.assert_allclose(row["top_y"], y[row["top_id"]])
    z = slm.astype(float)

    def agreement(theta: float, token: int) -> float:
        scaled = (z - z.max()) / max(theta, 1e-9)
        return float(np.exp(scaled[token]) / np.exp(scaled).sum())

    for token, u_bar in [(d, row["u_bar"]), *zip(row["top_id"][:3], row["top_u_bar"][:3], strict=True)]:
        reference = 1 - quad(agreement, 0, 2, args=(token,), limit=200)[0] / 2
        assert u_bar == pytest.approx(reference, abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_truncation_profile_and_exact_bias_against_enumeration(seed):
    slm, llm = logits(seed)
    row = score_position(slm, llm, SIZES, Scoring(exact_share=1.0), np.random.default_rng(seed))
    x, y = softmax(slm), softmax(llm)
    order = np.argsort(-x)
    for at, k in enumerate(SIZES):
        x_hat = np.full(V, (1 - x[order[:k]].sum()) / max(V - k, 1))
        x_hat[order[:k]] = x[order[:k]]
        for name, value in (("tail_mass", 1 - x[order[:k]].sum()), ("tv_x_xhat", 0.5 * np.abs(x - x_hat).sum())):
            assert value - 1e-11 <= row[name][at] < value + GRID_STEP
            assert row[name][at] % GRID_STEP == 0
        output = sum(x[d] * Proposal(draft=d, tested=x[d], law=x_hat).verify(y).law() for d in range(V))
        assert row["bias_exact"][at] == pytest.approx(0.5 * np.abs(output - y).sum(), abs=1e-12)
        assert row["tv_xhat_y"][at] == pytest.approx(0.5 * np.abs(x_hat - y).sum(), abs=1e-12)
        assert row["bias_exact"][at] <= row["tv_x_xhat"][at] + 1e-12


def test_exact_columns_are_on_the_stated_share_of_positions():
    slm, llm = logits(0)
    rng = np.random.default_rng(1)
    rows = [score_position(slm, llm, SIZES, Scoring(exact_share=0.2), rng) for _ in range(2000)]
    share = np.mean([row["bias_exact"] is not None for row in rows])
    assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 2000)
    drawn = np.bincount([row["draft_token"] for row in rows], minlength=V) / 2000
    x = softmax(slm)
    assert np.all(np.abs(drawn - x) < 4 * np.sqrt(x * (1 - x) / 2000) + 1e-3)


def test_full_upload_has_no_bias():
    x, y = (softmax(z) for z in logits(3))
    columns = exact_bias_columns(x, y, np.array([V]))
    assert columns["bias_exact"][0] < 1e-12
    assert columns["tv_redraw"][0] < 1e-12


def test_small_vocabularies_are_padded():
    slm, llm = np.zeros((2, 3), dtype=np.float32)
    row = score_position(slm, llm, size_grid(3), Scoring(), np.random.default_rng(0))
    assert list(row["top_id"]) == [0, 1, 2, -1, -1, -1, -1, -1]
    assert list(row["top_u_bar"][3:]) == [1.0] * 5
