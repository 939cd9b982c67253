"""Truncate, then draw: drafts from x_hat, verified with the same x_hat [N, THEORY 4.7].

Proof. This is the speculative step with x_hat for x: the output is y, a draft is rejected with probability TV(x_hat,
y) by 4.1, and with skipping 4.3 gives TV(output, y) = E_{d~x_hat}[s_d beta_hat_d]. Nothing about x_hat is used but
that it is fixed before d is drawn, so k may depend on x, on earlier tokens and on the channel. (Known without
skipping as sparsify-then-sample.)
"""

from derivation import Derivation, Source, show
from everywhere import METHOD, everywhere, named
from laws import Masses, rejection, skip_risk, step, total_variation

X_HAT, Y, S = named("h y s")
RESULT = skip_risk(X_HAT, Y, S)


def derive() -> Derivation:
    """Check the law of the output, the rejection rate and the law with skipping, in every case."""
    return Derivation(
        name="truncate_then_draw",
        theory="4.7",
        statement="with d ~ x_hat and verification with x_hat the output is exactly y and the rejection rate "
        "TV(x_hat, y); with skipping TV(output, y) = E_{d~x_hat}[s_d beta_hat_d]",
        latex=r"d \sim \hat x: \quad \mathrm{TV}(\mathrm{out}, y) = \mathrm{E}_{d \sim \hat x}[s_d \hat\beta_d],"
        r" \qquad \Pr(\text{reject}) = \mathrm{TV}(\hat x, y)",
        source=Source.OWN,
        assumptions=("x_hat is a law fixed before d is drawn", "device and server hold the same x_hat"),
        method=METHOD,
        result=RESULT,
        holds=everywhere(_exact, laws=2) and everywhere(_skipping, laws=2, skips=True),
    )


def _exact(rebuilt: Masses, y: Masses) -> bool:
    rate = sum(a * rejection(a, b) for a, b in zip(rebuilt, y, strict=True) if a != 0)
    output = step(rebuilt, y, [0] * len(y), rebuilt, rebuilt)
    return output == list(y) and rate == total_variation(rebuilt, y)


def _skipping(rebuilt: Masses, y: Masses, skip: Masses) -> bool:
    output = step(rebuilt, y, skip, rebuilt, rebuilt)
    return total_variation(output, y) == skip_risk(rebuilt, y, skip)


if __name__ == "__main__":
    show(derive)
