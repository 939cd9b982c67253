"""Skipping and truncation together: TV(output, y) <= E[s beta] + TV(x, x_hat) [N, THEORY 4.5].

Write g = (y - x_hat)+, R' = Σ g, R = TV(x, y).

(A) The server tests and redraws with x_hat. Let a_v = min(1, y_v/x_hat_v), and 0 where y_v = 0; ρ = Σ (1-s) x (1-a) is
the mass that is redrawn. Then y = x_hat a + g and out = s x + (1-s) x a + ρ g/R'.
    Where y_v <= x_hat_v: g_v = 0 and x_hat_v a_v = y_v, so out - y = s (x - y) + (1-s)(x - x_hat) a.
    Where y_v > x_hat_v: a_v = 1, so out - y = (x - x_hat) + (ρ/R' - 1) g.
If ρ <= R', then (out - y)+ <= s (x - y)+ + (x - x_hat)+ at every v, and summing gives the bound.
If ρ > R', then (y - out)+ <= (x_hat - x)+ at every v: on the second set by the sign of the last term, on the first
because there s (y - x) <= s (x_hat - x) and s + (1-s) a lies in [0, 1]. Summing gives TV(output, y) <= TV(x, x_hat).
If R' = 0, then x_hat = y and the redraw is from y, which adds ρ y_v >= 0: (y - out)+ <= (x_hat - x)+ again.

(B) The server tests with the true x_d and redraws with x_hat; ρ = E[(1-s) beta] <= R is redrawn. The output differs
from that of exact verification by ρ (norm(y-x_hat)+ - norm(y-x)+) alone. By the identity of 4.3, the triangle
inequality and the lemma of 4.4, TV(output, y) <= E[s beta] + TV(x, x_hat) ρ / max(R, R'), at most the bound of (A).

Neither second term may be replaced by (1 - S) TV(x, x_hat), 1 - S = Σ (1-s) x the share that is transmitted, when s
depends on the draft: random laws give counterexamples.
"""

import sympy as sp
from derivation import Derivation, Source, show
from everywhere import METHOD, everywhere, named, on_rationals
from laws import Masses, Number, at_most, skip_risk, step, total_variation
from true_draft_bound import larger, rejection_gap

X, X_HAT, Y, S = named("x h y s")


def true_draft_bound(x: Masses, rebuilt: Masses, y: Masses, skip: Masses, most: Number) -> Number:
    """Bound of (B); `most` is max(R, R')."""
    redrawn = skip_risk(x, y, [1 - s for s in skip])
    return skip_risk(x, y, skip) + total_variation(x, rebuilt) * redrawn / most


RESULT = sp.Tuple(
    skip_risk(X, Y, S) + total_variation(X, X_HAT),
    true_draft_bound(X, X_HAT, Y, S, sp.Max(total_variation(X, Y), total_variation(X_HAT, Y), evaluate=False)),
)
"""Bounds of (A) and (B)."""


def derive() -> Derivation:
    """Check both bounds in every case, that (B) is the risk alone where all is kept, and that the scaled one fails."""
    return Derivation(
        name="combined_bound",
        theory="4.5",
        statement="TV(output, y) <= E[s beta] + TV(x, x_hat); when drafts are tested with the true x_d, <= E[s "
        "beta] + TV(x, x_hat) E[(1-s) beta] / max(R, R'); scaling by the transmitted mass is false when s"
        " depends on d",
        latex=r"\mathrm{TV}(\mathrm{out}, y) \le \mathrm{E}[s \beta] + \mathrm{TV}(x, \hat x)",
        source=Source.OWN,
        assumptions=("x_hat is a law fixed before d is drawn", "s_d is a function of x and d, or such a coin"),
        method=METHOD,
        result=RESULT,
        holds=everywhere(_whole_step, laws=3, skips=True)
        and everywhere(_true_draft, laws=3, skips=True, split=rejection_gap)
        and RESULT[1].subs(dict.fromkeys(S, 1)) == skip_risk(X, Y, [1, 1, 1])
        and not on_rationals(_scaled, laws=3, skips=True)
        and not on_rationals(_scaled_true_draft, laws=3, skips=True),
    )


def _whole_step(x: Masses, rebuilt: Masses, y: Masses, skip: Masses) -> bool:
    output = step(x, y, skip, rebuilt, rebuilt)
    return at_most(output, y, skip_risk(x, y, skip) + total_variation(x, rebuilt))


def _true_draft(x: Masses, rebuilt: Masses, y: Masses, skip: Masses) -> bool:
    output, most = step(x, y, skip, x, rebuilt), larger(total_variation(x, y), total_variation(rebuilt, y))
    return at_most(output, y, true_draft_bound(x, rebuilt, y, skip, most) if most != 0 else most)


def _scaled(x: Masses, rebuilt: Masses, y: Masses, skip: Masses) -> bool:
    output = step(x, y, skip, rebuilt, rebuilt)
    return at_most(output, y, skip_risk(x, y, skip) + _sent(x, skip) * total_variation(x, rebuilt))


def _scaled_true_draft(x: Masses, rebuilt: Masses, y: Masses, skip: Masses) -> bool:
    output = step(x, y, skip, x, rebuilt)
    return at_most(output, y, skip_risk(x, y, skip) + _sent(x, skip) * total_variation(x, rebuilt))


def _sent(x: Masses, skip: Masses) -> Number:
    return 1 - sum(s * a for s, a in zip(skip, x, strict=True)) / sum(x)


if __name__ == "__main__":
    show(derive)
