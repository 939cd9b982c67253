"""Whose tokens make up the contexts: skip risk at one threshold, by who writes the answers.

    python tests/long/measure_contexts.py --calibration smollm2-q2 --work contexts --out figures/measured/contexts.json

The threshold is solved from the calibration's records, whose answers the LLM wrote. The same prompts are answered again
by the SLM, and by the decoder at that threshold (u-hlm, which adds rounding to the bias and nothing else); the risk at
the threshold is read off each. Differences are paired by prompt; intervals are a bootstrap over prompts.

What the contexts can do is bounded [N, THEORY 4.8]: the laws of the first t tokens differ by at most the sum of the
biases of these t steps, with the LLM's contexts, and so does the expectation of anything in [0, 1] that follows them,
such as the risk of the next step, 0 behind the end. The bound is estimated from the same answers.

Recording resumes where it was stopped. Give --calibration again for more pairs.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cuhlm_opt.artefacts import Calibration, OperatingPoint
from cuhlm_opt.bootstrap import ClusterBootstrap
from cuhlm_opt.calibrate.collect import collect
from cuhlm_opt.calibrate.engines import InProcess
from cuhlm_opt.calibrate.prompts import Prompt, load_prompt_sets
from cuhlm_opt.calibrate.record import Collection, Source
from cuhlm_opt.models.pairs import load_pair
from cuhlm_opt.modes import Mode
from cuhlm_opt.records import T_LIMIT, Records, read_records, sha256_of, write_atomically
from cuhlm_opt.solve import solve
from cuhlm_opt.solve.load import CALIBRATION, RECORDS, find_calibration

SETS = ("stdlib", "general")


def main() -> int:
    """Write the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="folder for the recordings; none: beside --out")
    parser.add_argument("--calibration", action="append", required=True, help="shipped, or a folder; repeatable")
    parser.add_argument("--prompts", type=int, default=100, help="of each domain: the first of the recorded ones")
    parser.add_argument("--max-bias", type=float, action="append", help="budgets; default: 0.02 and 0.05")
    given = parser.parse_args()
    budgets = given.max_bias or [0.02, 0.05]
    prompts = load_prompt_sets(SETS, limit=given.prompts)
    recorded = {}
    for name in given.calibration:
        folder = find_calibration(name)
        rows = measured(name, prompts, budgets, (given.work or given.out.with_suffix("")) / folder.name)
        recorded[folder.name] = {"records_sha256": sha256_of(folder / RECORDS), "rows": rows}
    write_atomically(given.out, json.dumps({"prompts": given.prompts, "recorded": recorded}, indent=2) + "\n")
    return 0


def measured(name: str, prompts: list[Prompt], budgets: list[float], work: Path) -> list[dict[str, Any]]:
    """A row for each domain and budget."""
    folder = find_calibration(name)
    calibration = Calibration.read(folder / CALIBRATION)
    as_recorded = Collection.as_recorded(calibration.provenance)
    recorded = calibration.provenance["pair"]["slm"]
    rows, own = [], read_records(folder / RECORDS)
    context_length, threads = recorded["context_length"], recorded["threads"]
    pair = load_pair(calibration.pair, lanes=as_recorded.lanes, context_length=context_length, threads=threads)
    models = InProcess(pair)
    try:
        for domain in calibration.domains:
            asked = [prompt for prompt in prompts if prompt.domain == domain]
            ids = [prompt.prompt_id for prompt in asked]
            slm = replace(as_recorded, source=Source.SLM)
            tables = {Source.LLM: own, Source.SLM: collect(models, asked, slm, work / f"{domain}-slm", resume=True)}
            for budget in budgets:
                point = solve(name, bandwidth_hz=10e6, domain=domain, mode=Mode.U_HLM, max_bias=budget, policy="budget")
                hybrid = replace(as_recorded, source=Source.HYBRID, operating_point=point)
                tables[Source.HYBRID] = collect(models, asked, hybrid, work / f"{domain}-{budget:g}", resume=True)
                answers = {source: Answers(table, domain, ids, point) for source, table in tables.items()}
                rows.append(compared(answers, point, budget))
                told = {source: round(found["risk"], 4) for source, found in rows[-1]["sources"].items()}
                print(f"{name}, {domain}, risk at a budget of {budget:g}: {told}", file=sys.stderr, flush=True)
    finally:
        models.close()
    return rows


class Answers:
    """Skip risk at the threshold of `point` at every position of the answers to some prompts, 0 after their end."""

    def __init__(self, table: pa.Table, domain: str, prompt_ids: list[str], point: OperatingPoint) -> None:
        rows = pc.is_in(table["prompt_id"], pa.array(prompt_ids))
        records = Records.of(table.filter(rows), domain)
        t = point.u_threshold
        if t is None or t >= T_LIMIT:
            raise SystemExit(f"threshold {t} is outside of what every token was recorded for")
        skips = records.top_u_bar <= t
        gaps = np.maximum(records.top_x - records.top_y, 0.0)
        self.lengths = np.bincount(records.prompt)
        self._prompt = records.prompt
        starts = np.flatnonzero(np.diff(records.prompt, prepend=-1))
        self._position = np.arange(records.n_tokens) - np.repeat(starts, np.diff(starts, append=records.n_tokens))
        self.risk = self._spread((skips * gaps).sum(axis=1, dtype=float))
        self.kept = self._spread((skips * records.top_x).sum(axis=1, dtype=float))
        self.tv = self._spread(records.tv)

    def _spread(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shape (prompts, longest answer)."""
        spread = np.zeros((len(self.lengths), self.lengths.max()))
        spread[self._prompt, self._position] = values
        return spread

    @property
    def sums(self) -> NDArray[np.float64]:
        """Tokens, risk, tokens kept and TV of each prompt, shape (prompts, 4)."""
        return np.column_stack([self.lengths, *(each.sum(axis=1) for each in (self.risk, self.kept, self.tv))])


def _means_and_moves(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Means over tokens from the sums of one source, and what they differ by from those of another, beside them.

    `summed_moved` is the difference of the risk summed over an answer, per prompt, which is what the bound is for; the
    number of prompts stands in the last column.
    """
    own, other = (each[..., 1:] / each[..., :1] for each in (sums[..., :4], sums[..., 4:8]))
    names = ("risk", "skip_rate", "mean_tv")
    values = {name: own[..., at] for at, name in enumerate(names)}
    moved = {f"{name}_moved": (own - other)[..., at] for at, name in enumerate(names)}
    return values | moved | {"summed_moved": (sums[..., 1] - sums[..., 5]) / sums[..., 8]}


def compared(answers: dict[Source, Answers], point: OperatingPoint, budget: float) -> dict[str, Any]:
    """Figures of each source, what changes from the LLM's contexts, and the bound on that."""
    llm = answers[Source.LLM]
    bootstrap = ClusterBootstrap.draw(len(llm.lengths), np.random.default_rng(0))
    sources = {}
    for source, each in answers.items():
        found = bootstrap.intervals(_means_and_moves, np.hstack([each.sums, llm.sums, np.ones((len(llm.lengths), 1))]))
        sources[str(source)] = {
            "n_tokens": int(each.lengths.sum()),
            **{name: interval.value for name, interval in found.items()},
            **{f"{name}_ci": (interval.low, interval.high) for name, interval in found.items()},
            "risk_by_position": each.risk.mean(axis=0).tolist(),
        }
    rounding = point.bias_quantisation or 0.0
    before = np.cumsum(llm.risk.mean(axis=0) + rounding) - llm.risk.mean(axis=0) - rounding
    return {
        "domain": point.domain, "max_bias": budget, "u_threshold": point.u_threshold, "n_prompts": len(llm.lengths),
        "rounding": rounding, "sources": sources, "moved_at_most_by_position": np.minimum(before, 1.0).tolist(),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
