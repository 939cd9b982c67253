"""Certified thresholds [N, THEORY 6.4]: how far t may be raised when what is known is a sample of prompts.

The units are prompts. L_i(t) in [0, 1] is the skip risk that prompt i meets at threshold t, nondecreasing in t, and 0
where nothing is skipped. Two statements about the threshold that is returned, for a budget eps:

- conformal risk control: E[L_{n+1}(t)] <= eps over the recorded prompts and the next one, if they are exchangeable;
- high probability: with probability 1 - delta over the recorded prompts, E[L(t) | t] <= eps, if prompts are
  independent draws of one law.

Both need prompts of one domain (a mixture of domains is not a sample of any one) and contexts drawn by the LLM alone,
whose law does not depend on t (THEORY 6.5). No other law is assumed, and neither is a limit in n.

Sources: Angelopoulos, Bates, Fisch, Lei, Schuster, "Conformal Risk Control" (2022); Bates, Angelopoulos, Lei, Malik,
Jordan, "Distribution-Free, Risk-Controlling Prediction Sets" (2021); Angelopoulos, Bates, Candes, Jordan, Lei, "Learn
then Test" (2021), the Hoeffding-Bentkus p-value and fixed-sequence testing; Waudby-Smith, Ramdas, "Estimating means of
bounded random variables by betting" (2020), the diversified bets.
"""

from bisect import bisect_left
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, logsumexp, rel_entr

from cuhlm_opt.errors import InputError

Array = NDArray[np.float64]

BETS = ((1.0, 0.8), (0.5, 0.1), (0.2, 0.1))
"""(fraction of the largest bet, weight) of the betting p-value; chosen on synthetic populations, before any record."""

ASSUMPTIONS = (
    "contexts were drawn by the LLM alone; under its law the bound holds for whole answers of the hybrid (THEORY 4.8)",
    "the loss is the skip risk of the gate, whatever its signal; truncation and quantisation are added to it as bounds",
    "models, sampling settings, length limit, backend and chunk plan are those of the records",
)
"""What both certificates rest on besides the law of the prompts."""


class Bound(StrEnum):
    """How a p-value for H: E[L] > eps is computed from n losses in [0, 1]."""

    BETTING = "betting"
    """Diversified bets: adapts to losses that vary little, as sums over an answer's tokens do."""
    HOEFFDING_BENTKUS = "hoeffding-bentkus"
    """From the mean alone."""


@dataclass(frozen=True, kw_only=True)
class CertifiedThreshold:
    """A certified threshold, or None where nothing may be skipped, and what the certificate says.

    `prompts_needed` is the least number with which the smallest threshold of the grid could pass at the mean loss
    recorded there; None where that loss is over the budget itself.
    """

    threshold: float | None
    method: str
    eps: float
    delta: float | None
    n_prompts: int
    mean_loss: float
    """Mean recorded loss at the threshold; 0 where nothing is skipped."""
    prompts_needed: int | None
    assumptions: tuple[str, ...]
    budget: float | None = None
    """The whole budget where `eps` is what truncation and rounding leave of it: that rest was chosen on the same
    records, and what is proved is the statement with the budget, which is at least the rest."""

    @property
    def claim(self) -> str:
        """What is guaranteed, in words."""
        eps = self.eps if self.budget is None else self.budget
        if self.delta is None:
            return f"E[skip risk] <= {eps:g} for the next prompt, on average over recorded sets"
        return f"E[skip risk] <= {eps:g} for this threshold, but for a share of at most {self.delta:g} of recorded sets"

    @property
    def warning(self) -> str | None:
        """Why nothing may be skipped, and how many prompts are needed; None where there is a threshold."""
        if self.threshold is not None:
            return None
        rest = "" if self.budget is None or self.budget == self.eps else " that truncation and rounding leave"
        found = f"{self.n_prompts} prompts certify no threshold at the budget of {self.eps:g}{rest}: never skip"
        if self.prompts_needed is None:
            return f"{found}; the recorded risk is over the budget at every threshold, so more prompts do not help"
        return f"{found}; at least {self.prompts_needed} prompts are needed"


def certify(
    losses: Array, grid: Array, eps: float, delta: float | None = None, bound: Bound = Bound.BETTING
) -> CertifiedThreshold:
    """Certify a threshold: conformal risk control, or the high-probability bound where `delta` is given.

    Args:
        losses: from `prompt_losses`, shape (n, G); prompts of one domain, contexts of the LLM.
        grid: from `threshold_grid`, shape (G,).
        eps: budget in (0, 1).
        delta: probability in (0, 1) that the statement fails.
        bound: of the high-probability version.
    """
    if delta is None:
        method, threshold = "conformal-risk-control", conformal_threshold(losses, grid, eps)
        needed = prompts_needed(eps, float(losses[:, 0].mean()))
        prompts = "prompts, the recorded ones and the next one, are exchangeable and of one domain"
    else:
        method, threshold = str(bound), high_probability_threshold(losses, grid, eps, delta, bound)
        needed = prompts_needed_high_probability(eps, delta, bound, float(losses[:, 0].mean()))
        prompts = "prompts are independent draws of one law, of one domain"
    return CertifiedThreshold(
        threshold=threshold,
        method=method,
        eps=eps,
        delta=delta,
        n_prompts=len(losses),
        mean_loss=0.0 if threshold is None else float(losses[:, np.searchsorted(grid, threshold)].mean()),
        prompts_needed=needed,
        assumptions=(prompts, *ASSUMPTIONS),
    )


def conformal_threshold(losses: Array, grid: Array, eps: float) -> float | None:
    """Largest grid t with (n R_n(t) + 1)/(n + 1) <= eps, R_n the mean of n losses [N, THEORY 6.4].

    Then E[L_{n+1}(t)] <= eps for n + 1 exchangeable prompts [Conformal Risk Control]. Proof: choose t' as t, from all
    n + 1 losses and without the 1. As no loss is above 1, t' >= t; and given the set of n + 1 losses, t' is fixed and
    E[L_{n+1}(t')] is their mean, at most eps.

    Args:
        losses: shape (n, G), in [0, 1], nondecreasing along the grid.
        grid: shape (G,), ascending.
        eps: budget in (0, 1).

    Returns:
        The threshold; None (never skip, with loss 0) where none qualifies, as is sure for n < 1/eps - 1.

    Example:
        >>> conformal_threshold(np.zeros((9, 2)), np.array([0.5, 1.0]), 0.1)
        1.0
        >>> conformal_threshold(np.zeros((8, 2)), np.array([0.5, 1.0]), 0.1)
    """
    _check(losses, grid, eps)
    return _last_before_failure(losses.sum(axis=0) + 1.0 <= eps * (len(losses) + 1), grid)


def high_probability_threshold(
    losses: Array, grid: Array, eps: float, delta: float, bound: Bound = Bound.BETTING
) -> float | None:
    """Largest grid t such that H(t'): E[L(t')] > eps is rejected at level delta for every t' <= t [N, THEORY 6.4].

    With probability at least 1 - delta over n independent prompts, E[L(t)] <= eps. Proof: testing from small t and
    stopping at the first that is not rejected, t can only violate if the first true H was rejected, of probability at
    most delta; so the number of grid points costs nothing (fixed-sequence testing).

    Args:
        losses: shape (n, G), in [0, 1], nondecreasing along the grid.
        grid: shape (G,), ascending.
        eps: budget in (0, 1).
        delta: probability in (0, 1) that the statement fails.
        bound: chosen before the data are seen; taking the better of two afterwards is not valid.

    Returns:
        The threshold; None (never skip) where none qualifies.
    """
    _check(losses, grid, eps, delta)
    return _last_before_failure(p_values(losses, eps, bound) <= delta, grid)


def p_values(losses: Array, eps: float, bound: Bound = Bound.BETTING) -> Array:
    """p-value of H: E[L] > eps for each column of losses of shape (n, G): P(p <= delta) <= delta under H, any delta."""
    if bound is Bound.HOEFFDING_BENTKUS:
        return hoeffding_bentkus_p_value(losses.mean(axis=0), len(losses), eps)
    return betting_p_value(losses, eps)


def hoeffding_bentkus_p_value(mean: Array | float, n: int, eps: float) -> Array:
    """Hoeffding-Bentkus p-value of H: E[L] > eps from the mean R of n losses in [0, 1] [Learn then Test].

    p = min(exp(-n kl(min(R, eps), eps)), e P(Bin(n, eps) <= ceil(n R)), 1),
    kl(a, b) = a ln(a/b) + (1 - a) ln((1 - a)/(1 - b)). For R = 0 it is (1 - eps)^n.
    """
    mean = np.asarray(mean, dtype=np.float64)
    low = np.minimum(mean, eps)
    hoeffding = np.exp(-n * (rel_entr(low, eps) + rel_entr(1.0 - low, 1.0 - eps)))
    bentkus = np.e * bdtr(np.ceil(n * mean), n, eps)
    p: Array = np.minimum(np.minimum(hoeffding, bentkus), 1.0)
    return p


def betting_p_value(losses: Array, eps: float) -> Array:
    """Betting p-value of H: E[L] > eps [Waudby-Smith, Ramdas].

    p = min(1, 1/K), K = sum_j w_j prod_i (1 + c_j (eps - L_i)/(1 - eps)), (c_j, w_j) = `BETS`: the capital of a gambler
    who bets on losses below eps with the fraction c_j of the largest stake that cannot lose more than everything. Under
    H each factor has mean at most 1, so E[K] <= 1 for independent losses and P(K >= 1/delta) <= delta. The bets are
    constants, so that p does not depend on the order of the prompts, and increases with every loss.

    Most weight is on c = 1, prod (1 - L_i)/(1 - eps). For losses near a value m < eps nothing valid is much better: a
    loss might be 1 with probability q = (eps - m)/(1 - m) and near m otherwise, and n prompts miss that with
    probability (1 - q)^n, the inverse of that product. The smaller bets survive losses near 1.

    Args:
        losses: shape (n, G), in [0, 1].
        eps: budget in (0, 1).

    Returns:
        Shape (G,).
    """
    fractions, weights = np.array(BETS).T
    odds = (eps - losses) / (1.0 - eps)
    with np.errstate(divide="ignore"):  # a loss of 1 ends the bet c = 1: log 0
        log_capital = np.stack([np.log1p(np.maximum(c * odds, -1.0)).sum(axis=0) for c in fractions])
    p: Array = np.exp(-np.maximum(logsumexp(log_capital, axis=0, b=weights[:, None]), 0.0))
    return p


def prompts_needed(eps: float, mean_loss: float = 0.0) -> int | None:
    """Fewest prompts with which conformal risk control passes at a mean loss m: n >= (1 - eps)/(eps - m).

    For zero losses it is 1/eps - 1. None where m >= eps: no number is enough.

    >>> prompts_needed(0.02), prompts_needed(0.02, 0.01), prompts_needed(0.02, 0.02)
    (49, 98, None)
    """
    _check_level("eps", eps)
    if mean_loss >= eps:
        return None
    about = int((1.0 - eps) / (eps - mean_loss))
    return next(n for n in range(max(about - 1, 1), about + 3) if n * mean_loss + 1.0 <= eps * (n + 1))


def prompts_needed_high_probability(
    eps: float, delta: float, bound: Bound = Bound.BETTING, mean_loss: float = 0.0
) -> int | None:
    """Fewest prompts, each of loss `mean_loss`, that pass with probability 1 - delta; more where losses vary.

    None where mean_loss >= eps: no number is enough. Of the Hoeffding-Bentkus bound the first part alone is used, which
    is the smaller one for zero losses: n >= ln(delta)/ln(1 - eps).

    >>> prompts_needed_high_probability(0.02, 0.1, Bound.HOEFFDING_BENTKUS)
    114
    """
    _check_level("eps", eps)
    _check_level("delta", delta)
    if mean_loss >= eps:
        return None
    if bound is Bound.HOEFFDING_BENTKUS:
        divergence = float(rel_entr(mean_loss, eps) + rel_entr(1.0 - mean_loss, 1.0 - eps))
        return int(np.ceil(-np.log(delta) / divergence))
    fractions, weights = np.array(BETS).T
    growth = np.log1p(fractions * (eps - mean_loss) / (1.0 - eps))
    enough = int(np.ceil(np.log(1.0 / (delta * weights[0])) / growth[0]))
    return bisect_left(range(enough), True, key=lambda n: bool(logsumexp(n * growth, b=weights) >= -np.log(delta)))


def _last_before_failure(passes: NDArray[np.bool_], grid: Array) -> float | None:
    """Grid value of the last entry of the leading run of True."""
    run = int(np.argmin(np.append(passes, False)))
    return float(grid[run - 1]) if run else None


def _check(losses: Array, grid: Array, eps: float, delta: float | None = None) -> None:
    _check_level("eps", eps)
    if delta is not None:
        _check_level("delta", delta)
    if losses.ndim != 2 or len(losses) == 0 or losses.shape[1] != len(grid):
        raise InputError(f"losses of shape {losses.shape} are not allowed; give (prompts, {len(grid)})")
    if not (losses.min() >= 0 and losses.max() <= 1 and np.all(np.diff(losses, axis=1) >= 0)):
        raise InputError("losses are not allowed; give values in [0, 1], nondecreasing along the grid")


def _check_level(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name} {value} is not allowed; give a number between 0 and 1, both excluded")
