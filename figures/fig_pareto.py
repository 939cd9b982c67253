"""Throughput against bias: every mode over its budgets, the Pareto front, and measured decodes."""

import style

from cuhlm_opt.sweep import pareto

READS = ("data/pareto", "measured/decodes?", "calibration")


def draw(inputs, width):
    """One panel a domain."""
    rows, domains, narrow = inputs.data("pareto"), inputs.domains, style.stacked(width)
    modes = [mode for mode in style.MODES if mode != "random"]
    decodes = inputs.measured_if_any("decodes")
    figure, axes = style.panels(width, 1, len(domains), 2.4 if narrow else 2.8, sharey=True)
    for ax, domain in zip(axes[0], domains, strict=True):
        own = [row for row in rows if row["domain"] == domain and row["bias"] is not None]
        steps = {"drawstyle": "steps-post"}
        ax.plot(*front(own), color=style.PALE, linewidth=4, label="Pareto front", zorder=1, **steps)
        for place, mode in enumerate(modes):
            bias, speed = front([row for row in own if row["mode"] == mode])
            look = style.mode_style(mode, len(bias), place)
            if len(bias) == 1:
                look |= {"linestyle": "", "marker": look["marker"] or {"slm": "P", "llm": "X"}[mode]}
            ax.plot(bias, speed, **look, **steps)
        for row in [] if decodes is None else [r for r in decodes["recorded"]["rows"] if r["domain"] == domain]:
            decoded(ax, row)
        slowest = next(r["throughput_tokens_per_s"] for r in own if r["mode"] == "llm")
        ax.axhline(slowest, color=style.BLACK, linewidth=0.5, linestyle="--", zorder=0)
        ax.set(title=domain, xlabel="bias (TV per token)")
        ax.set_xscale("symlog", linthresh=0.01, linscale=0.6)
        ax.set_xlim(-0.0006, 0.4)
        ax.set_xticks((0, 0.01, 0.1), ("0", "0.01", "0.1"))
    axes[0, 0].set(ylabel="tokens/s", ylim=(0, None))
    style.legend_above(figure, axes, 3 if narrow else 10)
    one = rows[0]
    caption = (
        "Throughput (tokens per second) against bias (total variation per token; exact or a proved bound): of every "
        "mode the points that none of its own beats, as steps, since the solver offers nothing between them, over "
        f"budgets from {min(r['max_bias'] for r in rows):g} to {max(r['max_bias'] for r in rows):g}; slm, llm, query "
        "and hlm may be single points. The bias axis is linear below 0.01 and logarithmic above; dashed: throughput "
        f"of llm. {style.evidence(inputs)} Link: AWGN, {one['bandwidth_hz'] / 1e6:g} MHz at {one['snr_db']:g} dB, no "
        "round trip. Certified thresholds, mean-latency accounting. Curves are stated by the solver from the records; "
        f"intervals at a budget stand in the table of modes. {of_decodes(decodes)}"
    )
    return figure, caption


def decoded(ax, row):
    """A measured decode with its intervals, and a thin line from what the solver states for answers of its length."""
    speed, bias = row["throughput_tokens_per_s"], row["bias"]
    ends = [
        [[value - low], [high - value]]
        for value, (low, high) in ((bias, row["bias_ci"]), (speed, row["throughput_ci"]))
    ]
    mode = style.MODES[row["mode"]]
    look = {"fmt": mode["marker"], "color": mode["color"], "markersize": 3.6, "elinewidth": 0.5, "zorder": 5}
    ax.errorbar(bias, speed, xerr=ends[0], yerr=ends[1], **look)
    stated = row["solved_bias"], row["solved_throughput_tokens_per_s"]
    ax.plot(*zip(stated, (bias, speed), strict=True), color=style.BLACK, linewidth=0.5, zorder=4)


def of_decodes(decodes):
    """What was decoded, in words."""
    if decodes is None:
        return "None of it was measured by decoding, and no intervals are drawn."
    rows = decodes["recorded"]["rows"]
    modes, budgets = (sorted({row[key] for row in rows}) for key in ("mode", "max_bias"))
    return (
        f"Filled marks: {decodes['prompts']} prompts a domain that were not recorded, decoded in modes "
        f"{', '.join(modes)} at budgets {', '.join(f'{budget:g}' for budget in budgets)}, answers of at most "
        f"{decodes['max_tokens']} tokens, with 95% intervals by a bootstrap over prompts; compute times are those of "
        "the calibration; thin lines lead to what the solver states for answers of that length."
    )


def front(rows):
    """Biases, increasing, and throughputs of the points that no other of `rows` beats."""
    points = sorted({(row["bias"], row["throughput_tokens_per_s"]) for row in rows})
    on = pareto([(speed, bias) for bias, speed in points])
    return zip(*(point for point, kept in zip(points, on, strict=True) if kept), strict=True)
