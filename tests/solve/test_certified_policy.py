"""The certified policy inside `solve`: what it promises, what it refuses, and what happens with too few prompts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from synthetic_records import synthetic_positions, write_synthetic

from cuhlm_opt.errors import InfeasibleError, InputError
from cuhlm_opt.modes import Mode
from cuhlm_opt.quantisation import Quantiser, level_below
from cuhlm_opt.records import Records, read_records
from cuhlm_opt.solve import solve
from cuhlm_opt.solve.losses import threshold_grid

LINK = {"bandwidth_hz": 10e6, "policy": "certified", "domain": "code"}
BUDGET = 0.05


def write(folder, prompts: int, source: str = "llm") -> str:
    """A synthetic calibration; half of its prompts are in domain `code`."""
    _, table, metadata = synthetic_positions(seed=9, prompts=prompts, vocab_size=60, length=6)
    at = table.schema.get_field_index("source")
    table = table.set_column(at, table.schema.field(at), pa.array([source] * len(table)))
    write_synthetic(folder, table, metadata)
    return str(folder)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return write(tmp_path_factory.mktemp("many"), 240)


def losses_by_hand(
    records: Records, threshold: float, eps: float, limit: int, *, round_down: bool = True
) -> np.ndarray:
    """L_i(t) = (sum over tokens and skippable v of (x_v - y_v)+ + eps (T_max - length)) / T_max, token by token.

    `round_down` takes x_v as `coarse` draws it, at 8 bits.
    """
    decoded = level_below(records.top_x, Quantiser.UNIFORM, 8) if round_down else records.top_x
    losses = np.zeros(records.n_prompts)
    lengths = np.zeros(records.n_prompts)
    for token, prompt in enumerate(records.prompt):
        lengths[prompt] += 1
        for u, x, y in zip(records.top_u_bar[token], decoded[token], records.top_y[token], strict=True):
            losses[prompt] += max(x - y, 0.0) if u <= threshold else 0.0
    return (losses + eps * (limit - lengths)) / limit


def test_threshold_is_the_largest_that_conformal_risk_control_allows(many):
    """(n R_n(t) + 1)/(n + 1) <= eps at the threshold, and not at the next one of the grid."""
    point = solve(many, max_bias=BUDGET, mode=Mode.COARSE, **LINK)
    records = Records.of(read_records(Path(many) / "records.parquet"), "code")
    n, grid = records.n_prompts, threshold_grid()
    at = int(np.searchsorted(grid, point.u_threshold))
    assert grid[at] == point.u_threshold < grid[-2]

    def bound(threshold: float) -> float:
        return (losses_by_hand(records, threshold, BUDGET, 6).sum() + 1) / (n + 1)

    assert bound(grid[at]) <= BUDGET < bound(grid[at + 1])
    assert point.bias_total <= BUDGET
    assert (point.certificate.n_prompts, point.certificate.delta) == (n, None)
    assert point.certificate.method == "conformal-risk-control"


def test_certificate_costs_skip_rate_and_more_with_high_probability(many):
    rates = [
        solve(many, max_bias=BUDGET, mode=Mode.COARSE, **{**LINK, **choice}).skip_rate
        for choice in ({"policy": "budget"}, {"delta": 0.5}, {"delta": 0.05})
    ]
    assert rates[0] > rates[1] > rates[2] > 0


def test_truncation_is_taken_from_the_certified_budget(many):
    point = solve(many, max_bias=BUDGET, mode=Mode.CU_HLM_OFFLINE, theta=0.02, **LINK)
    taken = point.bias_truncation + point.bias_quantisation
    assert 0 < taken < BUDGET
    assert point.bias_total <= BUDGET
    n, grid = 120, threshold_grid()
    records = Records.of(read_records(Path(many) / "records.parquet"), "code")
    assert records.n_prompts == n
    left = BUDGET - taken
    bounds = [(losses_by_hand(records, t, left, 6, round_down=False).sum() + 1) / (n + 1) for t in grid[:-1]]
    assert point.u_threshold == grid[np.flatnonzero(np.array(bounds) <= left)[-1]]


def test_too_few_prompts_never_skip_and_say_how_many_are_needed(tmp_path):
    point = solve(write(tmp_path, 12), max_bias=0.02, mode=Mode.COARSE, **LINK)
    assert (point.u_threshold, point.skip_rate) == (None, 0.0)
    warning = next(line for line in point.warnings if "never skip" in line)
    assert "6 prompts" in warning
    assert "are needed" in warning or "more prompts do not help" in warning


def test_min_skip_that_is_not_reached_is_infeasible(many):
    with pytest.raises(InfeasibleError, match=r"--min-skip 0\.99 is not reached by coarse, which skips"):
        solve(many, max_bias=BUDGET, mode=Mode.COARSE, min_skip=0.99, **LINK)
    assert solve(many, max_bias=BUDGET, mode=Mode.COARSE, min_skip=0.01, **LINK).skip_rate >= 0.01


def test_contexts_of_the_slm_carry_no_certificate(tmp_path):
    with pytest.raises(InputError, match="needs contexts drawn by the LLM; recorded: slm"):
        solve(write(tmp_path, 12, source="slm"), **LINK)


def test_delta_is_checked(many):
    for delta in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="--delta"):
            solve(many, delta=delta, **LINK)
    with pytest.raises(InputError, match="goes with --policy certified"):
        solve(many, bandwidth_hz=10e6, policy="budget", delta=0.1)


def test_budget_of_zero_never_skips(many):
    point = solve(many, max_bias=0.0, mode=Mode.COARSE, **LINK)
    assert (point.skip_rate, point.certificate) == (0.0, None)
