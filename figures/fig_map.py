"""Which mode is the fastest within the budget: over the round trip, the bias budget and the rate of the uplink."""

import numpy as np
import style
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from cuhlm_opt.units import format_si

READS = ("data/map", "calibration")
FILLS = {
    "llm": ("#FFFFFF", ""),
    "slm": ("#C8C8C8", ""),
    "coarse": ("#7FCEB9", ""),
    "exact": ("#EAAE7F", "////"),
    "cu-hlm-offline": ("#9CC9E2", "xxxx"),
    "cu-hlm-online": ("#C5E6F8", "...."),
    "u-hlm": ("#F2CF7F", "++++"),
    "query": ("#E5BCD3", "----"),
    "hlm": ("#909090", "oo"),
    "speculative": ("#E6E0F0", "\\\\\\\\"),
}
"""Fill and hatch of each mode where it wins."""
LEVELS = (1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)


def draw(inputs, width):
    """A panel a domain and rate; contours of the throughput of `coarse` over that of `llm` where skipping wins."""
    rows, domains, narrow = inputs.data("map"), inputs.domains, style.stacked(width)
    links = sorted({row["bandwidth_hz"] for row in rows})
    shape = (len(domains), len(links)) if narrow else (1, len(domains) * len(links))
    figure, axes = style.panels(width, *shape, 1.6 if narrow else 2.1, sharex=True, sharey=True)
    names, won = list(FILLS), set()
    for ax, (domain, rate) in zip(axes.flat, [(d, r) for d in domains for r in links], strict=True):
        own = [row for row in rows if (row["domain"], row["bandwidth_hz"]) == (domain, rate)]
        trips, budgets = (sorted({row[name] for row in own}) for name in ("rtt_s", "max_bias"))
        speed = {(r["max_bias"], r["rtt_s"], r["mode"]): r["throughput_tokens_per_s"] for r in own}
        winner, speedup = (np.full((len(budgets), len(trips)), np.nan) for _ in range(2))
        for row in (row for row in own if row["recommended"]):
            at = budgets.index(row["max_bias"]), trips.index(row["rtt_s"])
            winner[at] = names.index(row["mode"])
            if row["mode"] not in ("slm", "llm", "speculative"):
                speedup[at] = (
                    speed[row["max_bias"], row["rtt_s"], "coarse"] / speed[row["max_bias"], row["rtt_s"], "llm"]
                )
        won |= {names[int(index)] for index in np.unique(winner)}
        colours, milliseconds = ListedColormap([colour for colour, _ in FILLS.values()]), [1e3 * trip for trip in trips]
        ax.pcolormesh(
            milliseconds, budgets, winner, cmap=colours, vmin=-0.5, vmax=len(names) - 0.5, shading="nearest",
            rasterized=True,
        )  # fmt: skip
        for index, (_, hatch) in enumerate(FILLS.values()):
            if hatch and (winner == index).any():
                inside = (winner == index).astype(float)
                ax.contourf(milliseconds, budgets, inside, levels=[0.5, 1.5], colors="none", hatches=[hatch])
        if np.isfinite(speedup).any():
            lines = ax.contour(milliseconds, budgets, speedup, levels=LEVELS, colors="black", linewidths=0.7)
            ax.clabel(lines, fmt="%.3g", fontsize=7, inline_spacing=2)
        ax.set(yscale="log", title=f"{domain}, {format_si(rate, 'bit/s')}", xlim=(0, milliseconds[-1]))
        ax.set_ylim(budgets[0], budgets[-1])
        ax.set_yticks((0.01, 0.03, 0.1, 0.3), ("0.01", "0.03", "0.1", "0.3"))
        ax.minorticks_off()
    style.outer_labels(axes, "round trip (ms)", "bias budget (TV)")
    patches = [
        Patch(facecolor=FILLS[name][0], edgecolor="black", linewidth=0.5, hatch=FILLS[name][1], label=name)
        for name in names
        if name in won
    ]
    figure.legend(handles=patches, loc="outside upper center", ncols=len(patches) if len(patches) < 5 else 3)
    caption = (
        "The fastest mode within the bias budget (total variation per token), over the round trip and the budget, for "
        "each domain and rate of the uplink; lines: throughput of coarse over that of llm on the same link, where "
        f"skipping wins. {style.evidence(inputs)} Link: constant rate, round trip as shown. Certified thresholds, "
        f"mean-latency accounting. Solved on a grid of {len(trips)} round trips and {len(budgets)} budgets; borders "
        "follow its cells, and no intervals are drawn."
    )
    return figure, caption
