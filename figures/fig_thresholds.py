"""Law of the uncertainty, skip rate and risk against the threshold, with published, budget and certified thresholds."""

import numpy as np
import style

from cuhlm_opt.bootstrap import LEVEL, ClusterBootstrap
from cuhlm_opt.solve.certificate import conformal_threshold
from cuhlm_opt.solve.losses import prompt_curves, threshold_grid

READS = ("records", "published")
BUDGET = 0.02
BINS = 40
PUBLISHED = "published-cu-hlm"
BAND = f"certified, {LEVEL:.0%} band"


def draw(inputs, width):
    """A column of three panels a domain."""
    domains = inputs.domains
    figure, axes = style.panels(
        width, 3, len(domains), 1.15 if style.stacked(width) else 1.35, sharex=True, sharey="row"
    )
    line = next(iter(inputs.published[PUBLISHED].domains.values())).signals["u_mc"]
    notes = []
    for column, domain in zip(axes.T, domains, strict=True):
        posed = inputs.posed(domain, max_bias=BUDGET)
        gate, grid = posed.problem.gate, threshold_grid()
        records = gate.records
        shares, edges = np.histogram(
            records.u_bar, BINS, (0.0, 1.0), weights=np.full(records.n_tokens, 100 / records.n_tokens)
        )
        column[0].stairs(shares, edges, fill=True, color=style.PALE)
        column[0].set_title(domain)
        counts = ClusterBootstrap.draw(records.n_prompts, np.random.default_rng(0)).counts
        lengths = np.bincount(records.prompt)
        kept = prompt_curves(records.prompt, records.top_u_bar, records.top_x, grid, lengths)
        for ax, sums in ((column[1], 100 * kept), (column[2], gate.risk_sums)):
            resampled = (counts @ sums) / (counts @ lengths)[:, None]
            low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
            shown = grid < 1  # between the last recorded level and 1 the records tell nothing without sampling
            ax.fill_between(grid[shown], low[shown], high[shown], color=style.SKY, alpha=0.6, linewidth=0)
            ax.plot(grid[shown], (sums.sum(axis=0) / lengths.sum())[shown], color=style.BLUE)
        column[2].axhline(BUDGET, color=style.BLACK, linewidth=0.6, linestyle=(0, (1, 1.5)))
        certified = posed.problem.certified(gate).threshold
        losses = gate.losses(BUDGET, posed.problem.length_limit)
        band = certified_band(losses, grid, counts)
        thresholds = {
            "published, risk-averse": (line.risk_averse, style.GREY, "--"),
            "certified": (certified, style.GREEN, "-"),
            "budget, plug-in": (gate.largest_within(BUDGET), style.VERMILLION, "-."),
            "published, risk-prone": (line.risk_prone, style.GREY, ":"),
        }
        for ax in column:
            ax.axvspan(*band, color=style.GREEN, alpha=0.2, linewidth=0, label=BAND)
            for label, (value, colour, dashes) in thresholds.items():
                if value is not None:
                    ax.axvline(value, color=colour, linestyle=dashes, linewidth=1.1, label=label)
        found = "none" if certified is None else f"{certified:.3f}"
        notes.append(f"{domain} {found} ({band[0]:.3f} to {band[1]:.3f})")
    axes[0, 0].set_ylabel("tokens (%)")
    axes[1, 0].set(ylabel="skip rate (%)", ylim=(0, 100))
    axes[2, 0].set(ylabel="risk E[$s\\beta$]", yscale="log", ylim=(1e-4, 0.5), xlim=(0, 1), xticks=(0, 0.5, 1))
    style.outer_labels(axes, "$\\bar{u}$, threshold $u_{\\mathrm{th}}$")
    order = [*thresholds, BAND]
    style.legend_above(figure, axes, 2 if style.stacked(width) else 5, order=order)
    caption = (
        "Law of the integral uncertainty of drafts (% in bins of equal width), and what a threshold on it does: share "
        f"of tokens kept (%), and skip risk (total variation per token). {style.evidence(inputs)} Blue bands: "
        f"{LEVEL:.0%} intervals by a bootstrap over prompts. Vertical lines: the published thresholds ({PUBLISHED}, "
        "made for another pair and for sampled uncertainty), the largest threshold whose recorded risk is within the "
        f"budget of {BUDGET:g} (dotted), and the certified one (conformal risk control); the green band holds "
        f"{LEVEL:.0%} of the certified thresholds of resampled prompts: {', '.join(notes)}. Curves end where the "
        "recorded tokens no longer hold all that a threshold keeps."
    )
    return figure, caption


def certified_band(losses, grid, counts):
    """Quantiles of the certified threshold over resampled prompts; 0 where nothing is certified."""
    found = [conformal_threshold(np.repeat(losses, row.astype(int), axis=0), grid, BUDGET) or 0.0 for row in counts]
    return np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
