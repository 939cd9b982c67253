"""Deferred verification: rounds that stop drafting on the draft itself are exact if that draft is tested too [N].

The device drafts d_1, d_2, ... from the SLM and stops behind the first d_n with s(prefix, d_n) = 0, a rule that may
read the draft, or when g are pending. All are tested in order; the first that fails is replaced by a draw from
norm((y - x)+) there, and a token from y is added if none fails.

Proof. Given the tokens put out so far and that the drafts before were accepted and did not stop, the next draft is
fresh, d ~ x(.|prefix): whether drafting stopped was decided by earlier drafts. Its test makes the token of law
y(.|prefix), whether it stops or not. The token added behind the last draft has law y at its prefix. The chain rule
gives Y, as for a fixed number of drafts (speculative_rounds).

Without the test of the draft that stopped, its place is drawn from y where it was drawn unsure, and is the tested draft
where it was sure: for one position s_v min(x_v, y_v) + R norm((y - x)+)_v + (1 - sum s x) y_v, R = sum_v s_v (x_v -
y_v)+. For two tokens of which the first is sure this is off by min(x1 (1 - y1), y1 (1 - x1)), also where x = y.
"""

from collections.abc import Mapping
from fractions import Fraction
from itertools import product
from random import Random

import sympy as sp
from derivation import Derivation, Source, show
from laws import random_law, rejection, residual, total_variation
from trees import Prefix, Tree, add_tested, prefixes, random_tree, sequence_law

CASES = 40
Rule = Mapping[tuple[Prefix, int], bool]
X1, Y1 = sp.symbols("x1 y1", nonnegative=True)
RESULT = sp.Min(X1 * (1 - Y1), Y1 * (1 - X1))
"""TV of the variant that drops the draft that stopped, on two tokens of which the first is sure."""


def derive() -> Derivation:
    """Enumerate all drafts and coins on random models and rules; compare the variant with its closed form."""
    rng = Random(5)
    exact = all(_distance(rng) == 0 for _ in range(CASES))
    return Derivation(
        name="deferred_verification",
        theory="7.1",
        statement="drafting until a rule that may read the draft stops it, testing every pending draft, the one that "
        "stopped included, and going back to the first that fails outputs the LLM's law; to drop that draft untested "
        "does not: on two tokens of which the first is sure it is off by min(x1 (1 - y1), y1 (1 - x1))",
        latex=r"\mathrm{Law}(w_1, \dots, w_T) = \prod_{t=1}^{T} y(w_t \mid w_{<t}); \\"
        r" \mathrm{TV}_{\text{dropped}} = \min\bigl(x_1 (1 - y_1), y_1 (1 - x_1)\bigr)",
        source=Source.OWN,
        assumptions=("drafts are drawn from the law they are tested against",),
        method="proof + exact enumeration on random rationals to |V| = 3, T = 3, g = 3",
        result=RESULT,
        holds=exact and all(_dropped(rng) for _ in range(CASES)),
    )


def dropped_output(x: list[Fraction], y: list[Fraction], sure: list[bool]) -> list[Fraction]:
    """Law of one token where an unsure draft is thrown away untested: the variant that is wrong."""
    redrawn = residual(y, x)
    refused = sum((p * rejection(p, q) for p, q, s in zip(x, y, sure, strict=True) if s), Fraction(0))
    unsure = sum((p for p, s in zip(x, sure, strict=True) if not s), Fraction(0))
    return [
        (p * (1 - rejection(p, q)) if s else Fraction(0)) + refused * r + unsure * q
        for p, q, r, s in zip(x, y, redrawn, sure, strict=True)
    ]


def _dropped(rng: Random) -> bool:
    x, y = random_law(rng, 2), random_law(rng, 2)
    distance = total_variation(dropped_output(x, y, [True, False]), y)
    at = {X1: sp.Rational(x[0].numerator, x[0].denominator), Y1: sp.Rational(y[0].numerator, y[0].denominator)}
    return bool(RESULT.subs(at) == sp.Rational(distance.numerator, distance.denominator))


def _distance(rng: Random) -> Fraction:
    """TV between the output and the LLM's law of sequences, on a random model and rule."""
    size, length = rng.choice(((2, 3), (2, 2), (3, 2)))
    most = rng.randint(1, 3)
    x, y = (random_tree(rng, size, length + most + 1) for _ in range(2))
    sure = {(prefix, v): rng.random() < 0.6 for prefix in prefixes(size, length + most) for v in range(size)}
    law = dict.fromkeys(product(range(size), repeat=length), Fraction(0))
    open_prefixes: dict[Prefix, Fraction] = {(): Fraction(1)}
    while open_prefixes:
        prefix, reached = open_prefixes.popitem()
        for tokens, probability in _round(x, y, sure, prefix, most).items():
            text = prefix + tokens
            if len(text) >= length:
                law[text[:length]] += reached * probability
            else:
                open_prefixes[text] = open_prefixes.get(text, Fraction(0)) + reached * probability
    wanted = sequence_law(y, size, length)
    return sum((abs(law[word] - wanted[word]) for word in law), Fraction(0)) / 2


def _round(x: Tree, y: Tree, sure: Rule, prefix: Prefix, most: int) -> dict[Prefix, Fraction]:
    """Law of the tokens that one round puts out after `prefix`."""
    law: dict[Prefix, Fraction] = {}
    drafting: list[tuple[Prefix, Fraction]] = [((), Fraction(1))]
    while drafting:
        drafts, probability = drafting.pop()
        stopped = bool(drafts) and not sure[(prefix + drafts[:-1], drafts[-1])]
        if len(drafts) < most and not stopped:
            law_of_next = x[prefix + drafts]
            drafting += [((*drafts, v), probability * p) for v, p in enumerate(law_of_next) if p > 0]
            continue
        add_tested(law, x, y, prefix, drafts, probability)
    return law


if __name__ == "__main__":
    show(derive)
