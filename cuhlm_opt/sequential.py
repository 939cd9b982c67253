"""Tests that may stop at any time: is the mean of a bounded loss within a level, do new prompts resemble the old [N].

Each is a capital K_n >= 0 with K_0 = 1 that is not expected to grow under its hypothesis, whatever was seen so far: an
e-process. By Ville's inequality P(K_n >= 1/alpha for any n) <= alpha, so that one may look after every prompt and stop
when one likes. Proof: `derivations/betting_martingale.py`.

A bet is a factor f_i >= 0 on prompt i with E[f_i | past] <= 1. K_n is the mean over several bets b and over the prompt
s at which betting begins, with weight w_s = 1/(s (s + 1)), so that a change late in a stream is found as well:

    K_n = 1/(n + 1) + mean_b sum_{s <= n} w_s prod_{i = s..n} f_{b,i};

1/(n + 1) is the weight of those that have not begun yet.

Sources: Ville (1939); Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting" (2024, JRSSB 86),
the bets on a mean and confidence sequences from them; Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World"
(2005), conformal p-values and the power bets on them.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from cuhlm_opt.errors import InputError

Array = NDArray[np.float64]

RISK_BETS = tuple(0.5**k for k in range(1, 8))
"""c of the bets on a loss above the level: the share of what may be staked without losing everything to a zero loss."""
SAFE_BETS = (0.99, 0.5, 0.2)
"""c of the bets on a loss below the level; below 1, so that no single loss ends them."""
POWERS = (0.2, 0.4, 0.6, 0.8)
"""kappa of the bets on a p-value, kappa p^(kappa - 1), taken for p and for 1 - p."""
_BISECTIONS = 40


def log_capital(log_factors: Array) -> Array:
    """Logarithm of K_n after each prompt.

    Args:
        log_factors: ln f_{b,i}, finite, shape (bets, n).

    Returns:
        Shape (n,); nondecreasing in every factor.

    Example:
        >>> np.exp(log_capital(np.log([[2.0, 2.0]]))).round(4)
        array([1.5   , 2.6667])
    """
    begin = np.arange(1, log_factors.shape[1] + 1)
    total = np.cumsum(log_factors, axis=1)
    begun = total + np.logaddexp.accumulate(log_factors - total - np.log(begin * (begin + 1.0)), axis=1)
    bets = np.asarray(logsumexp(begun, axis=0)) - math.log(len(log_factors))
    return np.asarray(np.logaddexp(bets, -np.log(begin + 1.0)))


def log_risk_e_values(losses: Array, level: float) -> Array:
    """Logarithm of K_n against H0: E[L_i | L_1 .. L_{i-1}] <= level for every prompt i.

    Independent L_i of mean <= level fulfil H0.

    f = 1 - c + c L / level, c in `RISK_BETS`: its mean is 1 + c (E[L] - level) / level, at most 1 under H0 [WSR 2024].

    Args:
        losses: shape (n,), in [0, 1].
        level: in (0, 1).

    Returns:
        Shape (n,); nondecreasing in every loss.

    Raises:
        InputError: a loss or the level is out of range.

    Example:
        >>> bool(log_risk_e_values(np.full(40, 0.06), 0.02)[-1] > np.log(20))
        True
    """
    _check_fraction("level", level)
    if losses.ndim != 1 or not np.all((losses >= 0) & (losses <= 1)):
        raise InputError("losses are not allowed; give one in [0, 1] for each prompt")
    return log_capital(np.log1p(np.outer(RISK_BETS, losses / level - 1.0)))


def risk_bounds(sums: Array, lengths: Array, max_tokens: int, alpha: float) -> tuple[float, float]:
    """Confidence sequences of the risk per token r = E[S]/E[N] of independent prompts of one law [WSR 2024].

    S is the risk summed over a prompt's N <= T tokens, 0 <= S <= N. r is at most r' iff the loss (S + r' (T - N))/T has
    a mean of at most r' [N, THEORY 6.4], so that r' is excluded from below once that is rejected, and from above by the
    bets f = 1 + c (r' N - S)/(T (1 - r')), c in `SAFE_BETS`. Each of the two bounds holds at all n at once with
    probability 1 - alpha.

    Args:
        sums: S of each prompt, shape (n,).
        lengths: N of each prompt, shape (n,), 1 to T.
        max_tokens: T.
        alpha: probability in (0, 1) that a bound fails.

    Returns:
        (lower, upper), to within 1e-12; the lower is above a level iff `log_risk_e_values` reached ln(1/alpha) there.
    """
    _check_fraction("alpha", alpha)
    if not np.all((sums >= 0) & (sums <= lengths * (1 + 1e-6)) & (lengths <= max_tokens)):
        raise InputError(f"sums and lengths are not allowed; give 0 <= sum <= length <= {max_tokens}")

    def above(r: float) -> bool:
        return _reaches(np.outer(RISK_BETS, (sums / r - lengths) / max_tokens), alpha)

    def below(r: float) -> bool:
        gains = (r * lengths - sums) / (max_tokens * (1.0 - r))
        return _reaches(np.outer(SAFE_BETS, np.maximum(gains, -1.0)), alpha)

    return _boundary(above), 1.0 - _boundary(lambda r: below(1.0 - r))


def conformal_p_values(scores: Array, recorded: Array, rng: np.random.Generator) -> Array:
    """Rank of each new score among the recorded ones and the new ones up to itself [Vovk, Gammerman, Shafer].

    p_n = (#{greater than score n} + U_n #{equal, itself included}) / (recorded + n), U_n uniform on (0, 1]. If recorded
    and new scores are exchangeable, p_1, p_2, .. are independent and uniform.

    Args:
        scores: of the new prompts in their order, shape (n,).
        recorded: of the recorded prompts, shape (m,).
        rng: of the ties.

    Returns:
        Shape (n,), in (0, 1]; small where a score is large.
    """
    known = np.sort(recorded)
    p_values = np.empty(len(scores))
    for n, score in enumerate(scores):
        first, last = np.searchsorted(known, score), np.searchsorted(known, score, side="right")
        greater, equal = len(known) - last, last - first + 1
        p_values[n] = (greater + (1.0 - rng.random()) * equal) / (len(known) + 1)
        known = np.insert(known, first, score)
    return p_values


def log_change_e_values(p_values: Array) -> Array:
    """Logarithm of K_n against H0: p-values are independent and uniform, as conformal ones of exchangeable prompts.

    f = kappa p^(kappa - 1) and f = kappa (1 - p)^(kappa - 1), kappa in `POWERS`: the integral over p is 1.

    Args:
        p_values: shape (n,), in (0, 1].

    Returns:
        Shape (n,).
    """
    if p_values.ndim != 1 or not np.all((p_values > 0) & (p_values <= 1)):
        raise InputError("p-values are not allowed; give one in (0, 1] for each prompt")
    sides = np.log(np.concatenate([[p_values], [np.maximum(1.0 - p_values, np.finfo(float).tiny)]]))
    powers = np.array(POWERS)[:, None, None]
    return log_capital((np.log(powers) + (powers - 1.0) * sides).reshape(-1, len(p_values)))


def _reaches(gains: Array, alpha: float) -> bool:
    """Whether bets that gain f - 1, shape (bets, n), ever make 1/alpha."""
    return bool(np.any(log_capital(np.log1p(gains)) >= -math.log(alpha)))


def _boundary(rejected: Callable[[float], bool]) -> float:
    """Where a rule that rejects small values in (0, 1) ends to do so, from below."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name} {value!r} is not allowed; give a number between 0 and 1, both excluded")
