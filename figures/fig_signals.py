"""Sampled against integral uncertainty: what sampling M tokens adds, beside what theory says."""

import numpy as np
import style

from cuhlm_opt.bootstrap import LEVEL, ClusterBootstrap

READS = ("records",)
BINS = 20


def draw(inputs, width):
    """Tokens of one domain in a panel, and the sampling error of all in another."""
    samples = int(inputs.scoring("samples"))
    domains = inputs.domains
    figure, axes = style.panels(width, 1, 2, 1.9 if style.stacked(width) else 2.6)
    shown = max(domains, key=lambda domain: inputs.calibration.domains[domain].mean_tv.value)
    records, (left, right) = inputs.records(shown), axes[0]
    jitter = np.random.default_rng(0).uniform(-0.4, 0.4, records.n_tokens) / samples
    left.scatter(
        records.u_bar, records.u_mc + jitter, s=0.6, color=style.GREY, linewidths=0, alpha=0.6, rasterized=True
    )
    grid = np.linspace(0.0, 1.0, 201)
    error = np.sqrt(grid * (1 - grid) / samples)
    for sign in (-1, 1):
        left.plot(grid, np.clip(grid + sign * 1.96 * error, 0, 1), color=style.VERMILLION, linewidth=0.8)
    left.plot(grid, grid, color=style.BLACK, linewidth=0.8, linestyle="--")
    left.set(xlabel="integral uncertainty $\\bar{u}$", ylabel=f"sampled uncertainty $u$, $M$ = {samples}")
    left.set_title(shown)
    right.plot(grid, error, color=style.VERMILLION, label="$\\sqrt{\\bar{u}(1-\\bar{u})/M}$")
    looks = (("o", style.BLUE), ("^", style.BLACK), ("s", style.ORANGE), ("v", style.GREEN))
    for domain, (marker, colour) in zip(domains, looks, strict=False):
        u, middle, low, high = scatter_of_u(inputs.records(domain))
        right.errorbar(
            u, middle, yerr=[middle - low, high - middle], fmt=marker, color=colour, markersize=2.6, elinewidth=0.7,
            markerfacecolor="white", label=domain,
        )  # fmt: skip
    right.set(xlabel="integral uncertainty $\\bar{u}$", ylabel="standard deviation of $u$", ylim=(0, 0.145))
    right.set_title("sampling error")
    right.legend(loc="lower center", handlelength=1.4)
    style.letter(axes)
    caption = (
        f"Sampled uncertainty u, the share of M = {samples} perturbed draws that differ from the draft, against its "
        f"mean as an integral; both without unit. {style.evidence(inputs)} (a) One point a token of domain {shown}, "
        "moved by less than half of 1/M so that equal ones can be seen; dashed: equality; solid lines: +- 1.96 "
        f"standard deviations. (b) Root mean square of u - u_bar in bins of u_bar, with {LEVEL:.0%} intervals by a "
        "bootstrap over prompts, and the law of independent temperatures."
    )
    return figure, caption


def scatter_of_u(records):
    """Mean u_bar and root mean square deviation of u from it, with intervals, in each bin."""
    at = np.minimum((records.u_bar * BINS).astype(int), BINS - 1)
    counts = ClusterBootstrap.draw(records.n_prompts, np.random.default_rng(0)).counts
    found = []
    for each in range(BINS):
        inside = at == each
        if len(np.unique(records.prompt[inside])) < 10:
            continue
        tokens, squares = (
            np.bincount(records.prompt[inside], weights=w, minlength=records.n_prompts)
            for w in (None, (records.u_mc - records.u_bar)[inside] ** 2)
        )
        resampled = np.sqrt((counts @ squares) / np.maximum(counts @ tokens, 1))
        ends = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found.append((records.u_bar[inside].mean(), np.sqrt(squares.sum() / tokens.sum()), *ends))
    return np.array(found).T
