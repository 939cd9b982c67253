"""Parameters: the pair, its sampling and records, measured times, and the settings of solve."""

from cuhlm_opt.bootstrap import LEVEL, RESAMPLES
from cuhlm_opt.figures.tables import Table
from cuhlm_opt.units import format_si

READS = ("records",)


def table(inputs):
    """One row a parameter."""
    calibration, metadata = inputs.calibration, inputs.metadata
    scoring, times, floor = metadata["scoring"], calibration.times, calibration.numeric_floor
    problem = inputs.posed(inputs.domains[0]).problem
    lines = [("pair", calibration.pair, "")]
    for model in ("slm", "llm"):
        described = metadata["pair"].get(model, {})
        if "file" in described:
            lines.append((f"{model.upper()}", described["file"], f"sha256 {described['sha256'][:12]}.."))
    lines += [
        ("vocabulary size", f"{calibration.vocab_size:,}", "entries"),
        ("sampling temperature", f"{calibration.temperature:g}", ""),
        ("nucleus (top-p)", f"{calibration.top_p:g}", ""),
        ("contexts drawn by", metadata["source"].upper(), ""),
        ("longest recorded answer", f"{calibration.max_tokens}", "tokens"),
    ]
    lines += [
        (f"records, {domain}", f"{fit.n_prompts:,} / {fit.n_tokens:,}", "prompts / positions")
        for domain, fit in calibration.domains.items()
    ]
    for label, key, unit in (
        ("perturbed draws M", "samples", ""),
        ("largest perturbing temperature", "theta_max", ""),
        ("law of perturbing temperatures", "convention", ""),
        ("positions with exact bias, share", "exact_share", ""),
    ):
        if key in scoring:
            lines.append((label, f"{scoring[key]}", unit))
    if times is not None:
        lines += [("SLM step", *format_si(times.slm_s, "s").split()), ("gate", *format_si(times.gate_s, "s").split())]
        lines += [
            (f"LLM pass, {n} token{'s' if n > 1 else ''}", *format_si(seconds, "s").split())
            for n, seconds in times.llm_pass_s.items()
        ]
    if floor is not None:
        lines += [
            ("numeric floor, SLM", f"{floor.slm:.4f}", "mean TV"),
            ("numeric floor, LLM", f"{floor.llm:.4f}", "mean TV"),
        ]
    lines += [
        ("bias budget", f"{problem.budget:g}", "TV per token"),
        ("policy", str(problem.policy), ""),
        ("signal", str(problem.signal), ""),
        ("answer", f"{problem.answer_tokens}", "tokens"),
        ("accounting", str(problem.accounting), ""),
        ("resamples of a bootstrap, level", f"{RESAMPLES}, {LEVEL:.0%}", ""),
    ]
    caption = (
        f"Parameters of the pair {calibration.pair} as recorded, and of the solver by default. Times are medians on "
        "the machine that recorded; the numeric floor is the mean total variation between two ways to read the same "
        "prefix. No intervals are given: these are settings and counts, or medians."
    )
    return Table(head=("parameter", "value", "unit"), rows=lines, caption=caption)
