"""The even tail is the best constant tail; the k largest entries are not always the best kept set [N, THEORY 4.6].

Proof. Let A be the kept set, m the mean of x over its n tail tokens, and x' any law that is a constant c on the tail,
with whatever entries on A. The two laws have equal totals, so the entries on A differ by at least |Σ_A (x_i - x'_i)|
= n |c - m|, and
    TV(x, x') >= 1/2 (n |c - m| + Σ_tail |x_i - c|) >= 1/2 Σ_tail |x_i - m| = TV(x, x_hat).
With x = (.33, .33, .33, .01) and k = 1, keeping the smallest entry costs nothing, keeping a largest one 16/75.
"""

from fractions import Fraction
from itertools import combinations
from random import Random

import sympy as sp
from derivation import Derivation, Source, show
from everywhere import METHOD, RANDOM_CASES
from laws import Masses, positive_part, random_law, total_variation, truncated
from orderings import Region, UndecidedError, orderings, sign

X = sp.symbols("x1:4", nonnegative=True)
RESULT = sum(positive_part(x - (X[1] + X[2]) / 2) for x in X[1:])
"""The least TV(x, x') over laws x' that are constant on the tokens 2 and 3."""


def derive() -> Derivation:
    """Check laws with a constant tail against the even one, in every case, and the counterexample for the k largest."""
    case = [Fraction(33, 100)] * 3 + [Fraction(1, 100)]
    top_k = [total_variation(case, truncated(case, (token,))) for token in (0, 3)] == [Fraction(16, 75), 0]
    rng = Random(0)
    return Derivation(
        name="even_tail",
        theory="4.6",
        statement="among all laws that are constant off the kept set, x_hat (kept entries exact, even tail) is "
        "nearest to x in TV; the k largest entries are not always the best kept set: (.33, .33, .33, "
        ".01), k = 1",
        latex=r"\mathrm{TV}(x, \hat x) = \min \{ \mathrm{TV}(x, x') : x' \text{ constant off the kept set} \}",
        source=Source.OWN,
        assumptions=("kept probabilities are exact",),
        method=METHOD,
        result=RESULT,
        holds=_certified() and all(_random_case(rng) for _ in range(RANDOM_CASES)) and top_k,
    )


def _certified() -> bool:
    try:
        return all(
            _nearest(*region.laws()[0], tail)
            for size in (2, 3)
            for whole in orderings(2, size)
            for n in range(2, size + 1)
            for tail in combinations(range(size), n)
            for region in _constant_on(whole, tail)
        )
    except UndecidedError:
        return False


def _constant_on(whole: Region, tail: tuple[int, ...]) -> list[Region]:
    """Parts of a region where the second law is constant on the tail and the signs of x - m on the tail are known."""
    for other in tail[1:]:
        whole = whole.cut(lambda case, other=other: case[1][other] - case[1][tail[0]], keep_positive=False)
    parts = [whole]
    for token in tail:
        above = lambda case, token=token: len(tail) * case[0][token] - sum(case[0][v] for v in tail)  # noqa: E731
        parts = [half for part in parts for half in part.halves(above)]
    return parts


def _nearest(x: Masses, other: Masses, tail: tuple[int, ...]) -> bool:
    kept = [v for v in range(len(x)) if v not in tail]
    return sign(total_variation(x, other) - total_variation(x, truncated(x, kept))) >= 0


def _random_case(rng: Random) -> bool:
    size = rng.randint(3, 6)
    x, other = random_law(rng, size), random_law(rng, size)
    tail = tuple(sorted(rng.sample(range(size), rng.randint(2, size))))
    mean = sum(other[v] for v in tail) / len(tail)
    return _nearest(x, [mean if v in tail else other[v] for v in range(size)], tail)


if __name__ == "__main__":
    show(derive)
