"""Objectives and limits against an independent brute force from THEORY.md; infeasible limits and what to relax.

The brute force shares no code with the package but the records' columns: its own rounding bits, its own replay of runs,
its own law of latency.
"""

import re
from itertools import product

import numpy as np
import pytest
from synthetic_records import FLOOR, TIMES, synthetic_positions, write_synthetic

from cuhlm_opt.errors import InfeasibleError, InputError
from cuhlm_opt.modes import Mode
from cuhlm_opt.records import Records, read_records
from cuhlm_opt.solve import solve

V = 40
TOKENS = 6
PROBLEMS = 50


@pytest.fixture(scope="module", params=range(5))
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic")
    _, table, metadata = synthetic_positions(seed=request.param, vocab_size=V, prompts=6, length=TOKENS)
    write_synthetic(path, table, metadata, times=TIMES, numeric_floor=FLOOR)
    return path


def llm_s(n: int) -> float:
    sizes, seconds = zip(*TIMES.llm_pass_s.items(), strict=True)
    slope = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
    return float(np.interp(n, sizes, seconds)) + slope * max(n - sizes[-1], 0)


def half_of_all(folder) -> float:
    """A budget of half the bias of skipping everything."""
    return float(Records.of(read_records(folder / "records.parquet"), "code").tv.mean()) / 2


class BruteForce:
    """`cu-hlm-offline` in the published format, 8 bits, uniform: every threshold with every size."""

    def __init__(self, folder, bandwidth_hz: float, budget: float, rtt_s: float) -> None:
        self.records = Records.of(read_records(folder / "records.parquet"), "code")
        self.rate, self.budget, self.rtt_s = bandwidth_hz * np.log2(11.0), budget, rtt_s
        self.points = list(self._points())

    def _points(self):
        records = self.records
        levels = [-1.0, *np.unique(records.top_u_bar[(records.top_u_bar < 0.875) & (records.top_x > 0)]), 1.0]
        rounding = records.tv_quantised[:, 0, 3].astype(float)  # uniform, 8 bits
        sizes = [1, 2, 4, 8, 16, 32, V]
        for level, size in product(levels, range(len(records.k_grid))):
            kept = records.top_u_bar <= level
            x, y = records.top_x.astype(float), records.top_y.astype(float)
            skip = np.where(kept, x, 0).sum(axis=1)
            risk = np.where(kept, np.maximum(x - y, 0), 0).sum(axis=1).mean()
            if level == 1:
                skip, risk = np.ones(len(skip)), records.tv.mean()
            k = int(records.k_grid[size])
            below, above = max((s for s in sizes if s <= k), default=1), min(s for s in sizes if s >= max(k, 1))
            lost = rounding[:, [sizes.index(below), sizes.index(above)]].max(axis=1).mean() if k else 0.0
            bias = risk + records.tv_x_xhat[:, size].astype(float).mean() + lost
            if bias <= self.budget:
                yield self._figures(skip, 14 * k)  # 8 bits and ceil(log2 40)

    def _figures(self, skip, bits: int) -> dict[str, float]:
        atoms = []
        device = TIMES.slm_s + TIMES.gate_s
        for prompt in np.unique(self.records.prompt):
            chances = skip[self.records.prompt == prompt]
            state = {0: 1.0}
            for chance in chances:
                after: dict[int, float] = {0: 0.0}
                for pending, weight in state.items():
                    atoms.append((weight * chance / len(skip), device))
                    asked_s = device + bits / self.rate + self.rtt_s + llm_s(pending + 1)
                    atoms.append((weight * (1 - chance) / len(skip), asked_s))
                    after[pending + 1] = after.get(pending + 1, 0.0) + weight * chance
                    after[0] += weight * (1 - chance)
                state = after
        weights, seconds = (np.array(column) for column in zip(*atoms, strict=True))
        order = np.argsort(seconds)
        reached = np.cumsum(weights[order])
        passes = float(np.mean(1 - skip))
        mean = float(weights @ seconds)
        return {
            "throughput": 1 / mean,
            "p95": float(seconds[order][np.searchsorted(reached, 0.95 * (1 - 1e-9))]),
            "passes": passes,
            "uplink": passes * bits / mean,
            "bits": passes * bits,
        }


def options(bandwidth_hz: float, budget: float, rtt_s: float) -> dict:
    return {
        "bandwidth_hz": bandwidth_hz, "snr_db": 10.0, "rtt_s": rtt_s, "domain": "code", "max_bias": budget,
        "policy": "budget", "law_format": "published", "answer_tokens": TOKENS, "mode": Mode.CU_HLM_OFFLINE,
    }  # fmt: skip


@pytest.mark.parametrize("number", range(PROBLEMS // 5))
def test_throughput_is_the_brute_force_s(folder, number):
    """50 problems; the optimiser may lose what interpolating runs between its 48 thresholds costs."""
    rng = np.random.default_rng(number)
    chosen = (float(10 ** rng.uniform(3, 6)), float(rng.choice([0.02, 0.05, 0.1, 0.2])), float(rng.choice([0.0, 0.04])))
    best = max((point["throughput"] for point in BruteForce(folder, *chosen).points), default=None)
    found = solve(str(folder), **options(*chosen))
    if best is None:
        assert found.bias_total > chosen[1]
    else:
        assert found.throughput_tokens_per_s == pytest.approx(best, rel=2e-3)


@pytest.mark.parametrize(("objective", "key"), [("bits", "bits"), ("passes", "passes"), ("latency-p95", "p95")])
def test_other_objectives_are_near_the_brute_force_s(folder, objective, key):
    chosen = (2e4, half_of_all(folder), 0.0)
    best = min(point[key] for point in BruteForce(folder, *chosen).points)
    found = solve(str(folder), **options(*chosen), objective=objective)
    value = {
        "bits": (1 - found.skip_rate) * found.payload_bits,
        "passes": 1 - found.skip_rate,
        "p95": found.latency_p95_s,
    }[key]
    assert best * (1 - 1e-6) <= value <= best * (1.1 if key == "p95" else 1.02)


def test_limits_are_kept_and_bind(folder):
    """Each limit set between its value at the free optimum and the least that brute force finds."""
    chosen = (2e4, half_of_all(folder), 0.0)
    brute, free = BruteForce(folder, *chosen), solve(str(folder), **options(*chosen))
    uplink = (1 - free.skip_rate) * free.payload_bits * free.throughput_tokens_per_s
    least = min(point["uplink"] for point in brute.points)
    limit = (uplink + least) / 2
    found = solve(str(folder), **options(*chosen), max_uplink_bps=limit)
    assert (1 - found.skip_rate) * found.payload_bits * found.throughput_tokens_per_s <= limit * (1 + 1e-6)
    best = max(point["throughput"] for point in brute.points if point["uplink"] <= limit)
    assert found.throughput_tokens_per_s >= 0.97 * best
    late = min(point["p95"] for point in brute.points)
    if late < 0.98 * free.latency_p95_s:
        limit = 0.2 * late + 0.8 * free.latency_p95_s
        found = solve(str(folder), **options(*chosen), max_latency_p95_s=limit)
        assert found.latency_p95_s <= limit * (1 + 1e-6)
        assert found.binding in ("max_latency_p95", "max_bias", "records")


def test_throughput_grows_with_every_budget(folder):
    def speed(**changes: float) -> float:
        given = {"bandwidth_hz": 2e4, "budget": half_of_all(folder), "rtt_s": 0.0} | changes
        return solve(str(folder), **options(**given)).throughput_tokens_per_s

    for name, values in (("budget", (0.2, 0.4, 0.6, 0.8)), ("bandwidth_hz", (1e3, 1e4, 1e5, 1e6))):
        scale = 2 * half_of_all(folder) if name == "budget" else 1.0
        speeds = [speed(**{name: scale * value}) for value in values]
        assert np.all(np.diff(speeds) >= -1e-9)
    assert speed(rtt_s=0.1) < speed()


def test_infeasible_limits_say_what_would_do(folder):
    given = options(2e4, half_of_all(folder), 0.0) | {"mode": Mode.COARSE}
    with pytest.raises(
        InfeasibleError, match=r"--max-latency-p95 1 ms is not reached .* relax --max-latency-p95 to"
    ) as error:
        solve(str(folder), **given, max_latency_p95_s=1e-3)
    allowed = float(re.search(r"--max-latency-p95 to ([\d.]+) ms", str(error.value))[1]) / 1e3
    assert solve(str(folder), **given, max_latency_p95_s=1.01 * allowed).latency_p95_s <= 1.01 * allowed
    with pytest.raises(InfeasibleError, match=r"--max-uplink 1 mbps, --max-passes 0\.001 are not reached together"):
        solve(str(folder), **given, max_uplink_bps=1e-3, max_passes=1e-3)


@pytest.mark.parametrize("mode", [Mode.QUERY, Mode.U_HLM, Mode.COARSE, Mode.CU_HLM_ONLINE])
def test_smaller_thresholds_stay_within_the_budget(folder, mode):
    """The bias of `query` need not grow with the threshold: a smaller one may cost more."""
    given = options(2e4, half_of_all(folder), 0.0) | {"mode": mode, "objective": "latency-p95"}
    point = solve(str(folder), **given)
    assert point.bias_total <= point.bias_budget or point.u_threshold is None


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"max_latency_p95_s": 0.0}, "--max-latency-p95 0.0"),
        ({"max_uplink_bps": float("nan")}, "--max-uplink nan"),
        ({"max_passes": -1.0}, "--max-passes -1.0"),
        ({"min_skip": 1.5}, "--min-skip 1.5"),
        ({"objective": "speed"}, "--objective 'speed'"),
    ],
)
def test_limits_that_mean_nothing_are_refused(folder, limit, message):
    with pytest.raises(InputError, match=re.escape(message)):
        solve(str(folder), **options(2e4, half_of_all(folder), 0.0), **limit)


@pytest.mark.parametrize("channel", ["rayleigh", "rician"])
def test_the_fixed_rate_is_chosen_for_the_late_quantile(folder, channel):
    """Against every rate given by hand; for a limit as well, where the rate of the largest goodput passes it."""
    given = options(2e4, half_of_all(folder), 0.0) | {"mode": Mode.HLM, "channel": channel}
    rates = np.geomspace(0.3, 4.0, 120)
    p95 = [solve(str(folder), **given, fixed_rate=float(rate)).latency_p95_s for rate in rates]
    free, found = solve(str(folder), **given), solve(str(folder), **given, objective="latency-p95")
    assert found.latency_p95_s <= min(p95) < free.latency_p95_s
    assert found.latency_p95_s == pytest.approx(min(p95), rel=0.02)
    again = solve(str(folder), **given, fixed_rate=found.channel.fixed_rate)
    assert again.latency_p95_s == pytest.approx(found.latency_p95_s)
    limit = (free.latency_p95_s + found.latency_p95_s) / 2
    limited = solve(str(folder), **given, max_latency_p95_s=limit)
    assert limited.latency_p95_s <= limit
    assert limited.throughput_tokens_per_s <= free.throughput_tokens_per_s


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"channel": "rayleigh", "fixed_rate": 0.0}, "--fixed-rate 0.0"),
        ({"channel": "rayleigh", "fixed_rate": 1e3}, "--fixed-rate 1000.0"),
        ({"channel": "rayleigh", "coding": "ergodic", "fixed_rate": 1.0}, "--fixed-rate goes with --coding fixed-rate"),
        ({"channel": "awgn", "fixed_rate": 1.0}, "--fixed-rate goes with"),
    ],
)
def test_a_fixed_rate_that_means_nothing_is_refused(folder, given, message):
    with pytest.raises(InputError, match=re.escape(message)):
        solve(str(folder), **options(2e4, 0.1, 0.0), **given)


def test_marginal_worth_has_the_sign_of_the_resource(folder):
    worth = solve(str(folder), **options(2e4, half_of_all(folder), 0.0)).marginal_worth
    assert worth.per_bias > 0
    assert worth.per_hz > 0
    assert worth.per_db > 0
