"""The mean of 1/log2(1 + SNR) diverges for Rayleigh, Rician at every K, and Nakagami with m <= 1 [N, THEORY 8].

Proof. ln(1 + s) <= s, so 1/log2(1 + s) >= ln 2 / s. If the density of the SNR is at least c s^(m-1) on (0, d], c > 0,
the mean is at least c ln 2 ∫_0^d s^(m-2) ds, infinite iff m <= 1. With mean SNR g, f(s)/s^(m-1) has a positive limit
at 0: 1/g for Rayleigh, (1 + K) e^-K / g for Rician (both m = 1) and m^m/(Γ(m) g^m) for Nakagami. For Nakagami with m
> 1 it converges: ln(1 + s) >= s/(1 + s), so 1/log2(1 + s) <= ln 2 (1 + 1/s), of mean ln 2 (1 + m/((m - 1) g)). A
quadrature that stops short of 0 reports a finite value in every case.
"""

import sympy as sp
from derivation import Derivation, Source, show, vanishes

S, MEAN, K, M, CUT = sp.symbols("s g K m epsilon", positive=True)
RAYLEIGH = sp.exp(-S / MEAN) / MEAN
RICIAN = (1 + K) / MEAN * sp.exp(-K - (1 + K) * S / MEAN) * sp.besseli(0, 2 * sp.sqrt(K * (1 + K) * S / MEAN))
NAKAGAMI = M**M * S ** (M - 1) / (sp.gamma(M) * MEAN**M) * sp.exp(-M * S / MEAN)
RESULT = sp.Tuple(1 / MEAN, (1 + K) * sp.exp(-K) / MEAN, M**M / (sp.gamma(M) * MEAN**M))
"""Limits of f(s)/s^(m-1) at 0: Rayleigh, Rician (m = 1), Nakagami."""


def derive() -> Derivation:
    """Take the limits of the densities at 0, the divergent integrals, and the finite mean for m > 1."""
    limits = (
        RAYLEIGH.subs(S, 0),
        sp.limit(RICIAN, S, 0, "+"),
        sp.limit(sp.powsimp(NAKAGAMI / S ** (M - 1)), S, 0, "+"),
    )
    below, above = sp.symbols("h e", positive=True)
    diverges = (
        sp.limit(sp.integrate(1 / S, (S, CUT, 1)), CUT, 0, "+") == sp.oo
        and sp.limit(sp.integrate(S ** (-1 - below), (S, CUT, 1)).subs(below, sp.Rational(1, 3)), CUT, 0, "+") == sp.oo
        and vanishes(sp.integrate(S ** (-1 - below), (S, CUT, 1)) - (CUT**-below - 1) / below)
    )
    mean_inverse = sp.integrate((NAKAGAMI / S).subs(M, 1 + above), (S, 0, sp.oo), conds="none")
    finite = vanishes(sp.gammasimp(mean_inverse) - ((1 + above) / (above * MEAN)))
    total = vanishes(sp.gammasimp(sp.integrate(NAKAGAMI, (S, 0, sp.oo), conds="none")) - 1)
    return Derivation(
        name="fading_divergence",
        theory="8",
        statement="E[1/log2(1 + SNR)] is infinite for Rayleigh, for Rician at every finite K and for Nakagami with "
        "m <= 1; for Nakagami with m > 1 it is finite, at most ln 2 (1 + m/((m-1) g))",
        latex=r"\mathrm{E} \Bigl[ \frac{1}{\log_2(1 + \gamma)} \Bigr] \ge c \ln 2 \int_0^{\delta} s^{m-2} \, ds"
        r" = \infty \quad (m \le 1; \text{ Rayleigh, Rician: } m = 1)",
        source=Source.OWN,
        assumptions=("block fading, a transfer at the instantaneous rate of one block",),
        method="algebra + proof of the two inequalities",
        result=RESULT,
        holds=vanishes(*(found - stated for found, stated in zip(limits, RESULT, strict=True)))
        and all(limit.is_positive is True for limit in RESULT)
        and _logarithm_bounds()
        and diverges
        and finite
        and total
        and vanishes(RICIAN.subs(K, 0) - RAYLEIGH),
    )


def _logarithm_bounds() -> bool:
    """s/(1+s) <= ln(1+s) <= s: equal at 0, with derivatives in that order."""
    upper, lower = S - sp.log(1 + S), sp.log(1 + S) - S / (1 + S)
    return all(gap.subs(S, 0) == 0 and sp.factor(sp.diff(gap, S)).is_positive is True for gap in (upper, lower))


if __name__ == "__main__":
    show(derive)
