"""Risk of a threshold under the linear model with u ~ Beta(p, q), by incomplete beta functions [N, THEORY 6.3].

E[beta | u] = clip(a u + b, 0, 1). For a > 0 and a + b <= 1 it is 0 below t0 = max(0, -b/a) and a u + b from there on,
so for t0 <= t <= 1
    R(t) = ∫_t0^t (a u + b) u^(p-1) (1-u)^(q-1) / B(p, q) du,
and as u · u^(p-1) (1-u)^(q-1)/B(p, q) is p/(p+q) times the density of Beta(p+1, q), the stated form. Below t0 the
risk is 0. R has the nonnegative derivative (a t + b) density(t), so the risk-budget threshold is the one root of R(t)
= eps, reachable iff R(1) >= eps.
"""

import sympy as sp
from derivation import Derivation, Source, show, vanishes

A, P, Q = sp.symbols("a p q", positive=True)
T, T0 = sp.symbols("t t0", positive=True)
B = sp.Symbol("b", real=True)


def mass(p: sp.Expr, q: sp.Expr) -> sp.Expr:
    """I_t(p, q) - I_t0(p, q), the Beta(p, q) mass of [t0, t]."""
    return sp.betainc_regularized(p, q, T0, T)


RESULT = A * P / (P + Q) * mass(P + 1, Q) + B * mass(P, Q)


def derive() -> Derivation:
    """Differentiate the form for all p, q; integrate directly for whole p, q and compare with binomial sums."""
    density = T ** (P - 1) * (1 - T) ** (Q - 1) / sp.beta(P, Q)
    slope = sp.gammasimp((sp.diff(RESULT, T) - (A * T + B) * density).rewrite(sp.gamma))
    starts = sp.simplify(sp.Integral(density, (T, T0, T0)).doit()) == 0
    return Derivation(
        name="beta_linear_budget",
        theory="6.3",
        statement="for u ~ Beta(p, q) and E[beta | u] = clip(a u + b, 0, 1): R(t) = a p/(p+q) [I_t(p+1, q) - "
        "I_t0(p+1, q)] + b [I_t(p, q) - I_t0(p, q)], t0 = max(0, -b/a), increasing from 0 at t0",
        latex=r"R(t) = \frac{a p}{p + q} \bigl[ I_t(p+1, q) - I_{t_0}(p+1, q) \bigr]"
        r" + b \bigl[ I_t(p, q) - I_{t_0}(p, q) \bigr], \\ t_0 = \max(0, -b/a)",
        source=Source.OWN,
        assumptions=("a > 0, a + b <= 1", "u ~ Beta(p, q)", "t0 <= t <= 1"),
        method="algebra",
        result=RESULT,
        holds=vanishes(slope) and starts and all(_direct(p, q) for p, q in ((1, 1), (2, 3), (4, 2), (3, 5))),
    )


def _direct(p: int, q: int) -> bool:
    u = sp.Symbol("u", positive=True)
    risk = sp.integrate(sp.expand((A * u + B) * u ** (p - 1) * (1 - u) ** (q - 1)), (u, T0, T)) / sp.beta(p, q)
    form = A * sp.Rational(p, p + q) * _binomial_mass(p + 1, q) + B * _binomial_mass(p, q)
    return vanishes(sp.expand(sp.expand_func(risk).doit() - form))


def _binomial_mass(p: int, q: int) -> sp.Expr:
    """I_t(p, q) - I_t0(p, q) for whole p, q: the chance of at least p successes in p + q - 1 trials."""
    n = p + q - 1
    at = lambda t: sum(sp.binomial(n, j) * t**j * (1 - t) ** (n - j) for j in range(p, n + 1))  # noqa: E731
    return at(T) - at(T0)


if __name__ == "__main__":
    show(derive)
