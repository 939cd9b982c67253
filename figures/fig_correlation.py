"""Rejection against the integral uncertainty: tokens, bins with intervals, linear and isotonic fit."""

import numpy as np
import style

from cuhlm_opt.bootstrap import LEVEL, RESAMPLES, ClusterBootstrap

READS = ("records",)
BINS = 20


def draw(inputs, width):
    """One panel a domain."""
    domains = inputs.domains
    figure, axes = style.panels(width, 1, len(domains), 2.1 if style.stacked(width) else 2.6, sharex=True, sharey=True)
    fits = []
    for ax, domain in zip(axes[0], domains, strict=True):
        records, fit = inputs.records(domain), inputs.calibration.domains[domain]
        line = fit.signals["u_bar"]
        tokens = {"s": 0.6, "color": style.PALE, "linewidths": 0, "rasterized": True}
        ax.scatter(records.u_bar, records.beta, label="token", **tokens)
        knots, levels = [*line.isotonic_u, 1.0], [*line.isotonic_beta, line.isotonic_beta[-1]]
        ax.step(knots, levels, where="post", color=style.VERMILLION, linestyle="--", label="isotonic fit")
        ends = np.array([0.0, 1.0])
        ax.plot(ends, line.a * ends + line.b, color=style.BLUE, label="linear fit")
        u, middle, low, high = binned(records)
        bars = {"fmt": "o", "color": style.BLACK, "markersize": 2.4, "elinewidth": 0.8, "capsize": 1.2, "zorder": 4}
        ax.errorbar(u, middle, yerr=[middle - low, high - middle], label=f"bin, {LEVEL:.0%} interval", **bars)
        ax.set_title(f"{domain}, $R$ = {line.r:.2f}")
        fits.append(f"{domain} a = {line.a:.3f}, b = {line.b:.3f}, R = {line.r:.3f}")
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.02))
    style.outer_labels(axes, "integral uncertainty $\\bar{u}$", "rejection probability $\\beta$")
    style.legend_above(figure, axes, 4 if not style.stacked(width) else 2, markerscale=1.5)
    caption = (
        "Rejection probability of a draft against its integral uncertainty, both without unit. "
        f"{style.evidence(inputs)} Grey: tokens; black: means over {BINS} bins of equal width with {LEVEL:.0%} "
        f"intervals by a bootstrap over prompts ({RESAMPLES} resamples), empty bins left out. The linear fit E[beta | "
        f"u] = a u + b and the isotonic fit are over tokens: {'; '.join(fits)}. R is the correlation over tokens; over "
        "bins it is larger, since means scatter less."
    )
    return figure, caption


def binned(records):
    """Mean u, mean beta and its interval in each bin that holds tokens of two prompts at least."""
    at = np.minimum((records.u_bar * BINS).astype(int), BINS - 1)
    bootstrap = ClusterBootstrap.draw(records.n_prompts, np.random.default_rng(0))
    cell = records.prompt * BINS + at
    count, u, beta = (
        np.bincount(cell, weights=w, minlength=records.n_prompts * BINS).reshape(-1, BINS)
        for w in (np.ones(records.n_tokens), records.u_bar, records.beta)
    )
    used = (count > 0).sum(axis=0) > 1
    tokens = (bootstrap.counts @ count)[:, used]
    means = np.divide((bootstrap.counts @ beta)[:, used], tokens, out=np.full(tokens.shape, np.nan), where=tokens > 0)
    low, high = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    total = count.sum(axis=0)[used]
    return u.sum(axis=0)[used] / total, beta.sum(axis=0)[used] / total, low, high
