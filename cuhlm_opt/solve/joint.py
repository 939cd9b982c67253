"""Threshold and truncation together: one bias budget, shared so that the channel's throughput is largest [N].

By TV(output, y) <= E[s beta] + TV(x, x_hat) (THEORY 4.5) a truncation that adds b leaves budget - b for skipping, so
every size, or every tolerance, comes with its largest threshold: the best pair is found in one pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.channel import AwgnChannel
from cuhlm_opt.latency import Accounting, ComputeTimes
from cuhlm_opt.payload import published_bits
from cuhlm_opt.solve.threshold import Gate
from cuhlm_opt.solve.truncation import (
    Truncation,
    offline_by_bound,
    offline_profile,
    online_by_bound,
    online_tolerances,
)

_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a pair (skip rate, bits per upload) is worth: tokens per second.

    Without measured times only what the link adds is compared: compute time is the same for every pair but for
    catching up, and counts as zero.
    """

    times: ComputeTimes | None
    channel: AwgnChannel
    accounting: Accounting
    b_prob: int
    vocab_size: int

    def __call__(self, skip_rate: _Floats, entries: _Floats) -> _Floats:
        """Worth of each pair, arrays of equal shape; larger is better."""
        bits = published_bits(1, self.vocab_size, self.b_prob) * entries
        link = bits / self.channel.rate_bps + self.channel.rtt_s + self.channel.downlink_s
        asking = 1.0 - skip_rate
        if self.times is None:
            return np.asarray(-asking * link)
        device = self.times.slm_s + self.times.gate_s
        asked = asking * (device + link) + expected_pass_s(self.times, skip_rate)
        if self.accounting is Accounting.MEAN_LATENCY:
            return np.asarray(1.0 / (skip_rate * device + asked))
        rate = np.divide(asking**2, asked, out=np.zeros_like(asked), where=asking > 0)
        return np.asarray(skip_rate / device + rate)


def expected_pass_s(times: ComputeTimes, skip_rate: _Floats) -> _Floats:
    """(1 - p) E[tau_llm(n)], LLM time per token in seconds, n >= 1 geometric of success probability 1 - p.

    tau_llm is piecewise linear, tau_llm(n) = tau_llm(1) + sum_j c_j (n - m_j)+ with c_j the change of slope at m_j, and
    E[(n - m)+] = p^m / (1 - p). The same mean as `ComputeTimes.mean_llm_s`, which sums it term by term.
    """
    sizes = np.array(sorted({1, *times.llm_pass_s}), dtype=np.float64)
    slopes = np.diff([times.llm_s(size) for size in sizes]) / np.diff(sizes)
    beyond = max(slopes[-1], 0.0) if len(times.llm_pass_s) > 1 else 0.0
    changes = np.diff(np.append(slopes, beyond), prepend=0.0)
    p = np.asarray(skip_rate, dtype=np.float64)
    catching_up = sum((change * p**knot for change, knot in zip(changes, sizes, strict=True)), np.zeros_like(p))
    return np.asarray((1.0 - p) * times.llm_s(1) + catching_up)


def share_offline(gate: Gate, budget: float, objective: Objective) -> Truncation:
    """The best fixed k, with the tolerance that the budget leaves beside its threshold."""
    profile = offline_profile(gate.records)
    feasible = profile <= budget
    entries = gate.records.k_grid[feasible].astype(np.float64)
    left = budget - profile[feasible]
    best = int(np.argmax(objective(gate.curve.skip_within(left), entries)))
    return offline_by_bound(gate.records, float(profile[feasible][best]))


def share_online(gate: Gate, budget: float, objective: Objective) -> Truncation:
    """The best tolerance for a k at each position.

    The worth counts the entries of the tokens that ask: they are the uncertain ones, with flatter laws.
    """
    choices = (online_by_bound(gate.records, float(theta)) for theta in online_tolerances())
    affordable = takewhile(lambda choice: (choice.bias or 0.0) <= budget, choices)  # the bias grows with the tolerance
    return max(affordable, key=_worth(gate, budget, objective))


def _worth(gate: Gate, budget: float, objective: Objective) -> Callable[[Truncation], float]:
    def worth(choice: Truncation) -> float:
        skipping = gate.at(gate.largest_within(budget, choice.bias or 0.0))
        entries = skipping.mean_over_asking(choice.sizes)
        return float(objective(np.array([skipping.skip_rate]), np.array([entries]))[0])

    return worth
