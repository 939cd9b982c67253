"""Measured traces of a link: times and rates, drained as a fluid [THEORY 8].

The rate of a row holds until the next row; the last row's holds as long as the step before it. The trace repeats, and a
message starts at a moment drawn uniformly from it. Its time is then neither bits over the mean rate nor the mean of
bits over the rate: a long message crosses many rates.
"""

import csv
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.errors import InputError
from cuhlm_opt.service import PiecewiseUniform

Floats = NDArray[np.float64]

GAP = 10.0
"""A step this many times the median step is a gap."""


@dataclass(frozen=True, eq=False)
class Trace:
    """A repeating, piecewise constant rate.

    Args:
        starts_s: when each rate begins, increasing from 0, shape (n,).
        rates_bps: bit/s, > 0, shape (n,).
        length_s: when the trace begins again.
    """

    starts_s: Floats
    rates_bps: Floats
    length_s: float

    @cached_property
    def steps_s(self) -> Floats:
        """How long each rate holds, shape (n,)."""
        return np.diff(np.append(self.starts_s, self.length_s))

    @cached_property
    def _sent(self) -> Floats:
        """Bits sent since the beginning at each start and at the end, shape (n + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self.steps_s * self.rates_bps)])

    @property
    def mean_rate_bps(self) -> float:
        """Bits of one pass over its length."""
        return float(self._sent[-1]) / self.length_s

    def finish_s(self, starts_s: Floats, bits: Floats | float) -> Floats:
        """When messages that start at `starts_s` in [0, length] have been drained."""
        knots = np.append(self.starts_s, self.length_s)
        target = np.interp(starts_s, knots, self._sent) + bits
        passes, within = np.divmod(target, self._sent[-1])
        return np.asarray(passes * self.length_s + np.interp(within, self._sent, knots))

    def random_starts_s(self, rng: np.random.Generator, size: int, rows: tuple[int, ...] | None = None) -> Floats:
        """Moments drawn uniformly from the trace, or from the time that the rates `rows` hold."""
        at = np.arange(len(self.rates_bps)) if rows is None else np.array(rows)
        drawn = rng.choice(at, size, p=self.steps_s[at] / self.steps_s[at].sum())
        return np.asarray(self.starts_s[drawn] + rng.random(size) * self.steps_s[drawn])

    def service(self, bits: float, rows: tuple[int, ...] | None = None) -> PiecewiseUniform:
        """Law of the time to drain `bits`: between its breakpoints the time is linear in the moment of the start.

        Args:
            bits: > 0.
            rows: the rates during which it starts; None starts at any moment.
        """
        knots = np.append(self.starts_s, self.length_s)
        # The time bends where the start passes a knot, and where the end does.
        ends = np.interp((self._sent[:-1] - bits) % self._sent[-1], self._sent, knots)
        bends = np.unique(np.concatenate([knots, ends]))
        bends = bends[np.append(np.diff(bends) > 1e-12 * self.length_s, True)]
        times = self.finish_s(bends, bits) - bends
        first, second, weights = times[:-1], times[1:], np.diff(bends)
        if rows is not None:
            started = np.searchsorted(self.starts_s, (bends[:-1] + bends[1:]) / 2, side="right") - 1
            chosen = np.isin(started, rows)
            first, second, weights = first[chosen], second[chosen], weights[chosen]
        weights = weights / weights.sum()
        return PiecewiseUniform(np.minimum(first, second), np.maximum(first, second), weights)


def read_trace(path: Path) -> Trace:
    """Read a CSV of time in seconds and rate in bit/s; a first row of names is left out.

    Raises:
        InputError: no such file, fewer than two rows, a cell that is no number, time not increasing, a rate not
            positive, or a gap.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--trace {str(path)!r} cannot be read: {error}") from None
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]
    if len(rows) < 2:
        raise InputError(f"--trace {str(path)!r} has {len(rows)} rows of time and rate; give two at least")
    try:
        table = np.array([[float(row[0]), float(row[1])] for row in rows])
    except (ValueError, IndexError):
        raise InputError(f"--trace {str(path)!r} has a row without two numbers, time in s and rate in bit/s") from None
    times, rates = table.T
    if not np.all(np.isfinite(table)) or np.any(rates <= 0):
        at = int(np.flatnonzero(~np.isfinite(table).all(axis=1) | (rates <= 0))[0])
        raise InputError(f"--trace {str(path)!r}: rate {rates[at]:g} at {times[at]:g} s; give finite rates > 0")
    steps = np.diff(times)
    if np.any(steps <= 0):
        raise InputError(f"--trace {str(path)!r}: time does not increase after {times[:-1][steps <= 0][0]:g} s")
    if np.any(steps > GAP * np.median(steps)):
        at = int(np.argmax(steps))
        raise InputError(
            f"--trace {str(path)!r} has a gap of {steps[at]:g} s after {times[at]:g} s, where steps are "
            f"{np.median(steps):g} s; fill it or cut the trace there"
        )
    starts = times - times[0]
    return Trace(starts, rates, float(starts[-1] + steps[-1]))


def trace_sha256(path: Path) -> str:
    """Hash of the file, which an operating point keeps beside its name."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
