"""Laws of the time that a message takes on the uplink: mean, distribution function, quantiles, samples [THEORY 8].

Means and quantiles of latency come from the mean and the distribution function. Accounting by rates needs E[1/latency],
for which a law is given as atoms: exactly, but for a tail of retransmissions below `TAIL`, and for continuous laws,
which are cut into `CELLS` parts of equal probability.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TAIL = 1e-10
"""Probability of the retransmissions that are lumped into the last atom."""
CELLS = 512
"""Atoms that stand for a continuous law."""


class ServiceTime(Protocol):
    """Time from the first bit sent to the last bit received."""

    @property
    def mean_s(self) -> float:
        """Mean in seconds."""

    def cdf(self, seconds: Floats | float) -> Floats:
        """Probability to take at most `seconds`."""

    def quantile(self, probability: float) -> float:
        """Least time that is enough with `probability` in [0, 1)."""

    def sample(self, rng: np.random.Generator, size: int) -> Floats:
        """Independent times, shape (size,)."""

    def atoms(self) -> tuple[Floats, Floats]:
        """Seconds and probabilities that sum to 1, shape (m,) each."""


@dataclass(frozen=True)
class Fixed:
    """Always the same time.

    >>> Fixed(0.002).quantile(0.95)
    0.002
    """

    mean_s: float

    def cdf(self, seconds: Floats | float) -> Floats:
        """A step at the time."""
        return np.asarray(np.asarray(seconds) >= self.mean_s, dtype=np.float64)

    def quantile(self, probability: float) -> float:
        """The time."""
        return self.mean_s

    def sample(self, rng: np.random.Generator, size: int) -> Floats:
        """The time, `size` times."""
        return np.full(size, self.mean_s)

    def atoms(self) -> tuple[Floats, Floats]:
        """The time, with probability 1."""
        return np.array([self.mean_s]), np.ones(1)


@dataclass(frozen=True)
class Attempts:
    """Attempts of equal length until one succeeds, independently.

    Args:
        attempt_s: seconds of an attempt, > 0.
        success: probability that one succeeds, in (0, 1].

    >>> law = Attempts(0.01, 0.5)
    >>> law.mean_s, law.quantile(0.95)
    (0.02, 0.05)
    """

    attempt_s: float
    success: float

    @property
    def mean_s(self) -> float:
        """Length over the probability of success: the number of attempts is geometric."""
        return self.attempt_s / self.success

    def cdf(self, seconds: Floats | float) -> Floats:
        """1 - (1 - success)^n with n the attempts that fit."""
        # A whole number of attempts that rounding has moved below itself still fits.
        fitting = np.floor(np.maximum(np.asarray(seconds), 0.0) / self.attempt_s * (1 + 1e-12))
        return np.asarray(1.0 - (1.0 - self.success) ** fitting)

    def quantile(self, probability: float) -> float:
        """Least whole number of attempts, in seconds."""
        if self.success >= 1 or probability <= self.success:
            return self.attempt_s
        return self.attempt_s * math.ceil(math.log1p(-probability) / math.log1p(-self.success) - 1e-9)

    def sample(self, rng: np.random.Generator, size: int) -> Floats:
        """Geometric numbers of attempts, in seconds."""
        return np.asarray(rng.geometric(self.success, size) * self.attempt_s)

    def atoms(self) -> tuple[Floats, Floats]:
        """One per number of attempts; the last holds what remains, at its mean."""
        if self.success >= 1:
            return np.array([self.attempt_s]), np.ones(1)
        count = max(1, math.ceil(math.log(TAIL) / math.log1p(-self.success)))
        attempts = np.arange(1, count + 2, dtype=np.float64)
        weights = self.success * (1.0 - self.success) ** (attempts - 1)
        weights[-1] = (1.0 - self.success) ** count
        attempts[-1] = count + 1 / self.success
        return attempts * self.attempt_s, weights


@dataclass(frozen=True)
class Shifted:
    """A law that begins later.

    >>> Shifted(0.5, Fixed(1.0)).mean_s
    1.5
    """

    delay_s: float
    law: ServiceTime

    @property
    def mean_s(self) -> float:
        """Delay and mean."""
        return self.delay_s + self.law.mean_s

    def cdf(self, seconds: Floats | float) -> Floats:
        """What is left after the delay."""
        return self.law.cdf(np.asarray(seconds) - self.delay_s)

    def quantile(self, probability: float) -> float:
        """Delay and quantile."""
        return self.delay_s + self.law.quantile(probability)

    def sample(self, rng: np.random.Generator, size: int) -> Floats:
        """Delay and times."""
        return self.delay_s + self.law.sample(rng, size)

    def atoms(self) -> tuple[Floats, Floats]:
        """Later atoms."""
        seconds, masses = self.law.atoms()
        return self.delay_s + seconds, masses


@dataclass(frozen=True, eq=False)
class PiecewiseUniform:
    """A mixture of uniform laws, as of the time to drain a message through a trace from a random moment.

    Args:
        low: least second of each part, shape (m,).
        high: largest second of each part, at least `low`.
        weights: probabilities, sum 1.
    """

    low: Floats
    high: Floats
    weights: Floats

    @property
    def mean_s(self) -> float:
        """Mean of the midpoints."""
        return float(self.weights @ (self.low + self.high)) / 2

    @cached_property
    def _knots(self) -> tuple[Floats, Floats]:
        """Times and the distribution function there, linear in between; a step has two knots."""
        exact, at = np.unique(np.concatenate([self.low, self.high]), return_inverse=True)
        # Ends that only rounding keeps apart are one: a part between them is a step, not a cliff.
        apart = np.diff(exact, prepend=-np.inf) > 1e-12 * exact[-1]
        ends = exact[apart]
        begin, end = np.split((np.cumsum(apart) - 1)[at], 2)
        steps = begin == end
        density, jump = np.zeros(len(ends)), np.zeros(len(ends))
        rise = self.weights[~steps] / (ends[end] - ends[begin])[~steps]
        np.add.at(density, begin[~steps], rise)
        np.add.at(density, end[~steps], -rise)
        np.add.at(jump, begin[steps], self.weights[steps])
        spread = np.concatenate([[0.0], np.cumsum(np.cumsum(density)[:-1] * np.diff(ends))])
        after = np.minimum(spread + np.cumsum(jump), 1.0)  # a part without width counts at its end, not before
        return np.repeat(ends, 2), np.column_stack([after - jump, after]).ravel()

    def cdf(self, seconds: Floats | float) -> Floats:
        """Share of each part that lies at or below `seconds`, summed."""
        times, reached = self._knots
        at = np.asarray(seconds, dtype=np.float64)
        right = np.searchsorted(times, at, side="right")
        left, right = np.clip(right - 1, 0, len(times) - 1), np.clip(right, 0, len(times) - 1)
        width = np.where(times[right] > times[left], times[right] - times[left], 1.0)
        share = np.clip((at - times[left]) / width, 0.0, 1.0)
        return np.asarray(np.where(at < times[0], 0.0, reached[left] + share * (reached[right] - reached[left])))

    def quantile(self, probability: float) -> float:
        """Inverse of the distribution function."""
        times, reached = self._knots
        at = int(np.searchsorted(reached, probability * (1 - 1e-12)))
        if at == 0 or at >= len(times):
            return float(times[min(at, len(times) - 1)])
        rise = reached[at] - reached[at - 1]
        return float(times[at - 1] + (probability - reached[at - 1]) / rise * (times[at] - times[at - 1]))

    def sample(self, rng: np.random.Generator, size: int) -> Floats:
        """A part by its weight, then a time within it."""
        part = rng.choice(len(self.weights), size, p=self.weights)
        return np.asarray(self.low[part] + rng.random(size) * (self.high[part] - self.low[part]))

    def atoms(self) -> tuple[Floats, Floats]:
        """Cells of equal probability."""
        return cells(self)


def cells(law: ServiceTime) -> tuple[Floats, Floats]:
    """Quantiles in the middle of `CELLS` cells of equal probability; the last also holds what the mean lacks."""
    middles = (np.arange(CELLS) + 0.5) / CELLS
    times = np.array([law.quantile(float(middle)) for middle in middles])
    times[-1] += max((law.mean_s - times.mean()) * CELLS, 0.0)
    return times, np.full(CELLS, 1 / CELLS)
