"""Threshold and truncation together: one bias budget, shared so that the channel's throughput is largest [N].

By TV(output, y) <= E[s beta] + TV(x, x_hat) + TV(x_hat, decoded x_hat) (THEORY 4.5) a truncation and a coding that add
b leave budget - b for skipping, so every size, or every tolerance, in every coding comes with its largest threshold:
the best of all is found in one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.channel import AwgnChannel
from cuhlm_opt.latency import Accounting, ComputeTimes
from cuhlm_opt.solve.coding import Coding
from cuhlm_opt.solve.threshold import Gate
from cuhlm_opt.solve.truncation import Sizes, Truncation

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

    def __call__(self, skip_rate: _Floats, bits: _Floats) -> _Floats:
        """Worth of each pair, arrays of equal shape; larger is better."""
        link = bits / self.channel.rate_bps + self.channel.rtt_s + self.channel.downlink_s
        asking = 1.0 - skip_rate
        if self.times is None:
            return np.asarray(-asking * link)
        device = self.times.slm_s + self.times.gate_s
        asked = asking * (device + link) + self.times.llm_per_token_s(skip_rate)
        if self.accounting is Accounting.MEAN_LATENCY:
            return np.asarray(1.0 / (skip_rate * device + asked))
        rate = np.divide(asking**2, asked, out=np.zeros_like(asked), where=asking > 0)
        return np.asarray(skip_rate / device + rate)


def share(
    gate: Gate, budget: float, objective: Objective, choices: Sequence[Sizes], codings: Sequence[Coding]
) -> Truncation:
    """The best of `choices` with the best of `codings`, beside the threshold that the rest of the budget allows.

    The worth counts the bits of the tokens that ask: they are the uncertain ones, with flatter laws. Which ones ask is
    taken from the threshold that the truncation alone would leave.
    """
    size_bias = np.array([coding.known_bias for coding in codings])
    spent, bits = np.empty((2, len(codings), len(choices)))
    for column, choice in enumerate(choices):
        bias, fixed = choice.bias or 0.0, choice.at.ndim == 0
        size_bits = np.array([coding.bits(size_known=fixed) for coding in codings])
        if fixed:
            spent[:, column], bits[:, column] = bias + size_bias[:, choice.at], size_bits[:, choice.at]
            continue
        asking = 1.0 - gate.at(gate.largest_within(budget, bias)).skip
        everyone = np.bincount(choice.at, minlength=size_bias.shape[1])
        askers = np.bincount(choice.at, weights=asking, minlength=size_bias.shape[1])
        spent[:, column] = bias + size_bias @ everyone / len(asking)
        bits[:, column] = size_bits @ askers / max(float(asking.sum()), 1e-300)
    way, size = _best(gate, budget, objective, spent, bits)
    return choices[size].written(codings[way])


def _best(gate: Gate, budget: float, objective: Objective, spent: _Floats, bits: _Floats) -> tuple[int, int]:
    """(row, column) of the most worth within the budget; of the least spent where nothing is within it."""
    if not np.any(spent <= budget):
        row, column = np.unravel_index(np.argmin(spent), spent.shape)
    else:
        worth = np.full(spent.shape, -np.inf)
        within = spent <= budget
        worth[within] = objective(gate.curve.skip_within(budget - spent[within]), bits[within])
        row, column = np.unravel_index(np.argmax(worth), spent.shape)
    return int(row), int(column)
