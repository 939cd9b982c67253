"""The Hoeffding-Bentkus p-value, and thresholds tested in order [N, THEORY 6.4; after Bates et al. 2021].

L_1 .. L_n are independent, in [0, 1], of mean >= eps (the hypothesis "risk above budget"); R is their mean, and
h(r, e) = r ln(r/e) + (1-r) ln((1-r)/(1-e)).

Tails. (Hoeffding 1963) P(R <= r) <= exp(-n h(r, eps)) for r < eps: by Markov's inequality P(R <= r) is at most
e^(s n r) E[e^(-s L)]^n for s > 0; the exponential is convex, so E[e^(-s L)] <= 1 - E[L] + E[L] e^-s <= 1 - eps +
eps e^-s; the best s, e^s = eps (1-r)/(r (1-eps)), gives the bound. (Bentkus 2004, cited, not proved here)
P(R <= r) <= e P(Bin(n, m) <= ceil(n r)) with m the mean, at most the same with eps for m.

Validity. p(R) = min(exp(-n h(min(R, eps), eps)), e P(Bin(n, eps) <= ceil(n R))) is nondecreasing in R, and
P(R <= r) <= p(r) for every r. The set {p(R) <= delta} is {R <= r} or {R < r} for some r, and its probability is at most
the supremum of p over it, at most delta: P(p <= delta) <= delta.

In order. Testing t_1 < t_2 < ... while p <= delta selects a t of risk > eps only if the first t_j of risk > eps
passes, since risk is nondecreasing; that has probability <= delta. p(t) is nondecreasing in t, so the t selected is the
largest one that passes.
"""

from collections.abc import Mapping
from fractions import Fraction
from math import ceil, comb
from random import Random

import sympy as sp
from derivation import Derivation, Source, show, vanishes

CASES = 40
E_BELOW = Fraction(2_718_281_828, 10**9)
N, K = sp.symbols("n K", positive=True, integer=True)
R, EPS, J = sp.symbols("R epsilon j", positive=True)
_R = sp.Min(R, EPS)
HOEFFDING = sp.exp(-N * (_R * sp.log(_R / EPS) + (1 - _R) * sp.log((1 - _R) / (1 - EPS))))
BENTKUS = sp.E * sp.Sum(sp.binomial(N, K) * EPS**K * (1 - EPS) ** (N - K), (K, 0, sp.ceiling(N * R)))
RESULT = sp.Min(HOEFFDING, BENTKUS)


def derive() -> Derivation:
    """Check Hoeffding's exponent, and both tails exactly for sums of coins and of losses in {0, 1/2, 1}."""
    rng = Random(0)
    coins = [(n, Fraction(e, 20)) for n in (1, 2, 5, 12) for e in (1, 3, 10, 17)]
    return Derivation(
        name="hoeffding_bentkus",
        theory="6.4",
        statement="for independent losses in [0, 1] of mean >= eps, p = min(exp(-n h(min(R, eps), eps)), e P(Bin(n,"
        " eps) <= ceil(n R))) has P(p <= delta) <= delta, so the largest t with p(t) <= delta has risk <="
        " eps with probability 1 - delta",
        latex=r"p = \min \bigl\{ e^{-n h(\min(R, \epsilon), \epsilon)},\;"
        r" e \Pr(\mathrm{Bin}(n, \epsilon) \le \lceil n R \rceil) \bigr\}, \qquad \Pr(p \le \delta) \le \delta",
        source=Source.OWN,
        assumptions=("prompts are independent draws of one law", "losses in [0, 1], nondecreasing in t", "0 < eps < 1"),
        method="proof (Bentkus's tail cited) + exact tails of coins and of losses in {0, 1/2, 1}",
        result=RESULT,
        holds=_exponent()
        and bool(sp.Rational(E_BELOW) < sp.E)
        and all(_tails({Fraction(0): 1 - e, Fraction(1): e}, n, e) for n, e in coins)
        and all(_random_case(rng) for _ in range(CASES)),
    )


def _exponent() -> bool:
    """The bound at the stationary s is exp(-h) for one term, and the exponent is convex in s: a minimum."""
    r, q, eps = sp.symbols("r q e", positive=True)  # q stands for e^s
    log_bound = r * sp.log(q) + sp.log(1 - eps + eps / q)
    best = eps * (1 - r) / (r * (1 - eps))
    h = r * sp.log(r / eps) + (1 - r) * sp.log((1 - r) / (1 - eps))
    first = sp.diff(log_bound, q) * q
    points = [{r: sp.Rational(i, 12), eps: sp.Rational(j, 12)} for j in range(2, 12) for i in range(1, j)]
    exact = all(vanishes(sp.expand_log((log_bound.subs(q, best) + h).subs(at), force=True)) for at in points)
    inside = vanishes((1 - eps + eps / q).subs(q, best) - (1 - eps) / (1 - r))
    convex = sp.factor(sp.diff(first, q) * q - q * eps * (1 - eps) / (q * (1 - eps) + eps) ** 2)
    return vanishes(first.subs(q, best), convex) and inside and exact


def _random_case(rng: Random) -> bool:
    """A law on {0, 1/2, 1}, tested against its own mean and against a smaller one."""
    weights = [rng.randint(0, 5) for _ in range(3)]
    if sum(weights[1:]) == 0 or sum(weights[:2]) == 0:
        return True
    law = {Fraction(i, 2): Fraction(weight, sum(weights)) for i, weight in enumerate(weights)}
    mean = sum(loss * chance for loss, chance in law.items())
    n = rng.randint(1, 8)
    return _tails(law, n, mean) and _tails(law, n, mean * Fraction(rng.randint(1, 3), 4))


def _tails(loss: Mapping[Fraction, Fraction], n: int, eps: Fraction) -> bool:
    """Whether P(R <= r) <= both tails, so <= p(r), at every value r that R takes; losses are multiples of 1/2."""
    total = {Fraction(0): Fraction(1)}
    for _ in range(n):
        longer: dict[Fraction, Fraction] = {}
        for value, chance in total.items():
            for step, weight in loss.items():
                longer[value + step] = longer.get(value + step, Fraction(0)) + chance * weight
        total = longer
    below = Fraction(0)
    for value in sorted(total):
        below += total[value]
        r = value / n
        binomial = sum(comb(n, k) * eps**k * (1 - eps) ** (n - k) for k in range(ceil(value) + 1))
        # exp(-n h(r, eps))^2 is rational, as 2 n r is whole
        hoeffding = Fraction(1)
        if 0 < r < eps:
            hoeffding = (eps / r) ** int(2 * value) * ((1 - eps) / (1 - r)) ** int(2 * (n - value))
        elif r == 0:
            hoeffding = (1 - eps) ** (2 * n)
        if below**2 > hoeffding or below > E_BELOW * binomial:
            return False
    return True


if __name__ == "__main__":
    show(derive)
