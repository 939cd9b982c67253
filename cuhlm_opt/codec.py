"""Codec: a truncated law as the bits that cross the link, and back [N, THEORY 9].

`payload_bits` is the length of what `encode` returns, and the server verifies with what `decode` returns. The device
decodes its own message and draws from the result: `truncation.reconstruct` of it in mode `exact`, `lumped_law` in mode
`coarse`. Their laws are then as proved, however few the bits; in the other modes quantisation is part of the bias.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.distributions import Law
from cuhlm_opt.enumerative import BitReader, BitWriter, read_subset, read_type, write_subset, write_type
from cuhlm_opt.enumerative import Message as Message
from cuhlm_opt.errors import CodecError as CodecError
from cuhlm_opt.payload import Format, index_bits
from cuhlm_opt.quantisation import LEAST_BITS, MOST_BITS, Quantiser, dequantise, quantise
from cuhlm_opt.truncation import largest, reconstruct

_MASS_TOLERANCE = 1e-5  # a float32 law over 260 000 entries sums to 1 within 1e-6


@dataclass(frozen=True, kw_only=True)
class LawCodec:
    """Writes k entries of a law over a vocabulary as a message, and reads them back.

    Args:
        vocab_size: |V| >= 1.
        b_prob: bits per mass, 2 to 16.
        format: where ids and masses go.
        quantiser: how a mass spends its bits.
        down: round each mass down, as the modes that draw from decoded masses do: then a mass is rounded alike whatever
            is sent with it, and a skip rule that reads it has a bias that grows with its threshold.
        size: k, where both sides know it; None where it varies. Then `Format.COMPACT` sends it, the others imply it.

    Raises:
        CodecError: an argument is out of range.

    Example:
        >>> codec = LawCodec(vocab_size=32000, format=Format.COMPACT, quantiser=Quantiser.TYPES, size=2)
        >>> message = codec.encode(np.array([7, 3]), np.array([0.6, 0.2]))
        >>> message.bits, *(field.tolist() for field in codec.decode(message))
        (45, [3, 7], [0.2, 0.6])
    """

    vocab_size: int
    b_prob: int = 8
    format: Format = Format.PUBLISHED
    quantiser: Quantiser = Quantiser.UNIFORM
    down: bool = False
    size: int | None = None

    def __post_init__(self) -> None:
        if self.vocab_size < 1:
            raise CodecError(f"vocab_size {self.vocab_size} is not at least 1")
        if not LEAST_BITS <= self.b_prob <= MOST_BITS:
            raise CodecError(f"b_prob {self.b_prob} is not from {LEAST_BITS} to {MOST_BITS}")
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
        codes = quantise(masses, self.quantiser, self.b_prob, self.vocab_size, down=self.down)
        writer = BitWriter()
        match self.format:
            case Format.PUBLISHED:
                writer.write_array(ids << self.b_prob | codes[: len(ids)], index_bits(self.vocab_size) + self.b_prob)
            case Format.DENSE:
                writer.write_array(codes, self.b_prob)
            case Format.COMPACT:
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
        match self.format:
            case Format.PUBLISHED:
                width = index_bits(self.vocab_size) + self.b_prob
                entries = reader.read_array(message.bits // width, width)
                ids, codes = entries >> self.b_prob, entries & (2**self.b_prob - 1)
                if np.any(np.diff(ids) <= 0) or np.any(ids >= self.vocab_size):
                    raise CodecError(f"message: ids are not increasing within |V| = {self.vocab_size}")
            case Format.DENSE:
                ids = np.arange(self.vocab_size)
                codes = reader.read_array(self.vocab_size, self.b_prob)
            case Format.COMPACT:
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
        return ids, dequantise(codes[: len(ids)], self.quantiser, self.b_prob, self.vocab_size)

    def transmit(self, law: Law, k: int) -> tuple[Message, NDArray[np.float64]]:
        """Encode the k largest entries of `law`; returns the message and the law x_hat that both sides rebuild from it.

        Example:
            >>> message, x_hat = coarse_codec(4).transmit(np.array([0.7, 0.1, 0.1, 0.1]), 1)
            >>> message.bits, x_hat.round(3).tolist()
            (10, [0.698, 0.101, 0.101, 0.101])
        """
        kept = largest(law, k) if k < self.vocab_size else np.arange(self.vocab_size)
        message = self.encode(kept, law[kept])
        ids, masses = self.decode(message)
        return message, reconstruct(ids, masses, self.vocab_size)

    def _cells(self, k: int) -> int:
        """Cells of a type: the kept entries, and the rest unless there is none."""
        return k + (k < self.vocab_size)

    def _check_size(self, k: int) -> None:
        known = self.vocab_size if self.format is Format.DENSE else self.size
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


def coarse_codec(vocab_size: int, b_prob: int = 8, quantiser: Quantiser = Quantiser.UNIFORM) -> LawCodec:
    """Codec of the coarse message: m kept tokens, usually one, at ceil(log2 |V|) + b_prob bits each [N, THEORY 5].

    The length of the message implies m; nothing skippable is a message of no bits.

    >>> [coarse_codec(size).encode(np.array([5]), np.array([0.6])).bits for size in (32000, 151936)]
    [23, 26]
    """
    return LawCodec(vocab_size=vocab_size, b_prob=b_prob, quantiser=quantiser, down=True)


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
