"""Thresholds that follow the channel: skip iff E[beta | u] <= mu L(h) [N, THEORY 6.2].

Where a transmission would cost much, L(h), more risk is taken; where little, less. With beta and the state of the
channel h independent given u, and E[beta | u] nondecreasing, this saves the most latency of all rules that see u and h
within a bias budget. E[beta | u] is the isotonic regression of the recorded risk on the recorded uncertainty: the
slopes of the greatest convex minorant of risk against skip rate.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.errors import InputError
from cuhlm_opt.solve.certificate import CertifiedThreshold, certify
from cuhlm_opt.solve.losses import LossUnit, losses_of, threshold_grid
from cuhlm_opt.solve.skipping import Curve
from cuhlm_opt.solve.threshold import Gate

_Floats = NDArray[np.float64]

_GRID = 200
"""Values of mu that may be certified."""
FIT_EVERY = 4
"""One prompt of so many gives E[beta | u] where the rule is certified on the others."""


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """E[beta | u], nondecreasing: levels of u with equal means are pooled into blocks.

    Args:
        ends: largest u of each block, shape (m,), increasing; the last is 1.
        mass: probability of u in the block, shape (m,), > 0.
        beta: mean of beta in the block, shape (m,), increasing.
    """

    ends: _Floats
    mass: _Floats
    beta: _Floats

    @classmethod
    def of(cls, curve: Curve) -> "Rejection":
        """Isotonic regression over the levels of a curve.

        >>> curve = Curve(levels=np.array([0.1, 0.3, 1.0]), skip_rate=np.array([0.5, 0.8, 1.0]),
        ...               risk=np.array([0.05, 0.05, 0.15]), query=None)
        >>> found = Rejection.of(curve)
        >>> found.ends.tolist(), found.beta.round(4).tolist()
        ([0.3, 1.0], [0.0625, 0.5])
        """
        from scipy.optimize import isotonic_regression

        mass = np.diff(curve.skip_rate, prepend=0.0)
        some = mass > 0
        levels, mass, risk = curve.levels[some], mass[some], np.diff(curve.risk[some], prepend=0.0)
        fitted = isotonic_regression(risk / mass, weights=mass)
        first = fitted.blocks[:-1]
        return cls(ends=levels[fitted.blocks[1:] - 1], mass=np.add.reduceat(mass, first), beta=fitted.x[first])

    def thresholds(self, mu: float, latencies_s: _Floats) -> list[float | None]:
        """Largest u with E[beta | u] <= mu L in each state; None where there is none."""
        reached = np.searchsorted(self.beta, mu * latencies_s * (1 + 1e-12), side="right")
        return [float(self.ends[at - 1]) if at else None for at in reached]

    def between(self, u: _Floats) -> _Floats:
        """E[beta | u] interpolated linearly, so that thresholds move in small steps; shape of `u`, nondecreasing."""
        steps = np.append((self.beta[:-1] + self.beta[1:]) / 2, self.beta[-1])
        return np.interp(u, np.append(0.0, self.ends), np.append(self.beta[0] / 2, steps))

    def prices(self, latencies_s: _Floats) -> _Floats:
        """Every mu at which a threshold moves, increasing; first 0, which keeps what is never rejected."""
        return np.unique(np.append(self.beta[:, None] / latencies_s, 0.0))


@dataclass(frozen=True, kw_only=True)
class BestRule:
    """The rule of the most latency saved within a bias, and what it is worth."""

    mu: float
    """Price: skip iff E[beta | u] < mu L, and by a coin of probability `share` where it is equal."""
    share: float
    saved_s: float
    """Mean latency saved per token."""


def best_rule(rejection: Rejection, probabilities: _Floats, latencies_s: _Floats, budget: float) -> BestRule:
    """Solve max sum pi_h L_h s_lh m_l subject to sum pi_h s_lh m_l beta_l <= budget, 0 <= s <= 1 [N, THEORY 6.2].

    Proof: a fractional knapsack; cells (l, h) are taken by latency saved per risk, L_h / beta_l, the best first.

    Args:
        rejection: E[beta | u].
        probabilities: of the states, shape (H,), sum 1.
        latencies_s: L > 0 of each state, shape (H,).
        budget: bias in [0, 1].
    """
    mass = rejection.mass[:, None] * probabilities
    risk, price = mass * rejection.beta[:, None], rejection.beta[:, None] / latencies_s
    order = np.argsort(price, axis=None, kind="stable")
    risks, saved, prices = risk.ravel()[order], (mass * latencies_s).ravel()[order], price.ravel()[order]
    spent = np.cumsum(risks)
    at = int(np.searchsorted(spent, budget, side="right"))
    if at == len(order):
        return BestRule(mu=float(prices[-1]), share=1.0, saved_s=float(saved.sum()))
    before = float(spent[at - 1]) if at else 0.0
    share = (budget - before) / float(risks[at])
    return BestRule(mu=float(prices[at]), share=share, saved_s=float(saved[:at].sum() + share * saved[at]))


@dataclass(frozen=True, kw_only=True)
class Follower:
    """Chooses the thresholds of one gate over the states of one link.

    Args:
        gate: the skipping rule on all records.
        probabilities: of the states, shape (H,).
        latencies_s: what a transmission would cost in each, shape (H,), > 0.
    """

    gate: Gate
    probabilities: _Floats
    latencies_s: _Floats

    def risk(self, thresholds: Sequence[float | None]) -> float:
        """Mean skip risk over positions and states."""
        return float(self.probabilities @ [np.mean(self.gate.at(threshold).risk) for threshold in thresholds])

    def saved_s(self, thresholds: Sequence[float | None]) -> float:
        """Mean latency saved per token."""
        skip = [self.gate.curve.skip_at(threshold) for threshold in thresholds]
        return float(self.probabilities * self.latencies_s @ skip)

    def within(self, budget: float) -> Sequence[float | None]:
        """Thresholds within the budget that save the most, plug-in.

        No coin is tossed where a block fits in part only: of the largest mu within the budget, the next one and one
        threshold for all, each fitted to the budget, the best is taken.
        """
        rejection = self.gate.remembered("rejection", lambda: Rejection.of(self.gate.curve))
        prices = rejection.prices(self.latencies_s)
        rules = [rejection.thresholds(float(mu), self.latencies_s) for mu in prices]
        beyond = bisect_left(rules, True, key=lambda rule: self.risk(rule) > budget)
        states = len(self.latencies_s)
        starts = [[self.gate.largest_within(budget)] * states, *rules[max(beyond - 1, 0) : beyond + 1]]
        return max((self._fitted(start, budget) for start in starts), key=self.saved_s)

    def _fitted(self, thresholds: Sequence[float | None], budget: float) -> Sequence[float | None]:
        """Give up where asking costs least until the budget is kept, then take what is left where it costs most."""
        found, costliest = list(thresholds), np.argsort(-self.latencies_s)
        for state in costliest[::-1]:
            if self.risk(found) <= budget:
                break
            found[state] = None
        for state in costliest:
            others = self.risk([*found[:state], None, *found[state + 1 :]])
            left = (budget - others) / self.probabilities[state]
            most = self.gate.largest_within(left) if left >= 0 else None
            if most is not None and (found[state] is None or most > found[state]):
                found[state] = most
        return found

    def certified(
        self, budget: float, max_tokens: int, delta: float | None
    ) -> tuple[Sequence[float | None], CertifiedThreshold]:
        """Thresholds of the largest mu that is certified, as one threshold is [N, THEORY 6.4].

        E[beta | u] comes from every `FIT_EVERY`th prompt, and mu from the others: for these the thresholds are a fixed
        family, their loss does not decrease with mu, and the guarantee holds.
        """
        if self.gate.records.n_prompts < 2:
            raise InputError("--adaptive with --policy certified needs records of 2 prompts at least")
        prompts = np.arange(self.gate.records.n_prompts)
        grid = threshold_grid()
        beta = Rejection.of(self.gate.of_prompts(prompts[::FIT_EVERY]).curve).between(grid)
        prices = np.unique(beta[:, None] / self.latencies_s)
        prices = prices[np.unique(np.linspace(0, len(prices) - 1, _GRID).astype(int))]
        places = np.searchsorted(beta, prices[:, None] * self.latencies_s * (1 + 1e-12), side="right")
        held = self.gate.of_prompts(prompts[prompts % FIT_EVERY != 0])
        sums = np.column_stack([np.zeros(held.records.n_prompts), held.risk_sums])
        mixed = np.column_stack([sums[:, place] @ self.probabilities for place in places])
        lengths = np.bincount(held.records.prompt)
        losses = losses_of(mixed, lengths, max_tokens=max_tokens, unit=LossUnit.EMITTED, eps=budget)
        found = certify(losses, prices, budget, delta)
        if found.threshold is None:
            return [None] * len(self.latencies_s), found
        place = places[int(np.searchsorted(prices, found.threshold))]
        return [float(grid[at - 1]) if at else None for at in place], found
