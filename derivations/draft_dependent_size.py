"""Truncation sizes that depend on the draft, k = k(d): what bounds the output and what does not [N, THEORY 3].

Let x_hat^d be what is rebuilt from the k(d) entries sent for draft d, R = TV(x, y), R'_d = TV(x_hat^d, y), f = (y -
x)+. Test with the true x_d, redraw with x_hat^d. The output differs from that of exact verification by
    Σ_d r_d (norm(y - x_hat^d)+ - f/R), r_d = (1 - s_d)(x_d - y_d)+,
so by 4.3, convexity of TV and the lemma of 4.4
    TV(output, y) <= E[s beta] + Σ_d r_d TV(x, x_hat^d) / max(R, R'_d) <= E[s beta] + max_d TV(x, x_hat^d),
the last as Σ_d r_d <= R.

The mean E_{d~x}[TV(x, x_hat^d)] is no bound: x = (1/2, 1/2, 0), y = (1/2, 0, 1/2), k = (3, 0, 1) has TV(output, y) =
1/4 and mean 1/6, since the drafts that are rejected may be those with small k.

When the server runs the whole step with x_hat^d, not even the largest of the distances is a bound:
x = (2/3, 1/3, 0), y = (3/10, 1/5, 1/2), k = (0, 1, 0) has TV(output, y) = 13/30 > 1/3.
"""

from collections.abc import Sequence
from fractions import Fraction
from random import Random

import sympy as sp
from derivation import Derivation, Source, show
from everywhere import named
from laws import (
    Masses,
    Number,
    positive_part,
    random_law,
    random_skip,
    rejection,
    residual,
    skip_risk,
    total_variation,
    truncated,
)

CASES = 600
X, Y, S, APART, R_HAT = named("x y s t r")
RESULT = skip_risk(X, Y, S) + sum(
    (1 - s) * positive_part(x - y) * t / sp.Max(total_variation(X, Y), r, evaluate=False)
    for x, y, s, t, r in zip(X, Y, S, APART, R_HAT, strict=True)
)
"""The bound for |V| = 3, with t_d = TV(x, x_hat^d) and r_d = R'_d."""


def rebuilt_for_each(x: Masses, sizes: Sequence[int]) -> list[list[Number]]:
    """x_hat^d for each draft d: the k(d) largest entries of x kept."""
    order = sorted(range(len(x)), key=lambda v: (-x[v], v))
    return [truncated(x, order[:k]) for k in sizes]


def output_law(x: Masses, y: Masses, skip: Masses, rebuilt: Sequence[Masses], *, true_draft: bool) -> list[Number]:
    """Law of the output when draft d is verified with x_hat^d, tested with x_d or with x_hat^d_d."""
    output = [Fraction(0)] * len(x)
    for d, mass in enumerate(x):
        if mass == 0:
            continue
        lost = (1 - skip[d]) * mass * rejection(mass if true_draft else rebuilt[d][d], y[d])
        output[d] += mass - lost
        output = [a + lost * b for a, b in zip(output, residual(y, rebuilt[d]), strict=True)]
    return output


def derive() -> Derivation:
    """Check the bound on random rational laws and sizes, and both counterexamples."""
    half, third = Fraction(1, 2), Fraction(1, 3)
    x, y, sizes = [half, half, Fraction(0)], [half, Fraction(0), half], (3, 0, 1)
    mean_fails = _distances(x, y, sizes, true_draft=True) == (Fraction(1, 4), Fraction(1, 6), third)
    x, y, sizes = [2 * third, third, Fraction(0)], [Fraction(3, 10), Fraction(1, 5), half], (0, 1, 0)
    whole_step_fails = _distances(x, y, sizes, true_draft=False)[::2] == (Fraction(13, 30), third)
    rng = Random(0)
    return Derivation(
        name="draft_dependent_size",
        theory="3",
        statement="with k = k(d) and a test with the true x_d: TV(output, y) <= E[s beta] + sum_d (1-s_d)(x_d-y_d)+"
        " TV(x, x_hat^d)/max(R, R'_d) <= E[s beta] + max_d TV(x, x_hat^d); the mean of TV(x, x_hat^d) is "
        "no bound, and no such bound holds when the whole step uses x_hat^d",
        latex=r"\mathrm{TV}(\mathrm{out}, y) \le \mathrm{E}[s\beta] + \sum_d (1 - s_d)(x_d - y_d)_+"
        r"\frac{\mathrm{TV}(x, \hat x^d)}{\max(R, R'_d)} \\ \le \mathrm{E}[s\beta] + \max_d \mathrm{TV}(x, \hat x^d)",
        source=Source.OWN,
        assumptions=("for the bound: drafts are tested with the true x_d, redraws use x_hat^d",),
        method="proof (lemma of true_draft_bound) + random rationals",
        result=RESULT,
        holds=all(_bounded(rng) for _ in range(CASES)) and mean_fails and whole_step_fails,
    )


def _distances(x: Masses, y: Masses, sizes: Sequence[int], *, true_draft: bool) -> tuple[Number, Number, Number]:
    """TV(output, y), and the mean over drafts and the largest of TV(x, x_hat^d), without skipping."""
    rebuilt = rebuilt_for_each(x, sizes)
    apart = [total_variation(x, law) for law in rebuilt]
    output = output_law(x, y, [0] * len(x), rebuilt, true_draft=true_draft)
    mean = sum(a * b for a, b in zip(x, apart, strict=True))
    return total_variation(output, y), mean, max(b for a, b in zip(x, apart, strict=True) if a > 0)


def _bounded(rng: Random) -> bool:
    size = rng.randint(2, 4)
    x, y, skip = random_law(rng, size), random_law(rng, size), random_skip(rng, size)
    rebuilt = rebuilt_for_each(x, [rng.randint(0, size) for _ in range(size)])
    distance = total_variation(output_law(x, y, skip, rebuilt, true_draft=True), y)
    r, risk = total_variation(x, y), skip_risk(x, y, skip)
    if r == 0:
        return distance == 0
    apart = [total_variation(x, law) for law in rebuilt]
    redrawn = [(1 - s) * positive_part(a - b) for s, a, b in zip(skip, x, y, strict=True)]
    fine = sum(
        mass * gap / max(r, total_variation(law, y)) for mass, gap, law in zip(redrawn, apart, rebuilt, strict=True)
    )
    return distance <= risk + fine <= risk + max(gap for gap, mass in zip(apart, x, strict=True) if mass > 0)


if __name__ == "__main__":
    show(derive)
