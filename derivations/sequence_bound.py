"""The total variation of whole outputs is at most the expected sum over positions [N, THEORY 4.8].

q(.|w) and y(.|w) are the laws of the next token of the hybrid and of the LLM after the prefix w, Q and Y the laws of
T tokens. An output that ends earlier goes on with a stop token, at which both agree, so lengths may vary.

Proof. Let H_j draw the first j tokens by y and the others by q: H_0 = Q, H_T = Y. H_(j-1) and H_j differ in the law
of token j alone, given a prefix drawn by y, and what follows is one kernel; so TV(H_(j-1), H_j) <= E_{w~Y}[TV_j(w)],
and the triangle inequality sums these: TV(Q, Y) <= E_Y[Σ_t TV_t]. Drawing the first j by q instead gives the same
with contexts of the hybrid. The two sums differ in general. For a score f in [0, 1], E_Q f - E_Y f = Σ f (Q - Y) is
largest at the indicator of {Q > Y}, where it is TV(Q, Y). (The simulation argument of imitation learning, in total
variation.)
"""

from itertools import product
from random import Random

import sympy as sp
from derivation import Derivation, Source, show
from laws import Number
from orderings import UndecidedError, sign
from sympy.polys.fields import field
from trees import expected_distances, random_tree, sequence_law

CASES = 80
A, B0, B1, C, D0, D1 = sp.symbols("y0 y00 y10 q0 q00 q10", nonnegative=True)
RESULT = sp.Tuple(
    abs(A - C) + A * abs(B0 - D0) + (1 - A) * abs(B1 - D1),
    abs(A - C) + C * abs(B0 - D0) + (1 - C) * abs(B1 - D1),
)
"""The bounds with contexts of the LLM and of the hybrid for |V| = 2, T = 2: y0, y00, y10 are the LLM's probabilities of
token 0 at the start, after token 0 and after token 1, q0, q00, q10 the hybrid's."""


def derive() -> Derivation:
    """Certify T = 2, |V| = 2 on every ordering of the three pairs; check longer random sequences exactly."""
    rng = Random(0)
    sums = [_random_case(rng) for _ in range(CASES)]
    return Derivation(
        name="sequence_bound",
        theory="4.8",
        statement="TV of the laws of T-token outputs <= E[sum_t TV_t], with contexts drawn by the LLM or by the "
        "hybrid, and |E f(hybrid) - E f(LLM)| <= that for every score f in [0, 1]",
        latex=r"\sup_{0 \le f \le 1} \bigl| \mathrm{E}_Q f - \mathrm{E}_Y f \bigr| = \mathrm{TV}(Q, Y)"
        r" \le \mathrm{E}_{w \sim Y} \sum_{t=1}^{T} \mathrm{TV}\bigl(q_t(w), y_t(w)\bigr)",
        source=Source.OWN,
        assumptions=("T is a length limit; outputs that stop earlier are padded with the stop token",),
        method="proof + every ordering for |V| = 2, T = 2 + random rationals to |V| = 3, T = 3",
        result=RESULT,
        holds=_certified() and all(held for held, _ in sums) and any(differ for _, differ in sums),
    )


def _certified() -> bool:
    names = [f"{part}{pair}" for pair in range(3) for part in ("low", "gap", "rest")]
    _, *w = field(names, sp.QQ)
    pairs = []
    for low, gap, rest in (w[:3], w[3:6], w[6:]):
        whole = low + gap + rest
        pairs.append((low / whole, (low + gap) / whole))
    try:
        return all(_bounded(*(pair[::order] for pair, order in zip(pairs, orders, strict=True)))
                   for orders in product((1, -1), repeat=3))  # fmt: skip
    except UndecidedError:
        return False


def _bounded(first: tuple[Number, Number], after_0: tuple[Number, Number], after_1: tuple[Number, Number]) -> bool:
    """Check every set of two-token words; each argument is (LLM's, hybrid's) probability of token 0."""
    words = [
        [f * a, f * (1 - a), (1 - f) * b, (1 - f) * (1 - b)]
        for f, a, b in (tuple(pair[model] for pair in (first, after_0, after_1)) for model in (0, 1))
    ]
    apart = [(p - q) * sign(p - q) for p, q in (first, after_0, after_1)]
    bounds = [apart[0] + first[model] * apart[1] + (1 - first[model]) * apart[2] for model in (0, 1)]
    return all(
        sign(bound - sum(y - q for inside, y, q in zip(chosen, *words, strict=True) if inside)) >= 0
        for chosen in product((0, 1), repeat=4)
        for bound in bounds
    )


def _random_case(rng: Random) -> tuple[bool, bool]:
    size, length, stop = rng.randint(2, 3), rng.randint(1, 3), rng.choice((None, 0))
    q, y = random_tree(rng, size, length, stop), random_tree(rng, size, length, stop)
    law_q, law_y = sequence_law(q, size, length), sequence_law(y, size, length)
    distance = sum(abs(law_q[word] - law_y[word]) for word in law_q) / 2
    by_llm, by_hybrid = (expected_distances(contexts, q, y, size, length) for contexts in (y, q))
    score = {word: rng.randint(0, 4) for word in law_q}
    gap = abs(sum(score[word] * (law_q[word] - law_y[word]) for word in score)) / 4
    return gap <= distance <= min(by_llm, by_hybrid), by_llm != by_hybrid


if __name__ == "__main__":
    show(derive)
