"""The mean rejection probability of a draft is the total variation distance [N, THEORY 4.1].

Proof. Σ_v x_v (1 - y_v/x_v)+ = Σ_v (x_v - y_v)+, tokens with x_v = 0 adding nothing to either side. Both laws sum to
1, so the positive and the negative parts of x - y have the same mass, each half of Σ|x - y|. (Known for speculative
decoding: Leviathan et al. 2023, as one minus the acceptance rate.)
"""

from derivation import Derivation, Source, show
from everywhere import METHOD, everywhere, named
from laws import Masses, positive_part, rejection, total_variation

X, Y = named("x y")
RESULT = total_variation(X, Y)


def mean_rejection(x: Masses, y: Masses) -> object:
    """E_{d~x}[beta_d], as the sum over drafts."""
    return sum(a * rejection(a, b) for a, b in zip(x, y, strict=True) if a != 0)


def derive() -> Derivation:
    """Check the sum over drafts against half the absolute difference, in every case."""
    return Derivation(
        name="mean_rejection",
        theory="4.1",
        statement="E_{d~x}[beta_d] = TV(x, y)",
        latex=r"\mathrm{E}_{d \sim x}[\beta_d] = \mathrm{TV}(x, y)",
        source=Source.OWN,
        assumptions=("x is the law that drafts are drawn from",),
        method=METHOD,
        result=RESULT,
        holds=everywhere(_holds, laws=2),
    )


def _holds(x: Masses, y: Masses) -> bool:
    distance = sum(positive_part(a - b) + positive_part(b - a) for a, b in zip(x, y, strict=True)) / 2
    return mean_rejection(x, y) == distance == total_variation(x, y)


if __name__ == "__main__":
    show(derive)
