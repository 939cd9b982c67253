"""Bits that an upload takes, per message format. Draft and token ids ride free, as published [P2, THEORY 2.6]."""

import math
from enum import StrEnum


class Format(StrEnum):
    """How a full or truncated law is written."""

    PUBLISHED = "published"
    """b_prob bits and an index of ceil(log2 |V|) bits for each of k entries [P2]."""
    DENSE = "dense"
    """b_prob bits for each of |V| entries, no indices: only for the full law."""


def index_bits(vocab_size: int) -> int:
    """ceil(log2 |V|), bits that name one token.

    >>> index_bits(32000), index_bits(151936)
    (15, 18)
    """
    return (vocab_size - 1).bit_length()


def published_bits(k: float, vocab_size: int, b_prob: int = 8) -> float:
    """K (b_prob + ceil(log2 |V|)) bits [P2, THEORY 2.6]; k may be a mean.

    >>> published_bits(32000, 32000) / 8, published_bits(30, 32000) / 8
    (92000.0, 86.25)
    """
    return k * (b_prob + index_bits(vocab_size))


def dense_bits(vocab_size: int, b_prob: int = 8) -> int:
    """b_prob |V| bits: a full vector needs no indices.

    >>> dense_bits(32000) / 8
    32000.0
    """
    return b_prob * vocab_size


def full_law_bits(vocab_size: int, b_prob: int, law_format: Format) -> float:
    """Bits of all of x in `law_format`."""
    if law_format is Format.DENSE:
        return dense_bits(vocab_size, b_prob)
    return published_bits(vocab_size, vocab_size, b_prob)


def coarse_bits(kept: float, vocab_size: int, b_prob: int = 8) -> float:
    """Bits of a coarse message: each kept token and its probability [N, THEORY 5]; `kept` may be a mean.

    >>> coarse_bits(1, 32000), coarse_bits(1, 151936)
    (23, 26)
    """
    return published_bits(kept, vocab_size, b_prob)


def index_set_bits(k: int, vocab_size: int) -> int:
    """ceil(log2 C(|V|, k)), bits that name a set of k tokens without an order [N, THEORY 9].

    >>> index_set_bits(30, 32000), 30 * index_bits(32000)
    (342, 450)
    """
    return (math.comb(vocab_size, k) - 1).bit_length()


def type_bits(k: int, total: int = 255) -> int:
    """ceil(log2 C(N + k, k)), bits of k counts and the rest that together make up N [N, THEORY 9].

    >>> type_bits(30), 30 * 8
    (135, 240)
    """
    return index_set_bits(k, total + k)


def compact_bits(k: int, vocab_size: int, b_prob: int = 8) -> int:
    """Bits of k < |V| entries as an index set and a type with N = 2^b_prob - 1, for a k that both sides know [N].

    Where k varies it is sent as well, in ceil(log2(|V| + 1)) bits. Exact while k and |V| - k or N, whichever is less,
    do not exceed `enumerative.ENUMERATIVE_LIMIT`; longer codes are cut, at a few bits each.

    >>> compact_bits(30, 32000), published_bits(30, 32000)
    (477, 690)
    """
    return index_set_bits(k, vocab_size) + type_bits(k, 2**b_prob - 1)
