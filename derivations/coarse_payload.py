"""Bits of a coarse message under the deterministic gate u_bar <= t < 1/2 [N, THEORY 5].

By 4.2 only the argmax a can be skipped, so K is {a} or empty. Where u_bar_a > t, K is empty and nothing is sent but
the position. Otherwise d = a is skipped and sends nothing, and d != a sends a and x_a: ceil(log2 |V|) + b_prob bits.
Every truncated upload of k entries takes k times as many.
"""

import sympy as sp
from derivation import Derivation, Source, show, vanishes
from published_payload import B_PROB, BITS, K, V

RESULT = B_PROB + sp.ceiling(sp.log(V, 2))


def derive() -> Derivation:
    """Compare with the published payload, and recompute the numbers quoted."""
    at = {B_PROB: 8, V: 32000}
    numbers = [RESULT.subs(at), BITS.subs(at).subs(K, 30), BITS.subs(at).subs(K, 32000), RESULT.subs({**at, V: 151936})]
    return Derivation(
        name="coarse_payload",
        theory="5",
        statement="a coarse message with one skippable token takes b_prob + ceil(log2 |V|) bits: 23 at |V| = 32 000"
        " (26 at 151 936), against 690 for k = 30 and 736 000 for all of x",
        latex=r"B_{\mathrm{coarse}} = b_{\mathrm{prob}} + \lceil \log_2 |V| \rceil = B(k) / k",
        source=Source.OWN,
        assumptions=("gate u_bar <= t < 1/2, so that K has one token at most", "positions and token ids are free"),
        method="algebra",
        result=RESULT,
        holds=vanishes(BITS / K - RESULT) and numbers == [23, 690, 736000, 26],
    )


if __name__ == "__main__":
    show(derive)
