"""Many links and budgets at once: every mode at its own point on each, in parallel, resumable."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from cuhlm_opt.errors import InputError
from cuhlm_opt.latency import Pipelining
from cuhlm_opt.links import link_of
from cuhlm_opt.modes import Mode
from cuhlm_opt.payload import Format
from cuhlm_opt.records import write_atomically
from cuhlm_opt.solve.limits import Objective
from cuhlm_opt.solve.load import fingerprint
from cuhlm_opt.solve.modes_table import hlm_throughput, mode_point, untimed
from cuhlm_opt.solve.options import Options, Posed, channel_settings, pose
from cuhlm_opt.solve.points import ModePoint, throughput, timed
from cuhlm_opt.solve.problem import Problem
from cuhlm_opt.solve.statements import recommend
from cuhlm_opt.trace import trace_sha256

Row = dict[str, Any]
Point = dict[str, Any]
"""Values of `AXES`; the bandwidth is None with a trace."""

AXES = ("bandwidth_hz", "snr_db", "rtt_s", "max_bias")
_WHATEVER_THE_LINK = (Mode.SLM, Mode.LLM, Mode.HLM, Mode.U_HLM, Mode.QUERY, Mode.EXACT, Mode.COARSE)
"""Modes whose threshold and messages are the same on every link, unless limits or another objective choose them."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Every combination of the axes, over one calibration.

    Args:
        axes: values of `AXES`, each at least one.
        calibration: as `pose` takes it.
        options: the options that stay; those of the axes are not among them.
    """

    axes: Mapping[str, tuple[float | None, ...]]
    calibration: str
    options: Options

    @property
    def points(self) -> list[Point]:
        """In the order of the axes, the budget the slowest: what does not depend on the link is solved once."""
        names = ("max_bias", *(name for name in AXES if name != "max_bias"))
        return [dict(zip(names, values, strict=True)) for values in product(*(self.axes[name] for name in names))]

    @property
    def identity(self) -> str:
        """What a half-written result must agree in."""
        trace = self.options.get("trace")
        inputs = {
            "calibration": fingerprint(self.calibration),
            "trace": None if trace is None else trace_sha256(Path(trace)),
        }
        plan = {"axes": self.axes, "calibration": self.calibration, "options": self.options, "sha256": inputs}
        return json.dumps(plan, sort_keys=True)

    def check(self) -> None:
        """Refuse a link before any is solved, naming it."""
        settings = channel_settings(self.options)
        for snr_db, bandwidth_hz in product(self.axes["snr_db"], self.axes["bandwidth_hz"][:1]):
            try:
                link_of(settings.model_copy(update={"snr_db": snr_db, "bandwidth_hz": bandwidth_hz}))
            except InputError as error:
                raise InputError(f"at --snr {snr_db:g}dB: {error}") from None


class Solver:
    """Solves points of one calibration, and keeps what does not depend on the link."""

    def __init__(self, calibration: str, **options: Unpack[Options]) -> None:
        self._posed: Posed = pose(calibration, **options)
        self._kept: dict[tuple[float, Mode], ModePoint] = {}

    def rows(self, point: Point) -> list[Row]:
        """One row per mode, with the one to run marked, and those that no other beats in speed and bias."""
        changes = {name: value for name, value in point.items() if name != "max_bias"}
        link = link_of(self._posed.settings.model_copy(update=changes))
        problem = replace(self._posed.problem, link=link, budget=point["max_bias"])
        points = [self._point(problem, mode) for mode in Mode if mode is not Mode.RANDOM]
        chosen = recommend(problem, points).mode
        references = [hlm_throughput(problem, law_format) for law_format in (Format.DENSE, Format.PUBLISHED)]
        rows = [_row(problem, solved, point, references) for solved in points]
        front = pareto([(row["throughput_tokens_per_s"], row["bias"]) for row in rows])
        return [row | {"recommended": row["mode"] == chosen, "pareto": on} for row, on in zip(rows, front, strict=True)]

    def point(self, mode: Mode, rate_bps: float) -> ModePoint:
        """One mode's point on a white Gaussian uplink of `rate_bps`, on which it depends through the rate alone."""
        settings = self._posed.settings.model_copy(update={"bandwidth_hz": rate_bps, "snr_db": 0.0})
        return self._point(replace(self._posed.problem, link=link_of(settings)), mode)

    def _point(self, problem: Problem, mode: Mode) -> ModePoint:
        plain = problem.objective is Objective.THROUGHPUT and problem.pipelining is Pipelining.NONE
        chosen_by_the_link = not plain or problem.limits.any or problem.adaptive
        if chosen_by_the_link or mode not in _WHATEVER_THE_LINK:
            return mode_point(problem, mode)
        key = (problem.budget, mode)
        if key not in self._kept:
            self._kept[key] = untimed(problem, mode)
        return timed(problem, self._kept[key])


def pareto(points: Iterable[tuple[float | None, float | None]]) -> list[bool]:
    """Whether no other point is as fast with less bias, or faster with as little; unknown ones are beaten.

    >>> pareto([(10.0, 0.0), (20.0, 0.02), (15.0, 0.05), (None, 0.0)])
    [True, True, False, False]
    """
    known = [(-math.inf if speed is None else speed, math.inf if bias is None else bias) for speed, bias in points]
    return [
        math.isfinite(speed)
        and math.isfinite(bias)
        and not any((s >= speed and b < bias) or (s > speed and b <= bias) for s, b in known)
        for speed, bias in known
    ]


def sweep(
    plan: Sweep, out: Path, *, resume: bool = False, workers: int | None = None, progress: Callable[[int], None]
) -> pa.Table:
    """Solve every point, and write a table to `out` (.csv or .parquet).

    Finished points are kept beside `out` until the table is written, so that an interrupted sweep goes on with
    `resume`.

    Args:
        plan: what to solve.
        out: file to write.
        resume: go on with what an interrupted run of the same plan left.
        workers: processes; None takes one a core.
        progress: called with the number of points done.

    Raises:
        InputError: `out` has another ending, or what was left is of another plan.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise InputError(f"--out {str(out)!r} is not allowed; give a .csv or a .parquet file")
    plan.check()
    journal = out.with_name(f".{out.name}.partial")
    done = _read_journal(journal, plan) if resume else {}
    points = plan.points
    waiting = [index for index in range(len(points)) if index not in done]
    progress(len(done))
    out.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a" if done else "w") as file:
        if not done:
            file.write(plan.identity + "\n")
        for index, rows in _solved(plan, points, waiting, workers or os.cpu_count() or 1):
            done[index] = rows
            file.write(json.dumps([index, rows]) + "\n")
            file.flush()
            progress(len(done))
    table = pa.Table.from_pylist([row for index in range(len(points)) for row in done[index]])
    sink = pa.BufferOutputStream()
    if out.suffix == ".csv":
        pyarrow.csv.write_csv(table, sink)
    else:
        pyarrow.parquet.write_table(table, sink, compression="zstd")
    write_atomically(out, sink.getvalue().to_pybytes())
    journal.unlink()
    return table


def _solved(plan: Sweep, points: list[Point], waiting: list[int], workers: int) -> Iterator[tuple[int, list[Row]]]:
    """Rows of each point as it is done; neighbours go to the same process."""
    if workers == 1 or len(waiting) < 2 * workers:
        solver = Solver(plan.calibration, **plan.options)
        yield from ((index, solver.rows(points[index])) for index in waiting)
        return
    chunk = max(1, min(32, len(waiting) // (4 * workers)))
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(plan.calibration, plan.options)) as pool:
        yield from pool.map(_one, waiting, [points[index] for index in waiting], chunksize=chunk)


_SOLVER: list[Solver] = []


def _start(calibration: str, options: Options) -> None:
    """Give a process its solver."""
    _SOLVER[:] = [Solver(calibration, **options)]


def _one(index: int, point: Point) -> tuple[int, list[Row]]:
    return index, _SOLVER[0].rows(point)


def _read_journal(journal: Path, plan: Sweep) -> dict[int, list[Row]]:
    """Finished points of an interrupted run; a line that was cut is left out."""
    if not journal.exists():
        return {}
    identity, *lines = journal.read_text().split("\n")
    if identity != plan.identity:
        raise InputError(
            f"--resume: {journal} is of another sweep or of another calibration; delete it, or sweep without --resume"
        )
    done = {}
    for line in lines:
        try:
            index, rows = json.loads(line)
        except ValueError:
            continue
        done[index] = rows
    _rewrite(journal, plan, done)
    return done


def _rewrite(journal: Path, plan: Sweep, done: Mapping[int, list[Row]]) -> None:
    lines = [plan.identity, *(json.dumps([index, rows]) for index, rows in done.items())]
    write_atomically(journal, "\n".join(lines) + "\n")


def _row(problem: Problem, solved: ModePoint, point: Point, references: list[float | None]) -> Row:
    speed = throughput(problem, solved)
    dense, published = (None if speed is None or not each else speed / each for each in references)
    return {
        **{name: point[name] for name in AXES},
        "mode": str(solved.mode),
        "throughput_tokens_per_s": speed,
        "latency_s": None if solved.time is None else solved.time.mean_s,
        "payload_bits": solved.payload_bits,
        "skip_rate": solved.skip_rate,
        "server_passes_per_token": solved.passes,
        "bias": solved.bias,
        "bias_kind": solved.bias_kind,
        "u_threshold": solved.threshold,
        "k": solved.k,
        "b_prob": solved.b_prob,
        "quantiser": None if solved.quantiser is None else str(solved.quantiser),
        "draft_length": 1 if solved.speculation is None else solved.speculation.draft_length,
        "speedup_vs_hlm": dense,
        "speedup_vs_hlm_published": published,
    }


def parse_axis(text: str, name: str, parse: Callable[[str, str], float]) -> tuple[float, ...]:
    """Values of an axis: `a`, `a,b,c`, `a:b:log:n`, `a:b:lin:n`, or `a:b:step`.

    Args:
        text: the values.
        name: the argument, for messages.
        parse: reads one value, given its text and the argument.

    >>> from cuhlm_opt.units import parse_bandwidth_hz, parse_fraction
    >>> parse_axis("1MHz,4MHz", "--bandwidth", parse_bandwidth_hz)
    (1000000.0, 4000000.0)
    >>> parse_axis("0:1:lin:3", "--max-bias", parse_fraction)
    (0.0, 0.5, 1.0)
    """
    hint = f"{name} {text!r} is not a range; give a value, a list a,b,c, or a range a:b:step, a:b:lin:n or a:b:log:n"
    parts = text.split(":")
    if len(parts) == 1:
        if not all(part.strip() for part in text.split(",")):
            raise InputError(hint)
        return tuple(parse(part.strip(), name) for part in text.split(","))
    low, high = parse(parts[0], name), parse(parts[1], name) if len(parts) > 1 else math.nan
    if high < low:
        raise InputError(f"{name} {text!r} is empty: it ends below its beginning")
    if len(parts) == 3:
        step = parse(parts[2], name)
        if not step > 0:
            raise InputError(f"{name} {text!r} is empty: its step is not positive")
        count = math.floor((high - low) / step * (1 + 1e-12) + 1e-9) + 1
        return tuple(float(low + step * index) for index in range(count))
    if len(parts) == 4 and parts[2] in ("lin", "log") and parts[3].isdigit() and int(parts[3]) >= 1:
        if parts[2] == "log" and low <= 0:
            raise InputError(f"{name} {text!r} is not allowed: a logarithmic range begins above 0")
        values = (np.geomspace if parts[2] == "log" else np.linspace)(low, high, int(parts[3]))
        return tuple(float(value) for value in values)
    raise InputError(hint)
