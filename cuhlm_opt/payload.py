"""Bits that an upload takes, per message format. Draft and token ids ride free, as published [P2, THEORY 2.6]."""

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
