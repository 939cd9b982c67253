"""The rate of largest goodput with retransmission over independent Rayleigh fades [N, THEORY 8].

At rate R (bit/s/Hz) a block is lost when log2(1 + SNR) < R: outage 1 - exp(-(2^R - 1)/g). The number of transmissions
is geometric, of mean 1/(1 - outage), so the goodput is R exp(-(2^R - 1)/g). d ln/dR = 1/R - 2^R ln 2 / g strictly
decreases from +∞ to -∞, so its one zero is the maximum: w e^w = g with w = R ln 2, R* = W_0(g)/ln 2.
"""

import sympy as sp
from derivation import Derivation, Source, show, vanishes

RATE, MEAN, S, OUTAGE = sp.symbols("R g s o", positive=True)
GOODPUT = RATE * sp.exp(-(2**RATE - 1) / MEAN)
RESULT = sp.LambertW(MEAN) / sp.log(2)


def derive() -> Derivation:
    """Derive the outage and the mean number of transmissions, then the stationary point and its uniqueness."""
    outage = sp.integrate(sp.exp(-S / MEAN) / MEAN, (S, 0, 2**RATE - 1))
    n = sp.Symbol("n", integer=True, positive=True)
    # tail sums: partial sum of n o^(n-1) (1-o) up to n is (1 - o^n)/(1-o) - n o^n, which tends to 1/(1-o)
    partial = (1 - OUTAGE**n) / (1 - OUTAGE) - n * OUTAGE**n
    transmissions = vanishes(sp.expand((partial - partial.subs(n, n - 1)) - n * OUTAGE ** (n - 1) * (1 - OUTAGE)))
    slope = sp.diff(sp.log(RATE) - (2**RATE - 1) / MEAN, RATE)
    w = sp.Symbol("w", positive=True)
    stationary = slope.subs({RATE: w / sp.log(2), MEAN: w * sp.exp(w)}, simultaneous=True)
    curvature = sp.diff(slope, RATE)
    ends = sp.limit(slope.subs(MEAN, 3), RATE, 0, "+") == sp.oo and sp.limit(slope.subs(MEAN, 3), RATE, sp.oo) == -sp.oo
    return Derivation(
        name="goodput_rate",
        theory="8",
        statement="at fixed rate R with retransmission over independent Rayleigh fades the outage is 1 - exp(-(2^R "
        "- 1)/g), the mean number of transmissions 1/(1 - outage), and the goodput is largest at R* = "
        "W_0(g)/ln 2",
        latex=r"R^\star = \arg\max_R \; R\, e^{-(2^R - 1)/g} = \frac{W_0(g)}{\ln 2}",
        source=Source.OWN,
        assumptions=("Rayleigh fading of mean SNR g", "fades of retransmissions are independent"),
        method="algebra",
        result=RESULT,
        holds=vanishes(
            outage - (1 - GOODPUT / RATE),
            stationary.rewrite(sp.exp),
            curvature + 1 / RATE**2 + 2**RATE * sp.log(2) ** 2 / MEAN,
        )
        and curvature.is_negative is True
        and transmissions
        and all(
            abs(slope.subs({RATE: RESULT, MEAN: mean}).subs(MEAN, mean).evalf(30)) < 1e-20 for mean in (1, 10, 1000)
        )
        and ends,
    )


if __name__ == "__main__":
    show(derive)
