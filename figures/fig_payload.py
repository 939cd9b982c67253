"""Bits of an upload against the truncation size: formats, the entropy limit, and coarse messages."""

import numpy as np
import style
from scipy.special import gammaln

from cuhlm_opt.payload import Format, coarse_bits, dense_bits, law_bits, published_bits
from cuhlm_opt.quantisation import Quantiser

READS = ("calibration",)
B_PROB = 8


def draw(inputs, width):
    """Lengths in one panel, their ratio to the published ones in another."""
    size, narrow = inputs.calibration.vocab_size, style.stacked(width)
    sizes = sorted({int(k) for k in np.geomspace(1, size, 60)})
    formats = {
        "published": ([published_bits(k, size, B_PROB) for k in sizes], style.ORANGE, "-", "^"),
        "compact, each mass in 8 bits": (lengths(sizes, size, Quantiser.UNIFORM), style.SKY, "--", "v"),
        "compact, types of 8 bits": (lengths(sizes, size, Quantiser.TYPES), style.BLUE, "-", "o"),
        "entropy limit of types": ([type_entropy(k, size) for k in sizes], style.BLACK, ":", ""),
    }
    figure, axes = style.panels(width, 1, 2, 2.0 if narrow else 2.4)
    reference = np.array(formats["published"][0])
    for label, (bits, colour, dashes, marker) in formats.items():
        look = {"color": colour, "linestyle": dashes, "marker": marker, "markevery": 10, "markerfacecolor": "white"}
        axes[0, 0].plot(sizes, bits, label=label, zorder=3 if marker == "" else 2, **look)
        axes[0, 1].plot(sizes, np.array(bits) / reference, zorder=3 if marker == "" else 2, **look)
    whole, coarse = dense_bits(size, B_PROB), coarse_bits(1, size, B_PROB)
    axes[0, 0].plot([size], [whole], color=style.BLACK, marker="s", linestyle="", label="dense, all entries")
    axes[0, 0].axhline(
        coarse, color=style.GREEN, linewidth=1.3, linestyle="-.", label=f"coarse, one entry: {coarse} bits"
    )
    axes[0, 1].plot([size], [whole / reference[-1]], color=style.BLACK, marker="s", linestyle="")
    axes[0, 0].set(ylabel="bits of an upload", yscale="log")
    axes[0, 1].set(ylabel="bits over published", ylim=(0, 1.05))
    for ax in axes[0]:
        ax.set(xscale="log", xlabel="truncation size $k$ (entries)")
        ax.set_xticks((1, 1e2, 1e4))
        ax.minorticks_off()
    style.letter(axes)
    style.legend_above(figure, axes, 2 if narrow else 3)
    caption = (
        f"(a) Bits of an upload of k out of {size:,} entries at {B_PROB} bits a probability; (b) the same over the "
        "published format, k (b + ceil(log2 |V|)). Compact messages name the set of entries by its rank; masses "
        "follow in bits of their own, or together as a type, a vector of counts, by its rank. The entropy limit is "
        f"that of a set and a type drawn evenly, log2 C(|V|, k) + log2 C(N + k, k), N = {2**B_PROB - 1}. A coarse "
        "message holds the skippable entries only, one as a rule, whatever k would be. Bits say nothing of loss: with "
        "so few counts a type of many entries rounds most of them to zero. Data: the size of the vocabulary of pair "
        f"{inputs.calibration.pair}; lengths are those of the codec, exact, so there are no intervals, and they depend "
        "on no link and no budget."
    )
    return figure, caption


def lengths(sizes, vocab_size, quantiser):
    """Bits of compact messages."""
    return [law_bits(k, vocab_size, B_PROB, Format.COMPACT, quantiser) for k in sizes]


def type_entropy(k, vocab_size):
    """log2 of the number of sets of k entries and types over them."""
    bars = k if k < vocab_size else k - 1
    return log2_choose(vocab_size, k) + log2_choose(2**B_PROB - 1 + bars, bars)


def log2_choose(n, k):
    """log2 C(n, k)."""
    return (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / np.log(2)
