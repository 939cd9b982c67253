"""Shares of a bandwidth: conditions of optimality, an independent convex solver, limits, and what is monotone."""

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuhlm_opt.allocation import (
    SLACK,
    Demands,
    Fairness,
    allocate,
    least_maximum,
    optimality_residual,
    rate_bps,
    share_hz,
    steepness,
)
from cuhlm_opt.errors import InputError

BANDWIDTH_HZ = 2e6


@st.composite
def demands(draw, least: int = 1, most: int = 8) -> Demands:
    """Devices of SNRs from -20 to 30 dB over the whole bandwidth, some of which send nothing."""
    n = draw(st.integers(least, most))

    def column(low: float, high: float) -> np.ndarray:
        return np.array(draw(st.lists(st.floats(low, high), min_size=n, max_size=n)))

    sends = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    sends[0] = True
    return Demands(
        capacity_hz=BANDWIDTH_HZ * 10 ** column(-2, 3),
        bits=np.where(sends, 10 ** column(0, 5.5), 0.0),
        base_s=column(1e-4, 0.2),
        weights=10 ** column(-1, 1),
        most_s=np.full(n, np.inf),
    )


@given(st.floats(-30, 30), st.floats(-8, 0))
def test_share_for_a_rate_is_the_inverse(log_capacity, log_fraction):
    capacity = np.array([10.0**log_capacity])
    rate = capacity / np.log(2) * 10.0**log_fraction * 0.999
    share = share_hz(rate, capacity)
    np.testing.assert_allclose(rate_bps(share, capacity), rate, rtol=1e-9)


def test_no_share_reaches_the_power_limit():
    capacity = np.array([3.0, 3.0, 3.0])
    assert share_hz(np.array([0.0, 3.0 / np.log(2), 9.0]), capacity).tolist() == [0.0, np.inf, np.inf]
    assert rate_bps(np.array([1e12]), capacity[:1])[0] == pytest.approx(3.0 / np.log(2), rel=1e-9)


@given(demands(), st.sampled_from([Fairness.SUM, Fairness.PROPORTIONAL]), st.floats(-6, 6))
def test_steepness_is_the_derivative(found, fairness, log_share):
    shares = found.capacity_hz * 10.0**log_share
    step = 1e-5 * shares

    def term(at: np.ndarray) -> np.ndarray:
        latency_s = found.latency_s(at)
        return found.weights * (np.log(latency_s) if fairness is Fairness.PROPORTIONAL else latency_s - found.base_s)

    sends = (found.bits > 0) & (found.base_s < 1e3 * (found.latency_s(shares) - found.base_s))
    fall = (term(shares - step) - term(shares + step)) / (2 * step)
    np.testing.assert_allclose(
        steepness(found, fairness, shares)[sends], fall[sends], rtol=3e-4, atol=1e-9 / shares.min()
    )


@given(demands(), st.sampled_from(list(Fairness)))
def test_shares_meet_the_conditions_of_optimality(found, fairness):
    shares, residual = allocate(found, fairness, BANDWIDTH_HZ)
    assert residual < 1e-9
    assert np.all(shares >= 0)
    assert shares.sum() == pytest.approx(BANDWIDTH_HZ, rel=1e-12)
    assert np.all(shares[found.bits == 0] == 0)


def objective(found: Demands, fairness: Fairness, shares: np.ndarray) -> float:
    latency_s, sends = found.latency_s(shares), found.bits > 0
    if fairness is Fairness.PROPORTIONAL:
        return float(found.weights[sends] @ np.log(latency_s[sends]))
    weighted = (found.weights * latency_s)[sends]
    return float(weighted.max() if fairness is Fairness.MAX else weighted.sum())


@given(demands(), st.sampled_from(list(Fairness)), st.integers(0, 10**6))
def test_no_other_split_is_better(found, fairness, seed):
    """Equal, proportional to load, and random ones."""
    rng, sends = np.random.default_rng(seed), found.bits > 0
    best = objective(found, fairness, allocate(found, fairness, BANDWIDTH_HZ)[0])
    slack = SLACK * abs(best) if fairness is Fairness.MAX else 1e-9 * max(abs(best), 1.0)
    for split in (sends * 1.0, found.bits, *(sends * rng.dirichlet(np.ones(len(sends))) for _ in range(5))):
        assert best <= objective(found, fairness, split / split.sum() * BANDWIDTH_HZ) + slack


@given(demands(), st.sampled_from(list(Fairness)))
def test_more_bandwidth_is_never_worse(found, fairness):
    values = [objective(found, fairness, allocate(found, fairness, width)[0]) for width in (1e5, 1e6, 1e7)]
    assert np.all(np.diff(values) <= (SLACK if fairness is Fairness.MAX else 1e-9) * np.abs(values[:-1]).max())


def test_equal_devices_get_equal_shares():
    same = Demands(
        capacity_hz=np.full(4, 1e7), bits=np.full(4, 300.0), base_s=np.full(4, 0.05), weights=np.ones(4),
        most_s=np.full(4, np.inf),
    )  # fmt: skip
    for fairness in Fairness:
        np.testing.assert_allclose(allocate(same, fairness, BANDWIDTH_HZ)[0], BANDWIDTH_HZ / 4, rtol=1e-9)


def test_where_noise_hardly_matters_shares_go_by_the_square_root_of_load():
    """Of rates close to W_i log2(c_i/W_i) with c_i huge: sum a_i/W_i is least at W_i ~ sqrt(a_i), nearly."""
    strong = Demands(
        capacity_hz=np.full(2, 1e40), bits=np.array([100.0, 400.0]), base_s=np.zeros(2), weights=np.ones(2),
        most_s=np.full(2, np.inf),
    )  # fmt: skip
    shares, _ = allocate(strong, Fairness.SUM, BANDWIDTH_HZ)
    assert shares[1] / shares[0] == pytest.approx(2.0, rel=0.01)


class Program:
    """The same problems for a convex solver, in units of the equal share; compiled once, then given parameters."""

    def __init__(self, n: int) -> None:
        self.share = cp.Variable(n, nonneg=True)
        self.capacity, self.load, self.base = (cp.Parameter(n, nonneg=True) for _ in range(3))
        self.rate = cp.Variable(n, nonneg=True)
        reached = -cp.rel_entr(self.share, self.share + self.capacity) / np.log(2)
        limits = [self.rate <= reached, cp.sum(self.share) <= n]
        latency = self.base + cp.multiply(self.load, cp.inv_pos(self.rate))
        self.programs = {
            Fairness.SUM: cp.Problem(cp.Minimize(cp.sum(latency)), limits),
            Fairness.MAX: cp.Problem(cp.Minimize(cp.max(latency)), limits),
        }

    def shares(self, found: Demands, fairness: Fairness) -> np.ndarray:
        n = len(found.bits)
        unit = BANDWIDTH_HZ / n
        self.capacity.value = found.capacity_hz / unit
        self.load.value = found.weights * found.bits / unit
        self.base.value = found.weights * found.base_s
        self.programs[fairness].solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
        shares = np.maximum(self.share.value, 1e-12)
        return shares / shares.sum() * BANDWIDTH_HZ


@pytest.fixture(scope="module")
def program() -> Program:
    built = Program(4)
    assert all(each.is_dcp(dpp=True) for each in built.programs.values())
    return built


@pytest.mark.parametrize("fairness", [Fairness.SUM, Fairness.MAX])
@pytest.mark.parametrize("seed", range(12))
def test_a_general_convex_solver_finds_nothing_better(program, fairness, seed):
    """The conic solver loses accuracy here: its answer is judged by the objective of its shares, not by its status."""
    rng = np.random.default_rng(seed)
    found = Demands(
        capacity_hz=BANDWIDTH_HZ * 10 ** rng.uniform(-1, 2, 4), bits=10 ** rng.uniform(3, 5, 4),
        base_s=rng.uniform(0.03, 0.1, 4), weights=rng.uniform(0.5, 2, 4), most_s=np.full(4, np.inf),
    )  # fmt: skip
    theirs = objective(found, fairness, program.shares(found, fairness))
    worst = fairness is Fairness.MAX
    ours = least_maximum(found, BANDWIDTH_HZ) if worst else allocate(found, fairness, BANDWIDTH_HZ)[0]
    assert objective(found, fairness, ours) <= theirs * (1 + 1e-9)
    assert objective(found, fairness, ours) == pytest.approx(theirs, rel=1e-3)


@given(demands(least=2), st.sampled_from(list(Fairness)), st.floats(1.05, 5.0))
@settings(max_examples=50)
def test_limits_are_kept_and_bind(found, fairness, room):
    """A limit between what any bandwidth gives and what the free optimum gives."""
    free = found.latency_s(allocate(found, fairness, BANDWIDTH_HZ)[0])
    floor = found.base_s + found.bits * np.log(2) / found.capacity_hz
    limit = np.full(len(free), np.inf)
    limit[0] = floor[0] + (free[0] - floor[0]) / room
    limited = Demands(**{**vars(found), "most_s": limit})
    if limited.least_hz.sum() > BANDWIDTH_HZ:
        with pytest.raises(InputError, match="limits need"):
            allocate(limited, fairness, BANDWIDTH_HZ)
        return
    shares, residual = allocate(limited, fairness, BANDWIDTH_HZ)
    assert residual < 1e-8
    assert limited.latency_s(shares)[0] <= limit[0] * (1 + 1e-9)


def test_unreachable_limits_are_told_apart():
    pair = Demands(
        capacity_hz=np.array([1e6, 1e6]), bits=np.array([1e4, 1e4]), base_s=np.array([0.05, 0.05]), weights=np.ones(2),
        most_s=np.array([0.05 + 1e4 * np.log(2) / 1e6, 0.06]),
    )  # fmt: skip
    assert pair.unreachable.tolist() == [True, False]
    assert pair.least_hz[0] == np.inf


def test_residual_sees_a_split_that_is_not_optimal():
    found = Demands(
        capacity_hz=np.array([1e6, 1e8]), bits=np.array([500.0, 500.0]), base_s=np.zeros(2), weights=np.ones(2),
        most_s=np.full(2, np.inf),
    )  # fmt: skip
    equal = np.full(2, BANDWIDTH_HZ / 2)
    for fairness in Fairness:
        assert optimality_residual(found, fairness, equal, BANDWIDTH_HZ) > 0.1
        assert optimality_residual(found, fairness, 0.9 * equal, BANDWIDTH_HZ) >= 0.1
