"""TV(x, x_hat_k) has a closed form and does not increase along growing kept sets [N, THEORY 4.6].

Let A be the kept set, n = |V| - |A| > 1 and m the mean of x over the tail, so x_hat = x on A and m on the tail.

Form. x - x_hat is x - m on the tail, 0 elsewhere, so TV(x, x_hat) = Σ_tail (x_i - m)+ = 1/2 Σ_tail |x_i - m|.

Monotone. Add any tail token j to A; m' is the mean of the rest. (n-1)(m' - m) = n m - x_j - (n-1) m = m - x_j, so
    Σ_{i != j} |x_i - m'| <= Σ_{i != j} |x_i - m| + (n-1) |m - m'| = Σ_{i != j} |x_i - m| + |x_j - m|,
which is the sum before. For k largest entries this makes the smallest k with TV(x, x_hat_k) <= tolerance a bisection.
With n = 1 nothing is spread, and the distance is 0 before and after.
"""

from fractions import Fraction
from itertools import combinations
from random import Random

import sympy as sp
from derivation import Derivation, Source, show
from everywhere import RANDOM_CASES
from laws import Masses, positive_part, random_law, total_variation, truncated
from orderings import Region, UndecidedError, sign

X = sp.symbols("x1:4", nonnegative=True)
RESULT = sp.Tuple(*(sum(positive_part(x - sum(X[k:]) / (3 - k)) for x in X[k:]) for k in range(3)), sp.Integer(0))
"""TV(x, x_hat_k) for k = 0, 1, 2, 3, x1 >= x2 >= x3."""


def sorted_laws(size: int) -> Region:
    """All laws with x_1 >= x_2 >= ...: nonnegative combinations of the laws that are even on the first tokens."""
    return Region(cases=tuple((tuple(Fraction(int(v <= last)) for v in range(size)),) for last in range(size)))


def derive() -> Derivation:
    """Check form and monotony on sorted laws of 2 and 3 symbols, for all kept sets, and on rationals."""
    (two,), _ = sorted_laws(2).laws()
    halves = sorted_laws(3).halves(lambda case: 3 * case[0][1] - sum(case[0]))
    rng = Random(0)
    try:
        certified = _holds(two) and all(_holds(region.laws()[0][0]) for region in halves)
    except UndecidedError:
        certified = False
    return Derivation(
        name="truncation_monotone",
        theory="4.6",
        statement="TV(x, x_hat_k) = sum_{i>k} (x_(i) - m_k)+, m_k the mean of the tail, and it does not increase "
        "along growing kept sets",
        latex=r"\mathrm{TV}(x, \hat x_k) = \sum_{i > k} (x_{(i)} - m_k)_+ \;\ge\; \mathrm{TV}(x, \hat x_{k+1})",
        source=Source.OWN,
        assumptions=("kept probabilities are exact", "the rest is spread evenly"),
        method="proof + every ordering for |V| = 2, 3 + random rationals",
        result=RESULT,
        holds=certified and all(_holds(random_law(rng, rng.randint(2, 6))) for _ in range(RANDOM_CASES)),
    )


def _holds(x: Masses) -> bool:
    size = len(x)
    for k in range(size):
        for kept in combinations(range(size), k):
            tail = [v for v in range(size) if v not in kept]
            mean = sum(x[v] for v in tail) / len(tail)
            before = total_variation(x, truncated(x, kept))
            if before != sum(positive_part(x[v] - mean) for v in tail):
                return False
            if any(sign(before - total_variation(x, truncated(x, (*kept, j)))) < 0 for j in tail):
                return False
    return True


if __name__ == "__main__":
    show(derive)
