"""Link: throughput measured on a shaped link against what was foretold, and the gain over hlm and llm."""

import numpy as np
import style

READS = ("measured/link", "calibration")
BAND = 0.15


def draw(inputs, width):
    """Measured against priced and against solved; gains of some modes against the rate."""
    found = inputs.measured("link")["recorded"]
    cells = found["cells"]
    narrow = style.stacked(width)
    figure, axes = style.panels(width, *((3, 1) if narrow else (1, 3)), 1.9 if narrow else 2.2)
    foretold = (("priced_tokens_per_s", "priced, same steps"), ("solved_tokens_per_s", "solved"))
    for ax, (key, what) in zip(axes.ravel(), foretold, strict=False):
        against(ax, cells, key, what)
    gains(axes.ravel()[2], cells)
    style.letter(axes)
    style.legend_above(figure, axes, 3 if narrow else 6)
    delays = sorted({1e3 * cell["delay_s"] for cell in cells})
    rates = sorted({cell["rate_bps"] for cell in cells})
    within = {key: np.mean([abs(cell[key] / cell["measured_tokens_per_s"] - 1) <= BAND for cell in cells])
              for key, _ in foretold}  # fmt: skip
    caption = (
        "Throughput (tokens per second) of every mode, device and server in two processes on a shaped link "
        f"({found['shaped_by']}), each cell a mode at one rate of {', '.join(f'{rate / 1e6:g}' for rate in rates)} "
        f"Mbit/s with {' and '.join(f'{delay:g}' for delay in delays)} ms of added round trip. (a) Measured against "
        "priced: the steps that were taken, at compute times measured before and at the link's nominal rate, round "
        f"trip and overhead; shaded: within {BAND:.0%}, where {within['priced_tokens_per_s']:.0%} of the cells lie. "
        f"(b) Against what solve states from the records, {within['solved_tokens_per_s']:.0%} within: the difference "
        f"is the luck of few tokens, {min(cell['n_tokens'] for cell in cells)} to "
        f"{max(cell['n_tokens'] for cell in cells)} a cell, whose uploads are fewer or more than expected. (c) "
        "Measured throughput over that of llm in the same run, without added delay. "
        f"{style.evidence(inputs)} Bias budget {found['max_bias']:g} per token, certified; {found['domain']} prompts "
        f"that were not recorded, answers of {found['max_tokens']} tokens or less. No intervals are drawn."
    )
    return figure, caption


def against(ax, cells, key, what):
    """One point a cell."""
    values = [cell[name] for cell in cells for name in (key, "measured_tokens_per_s")]
    ends = np.array([0.7 * min(values), 1.4 * max(values)])
    ax.fill_between(ends, (1 - BAND) * ends, (1 + BAND) * ends, color=style.PALE, linewidth=0, alpha=0.6)
    ax.plot(ends, ends, color=style.GREY, linewidth=0.6)
    for mode in style.MODES:
        own = [cell for cell in cells if cell["mode"] == mode]
        look = {**style.mode_style(mode), "linestyle": "", "marker": style.MODES[mode]["marker"] or "."}
        if own:
            ax.plot([cell[key] for cell in own], [cell["measured_tokens_per_s"] for cell in own], **look)
    ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel=f"{what} (tokens/s)", ylabel="measured (tokens/s)")


def gains(ax, cells):
    """Over llm, where nothing was added to the round trip."""
    least = min(cell["delay_s"] for cell in cells)
    speed = {
        (cell["mode"], cell["rate_bps"]): cell["measured_tokens_per_s"] for cell in cells if cell["delay_s"] == least
    }
    rates = sorted({rate for _, rate in speed})
    ax.axhline(1, color=style.GREY, linewidth=0.6)
    for mode in style.MODES:
        own = [rate for rate in rates if (mode, rate) in speed and ("llm", rate) in speed]
        if own and mode != "llm":
            gain = [speed[mode, rate] / speed["llm", rate] for rate in own]
            ax.plot(own, gain, **{**style.mode_style(mode), "marker": style.MODES[mode]["marker"] or "."})
    ax.set(xscale="log", yscale="log", xlabel="rate (bit/s)", ylabel="measured, over llm")
