"""The published payload [P2, THEORY 2.6]: k entries of b_prob bits, each with an index of ceil(log2 |V|) bits.

ceil(log2 |V|) is the length of the shortest index that names each of |V| tokens: the n with 2^(n-1) < |V| <= 2^n. A
dense full vector needs no index.
"""

import sympy as sp
from derivation import Derivation, Source, show

K, B_PROB, V = sp.symbols("k b_prob V", positive=True, integer=True)
BITS = K * (B_PROB + sp.ceiling(sp.log(V, 2)))


def derive() -> Derivation:
    """Evaluate the formula at the published numbers, and the index length against its definition."""
    published = {B_PROB: 8, V: 32000}
    numbers = (
        BITS.subs(published).subs(K, 32000) / 8 == 92000,
        BITS.subs(published).subs(K, 30) / 8 == sp.Rational("86.25"),
        (B_PROB * V).subs(published) / 8 == 32000,
    )
    sizes = [2, 3, 4, 5, 1023, 1024, 1025, 32000, 49152, 65536, 151936, 256000]
    indices = [int(sp.ceiling(sp.log(size, 2))) for size in sizes]
    return Derivation(
        name="published_payload",
        theory="2.6",
        statement="an upload of k entries takes k (b_prob + ceil(log2 |V|)) bits: 92 000 bytes for k = |V| = 32 000"
        " and 86.25 bytes for k = 30 at b_prob = 8, against 32 000 bytes for a dense vector",
        latex=r"B(k) = k\,\bigl(b_{\mathrm{prob}} + \lceil \log_2 |V| \rceil\bigr)",
        source=Source.REIMPLEMENTED,
        assumptions=("token ids and the downlink are free",),
        method="algebra",
        result=BITS,
        holds=all(numbers)
        and all(2 ** (bits - 1) < size <= 2**bits for bits, size in zip(indices, sizes, strict=True)),
    )


if __name__ == "__main__":
    show(derive)
