"""Thresholds that follow the channel: the linear program, every combination of thresholds, and what they gain.

The states, their probabilities and costs are given by hand or by the channels; records are synthetic.
"""

from itertools import product

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_records import FLOOR, TIMES, synthetic_positions, write_synthetic

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.channel_states import channel_states, state_links
from cuhlm_opt.modes import Mode
from cuhlm_opt.records import Records, read_records
from cuhlm_opt.signals import Signal
from cuhlm_opt.simulate import Replayed, simulate
from cuhlm_opt.solve import solve
from cuhlm_opt.solve.adaptive import FIT_EVERY, BestRule, Follower, Rejection, best_rule
from cuhlm_opt.solve.losses import threshold_grid
from cuhlm_opt.solve.modes_table import mode_point
from cuhlm_opt.solve.options import pose
from cuhlm_opt.solve.threshold import Gate

LINKS = {
    "rayleigh -10 dB": {"channel": "rayleigh", "snr_db": -10.0, "bandwidth_hz": 2e5},
    "rayleigh 0 dB": {"channel": "rayleigh", "snr_db": 0.0, "bandwidth_hz": 2e4},
    "rayleigh 10 dB": {"channel": "rayleigh", "snr_db": 10.0, "bandwidth_hz": 5e3},
    "nakagami": {"channel": "nakagami", "coding": "instantaneous", "bandwidth_hz": 5e3},
    "trace": {"channel": "trace"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic")
    _, table, metadata = synthetic_positions(seed=6, vocab_size=120, prompts=120, length=8)
    write_synthetic(path, table, metadata, times=TIMES, numeric_floor=FLOOR)
    rates = np.random.default_rng(2).lognormal(9, 1.2, 40)
    path.joinpath("trace.csv").write_text("".join(f"{at / 10},{rate:.1f}\n" for at, rate in enumerate(rates)))
    return path


@pytest.fixture(scope="module")
def gate(folder) -> Gate:
    return Gate(Records.of(read_records(folder / "records.parquet"), "code"), Signal.U_BAR)


def options(folder, name: str, **changes) -> dict:
    link = LINKS[name] | ({"trace": str(folder / "trace.csv")} if name == "trace" else {})
    return (
        {"domain": "code", "policy": "budget", "max_bias": 0.05, "answer_tokens": 24, "mode": "u-hlm"} | link | changes
    )


@st.composite
def programs(draw):
    """E[beta | u] over a few blocks, a few states, and a budget below the risk of skipping everything."""
    blocks, states = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    part = st.floats(0.05, 1.0)
    mass = np.array(draw(st.lists(part, min_size=blocks, max_size=blocks)))
    beta = np.cumsum(draw(st.lists(part, min_size=blocks, max_size=blocks))) / blocks
    probabilities = np.array(draw(st.lists(part, min_size=states, max_size=states)))
    latencies = np.array(draw(st.lists(part, min_size=states, max_size=states)))
    rejection = Rejection(ends=np.linspace(0.1, 1, blocks), mass=mass / mass.sum(), beta=beta)
    risk = float(rejection.mass @ beta)
    return rejection, probabilities / probabilities.sum(), latencies, draw(st.floats(0.02, 0.98)) * risk


@given(programs())
def test_best_rule_is_the_linear_program_s(program):
    """Same value, no duality gap, and 1/mu as the price of bias [N, THEORY 6.2]."""
    rejection, probabilities, latencies_s, budget = program
    found = best_rule(rejection, probabilities, latencies_s, budget)
    mass = rejection.mass[:, None] * probabilities
    skip = cp.Variable(mass.shape, bounds=[0, 1])
    bias = cp.sum(cp.multiply(mass * rejection.beta[:, None], skip)) <= budget
    primal = cp.Problem(cp.Maximize(cp.sum(cp.multiply(mass * latencies_s, skip))), [bias])
    primal.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    assert found.saved_s == pytest.approx(primal.value, abs=1e-7)
    # The dual, from its own formula: min_m m budget + sum over cells (saved - m risk)+.
    price = 1 / found.mu
    dual = price * budget + np.maximum(mass * latencies_s - price * mass * rejection.beta[:, None], 0).sum()
    assert dual - found.saved_s == pytest.approx(0.0, abs=1e-9)
    if 0.01 < found.share < 0.99:  # elsewhere the price is not unique
        assert float(bias.dual_value) == pytest.approx(price, rel=1e-4)


def test_a_budget_for_everything_skips_everything():
    rejection = Rejection(ends=np.array([0.5, 1.0]), mass=np.array([0.5, 0.5]), beta=np.array([0.1, 0.4]))
    assert best_rule(rejection, np.ones(1), np.ones(1), 1.0) == BestRule(mu=0.4, share=1.0, saved_s=1.0)


def test_rejection_is_nondecreasing_and_keeps_mass_and_risk(gate):
    rejection = Rejection.of(gate.curve)
    assert np.all(np.diff(rejection.beta) > 0)
    assert np.all(np.diff(rejection.ends) > 0)
    assert rejection.mass.sum() == pytest.approx(1.0)
    assert rejection.mass @ rejection.beta == pytest.approx(gate.curve.risk[-1])
    for end, mass, risk in zip(
        rejection.ends, np.cumsum(rejection.mass), np.cumsum(rejection.mass * rejection.beta), strict=True
    ):
        assert np.mean(gate.at(float(end)).skip) == pytest.approx(mass)
        assert np.mean(gate.at(float(end)).risk) == pytest.approx(risk)


@pytest.mark.parametrize("budget", [0.0, 0.01, 0.05, 0.15])
def test_thresholds_against_every_pair_of_levels(gate, budget):
    """No two levels within the budget save more than the chosen ones, but for the atom that a coin would split."""
    few = Gate(gate.records.of_prompts(np.arange(6)), Signal.U_BAR)
    probabilities, latencies_s = np.array([0.7, 0.3]), np.array([1.0, 4.0])
    follower = Follower(gate=few, probabilities=probabilities, latencies_s=latencies_s)
    levels = [None, *few.curve.levels.tolist()]
    skip = np.array([few.at(level).skip_rate for level in levels])
    risk = np.array([np.mean(few.at(level).risk) for level in levels])

    def saved(pair: tuple[int, int]) -> float:
        return float(probabilities * latencies_s @ skip[list(pair)])

    pairs = [pair for pair in product(range(len(levels)), repeat=2) if probabilities @ risk[list(pair)] <= budget]
    chosen = tuple(levels.index(threshold) for threshold in follower.within(budget))
    assert probabilities @ risk[list(chosen)] <= budget + 1e-12
    rejection = Rejection.of(few.curve)
    atom = float(np.max(rejection.mass[:, None] * probabilities * latencies_s))
    assert max(map(saved, pairs)) - atom <= saved(chosen) <= max(map(saved, pairs)) + 1e-12
    coins = best_rule(rejection, probabilities, latencies_s, budget).saved_s
    assert max(map(saved, pairs)) <= coins + 1e-12


@pytest.mark.parametrize("name", list(LINKS))
def test_states_make_up_the_channel(folder, name):
    link = pose(str(folder), **options(folder, name)).problem.link
    states = channel_states(link.uplink)
    probabilities = np.array([state.probability for state in states])
    assert probabilities.sum() == pytest.approx(1.0)
    for bits in (40.0, 3e4):
        whole, parts = link.service(bits), [each.service(bits) for each in state_links(link)]
        assert probabilities @ [part.mean_s for part in parts] == pytest.approx(whole.mean_s, rel=1e-6)
        for seconds in [whole.quantile(q) for q in (0.1, 0.5, 0.9, 0.99)]:
            mixed = probabilities @ [float(part.cdf(seconds * (1 + 1e-9))) for part in parts]
            assert mixed == pytest.approx(float(whole.cdf(seconds * (1 + 1e-9))), abs=1e-6)
        if name != "trace" or bits < 100:  # through a trace, long messages soon leave the rate that they began at
            assert np.all(np.diff([part.mean_s for part in parts]) > 0)  # the fastest first


@pytest.mark.parametrize("mode", ["u-hlm", "cu-hlm-offline", "coarse", "exact"])
@pytest.mark.parametrize("name", list(LINKS))
def test_stated_and_simulated_latency_agree(folder, name, mode):
    posed = pose(str(folder), **options(folder, name, mode=mode, adaptive=True))
    point, problem = mode_point(posed.problem, posed.mode), posed.problem
    assert len(point.rule) == len(channel_states(problem.link.uplink))
    replayed = Replayed(
        mode=posed.mode, times=problem.compute_times, link=problem.link, prompt=problem.gate.records.prompt,
        skip=point.skip, bits=point.bits, tokens=24,
    )  # fmt: skip
    found, _ = simulate(replayed, precision=1e-9, least=60, most=60, seed=1)
    assert abs(found["skip_rate"].value - point.skip_rate) < 3 * found["skip_rate"].se
    assert abs(found["latency_s"].value - point.time.mean_s) < 3 * found["latency_s"].se
    assert abs(found["uplink_bits_per_s"].value - point.time.uplink_bps) < 3 * found["uplink_bits_per_s"].se


@pytest.mark.parametrize("name", list(LINKS))
def test_following_the_channel_gains_at_equal_bias(folder, name):
    """The uplink dominates here: all of x crosses a slow link. Both keep the budget."""
    fixed, follows = (solve(str(folder), **options(folder, name, adaptive=each)) for each in (False, True))
    assert fixed.state_thresholds == ()
    assert max(fixed.bias_total, follows.bias_total) <= 0.05
    assert follows.throughput_tokens_per_s > 1.005 * fixed.throughput_tokens_per_s
    ordered = sorted(follows.state_thresholds, key=lambda state: state.uplink_s)
    thresholds = [-1.0 if each.u_threshold is None else each.u_threshold for each in ordered]
    assert np.all(np.diff(thresholds) >= 0)  # the more a transmission costs, the more is kept
    assert thresholds[0] < thresholds[-1]
    assert OperatingPoint.model_validate_json(follows.model_dump_json()) == follows


def test_without_states_nothing_changes(folder):
    given = {"domain": "code", "policy": "budget", "max_bias": 0.05, "bandwidth_hz": 1e4}
    fixed, follows = (solve(str(folder), **given, adaptive=each) for each in (False, True))
    assert follows.model_copy(update={"assumptions": fixed.assumptions}) == fixed


def test_certified_rule_by_a_double_loop(folder, gate):
    """The largest mu of the family with (sum of losses + 1)/(n + 1) <= eps over the prompts that did not fit it."""
    eps, limit = 0.1, 8
    probabilities, latencies_s = np.array([0.6, 0.4]), np.array([1.0, 3.0])
    follower = Follower(gate=gate, probabilities=probabilities, latencies_s=latencies_s)
    thresholds, found = follower.certified(eps, limit, None)
    records, grid = gate.records, threshold_grid()

    def losses(pair) -> list[float]:
        sums = []
        for prompt in range(records.n_prompts):
            if prompt % FIT_EVERY == 0:
                continue
            own = np.flatnonzero(records.prompt == prompt)
            risk = 0.0
            for probability, threshold in zip(probabilities, pair, strict=True):
                if threshold is None:
                    continue
                for row in own:
                    x, y = records.top_x[row].astype(float), records.top_y[row].astype(float)
                    kept = records.top_u_bar[row] <= threshold
                    risk += probability * (records.tv[row] if threshold == 1 else np.maximum(x - y, 0)[kept].sum())
            sums.append((risk + eps * (limit - len(own))) / limit)
        return sums

    assert found.n_prompts == len(losses(thresholds))
    assert (sum(losses(thresholds)) + 1) / (found.n_prompts + 1) <= eps
    beta = Rejection.of(gate.of_prompts(np.arange(0, records.n_prompts, FIT_EVERY)).curve).between(grid)
    assert np.all(np.diff(beta) >= 0)
    prices = np.unique(beta[:, None] / latencies_s)
    prices = prices[np.unique(np.linspace(0, len(prices) - 1, 200).astype(int))]
    following = prices[int(np.searchsorted(prices, found.threshold)) + 1]
    beyond = []
    for latency_s in latencies_s:
        within = grid[beta <= following * latency_s * (1 + 1e-12)]
        beyond.append(float(within[-1]) if len(within) else None)
    assert beyond != thresholds
    assert (sum(losses(beyond)) + 1) / (found.n_prompts + 1) > eps


def test_certified_point_says_what_it_rests_on(folder):
    point = solve(str(folder), **options(folder, "rayleigh 0 dB", policy="certified", max_bias=0.2, adaptive=True))
    assert point.state_thresholds
    assert point.certificate.n_prompts == sum(prompt % FIT_EVERY != 0 for prompt in range(60))
    assert any("follow the channel" in line for line in point.assumptions)


@pytest.mark.parametrize("mode", [Mode.QUERY, Mode.LLM, Mode.SLM, Mode.HLM, Mode.RANDOM])
def test_modes_without_a_gate_do_not_follow(folder, mode):
    assert solve(str(folder), **options(folder, "rayleigh 0 dB", mode=mode, adaptive=True)).state_thresholds == ()
