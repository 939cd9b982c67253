"""Make figures and tables: draw, write with fixed bytes, and keep a manifest of what they were made of."""

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cuhlm_opt.errors import InputError, RunError, unknown_name
from cuhlm_opt.figures.inputs import DEFAULT_CALIBRATION, Inputs
from cuhlm_opt.figures.scripts import STYLE, Kind, Script
from cuhlm_opt.figures.tables import Table
from cuhlm_opt.records import sha256_of, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANIFEST = "manifest.json"
FORMATS = ("pdf", "png", "svg")
_METADATA: dict[str, dict[str, str | None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
"""No dates and no versions: the same inputs give the same bytes."""


class Width(StrEnum):
    """Where a figure is to stand in a two-column IEEE page."""

    COLUMN = "column"
    PAGE = "page"

    @property
    def inches(self) -> float:
        """Width of the whole figure."""
        return 3.5 if self is Width.COLUMN else 7.16


@dataclass(frozen=True, kw_only=True)
class Made:
    """A figure or table with its files; the caption is a file of its own."""

    name: str
    files: tuple[Path, ...]
    caption: str


def parse_formats(text: str) -> tuple[str, ...]:
    """Formats of a list such as `pdf,png`.

    >>> parse_formats("png, pdf")
    ('png', 'pdf')
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise unknown_name("--format", name, FORMATS)
    return names


def make(
    scripts: Sequence[Script],
    inputs: Inputs,
    *,
    formats: Sequence[str] = FORMATS,
    width: Width = Width.COLUMN,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Made]:
    """Make figures and tables, and write each with its caption and what it was made of.

    Args:
        scripts: what to make.
        inputs: what they read, and the folder to write to.
        formats: of figures, among `FORMATS`; tables are written as .md and .tex.
        width: of figures.
        progress: called with each name before it is made.

    Raises:
        InputError: an input is missing or of another calibration; then nothing is written.
        RunError: matplotlib is missing, or a script failed.
    """
    if any(script.kind is Kind.FIGURE for script in scripts) and find_spec("matplotlib") is None:
        raise RunError("figures need matplotlib, which is not installed; pip install 'cuhlm-opt[figures]'")
    identities = {script.name: made_of(script, inputs) for script in scripts}
    made = []
    for script in scripts:
        progress(script.name)
        contents, caption = draw(script, inputs, formats, width)
        files = {inputs.out / f"{script.name}.{ending}": content for ending, content in contents.items()}
        files[inputs.out / f"{script.name}.txt"] = caption.encode()
        for path, content in files.items():
            write_atomically(path, content)
        made.append(Made(name=script.name, files=tuple(files), caption=caption))
    _write_manifest(inputs.out, identities)
    return made


def draw(script: Script, inputs: Inputs, formats: Sequence[str], width: Width) -> tuple[dict[str, bytes | str], str]:
    """Content of each file of a figure or table by its ending, and the caption.

    Raises:
        InputError: an input is missing or of another calibration.
        RunError: the script failed.
    """
    with inputs.reading(script):
        return _drawn(script, inputs, formats, width)


def _drawn(script: Script, inputs: Inputs, formats: Sequence[str], width: Width) -> tuple[dict[str, bytes | str], str]:
    try:
        module = script.load()
        if script.kind is Kind.TABLE:
            table: Table = module.table(inputs)
            return {"md": table.markdown, "tex": table.latex(script.name)}, _wrapped(table.caption)
        figure, caption = module.draw(inputs, width.inches)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once: a format does not depend on those written before
        return {each: _rendered(figure, each, script.name) for each in formats}, _wrapped(caption)
    except (InputError, RunError, MemoryError):
        raise
    except Exception as error:  # a script is data here: whatever it raises is one failed figure
        raise RunError(f"{script.path.name}: {type(error).__name__}: {error}") from error


def _rendered(figure: "Figure", ending: str, name: str) -> bytes:
    """A figure in one format, at its own size; the ids in an SVG depend on its name alone."""
    from matplotlib import rc_context

    sink = io.BytesIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(sink, format=ending, metadata=_METADATA[ending])
    return sink.getvalue()


def _wrapped(caption: str) -> str:
    """A caption as the text of a file: one line a sentence group, single spaces."""
    return "\n".join(" ".join(line.split()) for line in caption.strip().splitlines()) + "\n"


def made_of(script: Script, inputs: Inputs) -> dict[str, str]:
    """Hashes of all that a figure or table depends on: its script, the style, and each input, by name."""
    own = {script.path.name: sha256_of(script.path)}
    if script.kind is Kind.FIGURE:
        own[STYLE] = sha256_of(script.path.parent / STYLE)
    return own | {name: inputs.sha256(name) for name in script.reads}


def stale(scripts: Iterable[Script], inputs: Inputs) -> dict[str, str]:
    """Which figures and tables are not those of the manifest in the folder of `inputs`, and why."""
    known = read_manifest(inputs.out)
    found = {}
    for script in scripts:
        try:
            now = made_of(script, inputs)
        except InputError as error:
            found[script.name] = str(error)
            continue
        then = known.get(script.name)
        if then is None:
            found[script.name] = "not made yet"
        elif then != now:
            changed = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
            found[script.name] = f"{', '.join(changed)} changed"
    return found


def check(scripts: Sequence[Script], inputs: Inputs) -> None:
    """RunError naming every stale figure and the command that makes it again."""
    reasons = stale(scripts, inputs)
    if not reasons:
        return
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    command = ["cuhlm-opt figures", *reasons, "--out", str(inputs.out)]
    command += [] if inputs.name == DEFAULT_CALIBRATION else ["--calibration", inputs.name]
    raise RunError(f"stale: {listed}. Make again with: {' '.join(command)}")


def read_manifest(out: Path) -> dict[str, dict[str, str]]:
    """What each figure and table in a folder was made of; empty where there is no manifest."""
    path = out / MANIFEST
    try:
        found: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no manifest of figures ({error}); delete it, and make the figures again") from None
    return found


def _write_manifest(out: Path, identities: dict[str, dict[str, str]]) -> None:
    """Add to the manifest."""
    known = read_manifest(out) | identities
    write_atomically(out / MANIFEST, json.dumps(known, indent=1, sort_keys=True) + "\n")
