"""Decode rounds of several drafts with real models, and set what they do beside what `solve` foretells.

python tests/long/measure_speculation.py --calibration FOLDER     # recorded by cuhlm-opt calibrate
python tests/long/measure_speculation.py --skip 400 --prompts 14 --tokens 32

Each run replaces its pair's entry of --out, by default figures/measured/speculation.json. Decoded rounds are priced
with the compute times of the calibration, as `solve` does: what they do is compared, not how busy the machine was.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cuhlm_opt.artefacts import Calibration, OperatingPoint
from cuhlm_opt.calibrate.prompts import load_prompts
from cuhlm_opt.decode.loop import decode
from cuhlm_opt.decode.result import DecodeResult
from cuhlm_opt.latency import ComputeTimes
from cuhlm_opt.links import link_of
from cuhlm_opt.models.pairs import load_pair
from cuhlm_opt.modes import Drafting, Mode
from cuhlm_opt.records import write_atomically
from cuhlm_opt.solve import solve
from cuhlm_opt.solve.load import CALIBRATION, find_calibration
from cuhlm_opt.solve.options import Options

OUT = Path(__file__).resolve().parents[2] / "figures" / "measured" / "speculation.json"
SETS = {"code": "stdlib", "general": "general"}
LINK: Options = {"bandwidth_hz": 10e6, "snr_db": 10.0, "rtt_s": 0.02}


def main() -> int:
    """Measure one pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", default="qwen2.5-coder", help="shipped one, or folder of one")
    parser.add_argument("--domain", choices=list(SETS), default="code")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--skip", type=int, default=0, help="first prompts of the set to leave out")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--lengths", default="1,2,4,8", help="draft lengths, each fixed")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    calibration = given.calibration
    found = Calibration.read(find_calibration(calibration) / CALIBRATION)
    common: Options = {**LINK, "domain": given.domain, "mode": Mode.SPECULATIVE, "answer_tokens": given.tokens}
    ways: list[Options] = [
        {"drafting": "fixed", "pending_data": "truncated", "draft_length": int(g)} for g in given.lengths.split(",")
    ]
    ways.append({"drafting": "fixed", "pending_data": "coarse"})
    ways.append({"drafting": "triggered", "pending_data": "truncated"})
    prompts = [prompt.text for prompt in load_prompts(SETS[given.domain])[given.skip :][: given.prompts]]
    models = load_pair(found.pair, lanes=1)
    rows = []
    try:
        for way in ways:
            options: Options = {**common, **way}
            point = solve(calibration, **options)
            answers = [decode(models, point, text, seed=n, max_tokens=given.tokens) for n, text in enumerate(prompts)]
            rows.append(_row(point, answers))
            print(json.dumps(rows[-1]), file=sys.stderr)
    finally:
        models.close()
    measured = json.loads(given.out.read_text()) if given.out.exists() else {"recorded": {}}
    measured["recorded"][found.pair] = {
        "calibration": {"id": found.id, "max_tokens": found.max_tokens},
        "records_sha256": found.records_sha256,
        "domain": given.domain,
        "prompts": len(prompts),
        "tokens": given.tokens,
        "link": dict(LINK),
        "rows": rows,
    }
    write_atomically(given.out, json.dumps(measured, indent=2, sort_keys=True) + "\n")
    return 0


def _row(point: OperatingPoint, answers: Sequence[DecodeResult]) -> dict[str, Any]:
    """One way to draft: foretold and decoded. Standard errors are over prompts."""
    own = next(row for row in point.baselines if row.mode is Mode.SPECULATIVE)
    tokens = np.array([len(answer.steps) for answer in answers])
    rounds = np.array([len(answer.uploads) for answer in answers])
    priced = np.array([_priced_s(point, answer) for answer in answers])
    return {
        "draft_length": point.draft_length,
        "drafting": point.drafting,
        "pending_data": point.pending_data,
        "k": point.k,
        "u_threshold": point.u_threshold,
        "tokens": int(tokens.sum()),
        "rounds": int(rounds.sum()),
        "tokens_per_round": {
            "foretold": 1.0 / (own.server_passes_per_token or float("nan")),
            **_ratio(tokens, rounds),
        },
        "bits_per_round": {
            "foretold": point.payload_bits,
            "decoded": float(sum(answer.payload_bits_total for answer in answers) / rounds.sum()),
        },
        "tokens_per_s": {
            "foretold": point.throughput_tokens_per_s,
            **_ratio(tokens, priced),
        },
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> dict[str, float]:
    """Ratio of sums and its standard error over prompts, by linearisation."""
    ratio = above.sum() / below.sum()
    left = above - ratio * below
    n = len(above)
    error = float(np.sqrt(n / (n - 1) * np.sum(left**2)) / below.sum()) if n > 1 else float("nan")
    return {"decoded": float(ratio), "se": error}


def _priced_s(point: OperatingPoint, answer: DecodeResult) -> float:
    """Seconds of the answer's rounds at the calibration's compute times."""
    assert point.times is not None
    times = ComputeTimes(slm_s=point.times.slm_s, gate_s=point.times.gate_s, llm_pass_s=point.times.llm_pass_s)
    drafts = np.array([step.drafted for step in answer.uploads], dtype=float)
    read = np.array([step.read for step in answer.uploads], dtype=float)
    device = times.slm_s + (times.gate_s if point.drafting is Drafting.TRIGGERED else 0.0)
    sent = link_of(point.channel).mean_uplink_s(np.array([step.payload_bits for step in answer.uploads], dtype=float))
    waiting = point.channel.rtt_s + point.channel.downlink_s
    return float(np.sum(drafts * device + sent + waiting + times.llm_s(read)))


if __name__ == "__main__":
    sys.exit(main())
