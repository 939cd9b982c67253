"""Distortion against the truncation size: published surrogate, proved bound, exact bias, and the sizes they choose."""

import numpy as np
import style

from cuhlm_opt.bootstrap import LEVEL, ClusterBootstrap
from cuhlm_opt.bounds import published_surrogate
from cuhlm_opt.records import GRID_STEP
from cuhlm_opt.solve.truncation import (
    SURROGATE_THETA,
    offline_by_bound,
    offline_by_surrogate,
    online_by_bound,
    online_by_surrogate,
)

READS = ("records",)
THETA = 0.02


def draw(inputs, width):
    """Distortions above, chosen sizes below, a column a domain."""
    domains = inputs.domains
    height = 1.55 if style.stacked(width) else 1.8
    figure, axes = style.panels(width, 2, len(domains), height, sharex=True, sharey="row")
    notes = []
    for (top, bottom), domain in zip(axes.T, domains, strict=True):
        records = inputs.records(domain)
        inner = slice(1, -1)  # sizes from 1 on, but for |V|, which adds nothing
        k = records.k_grid[inner]
        surrogate = published_surrogate(records.tv_x_xhat, records.x_d[:, None], records.beta[:, None])
        with_band(top, records.prompt, k, surrogate[:, inner], style.ORANGE, "--", "published surrogate U")
        with_band(top, records.prompt, k, records.tv_x_xhat[:, inner], style.BLUE, "-", "bound TV($x$, $\\hat{x}_k$)")
        prompt, exact, bound = exact_bias(inputs, domain)
        with_band(top, prompt, k, exact[:, inner], style.BLACK, "-.", "exact bias, on a subset")
        with_band(top, prompt, k, bound[:, inner], style.SKY, ":", "bound, on that subset", band=False)
        top.set_title(domain)
        line = inputs.calibration.domains[domain].signals["u_bar"]
        chosen = {
            f"U ≤ {SURROGATE_THETA:g}": (
                offline_by_surrogate(records, SURROGATE_THETA),
                online_by_surrogate(records, SURROGATE_THETA, records.u_bar, line.a, line.b),
                style.ORANGE,
                "--",
                "^",
            ),
            f"TV ≤ {THETA:g}": (
                offline_by_bound(records, THETA),
                online_by_bound(records, THETA),
                style.BLUE,
                "-",
                "o",
            ),
        }
        for label, (offline, online, colour, dashes, marker) in chosen.items():
            sizes = np.sort(np.maximum(records.k_grid[online.at], 1))
            share = np.arange(1, len(sizes) + 1) / len(sizes)
            bottom.step(sizes, 100 * share, where="post", color=colour, linestyle=dashes, label=f"online $k$*, {label}")
            single = int(records.k_grid[offline.at])
            mark = {
                "marker": marker,
                "markersize": 7 if marker == "^" else 4,
                "markerfacecolor": "white",
                "clip_on": False,
                "zorder": 4,
            }
            bottom.plot(single, 0, color=colour, linestyle="", label=f"offline $k$*, {label}", **mark)
        notes.append(f"{domain}: {len(prompt)} positions")
        top.set(xscale="log", yscale="log", ylim=(3e-5, 3))
        bottom.set(xlabel="truncation size $k$ (entries)", ylim=(0, 101))
    axes[0, 0].set_ylabel("mean distortion")
    axes[1, 0].set_ylabel("positions (%)\nwith online $k$* $\\leq k$")
    style.legend_above(figure, axes, 2 if style.stacked(width) else 4)
    caption = (
        f"Distortion that truncation to the k largest of {inputs.calibration.vocab_size:,} entries adds, per token, "
        f"without unit, and the sizes that rules choose. {style.evidence(inputs)} The exact bias of cu-hlm-offline "
        f"without skipping was recorded on a random subset ({'; '.join(notes)}), over which the bound is shown once "
        f"more. Bands: {LEVEL:.0%} intervals by a bootstrap over prompts. The surrogate is no bound. Recorded TV(x, "
        f"x_hat_k) is rounded up to multiples of {GRID_STEP:.2g}, at which the bound levels off; at k = |V| nothing is "
        "added. Below: distribution over positions of the size chosen online (lines), and the one size chosen offline "
        f"(marks on the axis), by mean U <= {SURROGATE_THETA:g} as published and by mean TV(x, x_hat_k) <= {THETA:g}; "
        "a size of 0 is shown as 1."
    )
    return figure, caption


def with_band(ax, prompt, k, values, colour, dashes, label, band=True):
    """Mean over positions, with an interval over prompts."""
    values = np.asarray(values, dtype=float)
    ax.plot(k, values.mean(axis=0), color=colour, linestyle=dashes, label=label)
    if not band:
        return
    _, at = np.unique(prompt, return_inverse=True)
    sums = np.zeros((at.max() + 1, values.shape[1]))
    np.add.at(sums, at, values)
    lengths = np.bincount(at)
    counts = ClusterBootstrap.draw(len(lengths), np.random.default_rng(0)).counts
    low, high = np.quantile((counts @ sums) / (counts @ lengths)[:, None], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    ax.fill_between(k, low, high, color=colour, alpha=0.2, linewidth=0)


def exact_bias(inputs, domain):
    """Prompt, exact bias and bound at every size, on the positions where the exact bias was recorded."""
    rows = inputs.rows
    chosen = np.flatnonzero(
        rows.column("bias_exact").is_valid().to_numpy() & (rows.column("domain").to_numpy() == domain)
    )
    taken = rows.take(chosen)
    bias, bound = (np.array(taken.column(name).to_pylist()) for name in ("bias_exact", "tv_x_xhat"))
    return taken.column("prompt_id").to_numpy(), bias, bound
