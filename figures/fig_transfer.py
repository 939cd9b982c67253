"""Transfer: risk of a threshold on other domains and pairs, and how soon the check notices another stream."""

import style
from matplotlib.patches import Rectangle

READS = ("measured/transfer", "calibration")
BESIDE = 2
"""So many domains of all pairs stand beside the curves; a larger matrix stands above them, its domains numbered."""
COLOURS = (style.VERMILLION, style.BLUE, style.GREEN, style.ORANGE, style.PURPLE, style.SKY)
"""Of what the stream changes to; the dashes tell from what."""
DASHES = ("-", "--", "-.", ":")


def draw(inputs, width):
    """The matrix, and the share of streams in which the change is found."""
    measured = inputs.measured("transfer")
    own = [row for row in measured["streams"] if row["from"]["calibration"] == inputs.calibration_folder.name]
    names = list(dict.fromkeys(name(row["to"], measured) for row in measured["matrix"]))
    beside = len(names) <= BESIDE
    figure, axes = style.panels(width, *((1, 2) if beside else (2, 1)), 1.9 if beside else 2.3)
    draw_matrix(axes.ravel()[0], measured, names)
    draw_curves(axes.ravel()[1], own, measured)
    style.letter(axes)
    style.legend_above(figure, axes, 3)
    after, orders = (max(row[key] for row in own) for key in ("after", "orders"))
    prompts = min(row["stream_prompts"] for row in unshifted(own))
    alarms = [f"{row['from']['domain']} {row['detected']:.1%}" for row in unshifted(own)]
    interval = "its 95% interval by a bootstrap over those prompts, the threshold held fixed, and "
    shown = interval if beside else "(95% intervals: measured/transfer.json) "
    caption = (
        "(a) Skip risk (total variation per token) at the threshold certified for a budget of "
        f"{measured['eps']:g} on every other prompt of the row, as met on all prompts of the column, on the diagonal "
        f"on the prompts left out; grey: over the budget. Below it {shown}the skip rate. "
        f"(b) Share of {orders} random orders (%) in which calibrate --check has refused the calibration, against the "
        f"tokens since the stream changed, after {after} prompts of "
        f"the calibration's own domain. Stated error {measured['alpha']:.0%}, dotted. Streams that do not change, "
        f"refused within their {prompts} prompts: {', '.join(alarms)}. "
        f"Domains of the matrix: {'; '.join(tested(measured, names))}. {style.evidence(inputs)} No link enters."
    )
    return figure, caption


def tested(measured, names):
    """Each domain of the matrix with its prompts, numbered as there."""
    found = {}
    for row in measured["matrix"]:
        where = name(row["to"], measured)
        found[where] = max(found.get(where, 0), row["n_prompts"])
    numbers = short(names)
    return [
        f"{where if number == where else f'{number}: {where}'}, {found[where]} prompts"
        for number, where in zip(numbers, names, strict=True)
    ]


def name(where, measured):
    """A domain, with its pair where there are several."""
    pairs = {row["to"]["calibration"] for row in measured["matrix"]}
    return where["domain"] if len(pairs) == 1 else f"{where['calibration']}, {where['domain']}"


def short(names):
    """Names as they fit: as they are, or numbers where there are many."""
    return names if len(names) <= BESIDE else [str(place) for place in range(1, len(names) + 1)]


def unshifted(streams):
    """Streams that do not change."""
    return [row for row in streams if row["from"] == row["to"]]


def draw_matrix(ax, measured, names):
    """Risk in each cell, with its interval and the skip rate."""
    for row in measured["matrix"]:
        y, x = (names.index(name(row[end], measured)) for end in ("from", "to"))
        fill = style.PALE if row["risk"] > measured["eps"] else "white"
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=fill, edgecolor=style.GREY, linewidth=0.6))
        low, high = row["risk_ci"]
        skips = f"{100 * row['skip_rate']:.0f}%"
        if len(names) > BESIDE:
            ax.text(x, y, f"{row['risk']:.3f}\n{skips}", ha="center", va="center", fontsize=6.5)
            continue
        ax.text(x, y - 0.26, f"{row['risk']:.4f}", ha="center", va="center", fontsize=8)
        beside = f"{low:.3f} to {high:.3f}\nskips {skips}"
        ax.text(x, y + 0.14, beside, ha="center", va="center", fontsize=6, linespacing=1.3)
    numbers = short(names)
    rows = [each if each == number else f"{number}: {each}" for each, number in zip(names, numbers, strict=True)]
    ax.set_xticks(range(len(names)), numbers)
    ax.set_yticks(range(len(names)), rows, rotation=90 if numbers == names else 0, va="center")
    ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="met on", ylabel="certified on")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def draw_curves(ax, streams, measured):
    """Share of orders in which the change of a stream is found, by the tokens since."""
    tokens = [0, *measured["checkpoints_tokens"]]
    after = max(row["after"] for row in streams)
    domains = list(dict.fromkeys(row["to"]["domain"] for row in streams))
    for row in streams:
        if row["from"] == row["to"] or row["after"] != after:
            continue
        before, then = (domains.index(row[end]["domain"]) for end in ("from", "to"))
        label = f"{domains[then]} after {domains[before]}"
        shares = [0, *(100 * each for each in row["share_within_tokens"])]
        ax.plot(tokens, shares, DASHES[before % len(DASHES)], color=COLOURS[then % len(COLOURS)], label=label)
    for row in unshifted(streams):
        shares = [0, *(100 * each for each in row["share_within_tokens"])]
        ax.plot(tokens, shares, color=style.GREY, linewidth=0.7, label="no change")
    ax.axhline(100 * measured["alpha"], color=style.BLACK, linewidth=0.7, linestyle=":")
    ax.set(xlabel="tokens since the change", ylabel="refused (%)", xlim=(0, tokens[-1]), ylim=(0, 102))
