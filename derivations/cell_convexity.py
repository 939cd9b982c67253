"""Sharing a band: the rate is concave in the bandwidth, a transfer time convex [N, THEORY 8].

r(W) = W log2(1 + c/W), c = received power over noise density. r' = [ln(1 + c/W) - c/(W + c)]/ln 2 > 0 (ln(1 + q) >
q/(1 + q)) and r'' = -c^2/(W (W + c)^2 ln 2) < 0. (1/r)'' = 2 r'^2/r^3 - r''/r^2 > 0. A sum with weights p_i B_i >= 0,
and a maximum, of convex functions is convex, so minimising either over W_i > 0, Σ W_i <= W is a convex program. r =
-rel_entr(W, W + c)/ln 2 with rel_entr(p, q) = p ln(p/q), which makes it disciplined: inv_pos of a concave expression
is convex.
"""

import sympy as sp
from derivation import Derivation, Source, show, vanishes

W, C, Q = sp.symbols("W c q", positive=True)
RATE = W * sp.log(1 + C / W) / sp.log(2)
CURVATURE = -(C**2) / (W * (W + C) ** 2 * sp.log(2))
RESULT = sp.Tuple(RATE, CURVATURE)
"""r(W) and r''(W)."""


def derive() -> Derivation:
    """Differentiate the rate and its inverse, and read the signs off."""
    r, slope, bend = sp.symbols("r slope bend", positive=True)  # r, r' and -r''
    f = sp.Function("r")(W)
    second = sp.diff(1 / f, W, 2).subs(sp.Derivative(f, (W, 2)), -bend).subs(sp.Derivative(f, W), slope).subs(f, r)
    rises = sp.log(1 + Q) - Q / (1 + Q)  # r' ln 2 with q = c/W
    return Derivation(
        name="cell_convexity",
        theory="8",
        statement="r(W) = W log2(1 + c/W) is increasing and concave in W (r'' = -c^2/(W (W + c)^2 ln 2)), 1/r is "
        "convex, and r = -rel_entr(W, W + c)/ln 2: sharing a band is a disciplined convex program",
        latex=r"r(W) = W \log_2 \Bigl( 1 + \frac{c}{W} \Bigr), \\ r''(W) = -\frac{c^2}{W (W + c)^2 \ln 2} < 0,"
        r" \quad \Bigl( \frac1r \Bigr)'' = \frac{2 r'^2}{r^3} - \frac{r''}{r^2} > 0",
        source=Source.OWN,
        assumptions=("each device has its own power, c_i does not depend on W_i",),
        method="algebra",
        result=RESULT,
        holds=vanishes(
            sp.diff(RATE, W, 2) - CURVATURE,
            sp.diff(RATE, W) * sp.log(2) - rises.subs(Q, C / W),
            second - (2 * slope**2 / r**3 + bend / r**2),
            sp.expand_log(RATE + W * sp.log(W / (W + C)) / sp.log(2), force=True).subs(C, Q * W).simplify(),
        )
        and rises.subs(Q, 0) == 0
        and sp.factor(sp.diff(rises, Q)).is_positive is True
        and CURVATURE.is_negative is True
        and sp.expand(second).is_positive is True,
    )


if __name__ == "__main__":
    show(derive)
