"""What thresholds that follow the channel gain over one threshold, at the same bias budget: stated and replayed.

Both replays toss the same number of coins over the same recorded answers. The interval of the replayed gain is a
cluster bootstrap over prompts, which are resampled for both alike. The trace is synthetic, and its name says so.

python tests/long/measure_adaptive.py --out figures/measured/adaptive.json
"""

import argparse
import json
import sys
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.bootstrap import ClusterBootstrap, ratios
from cuhlm_opt.records import sha256_of, write_atomically
from cuhlm_opt.simulate import Replayed, replications
from cuhlm_opt.solve.load import RECORDS, find_calibration
from cuhlm_opt.solve.modes_table import mode_point
from cuhlm_opt.solve.options import pose

MODES, POLICIES = ("u-hlm", "cu-hlm-offline", "coarse"), ("budget", "certified")
BANDWIDTH_HZ, BUDGET, TOKENS, REPLAYS = 100e3, 0.02, 128, 40
TRACE = "synthetic trace"


def main() -> int:
    """Write the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calibration", default="qwen2.5-coder", help="shipped one, or folder of one")
    parser.add_argument("--domain", default="code")
    given = parser.parse_args()
    with TemporaryDirectory() as scratch:
        trace = Path(scratch) / "trace.csv"
        write_synthetic_trace(trace)
        links: dict[str, dict[str, Any]] = {
            f"Rayleigh, {snr_db} dB": {"channel": "rayleigh", "snr_db": float(snr_db), "bandwidth_hz": BANDWIDTH_HZ}
            for snr_db in (-10, 0, 10)
        } | {TRACE: {"channel": "trace", "trace": str(trace)}}
        rows = []
        for (name, link), mode, policy in product(links.items(), MODES, POLICIES):
            print(f"{name}, {mode}, {policy}", file=sys.stderr)
            rows.append(
                {
                    "link": name,
                    "mode": mode,
                    "policy": policy,
                    **gain(given.calibration, given.domain, link, mode, policy),
                }
            )
    folder = find_calibration(given.calibration)
    found = {
        "domain": given.domain, "bandwidth_hz": BANDWIDTH_HZ, "max_bias": BUDGET, "answer_tokens": TOKENS,
        "replays": REPLAYS,
        "recorded": {folder.name: {"records_sha256": sha256_of(folder / RECORDS), "rows": rows}},
    }  # fmt: skip
    write_atomically(given.out, json.dumps(found, indent=2) + "\n")
    return 0


def gain(calibration: str, domain: str, link: dict[str, Any], mode: str, policy: str) -> dict[str, Any]:
    """Throughput of both rules, and the gain of the one that follows."""
    per_prompt, stated, bias = [], [], []
    for adaptive in (False, True):
        posed = pose(
            calibration, domain=domain, mode=mode, policy=policy, max_bias=BUDGET, answer_tokens=TOKENS,
            adaptive=adaptive, **link,
        )  # fmt: skip
        point, problem = mode_point(posed.problem, posed.mode), posed.problem
        assert point.time is not None
        assert problem.gate is not None
        replayed = Replayed(
            mode=posed.mode, times=problem.compute_times, link=problem.link, prompt=problem.gate.records.prompt,
            skip=point.skip, bits=point.bits, tokens=TOKENS,
        )  # fmt: skip
        per_prompt.append(seconds_of_answers(replayed))
        stated.append(1 / point.time.mean_s)
        bias.append(point.bias)
    fixed_s, follows_s = per_prompt
    bootstrap = ClusterBootstrap.draw(len(fixed_s), np.random.default_rng(0))
    found = bootstrap.intervals(ratios("gain"), np.column_stack([follows_s, fixed_s]))["gain"]
    return {
        "fixed_tokens_per_s": stated[0],
        "follows_tokens_per_s": stated[1],
        "fixed_bias": bias[0],
        "follows_bias": bias[1],
        "gain_stated": stated[1] / stated[0],
        "gain_replayed": found.value,
        "gain_replayed_ci": [found.low, found.high],
    }


def seconds_of_answers(replayed: Replayed) -> NDArray[np.float64]:
    """Mean latency of a token in each answer, times what the answer stands for, shape (answers,)."""
    total = np.zeros(0)
    for number, replication in enumerate(islice(replications(replayed, seed=1), REPLAYS)):
        own = np.nansum(replication.seconds, axis=1) * replication.weights
        total = own if number == 0 else total + own
    return total / REPLAYS


def write_synthetic_trace(path: Path) -> None:
    """One minute of Rayleigh fading at 5 dB, in steps of 10 ms whose complex gains are correlated by 0.97."""
    rng, gain_now, lines = np.random.default_rng(7), 1.0 + 0.0j, ["time_s,rate_bps"]
    for step in range(6000):
        noise = rng.normal(size=2) @ [1, 1j] / np.sqrt(2)
        gain_now = 0.97 * gain_now + np.sqrt(1 - 0.97**2) * noise
        rate = BANDWIDTH_HZ * np.log2(1 + 10**0.5 * abs(gain_now) ** 2)
        lines.append(f"{step / 100:.2f},{rate:.3f}")
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
