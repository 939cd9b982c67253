"""(A) The server runs the whole step with x_hat: the output is within TV(x, x_hat) of y [N, THEORY 4.4].

Proof. Once x_hat is fixed, what the server does with a draft is a kernel: accept d with probability min(1, y_d /
x_hat_d), else draw from norm((y - x_hat)+). Fed with d ~ x_hat it outputs exactly y (speculative sampling); fed with
d ~ x it outputs the law in question. A kernel does not increase total variation, so TV(output, y) <= TV(x, x_hat).
"""

from derivation import Derivation, Source, show
from everywhere import METHOD, everywhere, named
from laws import Masses, at_most, step, total_variation

X, X_HAT = named("x h")
RESULT = total_variation(X, X_HAT)


def derive() -> Derivation:
    """Check the bound, and that the kernel is exact on drafts of x_hat, in every case."""
    return Derivation(
        name="truncation_bound",
        theory="4.4",
        statement="TV(output, y) <= TV(x, x_hat) when drafts are drawn from x and the server runs the whole step "
        "with x_hat",
        latex=r"\mathrm{TV}(\mathrm{out}, y) \le \mathrm{TV}(x, \hat x)",
        source=Source.OWN,
        assumptions=("x_hat is a law fixed before d is drawn", "a draft with y_d = 0 is rejected"),
        method=METHOD,
        result=RESULT,
        holds=everywhere(_holds, laws=3),
    )


def _holds(x: Masses, rebuilt: Masses, y: Masses) -> bool:
    never = [0] * len(x)
    exact = step(rebuilt, y, never, rebuilt, rebuilt)
    output = step(x, y, never, rebuilt, rebuilt)
    return exact == list(y) and at_most(output, y, total_variation(x, rebuilt))


if __name__ == "__main__":
    show(derive)
