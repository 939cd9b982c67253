"""Truncation sizes by every rule against definitions, and the shared budget against a search over every pair."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from synthetic_records import TIMES, synthetic_positions

from cuhlm_opt.channel import AwgnUplink, Link
from cuhlm_opt.latency import Accounting, ComputeTimes, token_law
from cuhlm_opt.modes import Mode
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import MEASURED_BITS, Quantiser, measured_sizes
from cuhlm_opt.records import GRID_STEP, Records
from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.coding import Coding, open_codings
from cuhlm_opt.solve.joint import Worth, share
from cuhlm_opt.solve.threshold import Gate
from cuhlm_opt.solve.truncation import (
    Truncation,
    offline_by_bound,
    offline_by_surrogate,
    offline_choices,
    offline_profile,
    online_by_bound,
    online_by_surrogate,
    online_choices,
    online_tolerances,
)

V = 300
POSITIONS, TABLE, METADATA = synthetic_positions(seed=2, vocab_size=V)
CODE = [position for position in POSITIONS if position.domain == "code"]
LINK = Link(uplink=AwgnUplink(bandwidth_hz=2e5, snr=10.0))
COMPUTE = ComputeTimes(slm_s=TIMES.slm_s, gate_s=TIMES.gate_s, llm_pass_s=TIMES.llm_pass_s)


@pytest.fixture(scope="module")
def records() -> Records:
    return Records.of(TABLE.replace_schema_metadata({b"cuhlm_opt": json.dumps(METADATA)}), "code")


@pytest.fixture(scope="module")
def gate(records) -> Gate:
    return Gate(records, Signal.U_BAR)


def distance(x: np.ndarray, k: int) -> float:
    """TV(x, x_hat_k), with x_hat written out."""
    order = np.argsort(-x, kind="stable")
    x_hat = np.full(V, (1 - x[order[:k]].sum()) / max(V - k, 1))
    x_hat[order[:k]] = x[order[:k]]
    return 0.5 * float(np.abs(x - x_hat).sum())


def surrogate(x: np.ndarray, k: int, x_d: float, beta: float) -> float:
    """The published U, eta = 1 [P2, THEORY 2.7]."""
    return 2 * distance(x, k) / ((1 - x_d) * np.log(1 + np.exp(-1)) + x_d * np.log(1 + np.exp(-beta)))


def first(sizes, values, theta):
    return next(int(k) for k, value in zip(sizes, values, strict=True) if value <= theta)


@pytest.mark.parametrize("theta", [0.3, 0.1, 0.02, 0.003])
def test_offline_size_is_the_first_within_theta(records, theta):
    exact = [np.mean([distance(position.x, int(k)) for position in CODE]) for k in records.k_grid]
    profile = offline_profile(records)
    assert np.all((profile >= np.array(exact) - 1e-9) & (profile <= np.array(exact) + GRID_STEP))
    assert np.all(np.diff(profile) <= 0)
    chosen = offline_by_bound(records, theta)
    assert records.k_grid[chosen.at] == first(records.k_grid, profile, theta)
    assert chosen.bias <= theta


def test_no_tolerance_takes_the_whole_vocabulary(records):
    assert records.k_grid[offline_by_bound(records, 0.0).at] == V
    assert offline_by_bound(records, 0.0).bias == 0.0
    assert online_by_bound(records, 0.0).bias == 0.0


@pytest.mark.parametrize("theta", [1.0, 0.3, 0.1, 0.02])
def test_offline_surrogate_averages_over_drafts(records, theta):
    values = [
        np.mean([surrogate(p.x, int(k), d, b) for p, d, b in zip(CODE, records.x_d, records.beta, strict=True)])
        for k in records.k_grid
    ]
    chosen = offline_by_surrogate(records, theta)
    # Rounding the profile up by at most GRID_STEP raises U by at most 2 GRID_STEP / l(-1).
    slack = 2 * GRID_STEP / np.log(1 + np.exp(-1))
    assert (
        first(records.k_grid, values, theta)
        <= records.k_grid[chosen.at]
        <= first(records.k_grid, np.array(values) + slack, theta)
    )
    assert chosen.bias == offline_profile(records)[chosen.at]


@pytest.mark.parametrize("theta", [0.3, 0.05, 0.01])
def test_online_sizes_are_the_first_within_theta_at_each_position(records, theta):
    chosen = online_by_bound(records, theta)
    for position, size in zip(CODE, records.k_grid[chosen.at], strict=True):
        exact = np.array([distance(position.x, int(k)) for k in records.k_grid])
        assert first(records.k_grid, exact, theta) <= size <= first(records.k_grid, exact + GRID_STEP, theta)
    spent = [distance(position.x, int(size)) for position, size in zip(CODE, records.k_grid[chosen.at], strict=True)]
    assert np.mean(spent) <= chosen.bias <= theta


@pytest.mark.parametrize("signal", [Signal.U_BAR, Signal.U_MC, Signal.MARGIN])
def test_online_surrogate_replaces_beta_by_the_clipped_line(records, signal):
    slope, intercept, theta = 0.8, -0.1, 0.2
    u = records.signal(signal)
    chosen = online_by_surrogate(records, theta, u, slope, intercept)
    assert chosen.bias is None
    slack = 2 * GRID_STEP / np.log(1 + np.exp(-1))
    for index, position in enumerate(CODE):
        beta = min(max(slope * u[index] + intercept, 0.0), 1.0)
        values = np.array([surrogate(position.x, int(k), records.x_d[index], beta) for k in records.k_grid])
        low, high = (first(records.k_grid, values + extra, theta) for extra in (0.0, slack))
        assert low <= records.k_grid[chosen.at[index]] <= high


def test_bias_of_online_sizes_grows_with_the_tolerance(records):
    biases = [online_by_bound(records, float(theta)).bias for theta in online_tolerances()]
    assert np.all(np.diff(biases) >= 0)
    assert [choice.bias for choice in online_choices(records)] == biases
    assert biases[0] == 0.0


@pytest.mark.parametrize("accounting", list(Accounting))
@pytest.mark.parametrize("budget", [0.0, 0.05, 0.2])
def test_objective_is_the_throughput_of_the_latency_model(gate, accounting, budget):
    link = Link(uplink=AwgnUplink(bandwidth_hz=2e5, snr=10.0), rtt_s=0.02, downlink_s=0.003)
    worth = Worth(times=COMPUTE, link=link, accounting=accounting)
    asks = gate.asks(gate.at(gate.largest_within(budget)).skip, np.full(gate.records.n_tokens, 400.0))
    law = token_law(Mode.CU_HLM_OFFLINE, COMPUTE, link, asks, 1)
    bits = np.array([400.0])
    ranked = worth(np.array([1 - asks.rate]), asks.weights, link.mean_uplink_s(bits), bits)[0]
    assert ranked == pytest.approx(law.throughput(accounting), rel=1e-9)


def device_and_llm_s(gate, skipping) -> float:
    """Time of a token without its message."""
    asks = gate.asks(skipping.skip)
    return token_law(Mode.CU_HLM_OFFLINE, COMPUTE, LINK, asks, 1).mean_s


def worth_of(base_s, skipping, bits) -> float:
    """Tokens per second: each position's message over the rate, if it asks."""
    return 1 / (base_s + float(np.mean((1 - skipping.skip) * bits)) / LINK.uplink.rate_bps)


@pytest.mark.parametrize("budget", [0.0, 0.01, 0.03, 0.1, 0.4])
@pytest.mark.parametrize("offline", [True, False])
def test_shared_budget_is_the_best_of_every_pair(records, gate, budget, offline):
    """No (t, k), or (t, theta), in any coding, whose three biases are within the budget, is faster [N, THEORY 4.5]."""
    worth = Worth(times=COMPUTE, link=LINK, accounting=Accounting.MEAN_LATENCY)
    codings = open_codings(records, Format.COMPACT, None, None)
    choices = offline_choices(records) if offline else [each for each in online_choices(records) if each.bias <= budget]
    chosen = next(share(gate, budget, worth, choices, codings))
    if offline:
        candidates = [offline_by_bound(records, value) for value in offline_profile(records)]
    else:
        candidates = [online_by_bound(records, float(theta)) for theta in online_tolerances()]
    written = [candidate.written(coding) for candidate in candidates for coding in codings]
    if budget == 0:
        assert chosen.spent == min(other.spent for other in written) > 0
        return
    at = gate.at(gate.largest_within(budget, chosen.spent))
    assert np.mean(at.risk) + chosen.spent <= budget
    levels = [None, *gate.curve.levels[:: max(1, len(gate.curve.levels) // 20)].tolist()]
    best = 0.0
    for other in map(gate.at, levels):
        base_s, risk = device_and_llm_s(gate, other), np.mean(other.risk)
        affordable = [worth_of(base_s, other, each.bits) for each in written if risk + each.spent <= budget]
        best = max([best, *affordable])
    assert worth_of(device_and_llm_s(gate, at), at, chosen.bits) >= best * (1 - 1e-6)


def test_rounding_is_counted_at_each_position_s_own_size(records):
    """Flat laws take more entries and lose more: the mean over positions, not the means at the sizes."""
    coding = Coding(records, Format.COMPACT, Quantiser.UNIFORM, 8)
    chosen = online_by_bound(records, 0.02).written(coding)
    sizes = measured_sizes(V)
    own = []
    for row, k in zip(records.tv_quantised, chosen.sizes[records.measured], strict=True):
        near = (max(s for s in sizes if s <= k), min(s for s in sizes if s >= k))
        own.append(max(row[0, MEASURED_BITS.index(8), list(sizes).index(size)] for size in near))
    assert chosen.bias_quantisation == pytest.approx(np.mean(own))
    assert chosen.bias_quantisation > 1.05 * np.mean([coding.mean_bias(at) for at in chosen.at])


def published(records: Records) -> Sequence[Coding]:
    """The one coding of the published format."""
    return open_codings(records, Format.PUBLISHED, None, None)


def test_narrow_link_sends_less_than_a_wide_one(gate):
    def entries(bandwidth_hz: float) -> float:
        link = Link(uplink=AwgnUplink(bandwidth_hz=bandwidth_hz, snr=10.0))
        worth = Worth(times=COMPUTE, link=link, accounting=Accounting.MEAN_LATENCY)
        return next(share(gate, 0.03, worth, offline_choices(gate.records), published(gate.records))).k

    assert entries(1e3) < entries(1e8)


def test_without_times_the_link_alone_is_compared(gate):
    worth = Worth(times=None, link=LINK, accounting=Accounting.MEAN_LATENCY)
    (coding,) = published(gate.records)
    chosen = next(share(gate, 0.05, worth, offline_choices(gate.records), [coding]))

    def sent(truncation: Truncation) -> float:
        asking = 1 - gate.at(gate.largest_within(0.05, truncation.spent)).skip_rate
        return asking * truncation.bits.mean()

    others = [offline_by_bound(gate.records, float(value)).written(coding) for value in offline_profile(gate.records)]
    assert all(sent(chosen) <= sent(other) + 1e-9 for other in others if other.spent <= 0.05)
