"""Throughput of rounds of several drafts against the draft length, fixed and triggered, and measured decodes."""

import style

from cuhlm_opt.units import format_si

READS = ("data/drafting", "measured/speculation?", "calibration")
WAYS = {
    "fixed": {"color": style.BLUE, "linestyle": "-", "marker": "o"},
    "triggered": {"color": style.PURPLE, "linestyle": "-.", "marker": "^"},
}
CHOSEN, STATED = "chosen length", "stated for these"
NORMAL_95 = 1.96


def draw(inputs, width):
    """A row a round trip, a column a domain."""
    rows, domains, narrow = inputs.data("drafting"), inputs.domains, style.stacked(width)
    speculation = inputs.measured_if_any("speculation")
    decodes = [] if speculation is None else decoded(speculation["recorded"])
    round_trips = sorted({row["rtt_s"] for row in rows})
    figure, axes = style.panels(
        width, len(round_trips), len(domains), 1.25 if narrow else 1.35, sharex=True, sharey="col"
    )
    for line, rtt_s in zip(axes, round_trips, strict=True):
        for ax, domain in zip(line, domains, strict=True):
            own = [row for row in rows if (row["domain"], row["rtt_s"]) == (domain, rtt_s)]
            stated(ax, own)
            for row in decodes:
                if all(row[key] == own[0][key] for key in ("domain", "bandwidth_hz", "snr_db", "rtt_s")):
                    measured(ax, row)
            ax.set_title(f"{domain}, round trip {1e3 * rtt_s:g} ms", loc="left")
            ax.set_xticks((1, 4, 8, 12, 16))
            ax.margins(y=0.1)
            ax.locator_params(axis="y", nbins=7, steps=(1, 2, 5, 10))
    style.letter(axes)
    style.outer_labels(axes, "draft length (tokens)", "tokens/s")
    one = rows[0]
    references = {"llm": "llm", "coarse": coarse_label(one)}
    order = [*WAYS, CHOSEN, *(f"measured, {way}" for way in WAYS), STATED, *references.values()]
    style.legend_above(figure, axes, 3 if narrow else len(order), order=order)
    longest = max(row["draft_length"] for row in rows)
    caption = (
        "Throughput (tokens per second) of mode speculative, which is exact, against the draft length, the drafts of a "
        "round: fixed drafting makes so many, triggered drafting so many at most, as it stops at the first that is "
        "more uncertain than a threshold. At each length the threshold, and what is sent of each draft, are the "
        f"fastest of those that solve tries; rings: the length it chooses of 1 to {longest}. Lines without marks: llm, "
        f"and coarse, one draft at a time, at a bias budget of {one['max_bias']:g} per token, certified. "
        f"{style.evidence(inputs)} Link: AWGN, "
        f"{format_si(one['bandwidth_hz'], 'Hz')} at {one['snr_db']:g} dB, one round trip a round, which llm pays once "
        f"an answer of {one['answer_tokens']} tokens. Mean-latency accounting. "
        f"{of_intervals(rows)} {of_decodes(speculation, decodes)}"
    )
    return figure, caption


def stated(ax, rows):
    """What `solve` states on one link."""
    for mode in ("llm", "coarse"):
        speed = next(row["throughput_tokens_per_s"] for row in rows if row["way"] == mode)
        if speed is not None:
            look = style.MODES[mode] | {"marker": "", "linewidth": 0.8, "zorder": 1}
            ax.axhline(speed, label=mode if mode == "llm" else coarse_label(rows[0]), **look)
    for way, look in WAYS.items():
        own = [row for row in rows if row["way"] == way and row["throughput_tokens_per_s"] is not None]
        tried = sorted((row for row in own if not row["chosen"]), key=lambda row: row["draft_length"])
        if not tried:
            continue
        lengths, speeds = zip(*((row["draft_length"], row["throughput_tokens_per_s"]) for row in tried), strict=True)
        ax.plot(lengths, speeds, label=way, markerfacecolor="white", markersize=2.6, zorder=3, **look)
        spans = [row["throughput_ci"] for row in tried]
        if all(spans):
            ax.fill_between(lengths, *zip(*spans, strict=True), color=look["color"], alpha=0.22, linewidth=0)
        best = next(row for row in own if row["chosen"])
        ring = {"marker": "o", "markersize": 6, "markerfacecolor": "none", "color": style.BLACK, "linestyle": ""}
        ax.plot(best["draft_length"], best["throughput_tokens_per_s"], label=CHOSEN, zorder=7, **ring)


def coarse_label(row):
    """How the line of `coarse` is called."""
    return f"coarse, bias \u2264 {row['max_bias']:g}"


def decoded(recorded):
    """Rows of a measurement with their link; each beside its length, so that the curve shows."""
    rows = [row | recorded["link"] | {"domain": recorded["domain"]} for row in recorded["rows"]]
    for row in rows:
        alike = [other for other in rows if other["draft_length"] == row["draft_length"]]
        place = next(at for at, other in enumerate(alike) if other is row)
        row["at"] = row["draft_length"] + 0.45 * (-1) ** place * (1 + place // 2)
    return rows


def measured(ax, row):
    """A measured decode with its interval, and a tick at what the solver states for answers of its length."""
    speed, coarse = row["tokens_per_s"], row["pending_data"] == "coarse"
    look = {"color": style.VERMILLION, "markerfacecolor": "white" if coarse else style.VERMILLION}
    look |= {"fmt": WAYS[row["drafting"]]["marker"], "markersize": 2.8, "elinewidth": 0.9, "zorder": 6}
    label = f"measured, {row['drafting']}"
    ax.errorbar(row["at"], speed["decoded"], yerr=NORMAL_95 * speed["se"], label=None if coarse else label, **look)
    tick = {"marker": "_", "color": style.BLACK, "markersize": 4, "linestyle": "", "zorder": 5}
    ax.plot(row["at"], speed["foretold"], label=STATED, **tick)


def of_intervals(rows):
    """Which intervals are drawn, in words."""
    if any(row["throughput_ci"] for row in rows if row["way"] in WAYS):
        return (
            "Bands: 95% intervals over prompts, thresholds, messages and compute times held fixed; none for the lines "
            "without marks."
        )
    return "No intervals are drawn: rounds were not counted in all prompts, or there is one prompt."


def of_decodes(speculation, rows):
    """What was decoded, in words."""
    if not rows:
        return "None of it was measured by decoding rounds."
    found, per_round = speculation["recorded"], [row["tokens_per_round"] for row in rows]
    lumped = " (hollow: the rest of each law sent as one lump)" if any_coarse(rows) else ""
    return (
        f"Measured: {found['prompts']} prompts of domain {found['domain']} that were not recorded, decoded{lumped} at "
        f"a round trip of {1e3 * found['link']['rtt_s']:g} ms, answers of at most {found['tokens']} tokens, with 95% "
        "intervals of 1.96 standard errors over prompts, which all points share; rounds are priced with the compute "
        "times of the calibration; black ticks: what solve states for answers of that length. Tokens per round, "
        "stated and decoded, in the order of the points: "
        + ", ".join(f"{each['foretold']:.2f} and {each['decoded']:.2f}" for each in per_round)
        + "."
    )


def any_coarse(rows):
    """Whether some of the decodes sent coarse data."""
    return any(row["pending_data"] == "coarse" for row in rows)
