"""Fewer bits for the same upload: index sets and types, coded by enumeration [N, THEORY 9; known: Cover 1973].

The k kept tokens are a set, one of C(|V|, k), so ceil(log2 C(|V|, k)) bits name it if the values follow in index
order. Probabilities rounded to counts n_i/N with a rest are k + 1 counts >= 0 that sum to N: C(N + k, k) of them (k
bars among N + k places). No code of fixed length for these is shorter.
"""

from itertools import product

import sympy as sp
from derivation import Derivation, Source, show

V, K, N = sp.symbols("V k N", positive=True, integer=True)
INDEX_BITS = sp.ceiling(sp.log(sp.binomial(V, K), 2))
TYPE_BITS = sp.ceiling(sp.log(sp.binomial(N + K, K), 2))
RESULT = sp.Tuple(INDEX_BITS, TYPE_BITS)


def bits_for(count: int | sp.Integer) -> int:
    """ceil(log2 count), exactly: the n with 2^(n-1) < count <= 2^n."""
    return (int(count) - 1).bit_length()


def derive() -> Derivation:
    """Count types by enumeration and by a recursion on symbols, and recompute the numbers quoted in whole numbers."""
    counted = all(
        _types(entries, total) == sp.binomial(total + entries, entries)
        and bits_for(_types(entries, total)) == TYPE_BITS.subs({N: total, K: entries})
        for entries in range(1, 4)
        for total in range(1, 6)
    )
    # k + 1 entries: split on the last one's count; the sum over counts telescopes by Pascal's rule
    pascal = sp.combsimp(sp.binomial(N + K + 1, K + 1) - sp.binomial(N + K, K + 1) - sp.binomial(N + K, K))
    return Derivation(
        name="payload_entropy",
        theory="9",
        statement="an index set needs ceil(log2 C(|V|, k)) bits, 342 against 450 at |V| = 32 000, k = 30; "
        "probabilities as a type of N with a rest need ceil(log2 C(N + k, k)), 135 against 240 at k = 30,"
        " N = 255",
        latex=r"B_{\mathrm{index}} = \Bigl\lceil \log_2 \binom{|V|}{k} \Bigr\rceil, \qquad"
        r" B_{\mathrm{type}} = \Bigl\lceil \log_2 \binom{N + k}{k} \Bigr\rceil",
        source=Source.OWN,
        assumptions=("values in index order", "k and N known to both sides"),
        method="algebra + enumeration of small types",
        result=RESULT,
        holds=counted
        and sp.simplify(pascal) == 0
        and bits_for(sp.binomial(32000, 30)) == INDEX_BITS.subs({V: 32000, K: 30}) == 342
        and bits_for(sp.binomial(255 + 30, 30)) == TYPE_BITS.subs({N: 255, K: 30}) == 135
        and (30 * 15, 30 * 8) == (450, 240),
    )


def _types(entries: int, total: int) -> int:
    """Number of ways to write `entries` counts that leave a rest >= 0 of `total`."""
    return sum(sum(counts) <= total for counts in product(range(total + 1), repeat=entries))


if __name__ == "__main__":
    show(derive)
