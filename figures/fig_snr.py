"""Throughput of every mode against the signal-to-noise ratio, AWGN and Rayleigh, and the gain over HLM."""

import style

READS = ("data/snr", "calibration")
CHANNELS = {"awgn": "AWGN", "rayleigh": "Rayleigh"}


def draw(inputs, width):
    """Throughput and gain of each domain, a column a channel; side by side on a whole page."""
    rows, domains, modes = inputs.data("snr"), inputs.domains, [mode for mode in style.MODES if mode != "random"]
    narrow = style.stacked(width)
    shape = (2 * len(domains), len(CHANNELS)) if narrow else (2, len(CHANNELS) * len(domains))
    figure, axes = style.panels(width, *shape, 1.2 if narrow else 1.7, sharex=True, sharey="row")
    for d, domain in enumerate(domains):
        for c, (channel, title) in enumerate(CHANNELS.items()):
            at = (2 * d, c) if narrow else (0, len(CHANNELS) * d + c)
            speed, gain = axes[at], axes[at[0] + 1, at[1]]
            for place, mode in enumerate(modes):
                own = [r for r in rows if (r["domain"], r["channel"], r["mode"]) == (domain, channel, mode)]
                snr_db = [r["snr_db"] for r in own]
                look = style.mode_style(mode, len(own), place)
                speed.plot(snr_db, [r["throughput_tokens_per_s"] for r in own], **look)
                gain.plot(snr_db, [r["speedup_vs_hlm"] for r in own], **look)
            speed.set_title(f"{domain}, {title}")
            speed.set_ylim(0, None)
            gain.set_yscale("log")
            if at[1] == 0:
                speed.set_ylabel("tokens/s")
                gain.set_ylabel("gain over HLM")
    style.outer_labels(axes, "SNR (dB)")
    style.legend_above(figure, axes, 3 if narrow else 9)
    one = rows[0]
    caption = (
        "Throughput (tokens per second) of every mode, each at its own best point, and throughput over that of hlm "
        f"(dense law, 8 bits an entry). {style.evidence(inputs)} Link: {one['bandwidth_hz'] / 1e6:g} MHz, no round "
        "trip; AWGN at capacity, Rayleigh fading with the fixed rate of the largest goodput and retransmissions, over "
        f"its mean SNR. Bias budget {one['max_bias']:g} per token, certified thresholds, mean-latency accounting. The "
        "curves follow from the recorded skip rates and times; no intervals are drawn, those of throughput stand in "
        "the table of modes."
    )
    return figure, caption
