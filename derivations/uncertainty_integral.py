"""The expected uncertainty is a one-dimensional integral, and 1 - u_bar is a law [N, THEORY 4.2].

u = (1/M) Σ_m 1[d_m != d] with d_m ~ softmax(z/theta_m), theta_m uniform on (0, theta_max]. Given theta_m the
indicator has mean 1 - softmax(z/theta_m)_d; averaging over theta_m gives E[u | z, d] = 1 - (1/theta_max)
∫_0^theta_max softmax(z/theta)_d dtheta = u_bar_d. The integrand sums to 1 over v at every theta, so Σ_v (1 - u_bar_v)
= 1. Two tokens with logits a gap g > 0 apart: 1/(1 + e^(g/theta)) = Σ_{j>=1} (-1)^(j-1) e^(-j g/theta) and ∫_0^T
e^(-c/theta) dtheta = T E_2(c/T), so the larger has u_bar = Σ_{j>=1} (-1)^(j-1) E_2(j g/theta_max): an evaluation that
shares nothing with a quadrature. (The partial sums of the alternating series lie in [0, 1], so sum and integral may
be exchanged.)
"""

import mpmath
import sympy as sp
from derivation import Derivation, Source, show, vanishes

THETA, THETA_MAX, GAP, RATE = sp.symbols("theta theta_max g c", positive=True)
J = sp.Symbol("j", positive=True, integer=True)
LOGITS = sp.symbols("z1:4", real=True)
WEIGHTS = [sp.exp(z / THETA) for z in LOGITS]
SOFTMAX = [weight / sum(WEIGHTS) for weight in WEIGHTS]
RESULT = 1 - sp.Integral(SOFTMAX[0], (THETA, 0, THETA_MAX)) / THETA_MAX
"""u_bar of token 1 for |V| = 3."""
TWO_TOKENS = sp.Sum((-1) ** (J - 1) * sp.expint(2, J * GAP / THETA_MAX), (J, 1, sp.oo))
"""u_bar of the larger of two tokens."""


def two_token_value(gap: float, theta_max: float) -> float:
    """The series of two tokens, summed until its terms are below 1e-16."""
    return float(mpmath.nsum(lambda j: (-1) ** (int(j) - 1) * mpmath.expint(2, j * gap / theta_max), [1, mpmath.inf]))


def derive() -> Derivation:
    """Check the sum over tokens, the integral of each term of the series, and the series against quadrature."""
    antiderivative = THETA * sp.expint(2, RATE / THETA)
    term = (
        vanishes(sp.expand_func(sp.diff(antiderivative, THETA)) - sp.expand_func(sp.exp(-RATE / THETA)))
        and sp.limit(THETA * sp.exp(-RATE / THETA), THETA, 0, "+") == 0  # 0 <= E_2(s) <= e^-s
    )
    q = sp.Symbol("q", positive=True)  # e^(-g/theta), below 1
    partial = q * (1 - (-q) ** J) / (1 + q)
    series = vanishes(
        partial - partial.subs(J, J - 1) - (-1) ** (J - 1) * q**J,
        partial.subs(J, 0),
        q / (1 + q) - partial - q * (-q) ** J / (1 + q),
    )
    points = [(sp.Rational(1, 4), 2), (sp.Rational(3, 2), 2), (sp.Rational(4), sp.Rational(1, 2))]
    return Derivation(
        name="uncertainty_integral",
        theory="4.2",
        statement="E[u | z, d] = 1 - (1/theta_max) int_0^theta_max softmax(z/theta)_d dtheta = u_bar_d and sum_v (1"
        " - u_bar_v) = 1; for two tokens a gap g apart u_bar = sum_j (-1)^(j-1) E_2(j g/theta_max)",
        latex=r"\bar u_d = \mathrm{E}[u \mid z, d] = 1 - \frac{1}{\theta_{\max}} \int_0^{\theta_{\max}}"
        r" \mathrm{softmax}(z/\theta)_d \, d\theta, \qquad \sum_v (1 - \bar u_v) = 1",
        source=Source.OWN,
        assumptions=("theta_m uniform on (0, theta_max]",),
        method="proof + algebra + quadrature of the two-token series",
        result=RESULT,
        holds=vanishes(sum(SOFTMAX) - 1) and term and series and all(_agrees(*map(float, point)) for point in points),
    )


def _agrees(gap: float, theta_max: float) -> bool:
    integral = mpmath.quad(
        lambda theta: 1 / (1 + mpmath.exp(gap / theta)) if theta else 0, [0, theta_max / 8, theta_max]
    )
    return abs(two_token_value(gap, theta_max) - float(integral) / theta_max) < 1e-10


if __name__ == "__main__":
    show(derive)
