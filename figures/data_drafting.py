"""Throughput of rounds against the draft length, fixed and triggered, beside the LLM alone and skipping."""

from dataclasses import replace

import pyarrow as pa

from cuhlm_opt.links import link_of
from cuhlm_opt.modes import Drafting, Mode
from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.modes_table import mode_point
from cuhlm_opt.solve.operating_point import mode_row
from cuhlm_opt.solve.options import pose
from cuhlm_opt.solve.speculating import MOST_DRAFTS, RoundOptions

READS = ("records",)
LINK = {"bandwidth_hz": 10e6, "snr_db": 10.0}
ROUND_TRIPS_S = (0.0, 0.02, 0.1)
REFERENCES = (Mode.LLM, Mode.COARSE)
COLUMNS = (
    "throughput_tokens_per_s", "throughput_ci", "draft_length", "u_threshold", "k", "pending_data",
    "server_passes_per_token",
)  # fmt: skip


def table(inputs):
    """One row a domain, round trip and way to draft at each length, one for the length that `solve` takes; references.

    Triggered drafting reads `u_bar`, and is left out where that was not fitted.
    """
    rows = []
    for domain in inputs.domains:
        posed = pose(str(inputs.calibration_folder), domain=domain, **LINK)
        ways = list(Drafting) if posed.problem.signal is Signal.U_BAR else [Drafting.FIXED]
        for rtt_s in ROUND_TRIPS_S:
            on_link = replace(posed.problem, link=link_of(posed.settings.model_copy(update={"rtt_s": rtt_s})))
            where = {"domain": domain, "rtt_s": rtt_s, **LINK, "max_bias": on_link.budget}
            where |= {"answer_tokens": on_link.answer_tokens}
            rows += [where | solved(on_link, mode) for mode in REFERENCES]
            for drafting in ways:
                for length in (None, *range(1, MOST_DRAFTS + 1)):
                    problem = replace(on_link, rounds=RoundOptions(draft_length=length, drafting=drafting))
                    rows.append(where | solved(problem, Mode.SPECULATIVE, length is None) | {"way": drafting})
    return pa.Table.from_pylist(rows)


def solved(problem, mode, chosen=False):
    """What `solve` states of one mode; whether the draft length was its own choice."""
    row = mode_row(problem, mode_point(problem, mode)).model_dump(mode="json", include=set(COLUMNS))
    return {"way": mode, "chosen": chosen} | row
