"""Skipping with exact verification otherwise costs exactly E[s beta] [N, THEORY 4.3].

Proof. Let f = (y - x)+, R = Σ f = TV(x, y), and ρ = Σ_v (1 - s_v)(x_v - y_v)+ the probability that a draft is asked
for and rejected; ρ <= R. The output has the law
    out_v = s_v x_v + (1 - s_v) min(x_v, y_v) + ρ f_v / R.
Where x_v > y_v: f_v = 0 and out_v - y_v = s_v (x_v - y_v) >= 0. Where x_v <= y_v: out_v - y_v = -(1 - ρ/R) f_v <= 0.
So TV(out, y) = Σ (out - y)+ = Σ_v s_v (x_v - y_v)+ = E_{d~x}[s_d beta_d]. With R = 0 nothing is rejected and out = x
= y. s_v may depend on x and on the draft v in any way; a coin with a probability that depends on them is the same
s_v.
"""

from derivation import Derivation, Source, show
from everywhere import METHOD, everywhere, named
from laws import Masses, skip_risk, step, total_variation

X, Y, S = named("x y s")
RESULT = skip_risk(X, Y, S)


def derive() -> Derivation:
    """Compare the law of the output with the identity, in every case."""
    return Derivation(
        name="skip_risk_identity",
        theory="4.3",
        statement="TV(output, y) = E_{d~x}[s_d beta_d] when the draft d is kept with probability s_d and verified "
        "exactly otherwise",
        latex=r"\mathrm{TV}(\mathrm{out}, y) = \mathrm{E}_{d \sim x}[s_d \beta_d] = \sum_v s_v (x_v - y_v)_+",
        source=Source.OWN,
        assumptions=(
            "x is the law really sampled, the same on both sides",
            "s_d is a function of x and d, or such a coin",
        ),
        method=METHOD,
        result=RESULT,
        holds=everywhere(_holds, laws=2, skips=True),
    )


def _holds(x: Masses, y: Masses, skip: Masses) -> bool:
    return total_variation(step(x, y, skip, x, x), y) == skip_risk(x, y, skip)


if __name__ == "__main__":
    show(derive)
