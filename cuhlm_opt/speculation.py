"""Rounds of several drafts: tokens put out, speed and the best number of drafts in closed form [N, THEORY 7.2].

Acceptances are taken as independent and alike here; `rounds` counts with those of the recorded answers. The setting is
that of Leviathan et al. (arXiv 2211.17192); the optimum is derived in derivations/draft_length.py.
"""

import math

from scipy.special import lambertw

from cuhlm_opt.errors import InputError
from cuhlm_opt.units import check_fraction

_LARGEST_EXPONENT = 700.0
"""Beyond it e^-m is near the least double, and z - ln z = m is solved as it stands."""


def tokens_per_round(acceptance: float, draft_length: float) -> float:
    """Mean tokens of a round, (1 - alpha^(g+1)) / (1 - alpha), in [1, g + 1].

    Args:
        acceptance: alpha, probability that a draft stands, in [0, 1].
        draft_length: g >= 0.

    >>> tokens_per_round(0.5, 2), tokens_per_round(1.0, 4)
    (1.75, 5.0)
    """
    alpha, g = _checked(acceptance, draft_length)
    return g + 1.0 if alpha == 1 else (1.0 - alpha ** (g + 1.0)) / (1.0 - alpha)


def speedup(acceptance: float, draft_length: float, draft_time: float) -> float:
    """S(g), tokens a second over those of rounds without drafts: tokens of a round / (g L + 1).

    Args:
        acceptance: alpha in [0, 1].
        draft_length: g >= 0.
        draft_time: L >= 0, time of a draft over that of the rest of a round, which is taken as the same for every g.

    >>> speedup(0.8, 0, 0.3), round(speedup(0.8, 3, 0.3), 3)
    (1.0, 1.554)
    """
    if not 0 <= draft_time < math.inf:
        raise InputError(f"draft_time {draft_time!r} is not allowed; give a finite ratio >= 0")
    return tokens_per_round(acceptance, draft_length) / (draft_length * draft_time + 1.0)


def optimal_draft_length(acceptance: float, draft_time: float) -> float:
    """g* = (z - 1)/A - 1/L, the real g of the largest S(g).

    A = -ln alpha, z = -W_{-1}(-exp(-(1 + A (1/L - 1)))). It is 0 where drafting does not pay, L >= alpha A/(1 - alpha),
    and infinite for alpha = 1 and L < 1.

    Args:
        acceptance: alpha in [0, 1].
        draft_time: L > 0.

    Example:
        >>> [round(optimal_draft_length(a, l), 3) for a, l in ((0.5, 0.07), (0.8, 0.3), (0.9, 0.05), (0.3, 0.9))]
        [2.673, 2.911, 13.292, 0.0]
    """
    alpha, _ = _checked(acceptance, 0.0)
    if not 0 < draft_time < math.inf:
        raise InputError(f"draft_time {draft_time!r} is not allowed; give a finite ratio > 0")
    if alpha in (0.0, 1.0):
        return math.inf if alpha == 1 and draft_time < 1 else 0.0
    decay = -math.log(alpha)
    if draft_time >= alpha * decay / (1.0 - alpha):
        return 0.0
    exponent = 1.0 + decay * (1.0 / draft_time - 1.0)
    return max(0.0, (_upper_root(exponent) - 1.0) / decay - 1.0 / draft_time)


def best_draft_length(acceptance: float, draft_time: float, most: int) -> int:
    """The whole g in 0 .. `most` of the largest S(g): S has one peak, so it is the floor or the ceiling of g*, or 0.

    >>> best_draft_length(0.8, 0.3, 16), best_draft_length(0.9, 0.05, 8), best_draft_length(0.3, 0.9, 16)
    (3, 8, 0)
    """
    best = min(optimal_draft_length(acceptance, draft_time), float(most))
    return max((0, math.floor(best), math.ceil(best)), key=lambda g: speedup(acceptance, g, draft_time))


def _upper_root(m: float) -> float:
    """The root z > 1 of z - ln z = m > 1, which is -W_{-1}(-e^-m)."""
    if m <= _LARGEST_EXPONENT:
        return -float(lambertw(-math.exp(-m), -1).real)
    z = m + math.log(m)
    for _ in range(8):  # z <- m + ln z shrinks the error by a factor of z, over 700
        z = m + math.log(z)
    return z


def _checked(acceptance: float, draft_length: float) -> tuple[float, float]:
    if not 0 <= draft_length < math.inf:
        raise InputError(f"draft_length {draft_length!r} is not allowed; give a finite number >= 0")
    return check_fraction(acceptance, "acceptance"), float(draft_length)
