"""HumanEval pass@1: the LLM, and two modes at one budget, on all tasks; the SLM and two more budgets on the first 40.

    python tests/long/measure_accuracy.py --work accuracy --out figures/measured/accuracy.json

Points are solved for a 10 MHz uplink at 10 dB and the code domain, certified. Answers are kept in --work: it resumes.
"""

import argparse
import json
import sys
from pathlib import Path

from cuhlm_opt.artefacts import Calibration, OperatingPoint
from cuhlm_opt.cli.progress import TokenProgress
from cuhlm_opt.decode.default_point import with_mode
from cuhlm_opt.evaluate.evaluation import Evaluation, evaluate
from cuhlm_opt.human_eval import load_tasks
from cuhlm_opt.models.pairs import load_pair
from cuhlm_opt.modes import Mode
from cuhlm_opt.records import write_atomically
from cuhlm_opt.solve import solve
from cuhlm_opt.solve.load import CALIBRATION, find_calibration

MODES, BUDGET, MORE_BUDGETS, FEW = ("cu-hlm-offline", "coarse"), 0.02, (0.01, 0.05), 40


def main() -> int:
    """Write the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the answers")
    parser.add_argument("--calibration", default="qwen2.5-coder", help="shipped one, or folder of one")
    parser.add_argument("--max-tokens", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, help="Of the models; none: all processors.")
    parser.add_argument("--limit", type=int, help="First tasks only.")
    given = parser.parse_args()
    calibration = Calibration.read(find_calibration(given.calibration) / CALIBRATION)
    tasks = load_tasks()[: given.limit]
    main_points = solved(given.calibration, BUDGET)
    llm, slm = (with_mode(next(iter(main_points.values())), mode) for mode in (Mode.LLM, Mode.SLM))
    more = {name: point for budget in MORE_BUDGETS for name, point in solved(given.calibration, budget).items()}
    models = load_pair(
        calibration.pair, lanes=given.batch_size, context_length=1024, threads=given.threads, shared_cache=True
    )
    found: Evaluation | None = None
    try:
        for points, asked in (({"llm": llm, **main_points}, tasks), ({"slm": slm, **more}, tasks[:FEW])):
            with TokenProgress(len(points) * len(asked), "answers") as progress:
                found = evaluate(
                    models, points, asked, given.work, max_tokens=given.max_tokens, resume=True, progress=progress
                )
    finally:
        models.close()
    assert found is not None
    recorded = {"records_sha256": calibration.records_sha256, **found.model_dump(mode="json")}
    write_atomically(given.out, json.dumps({"recorded": {calibration.id: recorded}}, indent=2) + "\n")
    return 0


def solved(calibration: str, budget: float) -> dict[str, OperatingPoint]:
    """Points of one budget by name."""
    return {
        f"{mode}-{budget:g}": solve(
            calibration, bandwidth_hz=10e6, snr_db=10.0, domain="code", mode=mode, max_bias=budget
        )
        for mode in MODES
    }


if __name__ == "__main__":
    sys.exit(main())
