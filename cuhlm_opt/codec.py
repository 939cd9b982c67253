"""Codec: a truncated law as the bits that cross the link, and back [N, THEORY 9].

`payload_bits` is the length of what `encode` returns, and the server verifies with what `decode` returns. The device
decodes its own message and draws from the result: `truncation.reconstruct` of it in mode `exact`, `lumped_law` in mode
`coarse`. Their laws are then as proved, however few the bits; in the other modes quantisation is part of the bias.

The mass that is not sent is implied, so decoded masses must not exceed 1. Largest-remainder rounding cannot exceed it.
Rounding each mass by itself can (and leaves a negative rest if nothing is done about it): there the decoder divides by
the sum. With k = |V| there is nothing to spread a rest over, and the decoder makes the sum 1.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.distributions import Law, total_variation
from cuhlm_opt.enumerative import BitReader, BitWriter, read_subset, read_type, write_subset, write_type
from cuhlm_opt.enumerative import CodecError as CodecError
from cuhlm_opt.enumerative import Message as Message
from cuhlm_opt.errors import InfeasibleError
from cuhlm_opt.payload import index_bits
from cuhlm_opt.truncation import largest, reconstruct

_MASS_TOLERANCE = 1e-5  # a float32 law over 260 000 entries sums to 1 within 1e-6


class Layout(StrEnum):
    """How token ids and quantised masses are laid out."""

    PUBLISHED = "published"
    """An index of ceil(log2 |V|) bits and b_prob bits for each of k entries [P2]; the length implies k."""
    COMPACT = "compact"
    """The set of ids by its rank, then the masses in the order of ids [N]. A type is written by its rank, other masses
    in b_prob bits each. Unless both sides know k, it comes first, in ceil(log2(|V| + 1)) bits."""
    DENSE = "dense"
    """b_prob bits for each of |V| entries, no ids: only k = |V|."""


class Quantiser(StrEnum):
    """What the 2^b_prob values of a mass are, and how a mass is rounded to them."""

    UNIFORM = "uniform"
    """Multiples of 1/(2^b_prob - 1), each mass to the nearest."""
    LOG = "log"
    """0 and a geometric sequence over 2 b_prob + 4 octaves up to 1, each mass to the nearest. Levels as dense as the
    root of the masses' density lose least in TV (high-resolution theory): this is the density of Zipf's exponent 1."""
    CUBE = "cube"
    """Cubes of the uniform levels, each mass to the nearest: by the same rule, the density of Zipf's exponent 3."""
    TYPES = "types"
    """n/N with N = 2^b_prob - 1, all masses and the rest together by largest remainder: they sum to 1."""


@lru_cache(maxsize=64)
def _levels(quantiser: Quantiser, b_prob: int) -> NDArray[np.float64]:
    """The values of a mass, increasing from 0 to 1, shape (2^b_prob,)."""
    last = 2**b_prob - 1
    levels: NDArray[np.float64] = np.arange(last + 1) / last
    if quantiser is Quantiser.CUBE:
        levels = np.arange(last + 1) ** 3 / last**3
    if quantiser is Quantiser.LOG:
        powers = np.exp2(np.linspace(-(2 * b_prob + 4), 0, last))
        levels[1:] = powers.astype(np.float32)  # so that machines whose exp2 differ in the last bit agree
    levels.flags.writeable = False
    return levels


def _nearest(masses: NDArray[np.float64], quantiser: Quantiser, b_prob: int) -> NDArray[np.int64]:
    """Index of the nearest level of each mass."""
    levels = _levels(quantiser, b_prob)
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, masses).astype(np.int64)


def _largest_remainder(cells: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Counts that sum to `total`, each cell's share rounded down or up, the largest remainders up, ties by position."""
    shares = cells * (total / math.fsum(cells.tolist()))
    counts = np.floor(shares).astype(np.int64)
    missing = total - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:missing]] += 1
    return counts


@dataclass(frozen=True, kw_only=True)
class LawCodec:
    """Writes k entries of a law over a vocabulary as a message, and reads them back.

    Args:
        vocab_size: |V| >= 1.
        b_prob: bits per mass, 2 to 16.
        layout: where ids and masses go.
        quantiser: how a mass spends its bits.
        size: k, where both sides know it; None where it varies. Then `Layout.COMPACT` sends it, the others imply it.

    Raises:
        CodecError: an argument is out of range.

    Example:
        >>> codec = LawCodec(vocab_size=32000, layout=Layout.COMPACT, quantiser=Quantiser.TYPES, size=2)
        >>> message = codec.encode(np.array([7, 3]), np.array([0.6, 0.2]))
        >>> message.bits, *(field.tolist() for field in codec.decode(message))
        (45, [3, 7], [0.2, 0.6])
    """

    vocab_size: int
    b_prob: int = 8
    layout: Layout = Layout.PUBLISHED
    quantiser: Quantiser = Quantiser.UNIFORM
    size: int | None = None

    def __post_init__(self) -> None:
        if self.vocab_size < 1:
            raise CodecError(f"vocab_size {self.vocab_size} is not at least 1")
        if not 2 <= self.b_prob <= 16:
            raise CodecError(f"b_prob {self.b_prob} is not from 2 to 16")
        if self.size is not None and not 0 <= self.size <= self.vocab_size:
            raise CodecError(f"size {self.size} is not from 0 to |V| = {self.vocab_size}")

    def encode(self, kept: NDArray[np.integer], probabilities: Law) -> Message:
        """Write a truncated law.

        Args:
            kept: k distinct token ids in any order, shape (k,); the order is not sent.
            probabilities: their masses, at least 0, sum at most 1 within 1e-5, shape (k,).

        Returns:
            Message of exactly the bits that cross the link.

        Raises:
            CodecError: these are no distinct ids with masses, or k is not what both sides know.
        """
        ids, masses = self._checked(kept, probabilities)
        codes = self._quantise(masses)
        writer = BitWriter()
        match self.layout:
            case Layout.PUBLISHED:
                writer.write_array(ids << self.b_prob | codes[: len(ids)], index_bits(self.vocab_size) + self.b_prob)
            case Layout.DENSE:
                writer.write_array(codes, self.b_prob)
            case Layout.COMPACT:
                if self.size is None:
                    writer.write(len(ids), self.vocab_size.bit_length())
                write_subset(writer, ids.tolist(), self.vocab_size)
                if self.quantiser is Quantiser.TYPES:
                    write_type(writer, codes)
                else:
                    writer.write_array(codes, self.b_prob)
        return writer.message()

    def decode(self, message: Message) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Read a truncated law.

        Returns:
            (kept, probabilities): ids in increasing order and their masses, sum at most 1 (1 for k = |V|), as
            `truncation.reconstruct` takes them.

        Raises:
            CodecError: the message is none that `encode` writes.
        """
        reader = BitReader(message)
        match self.layout:
            case Layout.PUBLISHED:
                width = index_bits(self.vocab_size) + self.b_prob
                entries = reader.read_array(message.bits // width, width)
                ids, codes = entries >> self.b_prob, entries & (2**self.b_prob - 1)
                if np.any(np.diff(ids) <= 0) or np.any(ids >= self.vocab_size):
                    raise CodecError(f"message: ids are not increasing within |V| = {self.vocab_size}")
            case Layout.DENSE:
                ids = np.arange(self.vocab_size)
                codes = reader.read_array(self.vocab_size, self.b_prob)
            case Layout.COMPACT:
                k = reader.read(self.vocab_size.bit_length()) if self.size is None else self.size
                if k > self.vocab_size:
                    raise CodecError(f"message: k = {k} is more than |V| = {self.vocab_size}")
                ids = np.array(read_subset(reader, self.vocab_size, k), dtype=np.int64)
                if self.quantiser is Quantiser.TYPES:
                    codes = read_type(reader, self._cells(k), 2**self.b_prob - 1)
                else:
                    codes = reader.read_array(k, self.b_prob)
        reader.finish()
        self._check_size(len(ids))
        return ids, self._masses(codes[: len(ids)])

    def transmit(self, law: Law, k: int) -> tuple[Message, NDArray[np.float64]]:
        """Encode the k largest entries of `law`; returns the message and the law x_hat that both sides rebuild from it.

        Example:
            >>> message, x_hat = coarse_codec(4).transmit(np.array([0.7, 0.1, 0.1, 0.1]), 1)
            >>> message.bits, x_hat.round(3).tolist()
            (10, [0.698, 0.101, 0.101, 0.101])
        """
        kept = largest(law, k)
        message = self.encode(kept, law[kept])
        ids, masses = self.decode(message)
        return message, reconstruct(ids, masses, self.vocab_size)

    def _cells(self, k: int) -> int:
        """Cells of a type: the kept entries, and the rest unless there is none."""
        return k + (k < self.vocab_size)

    def _check_size(self, k: int) -> None:
        known = self.vocab_size if self.layout is Layout.DENSE else self.size
        if known is not None and k != known:
            raise CodecError(f"{k} entries; this codec takes {known}")

    def _checked(self, kept: NDArray[np.integer], probabilities: Law) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ids in increasing order and their masses, valid."""
        if not np.issubdtype(kept.dtype, np.integer):
            raise CodecError(f"kept of type {kept.dtype} are not token ids, which are integers")
        ids, masses = np.asarray(kept, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
        if ids.ndim != 1 or ids.shape != masses.shape:
            raise CodecError(f"kept of shape {ids.shape} and probabilities of shape {masses.shape} are not (k,) both")
        self._check_size(len(ids))
        order = np.argsort(ids)
        ids, masses = ids[order], masses[order]
        if len(ids) and (ids[0] < 0 or ids[-1] >= self.vocab_size or np.any(np.diff(ids) == 0)):
            raise CodecError(f"kept: ids are not distinct within 0 .. {self.vocab_size - 1}")
        if not (np.all(masses >= 0) and masses.sum() <= 1 + _MASS_TOLERANCE):
            raise CodecError(f"probabilities are not masses: least {masses.min()}, sum {masses.sum()}, allowed 0 to 1")
        return ids, masses

    def _quantise(self, masses: NDArray[np.float64]) -> NDArray[np.int64]:
        """Codes of the masses; of a type, also that of the rest."""
        if self.quantiser is not Quantiser.TYPES:
            return _nearest(masses, self.quantiser, self.b_prob)
        rest = max(0.0, 1.0 - math.fsum(masses.tolist()))
        cells = np.append(masses, rest) if len(masses) < self.vocab_size else masses
        if not cells.any():
            raise CodecError("probabilities: all of |V| entries are 0")
        return _largest_remainder(cells, 2**self.b_prob - 1)

    def _masses(self, codes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Masses that the codes of the kept entries stand for, sum at most 1."""
        full = len(codes) == self.vocab_size
        total, last = int(codes.sum()), 2**self.b_prob - 1
        if self.quantiser is Quantiser.TYPES and (total > last or (full and total != last)):
            raise CodecError(f"message: counts sum to {total}, allowed {last}")
        masses = _levels(self.quantiser, self.b_prob)[codes]
        mass = math.fsum(masses.tolist())  # exactly rounded, so the same on both sides
        if full and mass == 0:
            return np.full(self.vocab_size, 1 / self.vocab_size)
        return masses / mass if full or mass > 1 else masses


def coarse_codec(vocab_size: int, b_prob: int = 8) -> LawCodec:
    """Codec of the coarse message: m kept tokens, usually one, at ceil(log2 |V|) + b_prob bits each [N, THEORY 5].

    The length of the message implies m; nothing skippable is a message of no bits.

    >>> [coarse_codec(size).encode(np.array([5]), np.array([0.6])).bits for size in (32000, 151936)]
    [23, 26]
    """
    return LawCodec(vocab_size=vocab_size, b_prob=b_prob)


def lumped_law(law: Law, kept: NDArray[np.integer], masses: Law) -> NDArray[np.float64]:
    """The law to draw drafts from in mode `coarse`: decoded `masses` on `kept`, elsewhere `law` scaled to the rest [N].

    The server knows the lump's mass as 1 - sum(masses) and nothing else about it, so verification stays exact if the
    lump is drawn with that mass. Where `law` has no mass outside `kept`, the rest is spread evenly.

    >>> lumped_law(np.array([0.5, 0.3, 0.2]), np.array([0]), np.array([0.6])).round(3).tolist()
    [0.6, 0.24, 0.16]
    """
    lump = np.array(law, dtype=np.float64)
    lump[kept] = 0.0
    if not lump.any():
        return reconstruct(kept, masses, len(law))
    lump *= max(0.0, 1.0 - math.fsum(np.asarray(masses).tolist())) / lump.sum()
    lump[kept] = masses
    return lump


@dataclass(frozen=True, kw_only=True)
class Distances:
    """What a message costs and how far its law is off; TV in [0, 1]."""

    codec: LawCodec
    k: int
    bits: float
    truncation: float
    """TV(x, x_hat), x_hat rebuilt from exact masses."""
    quantisation: float
    """TV(x_hat, decoded x_hat)."""
    total: float
    """TV(x, decoded x_hat)."""


def quantisation_distance(law: Law, codec: LawCodec, k: int) -> Distances:
    """Measure one message: the k largest entries of `law` through `codec`.

    >>> codec = LawCodec(vocab_size=4, quantiser=Quantiser.TYPES)
    >>> round(quantisation_distance(np.array([0.7, 0.1, 0.1, 0.1]), codec, 1).quantisation, 4)
    0.002
    """
    kept = largest(law, k)
    exact = reconstruct(kept, law[kept], codec.vocab_size)
    message, decoded = codec.transmit(law, k)
    return Distances(
        codec=codec,
        k=k,
        bits=message.bits,
        truncation=total_variation(law, exact),
        quantisation=total_variation(exact, decoded),
        total=total_variation(law, decoded),
    )


def cheapest(laws: Sequence[Law], codecs: Iterable[LawCodec], sizes: Sequence[int], tolerance: float) -> Distances:
    """The codec and k of fewest mean bits whose mean TV(x, decoded x_hat) over `laws` is within `tolerance`.

    Args:
        laws: recorded laws over one vocabulary, at least one.
        codecs: ways to spend the bits.
        sizes: values of k to try with each.
        tolerance: largest mean TV.

    Returns:
        The means over `laws` at the chosen codec and k.

    Raises:
        InfeasibleError: none of them comes within `tolerance`; names the smallest mean TV.
    """
    means = []
    for codec in codecs:
        for k in sizes:
            rows = [quantisation_distance(law, codec, k) for law in laws]
            fields = ("bits", "truncation", "quantisation", "total")
            mean = {name: float(np.mean([getattr(row, name) for row in rows])) for name in fields}
            means.append(Distances(codec=codec, k=k, **mean))
    feasible = [mean for mean in means if mean.total <= tolerance]
    if not feasible:
        least = min(mean.total for mean in means)
        raise InfeasibleError(f"tolerance {tolerance} is below every codec's mean TV; the smallest is {least:.4g}")
    return min(feasible, key=lambda mean: mean.bits)
