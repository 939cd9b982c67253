"""Throughput of every mode against the bandwidth, and against the size of the vocabulary."""

import numpy as np
import style

from cuhlm_opt.channel import AwgnUplink
from cuhlm_opt.payload import Format, coarse_bits, law_bits
from cuhlm_opt.quantisation import Quantiser

READS = ("data/bandwidth", "calibration")
AT_HZ = 10e6
SIZES = [int(size) for size in np.geomspace(8_000, 512_000, 25)]


def draw(inputs, width):
    """Bandwidth above, vocabulary below, a column a domain."""
    rows, domains, narrow = inputs.data("bandwidth"), inputs.domains, style.stacked(width)
    modes = [mode for mode in style.MODES if mode != "random"]
    figure, axes = style.panels(width, 2, len(domains), 1.7 if narrow else 1.9, sharey="row")
    nearest = min({row["bandwidth_hz"] for row in rows}, key=lambda hertz: abs(np.log(hertz / AT_HZ)))
    for (top, bottom), domain in zip(axes.T, domains, strict=True):
        for place, mode in enumerate(modes):
            own = [row for row in rows if (row["domain"], row["mode"]) == (domain, mode)]
            look = style.mode_style(mode, len(own), place)
            top.plot([row["bandwidth_hz"] for row in own], [row["throughput_tokens_per_s"] for row in own], **look)
            here = next(row for row in own if row["bandwidth_hz"] == nearest)
            speeds = [rescaled(here, size, inputs.calibration.vocab_size) for size in SIZES]
            if speeds[0] is not None:
                bottom.plot(SIZES, speeds, **style.mode_style(mode, len(SIZES), place))
        top.set(xscale="log", xlabel="bandwidth (Hz)", title=domain, ylim=(0, None))
        bottom.set(xscale="log", xlabel="vocabulary $|V|$ (entries)", title=domain, ylim=(0, None))
        bottom.axvline(inputs.calibration.vocab_size, color=style.GREY, linewidth=0.6, zorder=0)
    for ax in axes[:, 0]:
        ax.set_ylabel("tokens/s")
    style.letter(axes)
    style.legend_above(figure, axes, 3 if narrow else 9)
    one = rows[0]
    caption = (
        "Throughput (tokens per second) of every mode against the bandwidth, each at its own best point, and against "
        f"the size of the vocabulary at {nearest / 1e6:.3g} MHz. {style.evidence(inputs)} Link: AWGN at "
        f"{one['snr_db']:g} dB, no round trip. Bias budget {one['max_bias']:g} per token, certified thresholds, "
        "mean-latency accounting. Over |V| only the lengths of the messages change: skip rates, k, bits of a "
        f"probability and compute times stay as recorded at |V| = {inputs.calibration.vocab_size:,} (grey line), and "
        "cu-hlm-online, whose k differs from position to position, is left out. No intervals are drawn; those of "
        "throughput stand in the table of modes."
    )
    return figure, caption


def rescaled(row, size, recorded):
    """Throughput if the vocabulary had `size` entries and only the messages knew; None where they are not known."""
    uplink = AwgnUplink(bandwidth_hz=row["bandwidth_hz"], snr=10 ** (row["snr_db"] / 10))
    sent = row["payload_bits"]
    if row["mode"] in ("slm", "llm", "query"):
        bits = sent
    elif row["mode"] in ("hlm", "u-hlm"):
        bits = law_bits(size, size, row["b_prob"], Format.COMPACT, Quantiser(row["quantiser"]))
    elif row["mode"] == "coarse":
        bits = sent * coarse_bits(1, size, row["b_prob"]) / coarse_bits(1, recorded, row["b_prob"])
    elif row["k"] is not None:
        own = {"b_prob": row["b_prob"], "law_format": Format.COMPACT, "quantiser": Quantiser(row["quantiser"])}
        bits = sent + law_bits(row["k"], size, **own) - law_bits(row["k"], recorded, **own)
    else:
        return None
    change_s = row["server_passes_per_token"] * (bits - sent) / uplink.rate_bps
    return 1.0 / (row["latency_s"] + change_s)
