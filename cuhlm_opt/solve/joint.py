"""Threshold and truncation together: one bias budget, shared so that the link's throughput is largest [N].

By TV(output, y) <= E[s beta] + TV(x, x_hat) + TV(x_hat, decoded x_hat) (THEORY 4.5) a truncation and a coding that add
b leave budget - b for skipping, so every size, or every tolerance, in every coding comes with its largest threshold:
the best of all is found in one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.channel import Link
from cuhlm_opt.latency import Accounting, ComputeTimes
from cuhlm_opt.solve.coding import Coding
from cuhlm_opt.solve.threshold import Gate
from cuhlm_opt.solve.truncation import Sizes, Truncation

_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a threshold with a message is worth: tokens per second.

    Without measured times only what the link adds is compared: compute time is the same for every pair but for
    catching up, and counts as zero.
    """

    times: ComputeTimes | None
    link: Link
    accounting: Accounting

    def __call__(self, skip_rate: _Floats, runs: _Floats, uplink_s: _Floats) -> _Floats:
        """Worth; larger is better.

        Args:
            skip_rate: shape (m,).
            runs: probability that a token asks after n - 1 skipped ones, shape (m, L).
            uplink_s: mean time of a message, shape (m,); accounting by rates takes it as the time of each.
        """
        link = uplink_s + self.link.rtt_s + self.link.downlink_s
        if self.times is None:
            return np.asarray(-(1.0 - skip_rate) * link)
        device = self.times.slm_s + self.times.gate_s
        asked = device + link[:, None] + self.times.llm_s(np.arange(1.0, runs.shape[1] + 1))
        if self.accounting is Accounting.MEAN_LATENCY:
            return np.asarray(1.0 / (skip_rate * device + np.sum(runs * asked, axis=1)))
        return np.asarray(skip_rate / device + np.sum(runs / asked, axis=1))


def share(
    gate: Gate, budget: float, objective: Objective, choices: Sequence[Sizes], codings: Sequence[Coding]
) -> Truncation:
    """The best of `choices` with the best of `codings`, beside the threshold that the rest of the budget allows.

    The worth counts the messages of the tokens that ask: they are the uncertain ones, with flatter laws. Which ones ask
    is taken from the threshold that the truncation alone would leave.
    """
    size_bias = np.array([coding.known_bias for coding in codings])
    uplink_s = {
        known: objective.link.mean_uplink_s(np.array([coding.bits(size_known=known) for coding in codings]))
        for known in {choice.at.ndim == 0 for choice in choices}
    }
    spent, sent_s = np.empty((2, len(codings), len(choices)))
    for column, choice in enumerate(choices):
        bias, fixed = choice.bias or 0.0, choice.at.ndim == 0
        if fixed:
            spent[:, column] = bias + size_bias[:, choice.at]
            sent_s[:, column] = uplink_s[True][:, choice.at]
            continue
        asking = 1.0 - gate.at(gate.largest_within(budget, bias)).skip
        everyone = np.bincount(choice.at, minlength=size_bias.shape[1])
        askers = np.bincount(choice.at, weights=asking, minlength=size_bias.shape[1])
        spent[:, column] = bias + size_bias @ everyone / len(asking)
        sent_s[:, column] = uplink_s[False] @ askers / max(float(asking.sum()), 1e-300)
    way, size = np.unravel_index(_best(gate, budget, objective, spent.ravel(), sent_s.ravel()), spent.shape)
    return choices[int(size)].written(codings[int(way)])


def _best(gate: Gate, budget: float, objective: Objective, spent: _Floats, uplink_s: _Floats) -> int:
    """Index of the most worth within the budget; of the least spent where nothing is within it."""
    within = np.flatnonzero(spent <= budget)
    if len(within) == 0:
        return int(np.argmin(spent))
    skip_rate = gate.curve.skip_within(budget - spent[within])
    rates, runs = gate.run_curve
    interpolated = np.column_stack([np.interp(skip_rate, rates, runs[:, n]) for n in range(runs.shape[1])])
    return int(within[np.argmax(objective(skip_rate, interpolated, uplink_s[within]))])
