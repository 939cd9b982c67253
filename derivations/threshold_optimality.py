"""Among all rules that see u and the channel state h, a threshold is best [N, THEORY 6.2].

States (u, h) have probability w, rejection m = E[beta | u, h] = E[beta | u] and latency saved L = L(h) > 0 (L = 1:
skip rate). A rule s in [0, 1] gains Σ w s L at risk Σ w s m <= eps. Let s* skip where m < mu L, not where m > mu L,
and with a probability at m = mu L, mu > 0, such that its risk is eps.

Optimal (Neyman-Pearson exchange). For every rule s with risk <= eps, as (s* - s)(mu L - m) >= 0 in every state,
    mu (Σ w s* L - Σ w s L) = Σ w (s* - s)(mu L - m) + (eps - Σ w s m) >= 0.
Such mu and atom exist unless the rule that skips everything is feasible, which is then optimal, or eps is 0, when
exactly the states with m = 0 are skipped.

Dual. By LP duality the value is min over lambda >= 0 of lambda eps + Σ w (L - lambda m)+, attained at lambda = 1/mu:
there s* maximises each Σ w s (L - lambda m) and spends eps. For each h, m <= mu L(h) is a threshold in u, as E[beta |
u] is nondecreasing. An LP that sees the beta of each token knows more than any rule: it skips tokens with beta = 0 at
no risk, whatever u says.
"""

from fractions import Fraction
from itertools import product
from random import Random

import sympy as sp
from derivation import Derivation, Source, show
from orderings import UndecidedError, sign
from sympy.polys.fields import field

CASES = 60
MEAN_BETA, LATENCY, MU = sp.symbols("m L mu", positive=True)
RESULT = sp.Le(MEAN_BETA, MU * LATENCY)
"""Skip iff it holds, with a coin at equality."""

State = tuple[Fraction, Fraction, Fraction]
"""(w, m, L)."""


def threshold_value(states: list[State], budget: Fraction) -> tuple[Fraction, list[Fraction]]:
    """Gain and skip probabilities of the threshold rule: states in increasing m / L until the budget is spent."""
    skip, left = [Fraction(0)] * len(states), budget
    for at in sorted(range(len(states)), key=lambda j: states[j][1] / states[j][2]):
        weight, risk, _ = states[at]
        skip[at] = Fraction(1) if weight * risk <= left else left / (weight * risk)
        left -= skip[at] * weight * risk
    return sum(w * s * gain for (w, _, gain), s in zip(states, skip, strict=True)), skip


def dual_value(states: list[State], budget: Fraction) -> Fraction:
    """The dual's minimum: convex and piecewise linear in lambda, so over its breakpoints L/m and 0."""
    breakpoints = [Fraction(0)] + [gain / risk for _, risk, gain in states if risk > 0]
    return min(b * budget + sum(w * max(gain - b * risk, Fraction(0)) for w, risk, gain in states) for b in breakpoints)


def derive() -> Derivation:
    """Certify the exchange for 2 and 3 states; on rationals compare rule, all vertices of the LP, and dual."""
    rng = Random(0)
    return Derivation(
        name="threshold_optimality",
        theory="6.2",
        statement="among rules that see u and the channel state, the latency saved under E[s beta] <= eps is "
        "largest for: skip iff E[beta | u] <= mu L(h), randomised at an atom; the LP over levels of u has"
        " the same value, its dual variable is 1/mu, and an LP that sees each token's beta can exceed it",
        latex=r"s^\star = \mathbf{1}\bigl[\mathrm{E}[\beta \mid u] \le \mu L(h)\bigr], \\"
        r" \max_{s} \mathrm{E}[s L] = \min_{\lambda \ge 0} \lambda \epsilon + \mathrm{E}[(L - \lambda \beta_u)_+],"
        r" \\ \beta_u = \mathrm{E}[\beta \mid u], \; \lambda^\star = 1/\mu",
        source=Source.OWN,
        assumptions=(
            "beta and the channel are independent given u",
            "E[beta | u] is nondecreasing in u (for a threshold in u)",
            "per step: skipping also changes later contexts",
        ),
        method="proof + every ordering of m and mu L for 2 and 3 states + LP vertices and dual on random rationals",
        result=RESULT,
        holds=_exchange() and all(_optimal(rng) for _ in range(CASES)) and _oracle_exceeds(),
    )


def _exchange() -> bool:
    """The identity for mu times the difference of gains, and its sign, with m below, at or above mu L in each state."""
    try:
        return all(_exchanged(sides) for size in (2, 3) for sides in product((-1, 0, 1), repeat=size))
    except UndecidedError:
        return False


def _exchanged(sides: tuple[int, ...]) -> bool:
    size = len(sides)
    names = [f"{letter}{j}" for letter in "wgabcd" for j in range(size)]
    _, *symbols = field(["slack", "mu", *names, *(f"l{j}" for j in range(size))], sp.QQ)
    slack, mu, rest = symbols[0], symbols[1], symbols[2:]
    w, gap, a, b, c, d, gain = (rest[size * n : size * (n + 1)] for n in range(7))
    rule = [p / (p + q) for p, q in zip(a, b, strict=True)]  # any s in [0, 1]
    best = [{-1: 0, 0: p / (p + q), 1: 1}[side] for side, p, q in zip(sides, c, d, strict=True)]
    # side 1: m = mu L - gap >= 0 below the threshold; side -1 above it
    risk = [mu * g - side * h for side, g, h in zip(sides, gain, gap, strict=True)]
    spent = sum(p * s * m for p, s, m in zip(w, rule, risk, strict=True))
    budget = spent + slack
    exchanged = sum(p * (s - r) * (mu * g - m) for p, s, r, g, m in zip(w, best, rule, gain, risk, strict=True))
    difference = sum(p * (s - r) * g for p, s, r, g in zip(w, best, rule, gain, strict=True))
    overspent = sum(p * s * m for p, s, m in zip(w, best, risk, strict=True)) - budget
    return mu * difference - overspent == exchanged + slack and sign(exchanged + slack) >= 0


def _random_states(rng: Random) -> list[State]:
    levels, channels = rng.randint(2, 3), rng.randint(1, 2)
    means = sorted(Fraction(rng.randint(0, 8), 8) for _ in range(levels))
    p_u = [Fraction(rng.randint(1, 4)) for _ in means]
    p_h = [(Fraction(rng.randint(1, 3)), Fraction(rng.randint(1, 5))) for _ in range(channels)]
    total = sum(p_u) * sum(p for p, _ in p_h)
    return [(p * q / total, m, gain) for q, gain in p_h for p, m in zip(p_u, means, strict=True)]


def _optimal(rng: Random) -> bool:
    states, budget = _random_states(rng), Fraction(rng.randint(0, 12), 24)
    value, skip = threshold_value(states, budget)
    levels = len({m for _, m, _ in states})
    in_order = all(  # at one channel state skipping does not increase with m
        s >= t
        for (_, m, gain), s in zip(states, skip, strict=True)
        for (_, n, other), t in zip(states, skip, strict=True)
        if gain == other and m < n
    )
    return levels > 0 and in_order and value == dual_value(states, budget) == _best_vertex(states, budget)


def _best_vertex(states: list[State], budget: Fraction) -> Fraction:
    """Largest gain over the vertices of the LP: all s_j in {0, 1} but one at most, which spends the rest."""
    best = Fraction(0)
    for certain in product((0, 1), repeat=len(states)):
        left = budget - sum(w * m for (w, m, _), s in zip(states, certain, strict=True) if s)
        if left < 0:
            continue
        gain = sum(w * g for (w, _, g), s in zip(states, certain, strict=True) if s)
        partial = [min(left / (w * m), 1) * w * g for (w, m, g), s in zip(states, certain, strict=True) if not s and m]
        best = max(best, gain + max(partial, default=Fraction(0)))
    return best


def _oracle_exceeds() -> bool:
    """One level of u, beta 0 or 1 with equal chance, no budget: no rule skips, the oracle skips half of the tokens."""
    half = Fraction(1, 2)
    seen = [(Fraction(1), half, Fraction(1))]
    tokens = [(half, Fraction(0), Fraction(1)), (half, Fraction(1), Fraction(1))]
    return threshold_value(seen, Fraction(0))[0] == 0 and threshold_value(tokens, Fraction(0))[0] == half


if __name__ == "__main__":
    show(derive)
