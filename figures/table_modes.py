"""All modes at named operating points."""

from cuhlm_opt.figures.tables import Table
from cuhlm_opt.units import format_si

READS = ("data/points", "calibration")
RELATION = {"exact": "", "bound": "≤ ", "none": ""}


def table(inputs):
    """One row a link, domain and mode."""
    rows = inputs.data("points")
    lines, links = [], {}
    for row in rows:
        links[row["link"]] = row
        mark = "*" if row["recommended"] else ""
        lines.append(
            (
                f"{row['link']}, {row['domain']}",
                f"{row['mode']}{mark}",
                number(row["throughput_tokens_per_s"], 1) + half(row["throughput_ci"], 1),
                number(100 * row["skip_rate"], 1) + half(row["skip_rate_ci"], 1, 100),
                number(row["payload_bits"], 1 if 0 < row["payload_bits"] < 10 else 0),
                number(row["server_passes_per_token"], 2),
                RELATION[row["bias_kind"]] + number(row["bias"], 4) + half(row["bias_ci"], 4),
            )
        )
    named = "; ".join(described(name, row) for name, row in links.items())
    fits = inputs.calibration.domains
    data = "; ".join(f"{d}: {fit.n_tokens:,} positions of {fit.n_prompts:,} prompts" for d, fit in fits.items())
    caption = (
        f"All modes at named operating points, pair {inputs.calibration.pair} ({data}). Links: {named}. Bias budget "
        f"{rows[0]['max_bias']:g} per token but for slm and random, certified thresholds, mean-latency accounting; "
        "random skips as often as cu-hlm-offline. Bias is a total variation per token, exact or (≤) a proved bound; ± "
        "is half of a 95% interval over prompts, compute times held fixed. Bits are means over uploads, empty ones "
        "included. * recommended."
    )
    head = ("link, domain", "mode", "tokens/s", "skip rate (%)", "bits per upload", "LLM passes", "bias (TV)")
    return Table(head=head, rows=lines, caption=caption, text_columns=2)


def described(name, row):
    """A link in words."""
    trip = "no round trip" if row["rtt_s"] == 0 else f"round trip {format_si(row['rtt_s'], 's')}"
    channel = "AWGN" if row["channel"] == "awgn" else row["channel"].capitalize()
    return f"{name}: {channel}, {format_si(row['bandwidth_hz'], 'Hz')}, {row['snr_db']:g} dB, {trip}"


def number(value, digits):
    """A figure, or a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def half(span, digits, scale=1):
    """Half of an interval, where there is one."""
    if span is None or span[0] == span[1]:
        return ""
    return f" ± {scale * (span[1] - span[0]) / 2:.{digits}f}"
