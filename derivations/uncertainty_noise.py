"""Noise of sampled uncertainty, and what it does to a least-squares slope [N, THEORY 4.2].

Variance. With independent theta_m the M indicators are independent coins of probability u_bar, so Var(u | z, d) =
u_bar (1 - u_bar)/M. On a fixed grid the coins have probabilities q_m of mean q, Var = Σ q_m (1 - q_m)/M^2, and q (1 -
q)/M - Var = Σ (q_m - q)^2/M^2 >= 0: less, around a mean that is not u_bar.

Slope. u = u_bar + e with E[e | u_bar, beta] = 0, so Cov(u, beta) = Cov(u_bar, beta) and Var(u) = Var(u_bar) + E[u_bar
(1 - u_bar)]/M. The slope on u is that on u_bar times lambda = Var(u_bar) / (Var(u_bar) + E[u_bar (1 - u_bar)]/M):
errors in variables.
"""

from fractions import Fraction
from math import comb
from random import Random

import sympy as sp
from derivation import Derivation, Source, show, vanishes

CASES = 60
SAMPLES = sp.Symbol("M", positive=True, integer=True)
U_BAR, SPREAD, NOISE = sp.symbols("u_bar Var_u_bar E_noise", nonnegative=True)
RESULT = sp.Tuple(U_BAR * (1 - U_BAR) / SAMPLES, SPREAD / (SPREAD + NOISE / SAMPLES))
"""Var(u | z, d), and lambda with E_noise = E[u_bar (1 - u_bar)]."""


def derive() -> Derivation:
    """Sum the binomial law, expand the grid's identity, and enumerate the joint law of (u, beta) exactly."""
    p = sp.Symbol("p", positive=True)
    variances = []
    for m in range(1, 5):
        law = {sp.Rational(j, m): sp.binomial(m, j) * p**j * (1 - p) ** (m - j) for j in range(m + 1)}
        mean = sum(u * chance for u, chance in law.items())
        variance = sum(u**2 * chance for u, chance in law.items()) - mean**2
        variances += [mean - p, variance - RESULT[0].subs({SAMPLES: m, U_BAR: p})]
        q = sp.symbols(f"q1:{m + 1}")
        middle = sum(q) / m
        grid = sum(a * (1 - a) for a in q) / m**2
        variances.append(middle * (1 - middle) / m - grid - sum((a - middle) ** 2 for a in q) / m**2)
    rng = Random(0)
    return Derivation(
        name="uncertainty_noise",
        theory="4.2",
        statement="Var(u | z, d) = u_bar (1 - u_bar)/M for independent theta, less on a grid; noise in u multiplies"
        " the least-squares slope by lambda = Var(u_bar) / (Var(u_bar) + E[u_bar (1 - u_bar)]/M)",
        latex=r"\mathrm{Var}(u \mid z, d) = \frac{\bar u (1 - \bar u)}{M}, \qquad \lambda ="
        r" \frac{\mathrm{Var}(\bar u)}{\mathrm{Var}(\bar u) + \mathrm{E}[\bar u (1 - \bar u)] / M}",
        source=Source.OWN,
        assumptions=("theta_m independent", "given (z, d) the perturbed draws do not depend on the verification"),
        method="algebra + exact enumeration on random rationals",
        result=RESULT,
        holds=vanishes(*map(sp.expand, variances)) and all(_attenuated(rng) for _ in range(CASES)),
    )


def _slope(points: list[tuple[Fraction, Fraction, Fraction]]) -> tuple[Fraction, Fraction]:
    """Least-squares slope of the second entry on the first, and the variance of the first; weights third."""
    mean_u, mean_beta = (sum(point[axis] * point[2] for point in points) for axis in (0, 1))
    spread = sum(w * (u - mean_u) ** 2 for u, _, w in points)
    return sum(w * (u - mean_u) * (beta - mean_beta) for u, beta, w in points) / spread, spread


def _attenuated(rng: Random) -> bool:
    samples, contexts = rng.randint(1, 5), rng.randint(2, 5)
    exact = [
        (Fraction(rng.randint(0, 8), 8), Fraction(rng.randint(0, 6), 6), Fraction(1, contexts)) for _ in range(contexts)
    ]
    if len({u for u, _, _ in exact}) == 1:
        return True
    noisy = [
        (Fraction(j, samples), beta, weight * comb(samples, j) * u_bar**j * (1 - u_bar) ** (samples - j))
        for u_bar, beta, weight in exact
        for j in range(samples + 1)
    ]
    (slope, spread), (flatter, _) = _slope(exact), _slope(noisy)
    noise = sum(w * u * (1 - u) for u, _, w in exact)
    attenuation = RESULT[1].subs({SPREAD: sp.Rational(spread), NOISE: sp.Rational(noise), SAMPLES: samples})
    return sp.Rational(flatter) == attenuation * sp.Rational(slope)


if __name__ == "__main__":
    show(derive)
