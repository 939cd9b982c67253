"""Correlation of uncertainty with rejection, pair beside pair: fits over tokens, and R per token and over bins."""

from itertools import cycle

import numpy as np
import style

from cuhlm_opt.errors import InputError

READS = ("calibration", "pairs")
COLOURS = (style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, style.ORANGE, style.SKY)
DASHES = ("-", "--", "-.", ":", (0, (1, 1)), (0, (5, 1)))
SIGNALS = {"u_bar": "o", "u_mc": "^", "x_d": "s"}
NAMES = {"$\\bar{u}$": "o", "sampled $u$": "^", "$1 - x_d$": "s"}


def draw(inputs, width):
    """The fits of each domain, and a panel of R."""
    domains, narrow = inputs.domains, style.stacked(width)
    if not compared(inputs.calibration, domains):
        raise InputError(f"--calibration {inputs.name!r} has too few prompts to compare signals on")
    pairs = {name: calibration for name, calibration in inputs.pairs.items() if compared(calibration, domains)}
    panels = len(domains) + 1
    labels = {name: f"{number}: {name}" for number, name in enumerate(pairs, start=1)}
    rows, columns = (panels, 1) if narrow else (1, panels)
    figure, axes = style.panels(width, rows, columns, 1.7 if narrow else 2.3)
    for ax, domain in zip(axes.ravel(), domains, strict=False):
        for (name, calibration), colour, dash in zip(pairs.items(), cycle(COLOURS), cycle(DASHES), strict=False):
            line = calibration.domains[domain].signals["u_bar"]
            knots, levels = [*line.isotonic_u, 1.0], [*line.isotonic_beta, line.isotonic_beta[-1]]
            ax.step(knots, levels, where="post", color=colour, linestyle=dash, linewidth=1.2, label=labels[name])
            ends = np.array([0.0, 1.0])
            ax.plot(ends, line.a * ends + line.b, color=colour, linestyle=dash, linewidth=0.6)
        ax.set_title(domain)
        ax.set(xlim=(0, 1), ylim=(0, 1), ylabel="E[$\\beta$ | $\\bar{u}$]", xlabel="integral uncertainty $\\bar{u}$")
    correlations(axes.ravel()[-1], pairs, domains)
    style.letter(axes)
    style.legend_above(figure, axes, 2 if narrow else len(pairs), order=[*labels.values()])
    data = "; ".join(
        f"{name} ({calibration.pair}) {domain}: {calibration.domains[domain].n_tokens:,} positions of "
        f"{calibration.domains[domain].n_prompts:,} prompts"
        for name, calibration in pairs.items()
        for domain in domains
    )
    caption = (
        "Rejection probability of a draft given its integral uncertainty, both without unit, for every recorded pair "
        f"({', '.join(domains)}): isotonic fit (steps) and line (thin) over tokens. Last panel: correlation of an "
        "uncertainty signal with the rejection probability, over tokens (filled) and over the means of 20 bins of "
        "equal width (hollow), with 95% intervals over prompts (bootstrap, over bins jackknife), on prompts that "
        "nothing was learned on; circle: u_bar, triangle: u_mc with 20 samples, square: 1 - x_d. Contexts written by "
        "the LLM. "
        f"Data: {data}. No link enters."
    )
    return figure, caption


def compared(calibration, domains):
    """Whether signals were compared in all of `domains`."""
    fits = [calibration.domains.get(domain) for domain in domains]
    return all(fit is not None and fit.comparison is not None for fit in fits)


def correlations(ax, pairs, domains):
    """R of each pair, domain and signal, over tokens and over bins."""
    labels = []
    for number, (calibration, colour) in enumerate(zip(pairs.values(), cycle(COLOURS), strict=False), start=1):
        for domain in domains:
            at = len(labels)
            labels.append(f"{number}: {domain}")
            for shift, (signal, marker) in zip((-0.25, 0.0, 0.25), SIGNALS.items(), strict=True):
                row = calibration.domains[domain].comparison.rows[signal]
                for estimate, face in ((row.r, colour), (row.r_binned, "white")):
                    look = {"color": colour, "markerfacecolor": face, "markersize": 3, "markeredgewidth": 0.7}
                    ends = estimate.ci or (estimate.value, estimate.value)
                    ax.plot(ends, (at + shift, at + shift), color=colour, linewidth=0.7)
                    ax.plot(estimate.value, at + shift, marker, **look)
    for name, marker, face in (*((*signal, style.GREY) for signal in NAMES.items()), ("over bins", "o", "white")):
        ax.plot([], [], marker, color=style.GREY, markersize=3, markerfacecolor=face, markeredgewidth=0.7, label=name)
    ax.legend(loc="center left", fontsize=6, handletextpad=0.2, borderaxespad=0.2)
    ax.set_yticks(range(len(labels)), labels)
    ax.set(xlim=(0, 1.02), ylim=(len(labels) - 0.5, -0.5), xlabel="correlation $R$")
