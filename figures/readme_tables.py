"""Write the README's tables from the shipped records and what `make measure` found: no number in them is typed.

python figures/readme_tables.py            # rewrite README.md
python figures/readme_tables.py --check    # exit 1 if a table is stale
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.artefacts import Calibration, Estimate, OperatingPoint
from cuhlm_opt.calibrate.compare import BUDGETS, recommended
from cuhlm_opt.modes import Mode
from cuhlm_opt.payload import Format
from cuhlm_opt.records import Records, read_records, sha256_of
from cuhlm_opt.resources import calibration_dir
from cuhlm_opt.solve import solve
from cuhlm_opt.solve.coding import Coding, open_codings
from cuhlm_opt.solve.truncation import offline_profile
from cuhlm_opt.sweep import Solver
from cuhlm_opt.units import format_si

README = Path(__file__).resolve().parent.parent / "README.md"
PAIR = "qwen2.5-coder"
PAIRS = (PAIR, "qwen2.5-coder-q2", "smollm2-q2")
INTERVALS = "(bootstrap, over bins jackknife)"
"""How the intervals of signals are made."""
PAIR_SIGNALS = ("u_mc", "u_bar", "x_d", "combined")
PUBLISHED = ("published-cu-hlm", "published-u-hlm")
DASH = "-"
HEADLINE = 206.0
"""The published gain over `hlm`."""
HEADLINE_MODES = ("u-hlm", "cu-hlm-offline", "coarse")
MEASURED = Path(__file__).resolve().parent / "measured"
METHODS = {"plug-in": "plug-in-budget", "certified": "conformal-risk-control", "certified, delta": "betting"}
"""Ways to choose a threshold in the README's words, and as they were measured."""


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


def signals() -> str:
    """Uncertainty signals beside each other, in each domain."""
    calibration = _calibration(PAIR)
    assert calibration.times is not None
    costs_s = calibration.times.signal_s
    rows = [
        [
            "domain",
            "signal",
            "R",
            "R²",
            "R over bins",
            "AUROC",
            *(f"skipped at {budget:g}" for budget in BUDGETS),
            "cost",
        ]
    ]
    notes = []
    for domain, fit in calibration.domains.items():
        assert fit.comparison is not None
        chosen = recommended(fit.comparison, costs_s)
        for name, row in fit.comparison.rows.items():
            rows.append(
                [
                    domain,
                    f"**`{name}`**" if name == chosen else f"`{name}`",
                    f"{_number(row.r.value, 3)}{_span(row.r.ci)}",
                    f"{row.r2:.2f}",
                    f"{_number(row.r_binned.value, 3)}{_span(row.r_binned.ci)}",
                    f"{_number(row.auroc.value, 3)}{_span(row.auroc.ci)}",
                    *(_percent(row.skip_rate[f"{budget:g}"]) for budget in BUDGETS),
                    format_si(costs_s[name], "s"),
                ]
            )
        others = ", ".join(f"`{name}`" for name in fit.comparison.not_worse if name != fit.comparison.best)
        notes.append(
            f"{domain}: most is skipped at 0.02 by `{fit.comparison.best}`, not significantly less by "
            f"{others or 'no other'}; recommended `{chosen}`"
        )
    return (
        f"{_markdown(rows)}\nIn brackets 95 % intervals over prompts {INTERVALS}; compared on the half of the prompts "
        f"that `combined` was not learned on. {'. '.join(notes)}. Cost: what reading it adds to the law and the draft, "
        "median, two CPU cores.\n"
    )


def pairs() -> str:
    """Every recorded pair: what it rests on, and how far uncertainty tells of rejection."""
    rows = [
        [
            "pair", "domain", "prompts / tokens", "mean beta", *(f"R, `{signal}`" for signal in PAIR_SIGNALS),
            "R over bins, `u_bar`", "skipped at 0.02, `u_bar`", "records",
        ]
    ]  # fmt: skip
    weakest = []
    for name in PAIRS:
        calibration = _calibration(name)
        path = calibration_dir() / "recorded" / name / "records.parquet"
        stored = f"{path.stat().st_size / 1e6:.1f} MB, `{sha256_of(path)[:8]}`"
        for domain, fit in calibration.domains.items():
            assert fit.comparison is not None
            compared = fit.comparison.rows
            per_token = [compared[signal].r for signal in PAIR_SIGNALS]
            weakest += [estimate.value for estimate in per_token if estimate.value is not None]
            u_bar = compared["u_bar"]
            rows.append(
                [
                    f"`{name}`", domain, f"{fit.n_prompts} / {fit.n_tokens}", _estimate(fit.mean_beta),
                    *(f"{_number(estimate.value, 2)}{_span(estimate.ci)}" for estimate in per_token),
                    f"{_number(u_bar.r_binned.value, 2)}{_span(u_bar.r_binned.ci)}",
                    _percent(u_bar.skip_rate["0.02"]), stored,
                ]
            )  # fmt: skip
    return (
        f"{_markdown(rows)}\nR on the prompts that nothing was learned on, in brackets 95 % intervals over prompts "
        f"{INTERVALS}. Over tokens R lies between {min(weakest):.2f} and {max(weakest):.2f}: the published correlation "
        "is one of means over bins. Records: size and the first digits of their SHA-256.\n"
    )


def _percent(estimate: Estimate) -> str:
    low, high = estimate.ci or (estimate.value, estimate.value)
    return f"{100 * estimate.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


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
        bias = DASH if row.bias is None else f"{row.bias:.4f}{_half(row.bias_ci, 4)} ({row.bias_kind})"
        skipped = DASH if row.skip_rate is None else f"{row.skip_rate:.1%}{_half(row.skip_rate_ci, 1, 100)}"
        rows.append(
            [
                name,
                _number(row.throughput_tokens_per_s, 1) + _half(row.throughput_ci, 1),
                skipped,
                DASH if row.payload_bits is None else f"{row.payload_bits:,.0f}",
                _number(row.server_passes_per_token, 2),
                bias,
            ]
        )
    command = f"Domain `{domain}`, `cuhlm-opt solve --bandwidth 10MHz --domain {domain}`:"
    return f"{command}\n\n{_markdown(rows)}\n{_reason(point)}\n"


def link_map() -> str:
    """Which mode is the fastest on which link, and by how much, for each budget and round trip."""
    bandwidths, decibels = (1e5, 1e6, 1e7, 1e8), (-20.0, -10.0, 0.0, 10.0, 20.0)
    rows = [["domain", "bias", "round trip", "bandwidth", *(f"{snr_db:g} dB" for snr_db in decibels)]]
    for domain in _calibration(PAIR).domains:
        solver = Solver(PAIR, bandwidth_hz=bandwidths[0], domain=domain)
        for max_bias, rtt_s, bandwidth_hz in product((0.0, 0.02, 0.05), (0.0, 0.04), bandwidths):
            cells = []
            for snr_db in decibels:
                point = {"max_bias": max_bias, "rtt_s": rtt_s, "bandwidth_hz": bandwidth_hz, "snr_db": snr_db}
                solved = solver.rows(point)
                speeds = {row["mode"]: row["throughput_tokens_per_s"] for row in solved}
                best = next(row["mode"] for row in solved if row["recommended"])
                cells.append(f"{best} {speeds[best] / speeds['llm']:.2f}")
            link = (f"{max_bias:g}", f"{1e3 * rtt_s:g} ms", format_si(bandwidth_hz, "Hz"))
            rows.append([domain, *link, *cells])
    return _markdown(rows) + "\nThe number is the throughput over that of `llm` on the same link.\n"


def headline() -> str:
    """Up to which uplink rate a mode is 206 times as fast as `hlm`."""
    rows = [["domain", "accounting", "`hlm` sends", *(f"`{mode}`" for mode in HEADLINE_MODES)]]
    rates = np.geomspace(1e3, 1e6, 61)
    for domain, accounting in product(_calibration(PAIR).domains, ("mean-latency", "mean-rate")):
        solver = Solver(PAIR, bandwidth_hz=1.0, domain=domain, accounting=accounting)
        fastest: dict[tuple[str, str], float] = {}
        for rate in rates:
            point = {"max_bias": 0.02, "rtt_s": 0.0, "bandwidth_hz": float(rate), "snr_db": 0.0}  # 1 bit/s/Hz
            for row in solver.rows(point):
                for column in ("speedup_vs_hlm", "speedup_vs_hlm_published"):
                    if (row[column] or 0.0) >= HEADLINE:
                        fastest[row["mode"], column] = float(rate)
        for column, sent in (("speedup_vs_hlm", "dense laws"), ("speedup_vs_hlm_published", "laws with indices")):
            cells = [fastest.get((mode, column)) for mode in HEADLINE_MODES]
            found = ("nowhere" if rate is None else f"up to {format_si(rate, 'bit/s')}" for rate in cells)
            rows.append([domain, accounting, sent, *found])
    return (
        _markdown(rows) + f"\nBias budget 0.02; where the gain is at least {HEADLINE:g}, by the rate of the uplink.\n"
    )


def coverage() -> str:
    """How often the population's risk passes the budget, on synthetic populations of known law."""
    measured = _measured("coverage")
    rows = [
        ["synthetic population", "budget", *(f"{name}: {what}" for name in METHODS for what in ("over", "skip rate"))]
    ]
    for population, result in measured["synthetic"].items():
        for at, reference in enumerate(result["methods"]["betting"]):
            cells = []
            for method in METHODS.values():
                row = result["methods"][method][at]
                cells += [f"{row['share_over_eps']:.3f}", f"{row['mean_skip_rate']:.3f}"]
            rows.append([f"`{population}`", f"{reference['eps']:g}", *cells])
    calibrations = next(iter(measured["synthetic"].values()))["methods"]["betting"][0]["repetitions"]
    prompts = next(iter(measured["synthetic"].values()))["n_prompts"]
    return (
        _markdown(rows) + f"\n{calibrations} calibrations of {prompts} prompts each; delta = {measured['delta']:g}.\n"
    )


def splits() -> str:
    """What each way to choose a threshold does to prompts it has not seen."""
    methods = {
        **METHODS,
        "published, risk-averse": "risk_averse-u_mc",
        "published, risk-prone": "risk_prone-u_mc",
    }
    rows = [["threshold by", "domain", "mean risk on other prompts", "over the budget", "not empty", "skip rate"]]
    for domain, result in _recorded_domains("coverage"):
        for label, method in methods.items():
            row = result["splits"][method][0]
            risk = f"{row['mean_risk']:.4f} ± {row['mean_risk_se']:.4f}"
            shares = (f"{row[share]:.1%}" for share in ("share_over_eps", "share_not_empty", "mean_skip_rate"))
            rows.append([label, domain, risk, *shares])
    return (
        _markdown(rows)
        + f"\nBudget {row['eps']:g}, means over {row['repetitions']} random splits into halves; ± is one standard "
        "error over splits.\n"
    )


def certificate_cost() -> str:
    """Skip rate that the guarantee costs, by the number of prompts."""
    domains = list(_recorded_domains("coverage"))
    sizes = list(domains[0][1]["cost"])
    rows = [["threshold by", "domain", *(f"{n} prompts" for n in sizes)]]
    for domain, result in domains:
        for label, method in METHODS.items():
            cells = [result["cost"][n][method][0] for n in sizes]
            rows.append([label, domain, *(f"{cell['mean_skip_rate']:.1%}" for cell in cells)])
    return _markdown(rows) + f"\nSkip rate at budget {cells[0]['eps']:g}.\n"


def _rounding(coding: Coding) -> NDArray[np.float64]:
    """Mean TV(x_hat_k, decoded x_hat_k) at each size of the grid."""
    return np.array([coding.mean_bias(np.asarray(at)) for at in range(len(coding.records.k_grid))])


def codec() -> str:
    """The fewest bits of a compact message that adds no more to the bias than the published one."""
    rows = [["domain", "published: k", "bits", "TV added at most", "compact: k", "bits", "levels", "fewer bits"]]
    for domain in _calibration(PAIR).domains:
        records = _records(domain)
        profile = offline_profile(records)
        (published,) = open_codings(records, Format.PUBLISHED, None, None)
        compact = open_codings(records, Format.COMPACT, None, None)
        added = profile + np.array([_rounding(coding) for coding in compact])
        bits = np.array([coding.bits(size_known=True) for coding in compact])
        for k in (1, 16, 256, 4096, int(records.k_grid[-1])):
            at = int(np.searchsorted(records.k_grid, k))
            sent, distance = published.bits(size_known=True)[at], profile[at] + _rounding(published)[at]
            way, size = np.unravel_index(np.argmin(np.where(added <= distance, bits, np.inf)), bits.shape)
            best, coding = bits[way, size], compact[way]
            rows.append(
                [
                    domain,
                    f"{records.k_grid[at]:,}",
                    f"{sent:,.0f}",
                    f"{distance:.4f}",
                    f"{records.k_grid[size]:,}",
                    f"{best:,.0f}",
                    f"{coding.b_prob} bits, {coding.quantiser}",
                    f"{sent / best:,.1f} x",
                ]
            )
    return _markdown(rows)


def adaptive() -> str:
    """What thresholds that follow the channel gain over one threshold at the same budget."""
    measured, recorded = _measured("adaptive"), _recorded("adaptive")
    rows = [["link", "mode", "one threshold", "following", "gain", "gain, replayed", "certified: gain, replayed"]]
    found = {(row["link"], row["mode"], row["policy"]): row for row in recorded["rows"]}
    for (link, mode, policy), row in found.items():
        if policy == "budget":
            plain, certified = (_gain(found[link, mode, each]) for each in ("budget", "certified"))
            speeds = [f"{row[key]:.4g} tokens/s" for key in ("fixed_tokens_per_s", "follows_tokens_per_s")]
            rows.append([link, f"`{mode}`", *speeds, f"{row['gain_stated'] - 1:+.1%}", plain, certified])
    where = f"Domain {measured['domain']}, {format_si(measured['bandwidth_hz'], 'Hz')}"
    note = (
        f"{where}, --max-bias {measured['max_bias']:g}, "
        "--policy budget but for the last column; replayed gains with 95 % intervals over prompts."
    )
    return _markdown(rows) + f"\n{note}\n"


def _gain(row: dict[str, Any]) -> str:
    low, high = row["gain_replayed_ci"]
    return f"{row['gain_replayed'] - 1:+.1%} ({low - 1:+.1%} to {high - 1:+.1%})"


def transfer() -> str:
    """What a threshold certified on one domain does on another, of any pair, and how soon a change is noticed."""
    found = _measured("transfer")
    _require_shipped("transfer")
    streams = {(_where(row["from"]), _where(row["to"])): row for row in found["streams"]}  # the last of each
    rows = [
        [
            "certified on", "met on", "skip risk", "skipped", "after", "refused", "half of them within", "95 % within",
            "by risk",
        ]
    ]  # fmt: skip
    across = [cell for cell in found["matrix"] if cell["from"]["calibration"] != cell["to"]["calibration"]]
    for cell in found["matrix"]:
        own, other = _where(cell["from"]), _where(cell["to"])
        if cell in across:
            continue
        stream = streams[own, other]
        within = [stream[name] for name in ("tokens_median", "tokens_p95")]
        rows.append(
            [
                own,
                other,
                f"{cell['risk']:.4f}{_span(cell['risk_ci'])}",
                f"{cell['skip_rate']:.1%}",
                "-" if own == other else f"{stream['after']} of {stream['after'] + stream['stream_prompts']}",
                f"{stream['detected']:.1%}",
                *("-" if tokens is None else f"{tokens:.0f} tokens" for tokens in within),
                f"{stream['detected_by_budget']:.1%}",
            ]
        )
    risks, over = [cell["risk"] for cell in across], sum(cell["risk"] > found["eps"] for cell in across)
    pairs_told = (
        f" From pair to pair the skip risk lies between {min(risks):.4f} and {max(risks):.4f}, over the budget in "
        f"{over} of {len(across)} cases (`cuhlm-opt figures transfer`). Half of 100 prompts certify little or nothing."
        if across
        else ""
    )
    return (
        f"{_markdown(rows)}\nBudget {found['eps']:g} per token, certified on every other prompt. Refused: share of "
        f"{found['streams'][0]['orders']} random orders in which the test refuses the calibration, at a stated error "
        f"of {found['alpha']:.0%}. After: prompts of the domain that was certified before the stream changes, of all "
        "in the stream; where there is none it does not change. By risk: by the first hypothesis, at any moment of the "
        f"stream.{pairs_told}\n"
    )


def contexts() -> str:
    """Skip risk at one threshold on answers by the LLM, the decoder and the SLM."""
    found = _measured("contexts")
    _require_shipped("contexts")
    rows = [
        [
            "",
            "budget",
            *(f"risk, {source} writes" for source in ("LLM", "hybrid", "SLM")),
            "hybrid - LLM",
            "summed over an answer",
            "at most",
        ]
    ]
    for name, part in found["recorded"].items():
        for row in part["rows"]:
            sources, allowed = row["sources"], row["moved_at_most_by_position"]
            low, high = sources["hybrid"]["risk_moved_ci"]
            rows.append(
                [
                    f"`{name}`, {row['domain']}",
                    f"{row['max_bias']:g}",
                    *(
                        f"{sources[key]['risk']:.4f}{_span(sources[key]['risk_ci'])}"
                        for key in ("llm", "hybrid", "slm")
                    ),
                    f"{sources['hybrid']['risk_moved']:+.4f} ({low:+.3f} to {high:+.3f})",
                    f"{sources['hybrid']['summed_moved']:+.2f}{_span(sources['hybrid']['summed_moved_ci'])}",
                    f"{np.sum(allowed):.1f}",
                ]
            )
    return (
        f"{_markdown(rows)}\n{found['prompts']} prompts a domain, answered by each; differences are paired by prompt, "
        "in brackets 95 % bootstrap intervals over prompts. Summed over an answer: the same difference as a sum over "
        "its tokens, mean over prompts; at most: what the bound on sequences allows it to be, as estimated.\n"
    )


def link() -> str:
    """Throughput of every mode on the shaped links, beside what was foretold."""
    found = _recorded("link")
    cells = {(cell["mode"], cell["rate_bps"], cell["delay_s"]): cell for cell in found["cells"]}
    links = sorted({key[1:] for key in cells}, key=lambda each: each[::-1])
    modes = [mode for mode in Mode if any(key[0] == mode for key in cells)]
    rows = [["mode", *(f"{rate / 1e6:g} Mbit/s" + (f", {1e3 * delay:g} ms" if delay else "") for rate, delay in links)]]
    for mode in modes:
        own = [cells.get((mode, *each)) for each in links]
        rows.append([f"`{mode}`", *(DASH if cell is None else _foretold(cell) for cell in own)])
    close = [abs(cell["priced_tokens_per_s"] / cell["measured_tokens_per_s"] - 1) for cell in cells.values()]
    tokens = sorted(cell["n_tokens"] for cell in cells.values())
    parts = [cell["seconds"] for cell in cells.values()]
    linked = [abs(part["link"] / part["priced_link"] - 1) for part in parts if 10 * part["link"] > sum(_compute(part))]
    steps = [part["slm"] / found["times"]["slm_s"] for cell, part in zip(cells.values(), parts, strict=True)
             if cell["mode"] not in ("llm", "speculative")]  # fmt: skip
    return (
        f"{_markdown(rows)}\nTokens per second measured (in brackets: priced, the same steps at compute times measured "
        "before and the link's nominal figures; solved, from the records alone). Shaped by "
        f"{found['shaped_by']}, {tokens[0]} to {tokens[-1]} tokens a cell, {found['domain']} prompts that were not "
        f"recorded, budget {found['max_bias']:g}. {sum(error <= 0.15 for error in close)} of {len(close)} cells are "
        f"within 15 % of priced; the median is off by {np.median(close):.1%}, the worst by {max(close):.0%}. Where the "
        f"link takes a tenth of the computing time or more ({len(linked)} cells) its own time is off by "
        f"{np.median(linked):.1%} in the median and {max(linked):.0%} at most; the rest is this machine: an SLM step "
        f"took {min(steps):.2f} to {max(steps):.2f} times what was measured before.\n"
    )


def _compute(part: dict[str, float]) -> tuple[float, float, float]:
    return part["slm"], part["gate"], part["llm"]


def _foretold(cell: dict[str, Any]) -> str:
    speeds = (cell["priced_tokens_per_s"], cell["solved_tokens_per_s"])
    return f"{cell['measured_tokens_per_s']:.3g} ({', '.join(f'{speed:.3g}' for speed in speeds)})"


def link_gains() -> str:
    """What the hybrids gain over hlm and over the LLM alone, measured."""
    found = _recorded("link")
    speed = {
        (cell["mode"], cell["rate_bps"], cell["delay_s"]): cell["measured_tokens_per_s"] for cell in found["cells"]
    }
    links = sorted({key[1:] for key in speed}, key=lambda each: each[::-1])
    gains = ("cu-hlm-offline", "cu-hlm-online", "coarse", "speculative")
    rows = [["link", *(f"`{mode}` over hlm, llm" for mode in gains), "best mode over hlm, llm"]]
    for rate, delay in links:
        cells = [f"{rate / 1e6:g} Mbit/s, {1e3 * delay:g} ms"]
        for mode in gains:
            own = speed.get((mode, rate, delay))
            over = [speed.get((other, rate, delay)) for other in ("hlm", "llm")]
            known = own is not None and None not in over
            cells.append(", ".join(f"{(own or 0) / (each or 1):.3g} x" for each in over) if known else DASH)
        best = max((mode for mode in Mode if (mode, rate, delay) in speed and mode is not Mode.SLM),
                   key=lambda mode: speed[mode, rate, delay])  # fmt: skip
        over = (speed.get((best, rate, delay), 0.0) / speed[other, rate, delay] for other in ("hlm", "llm"))
        rows.append([*cells, f"`{best}`: " + ", ".join(f"{gain:.3g} x" for gain in over)])
    return _markdown(rows)


def faults() -> str:
    """What the server made of malformed frames, and answers through kills of the server."""
    found = _measured("faults")
    frames, kills = found["frames"], found["kills"]
    if frames["wrong"] or kills["wrong"]:
        raise SystemExit(f"{MEASURED}/faults.json tells of wrong replies; run make measure")
    refused = sum(count for code, count in frames["by_code"].items() if code != "OK")
    rows = [
        ["random and mutated frames", "refused with a status code", "well-formed still, answered", "codes"],
        [
            f"{frames['frames']:,}",
            f"{refused:,}",
            f"{frames['by_code'].get('OK', 0):,}",
            ", ".join(f"`{code}`" for code in frames["by_code"] if code != "OK"),
        ],
    ]
    return (
        f"{_markdown(rows)}\nAmong them {frames['genuine_conversations_between']:,} genuine conversations were "
        f"answered as ever. The server was killed at {kills['kills']} random moments of answers in all modes, and "
        f"started again: {kills['answers_complete']} answers completed, {len(kills['wrong'])} with a token changed "
        f"that had been shown; {kills['reconnects']} conversations were rebuilt.\n"
    )


def link_bytes() -> str:
    """What crosses the wire, passes and bias at one rate."""
    cells = [cell for cell in _recorded("link")["cells"] if (cell["rate_bps"], cell["delay_s"]) == (1e6, 0.0)]
    rows = [["mode", "codec", "gRPC and HTTP/2", "interface", "LLM passes", "skip rate (solved)", "bias (solved)"]]
    for cell in cells:
        on_wire = cell["interface_bytes_per_token"]
        rows.append(
            [
                f"`{cell['mode']}`",
                f"{cell['codec_bytes_per_token']:,.1f}",
                f"{cell['wire_bytes_per_token']:,.1f}",
                DASH if on_wire is None else f"{on_wire:,.1f}",
                f"{cell['passes_per_token']:.3f}",
                f"{cell['skip_rate']:.3f} ({_number(cell['solved_skip_rate'], 3)})",
                f"{_number(cell['bias'], 4)} ({_number(cell['solved_bias'], 4)})",
            ]
        )
    return f"{_markdown(rows)}\nBytes sent and LLM passes per token at 1 Mbit/s without added delay.\n"


def accuracy() -> str:
    """HumanEval pass rates beside the LLM's."""
    found = _recorded("accuracy")
    rows = [["", "tasks", "pass@1", "minus the LLM's", "of the LLM's", "passed alone / LLM alone", "skip rate", "risk"]]
    for name, point in found["points"].items():
        paired = point["against"]
        rows.append(
            [
                f"`{name}`",
                str(point["n_tasks"]),
                _with_span(point["pass_at_1"]),
                DASH if paired is None else _with_span(paired["difference"], "+.3f"),
                DASH if paired is None else _with_span(paired["ratio"]),
                DASH if paired is None else f"{paired['only_this']} / {paired['only_other']}",
                _with_span(point["skip_rate"]),
                _number(point["risk"]["value"], 4),
            ]
        )
    return (
        f"{_markdown(rows)}\nOne answer a task at temperature {found['temperature']:g}, at most {found['max_tokens']} "
        "tokens; in brackets 95 % bootstrap intervals over tasks. Names end in the bias budget per token; risk is what "
        "skipping risked per token.\n"
    )


def _with_span(estimate: dict[str, Any], form: str = ".3f") -> str:
    value, ci = estimate["value"], estimate["ci"]
    return DASH if value is None else f"{value:{form}}" + ("" if ci is None else f" ({ci[0]:{form}} to {ci[1]:{form}})")


def _where(domain: dict[str, str]) -> str:
    return f"`{domain['calibration']}`, {domain['domain']}"


def mutations() -> str:
    """How many changed formulas the tests notice."""
    outcomes = _measured("mutations")["outcomes"]
    rows = [["one sign or constant changed in", "formulas", "mutants", "noticed"]]
    for label, folder in (("derivations", "derivations/"), ("the package", "cuhlm_opt/")):
        chosen = [outcome for outcome in outcomes if outcome["file"].startswith(folder)]
        formulas = {(outcome["file"], outcome["where"]) for outcome in chosen}
        killed = sum(outcome["killed_by"] is not None for outcome in chosen)
        rows.append([label, str(len(formulas)), str(len(chosen)), f"{killed} ({killed / len(chosen):.0%})"])
    return _markdown(rows)


def speculation() -> str:
    """Rounds as `solve` foretells them and as they were decoded."""
    rows = [["pair", "rounds", "data", "tokens per round: foretold", "decoded", "tokens/s: foretold", "decoded"]]
    notes = []
    for pair, found in sorted(_measured("speculation")["recorded"].items()):
        for row in found["rows"]:
            tokens, speed = row["tokens_per_round"], row["tokens_per_s"]
            limit = "up to " if row["drafting"] == "triggered" else ""
            rows.append(
                [
                    f"`{pair}`",
                    f"{limit}{row['draft_length']}, {row['drafting']}",
                    f"{row['pending_data']}, k = {row['k']}",
                    f"{tokens['foretold']:.2f}",
                    f"{tokens['decoded']:.2f} ± {tokens['se']:.2f}",
                    f"{speed['foretold']:.1f}",
                    f"{speed['decoded']:.1f} ± {speed['se']:.1f}",
                ]
            )
        link = found["link"]
        notes.append(
            f"`{pair}`: {found['prompts']} prompts of up to {found['tokens']} tokens, domain `{found['domain']}`, "
            f"{format_si(link['bandwidth_hz'], 'Hz')} at {link['snr_db']:g} dB, "
            f"round trip {format_si(link['rtt_s'], 's')}"
        )
    return (
        f"{_markdown(rows)}\nPrompts that were not recorded; {'; '.join(notes)}. "
        "± is one standard error over prompts, which the rows of a pair share. Decoded rounds are "
        "priced with the compute times of the calibration.\n"
    )


def speculation_links() -> str:
    """The best of each kind of round beside the LLM alone and the best of skipping."""
    rows = [["domain", "round trip", "`llm`", "`coarse`, budget 0.02", "fixed", "triggered", "coarse data"]]
    for domain, rtt_s in product(("code", "general"), (0.0, 0.02, 0.1)):
        link: Any = {"bandwidth_hz": 10e6, "domain": domain, "rtt_s": rtt_s, "mode": Mode.SPECULATIVE}
        ways: list[Any] = [{"drafting": "fixed"}, {"drafting": "triggered"}, {"pending_data": "coarse"}]
        points = [solve(**link, **way) for way in ways]
        speeds = {row.mode: row.throughput_tokens_per_s for row in points[0].baselines}
        rows.append(
            [
                domain,
                f"{1e3 * rtt_s:.0f} ms",
                *(_number(speeds[mode], 1) for mode in (Mode.LLM, Mode.COARSE)),
                *(f"{_number(point.throughput_tokens_per_s, 1)} ({_round(point)})" for point in points),
            ]
        )
    return f"{_markdown(rows)}\nTokens/s, in brackets the most drafts of a round and its threshold. Pair `{PAIR}`.\n"


def _round(point: OperatingPoint) -> str:
    threshold = "" if point.u_threshold is None else f", {point.u_threshold:g}"
    return f"{point.draft_length}{threshold}"


def _measured(name: str) -> Any:
    """What `make measure` wrote."""
    return json.loads((MEASURED / f"{name}.json").read_text())


def _recorded_domains(name: str) -> Iterator[tuple[str, Any]]:
    """Domains of the shipped records in a measurement."""
    yield from _recorded(name)["domains"].items()


def _recorded(name: str) -> Any:
    """What was measured on the shipped records; it must have been these very records."""
    _require_shipped(name)
    return _measured(name)["recorded"][PAIR]


def _require_shipped(name: str) -> None:
    """SystemExit where a measurement used other records than those that are shipped."""
    for calibration, part in _measured(name)["recorded"].items():
        path = calibration_dir() / "recorded" / calibration / "records.parquet"
        if part["records_sha256"] != sha256_of(path):
            raise SystemExit(f"{MEASURED / name}.json was measured with other records than {path}; run make measure")


def _reason(point: OperatingPoint) -> str:
    return f"\\* recommended: {point.recommended.reason}"


def _filled(match: re.Match[str]) -> str:
    tables = {
        "correlation": correlation,
        "signals": signals,
        "pairs": pairs,
        "published-thresholds": published_thresholds,
        "solve-general": lambda: solved("general"),
        "solve-code": lambda: solved("code"),
        "link-map": link_map,
        "headline": headline,
        "coverage": coverage,
        "splits": splits,
        "certificate-cost": certificate_cost,
        "codec": codec,
        "adaptive": adaptive,
        "mutations": mutations,
        "transfer": transfer,
        "contexts": contexts,
        "link": link,
        "link-gains": link_gains,
        "link-bytes": link_bytes,
        "faults": faults,
        "accuracy": accuracy,
        "speculation": speculation,
        "speculation-links": speculation_links,
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


def _half(interval: tuple[float, float] | None, digits: int, scale: float = 1) -> str:
    """Half the width of an interval, where it has one."""
    if interval is None or interval[0] == interval[1]:
        return ""
    return f" ± {scale * (interval[1] - interval[0]) / 2:.{digits}f}"


def _threshold(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" + ("" if 0 <= value <= 1 else " (degenerate)")


if __name__ == "__main__":
    sys.exit(main())
