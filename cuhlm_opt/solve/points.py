"""One mode at a point of its own: what it sends and risks, how long it takes, and how it stands among others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.channel import Link, RetransmissionUplink
from cuhlm_opt.latency import Accounting, Asks, TokenLaw, token_law
from cuhlm_opt.modes import Mode
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.solve.certificate import CertifiedThreshold
from cuhlm_opt.solve.limits import Objective
from cuhlm_opt.solve.problem import Problem
from cuhlm_opt.solve.speculating import Speculation
from cuhlm_opt.solve.truncation import Truncation

_Floats = NDArray[np.float64]

_LATE = 0.05
"""Share of tokens beyond the late quantile."""
_RATES = (0.2, 1.6, 27)
"""Fixed rates that are tried, relative to the one of the largest goodput: least, most, number."""
_REFINED = 11


@dataclass(frozen=True, kw_only=True)
class ModePoint:
    """One mode at its own point; None where records or times are missing."""

    mode: Mode
    threshold: float | None = None
    skip_rate: float | None = None
    payload_bits: float | None = None
    entries: float | None = None
    """Mean vocabulary entries of one upload."""
    k: int | None = None
    truncation: Truncation | None = None
    bias_skip: float | None = None
    bias_truncation: float | None = None
    bias_quantisation: float | None = None
    bias_kind: Literal["exact", "bound", "none"] = "none"
    law: str
    b_prob: int | None = None
    quantiser: Quantiser | None = None
    rule: tuple[float | None, ...] = ()
    """Thresholds in the states of the channel, where they follow it; `threshold` is that of the first."""
    certified: CertifiedThreshold | None = None
    """Where the threshold comes from a certificate, or is None because of one."""
    skip: _Floats | None = None
    """Probability to keep the draft at each recorded position, shape (n,), or in each state as well, (H, n)."""
    bits: _Floats | None = None
    """Length of the message that each position would send, of the same shape."""
    asks: Asks | None = None
    """The tokens that ask, with their messages."""
    speculation: Speculation | None = None
    """Of `speculative`: the rounds."""
    limited_by: tuple[str, ...] = ()
    """Limits for whose sake the most worth was passed over."""
    link: Link | None = None
    """The link at the rate that was chosen for this point; None is the problem's."""
    time: TokenLaw | None = None

    @property
    def passes(self) -> float | None:
        """LLM passes per token."""
        if self.time is not None:
            return self.time.passes
        return self.asks.rate if self.asks is not None else None if self.skip_rate is None else 1.0 - self.skip_rate

    @property
    def bias(self) -> float | None:
        """TV per token against the LLM's law, of kind `bias_kind`."""
        parts = (self.bias_skip, self.bias_truncation, self.bias_quantisation)
        return None if None in parts else math.fsum(part for part in parts if part is not None)


def timed(problem: Problem, point: ModePoint) -> ModePoint:
    """The point with the law of its latency, where the messages and the compute times are known."""
    times = problem.compute_times
    if times is None or point.asks is None:
        return point
    link, rounds = problem.link if point.link is None else point.link, point.speculation
    if rounds is None:
        return replace(point, time=token_law(point.mode, times, link, point.asks, problem.answer_tokens))
    if problem.accounting is Accounting.MEAN_RATE:
        return point  # the tokens of a round come at once: none has a rate of its own
    return replace(point, time=rounds.time(times, link))


def rated(problem: Problem, point: ModePoint) -> ModePoint:
    """The point at the fixed rate that is best for it, where late quantiles matter under fading; else as it is.

    The quantile is no smooth function of the rate. It is searched on a grid, once more around the best of it, and
    where so many attempts just suffice.
    """
    link, asks = problem.link, point.asks
    uplink = link.uplink
    if not isinstance(uplink, RetransmissionUplink) or uplink.rate is not None or problem.times is None:
        return point
    if not problem.late or point.link is not None or asks is None or asks.states is not None or asks.rate <= _LATE:
        return point

    def at(rate: float) -> ModePoint:
        return replace(point, link=replace(link, uplink=replace(uplink, rate=rate)))

    def best(rates: Sequence[float], known: Sequence[ModePoint]) -> ModePoint:
        return min([*known, *map(at, rates)], key=lambda each: preference(problem, each))

    coarse = uplink.chosen_rate * np.geomspace(*_RATES)
    found = best([*coarse[1:-1].tolist(), *uplink.rates_missing(_LATE / asks.rate)], [point])
    if found.link is None:
        return found
    chosen = found.link.uplink
    assert isinstance(chosen, RetransmissionUplink)
    step = float(coarse[1] / coarse[0])
    return best((chosen.chosen_rate * np.geomspace(1 / step, step, _REFINED)).tolist(), [found])


def used_link(problem: Problem, point: ModePoint) -> Link:
    """The link at the rate that was chosen for the point."""
    return problem.link if point.time is None or point.time.link is None else point.time.link


def throughput(problem: Problem, point: ModePoint) -> float | None:
    """Tokens per second under the problem's accounting."""
    return None if point.time is None else point.time.throughput(problem.accounting)


def excess(problem: Problem, point: ModePoint) -> tuple[str, ...]:
    """Limits that a point does not keep."""
    return () if point.asks is None else tuple(problem.limits.excess(point.asks, timed(problem, point).time))


def preference(problem: Problem, point: ModePoint) -> tuple[float, float]:
    """How a point stands among others of its mode, smaller is better: by how much it passes a limit, then its worth."""
    return (1.0, 0.0) if point.asks is None else _rank(problem, timed(problem, point).time, point.asks)


def _rank(problem: Problem, law: TokenLaw | None, asks: Asks) -> tuple[float, float]:
    """As `preference`."""
    passed = max(problem.limits.excess(asks, law).values(), default=1.0)
    if problem.objective is Objective.BITS:
        return passed, asks.rate * asks.mean_bits
    if problem.objective is Objective.PASSES or law is None:
        return passed, asks.rate if law is None else law.passes
    if problem.objective is Objective.LATENCY_P95:
        return passed, law.quantile(1 - _LATE)
    return passed, -law.throughput(problem.accounting)
