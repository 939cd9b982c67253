"""Latency of a token as a law: one draft a round (the mode table of THEORY 3) [N].

A token is kept, which takes the device's time, or asks, which adds the time of its message on the uplink, the round
trip, the LLM's pass over the tokens that were skipped and this one, and the downlink. How long the runs of skipped
tokens are comes from the recorded answers, position by position: skips are not taken as independent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.channel import Link
from cuhlm_opt.channel_states import state_links
from cuhlm_opt.errors import InputError
from cuhlm_opt.modes import Mode
from cuhlm_opt.service import ServiceTime

Floats = NDArray[np.float64]


class Accounting(StrEnum):
    """How latencies of single tokens become one throughput. The two are never mixed."""

    MEAN_LATENCY = "mean-latency"
    """1 / E[latency]: tokens per second of a long answer."""
    MEAN_RATE = "mean-rate"
    """E[1 / latency]: the mean over tokens of each token's own rate; at least 1 / E[latency], by Jensen."""


class Pipelining(StrEnum):
    """What the LLM does between two messages: sums of times become maxima [N, THEORY 7.4]."""

    NONE = "none"
    """It waits: the variant that is decoded."""
    EAGER = "eager"
    """From each verdict it reads the token that it has fixed, in case the next one asks; in vain where that is kept."""


@dataclass(frozen=True, kw_only=True)
class ComputeTimes:
    """Measured compute times in seconds.

    Args:
        slm_s: one SLM step.
        gate_s: the uncertainty and what else decides whether to skip.
        llm_pass_s: LLM pass over n tokens, for each measured n; interpolated between them, extrapolated beyond.
        pipelining: when the LLM reads what.
    """

    slm_s: float
    gate_s: float
    llm_pass_s: Mapping[int, float]
    pipelining: Pipelining = Pipelining.NONE

    def __post_init__(self) -> None:
        times = [self.slm_s, self.gate_s, *self.llm_pass_s.values()]
        if not self.llm_pass_s or not all(np.isfinite(t) and t >= 0 for t in times):
            raise InputError(f"compute times {times} are not allowed; give finite seconds >= 0, one LLM pass at least")

    def device_s(self, mode: Mode) -> float:
        """Time of the device at each token: a step of the SLM, and the gate where there is one."""
        return self.slm_s + (self.gate_s if mode.skips else 0.0)

    def llm_s(self, n: Floats | float) -> Floats:
        """Time of one LLM pass over n >= 1 tokens, piecewise linear in n."""
        sizes = np.array(sorted(self.llm_pass_s), dtype=float)
        times = np.array([self.llm_pass_s[int(size)] for size in sizes])
        slope = (times[-1] - times[-2]) / (sizes[-1] - sizes[-2]) if len(sizes) > 1 else 0.0
        beyond = np.maximum(np.asarray(n, dtype=float) - sizes[-1], 0.0)
        return np.asarray(np.interp(n, sizes, times) + max(slope, 0.0) * beyond)

    def pass_s(self, n: Floats) -> Floats:
        """LLM's time from a message to its verdict, where the message is the n-th token since the last verdict."""
        if self.pipelining is Pipelining.NONE:
            return self.llm_s(n)
        return np.where(n > 1, self.llm_s(np.maximum(n - 1, 1.0)), 0.0)

    def busy_s(self, n: Floats, device_s: float) -> Floats:
        """How long after the (n-1)-th token since the last verdict the LLM is still reading what that fixed."""
        if self.pipelining is Pipelining.NONE:
            return np.zeros(len(n))
        return np.maximum(self.llm_s(1.0) - (n - 1) * device_s, 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Asks:
    """The tokens that ask: what they send, and how many tokens the LLM then reads.

    Args:
        bits: length of the message of each class, shape (C,).
        weights: probability that a token asks with a message of class c after n - 1 skipped tokens, shape (C, L),
            n = 1 .. L; the sum is 1 - skip rate.
        states: state of the channel in which each class is sent, shape (C,); None where none is known before.
        together: whether the tokens that do not ask come with one that does, so that none is skipped.
    """

    bits: Floats
    weights: Floats
    states: NDArray[np.intp] | None = None
    together: bool = False

    @classmethod
    def always(cls, bits: float) -> "Asks":
        """Every token asks with a message of `bits`.

        >>> Asks.always(26.0).mean_bits
        26.0
        """
        return cls(bits=np.array([bits]), weights=np.ones((1, 1)))

    @classmethod
    def never(cls) -> "Asks":
        """No token asks."""
        return cls(bits=np.zeros(1), weights=np.zeros((1, 1)))

    @cached_property
    def rate(self) -> float:
        """Share of tokens that ask: LLM passes per token."""
        return float(self.weights.sum())

    @property
    def skip_rate(self) -> float:
        """Share of tokens kept without asking."""
        return 0.0 if self.together else 1.0 - self.rate

    @property
    def mean_bits(self) -> float:
        """Mean bits of a message; 0 where none is sent."""
        return float(self.bits @ self.weights.sum(axis=1)) / self.rate if self.rate > 0 else 0.0

    def scaled(self, skip_rate: float) -> "Asks":
        """The same messages and runs at another skip rate; where no token asks, still none."""
        factor = (1.0 - skip_rate) / self.rate if self.rate > 0 else 0.0
        return replace(self, weights=self.weights * factor)


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenLaw:
    """Law of the latency of one token.

    Args:
        skipped_s: time of a token that is kept.
        asked_s: time of one that asks, without its message and the LLM's pass.
        pass_s: LLM's time on the n-th token since the last verdict, n = 1 .. L, shape (L,).
        busy_s: the least time of such a token before that, shape (L,): until then the LLM is busy.
        asks: the tokens that ask.
        link: carries their messages; None sends none.
    """

    skipped_s: float
    asked_s: float
    pass_s: Floats
    busy_s: Floats
    asks: Asks
    link: Link | None

    @cached_property
    def mean_s(self) -> float:
        """Mean in seconds."""
        weights = self.asks.weights
        kept = (1.0 - self.asks.rate) * self.skipped_s if self.asks.rate < 1 else 0.0
        asked = self.asks.rate * (self.asked_s + self.uplink_s)
        return kept + asked + float(weights.sum(axis=0) @ self.pass_s) + self._waiting_s

    @property
    def _waiting_s(self) -> float:
        """Mean time that messages wait for the LLM, E[(busy - arrival)+] over all tokens."""
        left = self.busy_s - self.asked_s
        if not np.any(left > 0):
            return 0.0
        services = self._atoms or [(np.zeros(1), np.ones(1))]
        waits = [masses @ np.maximum(left - seconds[:, None], 0.0) for seconds, masses in services]
        return float(np.sum(self.asks.weights * np.array(waits)))

    @property
    def passes(self) -> float:
        """LLM passes per token; one more for each message that did not follow at once, where the LLM reads ahead."""
        ahead = self.asks.weights[:, 1:].sum() if np.any(self.busy_s > 0) else 0.0
        return self.asks.rate + float(ahead)

    @property
    def uplink_bps(self) -> float:
        """Mean rate of uploaded bits, headers included."""
        if self.link is None or self.mean_s == 0:
            return 0.0
        return self.asks.rate * (self.asks.mean_bits + self.link.overhead_bits) / self.mean_s

    @property
    def uplink_s(self) -> float:
        """Mean time of a message; 0 where none is sent."""
        if self.link is None or self.asks.rate == 0:
            return 0.0
        asks, sent_s = self.asks, np.empty(len(self.asks.bits))
        for link, classes in self._links(self.link):
            sent_s[classes] = link.mean_uplink_s(asks.bits[classes])
        return float(asks.weights.sum(axis=1) @ sent_s) / asks.rate

    def _links(self, link: Link) -> list[tuple[Link, NDArray[np.intp]]]:
        """The link in each state of the channel that classes are sent in, and those classes."""
        states = self.asks.states
        if states is None:
            return [(link, np.arange(len(self.asks.bits)))]
        return [(each, np.flatnonzero(states == state)) for state, each in enumerate(state_links(link))]

    @cached_property
    def atoms(self) -> tuple[Floats, Floats]:
        """Seconds in increasing order and their probabilities, which sum to 1."""
        seconds, weights = [np.array([self.skipped_s])], [np.array([1.0 - self.asks.rate])]
        for n in range(len(self.pass_s)):
            at, mass = self._asked(n)
            seconds.append(at)
            weights.append(mass)
        joined, masses = np.concatenate(seconds), np.concatenate(weights)
        joined, masses = joined[masses > 0], masses[masses > 0]
        order = np.argsort(joined)
        return joined[order], masses[order]

    def cdf(self, seconds: float) -> float:
        """Probability that a token is done within `seconds`."""
        reached = (1.0 - self.asks.rate) * float(seconds >= self.skipped_s)
        left = seconds - self.asked_s - self.pass_s
        weights = self.asks.weights
        weights = weights * (seconds * (1 + 1e-12) >= self.busy_s + self.pass_s)
        if self.link is None:
            return reached + float(weights.sum(axis=0) @ (left >= 0))
        # A time that is only just enough must not be lost to rounding.
        shares = (law.cdf(left * (1 + 1e-12) + 1e-15) for law in self._services)
        return reached + float(sum(row @ share for row, share in zip(weights, shares, strict=True)))

    def quantile(self, probability: float) -> float:
        """Least time within which a token is done with `probability`, by bisection."""
        if self.asks.rate <= 1.0 - probability:
            return self.skipped_s
        low, high = 0.0, max(self.mean_s, 1e-9)
        while self.cdf(high) < probability * (1 - 1e-12):
            low, high = high, 2 * high
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if self.cdf(middle) >= probability * (1 - 1e-12) else (middle, high)
        return high

    def throughput(self, accounting: Accounting) -> float:
        """Tokens per second under `accounting`; infinite where tokens take no time."""
        if accounting is Accounting.MEAN_LATENCY:
            return 1.0 / self.mean_s if self.mean_s > 0 else float("inf")
        seconds, weights = self.atoms
        return float(weights @ (1.0 / seconds)) if seconds[0] > 0 else float("inf")

    def _asked(self, n: int) -> tuple[Floats, Floats]:
        """Atoms of the tokens that ask after n skipped ones, with their probabilities."""
        base, least, weights = self.asked_s + self.pass_s[n], self.busy_s[n] + self.pass_s[n], self.asks.weights[:, n]
        if self.link is None:
            return np.array([max(base, least)]), np.array([weights.sum()])
        services = [atoms for atoms, weight in zip(self._atoms, weights, strict=True) if weight > 0]
        used = weights[weights > 0]
        if not services:
            return np.empty(0), np.empty(0)
        seconds = np.concatenate([times for times, _ in services])
        masses = np.concatenate([weight * shares for weight, (_, shares) in zip(used, services, strict=True)])
        return np.maximum(base + seconds, least), masses

    @cached_property
    def _services(self) -> list[ServiceTime]:
        """Law of the message of each class."""
        if self.link is None:
            return []
        laws = {int(c): link.service(float(self.asks.bits[c])) for link, at in self._links(self.link) for c in at}
        return [laws[c] for c in range(len(laws))]

    @cached_property
    def _atoms(self) -> list[tuple[Floats, Floats]]:
        return [law.atoms() for law in self._services]


def token_law(mode: Mode, times: ComputeTimes, link: Link, asks: Asks, answer_tokens: int) -> TokenLaw:
    """Law of the latency of a token of `mode` [N, the mode table of THEORY 3].

    Args:
        mode: decoding mode.
        times: measured compute times.
        link: uplink, with its round trip and downlink.
        asks: the tokens that ask.
        answer_tokens: T, over which `llm` spreads its one round trip.
    """
    n = np.arange(1, asks.weights.shape[1] + 1.0)
    if mode is Mode.LLM:
        streamed, passes = link.downlink_s + link.rtt_s / answer_tokens, times.llm_s(n)
        return TokenLaw(skipped_s=0.0, asked_s=streamed, pass_s=passes, busy_s=np.zeros(len(n)), asks=asks, link=None)
    device = times.device_s(mode)
    asked, busy = device + link.rtt_s + link.downlink_s, times.busy_s(n, device)
    return TokenLaw(skipped_s=device, asked_s=asked, pass_s=times.pass_s(n), busy_s=busy, asks=asks, link=link)


def speedup_cap(skip_rate: float, payload_ratio: float) -> float:
    """1/((1 - p) ratio): the throughput over HLM that skipping and compression can at most give [N, THEORY 3].

    Under mean-latency accounting, for a skip rate and a payload that do not depend on the channel; approached as the
    uplink dominates. Infinite where nothing is sent.

    Args:
        skip_rate: p, share of tokens kept without asking, in [0, 1].
        payload_ratio: bits of an upload over the bits of one of HLM, in [0, 1].

    >>> round(speedup_cap(0.748, 0.026), 1)
    152.6
    """
    left = (1 - skip_rate) * payload_ratio
    return 1.0 / left if left > 0 else float("inf")
