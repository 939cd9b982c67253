"""Output of `query`: skip, or let the server draw from y [N, THEORY 3].

out_v = s_v x_v + (1 - S) y_v with S = Σ s x, so out - y = s x - S y, and TV(out, y) = 1/2 Σ |s_v x_v - S y_v|. It is
at least the skip risk when each s_v is 0 or 1: on the skipped set A, (x_v - S y_v)+ >= (x_v - y_v)+ as S <= 1, and
elsewhere s_v x_v - S y_v <= 0, so TV = Σ_A (x_v - S y_v)+ >= Σ_A (x_v - y_v)+. A coin of constant probability p gives
p TV(x, y) on both sides. For other coins the comparison fails: x = (1/2, 1/2), y = (1/3, 2/3), s = (1/2, 1) has
TV(out, y) = 0 but E[s beta] = 1/12.
"""

from fractions import Fraction
from itertools import product

from derivation import Derivation, Source, show
from everywhere import METHOD, everywhere, named
from laws import Masses, Number, positive_part, skip_risk, total_variation
from orderings import sign

X, Y, S = named("x y s")
RESULT = (
    sum(abs(s * x - sum(t * z for t, z in zip(S, X, strict=True)) * y) for s, x, y in zip(S, X, Y, strict=True)) / 2
)


def query_output(x: Masses, y: Masses, skip: Masses) -> list[Number]:
    """Law of the output of `query`; total as that of x."""
    kept = [s * a for s, a in zip(skip, x, strict=True)]
    share = 1 - sum(kept) / sum(x)
    return [a + share * b for a, b in zip(kept, y, strict=True)]


def derive() -> Derivation:
    """Check the formula with coins, the comparison for certain skips, and that it fails for coins."""
    half, third = Fraction(1, 2), Fraction(1, 3)
    x, y, coins = [half, half], [third, 1 - third], [half, Fraction(1)]
    fails = (total_variation(query_output(x, y, coins), y), skip_risk(x, y, coins)) == (0, Fraction(1, 12))
    return Derivation(
        name="query_bias",
        theory="3",
        statement="TV(output, y) of `query` = 1/2 sum_v |s_v x_v - S y_v| with S = sum s x; at least E[s beta] when"
        " every s_v is 0 or 1, not for coins that depend on the draft",
        latex=r"\mathrm{TV}(\mathrm{out}, y) = \tfrac12 \sum_v \Bigl| s_v x_v - \bigl(\textstyle\sum_w s_w x_w\bigr)"
        r" y_v\Bigr| \;\ge\; \mathrm{E}[s \beta] \quad \text{for } s \in \{0, 1\}^{|V|}",
        source=Source.OWN,
        assumptions=("the server draws from y itself when it is asked", "for the comparison: s_v in {0, 1}"),
        method=METHOD,
        result=RESULT,
        holds=everywhere(_costs_more, laws=2) and everywhere(_formula, laws=2, skips=True) and fails,
    )


def _formula(x: Masses, y: Masses, skip: Masses) -> bool:
    total = sum(x)
    kept = sum(s * a for s, a in zip(skip, x, strict=True)) / total
    output = query_output(x, y, skip)
    differences = [s * a - kept * b for s, a, b in zip(skip, x, y, strict=True)]
    return sum(output) == total and all(o - b == gap for o, b, gap in zip(output, y, differences, strict=True))


def _costs_more(x: Masses, y: Masses) -> bool:
    for skip in product((0, 1), repeat=len(x)):
        output = query_output(x, y, skip)
        # TV(out, y) >= out(B) - y(B) for every set B; here B holds the skipped tokens with x_v > y_v
        harmful = [s * positive_part(a - b) != 0 for s, a, b in zip(skip, x, y, strict=True)]
        gap = sum(o - b for inside, o, b in zip(harmful, output, y, strict=True) if inside)
        if sign(gap - skip_risk(x, y, skip)) < 0:
            return False
    return True


if __name__ == "__main__":
    show(derive)
