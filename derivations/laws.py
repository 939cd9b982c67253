"""Laws on a small vocabulary in exact arithmetic, and one step of the decoder as the law of its output.

Entries are `Fraction` (one case), elements of a sympy fraction field (a whole region of cases, see orderings.py) or
sympy expressions (a formula): the same code runs on all. Laws are masses with one common total, which need not be 1.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from random import Random
from typing import Any

import sympy as sp
from orderings import UndecidedError, sign

Number = Any
Masses = Sequence[Number]


def positive_part(value: Number) -> Number:
    """(value)+."""
    if isinstance(value, sp.Expr):
        return sp.Max(0, value)
    return value if sign(value) >= 0 else 0 * value


def total_variation(p: Masses, q: Masses) -> Number:
    """TV(p, q) = sum (p - q)+ for masses of equal total."""
    return sum(positive_part(a - b) for a, b in zip(p, q, strict=True))


def normalised(masses: Masses) -> list[Number]:
    """Masses divided by their sum, which is not 0."""
    total = sum(masses)
    return [mass / total for mass in masses]


def residual(y: Masses, x: Masses) -> list[Number]:
    """norm((y - x)+), or y where that vanishes: the fallback that keeps every step defined."""
    excess = [positive_part(b - a) for a, b in zip(x, y, strict=True)]
    return normalised(excess) if sum(excess) != 0 else normalised(y)


def rejection(tested: Number, y: Number) -> Number:
    """Beta = (1 - y/tested)+, and 1 where y = 0."""
    if y == 0:
        return 0 * y + 1
    shortfall = positive_part(tested - y)
    return shortfall / tested if shortfall != 0 else shortfall


def step(x: Masses, y: Masses, skip: Masses, tested: Masses, rebuilt: Masses) -> list[Number]:
    """Law of the output of one step, total as that of x.

    A draft d ~ x is kept without asking with probability skip_d. Otherwise it is accepted with probability
    min(1, y_d / tested_d), and replaced by a draw from norm((y - rebuilt)+) where it is not.
    """
    asked = [(1 - s) * mass for s, mass in zip(skip, x, strict=True)]
    rejected = [mass * rejection(t, b) for mass, t, b in zip(asked, tested, y, strict=True)]
    redrawn = sum(rejected)
    return [mass - lost + redrawn * share for mass, lost, share in zip(x, rejected, residual(y, rebuilt), strict=True)]


def skip_risk(x: Masses, y: Masses, skip: Masses) -> Number:
    """E_{d~x}[s_d beta_d] = sum_v s_v (x_v - y_v)+."""
    return sum(s * positive_part(a - b) for s, a, b in zip(skip, x, y, strict=True))


def at_most(p: Masses, q: Masses, bound: Number) -> bool:
    """Whether TV(p, q) <= bound: p(A) - q(A) <= bound for every set A.

    Where the sign of p_v - q_v is known on the region, v is in the worst set or not; the others are tried both ways.
    """
    rest, unknown = bound, []
    for a, b in zip(p, q, strict=True):
        try:
            rest -= positive_part(a - b)
        except UndecidedError:
            unknown.append(a - b)
    sets = product((0, 1), repeat=len(unknown))
    return all(sign(rest - sum(gap for inside, gap in zip(s, unknown, strict=True) if inside)) >= 0 for s in sets)


def random_law(rng: Random, size: int, sparse: bool = True) -> list[Fraction]:
    """A random law with small denominators: zeros (unless not `sparse`) and ties are common, as they should be."""
    weights = [0]
    while sum(weights) == 0:
        weights = [rng.randint(0 if sparse else 1, 7) for _ in range(size)]
    return [Fraction(weight, sum(weights)) for weight in weights]


def random_skip(rng: Random, size: int) -> list[Fraction]:
    """Skip probabilities s_v: certain ones, coins, and none."""
    return [Fraction(rng.choice((0, 0, 1, 2, 3, 4, 4)), 4) for _ in range(size)]


def truncated(x: Masses, kept: Sequence[int]) -> list[Number]:
    """Masses of x on `kept`, the rest spread evenly elsewhere."""
    tail = [v for v in range(len(x)) if v not in kept]
    mean = sum(x[v] for v in tail) / len(tail) if tail else 0
    return [x[v] if v in kept else mean for v in range(len(x))]
