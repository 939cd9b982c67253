"""Shared look of the figures: IEEE widths, Times-like type of 7 to 8 pt, colours for colour blindness and for grey.

Colours are those of Okabe and Ito; wherever colour tells things apart, a marker, a line style or a hatch does so too.
"""

from itertools import product

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, BLUE = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2"
VERMILLION, PURPLE, GREY, PALE = "#D55E00", "#CC79A7", "#7A7A7A", "#C9C9C9"

mpl.rcParams.update(
    {
        "figure.dpi": 100,
        "savefig.dpi": 300,
        "font.family": "STIXGeneral",
        "mathtext.fontset": "stix",
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.fonttype": "path",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "axes.titlelocation": "left",
        "axes.titlepad": 3,
        "axes.labelpad": 2,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.minor.size": 1.5,
        "ytick.minor.size": 1.5,
        "xtick.major.pad": 2,
        "ytick.major.pad": 2,
        "lines.linewidth": 1.0,
        "lines.markersize": 3.2,
        "lines.markeredgewidth": 0.7,
        "legend.frameon": False,
        "legend.handlelength": 2.2,
        "legend.columnspacing": 1.2,
        "legend.handletextpad": 0.5,
        "legend.labelspacing": 0.3,
        "legend.borderaxespad": 0.2,
        "hatch.linewidth": 0.5,
        "hatch.color": "#4D4D4D",
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.h_pad": 0.03,
        "figure.constrained_layout.w_pad": 0.03,
    }
)

MODES = {
    "slm": {"color": GREY, "linestyle": ":", "marker": ""},
    "llm": {"color": BLACK, "linestyle": "--", "marker": ""},
    "query": {"color": PURPLE, "linestyle": "-", "marker": "x"},
    "hlm": {"color": BLACK, "linestyle": "-", "marker": "s"},
    "random": {"color": PALE, "linestyle": "-", "marker": "+"},
    "u-hlm": {"color": ORANGE, "linestyle": "-", "marker": "^"},
    "cu-hlm-offline": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "cu-hlm-online": {"color": SKY, "linestyle": "--", "marker": "v"},
    "exact": {"color": VERMILLION, "linestyle": "-.", "marker": "D"},
    "coarse": {"color": GREEN, "linestyle": "-", "marker": "*"},
    "speculative": {"color": PURPLE, "linestyle": "-.", "marker": "p"},
}
"""How each mode is drawn, everywhere; open markers, so that equal curves show one another."""


def mode_style(mode, points=1, place=0):
    """Keywords of `plot` for a mode; of `points` every fifth or so bears a marker, shifted from mode to mode."""
    style = MODES[mode] | {"markerfacecolor": "white", "label": mode}
    if mode == "coarse":
        style |= {"markersize": 4.6, "linewidth": 1.3}
    step = max(points // 5, 1)
    return style | {"markevery": (place * step // len(MODES), step)}


def panels(width, rows, columns, height, **options):
    """A figure `width` inches wide with panels of `height` inches; axes of shape (rows, columns)."""
    figure = Figure(figsize=(width, rows * height))
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, axes


def stacked(width):
    """Whether panels stand in the narrow format of one column."""
    return width < 5


def legend_above(figure, axes, columns, **options):
    """One legend over all panels, of the labelled artists of all axes, each label once."""
    found = {}
    for ax in np.ravel(axes):
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    found = {label: found[label] for label in options.pop("order", found) if label in found}
    figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=columns, **options)


def letter(axes):
    """Letter the titles of panels (a), (b), .. in reading order."""
    for ax, mark in zip(np.ravel(axes), "abcdefghijkl", strict=False):
        ax.set_title(f"({mark}) {ax.get_title(loc='left')}".rstrip(), loc="left")


def outer_labels(axes, x=None, y=None):
    """Axis labels on the left and lower edges alone."""
    rows, columns = axes.shape
    for row, column in product(range(rows), range(columns)):
        if x is not None and row == rows - 1:
            axes[row, column].set_xlabel(x)
        if y is not None and column == 0:
            axes[row, column].set_ylabel(y)


def text_on(ax, x, y, text, **options):
    """A small label in the plot, on white so that lines do not cross it."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
    ax.text(x, y, text, **{"fontsize": 7, "bbox": box, **options})


def evidence(inputs, domains=None):
    """What recorded results a caption rests on, in words."""
    fits = inputs.calibration.domains
    parts = [
        f"{domain}: {fits[domain].n_tokens:,} positions of {fits[domain].n_prompts:,} prompts"
        for domain in (domains or fits)
    ]
    return f"Data: pair {inputs.calibration.pair}, {'; '.join(parts)}; contexts written by the LLM."
