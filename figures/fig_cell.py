"""One uplink bandwidth shared by devices near and far: their shares, and what each way to split it makes of latency."""

import style
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from cuhlm_opt.units import format_si

READS = ("data/cell", "calibration")
MODE = "u-hlm"
"""Whose shares are drawn: of those that skip it sends the most."""
SPLITS = {
    "sum": {"label": "least sum", "color": style.BLUE, "linestyle": "-", "marker": "o"},
    "max": {"label": "least maximum", "color": style.VERMILLION, "linestyle": "-.", "marker": "s"},
    "proportional": {"label": "proportionally fair", "color": style.PURPLE, "linestyle": "--", "marker": "^"},
    "equal": {"label": "equal", "color": style.BLACK, "linestyle": ":", "marker": "", "zorder": 3},
    "by-load": {"label": "proportional to load", "color": style.GREEN, "linestyle": "--", "marker": "x"},
}
SEVERAL = 4.0
"""From here on latencies are drawn on a logarithmic axis."""
ROWS = {"mean": ("sum", "equal", "by-load"), "worst": ("max", "equal", "by-load")}
"""Over the devices; each beside the shares that are best at it."""


def draw(inputs, width):
    """Shares, a panel a domain; below, mean and worst latencies, a panel a mode."""
    rows, domains, narrow = inputs.data("cell"), inputs.domains, style.stacked(width)
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    figure = Figure(figsize=(width, 4.3 if narrow else 4.6))
    grid = figure.add_gridspec(1 + len(ROWS), len(domains) * len(modes))
    axes = []
    for at, domain in enumerate(domains):
        place = grid[0, at * len(modes) : (at + 1) * len(modes)]
        axes.append(figure.add_subplot(place, sharey=axes[0] if axes else None))
        draw_shares(axes[-1], [row for row in rows if (row["mode"], row["domain"]) == (MODE, domain)])
        axes[-1].set_title(f"{domain}, {MODE}", loc="left")
    axes[0].set_ylabel("share (%)")
    for line, (kind, splits) in enumerate(ROWS.items(), 1):
        for at, mode in enumerate(modes):
            ax = figure.add_subplot(grid[line, at * len(domains) : (at + 1) * len(domains)])
            latencies(ax, [row for row in rows if row["mode"] == mode], splits, max if kind == "worst" else mean)
            ax.set_title(f"{kind}, {mode}", loc="left")
            if at == 0:
                ax.set_ylabel("ms per token")
            if line == len(ROWS):
                ax.set_xlabel("bandwidth (MHz)")
            axes.append(ax)
    style.letter(axes)
    style.legend_above(figure, axes, 3 if narrow else 5)
    return figure, caption_of(inputs, rows, modes)


def draw_shares(ax, rows):
    """Share of each device against its SNR, at the bandwidth that the SNR is over."""
    for split, look in SPLITS.items():
        own = [row for row in rows if row["split"] == split and row["bandwidth_hz"] == row["reference_hz"]]
        own.sort(key=lambda row: row["snr_db"])
        snr_db, shares = zip(*((row["snr_db"], 100 * row["share"]) for row in own), strict=True)
        ax.plot(snr_db, shares, **look | {"markerfacecolor": "white"})
    logarithmic(ax, "y", (1.0, 2.0, 5.0))
    ax.set(xlabel=f"SNR over {format_si(rows[0]['reference_hz'], 'Hz')} (dB)")


def latencies(ax, rows, splits, summary):
    """Mean or largest latency of the devices against the bandwidth that they share."""
    for split in splits:
        found = summed(rows, split, summary)
        bandwidths = [bandwidth_hz / 1e6 for bandwidth_hz in found]
        look = SPLITS[split] | {"markerfacecolor": "white"}
        ax.plot(bandwidths, [1e3 * latency_s for latency_s in found.values()], **look)
    logarithmic(ax, "x", (1.0,))
    low, high = ax.get_ylim()
    if high > SEVERAL * low:
        logarithmic(ax, "y", (1.0, 2.0, 5.0))


def logarithmic(ax, name, marks):
    """A logarithmic axis with plain numbers at these multiples of powers of ten."""
    ax.set(**{f"{name}scale": "log"})
    axis = getattr(ax, f"{name}axis")
    axis.set_major_locator(LogLocator(subs=marks))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def summed(rows, split, summary):
    """Mean or largest latency of the devices at each bandwidth."""
    own = [row for row in rows if row["split"] == split]
    bandwidths = sorted({row["bandwidth_hz"] for row in own})
    return {each: summary([row["latency_s"] for row in own if row["bandwidth_hz"] == each]) for each in bandwidths}


def mean(values):
    """Their mean."""
    return sum(values) / len(values)


def caption_of(inputs, rows, modes):
    """What is shown, with what the best shares save."""
    one, devices = rows[0], {(row["domain"], row["snr_db"]) for row in rows}
    decibels = sorted({snr_db for _, snr_db in devices})
    saved = "; ".join(
        f"{mode}, {format_si(bandwidth_hz, 'Hz')}: {saving(rows, mode, bandwidth_hz, 'sum', mean):.0%} of the mean and "
        f"{saving(rows, mode, bandwidth_hz, 'max', max):.0%} of the worst"
        for mode in modes
        for bandwidth_hz in (min(row["bandwidth_hz"] for row in rows), max(row["bandwidth_hz"] for row in rows))
    )
    reference = format_si(one["reference_hz"], "Hz")
    return (
        f"One uplink bandwidth shared by {len(devices)} devices, a synthetic layout of devices: in each domain one at "
        f"each of {len(decibels)} SNRs from {decibels[0]:g} to {decibels[-1]:g} dB over {reference}; transmit powers "
        "are fixed, so that the SNR over another bandwidth, or over a share, follows from it. Upper row: shares (%) of "
        f"{reference} in mode {MODE}: with the least sum of latencies, the least maximum, proportional fairness of "
        "throughputs, equal shares, and shares in proportion to the bits that a device sends a token. Below: mean and "
        "largest latency of a token (ms) over all devices against the bandwidth, for the shares that are best at it "
        "beside the two that are not optimised; each panel has an axis of its own, logarithmic where latencies differ "
        f"much. Saved by the best against equal shares: {saved}. {style.evidence(inputs)} "
        "Operating points are those of that calibration at the rate of each share: "
        f"certified thresholds, bias budget {one['max_bias']:g} per token, AWGN at the Shannon rate, orthogonal "
        "shares that do not change from token to token, no round trip, mean latencies. No intervals are drawn: the "
        "layout is made up, and all devices of a domain rest on the same prompts."
    )


def saving(rows, mode, bandwidth_hz, split, summary):
    """Relative latency that a split saves against equal shares."""
    own = [row for row in rows if (row["mode"], row["bandwidth_hz"]) == (mode, bandwidth_hz)]
    return 1 - summed(own, split, summary)[bandwidth_hz] / summed(own, "equal", summary)[bandwidth_hz]
