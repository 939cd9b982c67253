"""How many entries of x to send: one k for all positions, or one per position, on the records' grid of sizes.

Two distortions. `bound` is TV(x, x_hat_k), proved to bound the bias that truncation adds [N, THEORY 4.4 and 4.5]; it
is added whole, since skipping reads the draft and scaling it by the transmitted mass would be false. `surrogate` is the
published U [P2, THEORY 2.7]; it bounds nothing by itself, but an offline k that it chose is still a fixed k, to which
the bound applies. An online k that it chose depends on the draft: then the largest TV over drafts bounds the bias, not
the mean, and the records do not hold it (derivations/draft_dependent_size.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.bounds import published_surrogate, smallest_within
from cuhlm_opt.modes import Distortion
from cuhlm_opt.records import GRID_STEP, Records
from cuhlm_opt.solve.coding import Coding

_Floats = NDArray[np.float64]

SURROGATE_THETA = 0.1
"""theta of the published surrogate, a re-implementer's value [P2, THEORY 2.7]."""
_ONLINE_TOLERANCES = 40


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """Truncation sizes, how they are written, and what both add to the bias."""

    distortion: Distortion
    theta: float
    """Tolerance: of the mean over positions (offline), of each position (online)."""
    rule: str
    """The rule in words."""
    coding: Coding
    k: int | None
    """The one size of all positions; None online."""
    at: NDArray[np.intp]
    """(n,) index of each position's size in the records' grid."""
    bias: float | None
    """Mean TV(x, x_hat_k), a proved bound on the bias added; None where k depends on the draft."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What tells it from others over the same records."""
        coding = self.coding
        return self.distortion, self.theta, self.k, coding.law_format, coding.quantiser, coding.b_prob

    def over(self, records: Records) -> "Truncation":
        """The same k, or the same tolerance, over other records; for the proved bound."""
        if records is self.coding.records:
            return self
        if self.k is None:
            sizes = online_by_bound(records, self.theta)
        else:
            bias = float(np.mean(records.tv_x_xhat[:, self.at[0]], dtype=np.float64))
            sizes = Sizes(at=self.at[0], bias=bias, distortion=self.distortion, theta=self.theta, rule=self.rule)
        return sizes.written(replace(self.coding, records=records))

    @property
    def sizes(self) -> _Floats:
        """Size at each position, shape (n,)."""
        return self.coding.records.k_grid[self.at].astype(np.float64)

    @property
    def bits(self) -> _Floats:
        """Bits of an upload at each position, shape (n,)."""
        return self.coding.bits(size_known=self.k is not None)[self.at]

    @property
    def bias_quantisation(self) -> float | None:
        """Mean TV(x_hat_k, decoded x_hat_k) at these sizes, which bounds what rounding adds; None if not measured."""
        mean = self.coding.mean_bias(self.at if self.k is None else self.at[0])
        return None if np.isnan(mean) else mean

    @property
    def spent(self) -> float:
        """What truncation and rounding take of the budget, as far as it is known."""
        return (self.bias or 0.0) + (self.bias_quantisation or 0.0)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a rule makes of the records: indices in the grid of sizes, and mean TV(x, x_hat) there."""

    at: NDArray[np.intp]
    """A scalar offline, shape (n,) online."""
    bias: float | None
    distortion: Distortion
    theta: float
    rule: str

    def written(self, coding: Coding) -> Truncation:
        """These sizes, written by `coding`."""
        records = coding.records
        return Truncation(
            distortion=self.distortion,
            theta=self.theta,
            rule=self.rule,
            coding=coding,
            k=int(records.k_grid[self.at]) if self.at.ndim == 0 else None,
            at=np.broadcast_to(self.at, records.n_tokens),
            bias=self.bias,
        )

    def cheapest(self, codings: Sequence[Coding], limit: float) -> Truncation:
        """Written in the fewest bits that keep truncation and rounding within `limit`; else as exactly as possible."""
        choices = [self.written(coding) for coding in codings]
        within = [choice for choice in choices if choice.spent <= limit]
        return min(within, key=lambda choice: choice.bits.mean()) if within else min(choices, key=lambda c: c.spent)


def offline_profile(records: Records) -> _Floats:
    """Mean over positions of TV(x, x_hat_k), shape (G,); it does not increase with k [N, THEORY 4.6]."""
    return np.asarray(np.mean(records.tv_x_xhat, axis=0, dtype=np.float64), dtype=np.float64)


def offline_by_bound(records: Records, theta: float) -> Sizes:
    """Choose k = min{k : mean TV(x, x_hat_k) <= theta}; k = |V|, which adds nothing, is always feasible."""
    return _fixed(offline_profile(records), theta)


def offline_choices(records: Records) -> Sequence[Sizes]:
    """Every fixed k that some theta chooses, the largest k, which adds nothing, first."""
    profile = offline_profile(records)
    return [_fixed(profile, float(theta)) for theta in np.unique(profile)]


def _fixed(profile: _Floats, theta: float) -> Sizes:
    at = smallest_within(profile, theta)
    rule = "offline: smallest k on the records' grid with mean TV(x, x_hat_k) <= theta"
    return Sizes(at=at, bias=float(profile[at]), distortion=Distortion.BOUND, theta=theta, rule=rule)


def offline_by_surrogate(records: Records, theta: float) -> Sizes:
    """Choose k* = min{k : mean U <= theta}, with the recorded draft and its true beta [P2, THEORY 2.7]."""
    surrogate = published_surrogate(records.tv_x_xhat, records.x_d[:, None], records.beta[:, None])
    at = smallest_within(surrogate.mean(axis=0), theta)
    bias = float(offline_profile(records)[at])
    rule = "offline: smallest k on the records' grid with mean U <= theta, U the published surrogate"
    return Sizes(at=at, bias=bias, distortion=Distortion.SURROGATE, theta=theta, rule=rule)


def online_by_bound(records: Records, theta: float) -> Sizes:
    """At each position k = min{k : TV(x, x_hat_k) <= theta}, from x alone."""
    at = _first_within(records.tv_x_xhat, theta)
    bias = float(np.mean(np.take_along_axis(records.tv_x_xhat, at[:, None], axis=1), dtype=np.float64))
    rule = "online: at each position the smallest k on the records' grid with TV(x, x_hat_k) <= theta"
    return Sizes(at=at, bias=bias, distortion=Distortion.BOUND, theta=theta, rule=rule)


def online_by_surrogate(records: Records, theta: float, u: _Floats, slope: float, intercept: float) -> Sizes:
    """k*(t) = min{k : U_t <= theta}, beta_d replaced by clip(a u + b, 0, 1) [P2, THEORY 2.7]; depends on the draft."""
    beta = np.clip(slope * u + intercept, 0.0, 1.0)
    at = _first_within(published_surrogate(records.tv_x_xhat, records.x_d[:, None], beta[:, None]), theta)
    rule = (
        "online: at each position the smallest k on the records' grid with U <= theta, U the published surrogate "
        "with beta from the fit"
    )
    return Sizes(at=at, bias=None, distortion=Distortion.SURROGATE, theta=theta, rule=rule)


def online_choices(records: Records) -> Sequence[Sizes]:
    """Sizes for each of `online_tolerances`; their mean TV(x, x_hat_k) grows from 0."""
    return [online_by_bound(records, float(theta)) for theta in online_tolerances()]


def online_tolerances() -> _Floats:
    """Tolerances that the joint choice tries online: 0, then evenly spaced in the logarithm up to 1."""
    return np.concatenate([[0.0], np.geomspace(GRID_STEP, 1.0, _ONLINE_TOLERANCES)])


def _first_within(values: NDArray[np.floating], tolerance: float) -> NDArray[np.intp]:
    """First index of each row within `tolerance`, else the last; found by bisection, since rows do not increase."""
    rows = np.arange(len(values))
    low, high = np.zeros(len(values), dtype=np.intp), np.full(len(values), values.shape[1] - 1, dtype=np.intp)
    for _ in range(values.shape[1].bit_length()):
        middle = (low + high) // 2
        within = values[rows, middle] <= tolerance
        high = np.where(within, middle, high)
        low = np.where(within, low, np.minimum(middle + 1, high))
    return low
