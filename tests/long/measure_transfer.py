"""Transfer and drift: what a threshold that is certified on one pair and domain does on another, and who notices.

    python tests/long/measure_transfer.py --calibration qwen2.5-coder --out figures/measured/transfer.json

Give --calibration again for more pairs; streams change between domains of one pair, as another pair is refused by its
name. The threshold of a domain is certified on every other prompt; the risk is that
of all prompts of the other domains, and of the prompts left out on its own. Intervals are a bootstrap over the prompts
that are tested, the threshold held fixed. Detection repeats what `calibrate --check` does on random orders: half of the
prompts calibrate, the others are the stream, at whose `AFTER`th prompt another domain may take over.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.bootstrap import ClusterBootstrap, ratios
from cuhlm_opt.records import sha256_of, write_atomically
from cuhlm_opt.sequential import conformal_p_values, log_change_e_values, log_risk_e_values
from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.certificate import conformal_threshold
from cuhlm_opt.solve.load import RECORDS, find_calibration, load_evidence
from cuhlm_opt.solve.losses import LossUnit, losses_of, prompt_curves, threshold_grid
from cuhlm_opt.solve.threshold import Gate

EPS, ALPHA = 0.02, 0.05
AFTER = (0, 50, 100)
"""Prompts of the calibration's own domain before the stream changes."""
CHECKPOINTS = tuple(range(25, 601, 25))
"""Tokens after the change by which the share detected is given."""
GRID = threshold_grid()


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What is known of each prompt of one pair and domain; n prompts, G thresholds."""

    calibration: str
    pair: str
    name: str
    max_tokens: int
    lengths: NDArray[np.int64]
    risk: NDArray[np.float64]
    """(n, G) risk summed over the answer."""
    kept: NDArray[np.float64]
    """(n, G) tokens kept."""
    mean_tv: NDArray[np.float64]
    """(n,)"""

    @property
    def label(self) -> dict[str, str]:
        """Which one it is."""
        return {"calibration": self.calibration, "pair": self.pair, "domain": self.name}

    @property
    def n(self) -> int:
        """Number of prompts."""
        return len(self.lengths)

    def losses(self, limit: int) -> NDArray[np.float64]:
        """The certificate's losses with a length limit, shape (n, G)."""
        return losses_of(self.risk, self.lengths, max_tokens=limit, unit=LossUnit.EMITTED, eps=EPS)


def domains_of(name: str) -> Iterator[Domain]:
    """Every domain of a calibration."""
    folder = find_calibration(name)
    for domain in load_evidence(name).calibration.domains:
        evidence = load_evidence(name, domain)
        records, limit = evidence.records, evidence.calibration.max_tokens
        if records is None or limit is None:
            raise SystemExit(f"{name} has no records, or no length limit")
        lengths = np.bincount(records.prompt)
        yield Domain(
            calibration=folder.name,
            pair=evidence.calibration.pair,
            name=domain,
            max_tokens=limit,
            lengths=lengths,
            risk=Gate(records, Signal.U_BAR).risk_sums,
            kept=prompt_curves(records.prompt, records.top_u_bar, records.top_x, GRID, lengths),
            mean_tv=np.bincount(records.prompt, records.tv) / lengths,
        )


def transfer(source: Domain, target: Domain, rng: np.random.Generator) -> dict[str, Any]:
    """Risk and skip rate per token on `target` at the threshold certified on half of `source`."""
    own, even = source is target, np.arange(0, source.n, 2)
    threshold = conformal_threshold(source.losses(source.max_tokens)[even], GRID, EPS)
    tested = np.arange(1, target.n, 2) if own else np.arange(target.n)
    row: dict[str, Any] = {"from": source.label, "to": target.label, "threshold": threshold, "n_prompts": len(tested)}
    if threshold is None:
        return row | dict.fromkeys(("risk", "skip_rate"), 0.0) | dict.fromkeys(("risk_ci", "skip_rate_ci"), (0.0, 0.0))
    at = int(np.searchsorted(GRID, threshold))
    bootstrap = ClusterBootstrap.draw(len(tested), rng)
    for name, values in (("risk", target.risk), ("skip_rate", target.kept)):
        sums = np.column_stack([target.lengths[tested], values[tested, at]])
        found = bootstrap.intervals(ratios(name), sums)[name]
        row |= {name: found.value, f"{name}_ci": (found.low, found.high)}
    return row


def detection(source: Domain, target: Domain, after: int, orders: int, rng: np.random.Generator) -> dict[str, Any]:
    """How long the tests of `calibrate --check` take to notice that `target` follows after `after` prompts of `source`.

    Where both are the same nothing changes, and what is found is a false alarm. A test stops at its first refusal, so
    that one before the change hides the change.
    """
    limit = max(source.max_tokens, target.max_tokens)
    own_losses, other_losses = source.losses(limit), target.losses(limit)
    certified_losses = source.losses(source.max_tokens)
    level = math.log(2 / ALPHA)
    delays = np.full((2, orders, 2), np.inf)  # test, order, (prompts, tokens)
    early = 0
    for order in range(orders):
        shuffled = rng.permutation(source.n)
        recorded, rest = shuffled[: source.n // 2], shuffled[source.n // 2 :]
        threshold = conformal_threshold(certified_losses[recorded], GRID, EPS)
        before, then = rest[:after], rest[after:] if source is target else rng.permutation(target.n)
        lengths = np.concatenate([source.lengths[before], target.lengths[then]])
        scores = np.concatenate([source.mean_tv[before], target.mean_tv[then]])
        at = None if threshold is None else int(np.searchsorted(GRID, threshold))
        stream = np.concatenate(
            [np.zeros(len(lengths))] if at is None else [own_losses[before, at], other_losses[then, at]]
        )
        p_values = conformal_p_values(scores, source.mean_tv[recorded], rng)
        log_e = np.stack([log_risk_e_values(stream, EPS), log_change_e_values(p_values)])
        crossed = [np.flatnonzero(each >= level) for each in log_e]
        firsts = [each[0] for each in crossed if len(each)]
        early += min(firsts, default=after) < after
        for test, each in enumerate(crossed):
            if len(each) and min(firsts) >= after:
                delays[test, order] = each[0] + 1 - after, lengths[after : each[0] + 1].sum()
    either = delays.min(axis=0)
    return {
        "from": source.label,
        "to": target.label,
        "after": after,
        "orders": orders,
        "stream_prompts": len(then),
        "stream_tokens": float(target.lengths.sum() * len(then) / target.n),
        "alarms_before": early / orders,
        "detected": float(np.isfinite(either[:, 0]).mean()),
        "detected_by_budget": float(np.isfinite(delays[0, :, 0]).mean()),
        "detected_by_exchangeability": float(np.isfinite(delays[1, :, 0]).mean()),
        "share_within_tokens": [float(np.mean(either[:, 1] <= tokens)) for tokens in CHECKPOINTS],
        **{
            f"{unit}_{name}": _quantile(either[:, column], share)
            for column, unit in enumerate(("prompts", "tokens"))
            for name, share in (("median", 0.5), ("p95", 0.95), ("most", 1.0))
        },
    }


def _quantile(delays: NDArray[np.float64], share: float) -> float | None:
    """Of all orders; None where it is not reached within the stream."""
    found = float(np.quantile(delays, share, method="inverted_cdf"))
    return found if math.isfinite(found) else None


def main() -> int:
    """Write the JSON object; 1 where unshifted streams are refused more often than stated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--calibration", action="append", required=True, help="shipped one, or folder of one; repeatable"
    )
    parser.add_argument("--orders", type=int, default=1000, help="random orders of each stream")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    domains = [domain for name in given.calibration for domain in domains_of(name)]
    rng = np.random.default_rng(given.seed)
    matrix, streams = [], []
    for source, target in product(domains, domains):
        print(f"{source.label} to {target.label}", file=sys.stderr)
        matrix.append(transfer(source, target, rng))
        if source.calibration != target.calibration:
            continue
        for after in AFTER if source is not target else AFTER[:1]:
            if after < source.n - source.n // 2:
                streams.append(detection(source, target, after, given.orders, rng))
    folders = list(map(find_calibration, given.calibration))
    found = {
        "eps": EPS, "alpha": ALPHA, "seed": given.seed, "checkpoints_tokens": CHECKPOINTS,
        "loss": "skip risk per emitted token, certified by conformal risk control",
        "matrix": matrix, "streams": streams,
        "recorded": {folder.name: {"records_sha256": sha256_of(folder / RECORDS)} for folder in folders},
    }  # fmt: skip
    write_atomically(given.out, json.dumps(found, indent=2) + "\n")
    broken = [
        row
        for row in streams
        if row["from"] == row["to"] and row["detected"] > ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / row["orders"])
    ]
    for row in broken:
        print(f"{row['from']}: {row['detected']} of unshifted streams are refused", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
