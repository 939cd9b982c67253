"""Coverage of the certificates, and the skip rate that they cost."""

import numpy as np
import style

READS = ("measured/coverage", "calibration")
METHODS = {
    "plug-in-budget": ("plug-in", style.VERMILLION, "^", "--"),
    "conformal-risk-control": ("certified", style.GREEN, "o", "-"),
    "betting": ("certified, $\\delta$", style.BLUE, "s", "-."),
    "hoeffding-bentkus": ("Hoeffding-Bentkus, $\\delta$", style.BLACK, "x", ":"),
}


def draw(inputs, width):
    """How often the budget is passed, above; cost by the number of prompts, below."""
    measured, narrow = inputs.measured("coverage"), style.stacked(width)
    domains = measured["recorded"]["domains"]
    figure, axes = style.panels(width, 2, 2, 1.65 if narrow else 1.9, sharey="row")
    for ax, (population, result) in zip(axes[0], measured["synthetic"].items(), strict=True):
        for place, (method, (label, colour, marker, _)) in enumerate(METHODS.items()):
            found = result["methods"][method]
            at = np.arange(len(found)) + (place - 1.5) * 0.13
            share, error = (np.array([row[key] for row in found]) for key in ("share_over_eps", "share_over_eps_se"))
            look = {"fmt": marker, "color": colour, "markerfacecolor": "white", "elinewidth": 0.9, "zorder": 3}
            ax.errorbar(at, 100 * share, yerr=196 * error, label=label, **look)
        ax.axhline(100 * measured["delta"], color=style.GREY, linewidth=0.7, linestyle="--")
        ax.set_xticks(range(len(found)), [f"{row['eps']:g}" for row in found])
        ax.set(xlabel="budget (TV per token)", title=population, xlim=(-0.5, len(found) - 0.5))
    for ax, (domain, result) in zip(axes[1], domains.items(), strict=False):
        sizes = list(result["cost"])
        for method, (label, colour, marker, dashes) in METHODS.items():
            rates = [100 * result["cost"][n][method][0]["mean_skip_rate"] for n in sizes]
            look = {
                "color": colour,
                "marker": marker,
                "linestyle": dashes,
                "markerfacecolor": "white",
                "clip_on": False,
            }
            ax.plot([int(n) for n in sizes], rates, label=label, **look)
        ax.set(xscale="log", xlabel="prompts", title=f"recorded, {domain}", ylim=(0, 100))
        ax.set_xticks([int(n) for n in sizes], sizes)
        ax.minorticks_off()
    axes[0, 0].set_ylabel("over budget (%)")
    axes[1, 0].set_ylabel("skip rate (%)")
    style.letter(axes)
    style.legend_above(figure, axes, 2 if narrow else 4)
    one = next(iter(measured["synthetic"].values()))
    cost = next(iter(domains.values()))["cost"]
    eps = next(iter(cost.values()))["betting"][0]["eps"]
    repetitions = next(iter(cost.values()))["betting"][0]["repetitions"]
    caption = (
        "Above: share of calibrations (%) whose true skip risk exceeds the budget, on synthetic populations of known "
        f"law; {one['methods']['betting'][0]['repetitions']} calibrations of {one['n_prompts']} prompts each, bars: "
        f"95% intervals of the share (1.96 standard errors); dashed: delta = {measured['delta']:g}, which binds the "
        "methods that name it. Conformal risk control bounds the mean risk, not this share. Below: mean skip rate (%) "
        f"that remains at budget {eps:g} by the number of prompts, over {repetitions} random subsets of the recorded "
        f"prompts (all of them once); at 0 nothing is certified. {style.evidence(inputs)} No link enters."
    )
    return figure, caption
