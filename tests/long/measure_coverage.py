"""Long evidence for the certified thresholds: coverage on a synthetic population, and splits of the recorded prompts.

    python tests/long/measure_coverage.py --out coverage.json
    python tests/long/measure_coverage.py --calibration qwen2.5-coder --out coverage.json

The synthetic population is the one of tests/synthetic_population.py: its risk is a closed form, so that a violation is
counted without sampling error. On records, every split draws half of the prompts for the choice and keeps the others
for the test; a random split is exchangeable, so that conformal risk control must hold on the mean over splits.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.bootstrap import line_statistics, line_sums
from cuhlm_opt.records import Records, read_metadata, read_records, sha256_of, write_atomically
from cuhlm_opt.solve.certificate import (
    Bound,
    conformal_threshold,
    high_probability_threshold,
)
from cuhlm_opt.solve.load import RECORDS, find_calibration
from cuhlm_opt.solve.losses import prompt_curves, prompt_losses, threshold_grid

sys.path.append(str(Path(__file__).parents[1]))
from synthetic_population import SyntheticPopulation

Array = NDArray[np.float64]
Choice = Callable[[Array, float], float | None]

BUDGETS = (0.02, 0.05, 0.1)
DELTA = 0.1
SIZES = (50, 100, 200, 400)
GRID = threshold_grid()
POPULATIONS = {"synthetic": SyntheticPopulation(), "synthetic-failing": SyntheticPopulation(failing=0.02)}


def plug_in_threshold(losses: Array, eps: float) -> float | None:
    """Largest grid threshold whose mean loss is at most eps: the budget policy, on the grid of the certificates."""
    within = np.flatnonzero(losses.mean(axis=0) <= eps)
    return float(GRID[within[-1]]) if len(within) else None


CHOICES: dict[str, Choice] = {
    "plug-in-budget": plug_in_threshold,
    "conformal-risk-control": lambda losses, eps: conformal_threshold(losses, GRID, eps),
    **{
        str(bound): lambda losses, eps, bound=bound: high_probability_threshold(losses, GRID, eps, DELTA, bound)
        for bound in Bound
    },
}


def summary(outcomes: Iterable[tuple[float | None, float, float]], eps: float) -> dict[str, Any]:
    """Figures of (threshold or None, risk, skip rate) over calibrations; s.e. are over calibrations."""
    thresholds, risks, skips = zip(*outcomes, strict=True)
    risk, violated = np.array(risks), np.array(risks) > eps
    n = len(risk)
    return {
        "eps": eps,
        "repetitions": n,
        "share_over_eps": float(violated.mean()),
        "share_over_eps_se": float(np.sqrt(violated.mean() * (1 - violated.mean()) / n)),
        "mean_risk": float(risk.mean()),
        "mean_risk_se": float(risk.std() / np.sqrt(n)),
        "share_not_empty": float(np.mean([t is not None for t in thresholds])),
        "mean_skip_rate": float(np.mean(skips)),
    }


def synthetic_coverage(population: SyntheticPopulation, n: int, calibrations: int, seed: int) -> dict[str, Any]:
    """Every method at every budget on the same calibrations of n prompts; risk is the population's, in closed form."""
    rng = np.random.default_rng(seed)
    outcomes = defaultdict(list)
    truth = {t: (population.loss(t), population.skip(t)) for t in GRID.tolist()} | {None: (0.0, 0.0)}
    for _ in range(calibrations):
        losses = prompt_losses(**vars(population.draw(n, rng)), grid=GRID, max_tokens=population.max_tokens)
        for eps in BUDGETS:
            for name, choose in CHOICES.items():
                t = choose(losses, eps)
                outcomes[name, eps].append((t, *truth[t]))
    return by_method(outcomes)


class RecordedDomain:
    """Per-prompt sums of one domain, from which every split is a mean over rows."""

    def __init__(self, records: Records, max_tokens: int) -> None:
        prompt = records.prompt
        top = (prompt, records.top_u_bar, records.top_x)
        self.losses = prompt_losses(*top, records.top_y, records.tv, grid=GRID, max_tokens=max_tokens)
        self.skips = prompt_curves(*top, GRID, np.bincount(prompt))
        self.lengths = np.bincount(prompt)
        self.max_tokens, self.n = max_tokens, records.n_prompts
        self.signals = {name: getattr(records, name) for name in ("u_mc", "u_bar")}
        self.lines = {name: line_sums(prompt, u, records.beta) for name, u in self.signals.items()}
        self.prompt, self.beta = prompt, records.beta

    def at(self, t: float | None, rows: NDArray[np.integer]) -> tuple[float | None, float, float]:
        """Threshold, mean loss and skip rate per token of a grid threshold on the prompts `rows`."""
        if t is None:
            return None, 0.0, 0.0
        g = int(np.searchsorted(GRID, t))
        return t, float(self.losses[rows, g].mean()), float(self.skips[rows, g].sum() / self.lengths[rows].sum())

    def published(self, signal: str, policy: str, fit: NDArray[np.integer], test: NDArray[np.integer]) -> Any:
        """The same for a published threshold fitted on `fit`, through the sampled drafts of `test`; nan never skips."""
        t = float(line_statistics(self.lines[signal][fit].sum(axis=0))[policy])
        kept = (self.signals[signal] <= t).astype(np.float64)
        risk = np.bincount(self.prompt, weights=kept * self.beta)[test] / self.max_tokens
        skipped = np.bincount(self.prompt, weights=kept)[test]
        return t if np.isfinite(t) else None, float(risk.mean()), float(skipped.sum() / self.lengths[test].sum())


def recorded_splits(domain: RecordedDomain, splits: int, seed: int) -> dict[str, Any]:
    """Choice on one half of the prompts, figures on the other, over random splits."""
    rng = np.random.default_rng(seed)
    outcomes = defaultdict(list)
    for _ in range(splits):
        order = rng.permutation(domain.n)
        fit, test = order[: domain.n // 2], order[domain.n // 2 :]
        for eps in BUDGETS:
            for name, choose in CHOICES.items():
                outcomes[name, eps].append(domain.at(choose(domain.losses[fit], eps), test))
        for signal in domain.signals:
            for policy in ("risk_averse", "risk_prone"):
                found = domain.published(signal, policy, fit, test)
                for eps in BUDGETS:
                    outcomes[f"{policy}-{signal}", eps].append(found)
    return by_method(outcomes)


def certificate_cost(domain: RecordedDomain, subsets: int, seed: int) -> dict[str, Any]:
    """Skip rate on all prompts of thresholds chosen on random subsets of n prompts, for each method and n."""
    rng, everyone = np.random.default_rng(seed), np.arange(domain.n)
    costs = {}
    for n in (size for size in SIZES if size <= domain.n):
        outcomes = defaultdict(list)
        for _ in range(subsets if n < domain.n else 1):
            rows = rng.permutation(domain.n)[:n]
            for eps in BUDGETS:
                for name, choose in CHOICES.items():
                    outcomes[name, eps].append(domain.at(choose(domain.losses[rows], eps), everyone))
        costs[str(n)] = by_method(outcomes)
        for rows_of in costs[str(n)].values():
            for row, plug_in in zip(rows_of, costs[str(n)]["plug-in-budget"], strict=True):
                row["skip_rate_lost"] = plug_in["mean_skip_rate"] - row["mean_skip_rate"]
    return costs


def by_method(outcomes: dict[tuple[str, float], list[tuple[float | None, float, float]]]) -> dict[str, Any]:
    """Summaries by method, budgets in order."""
    table = defaultdict(list)
    for (name, eps), rows in sorted(outcomes.items()):
        table[name].append(summary(rows, eps))
    return dict(table)


def broken_guarantees(result: dict[str, Any]) -> Iterator[str]:
    """Guarantees that the measurement contradicts by more than 3 standard errors."""
    for name, population in result["synthetic"].items():
        for bound in Bound:
            for row in population["methods"][bound]:
                if row["share_over_eps"] > DELTA + 3 * row["share_over_eps_se"]:
                    yield f"{name}, {bound}: risk over {row['eps']} in {row['share_over_eps']} of calibrations"
    for pair in result["recorded"].values():
        for name, domain in pair["domains"].items():
            for row in domain["splits"]["conformal-risk-control"]:
                if row["mean_risk"] > row["eps"] + 3 * row["mean_risk_se"]:
                    yield f"{name}, conformal risk control: mean risk {row['mean_risk']} over {row['eps']}"


def main() -> int:
    """Measure and write; 1 where a guarantee does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--calibrations", type=int, default=2000, help="on each synthetic population")
    parser.add_argument("--prompts", type=int, default=200, help="of one synthetic calibration")
    parser.add_argument("--calibration", action="append", default=[], help="shipped one, or folder of one")
    parser.add_argument("--splits", type=int, default=200, help="of the recorded prompts, and subsets of each size")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    result: dict[str, Any] = {
        "delta": DELTA,
        "seed": asked.seed,
        "loss": "skip risk per allowed token",
        "synthetic": {
            name: {
                "n_prompts": asked.prompts,
                "methods": synthetic_coverage(population, asked.prompts, asked.calibrations, asked.seed),
            }
            for name, population in POPULATIONS.items()
        },
        "recorded": {},
    }
    for folder in map(find_calibration, asked.calibration):
        path = folder / RECORDS
        table = read_records(path)
        max_tokens = int(read_metadata(table)["max_tokens"])
        domains = {}
        for name in sorted(set(table["domain"].to_pylist())):
            domain = RecordedDomain(Records.of(table, name), max_tokens)
            domains[name] = {
                "n_prompts": domain.n,
                "splits": recorded_splits(domain, asked.splits, asked.seed),
                "cost": certificate_cost(domain, asked.splits, asked.seed),
            }
        result["recorded"][folder.name] = {"records_sha256": sha256_of(path), "domains": domains}
    write_atomically(asked.out, json.dumps(result, indent=2) + "\n")
    broken = list(broken_guarantees(result))
    for line in broken:
        print(line, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
