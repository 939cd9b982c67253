"""Contexts: skip risk at one threshold by who writes the answers, and how far it can move and does, by position."""

import numpy as np
import style

READS = ("measured/contexts", "calibration")
SOURCES = {
    "llm": ("LLM", "o", style.BLUE, "-"),
    "hybrid": ("hybrid", "^", style.VERMILLION, "--"),
    "slm": ("SLM", "s", style.GREEN, "-."),
}


def draw(inputs, width):
    """Risk by source beside the budget; the risk summed along an answer, with what the bound allows."""
    rows = inputs.measured("contexts")["recorded"]["rows"]
    largest = max(row["max_bias"] for row in rows)
    followed = [row for row in rows if row["max_bias"] == largest]
    narrow = style.stacked(width)
    shape = (1 + len(followed), 1) if narrow else (1, 1 + len(followed))
    figure, axes = style.panels(width, *shape, 1.7 if narrow else 2.1)
    by_source(axes.ravel()[0], rows)
    for ax, row in zip(axes.ravel()[1:], followed, strict=True):
        along(ax, row)
    style.letter(axes)
    style.legend_above(figure, axes, 3 if narrow else 4)
    moved = "; ".join(
        f"{row['domain']} at {row['max_bias']:g}: {found['risk_moved']:+.4f} "
        f"({found['risk_moved_ci'][0]:+.4f} to {found['risk_moved_ci'][1]:+.4f})"
        for row in rows
        for found in (row["sources"]["hybrid"],)
    )
    written = "; ".join(
        f"{row['domain']}, {found['n_tokens']:,} positions of {row['n_prompts']} prompts by the {SOURCES[source][0]}"
        for row in followed
        for source, found in row["sources"].items()
    )
    caption = (
        "(a) Skip risk (total variation per token) at the threshold solved for a budget (bar) from contexts that the "
        "LLM wrote, on answers to the same prompts by the LLM, by the decoder in mode u-hlm at that threshold "
        "(hybrid), and by the SLM; 95% intervals by a bootstrap over prompts. Hybrid minus LLM, paired by prompt: "
        f"{moved}. Then the skip risk summed over the first positions of an answer, mean over prompts, at a budget of "
        f"{largest:g}; shaded: what the bound on sequences allows the hybrid's contexts, given the LLM's curve, "
        f"both as estimated. Data: pair {inputs.calibration.pair}, the first prompts of those recorded; {written}. No "
        "link enters."
    )
    return figure, caption


def by_source(ax, rows):
    """Risk of each source in each row, beside the budget."""
    for at, row in enumerate(rows):
        ax.plot([row["max_bias"]] * 2, [at - 0.36, at + 0.36], color=style.BLACK, linewidth=2.2, solid_capstyle="butt")
        for shift, (source, (label, marker, colour, _)) in zip((-0.22, 0.0, 0.22), SOURCES.items(), strict=True):
            found = row["sources"][source]
            ax.plot(found["risk_ci"], [at + shift] * 2, color=colour, linewidth=0.9)
            ax.plot(found["risk"], at + shift, marker, color=colour, markersize=3.6, label=f"{label} writes")
    ax.set_yticks(range(len(rows)), [f"{row['domain']}\n{row['max_bias']:g}" for row in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="skip risk per token")
    ax.set_xlim(left=0)


def along(ax, row):
    """Risk summed along the answer, and the range that the bound leaves the hybrid's."""
    summed = {source: np.cumsum(found["risk_by_position"]) for source, found in row["sources"].items()}
    allowed = np.cumsum(row["moved_at_most_by_position"])
    n = len(summed["llm"])
    positions = np.arange(1, n + 1)
    low, high = np.maximum(summed["llm"] - allowed, 0), np.minimum(summed["llm"] + allowed, positions)
    ax.fill_between(positions, low, high, color=style.PALE, linewidth=0, label="bound")
    for source, (_, _, colour, dashes) in SOURCES.items():
        values = summed[source]
        ax.plot(np.arange(1, len(values) + 1), values, dashes, color=colour)
    top = 2.5 * max(values[-1] for values in summed.values())
    ax.set(title=row["domain"], xlim=(1, n), ylim=(0, top), xlabel="tokens of the answer", ylabel="skip risk, summed")
