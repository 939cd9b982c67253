"""Bits, and sets and types in the fewest of them: enumerative coding (Cover, IEEE Trans. Inf. Theory 19, 1973).

A k-subset of {0, .., n-1} is written as its rank among all C(n, k) of them. The order behind the rank is one that is
cheap to count in: by how many elements fall in the lower half, then by the lower part, then by the upper part. With j
elements below, C(n/2, j) C(n - n/2, k - j) subsets share that split, so ranking is a search in a table of partial sums
at each of about 1.5 k nodes, and tables for k <= 64 are kept between calls. (The usual walk over single elements needs
up to log2 n binomials of k log2 n bits to find one of them: some 30 times slower to read k = 64 of 151 936.)

Integers are exact throughout: the same bits on every machine.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.errors import CodecError
from cuhlm_opt.payload import ENUMERATIVE_LIMIT, index_set_bits

_CACHED_SIZE = 64


@dataclass(frozen=True)
class Message:
    """`bits` bits, first one highest, in as few bytes as hold them; the unused bits of the last byte are zero."""

    bits: int
    data: bytes

    def __post_init__(self) -> None:
        if self.bits < 0 or len(self.data) != (self.bits + 7) // 8:
            raise CodecError(f"message of {len(self.data)} bytes is not one of {self.bits} bits")
        if self.bits % 8 and self.data[-1] & (0xFF >> self.bits % 8):
            raise CodecError("message: the unused bits of the last byte are not zero")


def _word(width: int) -> np.dtype[np.unsignedinteger[Any]]:
    """The smallest big-endian integer of at least `width` bits."""
    return np.dtype(f">u{next(size for size in (1, 2, 4, 8) if 8 * size >= width)}")


class BitWriter:
    """Collects fields of any width, highest bit first."""

    def __init__(self) -> None:
        self._fields: list[NDArray[np.uint8]] = []

    def write(self, value: int, width: int) -> None:
        """Append 0 <= value < 2^width, of any size."""
        octets = np.frombuffer(value.to_bytes((width + 7) // 8, "big"), dtype=np.uint8)
        self._fields.append(np.unpackbits(octets)[-width % 8 :])

    def write_array(self, values: NDArray[np.integer], width: int) -> None:
        """Append each of `values`, 0 <= value < 2^width, width <= 62."""
        word = _word(width)
        octets = np.asarray(values).astype(word).view(np.uint8).reshape(-1, word.itemsize)
        self._fields.append(np.unpackbits(octets, axis=1)[:, 8 * word.itemsize - width :].ravel())

    def message(self) -> Message:
        """Everything written so far."""
        bits = np.concatenate([np.empty(0, dtype=np.uint8), *self._fields])
        return Message(len(bits), np.packbits(bits).tobytes())


class BitReader:
    """Reads what `BitWriter` wrote. Reading past the end raises CodecError."""

    def __init__(self, message: Message) -> None:
        self._bits = np.unpackbits(np.frombuffer(message.data, dtype=np.uint8))[: message.bits]
        self._at = 0

    def _take(self, width: int) -> NDArray[np.uint8]:
        if width > len(self._bits) - self._at:
            raise CodecError(f"message of {len(self._bits)} bits ends within a field")
        self._at += width
        return self._bits[self._at - width : self._at]

    def read(self, width: int) -> int:
        """Next `width` bits as one integer."""
        padding = np.zeros(-width % 8, dtype=np.uint8)
        return int.from_bytes(np.packbits(np.concatenate([padding, self._take(width)])).tobytes(), "big")

    def read_array(self, count: int, width: int) -> NDArray[np.int64]:
        """Next `count` integers of `width` bits each, width <= 62."""
        word = _word(width)
        bits = np.zeros((count, 8 * word.itemsize), dtype=np.uint8)
        bits[:, bits.shape[1] - width :] = self._take(count * width).reshape(count, width)
        return np.packbits(bits, axis=1).view(word).ravel().astype(np.int64)

    def finish(self) -> None:
        """Refuse a message that goes on after its last field."""
        if self._at != len(self._bits):
            raise CodecError(f"message of {len(self._bits)} bits; its last field ends at bit {self._at}")


@dataclass(frozen=True)
class _Splits:
    """The k-subsets of n by the number j = least, least + 1, .. of elements in the lower half."""

    least: int
    ranks: list[int]  # of the first subset of each j
    uppers: list[int]  # C(n - n/2, k - j)


def _splits(n: int, k: int) -> _Splits:
    return _cached_splits(n, k) if k <= _CACHED_SIZE else _computed_splits(n, k)


def _computed_splits(n: int, k: int) -> _Splits:
    below, above = n // 2, n - n // 2
    least = max(0, k - above)
    lower, upper, rank = math.comb(below, least), math.comb(above, k - least), 0
    ranks, uppers = [], []
    for j in range(least, min(k, below) + 1):
        ranks.append(rank)
        uppers.append(upper)
        rank += lower * upper
        lower = lower * (below - j) // (j + 1)
        upper = upper * (k - j) // (above - k + j + 1)
    return _Splits(least, ranks, uppers)


_cached_splits = lru_cache(maxsize=4096)(_computed_splits)


def rank_subset(chosen: Sequence[int], n: int) -> int:
    """Rank of a subset of {0, .., n-1} among those of its size.

    Args:
        chosen: k distinct elements in increasing order.
        n: size of the set they are taken from.

    Returns:
        Integer in [0, C(n, k)).

    Example:
        >>> [rank_subset(pair, 4) for pair in ([2, 3], [0, 2], [0, 3], [1, 2], [1, 3], [0, 1])]
        [0, 1, 2, 3, 4, 5]
    """

    def visit(start: int, stop: int, base: int, n: int) -> int:
        k = stop - start
        if k in (0, n):
            return 0
        if k == 1:
            return chosen[start] - base
        splits, half = _splits(n, k), n // 2
        middle = bisect_left(chosen, base + half, start, stop)
        at = middle - start - splits.least
        lower = visit(start, middle, base, half)
        return splits.ranks[at] + lower * splits.uppers[at] + visit(middle, stop, base + half, n - half)

    return visit(0, len(chosen), 0, n)


def unrank_subset(rank: int, n: int, k: int) -> list[int]:
    """The k-subset of {0, .., n-1} of rank `rank` in [0, C(n, k)), increasing; the inverse of `rank_subset`.

    >>> unrank_subset(3, 4, 2)
    [1, 2]
    """
    chosen: list[int] = []

    def visit(rank: int, base: int, n: int, k: int) -> None:
        if k == n:
            chosen.extend(range(base, base + n))
        elif k == 1:
            chosen.append(base + rank)
        elif k > 1:
            splits, half = _splits(n, k), n // 2
            at = bisect_right(splits.ranks, rank) - 1
            j = splits.least + at
            lower, upper = divmod(rank - splits.ranks[at], splits.uppers[at])
            visit(lower, base, half, j)
            visit(upper, base + half, n - half, k - j)

    visit(rank, 0, n, k)
    return chosen


def _count_field(n: int, k: int) -> tuple[int, int]:
    """(smallest number of elements in the lower half, bits that tell which number it is)."""
    least = max(0, k - (n - n // 2))
    return least, (min(k, n // 2) - least).bit_length()


def write_subset(writer: BitWriter, chosen: Sequence[int], n: int) -> None:
    """Append a subset of {0, .., n-1}, given in increasing order, of a size that the reader will know.

    Takes ceil(log2 C(n, k)) bits where min(k, n - k) <= ENUMERATIVE_LIMIT. A larger set is written as the count in its
    lower half, the lower half and the upper half: at most 18 bits and a rounding more for each cut.
    """
    k = len(chosen)
    if min(k, n - k) <= ENUMERATIVE_LIMIT:
        writer.write(rank_subset(chosen, n), index_set_bits(k, n))
        return
    least, width = _count_field(n, k)
    half = n // 2
    middle = bisect_left(chosen, half)
    writer.write(middle - least, width)
    write_subset(writer, chosen[:middle], half)
    write_subset(writer, [element - half for element in chosen[middle:]], n - half)


def read_subset(reader: BitReader, n: int, k: int) -> list[int]:
    """Read a k-subset of {0, .., n-1}, 0 <= k <= n, in increasing order.

    Raises:
        CodecError: the bits are no rank of such a subset, or end too soon.
    """
    if min(k, n - k) <= ENUMERATIVE_LIMIT:
        rank = reader.read(index_set_bits(k, n))
        if rank >= math.comb(n, k):
            raise CodecError(f"message: a rank beyond the last {k}-subset of {n}")
        return unrank_subset(rank, n, k)
    least, width = _count_field(n, k)
    half = n // 2
    j = least + reader.read(width)
    if j > min(k, half):
        raise CodecError(f"message: {j} elements in a half of {half} for a {k}-subset")
    lower = read_subset(reader, half, j)
    return lower + [half + element for element in read_subset(reader, n - half, k - j)]


def write_type(writer: BitWriter, counts: NDArray[np.integer]) -> None:
    """Append a type: m >= 1 counts whose sum N the reader will know, as the m - 1 bars among N stars."""
    bars = np.cumsum(counts[:-1]) + np.arange(len(counts) - 1)
    write_subset(writer, bars.tolist(), int(np.sum(counts)) + len(counts) - 1)


def read_type(reader: BitReader, cells: int, total: int) -> NDArray[np.int64]:
    """Read `cells` counts that sum to `total`.

    Raises:
        CodecError: as `read_subset`.
    """
    length = total + cells - 1
    bars = np.array([-1, *read_subset(reader, length, cells - 1), length], dtype=np.int64)
    return np.diff(bars) - 1
