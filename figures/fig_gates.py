"""Signals compared: correlation with rejection, ranking, and tokens skipped, against what each costs a device."""

import style

from cuhlm_opt.errors import InputError

READS = ("calibration",)
LOOKS = {
    "u_bar": ("o", style.BLUE),
    "u_mc": ("^", style.ORANGE),
    "u_mc_5": ("v", style.ORANGE),
    "u_mc_100": ("D", style.ORANGE),
    "x_d": ("s", style.GREEN),
    "p_max": ("P", style.SKY),
    "margin": ("X", style.PURPLE),
    "entropy": ("p", style.GREY),
    "combined": ("*", style.VERMILLION),
}
BUDGET = "0.02"


def draw(inputs, width):
    """A row of panels a domain."""
    costs = {} if inputs.calibration.times is None else inputs.calibration.times.signal_s
    fits = {name: fit for name, fit in inputs.calibration.domains.items() if fit.comparison is not None}
    if not costs or not fits:
        raise InputError(
            f"--calibration {inputs.name!r} does not say what signals cost; cuhlm-opt calibrate measures it"
        )
    narrow = style.stacked(width)
    figure, axes = style.panels(width, len(fits), 3, 1.5 if narrow else 1.9, sharex=True)
    for row, (domain, fit) in zip(axes, fits.items(), strict=True):
        for ax, (title, figure_of) in zip(row, PANELS.items(), strict=True):
            for signal, compared in fit.comparison.rows.items():
                point(ax, costs[signal], figure_of(compared), signal)
            ax.set_xscale("log")
            ax.set_title(f"{domain}: {title}" if ax is row[0] else title)
    style.outer_labels(axes, x="cost (µs a token)")
    style.legend_above(figure, axes, 3 if narrow else 9)
    tests = "; ".join(f"{domain}: {fit.comparison.n_prompts} prompts" for domain, fit in fits.items())
    caption = (
        "Uncertainty signals against what reading one adds to the law and the draft of a step (µs, median, one "
        "machine): correlation R of the signal with the rejection probability over tokens; AUROC, the probability that "
        f"a rejected draft has the larger signal; largest share of tokens skipped within a bias of {BUDGET} (%). Bars: "
        f"95% intervals by a bootstrap over prompts, shared by all signals. {style.evidence(inputs)} The learned "
        f"combination was fitted on every other prompt, and all signals are compared on the rest ({tests}). u_mc: "
        "sampled with 20, 5 and 100 perturbing temperatures; those with 5 and 100 are drawn given u_bar, which is the "
        "same law. No link enters."
    )
    return figure, caption


PANELS = {
    "R": lambda compared: (compared.r, 1),
    "AUROC": lambda compared: (compared.auroc, 1),
    "skipped (%)": lambda compared: (compared.skip_rate[BUDGET], 100),
}


def point(ax, cost_s, figure, signal):
    """One signal with its interval."""
    estimate, scale = figure
    marker, colour = LOOKS[signal]
    value, span = scale * estimate.value, estimate.ci or (estimate.value, estimate.value)
    ends = [[value - scale * span[0]], [scale * span[1] - value]]
    ax.errorbar(
        1e6 * cost_s, value, yerr=ends, fmt=marker, color=colour, markersize=3.6, markerfacecolor="white",
        elinewidth=0.7, label=signal,
    )  # fmt: skip
