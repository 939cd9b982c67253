"""Uplink channels: from the bits of a message to the law of its time [P, N, THEORY 8].

A link adds what no uplink leaves out: the round trip, the downlink of a token, and the bits of a message's header.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.errors import InputError
from cuhlm_opt.fading import Fading, best_fixed_rate, ergodic_capacity, success_probability
from cuhlm_opt.service import Attempts, Fixed, PiecewiseUniform, ServiceTime, cells
from cuhlm_opt.trace import Trace

Floats = NDArray[np.float64]

BLOCK_ERROR = 1e-3
"""Default target of short packets."""

_LEAST_SUCCESS = 1e-3
_ATTEMPTS = 8
"""Attempts up to which rates for late quantiles are sought."""
_TRACE_NODES = 256
"""Lengths at which mean times through a trace are computed where more are asked for; others are interpolated."""


class Uplink(Protocol):
    """Sends messages."""

    @property
    def rate_bps(self) -> float:
        """Bits per second of a long message, retransmissions included."""

    def mean_s(self, bits: Floats | float) -> Floats:
        """Mean time of messages of `bits` >= 0."""

    def service(self, bits: float) -> ServiceTime:
        """Law of the time of one message; nothing to send takes no time."""

    def describe(self) -> str:
        """What it is, for the assumptions."""


@dataclass(frozen=True, kw_only=True)
class AwgnUplink:
    """Additive white Gaussian noise at the Shannon rate W log2(1 + SNR), for short messages too [P, THEORY 2.8].

    Args:
        bandwidth_hz: W > 0.
        snr: linear signal-to-noise ratio > 0.

    >>> AwgnUplink(bandwidth_hz=10e6, snr=1.0).rate_bps
    10000000.0
    """

    bandwidth_hz: float
    snr: float

    @property
    def rate_bps(self) -> float:
        """W log2(1 + SNR), bit/s."""
        return self.bandwidth_hz * math.log1p(self.snr) / math.log(2)

    def mean_s(self, bits: Floats | float) -> Floats:
        """Bits over the rate."""
        return np.asarray(bits) / self.rate_bps

    def service(self, bits: float) -> ServiceTime:
        """Always the same."""
        return Fixed(bits / self.rate_bps)

    def describe(self) -> str:
        """Formula."""
        return "AWGN at the Shannon rate W log2(1 + SNR), for short messages too [P]"


@dataclass(frozen=True, kw_only=True)
class RetransmissionUplink:
    """Block fading, one fixed rate, retransmitted over independent fades until a block carries it [N, THEORY 8].

    A message is one block: it takes bits / (W R) an attempt, and 1/(1 - outage) attempts on average. That an attempt
    failed is known at no cost.

    Args:
        bandwidth_hz: W > 0.
        fading: law of the SNR of a block.
        rate: R > 0 in bit/s/Hz; None takes the one of the largest goodput.
    """

    bandwidth_hz: float
    fading: Fading
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and not 1e-9 <= self.rate <= 64:
            raise InputError(f"--fixed-rate {self.rate!r} is not allowed; give bit/s/Hz, between 1e-9 and 64")
        if self.success < _LEAST_SUCCESS:
            raise InputError(
                f"--fixed-rate {self.chosen_rate!r} bit/s/Hz gets through in fewer than one of {1 / _LEAST_SUCCESS:g} "
                "attempts at this SNR; give a lower rate"
            )

    @cached_property
    def chosen_rate(self) -> float:
        """R in use, bit/s/Hz."""
        return best_fixed_rate(self.fading) if self.rate is None else self.rate

    def rates_missing(self, share: float) -> list[float]:
        """Rates at which a message needs more than 1, 2, .. attempts with probability `share` in (0, 1).

        Between them a message takes as many attempts, each shorter at a higher rate.
        """
        outages = [share ** (1 / attempts) for attempts in range(1, _ATTEMPTS + 1)]
        snrs = [self.fading.quantile(outage) for outage in outages if outage < 1 - 2 * _LEAST_SUCCESS]
        return [math.log1p(snr) / math.log(2) for snr in snrs]

    @cached_property
    def success(self) -> float:
        """Probability that an attempt succeeds."""
        return success_probability(self.fading, self.chosen_rate)

    @property
    def rate_bps(self) -> float:
        """Goodput W R (1 - outage)."""
        return self.bandwidth_hz * self.chosen_rate * self.success

    def mean_s(self, bits: Floats | float) -> Floats:
        """Bits over the goodput."""
        return np.asarray(bits) / self.rate_bps

    def service(self, bits: float) -> ServiceTime:
        """A geometric number of attempts."""
        if bits == 0:
            return Fixed(0.0)
        return Attempts(bits / (self.bandwidth_hz * self.chosen_rate), self.success)

    def describe(self) -> str:
        """Rate and outage."""
        return (
            f"{self.fading.describe()} block fading, fixed rate {self.chosen_rate:.4g} bit/s/Hz, outage "
            f"{1 - self.success:.4g}, retransmitted over independent fades until received; feedback is free and "
            "instantaneous"
        )


@dataclass(frozen=True, kw_only=True)
class ErgodicUplink:
    """Block fading, coded over so many blocks that every message sees their mean capacity E[log2(1 + SNR)] [P]."""

    bandwidth_hz: float
    fading: Fading

    @cached_property
    def rate_bps(self) -> float:
        """W times the ergodic capacity."""
        return self.bandwidth_hz * ergodic_capacity(self.fading)

    def mean_s(self, bits: Floats | float) -> Floats:
        """Bits over the rate."""
        return np.asarray(bits) / self.rate_bps

    def service(self, bits: float) -> ServiceTime:
        """Always the same."""
        return Fixed(bits / self.rate_bps)

    def describe(self) -> str:
        """Capacity."""
        kind = self.fading.describe()
        return f"{kind} block fading at the ergodic capacity: every message spans many independent blocks"


@dataclass(frozen=True, kw_only=True)
class InstantaneousUplink:
    """Block fading, each message within one block at the rate W log2(1 + SNR) of that block.

    Raises:
        InputError: the mean time is infinite: the density of the SNR at 0 does not fall fast enough
            [N, derivations/fading_divergence.py].
    """

    bandwidth_hz: float
    fading: Fading

    def __post_init__(self) -> None:
        if self.fading.diverges:
            raise InputError(
                f"--coding 'instantaneous' is not allowed with {self.fading.describe()} fading: deep fades are so "
                "frequent that the mean of bits/(W log2(1 + SNR)) is infinite; use fixed-rate or ergodic"
            )

    @cached_property
    def _mean_inverse(self) -> float:
        """E[1/log2(1 + SNR)]."""
        from scipy.integrate import quad

        def integrand(probability: float) -> float:
            return math.log(2) / math.log1p(self.fading.quantile(probability))

        # The integrand grows towards 0, as a power of the probability above -1: p = z^4 takes that away.
        # full_output: near m = 1 quad doubts the convergence that is proved, and would say so on stderr.
        found = quad(lambda z: 4 * z**3 * integrand(z**4), 0.0, 1.0, epsabs=0.0, epsrel=1e-9, limit=500, full_output=1)
        return float(found[0])

    @property
    def rate_bps(self) -> float:
        """Harmonic mean of the rate."""
        return self.bandwidth_hz / self._mean_inverse

    def mean_s(self, bits: Floats | float) -> Floats:
        """Bits over the harmonic mean."""
        return np.asarray(bits) / self.rate_bps

    def service(self, bits: float) -> ServiceTime:
        """Bits over the rate of one block."""
        return Fixed(0.0) if bits == 0 else _OneBlock(bits / self.bandwidth_hz, self.fading, float(self.mean_s(bits)))

    def describe(self) -> str:
        """Within one block."""
        return f"{self.fading.describe()} block fading, each message within one block at that block's Shannon rate"


@dataclass(frozen=True)
class _OneBlock:
    """Law of (bits/W) / log2(1 + SNR)."""

    uses: float
    fading: Fading
    mean_s: float

    def cdf(self, seconds: Floats | float) -> Floats:
        """P(SNR >= 2^(uses/seconds) - 1)."""
        at = np.asarray(seconds, dtype=np.float64)
        exponent = np.divide(self.uses, at, out=np.full(at.shape, 1100.0), where=at > self.uses / 1000)
        return np.asarray(
            np.where(exponent < 1000, 1.0 - self.fading.outage(np.exp2(np.minimum(exponent, 1000)) - 1), 0.0)
        )

    def quantile(self, probability: float) -> float:
        """At the SNR that a block passes with `probability`."""
        return self.uses * math.log(2) / math.log1p(self.fading.quantile(1.0 - probability))

    def sample(self, rng: np.random.Generator, size: int) -> Floats:
        """One block each."""
        return np.asarray(self.uses / np.log2(1.0 + self.fading.sample(rng, size)))

    def atoms(self) -> tuple[Floats, Floats]:
        """Cells of equal probability."""
        return cells(self)


@dataclass(frozen=True, kw_only=True)
class ShortPacketUplink:
    """AWGN at finite block length: the normal approximation with a target block error, retransmitted on error.

    Polyanskiy, Poor, Verdu, "Channel Coding Rate in the Finite Blocklength Regime", 2010: N complex uses carry
    N log2(1 + SNR) - sqrt(N V) Q^-1(e) + log2(2N)/2 bits, V = (1 - (1 + SNR)^-2) (log2 e)^2. A message is one packet.

    Args:
        bandwidth_hz: W > 0, complex uses per second.
        snr: linear signal-to-noise ratio > 0.
        block_error: e in (0, 1/2].
    """

    bandwidth_hz: float
    snr: float
    block_error: float = BLOCK_ERROR

    def __post_init__(self) -> None:
        if not 0 < self.block_error <= 0.5:
            raise InputError(f"--block-error {self.block_error!r} is not allowed; give a number in (0, 0.5]")

    def bits_within(self, uses: Floats | float) -> Floats:
        """Bits that N complex uses carry at the target block error."""
        n = np.asarray(uses, dtype=np.float64)
        capacity = math.log1p(self.snr) / math.log(2)
        return n * capacity - np.sqrt(n * self._dispersion) * self._back_off + 0.5 * np.log2(2 * n)

    def uses(self, bits: Floats | float) -> Floats:
        """Fewest whole uses from which on the approximation carries `bits`; 0 for nothing."""
        wanted = np.asarray(bits, dtype=np.float64)
        # As a function of N it may rise, fall and rise again; the last rise begins where the derivative has its root.
        capacity = math.log1p(self.snr) / math.log(2)
        slope, curve = 0.5 * math.sqrt(self._dispersion) * self._back_off, 0.5 / math.log(2)
        root = slope**2 - 4 * curve * capacity
        start = 1.0 if root < 0 else max(1.0, (2 * curve / (slope - math.sqrt(root))) ** 2) if slope > 0 else 1.0
        low = np.full(wanted.shape, math.ceil(start) - 1.0)
        high = np.full(wanted.shape, math.ceil(start) + 1.0)
        while np.any(short := self.bits_within(high) < wanted):
            high = np.where(short, 2 * high, high)
        for _ in range(int(math.log2(float(np.max(high, initial=2.0)))) + 2):
            middle = np.floor((low + high) / 2)
            enough = (self.bits_within(np.maximum(middle, 1.0)) >= wanted) & (middle > low)
            high, low = np.where(enough, middle, high), np.where(enough, low, middle)
        return np.asarray(np.where(wanted > 0, high, 0.0))

    @property
    def rate_bps(self) -> float:
        """The limit for long messages, W log2(1 + SNR) (1 - e)."""
        return self.bandwidth_hz * math.log1p(self.snr) / math.log(2) * (1 - self.block_error)

    def mean_s(self, bits: Floats | float) -> Floats:
        """Uses over the bandwidth, over 1 - e."""
        return self.uses(bits) / (self.bandwidth_hz * (1 - self.block_error))

    def service(self, bits: float) -> ServiceTime:
        """A geometric number of packets."""
        return Fixed(0.0) if bits == 0 else Attempts(float(self.uses(bits)) / self.bandwidth_hz, 1 - self.block_error)

    def describe(self) -> str:
        """Approximation and target."""
        return (
            f"AWGN, short packets by the normal approximation at block error {self.block_error:g}, retransmitted until "
            "received; feedback is free and instantaneous"
        )

    @cached_property
    def _dispersion(self) -> float:
        return (1 - (1 + self.snr) ** -2) / math.log(2) ** 2

    @cached_property
    def _back_off(self) -> float:
        return -NormalDist().inv_cdf(self.block_error)


@dataclass(frozen=True, kw_only=True)
class TraceUplink:
    """A measured trace, drained as a fluid from a random moment.

    Args:
        trace: times and rates.
        rows: the rates during which messages start; None starts at any moment.
    """

    trace: Trace
    rows: tuple[int, ...] | None = None

    @property
    def rate_bps(self) -> float:
        """Mean rate."""
        return self.trace.mean_rate_bps

    def mean_s(self, bits: Floats | float) -> Floats:
        """Mean over the moments of the start."""
        if np.size(bits) == 0:
            return np.zeros(np.shape(bits))
        wanted, place = np.unique(np.asarray(bits, dtype=np.float64), return_inverse=True)
        nodes = wanted
        if len(wanted) > _TRACE_NODES:
            least = max(float(wanted[0]), 1.0)
            nodes = np.unique(np.concatenate([wanted[:1], np.geomspace(least, wanted[-1], _TRACE_NODES)]))
        means = np.array([self.service(float(each)).mean_s for each in nodes])
        return np.asarray(np.interp(wanted, nodes, means)[place].reshape(np.shape(bits)))

    def service(self, bits: float) -> ServiceTime:
        """Mixture over the moments of the start."""
        law: PiecewiseUniform | Fixed = Fixed(0.0) if bits == 0 else self.trace.service(bits, self.rows)
        return law

    def describe(self) -> str:
        """How it is used."""
        return (
            f"measured trace of {len(self.trace.rates_bps)} rates over {self.trace.length_s:g} s, drained as a fluid; "
            "it repeats, and messages start at random moments"
        )


@dataclass(frozen=True, kw_only=True)
class Link:
    """An uplink with its surroundings; what is zero is zero by choice.

    Args:
        uplink: the channel of the messages.
        rtt_s: round trip in seconds.
        downlink_s: time of one token on the downlink in seconds.
        overhead_bits: header of every message.
    """

    uplink: Uplink
    rtt_s: float = 0.0
    downlink_s: float = 0.0
    overhead_bits: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("--rtt", self.rtt_s), ("--downlink", self.downlink_s), ("--overhead", self.overhead_bits)):
            if not math.isfinite(value) or value < 0:
                raise InputError(f"{name} {value!r} is not allowed; give a finite number >= 0")

    def mean_uplink_s(self, bits: Floats | float) -> Floats:
        """Mean time of messages of `bits` and their headers."""
        return self.uplink.mean_s(np.asarray(bits) + self.overhead_bits)

    def service(self, bits: float) -> ServiceTime:
        """Law of the time of one message and its header."""
        return self.uplink.service(bits + self.overhead_bits)
