"""How many entries of x to send: one k for all positions, or one per position, on the records' grid of sizes.

Two distortions. `bound` is TV(x, x_hat_k), proved to bound the bias that truncation adds [N, THEORY 4.4 and 4.5]; it
is added whole, since skipping reads the draft and scaling it by the transmitted mass would be false. `surrogate` is the
published U [P2, THEORY 2.7]; it bounds nothing by itself, but an offline k that it chose is still a fixed k, to which
the bound applies. An online k that it chose depends on the draft: then the largest TV over drafts bounds the bias, not
the mean, and the records do not hold it (derivations/draft_dependent_size.py).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.bounds import published_surrogate, smallest_within
from cuhlm_opt.modes import Distortion
from cuhlm_opt.records import GRID_STEP, Records
from cuhlm_opt.solve.threshold import Signal

SURROGATE_THETA = 0.1
"""theta of the published surrogate, a re-implementer's value [P2, THEORY 2.7]."""
_ONLINE_TOLERANCES = 40


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """Truncation sizes, and what they add to the bias."""

    distortion: Distortion
    theta: float
    """Tolerance: of the mean over positions (offline), of each position (online)."""
    k: int | None
    """The one size of all positions; None online."""
    sizes: NDArray[np.float64]
    """(n,) size at each position."""
    bias: float | None
    """Mean TV(x, x_hat_k), a proved bound on the bias added; None where k depends on the draft."""
    rule: str
    """The rule in words."""


def offline_profile(records: Records) -> NDArray[np.float64]:
    """Mean over positions of TV(x, x_hat_k), shape (G,); it does not increase with k [N, THEORY 4.6]."""
    return np.asarray(np.mean(records.tv_x_xhat, axis=0, dtype=np.float64), dtype=np.float64)


def offline_by_bound(records: Records, theta: float) -> Truncation:
    """Choose k = min{k : mean TV(x, x_hat_k) <= theta}; k = |V|, which adds nothing, is always feasible."""
    profile = offline_profile(records)
    at = int(smallest_within(profile, theta))
    rule = "offline: smallest k on the records' grid with mean TV(x, x_hat_k) <= theta"
    return _fixed(records, at, float(profile[at]), Distortion.BOUND, theta, rule)


def offline_by_surrogate(records: Records, theta: float) -> Truncation:
    """Choose k* = min{k : mean U <= theta}, with the recorded draft and its true beta [P2, THEORY 2.7]."""
    surrogate = published_surrogate(records.tv_x_xhat, records.x_d[:, None], records.beta[:, None])
    at = int(smallest_within(surrogate.mean(axis=0), theta))
    rule = "offline: smallest k on the records' grid with mean U <= theta, U the published surrogate"
    return _fixed(records, at, float(offline_profile(records)[at]), Distortion.SURROGATE, theta, rule)


def online_by_bound(records: Records, theta: float) -> Truncation:
    """At each position k = min{k : TV(x, x_hat_k) <= theta}, from x alone."""
    at = _first_within(records.tv_x_xhat, theta)
    spent = np.take_along_axis(records.tv_x_xhat, at[:, None], axis=1)
    return Truncation(
        distortion=Distortion.BOUND,
        theta=theta,
        k=None,
        sizes=records.k_grid[at].astype(np.float64),
        bias=float(np.mean(spent, dtype=np.float64)),
        rule="online: at each position the smallest k on the records' grid with TV(x, x_hat_k) <= theta",
    )


def online_by_surrogate(records: Records, theta: float, signal: Signal, slope: float, intercept: float) -> Truncation:
    """k*(t) = min{k : U_t <= theta}, beta_d replaced by clip(a u + b, 0, 1) [P2, THEORY 2.7]; depends on the draft."""
    u = records.u_bar if signal is Signal.U_BAR else records.u_mc
    beta = np.clip(slope * u + intercept, 0.0, 1.0)
    at = _first_within(published_surrogate(records.tv_x_xhat, records.x_d[:, None], beta[:, None]), theta)
    return Truncation(
        distortion=Distortion.SURROGATE,
        theta=theta,
        k=None,
        sizes=records.k_grid[at].astype(np.float64),
        bias=None,
        rule="online: at each position the smallest k on the records' grid with U <= theta, U the published surrogate "
        "with beta from the fit",
    )


def online_within(records: Records, limit: float) -> Truncation:
    """The largest of `online_tolerances` whose mean TV(x, x_hat_k) is at most `limit` >= 0."""
    choice = online_by_bound(records, 0.0)
    for theta in online_tolerances():
        wider = online_by_bound(records, float(theta))
        if wider.bias is None or wider.bias > limit:
            break
        choice = wider
    return choice


def online_tolerances() -> NDArray[np.float64]:
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


def _fixed(records: Records, at: int, bias: float, distortion: Distortion, theta: float, rule: str) -> Truncation:
    k = int(records.k_grid[at])
    return Truncation(
        distortion=distortion,
        theta=theta,
        k=k,
        sizes=np.full(records.n_tokens, float(k)),
        bias=bias,
        rule=rule,
    )
