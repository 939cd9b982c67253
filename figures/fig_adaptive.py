"""Gain of thresholds that follow the channel, replayed, with intervals."""

import style

from cuhlm_opt.units import format_si

READS = ("measured/adaptive", "calibration")
POLICIES = {
    "budget": ("budget, plug-in", style.VERMILLION, "o"),
    "certified": ("certified", style.GREEN, "s"),
}


def draw(inputs, width):
    """One line a link and mode."""
    measured = inputs.measured("adaptive")
    found = measured["recorded"]["rows"]
    links, modes = (list(dict.fromkeys(row[key] for row in found)) for key in ("link", "mode"))
    figure, ((ax,),) = style.panels(width, 1, 1, 3.1)
    ticks, labels = [], []
    for at, (link, mode) in enumerate((link, mode) for link in links for mode in modes):
        y = -at - 1.2 * links.index(link)
        if mode == modes[0]:
            ticks.append(y + 1.0)
            labels.append(link.replace("-", "\u2212"))
        ticks.append(y)
        labels.append(mode)
        for policy, (label, colour, marker) in POLICIES.items():
            row = next(r for r in found if (r["link"], r["mode"], r["policy"]) == (link, mode, policy))
            gain, (low, high) = row["gain_replayed"], row["gain_replayed_ci"]
            shift = 0.15 if policy == "budget" else -0.15
            span = [[100 * (gain - low)], [100 * (high - gain)]]
            look = {"fmt": marker, "color": colour, "markerfacecolor": "white", "elinewidth": 1.0, "label": label}
            ax.errorbar(100 * (gain - 1), y + shift, xerr=span, **look)
            tick = {"marker": "|", "color": style.BLACK, "markersize": 5, "linestyle": "", "label": "stated by solve"}
            ax.plot(100 * (row["gain_stated"] - 1), y + shift, **tick)
    ax.axvline(0, color=style.GREY, linewidth=0.6, zorder=0)
    ax.set_yticks(ticks, labels)
    for tick, label in zip(ticks, ax.get_yticklabels(), strict=True):
        if label.get_text() not in modes:
            label.set_style("italic")
            ax.axhline(tick, color=style.PALE, linewidth=0.5, zorder=0)
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="gain in throughput over one threshold (%)", ylim=(min(ticks) - 0.6, 1.4))
    style.legend_above(figure, [ax], 3)
    caption = (
        "Gain in throughput (%) of thresholds that follow the state of the channel over one threshold at the same "
        f"bias budget of {measured['max_bias']:g} per token, domain {measured['domain']}, "
        f"{format_si(measured['bandwidth_hz'], 'Hz')}, answers of {measured['answer_tokens']} tokens. "
        f"{style.evidence(inputs, [measured['domain']])} Marks: replayed {measured['replays']} times over the recorded "
        "answers, with 95% intervals by a bootstrap over prompts; black ticks: stated by solve. The certified rule "
        "learns from every fourth prompt, which costs what fewer prompts cost. The trace is synthetic."
    )
    return figure, caption
