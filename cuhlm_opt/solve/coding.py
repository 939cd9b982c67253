"""How an upload is written: the codecs that are open, and for each truncation size what they take and what they add.

Rounding moves x_hat by TV(x_hat, decoded x_hat), which by the triangle inequality adds at most that to the bias
(THEORY 4.4). It was measured on a random subset of the recorded positions. Between measured sizes the larger of the
neighbours' is taken, between measured b_prob that of fewer bits.
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
    def _distances(self) -> NDArray[np.float32]:
        """TV(x_hat_k, decoded x_hat_k) of the measured positions at every size of the grid, shape (m, G)."""
        grid, sizes = self.records.k_grid, measured_sizes(int(self.records.k_grid[-1]))
        width = int(np.searchsorted(MEASURED_BITS, self.b_prob, side="right")) - 1
        table = self.records.tv_quantised[:, list(Quantiser).index(self.quantiser), width]
        above = np.searchsorted(sizes, np.maximum(grid, 1))
        below = np.where(sizes[above] == grid, above, np.maximum(above - 1, 0))
        return np.where(grid > 0, np.maximum(table[:, below], table[:, above]), np.float32(0.0))

    @cached_property
    def bias(self) -> _Floats:
        """Mean TV(x_hat_k, decoded x_hat_k), shape (G,); nan where the records measured none."""
        if not len(self.records.measured):
            return np.full(len(self.records.k_grid), np.nan)
        return np.asarray(self._distances.mean(axis=0, dtype=np.float64))

    @cached_property
    def known_bias(self) -> _Floats:
        """`bias`, or 0 where it is not known."""
        return np.nan_to_num(self.bias, nan=0.0)

    def mean_bias(self, at: NDArray[np.intp]) -> float:
        """Mean over the measured positions, each at its own size; `at` is an index in the grid, or one a position.

        Positions of flat laws take more entries and lose more to rounding: the mean at each size would be too small.
        """
        if at.ndim == 0:
            return float(self.bias[at])
        if not len(self.records.measured):
            return float("nan")
        own = self._distances[np.arange(len(self.records.measured)), at[self.records.measured]]
        return float(np.mean(own, dtype=np.float64))

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
