"""What decoding really does at solved operating points, on prompts that were not recorded: throughput and bias.

Compute times are those of the calibration, applied to the steps that were taken, so that the load of the machine does
not enter; the link is priced. The point is solved for answers of the length that is decoded. The bias is the skip risk
met, which the LLM learns where it reads skipped tokens, and the bounds on truncation and rounding at these positions.
Intervals are bootstraps over prompts.

python tests/long/measure_decodes.py --out figures/measured/decodes.json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cuhlm_opt.artefacts import Calibration
from cuhlm_opt.bootstrap import ClusterBootstrap, ratios
from cuhlm_opt.calibrate.prompts import Prompt, load_prompts
from cuhlm_opt.decode.loop import decode
from cuhlm_opt.decode.result import DecodeResult
from cuhlm_opt.latency import ComputeTimes
from cuhlm_opt.models.pairs import Pair, load_pair
from cuhlm_opt.records import write_atomically
from cuhlm_opt.solve import solve
from cuhlm_opt.solve.load import CALIBRATION, find_calibration

SOURCES = {"code": "stdlib", "general": "general"}
MODES, BUDGETS = ("u-hlm", "cu-hlm-offline", "coarse"), (0.01, 0.02, 0.05)
LINK = {"bandwidth_hz": 10e6, "snr_db": 10.0}


def main() -> int:
    """Write the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calibration", default="qwen2.5-coder", help="shipped one, or folder of one")
    parser.add_argument("--skip", type=int, default=400, help="first prompts of each set, which were recorded")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, help="Of the models; none: all processors.")
    given = parser.parse_args()
    folder = find_calibration(given.calibration)
    calibration = Calibration.read(folder / CALIBRATION)
    pair = load_pair(calibration.pair, threads=given.threads)
    rows = []
    try:
        for domain in calibration.domains:
            prompts = load_prompts(SOURCES[domain])[given.skip : given.skip + given.prompts]
            for budget in BUDGETS:
                for mode in MODES:
                    row = measured(pair, prompts, given.calibration, domain, mode, budget, given.max_tokens)
                    print(json.dumps(row), file=sys.stderr, flush=True)
                    rows.append(row)
    finally:
        pair.close()
    found = {
        **LINK, "prompts": given.prompts, "max_tokens": given.max_tokens,
        "recorded": {folder.name: {"records_sha256": calibration.records_sha256, "rows": rows}},
    }  # fmt: skip
    write_atomically(given.out, json.dumps(found, indent=2) + "\n")
    return 0


def measured(
    pair: Pair, prompts: list[Prompt], calibration: str, domain: str, mode: str, budget: float, max_tokens: int
) -> dict[str, Any]:
    """Throughput and bias over the prompts at one operating point."""
    point = solve(calibration, domain=domain, mode=mode, max_bias=budget, answer_tokens=max_tokens, **LINK)
    times = ComputeTimes(slm_s=point.times.slm_s, gate_s=point.times.gate_s, llm_pass_s=point.times.llm_pass_s)
    results = [
        decode(pair, point, prompt.text, seed=seed, max_tokens=max_tokens) for seed, prompt in enumerate(prompts)
    ]
    sums = np.array([figures(result, times) for result in results])
    names = ("seconds_per_token", "bias", "skip_rate")
    bootstrap = ClusterBootstrap.draw(len(prompts), np.random.default_rng(0))
    found = bootstrap.intervals(ratios(*names), sums)
    speed = found["seconds_per_token"].through(lambda seconds: 1 / seconds)
    return {
        "domain": domain, "mode": mode, "max_bias": budget, "tokens": int(sums[:, 0].sum()),
        "throughput_tokens_per_s": speed.value, "throughput_ci": [speed.low, speed.high],
        "bias": found["bias"].value, "bias_ci": [found["bias"].low, found["bias"].high],
        "skip_rate": found["skip_rate"].value,
        "solved_throughput_tokens_per_s": point.throughput_tokens_per_s, "solved_bias": point.bias_total,
    }  # fmt: skip


def figures(result: DecodeResult, times: ComputeTimes) -> tuple[float, float, float, float]:
    """Tokens, seconds, bias summed over them, and skipped tokens, of one answer."""
    n = len(result.steps)
    passes = sum(float(times.llm_s(step.read)) for step in result.steps if step.read > 0)
    seconds = n * times.device_s(result.point.mode) + result.link_s + passes
    answer = {entry.term: entry.value for entry in result.ledger()}
    skipping = result.bias_skip if result.risk_expected is None else result.risk_expected
    parts = (skipping, answer["truncation"], answer["quantisation"])
    assert None not in parts
    return n, seconds, n * sum(parts), sum(step.skipped for step in result.steps)


if __name__ == "__main__":
    sys.exit(main())
