"""Bits that an upload takes, per message format. Draft and token ids ride free, as published [P2, THEORY 2.6]."""

import math
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.quantisation import Quantiser

_Number = TypeVar("_Number", float, NDArray[np.float64])

ENUMERATIVE_LIMIT = 1024
"""Largest min(k, n - k) written as one rank; beyond it a set is cut in halves that are written one after the other."""


class Format(StrEnum):
    """How the ids and the quantised masses of a law are written."""

    PUBLISHED = "published"
    """b_prob bits and an index of ceil(log2 |V|) bits for each of k entries [P2]; the length implies k."""
    COMPACT = "compact"
    """The set of ids by its rank, then the masses in the order of ids [N]. A type is written by its rank, other masses
    in b_prob bits each. Unless both sides know k, it comes first, in ceil(log2(|V| + 1)) bits."""
    DENSE = "dense"
    """b_prob bits for each of |V| entries, no ids: only k = |V|."""


def index_bits(vocab_size: int) -> int:
    """ceil(log2 |V|), bits that name one token.

    >>> index_bits(32000), index_bits(151936)
    (15, 18)
    """
    return (vocab_size - 1).bit_length()


def published_bits(k: _Number, vocab_size: int, b_prob: int = 8) -> _Number:
    """K (b_prob + ceil(log2 |V|)) bits [P2, THEORY 2.6]; k may be a mean, or an array.

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


def coarse_bits(kept: _Number, vocab_size: int, b_prob: int = 8) -> _Number:
    """Bits of a coarse message: each kept token and its probability [N, THEORY 5]; `kept` may be a mean, or an array.

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


def law_bits(
    k: int, vocab_size: int, b_prob: int, law_format: Format, quantiser: Quantiser, *, size_known: bool = True
) -> int:
    """Bits of k entries of a law, the length of what `codec.LawCodec` writes.

    In the compact format a set or type beyond `ENUMERATIVE_LIMIT` is cut where its elements fall: there this is the
    length for evenly spread elements, which others miss by a few bits a cut.

    Args:
        k: entries, 0 to |V|.
        vocab_size: |V|.
        b_prob: bits of a mass.
        law_format: where ids and masses go; dense takes all of |V| masses.
        quantiser: a compact type is written by its rank, other masses in b_prob bits each.
        size_known: whether both sides know k. If not, the compact format sends it in ceil(log2(|V| + 1)) bits.

    >>> [law_bits(30, 32000, 8, way, Quantiser.TYPES) for way in (Format.COMPACT, Format.PUBLISHED)]
    [477, 690]
    """
    if law_format is Format.DENSE:
        return dense_bits(vocab_size, b_prob)
    if law_format is Format.PUBLISHED:
        return int(published_bits(k, vocab_size, b_prob))
    bars = k if k < vocab_size else k - 1
    values = _set_bits(bars, 2**b_prob - 1 + bars) if quantiser is Quantiser.TYPES else k * b_prob
    return _set_bits(k, vocab_size) + values + (0 if size_known else vocab_size.bit_length())


@lru_cache(maxsize=4096)
def _set_bits(k: int, n: int) -> int:
    if min(k, n - k) <= ENUMERATIVE_LIMIT:
        return index_set_bits(k, n)
    half = n // 2
    count = (min(k, half) - max(0, k - (n - half))).bit_length()
    return count + _set_bits(k // 2, half) + _set_bits(k - k // 2, n - half)
