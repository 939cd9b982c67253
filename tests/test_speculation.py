"""The best number of drafts, against a search and its limits."""

import math

import numpy as np
import pytest

from cuhlm_opt.errors import InputError
from cuhlm_opt.speculation import best_draft_length, optimal_draft_length, speedup, tokens_per_round


@pytest.mark.parametrize(
    ("alpha", "draft_time", "value", "digits"), [(0.5, 0.07, 2.673, 3), (0.8, 0.3, 2.911, 3), (0.9, 0.05, 13.29, 2)]
)
def test_quoted_optima(alpha, draft_time, value, digits):
    assert round(optimal_draft_length(alpha, draft_time), digits) == value


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("draft_time", [0.001, 0.02, 0.3, 0.8, 1.5])
def test_optimum_is_the_peak_of_the_speed(alpha, draft_time):
    """The derivative vanishes at g* > 0 and is not positive at g* = 0; the best whole g is that of a search."""
    best, step = optimal_draft_length(alpha, draft_time), 1e-4
    rise = speedup(alpha, best + step, draft_time) - speedup(alpha, max(best - step, 0.0), draft_time)
    assert abs(rise) < 1e-7 if best > step else rise <= 0
    speeds = [speedup(alpha, g, draft_time) for g in range(17)]
    assert best_draft_length(alpha, draft_time, 16) == int(np.argmax(speeds))


def test_limits():
    assert optimal_draft_length(0.0, 0.1) == 0
    assert optimal_draft_length(1.0, 1.5) == 0
    assert optimal_draft_length(1.0, 0.5) == math.inf
    assert best_draft_length(1.0, 0.5, 16) == 16
    alpha = 0.7
    limit = alpha * -math.log(alpha) / (1 - alpha)
    assert optimal_draft_length(alpha, limit) == 0 < optimal_draft_length(alpha, 0.999 * limit) < 0.01
    assert tokens_per_round(1 - 1e-9, 5) == pytest.approx(6, abs=1e-6)


@pytest.mark.parametrize("draft_time", [5.09e-4, 5.10e-4, 1e-6])
def test_tiny_draft_times_do_not_underflow(draft_time):
    """Around the exponent of 700, where the root is found in another way, and far beyond it."""
    alpha = 0.7
    best = optimal_draft_length(alpha, draft_time)
    power = alpha ** (best + 1)
    slope = -math.log(alpha) * power / (1 - power) - draft_time / (best * draft_time + 1)
    assert slope == pytest.approx(0, abs=1e-9 * draft_time + 1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: tokens_per_round(1.1, 2),
        lambda: tokens_per_round(0.5, -1),
        lambda: speedup(0.5, 2, math.inf),
        lambda: optimal_draft_length(0.5, 0.0),
        lambda: optimal_draft_length(math.nan, 0.1),
    ],
)
def test_what_is_no_probability_or_time_is_refused(call):
    with pytest.raises(InputError):
        call()
