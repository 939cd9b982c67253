"""A cell: devices with calibrations, SNRs, budgets and weights of their own share one uplink bandwidth [N, THEORY 8].

The share of a device sets its rate, the rate its operating point, and the points what the shares should be. Both are
found in turn, from equal shares on; the best shares of a few rounds are kept. On this uplink a point depends on the
rate alone: points are solved at rates in steps of `RATE_STEP`, their latency is then taken at the exact rate.
"""

import math
import tomllib
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cuhlm_opt.allocation import Demands, Fairness, allocate, rate_bps
from cuhlm_opt.errors import InfeasibleError, InputError
from cuhlm_opt.modes import Mode
from cuhlm_opt.solve.load import shipped
from cuhlm_opt.solve.options import Options
from cuhlm_opt.solve.points import ModePoint
from cuhlm_opt.sweep import Solver
from cuhlm_opt.units import format_si, parse_bandwidth_hz, parse_bits, parse_snr, parse_time_s

Floats = NDArray[np.float64]

RATE_STEP = 1.1
_ROUNDS = 4
_MOST_DEVICES = 100_000
_NAMED = 5


class _Settings(BaseModel):
    """What a device has of its own, or takes from the top of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    calibration: str | None = None
    domain: str | None = None
    mode: str | None = None
    policy: str | None = None
    max_bias: float | int | None = None
    format: str | None = None
    answer_tokens: int | None = None
    rtt: str | None = None
    downlink: str | None = None
    overhead: str | None = None


class _DeviceTable(_Settings):
    name: str = Field(min_length=1)
    snr: str
    """Over all of the bandwidth: the transmit power is fixed, whatever the share."""
    weight: float | int = 1
    count: int = Field(default=1, ge=1, le=_MOST_DEVICES)
    max_latency: str | None = None


class _CellTable(_Settings):
    bandwidth: str
    objective: Fairness = Field(default=Fairness.SUM, strict=False)
    device: list[_DeviceTable] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device.

    Args:
        name: unique in the cell.
        snr: linear, over all of the bandwidth.
        weight: > 0.
        most_s: largest mean latency of a token; infinite where there is no limit.
        calibration: name or folder.
        options: as `pose` takes them, but for the link.
    """

    name: str
    snr: float
    weight: float
    most_s: float
    calibration: str
    options: Options


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Devices that share a bandwidth."""

    bandwidth_hz: float
    fairness: Fairness
    devices: tuple[Device, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """One way to share the bandwidth; arrays of shape (N,)."""

    points: tuple[ModePoint, ...]
    demands: Demands
    shares_hz: Floats

    @cached_property
    def latency_s(self) -> Floats:
        """Mean latency of a token on each device."""
        return self.demands.latency_s(self.shares_hz)

    def objective(self, fairness: Fairness) -> float:
        """What the shares were to make small."""
        weighted = self.demands.weights * self.latency_s
        if fairness is Fairness.PROPORTIONAL:
            return float(self.demands.weights @ np.log(self.latency_s))
        return float(weighted.max() if fairness is Fairness.MAX else weighted.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """The best split found, with what it is compared with."""

    best: Split
    equal: Split
    proportional: Split
    """In proportion to the bits that each device sends a token."""
    residual: float
    """Of the conditions of optimality at the points of the best split, recomputed from its shares."""


def read_cell(path: Path) -> Cell:
    """Read a cell from TOML; calibrations that are folders are relative to the file.

    Raises:
        InputError: no such file, no TOML, unknown keys, missing or repeated names, values out of range.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cell {str(path)!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"cell {str(path)!r} is no TOML: {error}") from None
    try:
        table = _CellTable.model_validate(document)
    except ValidationError as error:
        raise InputError(f"cell {str(path)!r}: {_first(error)}") from None
    if sum(each.count for each in table.device) > _MOST_DEVICES:
        raise InputError(f"cell {str(path)!r}: more than {_MOST_DEVICES:,} devices")
    devices = tuple(device for each in table.device for device in _devices(table, each, path.parent))
    names = [device.name for device in devices]
    if repeated := sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
        raise InputError(f"cell {str(path)!r}: device names must differ; repeated: {', '.join(repeated[:_NAMED])}")
    return Cell(
        bandwidth_hz=parse_bandwidth_hz(table.bandwidth, "bandwidth"), fairness=table.objective, devices=devices
    )


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    found = error.errors()[0]
    where = ".".join(str(part + 1) if isinstance(part, int) else part for part in found["loc"])
    if found["type"] == "extra_forbidden":
        known = _DeviceTable if len(found["loc"]) > 1 else _CellTable
        return f"key {where!r} is unknown; known: {', '.join(sorted(known.model_fields))}"
    given = "" if found["type"] == "missing" else f" (given {found['input']!r})"
    return f"{where}: {found['msg']}{given}"


def _devices(cell: _CellTable, device: _DeviceTable, folder: Path) -> list[Device]:
    """A device, or as many as it counts."""

    def own(name: str, default: Any = None) -> Any:
        value = getattr(device, name)
        value = getattr(cell, name) if value is None else value
        return default if value is None else value

    where = f"device {device.name!r}:"
    if not 0 < device.weight < math.inf:
        raise InputError(f"{where} weight {device.weight!r} is not allowed; give a finite number > 0")
    calibration = own("calibration", "qwen2.5-coder")
    if calibration not in shipped() and (folder / calibration).is_dir():
        calibration = str(folder / calibration)
    options: Options = {
        "mode": own("mode", str(Mode.CU_HLM_OFFLINE)),
        "policy": own("policy", "certified"),
        "max_bias": float(own("max_bias", 0.02)),
        "law_format": own("format", "compact"),
        "answer_tokens": own("answer_tokens", 128),
        "domain": own("domain"),
        "rtt_s": parse_time_s(own("rtt", "0ms"), f"{where} rtt"),
        "downlink_s": parse_time_s(own("downlink", "0ms"), f"{where} downlink"),
        "overhead_bits": parse_bits(own("overhead", "0b"), f"{where} overhead"),
    }
    limit = math.inf if device.max_latency is None else parse_time_s(device.max_latency, f"{where} max_latency")
    alike = {
        "snr": parse_snr(device.snr, f"{where} snr"), "weight": float(device.weight), "most_s": limit,
        "calibration": calibration, "options": options,
    }  # fmt: skip
    if device.count == 1:
        return [Device(name=device.name, **alike)]
    return [Device(name=f"{device.name}-{number}", **alike) for number in range(1, device.count + 1)]


def solve_cell(cell: Cell) -> Solution:
    """Share the bandwidth.

    Raises:
        InputError: a device's calibration or options are wrong, or its latency is not known.
        InfeasibleError: limits on latencies that no bandwidth meets, or that need more than there is.
    """
    points, n = Points(cell), len(cell.devices)
    equal = points.split(np.full(n, cell.bandwidth_hz / n))
    loads = equal.demands.bits
    proportional = points.split(loads / loads.sum() * cell.bandwidth_hz) if loads.sum() > 0 else equal
    start = points.leanest(equal)
    _check_limits(cell, start.demands)
    best: Split | None = None
    for _ in range(_ROUNDS):
        shares, _ = allocate(start.demands, cell.fairness, cell.bandwidth_hz)
        fixed = Split(points=start.points, demands=start.demands, shares_hz=shares)
        again = points.split(shares)
        found = min((fixed, again), key=lambda split: _merit(cell, split))
        if best is not None and _merit(cell, found) >= _merit(cell, best):
            break
        best, start = found, again
        if not _keeps_limits(cell, again):
            break
    assert best is not None
    # The points have moved since the shares were made: these are the best shares for the points that are kept.
    shares, residual = allocate(best.demands, cell.fairness, cell.bandwidth_hz)
    best = Split(points=best.points, demands=best.demands, shares_hz=shares)
    return Solution(best=best, equal=equal, proportional=proportional, residual=residual)


def _merit(cell: Cell, split: Split) -> tuple[bool, float]:
    """Smaller is better; splits whose limits cannot be kept with their points come last."""
    return not _keeps_limits(cell, split), split.objective(cell.fairness)


def _keeps_limits(cell: Cell, split: Split) -> bool:
    """Whether some shares keep all limits with the points of a split."""
    return bool(split.demands.least_hz.sum() <= cell.bandwidth_hz)


def _check_limits(cell: Cell, demands: Demands) -> None:
    hopeless = [device for device, lost in zip(cell.devices, demands.unreachable, strict=True) if lost]
    if hopeless:
        raise InfeasibleError(
            f"max_latency is not reached at any bandwidth by {_names(hopeless)}: compute, round trip and the power "
            "limit alone take longer; raise max_latency or the SNR there"
        )
    least = demands.least_hz
    if least.sum() > cell.bandwidth_hz:
        most = np.argsort(-least)
        needy = [cell.devices[at] for at in most if least[at] > 0]
        raise InfeasibleError(
            f"max_latency needs {format_si(float(least.sum()), 'Hz')} at the same transmit powers, bandwidth is "
            f"{format_si(cell.bandwidth_hz, 'Hz')}; most is needed by {_names(needy)}"
        )


def _names(devices: list[Device]) -> str:
    more = len(devices) - _NAMED
    named = ", ".join(device.name for device in devices[:_NAMED])
    return f"{named} and {more} more" if more > 0 else named


class Points:
    """Operating points of the devices at their rates; each distinct one is solved once."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._capacity = np.array([device.snr * cell.bandwidth_hz for device in cell.devices])
        self._solvers: dict[str, Solver] = {}
        self._found: dict[tuple[str, int], ModePoint] = {}

    def split(self, shares_hz: Floats) -> Split:
        """Points at the rates of these shares, and what they ask for."""
        rates = rate_bps(shares_hz, self._capacity)
        steps = np.round(np.log(np.maximum(rates, 1.0)) / math.log(RATE_STEP))
        points = tuple(self._point(device, int(step)) for device, step in zip(self._cell.devices, steps, strict=True))
        return self._split(points, shares_hz)

    def leanest(self, split: Split) -> Split:
        """The same split, but limited devices at the points that keep their limits with the least rate.

        At its best points a device is the faster, the higher the rate: the least one is found by bisection.
        """
        points = list(split.points)
        for at, device in enumerate(self._cell.devices):
            if math.isfinite(device.most_s):
                most = int(math.log(max(self._capacity[at] / math.log(2), 1.0)) / math.log(RATE_STEP))
                points[at] = self._leanest(device, most)
        return self._split(tuple(points), split.shares_hz)

    def _leanest(self, device: Device, most: int) -> ModePoint:
        def keeps_limit(step: int) -> bool:
            bits, base_s = _load(self._point(device, step), device)
            return base_s + bits / RATE_STEP**step <= device.most_s

        return self._point(device, bisect_left(range(most), True, key=keeps_limit))

    def _split(self, points: tuple[ModePoint, ...], shares_hz: Floats) -> Split:
        asked = [_load(point, device) for point, device in zip(points, self._cell.devices, strict=True)]
        bits, base_s = np.array(asked).T
        demands = Demands(
            capacity_hz=self._capacity,
            bits=bits,
            base_s=base_s,
            weights=np.array([device.weight for device in self._cell.devices]),
            most_s=np.array([device.most_s for device in self._cell.devices]),
        )
        return Split(points=points, demands=demands, shares_hz=shares_hz)

    def _point(self, device: Device, step: int) -> ModePoint:
        """The point at a rate of `RATE_STEP` to the power of `step`, in bit/s."""
        kind = f"{device.calibration} {sorted(device.options.items(), key=str)}"
        if (kind, step) not in self._found:
            try:
                self._found[kind, step] = self._solver(kind, device).point(
                    Mode(device.options["mode"]), RATE_STEP**step
                )
            except InputError as error:
                raise InputError(f"device {device.name!r}: {error}") from None
        return self._found[kind, step]

    def _solver(self, kind: str, device: Device) -> Solver:
        if kind not in self._solvers:
            options: Options = {**device.options, "bandwidth_hz": 1.0, "snr_db": 0.0}
            self._solvers[kind] = Solver(device.calibration, **options)
        return self._solvers[kind]


def _load(point: ModePoint, device: Device) -> tuple[float, float]:
    """Mean bits a token, headers included, and mean latency a token without the uplink."""
    law = point.time
    if law is None:
        raise InputError(
            f"device {device.name!r}: the latency of {point.mode} is not known from calibration {device.calibration!r}"
        )
    overhead = 0.0 if law.link is None else law.link.overhead_bits
    sent = 0.0 if law.link is None else law.asks.rate * (law.asks.mean_bits + overhead)
    return sent, law.mean_s - law.asks.rate * law.uplink_s


def report(cell: Cell, solution: Solution) -> dict[str, Any]:
    """The solution as JSON; SI units, and seconds a token."""
    best = solution.best
    splits: Mapping[str, Split] = {
        "optimal": best,
        "equal": solution.equal,
        "proportional_to_load": solution.proportional,
    }
    capacity_hz = best.demands.capacity_hz
    snr = [each / share if share > 0 else None for each, share in zip(capacity_hz, best.shares_hz, strict=True)]
    return {
        "bandwidth_hz": cell.bandwidth_hz,
        "objective": str(cell.fairness),
        "optimality_residual": solution.residual,
        "splits": {
            name: {
                "objective": split.objective(cell.fairness),
                "mean_latency_s": float(split.latency_s.mean()),
                "worst_latency_s": float(split.latency_s.max()),
                "worst_device": cell.devices[int(split.latency_s.argmax())].name,
            }
            for name, split in splits.items()
        },
        "devices": [
            {
                "name": device.name,
                "mode": str(point.mode),
                "share_hz": float(share),
                "snr_in_share_db": None if ratio is None else 10 * math.log10(ratio),
                "u_threshold": point.threshold,
                "k": point.k,
                "skip_rate": point.skip_rate,
                "payload_bits": point.payload_bits,
                "bias": point.bias,
                "bias_budget": device.options["max_bias"],
                "latency_s": float(latency),
                "throughput_tokens_per_s": 1.0 / float(latency),
            }
            for device, point, share, ratio, latency in zip(
                cell.devices, best.points, best.shares_hz, snr, best.latency_s, strict=True
            )
        ],
        "assumptions": [
            "additive white Gaussian noise at the Shannon rate, orthogonal shares, fixed transmit power: the SNR of a "
            "share is that over all of the bandwidth, times the bandwidth, over the share",
            f"operating points are solved at rates in steps of {RATE_STEP:g}, latencies taken at the exact rates",
            "mean latencies: shares do not change from token to token, and an unused share is not lent",
        ],
    }
