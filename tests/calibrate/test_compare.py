"""Signals compared: figures by brute force, the combination by what it was made of, the cheapest of the good ones."""

import numpy as np
import pytest
from scipy.stats import pearsonr
from synthetic_records import synthetic_positions, write_synthetic

from cuhlm_opt.artefacts import Estimate, SignalComparison, SignalTable
from cuhlm_opt.calibrate.compare import BUDGETS, compare, learn_combination, recommended
from cuhlm_opt.cli.main import main
from cuhlm_opt.signals import RecordedFeatures, Signal, logistic, value_of
from cuhlm_opt.solve import solve


def drawn(prompts: int = 60, length: int = 20, seed: int = 0):
    """A good signal, the same with noise, and one that knows nothing, on made-up positions."""
    rng = np.random.default_rng(seed)
    u = rng.beta(0.4, 1.0, size=prompts * length).round(2)
    beta = np.where(rng.random(len(u)) < u, rng.random(len(u)), 0.0)
    noisy = np.clip(u + rng.normal(scale=0.3, size=len(u)), 0, 1)
    prompt = np.repeat(np.arange(prompts), length)
    return {Signal.U_BAR: u, Signal.U_MC_5: noisy, Signal.MARGIN: rng.random(len(u))}, beta, prompt


def test_figures_by_brute_force():
    values, beta, prompt = drawn(12, 10)
    table = compare(values, beta, prompt, resamples=20)
    for signal, u in values.items():
        row = table.rows[signal]
        assert row.r.value == pytest.approx(pearsonr(u, beta)[0])
        assert row.r2 == pytest.approx(row.r.value**2)
        bins = [np.flatnonzero(np.floor(np.minimum(u, 0.999) * 20) == b) for b in range(20)]
        means = np.array([(u[b].mean(), beta[b].mean()) for b in bins if len(b)])
        assert row.r_binned.value == pytest.approx(pearsonr(*means.T)[0])
        above = [(u[i] > u[j]) + 0.5 * (u[i] == u[j]) for i in range(len(u)) for j in range(len(u))]
        weight = [beta[i] * (1 - beta[j]) for i in range(len(u)) for j in range(len(u))]
        # a pair of a position with itself stands in both sums
        assert row.auroc.value == pytest.approx(np.dot(above, weight) / np.sum(weight), abs=1e-12)
        for budget in BUDGETS:
            best = max((np.mean(u <= t) for t in u if np.mean(beta * (u <= t)) <= budget), default=0.0)
            assert row.skip_rate[f"{budget:g}"].value == pytest.approx(best)


def test_a_signal_that_knows_nothing_is_worse_and_a_good_one_is_best():
    table = compare(*drawn())
    assert table.best == "u_bar"
    assert "margin" not in table.not_worse
    low, high = table.rows["margin"].auroc.ci
    assert low < 0.5 < high
    assert table.rows["u_bar"].auroc.value > table.rows["u_mc_5"].auroc.value


def test_intervals_hold_the_figure_of_the_population():
    """Of 40 sets of prompts, the 95 % interval of R holds the value of a large set in all but a few."""
    values, beta, _ = drawn(5000, 20, seed=99)
    truth = pearsonr(values[Signal.U_BAR], beta)[0]
    held = 0
    for seed in range(40):
        table = compare(*drawn(60, 20, seed=seed), resamples=200)
        low, high = table.rows["u_bar"].r.ci
        held += low <= truth <= high
    assert held >= 33  # below with probability under 0.001 at 95 %, 0.1 at 90 %


def test_the_scatter_of_r_over_bins_is_as_told():
    """Over 40 sets of prompts its standard error is that of the sets; every interval holds its estimate."""
    found = [compare(*drawn(60, 20, seed=seed), resamples=10).rows["u_mc_5"].r_binned for seed in range(40)]
    assert all(each.ci[0] < each.value < each.ci[1] < 1 for each in found)
    scatter = np.std([each.value for each in found])
    assert (
        0.6 * scatter < np.mean([each.se for each in found]) < 1.8 * scatter
    )  # of 40: within 1.4 at 3 standard errors


def table_of(*not_worse: str) -> SignalTable:
    row = SignalComparison(
        r=Estimate(value=0.5), r2=0.25, r_binned=Estimate(value=0.9), auroc=Estimate(value=0.8), skip_rate={}
    )
    return SignalTable(n_prompts=9, rows=dict.fromkeys(not_worse, row), best=not_worse[0], not_worse=not_worse)


def test_the_cheapest_of_those_not_worse():
    costs = {"u_bar": 1e-4, "x_d": 1e-6, "p_max": 1e-9}
    assert recommended(table_of("u_bar", "x_d"), costs) == "x_d"
    assert recommended(table_of("u_bar", "x_d"), {"x_d": 1e-6}) == "u_bar"
    assert recommended(table_of("u_bar"), costs) == "u_bar"


def test_combination_finds_the_weights_that_made_the_data():
    rng = np.random.default_rng(0)
    x_d = rng.random(20_000)
    zero = np.zeros(len(x_d))
    features = RecordedFeatures(u_bar=rng.random(len(x_d)), x_d=x_d, p_max=zero, margin=zero, entropy=zero)
    beta = logistic(-2.0 + 3.0 * features.u_bar + 1.0 * value_of(Signal.X_D, features))
    weights = learn_combination(features, beta)
    assert np.corrcoef(value_of(Signal.COMBINED, features, weights), beta)[0, 1] > 0.999
    assert np.max(np.abs(value_of(Signal.COMBINED, features, weights) - beta)) < 0.03


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("signals")
    _, table, metadata = synthetic_positions(prompts=40)
    write_synthetic(out, table, metadata)
    return str(out)


@pytest.mark.parametrize("signal", list(Signal))
def test_solve_takes_any_of_them(folder, capsys, signal):
    command = ["solve", "--bandwidth", "10MHz", "--calibration", folder, "--domain", "code", "--policy", "budget"]
    assert main([*command, "--max-bias", "0.1", "--mode", "u-hlm", "--signal", signal]) == 0
    assert f"keep the draft when {signal} <= " in capsys.readouterr().out


def test_solve_says_what_a_signal_rests_on(folder):
    link = {"bandwidth_hz": 1e7, "domain": "code", "mode": "u-hlm"}
    learned = " ".join(solve(folder, signal="combined", **link).assumptions)
    assert "learned on every other prompt" in learned
    assert "of 10 prompts" in learned  # of 20
    assert "drawn given u_bar" in " ".join(solve(folder, signal="u_mc_5", **link).assumptions)
    assert "gate u_bar" not in learned


def test_the_table_is_printed_with_the_choice(folder, tmp_path, capsys):
    assert main(["fit", f"{folder}/records.parquet", "--out", str(tmp_path / "again")]) == 0
    out = capsys.readouterr().out
    assert "signals in code" in out
    assert "* recommended: the cheapest that is not significantly worse" in out
