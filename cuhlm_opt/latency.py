"""Time per token of each mode, one draft a round, no pipelining (the mode table of THEORY 3), under one accounting."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.channel import AwgnChannel
from cuhlm_opt.errors import InputError
from cuhlm_opt.modes import Mode


class Accounting(StrEnum):
    """How latencies of single tokens become one throughput. The two are never mixed."""

    MEAN_LATENCY = "mean-latency"
    """1 / E[latency]: tokens per second of a long answer."""
    MEAN_RATE = "mean-rate"
    """E[1 / latency]: the mean over tokens of each token's own rate; at least 1 / E[latency], by Jensen."""


@dataclass(frozen=True, kw_only=True)
class ComputeTimes:
    """Measured compute times in seconds.

    Args:
        slm_s: one SLM step.
        gate_s: the uncertainty and what else decides whether to skip.
        llm_pass_s: LLM pass over n tokens, for each measured n; interpolated between them, extrapolated beyond.
    """

    slm_s: float
    gate_s: float
    llm_pass_s: Mapping[int, float]

    def __post_init__(self) -> None:
        times = [self.slm_s, self.gate_s, *self.llm_pass_s.values()]
        if not self.llm_pass_s or not all(np.isfinite(t) and t >= 0 for t in times):
            raise InputError(f"compute times {times} are not allowed; give finite seconds >= 0, one LLM pass at least")

    def llm_s(self, n: float) -> float:
        """Time of one LLM pass over n >= 1 tokens, piecewise linear in n."""
        sizes = np.array(sorted(self.llm_pass_s), dtype=float)
        times = np.array([self.llm_pass_s[int(size)] for size in sizes])
        if n > sizes[-1] and len(sizes) > 1:
            slope = (times[-1] - times[-2]) / (sizes[-1] - sizes[-2])
            return float(times[-1] + max(slope, 0.0) * (n - sizes[-1]))
        return float(np.interp(n, sizes, times))

    def llm_per_token_s(self, skip_rate: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """(1 - p) E[tau_llm(n)], LLM time per token in seconds at each skip rate p in [0, 1].

        A pass catches up: n - 1 skipped tokens and the one asked for, n >= 1 geometric of success probability 1 - p, as
        skips are taken as independent from token to token. tau_llm is piecewise linear, tau_llm(n) = tau_llm(1) +
        sum_j c_j (n - m_j)+ with c_j the change of slope at m_j, and E[(n - m)+] = p^m / (1 - p).
        """
        sizes = np.array(sorted({1, *self.llm_pass_s}), dtype=np.float64)
        slopes = np.diff([self.llm_s(size) for size in (*sizes, sizes[-1] + 1.0)]) / np.append(np.diff(sizes), 1.0)
        p = np.asarray(skip_rate, dtype=np.float64)
        catching_up = np.power.outer(p, sizes) @ np.diff(slopes, prepend=0.0)
        return np.asarray((1.0 - p) * self.llm_s(1) + catching_up)


@dataclass(frozen=True, kw_only=True)
class TokenTime:
    """Time per token of a mode: a share `skip_rate` of tokens takes `skipped_s`, the others `asked_s`.

    The time of a share that is empty is nan and enters nothing.
    """

    skip_rate: float
    skipped_s: float
    asked_s: float

    @property
    def mean_s(self) -> float:
        """Mean latency per token in seconds."""
        asked = (1 - self.skip_rate) * self.asked_s if self.skip_rate < 1 else 0.0
        skipped = self.skip_rate * self.skipped_s if self.skip_rate > 0 else 0.0
        return skipped + asked

    def throughput(self, accounting: Accounting) -> float:
        """Tokens per second under `accounting`."""
        if accounting is Accounting.MEAN_LATENCY:
            return _rate(self.mean_s)
        asked = (1 - self.skip_rate) * _rate(self.asked_s) if self.skip_rate < 1 else 0.0
        skipped = self.skip_rate * _rate(self.skipped_s) if self.skip_rate > 0 else 0.0
        return skipped + asked


def _rate(time_s: float) -> float:
    return 1.0 / time_s if time_s > 0 else float("inf")


def token_time(
    mode: Mode,
    times: ComputeTimes,
    channel: AwgnChannel,
    *,
    payload_bits: float,
    skip_rate: float,
    answer_tokens: int,
) -> TokenTime:
    """Time per token of `mode` [N, the mode table of THEORY 3].

    Args:
        mode: decoding mode.
        times: measured compute times.
        channel: uplink, with its round trip and downlink.
        payload_bits: mean bits of one upload (of the tokens that ask).
        skip_rate: share of tokens that are kept without asking, in [0, 1].
        answer_tokens: T, over which `llm` spreads its one round trip.
    """
    if mode is Mode.SLM:
        return TokenTime(skip_rate=1.0, skipped_s=times.slm_s, asked_s=float("nan"))
    if mode is Mode.LLM:
        per_token = times.llm_s(1) + channel.downlink_s + channel.rtt_s / answer_tokens
        return TokenTime(skip_rate=0.0, skipped_s=float("nan"), asked_s=per_token)
    device = times.slm_s + (times.gate_s if mode.skips else 0.0)
    link = channel.uplink_s(payload_bits) + channel.rtt_s + channel.downlink_s
    asking = 1.0 - skip_rate
    pass_s = float(times.llm_per_token_s(skip_rate)) / asking if asking > 0 else float("nan")
    return TokenTime(skip_rate=skip_rate, skipped_s=device, asked_s=device + link + pass_s)


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
    return _rate((1 - skip_rate) * payload_ratio)
