"""The published distortion surrogate is not an upper bound [N on a detail that is P2, THEORY 2.7 and 3].

U = Σ|x - x_hat| / [(1 - x_d) l(-1) + x_d l(-beta_d)] with l(z) = ln(1 + e^z) stands for the distortion of the law
that is drawn from after a rejection. l is positive, also where the rejection probability is tiny, so U <= Σ|x -
x_hat| / l(-1) whatever y is, while that distortion is 1 as soon as norm((y-x)+) and norm((y-x_hat)+) have no token in
common. Such a case, with U below 1/3 for every draft: x = (.50, .30, .20), k = 1, x_hat = (.50, .25, .25), y = (.48,
.30, .22).
"""

import sympy as sp
from derivation import Derivation, Source, show
from laws import Masses, Number, rejection, residual, total_variation, truncated

X_LAW = [sp.Rational(50, 100), sp.Rational(30, 100), sp.Rational(20, 100)]
Y_LAW = [sp.Rational(48, 100), sp.Rational(30, 100), sp.Rational(22, 100)]


def surrogate(x: Masses, y: Masses, rebuilt: Masses, draft: int) -> Number:
    """U of the published method for one draft, eta = 1."""
    soft = [sp.log(1 + sp.exp(-z)) for z in (1, rejection(x[draft], y[draft]))]
    return 2 * total_variation(x, rebuilt) / ((1 - x[draft]) * soft[0] + x[draft] * soft[1])


def derive() -> Derivation:
    """Evaluate the counterexample; the upper estimate of U holds for each draft."""
    rebuilt = truncated(X_LAW, (0,))
    distortion = total_variation(residual(Y_LAW, X_LAW), residual(Y_LAW, rebuilt))
    values = [surrogate(X_LAW, Y_LAW, rebuilt, draft) for draft in range(3)]
    return Derivation(
        name="surrogate_not_a_bound",
        theory="3",
        statement="the surrogate U is no upper bound on TV(norm(y-x)+, norm(y-x_hat)+): with x = (.50, .30, .20), k"
        " = 1, y = (.48, .30, .22) that distance is 1 and U < 1/3 for every draft",
        latex=r"\exists\, x, \hat x, y: \quad \max_d U_d < \tfrac13 < 1 ="
        r" \mathrm{TV}\bigl(\mathrm{norm}(y - x)_+, \mathrm{norm}(y - \hat x)_+\bigr)",
        source=Source.OWN,
        assumptions=("eta = 1",),
        method="algebra on a counterexample",
        result=sp.Tuple(distortion, *values),
        holds=distortion == 1 and all(bool(value < sp.Rational(1, 3)) for value in values),
    )


if __name__ == "__main__":
    show(derive)
