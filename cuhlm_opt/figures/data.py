"""Tables that figures read and that take minutes to compute, kept by the hash of what they were made of."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Unpack

import pyarrow as pa
import pyarrow.parquet as pq

from cuhlm_opt.errors import InputError
from cuhlm_opt.figures.inputs import Inputs, is_made_of, made_of, with_identity
from cuhlm_opt.figures.scripts import Kind, Script, find_scripts
from cuhlm_opt.records import write_atomically
from cuhlm_opt.solve.options import Options
from cuhlm_opt.sweep import AXES, Sweep, sweep

_DEFAULTS = {"snr_db": (10.0,), "rtt_s": (0.0,), "max_bias": (0.02,)}
"""Axes that a figure does not vary: the defaults of `solve`."""


def data_scripts(folder: Path) -> dict[str, Script]:
    """Scripts that make data, by name."""
    return find_scripts(folder, (Kind.DATA,))


def make_data(
    scripts: Iterable[Script], inputs: Inputs, out: Path, *, progress: Callable[[str], None] = lambda note: None
) -> list[Path]:
    """Make what is missing or was made of something else; returns the files that were written.

    Args:
        scripts: among `data_scripts`.
        inputs: what they may read.
        out: folder whose data/ is written to.
        progress: called with a note on each table.

    Raises:
        InputError: the calibration has no compute times, without which no throughput is known.
    """
    if inputs.calibration.times is None:
        raise InputError(f"--calibration {inputs.name!r} has no compute times; cuhlm-opt calibrate measures them")
    written = []
    for script in scripts:
        path, identity = out / "data" / f"{script.name}.parquet", made_of(script, inputs.name)
        if is_made_of(path, identity):
            progress(f"{path} is up to date")
            continue
        progress(f"making {path}")
        with inputs.reading(script):
            table: pa.Table = script.load().table(inputs)
        sink = pa.BufferOutputStream()
        pq.write_table(with_identity(table, identity), sink, compression="zstd", compression_level=12)
        write_atomically(path, sink.getvalue().to_pybytes())
        written.append(path)
    return written


def swept(
    inputs: Inputs, axes: dict[str, Sequence[float]], columns: dict[str, str], **options: Unpack[Options]
) -> pa.Table:
    """A sweep as a table, with constant columns in front.

    Args:
        inputs: whose calibration is swept.
        axes: values of some of `sweep.AXES`; the others stay at the defaults of `solve`, 10 MHz of bandwidth.
        columns: constant columns by name.
        options: what stays.
    """
    every = {"bandwidth_hz": (10e6,), **_DEFAULTS, **axes}
    plan = Sweep(
        axes={name: tuple(map(float, every[name])) for name in AXES},
        calibration=str(inputs.calibration_folder),
        options={"bandwidth_hz": float(every["bandwidth_hz"][0]), **options},
    )
    with TemporaryDirectory() as folder:
        table = sweep(plan, Path(folder) / "sweep.parquet", progress=lambda done: None)
    for name, value in reversed(columns.items()):
        table = table.add_column(0, name, pa.array([value] * len(table)))
    return table
