"""Where the time of a token goes, mode by mode."""

import style

READS = ("data/points", "calibration")
LINK = "cell"
INTERVAL = "95% interval"
PARTS = {
    "slm_s": ("SLM", style.PALE, ""),
    "gate_s": ("gate", style.BLACK, ""),
    "uplink_s": ("uplink", style.ORANGE, "////"),
    "round_trip_s": ("round trip", style.SKY, "...."),
    "llm_s": ("LLM", style.BLUE, ""),
}


def draw(inputs, width):
    """Stacked bars, a panel a domain."""
    rows, domains, narrow = inputs.data("points"), inputs.domains, style.stacked(width)
    modes = list(style.MODES)[::-1]
    figure, axes = style.panels(width, 1, len(domains), 2.3 if narrow else 2.5, sharex=True, sharey=True)
    for ax, domain in zip(axes[0], domains, strict=True):
        own = {row["mode"]: row for row in rows if (row["domain"], row["link"]) == (domain, LINK)}
        left = dict.fromkeys(modes, 0.0)
        for part, (label, colour, hatch) in PARTS.items():
            sizes = [1e3 * own[mode][part] for mode in modes]
            ax.barh(
                modes, sizes, left=[left[mode] for mode in modes], color=colour, hatch=hatch, label=label, height=0.72,
                edgecolor="black", linewidth=0.3,
            )  # fmt: skip
            left = {mode: left[mode] + size for mode, size in zip(modes, sizes, strict=True)}
        for place, mode in enumerate(modes):
            span = own[mode]["throughput_ci"]
            if span is not None and span[0] < span[1]:
                low, high = 1e3 / span[1], 1e3 / span[0]
                ax.plot(
                    (low, high),
                    (place, place),
                    color=style.VERMILLION,
                    linewidth=1.6,
                    solid_capstyle="butt",
                    label=INTERVAL,
                )
        ax.set(title=domain, xlabel="time per token (ms)")
        ax.tick_params(axis="y", length=0)
    style.legend_above(figure, axes, 3 if narrow else 6, order=[*(label for label, *_ in PARTS.values()), INTERVAL])
    one = next(row for row in rows if row["link"] == LINK)
    caption = (
        "Mean time of a token (ms) and its parts: a step of the SLM, the gate, the message on the uplink, the round "
        f"trip, and the LLM's passes, catching up on skipped tokens included. {style.evidence(inputs)} Link: "
        f"{one['channel']} fading, {one['bandwidth_hz'] / 1e6:g} MHz at a mean SNR of {one['snr_db']:g} dB, round trip "
        f"{1e3 * one['rtt_s']:g} ms, which llm pays once an answer. Bias budget {one['max_bias']:g} per token but for "
        "slm and random; random skips as often as cu-hlm-offline. Bars at the ends: 95% intervals of the whole over "
        "prompts, compute times held fixed."
    )
    return figure, caption
