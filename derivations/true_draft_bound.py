"""(B) Test with the true x_d, redraw with x_hat: a bound from a lemma on residual laws [N, THEORY 4.4].

Write f = (y - x)+, g = (y - x_hat)+, R = Σ f = TV(x, y), R' = Σ g = TV(x_hat, y).

Lemma. TV(f/R, g/R') <= TV(x, x_hat) / max(R, R') for R, R' > 0. Proof. If R >= R', then g/R' >= g/R, so
    TV(f/R, g/R') = Σ (f/R - g/R')+ <= Σ (f - g)+ / R <= Σ (x_hat - x)+ / R = TV(x, x_hat)/R,
as (y - x)+ - (y - x_hat)+ <= (x_hat - x)+. If R' >= R, the same with the two laws exchanged.

Bound. A draft is rejected with probability R, so output - y = R g/R' - f = R (g/R' - f/R), and TV(output, y) = R
TV(f/R, g/R') <= TV(x, x_hat) R / max(R, R'). With R = 0 nothing is rejected and both sides are 0. With R' = 0 < R,
x_hat = y and whatever law replaces the undefined residual, TV(output, y) <= R = TV(x, x_hat).
"""

from fractions import Fraction

import sympy as sp
from derivation import Derivation, Source, show
from everywhere import METHOD, everywhere, named
from laws import Masses, Number, at_most, residual, step, total_variation
from orderings import Case, sign

X, X_HAT, Y = named("x h y")
RESULT = (
    total_variation(X, X_HAT)
    * total_variation(X, Y)
    / sp.Max(total_variation(X, Y), total_variation(X_HAT, Y), evaluate=False)
)


def larger(p: Number, q: Number) -> Number:
    """max(p, q)."""
    return p if sign(p - q) >= 0 else q


def rejection_gap(case: Case) -> Fraction:
    """R - R' of the laws (x, x_hat, y), the sign of which decides the maximum."""
    x, rebuilt, y = case[:3]
    return total_variation(x, y) - total_variation(rebuilt, y)


def derive() -> Derivation:
    """Check the lemma and the bound in every case, on either side of R = R'."""
    return Derivation(
        name="true_draft_bound",
        theory="4.4",
        statement="TV(output, y) <= TV(x, x_hat) R / max(R, R') with R = TV(x, y), R' = TV(x_hat, y), when drafts "
        "are tested with the true x_d and redrawn from norm((y - x_hat)+); by TV(norm(y-x)+, "
        "norm(y-x_hat)+) <= TV(x, x_hat) / max(R, R')",
        latex=r"\mathrm{TV}(\mathrm{out}, y) \le \mathrm{TV}(x, \hat x)\,\frac{R}{\max(R, R')}, \qquad"
        r" R = \mathrm{TV}(x, y), \; R' = \mathrm{TV}(\hat x, y)",
        source=Source.OWN,
        assumptions=(
            "x_hat is a law fixed before d is drawn",
            "a draft with y_d = 0 is rejected",
            "where (y - x_hat)+ = 0 the redraw is from any fixed law",
        ),
        method=METHOD,
        result=RESULT,
        holds=everywhere(_holds, laws=3, split=rejection_gap),
    )


def _holds(x: Masses, rebuilt: Masses, y: Masses) -> bool:
    distance = total_variation(x, rebuilt)
    r, r_hat = total_variation(x, y), total_variation(rebuilt, y)
    output = step(x, y, [0] * len(x), x, rebuilt)
    if r == 0:
        return output == list(y)
    most = larger(r, r_hat)
    lemma = r_hat == 0 or at_most(residual(y, x), residual(y, rebuilt), distance / most)
    return lemma and at_most(output, y, distance * r / most)


if __name__ == "__main__":
    show(derive)
