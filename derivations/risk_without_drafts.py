"""Risk and skip rate at a context without sampling a draft [N, THEORY 6.1].

The gate skips exactly the drafts v with u_bar_v <= t, so E_{d~x}[1[u_bar_d <= t] beta_d] = Σ_v 1[u_bar_v <= t] (x_v -
y_v)+ = risk(t), and the probability of skipping is skip(t) = Σ_v 1[u_bar_v <= t] x_v. Less noise: one sampled draft's
value 1[u_bar_d <= t] beta_d has mean risk(t) given the context, so by the law of total variance its variance over
contexts and drafts is Var(risk(t)) + E[Var(. | context)] >= Var(risk(t)).
"""

from fractions import Fraction
from itertools import product
from random import Random

import sympy as sp
from derivation import Derivation, Source, show
from everywhere import everywhere, named
from laws import Masses, random_law, rejection, skip_risk, step, total_variation

CASES = 60
X, Y, SKIPPABLE = named("x y s")
RESULT = sp.Tuple(skip_risk(X, Y, SKIPPABLE), sum(s * x for s, x in zip(SKIPPABLE, X, strict=True)))
"""(risk(t), skip(t)) for |V| = 3, s_v = 1[u_bar_v <= t]."""


def derive() -> Derivation:
    """Compare the sums over tokens with expectations over drafts, and the two variances, exactly."""
    rng = Random(0)
    return Derivation(
        name="risk_without_drafts",
        theory="6.1",
        statement="risk(t) = sum_v 1[u_bar_v <= t] (x_v - y_v)+ and skip(t) = sum_v 1[u_bar_v <= t] x_v are the "
        "averages over drafts, with at most the variance of one sampled draft",
        latex=r"\mathrm{risk}(t) = \sum_v \mathbf{1}[\bar u_v \le t]\,(x_v - y_v)_+, \qquad"
        r" \mathrm{skip}(t) = \sum_v \mathbf{1}[\bar u_v \le t]\, x_v",
        source=Source.OWN,
        assumptions=("the signal is a function of x and the token",),
        method="proof + every ordering for |V| = 2, 3 + random rationals",
        result=RESULT,
        holds=everywhere(_is_average, laws=2) and all(_less_noise(rng) for _ in range(CASES)),
    )


def _is_average(x: Masses, y: Masses) -> bool:
    for gate in product((0, 1), repeat=len(x)):
        average = sum(s * a * rejection(a, b) for s, a, b in zip(gate, x, y, strict=True) if s and a != 0)
        output = step(x, y, gate, x, x)
        if not (average == skip_risk(x, y, gate) == total_variation(output, y)):
            return False
    return True


def _less_noise(rng: Random) -> bool:
    contexts, size = rng.randint(1, 4), rng.randint(2, 4)
    averages, seconds, within = [], [], []
    for _ in range(contexts):
        x, y = random_law(rng, size), random_law(rng, size)
        u_bar, t = [Fraction(rng.randint(0, 8), 8) for _ in range(size)], Fraction(rng.randint(0, 8), 8)
        values = [int(u <= t) * rejection(a, b) if a else Fraction(0) for u, a, b in zip(u_bar, x, y, strict=True)]
        averages.append(skip_risk(x, y, [int(u <= t) for u in u_bar]))
        seconds.append(sum(a * value**2 for a, value in zip(x, values, strict=True)))
        within.append(seconds[-1] - averages[-1] ** 2)
    mean = sum(averages) / contexts
    between = sum(risk**2 for risk in averages) / contexts - mean**2
    return sum(seconds) / contexts - mean**2 == between + sum(within) / contexts and min(within) >= 0


if __name__ == "__main__":
    show(derive)
