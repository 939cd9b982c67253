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
    def _neighbours(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Indices of the measured sizes at or below, and at or above, each size of the grid but 0, shape (G,) each."""
        grid, sizes = self.records.k_grid, measured_sizes(int(self.records.k_grid[-1]))
        above = np.searchsorted(sizes, np.maximum(grid, 1))
        return np.where(sizes[above] == grid, above, np.maximum(above - 1, 0)), above

    def mean_bias(self, at: NDArray[np.intp]) -> float:
        """Mean TV(x_hat_k, decoded x_hat_k) over the measured positions, each at its own size; nan without any.

        Positions of flat laws take more entries and lose more to rounding: the mean at each size would be too small.

        Args:
            at: index in the grid of sizes, or one a position, shape (n,).
        """
        if not len(self.records.measured):
            return float("nan")
        own = at if at.ndim == 0 else at[self.records.measured]
        width = int(np.searchsorted(MEASURED_BITS, self.b_prob, side="right")) - 1
        table = self.records.tv_quantised[:, list(Quantiser).index(self.quantiser), width]
        below, above = (table[np.arange(len(table)), sizes[own]] for sizes in self._neighbours)
        return float(np.mean(np.where(self.records.k_grid[own] > 0, np.maximum(below, above), 0.0), dtype=np.float64))

    @cached_property
    def whole_bias(self) -> float:
        """Mean TV(x, decoded x) where all entries are written; nan where the records measured none."""
        return self.mean_bias(np.asarray(len(self.records.k_grid) - 1))

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
