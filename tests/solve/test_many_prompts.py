"""Where there are very many prompts, candidates are ranked on some; what is shown comes from all."""

import numpy as np
import pytest
from synthetic_records import FLOOR, TIMES, synthetic_positions, write_synthetic

from cuhlm_opt import runs
from cuhlm_opt.modes import Mode
from cuhlm_opt.records import Records, read_records
from cuhlm_opt.solve import solve, threshold

FEW = 12
MODES = [Mode.CU_HLM_OFFLINE, Mode.CU_HLM_ONLINE, Mode.COARSE, Mode.U_HLM]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic")
    _, table, metadata = synthetic_positions(seed=12, vocab_size=120, prompts=120, length=8)
    write_synthetic(path, table, metadata, times=TIMES, numeric_floor=FLOOR)
    return path


@pytest.fixture
def few(monkeypatch):
    """Sixty prompts are many now."""
    monkeypatch.setattr(threshold, "MOST_PROMPTS", FEW)
    monkeypatch.setattr(runs, "MOST_PROMPTS", FEW)


def options(folder, mode: Mode, budget: float) -> dict:
    return {
        "calibration": str(folder), "domain": "code", "policy": "budget", "bandwidth_hz": 2e4, "mode": mode,
        "max_bias": budget, "answer_tokens": 16,
    }  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("budget", [0.0, 0.02, 0.1])
def test_what_is_shown_is_of_all_prompts(folder, few, mode, budget):
    point = solve(**options(folder, mode, budget))
    assert any(f"on {FEW} of the prompts" in line for line in point.assumptions)
    records = Records.of(read_records(folder / "records.parquet"), "code")
    kept = records.top_u_bar <= (-1.0 if point.u_threshold is None else point.u_threshold)
    x, y = records.top_x.astype(float), records.top_y.astype(float)
    if mode is not Mode.COARSE:  # whose drafts are drawn from rounded masses
        assert point.skip_rate == pytest.approx(np.where(kept, x, 0).sum(axis=1).mean(), abs=1e-6)
        assert point.bias_skip == pytest.approx(np.where(kept, np.maximum(x - y, 0), 0).sum(axis=1).mean(), abs=1e-6)
    if mode is Mode.CU_HLM_OFFLINE:
        at = int(np.flatnonzero(records.k_grid == point.k)[0])
        assert point.bias_truncation == pytest.approx(float(records.tv_x_xhat[:, at].mean(dtype=float)))
    if mode is Mode.CU_HLM_ONLINE:
        first = np.argmax(records.tv_x_xhat <= point.theta, axis=1)
        assert point.bias_truncation == pytest.approx(float(records.tv_x_xhat[np.arange(len(first)), first].mean()))
    if budget > 0:
        assert point.bias_total <= budget
    own = next(row for row in point.baselines if row.mode is mode)
    assert own.server_passes_per_token == pytest.approx(1 - point.skip_rate)


@pytest.mark.parametrize("mode", MODES)
def test_ranking_on_some_loses_little(folder, monkeypatch, mode):
    whole = solve(**options(folder, mode, 0.05)).throughput_tokens_per_s
    monkeypatch.setattr(threshold, "MOST_PROMPTS", FEW)  # runs are still counted in all
    assert solve(**options(folder, mode, 0.05)).throughput_tokens_per_s == pytest.approx(whole, rel=0.05)
