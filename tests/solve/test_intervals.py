"""Intervals of every mode's figures: around the figure, as wide as the spread over prompts says."""

import numpy as np
import pytest
from synthetic_records import FLOOR, TIMES, synthetic_positions, write_synthetic

from cuhlm_opt.artefacts import ModeRow, OperatingPoint
from cuhlm_opt.modes import Mode
from cuhlm_opt.records import Records, read_records
from cuhlm_opt.solve import solve

PROMPTS = 80
GIVEN = (Mode.SLM, Mode.LLM, Mode.HLM, Mode.RANDOM, Mode.SPECULATIVE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic")
    _, table, metadata = synthetic_positions(seed=5, vocab_size=60, prompts=PROMPTS, length=6)
    write_synthetic(path, table, metadata, times=TIMES, numeric_floor=FLOOR)
    return path


@pytest.fixture(scope="module")
def records(folder) -> Records:
    return Records.of(read_records(folder / "records.parquet"), "code")


@pytest.fixture(scope="module")
def point(folder) -> OperatingPoint:
    return solve(str(folder), bandwidth_hz=1e6, domain="code", max_bias=0.05, policy="budget")


def row(point: OperatingPoint, mode: Mode) -> ModeRow:
    return next(row for row in point.baselines if row.mode is mode)


def clustered_error(records: Records, values: np.ndarray) -> float:
    """Standard error of a mean over positions, by the sums of each prompt's deviations."""
    tokens = np.bincount(records.prompt)
    deviations = np.bincount(records.prompt, weights=values) - values.mean() * tokens
    return float(np.sqrt(np.sum(deviations**2)) / tokens.sum())


@pytest.mark.parametrize("mode", [mode for mode in Mode if mode not in GIVEN])
def test_each_interval_holds_its_figure(point, mode):
    found = row(point, mode)
    for value, span in (
        (found.skip_rate, found.skip_rate_ci),
        (found.throughput_tokens_per_s, found.throughput_ci),
        (found.bias, found.bias_ci),
    ):
        assert span[0] < value < span[1]


def test_width_follows_the_spread_over_prompts(point, records):
    found = row(point, Mode.U_HLM)
    skippable = records.top_u_bar <= found.u_threshold
    x, y = records.top_x.astype(float), records.top_y.astype(float)
    skip = np.where(skippable, x, 0.0).sum(axis=1)
    risk = np.where(skippable, np.maximum(x - y, 0.0), 0.0).sum(axis=1)
    for (low, high), values in ((found.skip_rate_ci, skip), (found.bias_ci, risk)):
        assert (high - low) / (2 * 1.96 * clustered_error(records, values)) == pytest.approx(1, abs=0.2)


def test_modes_without_a_gate(point, records):
    """The bias of slm is a mean TV; random scales it and adds rounding; llm and hlm have no sampling error."""
    low, high = row(point, Mode.SLM).bias_ci
    assert low < records.tv.mean() < high
    assert (high - low) / (2 * 1.96 * clustered_error(records, records.tv)) == pytest.approx(1, abs=0.2)
    coin, rounding = row(point, Mode.RANDOM), row(point, Mode.HLM).bias
    assert coin.bias_ci == pytest.approx((coin.skip_rate * low + rounding, coin.skip_rate * high + rounding), abs=1e-6)
    rounds = row(point, Mode.SPECULATIVE)
    assert rounds.throughput_ci[0] < rounds.throughput_tokens_per_s < rounds.throughput_ci[1]
    assert rounds.skip_rate_ci is rounds.bias_ci is None
    for mode in GIVEN[:-1]:
        assert row(point, mode).skip_rate_ci is row(point, mode).throughput_ci is None
    assert row(point, Mode.LLM).bias_ci is row(point, Mode.HLM).bias_ci is None


def test_the_point_has_the_intervals_of_its_row_and_of_its_parts(point):
    mine = row(point, point.mode)
    assert (point.skip_rate_ci, point.throughput_ci, point.bias_total_ci) == (
        mine.skip_rate_ci,
        mine.throughput_ci,
        mine.bias_ci,
    )
    assert point.bias_skip_ci[0] < point.bias_skip < point.bias_skip_ci[1]
    assert point.bias_total_ci[0] > point.bias_skip_ci[0] + point.bias_quantisation


def test_one_prompt_has_no_interval(tmp_path):
    _, table, metadata = synthetic_positions(seed=5, vocab_size=60, prompts=2, length=6)
    write_synthetic(tmp_path, table, metadata)
    point = solve(str(tmp_path), bandwidth_hz=1e6, domain="code", policy="budget")
    assert point.skip_rate_ci is point.bias_total_ci is point.throughput_ci is None
