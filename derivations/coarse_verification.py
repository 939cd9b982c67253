"""Coarse verification: the skippable entries suffice, and nothing is lost [N, THEORY 5].

K holds every token that may be skipped (s_v = 0 off K); the others are lumped into one symbol T of masses x(T), y(T).
The speculative step runs on K and T with the draft mapped to its symbol; where the outcome is T, a token is drawn
from y restricted to T.

Proof. The draft's symbol has the law (x_K, x(T)), and T is never skipped, so by 4.3 on symbols the law of the
output's symbol has Σ (out - y)+ = Σ_K s_v (x_v - y_v)+.

Within T the output is out(T) y_v / y(T), so out_v - y_v = (out(T) - y(T)) y_v / y(T) has one sign on T and sums to
out(T) - y(T): spreading T changes no positive part. Hence TV(output, y) = Σ_K s_v (x_v - y_v)+ = E[s beta]. If y(T) =
0, T is neither accepted nor in the residual, so out(T) = 0 and the undefined law is never used. K may be empty: then
the server draws from y.

With masses decoded from fewer bits the same holds, with the decoded law for x, if the draft's symbol is drawn from it.
"""

from collections.abc import Collection
from itertools import combinations

from derivation import Derivation, Source, show
from everywhere import METHOD, everywhere, named
from laws import Masses, Number, skip_risk, step, total_variation

X, Y, S = named("x y s")
KEPT = (0,)
RESULT = skip_risk(X, Y, [S[0], 0, 0])
"""TV(output, y) for K = {1}."""


def coarse_output(x: Masses, y: Masses, skip: Masses, kept: Collection[int]) -> list[Number]:
    """Law of the output; `skip` is read on `kept` only."""
    inside = [v for v in range(len(x)) if v in kept]
    lump = [v for v in range(len(x)) if v not in kept]
    symbols = [[law[v] for v in inside] + [sum(law[v] for v in lump)] for law in (x, y)]
    outcome = step(symbols[0], symbols[1], [*(skip[v] for v in inside), 0], symbols[0], symbols[0])
    output = [0 * mass for mass in x]
    for v, mass in zip(inside, outcome, strict=False):
        output[v] = mass
    for v in lump:
        output[v] = outcome[-1] * y[v] / symbols[1][-1] if symbols[1][-1] != 0 else outcome[-1] / len(lump)
    return output


def derive() -> Derivation:
    """Compare the law of the output with E[s beta] for every K, in every case."""
    return Derivation(
        name="coarse_verification",
        theory="5",
        statement="with every skippable token in K and the others lumped into one symbol, redrawn from y restricted"
        " to them, TV(output, y) = E_{d~x}[s_d beta_d], for any such K, even empty",
        latex=r"\{v : s_v > 0\} \subseteq K: \quad \mathrm{TV}(\mathrm{out}, y) = \sum_{v \in K} s_v (x_v - y_v)_+"
        r" = \mathrm{E}_{d \sim x}[s_d \beta_d]",
        source=Source.OWN,
        assumptions=("K and s are functions of x (and coins given d), the same on both sides", "s_v = 0 off K"),
        method=METHOD,
        result=RESULT,
        holds=everywhere(_holds, laws=2, skips=True),
    )


def _holds(x: Masses, y: Masses, skip: Masses) -> bool:
    size = len(x)
    for k in range(size + 1):
        for kept in combinations(range(size), k):
            skippable = [skip[v] if v in kept else 0 for v in range(size)]
            output = coarse_output(x, y, skippable, kept)
            if sum(output) != sum(x) or total_variation(output, y) != skip_risk(x, y, skippable):
                return False
    return True


if __name__ == "__main__":
    show(derive)
