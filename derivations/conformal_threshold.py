"""Conformal risk control of the threshold [N, THEORY 6.4; the theorem is that of Angelopoulos et al. 2022].

Prompts 1 .. n calibrate, prompt n+1 is new; the loss L_i(t) in [0, 1] is nondecreasing over a fixed finite grid. t*
is the largest grid point with (Σ_{i<=n} L_i(t) + 1)/(n + 1) <= eps; if there is none, nothing is skipped, at loss 0.

Proof. Let t' be the largest grid point with Σ_{i<=n+1} L_i(t)/(n + 1) <= eps ("never" if none). As L_{n+1} <= 1, t*
satisfies this, so t* <= t' and L_{n+1}(t*) <= L_{n+1}(t'). t' does not change when the n+1 prompts are permuted, so
by exchangeability, given the set of losses, E L_{n+1}(t') = Σ_i L_i(t')/(n + 1) <= eps. Hence E[L_{n+1}(t*)] <= eps.
With (Σ L + 1)/(n + 1) >= 1/(n + 1), there is no point at all when n < 1/eps - 1.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations_with_replacement, permutations
from random import Random

import sympy as sp
from derivation import Derivation, Source, show

CASES = 200
N, RISK, EPS = sp.symbols("n R_n epsilon", positive=True)
RESULT = sp.Le((N * RISK + 1) / (N + 1), EPS)

Curve = Sequence[Fraction]
"""Loss at each grid point."""


def chosen(calibration: Sequence[Curve], eps: Fraction, inflation: int = 1) -> int | None:
    """Index of the largest grid point that passes, None where none does."""
    n = len(calibration)
    passing = [
        t
        for t in range(len(calibration[0]))
        if sum((curve[t] for curve in calibration), Fraction(inflation)) / (n + 1) <= eps
    ]
    return max(passing, default=None)


def mean_test_loss(curves: Sequence[Curve], eps: Fraction, inflation: int = 1) -> Fraction:
    """E of the new prompt's loss over all orders of the prompts, the last one being new."""
    total, orders = Fraction(0), list(permutations(range(len(curves))))
    for order in orders:
        at = chosen([curves[i] for i in order[:-1]], eps, inflation)
        total += curves[order[-1]][at] if at is not None else 0
    return total / len(orders)


def derive() -> Derivation:
    """Enumerate sets of small rational losses and all their orders; without the + 1 the statement must fail."""
    levels = [Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(1)]
    curves = list(combinations_with_replacement(levels, 2))
    budgets = [Fraction(1, 4), Fraction(1, 3), Fraction(5, 12), Fraction(1, 2), Fraction(3, 4)]
    sets = list(combinations_with_replacement(curves, 3))
    means = {(s, eps): mean_test_loss(s, eps) for s in sets for eps in budgets}
    reachable = sp.solve(sp.Eq(RESULT.lhs.subs(RISK, 0), EPS), N)[0]
    rng = Random(0)
    return Derivation(
        name="conformal_threshold",
        theory="6.4",
        statement="for exchangeable prompts and nondecreasing losses in [0, 1], the largest grid t with (n R_n(t) +"
        " 1)/(n + 1) <= eps has E[L_{n+1}(t)] <= eps; no t passes if n < 1/eps - 1",
        latex=r"\hat t = \max \Bigl\{ t : \frac{n R_n(t) + 1}{n + 1} \le \epsilon \Bigr\} \;\Longrightarrow\;"
        r" \mathrm{E}[L_{n+1}(\hat t)] \le \epsilon",
        source=Source.OWN,
        assumptions=(
            "prompts are exchangeable",
            "a fixed finite grid",
            "L_i nondecreasing, in [0, 1]",
            "never skip if none passes",
        ),
        method="proof + all permutations of small rational losses",
        result=RESULT,
        holds=all(mean <= eps for (_, eps), mean in means.items())
        and any(mean_test_loss(s, Fraction(1, 3), inflation=0) > Fraction(1, 3) for s in sets)
        and all(_random_case(rng) for _ in range(CASES))
        and sp.simplify(reachable - (1 / EPS - 1)) == 0
        and all(means[s, Fraction(1, 4)] == 0 for s in sets),  # n = 2 < 1/eps - 1 = 3
    )


def _random_case(rng: Random) -> bool:
    n, grid = rng.randint(2, 5), rng.randint(1, 4)
    curves = [sorted(Fraction(rng.randint(0, 6), 6) for _ in range(grid)) for _ in range(n)]
    eps = Fraction(rng.randint(1, 11), 12)
    # the choice does not depend on the order of the calibration prompts, so each new prompt counts once
    total = Fraction(0)
    for new in range(n):
        at = chosen([curves[i] for i in range(n) if i != new], eps)
        total += curves[new][at] if at is not None else 0
    return total / n <= eps


if __name__ == "__main__":
    show(derive)
