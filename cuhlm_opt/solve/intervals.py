"""95 % intervals of each mode's figures at its own point: whole prompts are resampled, all else is held fixed [N].

What is held fixed: the threshold, the truncation sizes and their coding, the mean effect of rounding, the compute
times, and the bits of an upload.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.artefacts import Span
from cuhlm_opt.bootstrap import ClusterBootstrap, Interval, prompt_sums, ratios
from cuhlm_opt.modes import Mode
from cuhlm_opt.solve.points import ModePoint, used_link
from cuhlm_opt.solve.problem import Problem
from cuhlm_opt.solve.settling import skipping_of
from cuhlm_opt.solve.speculating import Speculation

_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Ends of the intervals; None where a figure does not come from records, or is unknown."""

    skip_rate: Span = None
    throughput: Span = None
    bias_skip: Span = None
    bias: Span = None


def spans(problem: Problem, point: ModePoint) -> Spans:
    """Intervals of one mode's point; none without records, a second prompt, or anything that varies."""
    gate, mode, rate = problem.gate_of(point.mode), point.mode, point.skip_rate
    if point.speculation is not None:
        return Spans(throughput=_of_rounds(problem, point, point.speculation))
    if gate is None or gate.records.n_prompts < 2 or mode in (Mode.LLM, Mode.HLM) or rate is None:
        return Spans()
    records = gate.records
    if mode in (Mode.SLM, Mode.RANDOM):  # their skip rate is given, not estimated
        return Spans(bias=_ends(_bootstrap(problem, bias=rate * records.tv)["bias"], point.bias_quantisation))
    skipping = skipping_of(problem, gate, point)
    risk = skipping.query if mode is Mode.QUERY else skipping.risk
    added: NDArray[np.floating] = np.zeros(records.n_tokens)
    if point.truncation is not None:
        added = np.take_along_axis(records.tv_x_xhat, point.truncation.at[:, None], axis=1)[:, 0]
    known = skipping.risk if risk is None else risk
    found = _bootstrap(problem, skip=skipping.skip, bias_skip=known, bias=known + added)

    def throughput_at(skip_rate: float) -> float:
        assert point.time is not None
        scaled = replace(point.time, asks=point.time.asks.scaled(skip_rate))
        return scaled.throughput(problem.accounting)

    return Spans(
        skip_rate=_ends(found["skip"]),
        throughput=None if point.time is None else _ends(found["skip"].through(throughput_at)),
        bias_skip=None if point.bias_skip is None else _ends(found["bias_skip"]),
        bias=None if point.bias is None else _ends(found["bias"], point.bias_quantisation),
    )


def _of_rounds(problem: Problem, point: ModePoint, rounds: Speculation) -> Span:
    """Interval of the throughput of rounds; none where they were counted in some of the prompts only."""
    gate, times = problem.gate, problem.compute_times
    if gate is None or times is None or point.time is None or gate.records.n_prompts < 2:
        return None
    by_prompt = rounds.rates.by_prompt
    if len(by_prompt) < gate.records.n_prompts:
        return None
    # A round that is certain to draft so many, and to put out one token, takes what a round of so many drafts takes.
    kinds = (replace(rounds.rates, weights=weights) for weights in np.eye(by_prompt.shape[1]))
    costs = [replace(rounds, rates=rates).time(times, used_link(problem, point)).mean_s for rates in kinds]
    seconds = (by_prompt @ np.array(costs))[gate.records.prompt]
    return _ends(_bootstrap(problem, seconds=seconds)["seconds"].through(lambda mean_s: 1.0 / mean_s))


def _bootstrap(problem: Problem, **columns: NDArray[np.floating]) -> dict[str, Interval]:
    """Intervals of the mean over positions of each column."""
    assert problem.gate is not None
    gate, records = problem.gate, problem.gate.records
    draw = partial(ClusterBootstrap.draw, records.n_prompts, np.random.default_rng(_SEED))
    bootstrap = gate.remembered("bootstrap", draw)
    return bootstrap.intervals(ratios(*columns), prompt_sums(records.prompt, *columns.values()))


def _ends(interval: Interval, added: float | None = None) -> Span:
    """Both ends, moved by what is known without an interval."""
    return interval.low + (added or 0.0), interval.high + (added or 0.0)
