"""At most floor(1/(1-t)) tokens have u_bar <= t; for t < 1/2 only the argmax [N, THEORY 4.2].

Proof. By 4.2 the numbers 1 - u_bar_v are >= 0 and sum to 1; n of them are >= 1 - t only if n (1 - t) <= 1. For t <
1/2 that is n <= 1. softmax(z/theta) orders tokens as z does at every theta, so 1 - u_bar is largest at the argmax: it
is the one. (Tied largest logits have u_bar >= 1/2, and none is skipped.) The count is attained by n equal logits at t
= 1 - 1/n.
"""

from fractions import Fraction
from random import Random

import sympy as sp
from derivation import Derivation, Source, show, vanishes
from everywhere import RANDOM_CASES
from laws import random_law
from orderings import UndecidedError, sign
from truncation_monotone import sorted_laws

T = sp.Symbol("t", nonnegative=True)
RESULT = sp.floor(1 / (1 - T))


def derive() -> Derivation:
    """Certify the count on sorted laws, check it on averages of rational laws of one order, and that it is attained."""
    low, gap, theta = sp.symbols("z_v gap theta", positive=True)
    ratio = sp.exp((low + gap) / theta) / sp.exp(low / theta)
    ordered = vanishes(sp.log(ratio).simplify() - gap / theta) and (gap / theta).is_positive is True
    attained = all(RESULT.subs(T, 1 - sp.Rational(1, n)) == n for n in range(1, 9))
    rng = Random(0)
    return Derivation(
        name="skippable_tokens",
        theory="4.2",
        statement="at most floor(1/(1-t)) tokens have u_bar <= t; for t < 1/2 only the argmax can be skipped",
        latex=r"\bigl|\{v : \bar u_v \le t\}\bigr| \le \Bigl\lfloor \frac{1}{1 - t} \Bigr\rfloor",
        source=Source.OWN,
        assumptions=("u_bar is the integral of 4.2", "0 <= t < 1"),
        method="proof + every ordering for |V| = 2, 3 + random rationals",
        result=RESULT,
        holds=_certified() and ordered and attained and all(_random_case(rng) for _ in range(RANDOM_CASES)),
    )


def _certified() -> bool:
    """N times the n-th largest entry of a law is at most its total, so entries >= 1 - t number at most 1/(1-t)."""
    try:
        for size in (2, 3):
            (law,), _ = sorted_laws(size).laws()
            if any(sign(sum(law) - n * law[n - 1]) < 0 for n in range(1, size + 1)):
                return False
    except UndecidedError:
        return False
    return True


def _random_case(rng: Random) -> bool:
    """Agreement probabilities at a few temperatures, all sorted alike, averaged to 1 - u_bar."""
    size, nodes = rng.randint(2, 5), rng.randint(1, 4)
    laws = [sorted(random_law(rng, size), reverse=True) for _ in range(nodes)]
    u_bar = [1 - sum(law[v] for law in laws) / nodes for v in range(size)]
    for t in (Fraction(n, 24) for n in range(24)):
        skippable = [v for v in range(size) if u_bar[v] <= t]
        if len(skippable) > 1 / (1 - t) or (2 * t < 1 and skippable not in ([], [0])):
            return False
    return True


if __name__ == "__main__":
    show(derive)
