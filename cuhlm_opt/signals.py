"""Uncertainty signals of a draft: what a device can read of its law x, each in [0, 1], larger where less is certain.

A gate compares a signal with a threshold, so that only the order of its values matters to what is skipped; the form
matters to a line fitted on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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


_COMBINED_OF = (Signal.U_BAR, Signal.X_D, Signal.P_MAX, Signal.MARGIN, Signal.ENTROPY)
REGRESSORS = 1 + 2 * len(_COMBINED_OF)
"""Weights of the combination."""


class Features(Protocol):
    """What signals are made of, for n positions; all of shape (n,)."""

    @property
    def u_bar(self) -> _Floats:
        """Integral uncertainty of the draft."""

    @property
    def x_d(self) -> _Floats:
        """Probability of the draft."""

    @property
    def p_max(self) -> _Floats:
        """Largest probability."""

    @property
    def margin(self) -> _Floats:
        """Largest minus second largest probability."""

    @property
    def entropy(self) -> _Floats:
        """Entropy of x, nats."""


@dataclass(frozen=True, kw_only=True)
class RecordedFeatures:
    """Features that are known."""

    u_bar: _Floats
    x_d: _Floats
    p_max: _Floats
    margin: _Floats
    entropy: _Floats


def value_of(signal: Signal, features: Features, weights: Sequence[float] = ()) -> _Floats:
    """A signal that is a function of the features, shape (n,), in [0, 1]; `weights` are those of `COMBINED`."""
    match signal:
        case Signal.U_BAR:
            return features.u_bar
        case Signal.X_D:
            return 1.0 - features.x_d
        case Signal.P_MAX:
            return 1.0 - features.p_max
        case Signal.MARGIN:
            return 1.0 - features.margin
        case Signal.ENTROPY:
            return features.entropy / (1.0 + features.entropy)
        case Signal.COMBINED:
            return logistic(regressors(features) @ np.asarray(weights, dtype=np.float64))
    raise ValueError(f"{signal} is drawn at random, not a function of the features")


def regressors(features: Features) -> _Floats:
    """Regressors of the combination: 1, the five signals, and their squares, shape (n, REGRESSORS)."""
    columns = np.column_stack([value_of(signal, features) for signal in _COMBINED_OF])
    return np.column_stack([np.ones(len(columns)), columns, columns**2])


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
