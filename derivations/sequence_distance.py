"""The total variation of whole outputs, exactly, from contexts of the LLM alone [N, THEORY 4.8].

TV(Q, Y) = Σ_w (Y(w) - Q(w))+, and words with Y(w) = 0 add nothing, so it is Σ_w Y(w) (1 - Q(w)/Y(w))+ = E_{w~Y}[(1 -
Π_t q_t(w)/y_t(w))+]: each word that the LLM writes needs only the hybrid's probabilities of the tokens written. It is
never above the sum of 4.8.
"""

from fractions import Fraction
from math import prod
from random import Random

import sympy as sp
from derivation import Derivation, Source, show
from laws import positive_part
from sequence_bound import B0, B1, D0, D1, A, C
from trees import expected_distances, random_tree, sequence_law

CASES = 80
WORDS = (((A, C), (B0, D0)), ((A, C), (1 - B0, 1 - D0)), ((1 - A, 1 - C), (B1, D1)), ((1 - A, 1 - C), (1 - B1, 1 - D1)))
RESULT = sum(sp.Mul(*(y for y, _ in word)) * positive_part(1 - sp.Mul(*(q / y for y, q in word))) for word in WORDS)
"""TV(Q, Y) for |V| = 2, T = 2, in the symbols of sequence_bound."""


def derive() -> Derivation:
    """Compare the expectation over words of the LLM with the distance of the two laws, exactly."""
    rng = Random(1)
    return Derivation(
        name="sequence_distance",
        theory="4.8",
        statement="TV of the laws of T-token outputs = E_{w ~ LLM}[(1 - prod_t q_t(w)/y_t(w))+], at most the sum bound",
        latex=r"\mathrm{TV}(Q, Y) = \mathrm{E}_{w \sim Y} \Bigl( 1 - \prod_{t=1}^{T} \frac{q_t(w)}{y_t(w)} \Bigr)_{+}",
        source=Source.OWN,
        assumptions=("T is a length limit; outputs that stop earlier are padded with the stop token",),
        method="proof + random rationals to |V| = 3, T = 3",
        result=RESULT,
        holds=all(_random_case(rng) for _ in range(CASES)),
    )


def _random_case(rng: Random) -> bool:
    size, length = rng.randint(2, 3), rng.randint(1, 3)
    q, y = random_tree(rng, size, length), random_tree(rng, size, length)
    law_q, law_y = sequence_law(q, size, length), sequence_law(y, size, length)
    distance = sum(abs(law_q[word] - law_y[word]) for word in law_q) / 2
    expectation = Fraction(0)
    for word, probability in law_y.items():
        if probability > 0:
            ratio = prod(q[word[:n]][token] / y[word[:n]][token] for n, token in enumerate(word))
            expectation += probability * positive_part(1 - ratio)
    return expectation == distance <= expected_distances(y, q, y, size, length)


if __name__ == "__main__":
    show(derive)
