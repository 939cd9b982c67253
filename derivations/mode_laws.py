"""Law of the output of every mode [N, THEORY 3, the mode table].

Each law is that of one step, built from the same kernel with other arguments; the proofs are those of 4.3 (u-hlm),
4.5 (cu-hlm-offline), draft_dependent_size (cu-hlm-online), 4.7 (exact), 5 (coarse), query_bias (query) and
speculative_rounds (speculative). With s_v = 1 the output is x (slm), with s_v = 0 it is y (hlm, [P]), and with s_v =
p it is p x + (1-p) y, so TV = p TV(x, y) (random). llm draws from y by definition.
"""

from itertools import product

import sympy as sp
from coarse_verification import coarse_output
from derivation import Derivation, Source, show
from everywhere import METHOD, everywhere, named
from laws import Masses, at_most, skip_risk, step, total_variation
from query_bias import RESULT as QUERY
from query_bias import query_output

X, Y, X_HAT, S = named("x y h s")
RATE = sp.Symbol("p", nonnegative=True)
TRUNCATED = skip_risk(X, Y, S) + total_variation(X, X_HAT)
RESULT = sp.Dict(
    {
        sp.Symbol(mode): distance
        for mode, distance in {
            "slm": total_variation(X, Y),
            "llm": sp.Integer(0),
            "hlm": sp.Integer(0),
            "random": RATE * total_variation(X, Y),
            "u-hlm": skip_risk(X, Y, S),
            "cu-hlm-offline": TRUNCATED,
            "query": QUERY,
            "coarse": skip_risk(X, Y, S),
            "exact": skip_risk(X_HAT, Y, S),
            "speculative": sp.Integer(0),
        }.items()
    }
)
"""TV(output, y) of each mode for |V| = 3; an upper bound for cu-hlm-offline. The bound of cu-hlm-online is in
draft_dependent_size."""


def derive() -> Derivation:
    """Check each law in every case; the proofs of the longer ones have scripts of their own."""
    return Derivation(
        name="mode_laws",
        theory="3",
        statement="TV(output, y): slm TV(x,y); llm, hlm, speculative 0; random p TV(x,y); u-hlm and coarse E[s "
        "beta]; exact E_{d~x_hat}[s beta_hat]; query 1/2 sum |s_v x_v - S y_v|; cu-hlm-offline at most "
        "E[s beta] + TV(x, x_hat)",
        latex=r"\mathrm{TV}(\mathrm{out}, y) = \begin{cases} \mathrm{TV}(x, y) & \text{slm} \\"
        r" 0 & \text{llm, hlm, speculative} \\ p\,\mathrm{TV}(x, y) & \text{random} \\"
        r" \mathrm{E}_{d \sim x}[s_d \beta_d] & \text{u-hlm, coarse} \\"
        r" \mathrm{E}_{d \sim \hat x}[s_d \hat\beta_d] & \text{exact} \\"
        r" \tfrac12 \sum_v |s_v x_v - S y_v| & \text{query} \end{cases}",
        source=Source.OWN,
        assumptions=(
            "one step",
            "device and server hold the same laws",
            "s_d is a function of x and d, or such a coin",
        ),
        method=METHOD,
        result=RESULT,
        holds=everywhere(_unskipped, laws=2)
        and everywhere(_coin, laws=2, skips=True)
        and everywhere(_skipped, laws=2, skips=True)
        and everywhere(_truncated, laws=3),
    )


def _unskipped(x: Masses, y: Masses) -> bool:
    always, never = [1] * len(x), [0] * len(x)
    return step(x, y, always, x, x) == list(x) and step(x, y, never, x, x) == list(y)


def _coin(x: Masses, y: Masses, skip: Masses) -> bool:
    coin = skip[0]
    output = step(x, y, [coin] * len(x), x, x)
    mixture = [coin * a + (1 - coin) * b for a, b in zip(x, y, strict=True)]
    return output == mixture and total_variation(output, y) == coin * total_variation(x, y)


def _skipped(x: Masses, y: Masses, skip: Masses) -> bool:
    risk, total = skip_risk(x, y, skip), sum(x)
    kept = sum(s * a for s, a in zip(skip, x, strict=True)) / total
    differences = [o - b for o, b in zip(query_output(x, y, skip), y, strict=True)]
    return (
        total_variation(step(x, y, skip, x, x), y) == risk
        and total_variation(coarse_output(x, y, skip, range(len(x))), y) == risk
        and differences == [s * a - kept * b for s, a, b in zip(skip, x, y, strict=True)]
    )


def _truncated(x: Masses, rebuilt: Masses, y: Masses) -> bool:
    for skip in product((0, 1), repeat=len(x)):
        exact = total_variation(step(rebuilt, y, skip, rebuilt, rebuilt), y) == skip_risk(rebuilt, y, skip)
        bound = skip_risk(x, y, skip) + total_variation(x, rebuilt)
        if not exact or not at_most(step(x, y, skip, rebuilt, rebuilt), y, bound):
            return False
    return True


if __name__ == "__main__":
    show(derive)
