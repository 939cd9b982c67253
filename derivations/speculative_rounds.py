"""Rounds of g drafts output exactly the LLM's law [N, THEORY 3 and 7; known: Leviathan et al. 2023, Chen et al. 2023].

A round drafts d_1 ... d_g from the SLM, accepts them one after the other with probability min(1, y/x) at their own
prefix, replaces the first that fails by a draw from norm((y - x)+) there, and adds a token from y if none fails.

Proof. Given the tokens put out so far and that all drafts before were accepted, the next draft is fresh, d ~
x(.|prefix), and the token put out at that position is that of one speculative step, of law y(.|prefix). This holds at
each position of each round, so the chain rule gives Y for the whole output, whatever g is.
"""

from fractions import Fraction
from itertools import product
from random import Random

import sympy as sp
from derivation import Derivation, Source, show
from trees import Prefix, Tree, add_tested, random_tree, sequence_law

CASES = 60


def derive() -> Derivation:
    """Enumerate all drafts and coins of enough rounds to write T tokens, on random models."""
    rng = Random(2)
    farthest = max(_distance(rng) for _ in range(CASES))
    return Derivation(
        name="speculative_rounds",
        theory="7",
        statement="rounds of g drafts with exact verification, a redraw at the first rejection and a bonus token "
        "otherwise output the LLM's law of sequences, for every g",
        latex=r"\mathrm{Law}(w_1, \dots, w_T) = \prod_{t=1}^{T} y(w_t \mid w_{<t})",
        source=Source.OWN,
        assumptions=("drafts are drawn from the law they are tested against",),
        method="proof + exact enumeration on random rationals to |V| = 3, T = 3, g = 3",
        result=sp.Rational(farthest.numerator, farthest.denominator),
        holds=farthest == 0,
    )


def _distance(rng: Random) -> Fraction:
    """TV between the output and the LLM's law of sequences, on random models."""
    size, length = rng.choice(((2, 3), (2, 2), (3, 2)))
    drafts = rng.randint(1, 3)
    x, y = (random_tree(rng, size, length + drafts + 1) for _ in range(2))
    output, law = _written(x, y, size, length, drafts), sequence_law(y, size, length)
    return sum((abs(output[word] - law[word]) for word in law), Fraction(0)) / 2


def _written(x: Tree, y: Tree, size: int, length: int, drafts: int) -> dict[Prefix, Fraction]:
    """Law of the first `length` tokens of the output."""
    law = dict.fromkeys(product(range(size), repeat=length), Fraction(0))
    open_prefixes: dict[Prefix, Fraction] = {(): Fraction(1)}
    while open_prefixes:
        prefix, reached = open_prefixes.popitem()
        for tokens, probability in _round(x, y, prefix, size, drafts).items():
            text = prefix + tokens
            if len(text) >= length:
                law[text[:length]] += reached * probability
            else:
                open_prefixes[text] = open_prefixes.get(text, Fraction(0)) + reached * probability
    return law


def _round(x: Tree, y: Tree, prefix: Prefix, size: int, drafts: int) -> dict[Prefix, Fraction]:
    """Law of the tokens that one round puts out after `prefix`."""
    law: dict[Prefix, Fraction] = {}
    for drafted in product(range(size), repeat=drafts):
        probability = Fraction(1)
        for n, token in enumerate(drafted):
            probability *= x[prefix + drafted[:n]][token]
        if probability == 0:
            continue
        add_tested(law, x, y, prefix, drafted, probability)
    return law


if __name__ == "__main__":
    show(derive)
