"""Uncertainty signals of a draft: what a device can read of its law x, each in [0, 1], larger where less is certain.

A gate compares a signal with a threshold, so that only the order of its values matters to what is skipped; the form
matters to a line fitted on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.distributions import Law
from cuhlm_opt.uncertainty import SAMPLES, mean_uncertainty, sampled_uncertainty

_Floats = NDArray[np.float64]


class Signal(StrEnum):
    """What the device measures about its draft."""

    U_BAR = "u_bar"
    """The integral over temperatures, a function of the logits and the draft [N, THEORY 4.2]."""
    U_MC = "u_mc"
    """The sampled uncertainty, as many samples as the records have [P]; 20 unless they say otherwise [P2]."""
    U_MC_5 = "u_mc_5"
    """The same with 5 samples."""
    U_MC_100 = "u_mc_100"
    """The same with 100 samples."""
    X_D = "x_d"
    """1 - x_d, from the draft's probability."""
    P_MAX = "p_max"
    """1 - max x."""
    MARGIN = "margin"
    """1 - (largest - second largest of x)."""
    ENTROPY = "entropy"
    """h/(1 + h), h the entropy of x in nats."""
    COMBINED = "combined"
    """A logistic combination of u_bar, x_d, p_max, margin and entropy, learned on some of the prompts."""

    @property
    def samples(self) -> int | None:
        """How often the sampled uncertainty is sampled, where the name says so."""
        return {Signal.U_MC_5: 5, Signal.U_MC_100: 100}.get(self)

    @property
    def is_sampled(self) -> bool:
        """Whether it is random given the logits and the draft."""
        return self in (Signal.U_MC, Signal.U_MC_5, Signal.U_MC_100)


class Features:
    """What signals are made of, for n positions; all of shape (n,)."""

    u_bar: _Floats
    x_d: _Floats
    p_max: _Floats
    margin: _Floats
    entropy: _Floats
    """Nats."""

    def of(self, signal: Signal, weights: Sequence[float] = ()) -> _Floats:
        """A signal that is a function of these, shape (n,), in [0, 1]; `weights` are those of `COMBINED`."""
        match signal:
            case Signal.U_BAR:
                return self.u_bar
            case Signal.X_D:
                return 1.0 - self.x_d
            case Signal.P_MAX:
                return 1.0 - self.p_max
            case Signal.MARGIN:
                return 1.0 - self.margin
            case Signal.ENTROPY:
                return self.entropy / (1.0 + self.entropy)
            case Signal.COMBINED:
                return logistic(self.design @ np.asarray(weights, dtype=np.float64))
        raise ValueError(f"{signal} is drawn at random, not a function of the features")

    @property
    def design(self) -> _Floats:
        """Regressors of the combination: 1, the five signals, and their squares, shape (n, 11)."""
        signals = (Signal.U_BAR, Signal.X_D, Signal.P_MAX, Signal.MARGIN, Signal.ENTROPY)
        columns = np.column_stack([self.of(signal) for signal in signals])
        return np.column_stack([np.ones(len(columns)), columns, columns**2])


@dataclass(frozen=True, kw_only=True)
class RecordedFeatures(Features):
    """Features that are known."""

    u_bar: _Floats
    x_d: _Floats
    p_max: _Floats
    margin: _Floats
    entropy: _Floats


@dataclass(frozen=True)
class StepFeatures(Features):
    """Features of one step, each computed when it is read; shape (1,)."""

    logits: Law
    x: Law
    token: int

    @cached_property
    def u_bar(self) -> _Floats:  # type: ignore[override]
        """Integral uncertainty of the draft."""
        return mean_uncertainty(self.logits, np.array([self.token]))

    @cached_property
    def x_d(self) -> _Floats:  # type: ignore[override]
        """Probability of the draft."""
        return np.array([self.x[self.token]], dtype=np.float64)

    @cached_property
    def p_max(self) -> _Floats:  # type: ignore[override]
        """Largest probability."""
        return np.array([self.x.max()], dtype=np.float64)

    @cached_property
    def margin(self) -> _Floats:  # type: ignore[override]
        """Largest minus second largest probability."""
        second, first = np.partition(self.x, len(self.x) - 2)[-2:]
        return np.array([first - second], dtype=np.float64)

    @cached_property
    def entropy(self) -> _Floats:  # type: ignore[override]
        """Entropy of x, nats."""
        own = self.x[self.x > 0]
        return np.array([-np.sum(own * np.log(own), dtype=np.float64)])


def read_signal(
    signal: Signal, weights: Sequence[float], logits: Law, x: Law, token: int, rng: np.random.Generator
) -> float:
    """A signal of the draft `token`, as a device reads it at one step, in [0, 1].

    Args:
        signal: which; only what it is made of is computed.
        weights: of `Signal.COMBINED`.
        logits: shape (|V|,).
        x: the law that the draft was drawn from, shape (|V|,).
        token: the draft.
        rng: of the sampled signals.
    """
    if signal.is_sampled:
        return sampled_uncertainty(logits, token, rng, signal.samples or SAMPLES)
    return float(StepFeatures(logits, x, token).of(signal, weights)[0])


def logistic(values: _Floats) -> _Floats:
    """1/(1 + exp(-v)), without overflow.

    >>> logistic(np.array([0.0, 1000.0])).tolist()
    [0.5, 1.0]
    """
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)), dtype=np.float64)


def resampled(u_bar: _Floats, samples: int, rng: np.random.Generator) -> _Floats:
    """Sampled uncertainty given its integral: M u ~ Binomial(M, u_bar) for independent temperatures [N, THEORY 4.2].

    Given the logits and the draft d, each of the M indicators 1[d_m != d] has mean u_bar over its own temperature,
    independently of the others: the law is the published one, whatever M, without another pass over the logits.
    """
    return np.asarray(rng.binomial(samples, np.clip(u_bar, 0.0, 1.0)) / samples, dtype=np.float64)
