"""The published thresholds [P2, THEORY 2.4] are where the line E[beta | u] = a u + b crosses 0 and Delta.

With a > 0 the line increases, so a u + b <= level exactly for u <= (level - b)/a. Level 0 gives the risk-averse
threshold, level Delta = P(y_d < x_d) the risk-prone one. The published numbers follow from the published fits (a, b)
= (0.815, -0.066) and (0.82, -0.06), the two Delta being implied by the two risk-prone thresholds.
"""

import sympy as sp
from derivation import Derivation, Source, show, vanishes

A, B, DELTA, U = sp.symbols("a b Delta u", real=True)
FITS = {"CU-HLM": ("0.815", "-0.066"), "U-HLM": ("0.82", "-0.06")}
RISK_AVERSE = {"CU-HLM": "0.0810", "U-HLM": "0.0732"}
RISK_PRONE = {"CU-HLM": ("0.8117", "0.5955"), "U-HLM": ("0.43", "0.2926")}
"""Published threshold, and the Delta that it implies."""


def derive() -> Derivation:
    """Solve for both thresholds and recompute the published numbers to their four digits."""
    line = A * U + B
    averse, prone = (sp.solve(sp.Eq(line, level), U)[0] for level in (0, DELTA))
    implied = sp.solve(sp.Eq(U, prone), DELTA)[0]
    slope, gap = sp.symbols("slope gap", positive=True)
    increases = line.subs({A: slope, U: prone.subs(A, slope) + gap}) - DELTA
    numbers = []
    for name, (a, b) in FITS.items():
        fit = {A: sp.Rational(a), B: sp.Rational(b)}
        threshold, delta = map(sp.Rational, RISK_PRONE[name])
        numbers.append(_rounded(averse.subs(fit)) == sp.Rational(RISK_AVERSE[name]))
        numbers.append(_rounded(implied.subs(fit).subs(U, threshold)) == delta)
    return Derivation(
        name="published_thresholds",
        theory="2.4",
        statement="for a > 0: a u + b <= 0 iff u <= -b/a, and a u + b <= Delta iff u <= (Delta - b)/a; the "
        "published 0.0810, 0.0732 and the implied Delta 0.5955, 0.2926 follow from the published fits",
        latex=r"u_{\mathrm{averse}} = -\frac{b}{a}, \qquad u_{\mathrm{prone}} = \frac{\Delta - b}{a}",
        source=Source.REIMPLEMENTED,
        assumptions=("E[beta | u] = a u + b", "a > 0"),
        method="algebra",
        result=sp.Tuple(averse, prone),
        holds=vanishes(averse + B / A, prone - (DELTA - B) / A)
        and sp.expand(increases).is_positive is True
        and all(numbers),
    )


def _rounded(value: sp.Rational) -> sp.Rational:
    return sp.floor(value * 10**4 + sp.Rational(1, 2)) / 10**4


if __name__ == "__main__":
    show(derive)
