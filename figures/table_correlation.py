"""Correlation of uncertainty with rejection, per pair, domain and signal."""

from cuhlm_opt.figures.tables import Table

READS = ("calibration", "published")


def table(inputs):
    """The measured fits, then the published lines."""
    lines = []
    for calibration in (inputs.calibration, *inputs.published.values()):
        for domain, fit in calibration.domains.items():
            for signal, line in fit.signals.items():
                lines.append(
                    (
                        calibration.pair if calibration.kind != "published" else calibration.id,
                        domain,
                        signal,
                        estimate(line.a, line.a_se),
                        estimate(line.b, line.b_se),
                        span(line.r, line.r_ci, 2),
                        estimate(fit.delta.value, fit.delta.se),
                        span(line.risk_averse, line.risk_averse_ci, 3),
                        span(line.risk_prone, line.risk_prone_ci, 2),
                    )
                )
    data = "; ".join(
        f"{domain}: {fit.n_tokens:,} positions of {fit.n_prompts:,} prompts"
        for domain, fit in inputs.calibration.domains.items()
        if fit.n_tokens is not None
    )
    caption = (
        "Correlation of uncertainty with the rejection probability, E[β | u] = a u + b over tokens, and the "
        "thresholds that follow from it as published: -b/a (risk-averse) and (Δ - b)/a (risk-prone), as computed, "
        "above 1 where they skip everything; Δ = P(y_d < x_d). All figures are without unit. u_mc: sampled "
        "uncertainty; u_bar: its mean as an integral. ± is one standard error, robust to dependence within a prompt; "
        f"in brackets 95% intervals by a bootstrap over prompts. Data: pair {inputs.calibration.pair}, {data}. "
        "Published lines come without records, and their Δ follows from their thresholds. No link and no budget enter."
    )
    head = (
        "pair", "domain", "signal", "a", "b", "R per token", "Δ", "risk-averse", "risk-prone",
    )  # fmt: skip
    return Table(head=head, rows=lines, caption=caption, text_columns=3, size="scriptsize")


def estimate(value, error):
    """A figure with its standard error."""
    return "–" if value is None else f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")


def span(value, interval, digits):
    """A figure with its interval."""
    if value is None:
        return "–"
    ends = "" if interval is None else f" ({interval[0]:.{digits}f}, {interval[1]:.{digits}f})"
    return f"{value:.{digits}f}{ends}"
