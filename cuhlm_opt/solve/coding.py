"""How an upload is written: the codecs that are open, and for each truncation size what they take and what they add.

Rounding moves x_hat by TV(x_hat, decoded x_hat), which by the triangle inequality adds at most that to the bias
(THEORY 4.4). Its mean was measured on a random subset of the recorded positions. Between measured sizes it is
interpolated in the logarithm of k, between measured b_prob geometrically.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.payload import Format, law_bits
from cuhlm_opt.quantisation import MEASURED_BITS, Quantiser, measured_sizes
from cuhlm_opt.records import Records

_Floats = NDArray[np.float64]

PUBLISHED_BITS = 8
"""b_prob as published [P2, THEORY 2.6]."""


@dataclass(frozen=True)
class Coding:
    """One way to write the k largest entries of x, at every size of the records' grid."""

    records: Records
    law_format: Format
    quantiser: Quantiser
    b_prob: int

    @cached_property
    def bias(self) -> _Floats:
        """Mean TV(x_hat_k, decoded x_hat_k), shape (G,); nan where the records measured none."""
        return measured_distance(self.records, self.quantiser, self.b_prob)

    @cached_property
    def known_bias(self) -> _Floats:
        """`bias`, or 0 where it is not known."""
        return np.nan_to_num(self.bias, nan=0.0)

    def bits(self, *, size_known: bool) -> _Floats:
        """Bits of an upload, shape (G,)."""
        vocab_size = int(self.records.k_grid[-1])
        message = (vocab_size, self.b_prob, self.law_format, self.quantiser)
        return np.array([law_bits(int(k), *message, size_known=size_known) for k in self.records.k_grid], dtype=float)


def open_codings(
    records: Records, law_format: Format, quantiser: Quantiser | None, b_prob: int | None
) -> Sequence[Coding]:
    """Every coding that the settings leave open; the published format is uniform at 8 bits unless told otherwise."""
    published = law_format is Format.PUBLISHED
    quantisers = [quantiser] if quantiser else [Quantiser.UNIFORM] if published else list(Quantiser)
    widths = [b_prob] if b_prob else [PUBLISHED_BITS] if published else list(MEASURED_BITS)
    return [Coding(records, law_format, way, width) for way in quantisers for width in widths]


def measured_distance(records: Records, quantiser: Quantiser, b_prob: int) -> _Floats:
    """Mean TV(x_hat_k, decoded x_hat_k) over the measured positions at each size of the grid, shape (G,)."""
    if not len(records.tv_quantised):
        return np.full(len(records.k_grid), np.nan)
    means = records.tv_quantised[:, list(Quantiser).index(quantiser)].mean(axis=0, dtype=np.float64)
    upper = int(np.searchsorted(MEASURED_BITS, b_prob))
    lower = upper if MEASURED_BITS[upper] == b_prob else upper - 1
    at_sizes = np.sqrt(means[lower] * means[upper])
    sizes = measured_sizes(int(records.k_grid[-1]))
    found = np.interp(np.log(np.maximum(records.k_grid, 1)), np.log(sizes), at_sizes)
    return np.where(records.k_grid > 0, found, 0.0)
