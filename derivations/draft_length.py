"""Tokens per round and the best number of drafts [N, THEORY 7.2; the setting is that of Leviathan et al. 2023].

A round of g drafts, each accepted with probability alpha independently, puts out 1 + (number accepted before the
first failure) tokens: E = Σ_{i=0}^g alpha^i = (1 - alpha^(g+1))/(1 - alpha). With draft time L in units of the rest
of a round, S(g) = E/(g L + 1).

Optimum over real g. With A = -ln alpha and z = 1 + A (g + 1/L), d ln S/dg has the
sign of z alpha^(g+1) - 1, and alpha^(g+1) = e^-z / c with c = exp(-(1 + A (1/L - 1))), hence the sign of z e^-z - c.
z e^-z decreases for z > 1, so S rises up to the one root of z e^-z = c and falls after it: -z = W_{-1}(-c), g* = (z -
1)/A - 1/L. It is positive iff d ln S/dg > 0 at g = 0, i.e. L < alpha A/(1 - alpha); otherwise S falls from g = 0 on.
S has one peak, so the best whole g is the floor or the ceiling of g*, or 0.
"""

from math import ceil, floor

import sympy as sp
from derivation import Derivation, Source, show, vanishes

ALPHA, DRAFT_TIME, G = sp.symbols("alpha L g", positive=True)
TOKENS = (1 - ALPHA ** (G + 1)) / (1 - ALPHA)
SPEED = TOKENS / (G * DRAFT_TIME + 1)
_A = -sp.log(ALPHA)
_Z = -sp.LambertW(-sp.exp(-(1 + _A * (1 / DRAFT_TIME - 1))), -1)
BEST = (_Z - 1) / _A - 1 / DRAFT_TIME
LIMIT = ALPHA * _A / (1 - ALPHA)
"""Draft times below it make drafting worth while."""
RESULT = sp.Piecewise((BEST, DRAFT_TIME < LIMIT), (0, True))
QUOTED = {("0.5", "0.07"): "2.673", ("0.8", "0.3"): "2.911", ("0.9", "0.05"): "13.29"}


def derive() -> Derivation:
    """Sum the tokens, reduce the condition of the optimum to z e^-z = c, and compare whole optima with a search."""
    i, whole = sp.symbols("i n", integer=True, nonnegative=True)
    ratio = sp.Symbol("r", positive=True)
    summed = sp.summation(ratio**i, (i, 0, whole)).args[1][0]  # the branch r != 1
    a, z = sp.symbols("A z", positive=True)
    at = {ALPHA: sp.exp(-a), G: (z - 1) / a - 1 / DRAFT_TIME}
    slope = sp.diff(sp.log(1 - ALPHA ** (G + 1)) - sp.log(G * DRAFT_TIME + 1), G)
    c = sp.exp(-(1 + a * (1 / DRAFT_TIME - 1)))
    power = sp.exp(-z) / c  # alpha^(g+1)
    sign = (z * power - 1) * a / ((z - 1) * (1 - power))
    at_zero = slope.subs(G, 0) - (ALPHA * _A / (1 - ALPHA) - DRAFT_TIME)
    return Derivation(
        name="draft_length",
        theory="7.2",
        statement="g drafts put out (1 - alpha^(g+1))/(1 - alpha) tokens a round; S(g) = that / (g L + 1) is "
        "largest at g* = (z - 1)/A - 1/L, A = -ln alpha, z = -W_{-1}(-exp(-(1 + A (1/L - 1)))), if L < "
        "alpha A/(1 - alpha), else at 0; 2.673, 2.911, 13.29 at (alpha, L) = (.5, .07), (.8, .3), (.9, "
        ".05)",
        latex=r"S(g) = \frac{1 - \alpha^{g+1}}{(1 - \alpha)(g L + 1)}, \\ g^\star = \frac{z - 1}{A} - \frac1L,"
        r" \quad A = -\ln \alpha, \quad z = -W_{-1}\bigl(-e^{-(1 + A(1/L - 1))}\bigr)",
        source=Source.OWN,
        assumptions=("acceptances are independent, of probability alpha in (0, 1)", "L > 0"),
        method="algebra + search over whole g",
        result=RESULT,
        holds=vanishes(
            summed - TOKENS.subs({ALPHA: ratio, G: whole}),
            (ALPHA ** (G + 1)).subs(at, simultaneous=True) - power,
            sp.expand_log(slope.subs(at, simultaneous=True), force=True) - sign,
            sp.diff(z * sp.exp(-z), z) - (1 - z) * sp.exp(-z),
            at_zero,
        )
        and all(_quoted(*map(sp.Rational, point), sp.Rational(value)) for point, value in QUOTED.items())
        and all(_whole(sp.Rational(n, 20), sp.Rational(m, 20)) for n in (2, 9, 14, 18) for m in (1, 5, 12, 22)),
    )


def _quoted(alpha: sp.Rational, draft_time: sp.Rational, value: sp.Rational) -> bool:
    at = {ALPHA: alpha, DRAFT_TIME: draft_time}
    digits = sp.Integer(10) ** (3 if value < 10 else 2)
    residual = sp.diff(sp.log(SPEED), G).subs({**at, G: BEST}).evalf(30, subs=at)
    rounded = sp.floor(RESULT.subs(at).evalf(30) * digits + sp.Rational(1, 2)) / digits
    return rounded == value and abs(residual) < 1e-20


def _whole(alpha: sp.Rational, draft_time: sp.Rational) -> bool:
    """The best whole g is among 0 and the neighbours of g*."""
    speed = lambda g: (1 - alpha ** (g + 1)) / ((1 - alpha) * (g * draft_time + 1))  # noqa: E731
    best = float(RESULT.subs({ALPHA: alpha, DRAFT_TIME: draft_time}).evalf())
    return max(map(speed, {0, floor(best), ceil(best)})) == max(map(speed, range(ceil(best) + 30)))


if __name__ == "__main__":
    show(derive)
