"""Threshold and truncation together: one bias budget, shared so that the link's throughput is largest [N].

By TV(output, y) <= E[s beta] + TV(x, x_hat) + TV(x_hat, decoded x_hat) (THEORY 4.5) a truncation and a coding that add
b leave budget - b for skipping, so every size, or every tolerance, in every coding comes with its largest threshold:
the best of all is found in one pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.channel import Link
from cuhlm_opt.latency import Accounting, ComputeTimes, Pipelining
from cuhlm_opt.solve.coding import Coding
from cuhlm_opt.solve.limits import Limits, Objective
from cuhlm_opt.solve.threshold import Gate
from cuhlm_opt.solve.truncation import Sizes, Truncation

_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What a threshold with a message is worth.

    Without measured times only what the link adds is compared: compute time is the same for every pair but for
    catching up, and counts as zero.
    """

    times: ComputeTimes | None
    link: Link
    accounting: Accounting
    objective: Objective = Objective.THROUGHPUT
    limits: Limits = field(default_factory=Limits)

    def passed(self, skip_rate: _Floats, runs: _Floats, uplink_s: _Floats, bits: _Floats) -> _Floats:
        """By what factor limits are passed, but for that on late quantiles; 1 where they are kept. As `__call__`."""
        limits, most = self.limits, np.ones_like(skip_rate)
        if limits.passes is not None:
            most = np.maximum(most, self._passes(skip_rate, runs) / max(limits.passes, 1e-12))
        if limits.skip_rate is not None:
            most = np.maximum(most, limits.skip_rate / np.maximum(skip_rate, 1e-12))
        if limits.uplink_bps is not None and self.times is not None:
            mean_s = self._mean_s(self.times, skip_rate, runs, uplink_s)
            sent = (1 - skip_rate) * (bits + self.link.overhead_bits)
            most = np.maximum(most, sent / mean_s / limits.uplink_bps)
        return most

    def _passes(self, skip_rate: _Floats, runs: _Floats) -> _Floats:
        eager = self.times is not None and self.times.pipelining is Pipelining.EAGER
        return 1.0 - skip_rate + (runs[:, 1:].sum(axis=1) if eager else 0.0)

    def _mean_s(self, times: ComputeTimes, skip_rate: _Floats, runs: _Floats, uplink_s: _Floats) -> _Floats:
        device = times.slm_s + times.gate_s
        return np.asarray(skip_rate * device + np.sum(runs * self._asked_s(times, runs.shape[1], uplink_s), axis=1))

    def _asked_s(self, times: ComputeTimes, longest: int, uplink_s: _Floats) -> _Floats:
        """Time of the n-th token since the last verdict, where it asks, shape (m, L)."""
        device, n = times.slm_s + times.gate_s, np.arange(1.0, longest + 1)
        arrival = device + uplink_s + self.link.rtt_s + self.link.downlink_s
        return np.asarray(np.maximum(arrival[:, None], times.busy_s(n, device)) + times.pass_s(n))

    def __call__(self, skip_rate: _Floats, runs: _Floats, uplink_s: _Floats, bits: _Floats) -> _Floats:
        """Worth; larger is better. The 95th percentile is ranked by throughput first, and judged exactly later.

        Args:
            skip_rate: shape (m,).
            runs: probability that a token asks after n - 1 skipped ones, shape (m, L).
            uplink_s: mean time of a message, shape (m,); accounting by rates takes it as the time of each.
            bits: mean length of a message, shape (m,).
        """
        if self.objective is Objective.BITS:
            return np.asarray(-(1.0 - skip_rate) * (bits + self.link.overhead_bits))
        if self.objective is Objective.PASSES:
            return np.asarray(-self._passes(skip_rate, runs) - 1e-9 * uplink_s / np.max(uplink_s, initial=1e-300))
        link = uplink_s + self.link.rtt_s + self.link.downlink_s
        if self.times is None:
            return np.asarray(-(1.0 - skip_rate) * link)
        if self.accounting is Accounting.MEAN_LATENCY:
            return np.asarray(1.0 / self._mean_s(self.times, skip_rate, runs, uplink_s))
        device, asked = self.times.slm_s + self.times.gate_s, self._asked_s(self.times, runs.shape[1], uplink_s)
        return np.asarray(skip_rate / device + np.sum(runs / asked, axis=1))


def share(
    gate: Gate,
    budget: float,
    worth: Worth,
    choices: Sequence[Sizes],
    codings: Sequence[Coding],
    skip_within: Callable[[_Floats], _Floats] | None = None,
) -> Iterator[Truncation]:
    """`choices` in `codings`, the best first, each beside the threshold that the rest of the budget allows.

    Those that another beats in what they spend of the budget and in what they send are left out. The worth counts the
    messages of the tokens that ask: they are the uncertain ones, with flatter laws. Which ones ask is taken from the
    threshold that the truncation alone would leave. Where nothing is within the budget, the least spent stands alone.

    Args:
        gate: the skipping rule.
        budget: what truncation, rounding and skipping may add to the bias.
        worth: ranks the candidates.
        choices: sizes.
        codings: how they may be written.
        skip_within: skip rate that each rest of the budget allows; None takes the plug-in threshold.
    """
    allowed = gate.curve.skip_within if skip_within is None else skip_within
    fixed = choices[0].at.ndim == 0
    ways = tuple((coding.law_format, coding.quantiser, coding.b_prob) for coding in codings)
    thetas = tuple(choice.theta for choice in choices)
    key = ("spent", fixed, ways, thetas, choices[0].distortion, budget)
    spent, sizes = gate.remembered(key, lambda: _spent(gate, budget, choices, codings))
    bits = np.array([coding.bits(size_known=fixed) for coding in codings])
    sent_s, sent = worth.link.mean_uplink_s(bits) @ sizes, bits @ sizes
    for index in _ranked(gate, budget, worth, allowed, spent.ravel(), sent_s.ravel(), sent.ravel()):
        way, size = np.unravel_index(index, spent.shape)
        yield choices[int(size)].written(codings[int(way)])


def _spent(gate: Gate, budget: float, choices: Sequence[Sizes], codings: Sequence[Coding]) -> tuple[_Floats, _Floats]:
    """What each coding (row) and choice (column) takes of the budget, and the sizes that the asking tokens send.

    Returns:
        Shapes (codings, choices) and (G, choices); columns of the second sum to 1.
    """
    sizes = np.zeros((len(gate.records.k_grid), len(choices)))
    spent = np.empty((len(codings), len(choices)))
    for column, choice in enumerate(choices):
        bias = choice.bias or 0.0
        spent[:, column] = bias + np.nan_to_num([coding.mean_bias(choice.at) for coding in codings])
        if choice.at.ndim == 0:
            sizes[choice.at, column] = 1.0
            continue
        asking = 1.0 - gate.at(gate.largest_within(budget, bias)).skip
        sizes[:, column] = np.bincount(choice.at, asking, len(sizes)) / max(float(asking.sum()), 1e-300)
    return spent, sizes


def _ranked(
    gate: Gate,
    budget: float,
    worth: Worth,
    skip_within: Callable[[_Floats], _Floats],
    spent: _Floats,
    uplink_s: _Floats,
    bits: _Floats,
) -> NDArray[np.intp]:
    """Indices of the candidates within the budget that no other beats, the most worth first, after those in limits."""
    within = np.flatnonzero(spent <= budget)
    if len(within) == 0:
        return np.array([np.argmin(spent)])
    order = within[np.lexsort((bits[within], uplink_s[within], spent[within]))]
    least = np.minimum.accumulate(np.append(np.inf, bits[order])[:-1])
    kept = order[bits[order] < least]
    skip_rate = skip_within(budget - spent[kept])
    rates, runs = gate.run_curve
    interpolated = np.column_stack([np.interp(skip_rate, rates, runs[:, n]) for n in range(runs.shape[1])])
    ranks = worth(skip_rate, interpolated, uplink_s[kept], bits[kept])
    passed = worth.passed(skip_rate, interpolated, uplink_s[kept], bits[kept])
    return np.asarray(kept[np.lexsort((-ranks, passed))])
