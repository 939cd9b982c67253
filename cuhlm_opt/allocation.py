"""Shares of one bandwidth among devices of fixed transmit power: least sum, least maximum, proportional fairness [N].

A device that has W_i hertz sends r_i = W_i log2(1 + c_i/W_i) bit/s, c_i its SNR over all of the bandwidth times that
bandwidth: r_i is concave, its limit c_i/ln 2 [THEORY 8]. Its mean latency a token is T_i = b_i + a_i/r_i, a_i the bits
that it sends a token and b_i all else: convex in W_i, and so is ln T_i, as 1/r_i is log-convex. Every problem here is
convex in the shares; the conditions of optimality are checked from the shares alone.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.errors import InputError

Floats = NDArray[np.float64]

SLACK = 1e-3
"""By how much the least maximum may be passed: what it takes to starve no one for the last thousandth."""
_LN2 = float(np.log(2))
_STEPS = 200
"""Bisections at most; each halves an interval of logarithms."""


class Fairness(StrEnum):
    """What the shares are best at."""

    SUM = "sum"
    """Least sum of w_i T_i."""
    MAX = "max"
    """Least maximum of w_i T_i, to within `SLACK`; of the shares that keep it, those of the least sum."""
    PROPORTIONAL = "proportional"
    """Largest sum of w_i ln(1/T_i), proportional fairness of the throughputs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Demands:
    """What N devices ask of the bandwidth; all of shape (N,).

    Args:
        capacity_hz: c_i > 0, SNR over all of the bandwidth times that bandwidth.
        bits: a_i >= 0, mean bits a token; a device that sends nothing gets no share.
        base_s: b_i >= 0, mean latency a token without the uplink.
        weights: w_i > 0.
        most_s: largest T_i; infinite where there is no limit.
    """

    capacity_hz: Floats
    bits: Floats
    base_s: Floats
    weights: Floats
    most_s: Floats

    def __post_init__(self) -> None:
        if not (np.all(self.capacity_hz > 0) and np.all(self.weights > 0) and np.all(self.bits >= 0)):
            raise InputError("capacities and weights must be > 0, and bits >= 0")

    def latency_s(self, shares_hz: Floats) -> Floats:
        """T_i; without a share infinite where something is sent."""
        rates = rate_bps(shares_hz, self.capacity_hz)
        sending = self.bits > 0
        uplink = np.divide(self.bits, rates, out=np.full(len(rates), np.inf), where=rates > 0)
        return self.base_s + np.where(sending, uplink, 0.0)

    @property
    def unreachable(self) -> NDArray[np.bool_]:
        """Whether the limit on T_i is below what any bandwidth gives, b_i + a_i ln 2/c_i."""
        return self.most_s <= self.base_s + self.bits * _LN2 / self.capacity_hz

    @property
    def least_hz(self) -> Floats:
        """Least share that keeps the limit on T_i; infinite where none does."""
        return self.share_for_s(self.most_s)

    def share_for_s(self, latency_s: Floats) -> Floats:
        """Least share with T_i <= `latency_s`; infinite where none is enough."""
        left = latency_s - self.base_s
        wanted = np.divide(self.bits, left, out=np.full(len(left), np.inf), where=left > 0)
        return np.where(self.bits > 0, share_hz(wanted, self.capacity_hz), np.where(left >= 0, 0.0, np.inf))


def rate_bps(shares_hz: Floats, capacity_hz: Floats) -> Floats:
    """W log2(1 + c/W), 0 at W = 0.

    >>> rate_bps(np.array([0.0, 1.0]), np.array([1.0, 1.0])).tolist()
    [0.0, 1.0]
    """
    ratio = np.divide(capacity_hz, shares_hz, out=np.zeros(len(shares_hz)), where=shares_hz > 0)
    return np.asarray(shares_hz * np.log1p(ratio) / _LN2)


def share_hz(rates_bps: Floats, capacity_hz: Floats) -> Floats:
    """Inverse of `rate_bps`; infinite from c/ln 2 on."""
    reachable = rates_bps < capacity_hz / _LN2 * (1 - 1e-12)
    wanted, capacity = np.where(reachable, rates_bps, 0.0), capacity_hz
    # r/c grows from 200 e^-200/ln 2 to (1 - e^-45/2)/ln 2 between the ends.
    low, high = np.log(capacity) - 200.0, np.log(capacity) + 45.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        enough = rate_bps(np.exp(middle), capacity) >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        if np.all(high - low <= 1e-15 * np.maximum(np.abs(high), 1.0)):
            break
    return np.where(reachable, np.where(wanted > 0, np.exp(high), 0.0), np.inf)


def steepness(demands: Demands, fairness: Fairness, shares_hz: Floats) -> Floats:
    """What one hertz more takes off each term of the objective, decreasing in the share."""
    capacity = demands.capacity_hz
    shares = np.maximum(shares_hz, capacity * np.exp(-200.0))
    ratio, small = capacity / shares, np.minimum(capacity / shares, 1e-4)
    # ln(1 + s) - s/(1 + s) loses its digits for small s, where it is s^2/2 - 2 s^3/3.
    slope = np.where(ratio < 1e-4, small**2 / 2 - 2 * small**3 / 3, np.log1p(ratio) - ratio / (1 + ratio)) / _LN2
    fall = demands.weights * demands.bits * slope / rate_bps(shares, capacity) ** 2
    if fairness is not Fairness.PROPORTIONAL:
        return fall
    latency_s = demands.latency_s(shares)
    return np.divide(fall, latency_s, out=np.zeros(len(fall)), where=latency_s > 0)


def allocate(demands: Demands, fairness: Fairness, bandwidth_hz: float) -> tuple[Floats, float]:
    """Shares in hertz, shape (N,), sum `bandwidth_hz`, and the residual of their conditions of optimality.

    Raises:
        InputError: the limits need more bandwidth than there is; `Demands.least_hz` says how much.
    """
    if not demands.least_hz.sum() <= bandwidth_hz:
        raise InputError(f"limits need {demands.least_hz.sum():g} Hz, more than the {bandwidth_hz:g} Hz there are")
    residual = 0.0
    if fairness is Fairness.MAX and np.any(demands.bits > 0):
        shares = least_maximum(demands, bandwidth_hz)
        residual = optimality_residual(demands, fairness, shares, bandwidth_hz)
        worst = float(np.max((demands.weights * demands.latency_s(shares))[demands.bits > 0]))
        limits = np.minimum(demands.most_s, (1 + SLACK) * worst / demands.weights)
        demands = replace(demands, most_s=np.where(demands.bits > 0, limits, demands.most_s))
        fairness = Fairness.SUM
    shares = _least_sum(demands, fairness, bandwidth_hz)
    return shares, max(residual, optimality_residual(demands, fairness, shares, bandwidth_hz))


def _least_sum(demands: Demands, fairness: Fairness, bandwidth_hz: float) -> Floats:
    """Shares of one price, by bisection on it, and for each price on every share."""
    least, sending = demands.least_hz, demands.bits > 0
    if not sending.any():
        return np.zeros(len(least))
    scale = bandwidth_hz / sending.sum()

    def shares_at(log_price: float) -> Floats:
        """Shares at which one hertz more takes off just the price, for each device alone."""
        low, high = np.full(len(least), np.log(scale) - 60.0), np.full(len(least), np.log(bandwidth_hz))
        price = np.exp(log_price)
        for _ in range(70):
            middle = (low + high) / 2
            steep = steepness(demands, fairness, np.exp(middle)) > price
            low, high = np.where(steep, middle, low), np.where(steep, high, middle)
        return np.where(sending, np.maximum(np.exp(low), least), 0.0)

    at_equal = steepness(demands, fairness, np.full(len(least), scale))[sending]
    low, high = float(np.log(at_equal.min())) - 60.0, float(np.log(at_equal.max())) + 60.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if shares_at(middle).sum() > bandwidth_hz else (low, middle)
        if high - low <= 1e-13 * max(abs(high), 1.0):
            break
    return _filled(shares_at(high), least, bandwidth_hz)


def least_maximum(demands: Demands, bandwidth_hz: float) -> Floats:
    """Shares of the least maximum of w_i T_i, by bisection on the latency that all have in common."""
    least, sending = demands.least_hz, demands.bits > 0

    def shares_at(level: float) -> Floats:
        return np.maximum(np.where(sending, demands.share_for_s(level / demands.weights), 0.0), least)

    floor = demands.weights * (demands.base_s + demands.bits * _LN2 / demands.capacity_hz)
    low = float(floor[sending].max())
    high = 2 * low + 1e-12
    while shares_at(high).sum() > bandwidth_hz:
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if shares_at(middle).sum() > bandwidth_hz else (low, middle)
        if high - low <= 1e-15 * high:
            break
    return _filled(shares_at(high), least, bandwidth_hz)


def _filled(shares_hz: Floats, least: Floats, bandwidth_hz: float) -> Floats:
    """What rounding of the search left over or took too much, spread in proportion over what is above the least."""
    above = shares_hz - least
    if not above.sum() > 0:
        return shares_hz
    return np.asarray(least + above * (bandwidth_hz - least.sum()) / above.sum())


def optimality_residual(demands: Demands, fairness: Fairness, shares_hz: Floats, bandwidth_hz: float) -> float:
    """Largest relative violation of the conditions of optimality, from the shares alone.

    All of the bandwidth is used, and no limit is passed. Devices above their least share have one price (sum,
    proportional) or one weighted latency (max); those at their least share have none above it.
    """
    least, sending = demands.least_hz, demands.bits > 0
    if not sending.any():
        return 0.0
    feasibility = abs(float(shares_hz.sum()) - bandwidth_hz) / bandwidth_hz
    passed = float(np.max((least - shares_hz)[sending] / bandwidth_hz, initial=0.0))
    if fairness is Fairness.MAX:
        value = demands.weights * demands.latency_s(shares_hz)
    else:
        value = steepness(demands, fairness, shares_hz)
    above = sending & (shares_hz > least * (1 + 1e-6))
    if not above.any():
        return max(feasibility, passed)
    price = float(np.exp(np.mean(np.log(value[above]))))
    stationary = float(np.max(np.abs(value[above] / price - 1)))
    held = sending & ~above
    complementary = float(np.max(value[held] / price - 1, initial=0.0))
    return max(feasibility, passed, stationary, complementary)
