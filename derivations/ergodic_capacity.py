"""Ergodic capacity of Rayleigh fading [N, THEORY 8; known: Lee 1990, Alouini and Goldsmith 1999].

With SNR ~ Exp(1/g): E[ln(1 + s)] = ∫ ln(1 + s) e^(-s/g)/g ds = ∫ e^(-s/g)/(1 + s) ds by parts (the boundary terms
vanish), and with v = (1 + s)/g this is e^(1/g) ∫_{1/g}^∞ e^-v / v dv = e^(1/g) E_1(1/g). Divide by ln 2 for bits. It
lies below the capacity log2(1 + g) of a constant SNR (Jensen).
"""

import sympy as sp
from derivation import Derivation, Source, show, vanishes

S, MEAN = sp.symbols("s g", positive=True)
RESULT = sp.exp(1 / MEAN) * sp.expint(1, 1 / MEAN) / sp.log(2)


def derive() -> Derivation:
    """Integrate by parts, then the remaining integral; compare with quadrature at rational points."""
    density = sp.exp(-S / MEAN) / MEAN
    parts = sp.diff(-sp.log(1 + S) * sp.exp(-S / MEAN), S) - (sp.log(1 + S) * density - sp.exp(-S / MEAN) / (1 + S))
    boundary = [sp.limit(sp.log(1 + S) * sp.exp(-S), S, end) for end in (0, sp.oo)]
    integral = sp.integrate(sp.exp(-S / MEAN) / (1 + S), (S, 0, sp.oo)) / sp.log(2)
    numbers = []
    for mean in (sp.Rational(1, 10), sp.Integer(1), sp.Integer(10), sp.Integer(1000)):
        direct = sp.Integral((sp.log(1 + S, 2) * density).subs(MEAN, mean), (S, 0, sp.oo)).evalf(15)
        value = RESULT.subs(MEAN, mean).evalf(15)
        numbers.append(abs(value - direct) < 1e-10 and value < sp.log(1 + mean, 2))
    return Derivation(
        name="ergodic_capacity",
        theory="8",
        statement="the ergodic capacity of Rayleigh fading with mean SNR g is e^(1/g) E1(1/g) / ln 2 bit/s/Hz",
        latex=r"\mathrm{E}[\log_2(1 + \gamma)] = \frac{e^{1/g}\, E_1(1/g)}{\ln 2}",
        source=Source.OWN,
        assumptions=("Rayleigh fading: SNR exponential with mean g", "codewords span many fades"),
        method="algebra",
        result=RESULT,
        holds=vanishes(parts, integral - RESULT) and boundary == [0, 0] and all(map(bool, numbers)),
    )


if __name__ == "__main__":
    show(derive)
