"""Every mode at named operating points: what solve states, with intervals, and where the time of a token goes."""

import pyarrow as pa

from cuhlm_opt.modes import Mode
from cuhlm_opt.solve.operating_point import mode_row, solve_modes
from cuhlm_opt.solve.options import pose
from cuhlm_opt.solve.points import used_link
from cuhlm_opt.solve.statements import recommend

READS = ("records",)
LINKS = {
    "wide": {"bandwidth_hz": 100e6, "snr_db": 20.0},
    "cell": {"bandwidth_hz": 10e6, "snr_db": 10.0, "rtt_s": 0.04, "channel": "rayleigh"},
    "narrow": {"bandwidth_hz": 1e6, "snr_db": 0.0, "rtt_s": 0.1, "channel": "rayleigh"},
}
"""Named links; the bias budget and all else are the defaults of `solve`."""


def table(inputs):
    """One row a link, domain and mode."""
    rows = []
    for name, link in LINKS.items():
        for domain in inputs.domains:
            posed = pose(str(inputs.calibration_folder), domain=domain, **link)
            points = solve_modes(posed.problem, posed.mode)
            best = recommend(posed.problem, list(points.values())).mode
            for point in points.values():
                row = mode_row(posed.problem, point).model_dump(mode="json", exclude={"law", "theta", "quantiser"})
                place = {"link": name, "channel": "awgn", "rtt_s": 0.0, "max_bias": posed.problem.budget, **link}
                where = place | {"domain": domain, "recommended": point.mode is best}
                rows.append(where | row | spent(posed.problem, point))
    return pa.Table.from_pylist(rows)


def spent(problem, point):
    """Mean seconds of a token in each part of the work; their sum is the mean latency."""
    mode, times, law, link = point.mode, problem.compute_times, point.time, used_link(problem, point)
    rate, rounds = law.asks.rate, point.speculation
    runs_on_device = mode is not Mode.LLM
    drafts = 1.0 if rounds is None else rounds.rates.drafts_per_round * rounds.rates.rounds_per_token
    gates = mode.skips if rounds is None else rounds.way.threshold is not None
    device = {
        "slm_s": drafts * times.slm_s if runs_on_device else 0.0,
        "gate_s": drafts * times.gate_s if gates and runs_on_device else 0.0,
    }
    after = float(law.asks.weights.sum(axis=0) @ law.pass_s)  # of rounds, their drafts are among it
    parts = device | {
        "uplink_s": rate * law.uplink_s,
        "round_trip_s": rate * link.rtt_s if runs_on_device else link.rtt_s / problem.answer_tokens,
        "llm_s": after if rounds is None else after - sum(device.values()),
    }
    if abs(sum(parts.values()) - law.mean_s) > 1e-9 * law.mean_s:
        raise ValueError(f"{mode}: the parts of a token's time, {parts}, are not its mean latency {law.mean_s}")
    return parts
