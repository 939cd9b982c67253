"""What a device knows of its channel before it sends: states, each with the uplink that it means [N, THEORY 6.2].

States of different tokens are independent. A device that asks sends at once, in the state that it has seen.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.channel import AwgnUplink, InstantaneousUplink, Link, RetransmissionUplink, TraceUplink, Uplink
from cuhlm_opt.fading import Fading, least_snr
from cuhlm_opt.service import Fixed, ServiceTime, Shifted

Floats = NDArray[np.float64]

CELLS = 8
"""States of a continuous channel, equally likely."""


@dataclass(frozen=True, kw_only=True)
class ChannelState:
    """One state.

    Args:
        probability: in (0, 1].
        uplink: the channel, given the state.
        seen: what the device sees, in words.
    """

    probability: float
    uplink: Uplink
    seen: str


def channel_states(uplink: Uplink) -> tuple[ChannelState, ...]:
    """States that tell one message's time from another's, the fastest first; one where nothing is known before.

    Of a fixed rate over fading the device knows whether the block carries it, of the rate of one block the SNR within
    `CELLS` cells, of a trace the present rate within as many.

    >>> from cuhlm_opt.fading import Rayleigh
    >>> [round(s.probability, 3) for s in channel_states(RetransmissionUplink(bandwidth_hz=1.0, fading=Rayleigh(10.0)))]
    [0.623, 0.377]
    """
    match uplink:
        case RetransmissionUplink() if uplink.success < 1:
            carried = AwgnUplink(bandwidth_hz=uplink.bandwidth_hz, snr=least_snr(uplink.chosen_rate))
            return (
                ChannelState(probability=uplink.success, uplink=carried, seen="the block carries the rate"),
                ChannelState(probability=1 - uplink.success, uplink=AfterOutage(uplink), seen="the block is in outage"),
            )
        case InstantaneousUplink():
            edges = np.arange(CELLS, -1, -1) / CELLS
            return tuple(
                ChannelState(
                    probability=1 / CELLS,
                    uplink=replace(uplink, fading=Within(uplink.fading, float(low), float(high))),
                    seen=f"SNR between its quantiles {low:g} and {high:g}",
                )
                for high, low in pairwise(edges)
            )
        case TraceUplink():
            return _trace_states(uplink)
    return (ChannelState(probability=1.0, uplink=uplink, seen="nothing"),)


def _trace_states(uplink: TraceUplink) -> tuple[ChannelState, ...]:
    """Rows of the trace by their rate, in up to `CELLS` classes of about equal time."""
    trace = uplink.trace
    order = np.argsort(-trace.rates_bps, kind="stable")
    shares = trace.steps_s[order] / trace.length_s
    middle = np.cumsum(shares) - shares / 2
    states = []
    for cell in range(CELLS):
        rows = order[(middle >= cell / CELLS) & (middle < (cell + 1) / CELLS)]
        if len(rows):
            rates = trace.rates_bps[rows]
            states.append(
                ChannelState(
                    probability=float(trace.steps_s[rows].sum() / trace.length_s),
                    uplink=replace(uplink, rows=tuple(sorted(int(row) for row in rows))),
                    seen=f"rate between {rates.min():g} and {rates.max():g} bit/s",
                )
            )
    return tuple(states)


def state_links(link: Link) -> tuple[Link, ...]:
    """The link in each state."""
    return tuple(replace(link, uplink=state.uplink) for state in channel_states(link.uplink))


@dataclass(frozen=True)
class AfterOutage:
    """A fixed rate over fading from a block in outage on: an attempt that fails, then as many as it takes."""

    given: RetransmissionUplink

    @property
    def rate_bps(self) -> float:
        """Bits per second of a long message."""
        return self.given.bandwidth_hz * self.given.chosen_rate / (1 + 1 / self.given.success)

    def mean_s(self, bits: Floats | float) -> Floats:
        """Bits over the rate."""
        return np.asarray(bits) / self.rate_bps

    def service(self, bits: float) -> ServiceTime:
        """One attempt more than without knowledge."""
        law = self.given.service(bits)
        return Fixed(0.0) if bits == 0 else Shifted(bits / (self.given.bandwidth_hz * self.given.chosen_rate), law)

    def describe(self) -> str:
        """The channel."""
        return f"{self.given.describe()}, from a block in outage on"


@dataclass(frozen=True)
class Within:
    """Fading, given that the SNR lies between two of its quantiles.

    Args:
        whole: the law without knowledge.
        low, high: probabilities, 0 <= low < high <= 1.
    """

    whole: Fading
    low: float
    high: float

    @property
    def mean_snr(self) -> float:
        """Mean over 1 000 quantiles."""
        return float(np.mean([self.quantile(float(p)) for p in (np.arange(1000) + 0.5) / 1000]))

    @property
    def diverges(self) -> bool:
        """Where deep fades are among it."""
        return self.low == 0 and self.whole.diverges

    def outage(self, snr: Floats | float) -> Floats:
        """Share of the cell below `snr`."""
        return np.asarray(np.clip((self.whole.outage(snr) - self.low) / (self.high - self.low), 0.0, 1.0))

    def quantile(self, probability: float) -> float:
        """Inverse of `outage`."""
        return self.whole.quantile(self.low + probability * (self.high - self.low))

    def sample(self, rng: np.random.Generator, size: tuple[int, ...] | int) -> Floats:
        """Quantiles at uniform probabilities."""
        return np.asarray(np.vectorize(self.quantile, otypes=[float])(rng.random(size)))

    def describe(self) -> str:
        """The law and the cell."""
        return f"{self.whole.describe()} (quantiles {self.low:g} to {self.high:g})"
