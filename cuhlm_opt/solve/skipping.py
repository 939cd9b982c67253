"""What a threshold on the uncertainty costs and saves, position by position and in the mean [N, THEORY 6.1].

skip(t) = sum_v 1[u_bar_v <= t] x_v and risk(t) = sum_v 1[u_bar_v <= t] (x_v - y_v)+: sums over the few skippable
tokens of each position. They are held as flat arrays, position after position, since most positions have one or two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.quantisation import Quantiser, level_below
from cuhlm_opt.records import T_LIMIT, Records

_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Skipping:
    """One threshold, position by position; all arrays of shape (n,)."""

    skip: _Floats
    """Probability that the draft is kept."""
    risk: _Floats
    """E_{d~x}[s_d beta_d], exactly the bias under exact verification [N, THEORY 4.3]."""
    query: _Floats | None
    """Bias of `query`, sum_v s_v (x_v - S y_v)+ [N, THEORY 3]; None where the records do not determine it."""
    kept: _Floats | None
    """Number of skippable tokens of positive probability, the entries of a `coarse` upload; None likewise."""

    @property
    def skip_rate(self) -> float:
        """Mean over positions of the probability to keep the draft."""
        return float(np.mean(self.skip))

    def mean_over_asking(self, values: _Floats) -> float:
        """Mean of a per-position figure over the tokens that ask; 0 where none does."""
        asking = 1.0 - self.skip
        total = float(asking.sum())
        return float(asking @ values) / total if total > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Means over positions as right-continuous step functions of the threshold, 0 below the first level."""

    levels: _Floats
    """(m,) increasing; the last is 1."""
    skip_rate: _Floats
    risk: _Floats
    query: _Floats | None

    def skip_at(self, threshold: float | None) -> float:
        """Skip rate at a threshold, to rounding that of `Gate.at`."""
        at = 0 if threshold is None else int(np.searchsorted(self.levels, threshold, side="right"))
        return float(self.skip_rate[at - 1]) if at else 0.0

    def skip_within(self, limits: _Floats) -> _Floats:
        """Skip rate at the largest threshold whose risk is at most each of `limits`."""
        at = np.searchsorted(self.risk, limits, side="right")
        return np.concatenate([[0.0], self.skip_rate])[at]


@dataclass(frozen=True, kw_only=True)
class LikelyTokens:
    """Recorded tokens with u_bar below `T_LIMIT`, along positions and, within each, in the order of u_bar; shape (m,).

    Whatever the position, those that a threshold skips are its first ones.
    """

    position: NDArray[np.intp]
    u_bar: _Floats
    x: _Floats
    """Probability under the law that drafts are drawn from; 0 for those that rounding lost."""
    y: _Floats
    n_positions: int

    @classmethod
    def of(cls, records: Records) -> Self:
        """The tokens that the SLM can draw."""
        position, token = np.nonzero((records.top_u_bar < T_LIMIT) & (records.top_x > 0))
        u_bar = records.top_u_bar[position, token].astype(np.float64)
        if np.any((np.diff(u_bar) < 0) & (np.diff(position) == 0)):  # likelier tokens come first: most often sorted
            order = np.lexsort((u_bar, position))
            position, token, u_bar = position[order], token[order], u_bar[order]
        x, y = (top[position, token].astype(np.float64) for top in (records.top_x, records.top_y))
        return cls(position=position, u_bar=u_bar, x=x, y=y, n_positions=records.n_tokens)

    def decoded(self, quantiser: Quantiser, b_prob: int) -> Self:
        """The same tokens with what is decoded of each mass."""
        return replace(self, x=level_below(self.x, quantiser, b_prob))

    def skipping(self, threshold: float) -> Skipping:
        """Every position at a threshold below `T_LIMIT`."""
        at = self.u_bar <= threshold
        position, x = self.position[at], self.x[at]
        y = np.where(x > 0, self.y[at], 0.0)
        skip = np.minimum(self._sum(position, x), 1.0)
        return Skipping(
            skip=skip,
            risk=self._sum(position, np.maximum(x - y, 0.0)),
            query=self._sum(position, np.maximum(x - skip[position] * y, 0.0)),
            kept=self._sum(position, np.ones(len(x))),
        )

    def _sum(self, position: NDArray[np.intp], values: _Floats) -> _Floats:
        return np.asarray(np.bincount(position, values, self.n_positions), dtype=np.float64)

    def curve(self, mean_tv: float) -> Curve:
        """Means at every level of u_bar; where everything is skipped, risk and `query` bias are the mean TV(x, y)."""
        ends, (skip, risk, query) = merge(self.u_bar, [self.x, np.maximum(self.x - self.y, 0.0), self._query_steps])
        return Curve(
            levels=np.append(ends, 1.0),
            skip_rate=np.append(np.minimum(skip / self.n_positions, 1.0), 1.0),
            risk=np.append(risk / self.n_positions, mean_tv),
            query=np.append(query / self.n_positions, mean_tv),
        )

    @cached_property
    def _query_steps(self) -> _Floats:
        """What each token adds to the `query` bias of its position, where those before it are skipped already.

        Within a tie the steps are those of tokens added one by one; their sum is right.
        """
        first = np.searchsorted(self.position, self.position)
        place = np.arange(len(first)) - first
        y = np.where(self.x > 0, self.y, 0.0)
        skip = self.x.copy()
        for lag in range(1, int(place.max(initial=0)) + 1):
            later = np.flatnonzero(place >= lag)
            skip[later] += self.x[later - lag]
        bias = np.maximum(self.x - skip * y, 0.0)
        for lag in range(1, int(place.max(initial=0)) + 1):
            later = np.flatnonzero(place >= lag)
            bias[later] += np.maximum(self.x[later - lag] - skip[later] * y[later - lag], 0.0)
        return bias - np.where(place > 0, np.roll(bias, 1), 0.0)


def merge(levels: _Floats, steps: Sequence[_Floats]) -> tuple[_Floats, list[_Floats]]:
    """Distinct levels in order, and the sum of each kind of step up to and including each level."""
    order = np.argsort(levels, kind="stable")
    ordered = levels[order]
    last = np.flatnonzero(np.diff(ordered, append=np.inf) > 0)
    return ordered[last], [np.cumsum(step[order])[last] for step in steps]
