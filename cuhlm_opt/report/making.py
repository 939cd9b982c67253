"""Put a report together: solve, explore, draw, and write one page that needs nothing else."""

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cuhlm_opt import __version__
from cuhlm_opt.artefacts import Calibration, OperatingPoint
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.figures.inputs import Inputs
from cuhlm_opt.figures.making import Width, draw, made_of
from cuhlm_opt.figures.scripts import STYLE, Kind, find_scripts, load_module
from cuhlm_opt.records import write_atomically
from cuhlm_opt.report.explorer import Axes, explore
from cuhlm_opt.resources import figures_dir
from cuhlm_opt.solve import solve
from cuhlm_opt.solve.options import Options
from cuhlm_opt.wording import MODE_COLUMNS, facts, link_words, mode_cells, plain_words

_DASHES = {"-": "none", "--": "6 3", ":": "1.5 2.5", "-.": "7 2 1.5 2"}
"""Line styles of the figures in SVG."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure on the page."""

    name: str
    title: str
    caption: str
    source: str
    """The SVG as a data URI."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a page was made of."""

    point: OperatingPoint
    grid: dict[str, Any]
    figures: tuple[Drawn, ...]
    left_out: dict[str, str]
    """Figures that could not be drawn, and why."""


def solve_point(calibration: str, options: Options) -> OperatingPoint:
    """The operating point that is reported: in the mode that was asked for, or else in the one to run."""
    point = solve(calibration, **options)
    best = point.recommended.mode
    if "mode" in options or best is None or best is point.mode:
        return point
    in_best: Options = {**options, "mode": str(best)}
    return solve(calibration, **in_best)


def make_report(
    calibration: str,
    options: Options,
    point: OperatingPoint,
    axes: Axes,
    out: Path,
    *,
    command: str,
    workers: int | None = None,
    solved: Callable[[int], None] = lambda done: None,
    drawing: Callable[[str], None] = lambda name: None,
) -> Report:
    """Write the page.

    Args:
        calibration: name of a shipped calibration, or the folder of one.
        options: what `point` was solved with.
        point: what the page is about.
        axes: grid of the explorer.
        out: file to write; figures may read what lies in data/ and measured/ beside it.
        command: how the page is made, shown on it.
        workers: processes; None takes one a core.
        solved: called with the number of points of the grid that are done.
        drawing: called with the name of each figure before it is drawn.

    Raises:
        RunError: jinja2 or matplotlib is missing.
    """
    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise RunError(f"a report needs {package}, which is not installed; pip install 'cuhlm-opt[figures]'")
    inputs = Inputs(calibration, figures_dir(), out.parent)
    grid = explore(calibration, options, axes, workers=workers, progress=solved)
    figures, left_out = _draw_all(inputs, drawing)
    report = Report(point=point, grid=grid, figures=figures, left_out=left_out)
    write_atomically(out, _page(report, inputs.calibration, _lines(inputs.folder), command))
    return report


def _draw_all(inputs: Inputs, drawing: Callable[[str], None]) -> tuple[tuple[Drawn, ...], dict[str, str]]:
    """Every figure whose inputs this calibration has; of the others, what is missing."""
    figures, left_out = [], {}
    for script in find_scripts(inputs.folder, (Kind.FIGURE,)).values():
        try:
            made_of(script, inputs)
            drawing(script.name)
            contents, caption = draw(script, inputs, ("svg",), Width.COLUMN)
        except (InputError, RunError) as error:
            left_out[script.name] = str(error)
            continue
        svg = contents["svg"]
        encoded = b64encode(svg.encode() if isinstance(svg, str) else svg).decode()
        source = f"data:image/svg+xml;base64,{encoded}"
        figures.append(Drawn(name=script.name, title=script.summary, caption=caption.strip(), source=source))
    return tuple(figures), left_out


def _lines(folder: Path) -> dict[str, dict[str, str]]:
    """Colour and dashes of each mode's line, as in the figures."""
    modes = load_module(folder / STYLE).MODES
    return {mode: {"colour": look["color"], "dashes": _DASHES[look["linestyle"]]} for mode, look in modes.items()}


def _page(report: Report, calibration: Calibration, lines: dict[str, dict[str, str]], command: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    point = report.point
    environment = Environment(
        loader=PackageLoader("cuhlm_opt", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    start = {
        "bandwidth_hz": point.channel.bandwidth_hz,
        "snr_db": point.channel.snr_db,
        "max_bias": point.bias_budget,
    }
    return environment.get_template("page.html").render(
        point=point,
        link=link_words(point.channel),
        words=plain_words(point),
        facts=facts(point),
        columns=MODE_COLUMNS,
        modes=[(row, mode_cells(row)) for row in point.baselines],
        explorer=report.grid | {"start": start, "lines": lines},
        style=_text("page.css"),
        script=_text("explorer.js"),
        figures=report.figures,
        left_out=report.left_out,
        provenance=provenance(calibration),
        command=command,
        version=__version__,
    )


def _text(name: str) -> str:
    return files("cuhlm_opt.report").joinpath(name).read_text(encoding="utf-8")


def provenance(calibration: Calibration) -> list[tuple[str, str]]:
    """What was measured, with what, a line each; nested keys are joined by dots."""
    own = {
        "calibration": f"{calibration.id} ({calibration.kind})",
        "pair": calibration.pair,
        "vocabulary": f"{calibration.vocab_size:,} entries",
        "records, SHA-256": calibration.records_sha256 or "none",
    }
    return [*own.items(), *_flat(calibration.provenance)]


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [line for key in value for line in _flat(value[key], f"{name}.{key}" if name else str(key))]
    return [(name, value if isinstance(value, str) else json.dumps(value))]
