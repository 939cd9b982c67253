"""The grid behind a report's explorer: every mode's point at many links and budgets, all of them solved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.solve.options import Options
from cuhlm_opt.sweep import Sweep, sweep

BANDWIDTHS = "100kHz,200kHz,500kHz,1MHz,2MHz,5MHz,10MHz,20MHz,50MHz,100MHz"
SNRS = "-10dB:30dB:5dB"
BUDGETS = "0.005,0.01,0.02,0.05,0.1"

_SHOWN = ("throughput_tokens_per_s", "skip_rate", "payload_bits", "bias", "bias_kind", "u_threshold", "k")


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Values that the explorer offers, increasing; a trace has its rates, so that only budgets are left."""

    bandwidth_hz: Sequence[float | None]
    snr_db: Sequence[float]
    max_bias: Sequence[float]

    def around(self, point: OperatingPoint) -> "Axes":
        """These values and those of `point`, where the explorer begins; with a trace, its budgets alone."""
        channel, max_bias = point.channel, _with(self.max_bias, point.bias_budget)
        if channel.bandwidth_hz is None:
            return Axes(bandwidth_hz=(None,), snr_db=(channel.snr_db,), max_bias=max_bias)
        bandwidths = [each for each in self.bandwidth_hz if each is not None]
        return Axes(
            bandwidth_hz=_with(bandwidths, channel.bandwidth_hz),
            snr_db=_with(self.snr_db, channel.snr_db),
            max_bias=max_bias,
        )

    @property
    def size(self) -> int:
        """Points of the grid."""
        return len(self.bandwidth_hz) * len(self.snr_db) * len(self.max_bias)


def _with(values: Sequence[float], own: float) -> tuple[float, ...]:
    return tuple(sorted({*values, own}))


def explore(
    calibration: str,
    options: Options,
    axes: Axes,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Solve the grid.

    Args:
        calibration: as `pose` takes it.
        options: those of the operating point; where they stand among the axes, the axes have the last word.
        axes: the grid.
        workers: processes; None takes one a core.
        progress: called with the number of points done.

    Returns:
        `axes`, the values by name; `modes`; `columns`, each shown quantity of every mode at every point, flat, with
        max_bias the slowest, then bandwidth_hz, snr_db and the mode; `recommended`, the mode to run at each point or
        null.
    """
    grid: dict[str, tuple[float | None, ...]] = {
        "bandwidth_hz": tuple(axes.bandwidth_hz),
        "snr_db": tuple(axes.snr_db),
        "rtt_s": (options.get("rtt_s", 0.0),),
        "max_bias": tuple(axes.max_bias),
    }
    with TemporaryDirectory() as folder:
        plan = Sweep(axes=grid, calibration=calibration, options=options)
        table = sweep(plan, Path(folder) / "grid.parquet", workers=workers, progress=progress)
    names = table.column("mode").to_pylist()
    modes = list(dict.fromkeys(names))
    chosen = table.column("recommended").to_pylist()
    return {
        "axes": {name: list(values) for name, values in grid.items() if name != "rtt_s"},
        "modes": modes,
        "columns": {name: table.column(name).to_pylist() for name in _SHOWN},
        "recommended": [
            next((names[at] for at in range(start, start + len(modes)) if chosen[at]), None)
            for start in range(0, len(names), len(modes))
        ],
    }
