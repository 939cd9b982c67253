"""Write the README's tables from the shipped records: every number in them is computed here, none is typed.

python figures/readme_tables.py            # rewrite README.md
python figures/readme_tables.py --check    # exit 1 if a table is stale
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cuhlm_opt.artefacts import Calibration, Estimate, OperatingPoint
from cuhlm_opt.records import Records, read_records
from cuhlm_opt.resources import calibration_dir
from cuhlm_opt.solve import solve

README = Path(__file__).resolve().parent.parent / "README.md"
PAIR = "qwen2.5-coder"
PUBLISHED = ("published-cu-hlm", "published-u-hlm")
DASH = "-"


def main() -> int:
    """Rewrite or check the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = README.read_text()
    made = re.sub(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", _filled, text, flags=re.DOTALL)
    if check and made != text:
        print("README.md: tables are stale; run make readme", file=sys.stderr)
        return 1
    if made != text:
        README.write_text(made)
    return 0


def correlation() -> str:
    """The correlation model of each domain and signal, with what it rests on."""
    calibration = _calibration(PAIR)
    rows = [["", *calibration.domains]]
    fits = list(calibration.domains.values())
    rows.append(["prompts / tokens", *(f"{fit.n_prompts} / {fit.n_tokens}" for fit in fits)])
    for label, name in (("mean rejection beta", "mean_beta"), ("mean TV(x, y)", "mean_tv"), ("Delta", "delta")):
        rows.append([label, *(_estimate(getattr(fit, name)) for fit in fits)])
    for signal in ("u_mc", "u_bar"):
        lines = [fit.signals[signal] for fit in fits]
        rows.append([f"`{signal}`: a", *(_estimate(Estimate(value=line.a, se=line.a_se)) for line in lines)])
        rows.append([f"`{signal}`: b", *(_estimate(Estimate(value=line.b, se=line.b_se)) for line in lines)])
        rows.append([f"`{signal}`: R per token", *(f"{_number(line.r, 3)}{_span(line.r_ci)}" for line in lines)])
        rows.append([f"`{signal}`: R over 20 bins", *(_number(line.r_binned, 3) for line in lines)])
        averse = [f"{_threshold(line.risk_averse)}{_span(line.risk_averse_ci)}" for line in lines]
        prone = [f"{_threshold(line.risk_prone)}{_span(line.risk_prone_ci)}" for line in lines]
        rows.append([f"`{signal}`: risk-averse -b/a [P2]", *averse])
        rows.append([f"`{signal}`: risk-prone (Delta-b)/a [P2]", *prone])
    times, floor = calibration.times, calibration.numeric_floor
    assert times is not None
    assert floor is not None
    passes = ", ".join(f"{1e3 * seconds:.0f} ms for {n}" for n, seconds in times.llm_pass_s.items())
    return (
        _markdown(rows)
        + "\n± is one standard error, in brackets a 95 % bootstrap interval, prompts as units. "
        + "Measured when this was recorded, on two CPU cores: SLM step "
        + f"{1e3 * times.slm_s:.0f} ms, gate {1e3 * times.gate_s:.1f} ms, LLM pass {passes} tokens. "
        + f"Numeric floor: mean TV {floor.slm:.4f} (SLM) and {floor.llm:.4f} (LLM), {floor.compared}.\n"
    )


def published_thresholds() -> str:
    """What each published threshold does to the recorded drafts, by their sampled uncertainty."""
    calibration = _calibration(PAIR)
    thresholds: list[tuple[str, Callable[[str], float | None]]] = []
    for name in PUBLISHED:
        line = next(iter(_calibration(name).domains.values())).signals["u_mc"]
        thresholds.append((f"`{name}`, risk-averse", lambda _, value=line.risk_averse: value))
        thresholds.append((f"`{name}`, risk-prone", lambda _, value=line.risk_prone: value))
    for rule in ("risk_averse", "risk_prone"):
        thresholds.append(
            (
                f"this pair's own, {rule.replace('_', '-')}",
                lambda d, r=rule: getattr(calibration.domains[d].signals["u_mc"], r),
            )
        )
    rows = [["threshold", "domain", "u_th", "tokens skipped", "bias E[s beta]", "bias, share of skipping all"]]
    for domain in calibration.domains:
        records = _records(domain)
        for label, of in thresholds:
            value = of(domain)
            if value is None:
                rows.append([label, domain, "undefined", DASH, DASH, DASH])
                continue
            skip = records.u_mc <= value
            risk = float(np.mean(skip * records.beta))
            share = risk / float(np.mean(records.beta))
            rows.append([label, domain, _threshold(value), f"{skip.mean():.1%}", f"{risk:.4f}", f"{share:.0%}"])
    return _markdown(rows)


def solved(domain: str) -> str:
    """All modes on the README's link, and the recommended one."""
    point = solve(PAIR, bandwidth_hz=10e6, domain=domain)
    rows = [["mode", "tokens/s", "skip rate", "bits per upload", "LLM passes per token", "bias"]]
    for row in point.baselines:
        name = f"`{row.mode}`" + (" *" if row.mode is point.recommended.mode else "")
        bias = DASH if row.bias is None else f"{row.bias:.4f} ({row.bias_kind})"
        rows.append(
            [
                name,
                _number(row.throughput_tokens_per_s, 1),
                DASH if row.skip_rate is None else f"{row.skip_rate:.1%}",
                DASH if row.payload_bits is None else f"{row.payload_bits:,.0f}",
                _number(row.server_passes_per_token, 2),
                bias,
            ]
        )
    command = f"Domain `{domain}`, `cuhlm-opt solve --bandwidth 10MHz --domain {domain}`:"
    return f"{command}\n\n{_markdown(rows)}\n{_reason(point)}\n"


def _reason(point: OperatingPoint) -> str:
    return f"\\* recommended: {point.recommended.reason}"


def _filled(match: re.Match[str]) -> str:
    tables = {
        "correlation": correlation,
        "published-thresholds": published_thresholds,
        "solve-general": lambda: solved("general"),
        "solve-code": lambda: solved("code"),
    }
    return f"{match[1]}{tables[match[2]]()}{match[3]}"


def _calibration(name: str) -> Calibration:
    return Calibration.read(calibration_dir() / "recorded" / name / "calibration.json")


def _records(domain: str) -> Records:
    return Records.of(read_records(calibration_dir() / "recorded" / PAIR / "records.parquet"), domain)


def _markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:,.{digits}f}"


def _estimate(estimate: Estimate) -> str:
    return _number(estimate.value, 4) + ("" if estimate.se is None else f" ± {estimate.se:.4f}")


def _span(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"


def _threshold(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" + ("" if 0 <= value <= 1 else " (degenerate)")


if __name__ == "__main__":
    sys.exit(main())
