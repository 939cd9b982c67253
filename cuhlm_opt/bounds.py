"""Bias of the output law: what is exact, what is a proved bound, and what is only the published surrogate.

[P2] `published_surrogate` and the rules built on it are heuristics; they are not bounds (THEORY 3).
[N] everything else is proved in THEORY 4 and 5, and checked by enumeration in the tests.
"""

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.distributions import Law


def skip_risk(x: Law, y: Law, skip: Law) -> float:
    """E_{d~x}[s_d beta_d] = sum_v s_v (x_v - y_v)+, exactly TV(output, y) under exact verification [N, THEORY 4.3].

    Args:
        x: law the drafts are drawn from.
        y: LLM's law.
        skip: s_v, the probability that draft v is kept without asking, in [0, 1].
    """
    return float(np.sum(skip * np.maximum(np.asarray(x, dtype=np.float64) - y, 0.0)))


def query_bias(x: Law, y: Law, skip: Law) -> float:
    """TV(output, y) of `query`: 1/2 sum_v |s_v x_v - S y_v|, S = sum s x [N, THEORY 3].

    At least the skip risk where each s_v is 0 or 1, and equal to it for a coin that ignores the draft; a coin that
    reads the draft can have less.
    """
    kept = skip * x
    return 0.5 * float(np.abs(kept - kept.sum(dtype=np.float64) * y).sum(dtype=np.float64))


def truncation_bound(tv_x_xhat: Law | float) -> NDArray[np.float64]:
    """(A) TV(output, y) <= TV(x, x_hat) where the server runs the whole step with x_hat [N, THEORY 4.4]."""
    return np.asarray(tv_x_xhat, dtype=np.float64)


def truncation_bound_true_draft(
    tv_x_xhat: Law | float, tv_x_y: Law | float, tv_xhat_y: Law | float
) -> NDArray[np.float64]:
    """(B) TV(output, y) <= TV(x, x_hat) R / max(R, R'), R = TV(x,y), R' = TV(x_hat,y) [N, THEORY 4.4].

    For a test with the true x_d and a redraw from norm((y - x_hat)+). 0 where R = 0: then nothing is rejected.
    """
    r, r_hat = np.asarray(tv_x_y, dtype=np.float64), np.asarray(tv_xhat_y, dtype=np.float64)
    larger = np.maximum(r, r_hat)
    return np.asarray(tv_x_xhat) * np.divide(r, larger, out=np.zeros_like(larger), where=larger > 0)


def published_surrogate(
    tv_x_xhat: Law | float, draft_probability: Law | float, beta: Law | float, eta: float = 1.0
) -> NDArray[np.float64]:
    """U = sum |x - x_hat| / [(1 - x_d) l(-1) + x_d l(-beta_d)], l(z) = ln(1 + e^(eta z)) / eta [P2, THEORY 2.7].

    Not a bound: l(0) = ln 2 > 0 enlarges the denominator (THEORY 3).

    Args:
        tv_x_xhat: TV(x, x_hat), half of the numerator.
        draft_probability: x_d.
        beta: rejection probability of the draft, or its estimate clip(a u + b, 0, 1) for the online rule.
        eta: sharpness of the softplus, 1 as published.
    """
    x_d, beta = np.asarray(draft_probability, dtype=np.float64), np.asarray(beta, dtype=np.float64)
    denominator = (1.0 - x_d) * np.logaddexp(0.0, -eta) / eta + x_d * np.logaddexp(0.0, -eta * beta) / eta
    return np.asarray(2.0 * np.asarray(tv_x_xhat, dtype=np.float64) / denominator)


def smallest_within(values: NDArray[np.floating], tolerance: float) -> NDArray[np.intp]:
    """First index along the last axis whose value is at most `tolerance`; the last index where none is.

    With values over growing truncation sizes this is the k* of every rule: offline on means over positions,
    online on each position alone.
    """
    feasible = values <= tolerance
    feasible[..., -1] = True
    return np.asarray(np.argmax(feasible, axis=-1))
