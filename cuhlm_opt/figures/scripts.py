"""Scripts that make a figure, a table, or the data of figures; found by their file names, run by their paths."""

import ast
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from cuhlm_opt.errors import RunError, unknown_name

STYLE = "style.py"
"""Shared by all figures, beside them."""


class Kind(StrEnum):
    """What a script makes; its file is called `<kind>_<name>.py`."""

    FIGURE = "fig"
    TABLE = "table"
    DATA = "data"


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script, as its text tells: it is not run, and what it imports need not be installed."""

    name: str
    """What users call it: `snr` for fig_snr.py, `table-modes` for table_modes.py."""
    kind: Kind
    path: Path
    summary: str
    """First line of its docstring."""
    reads: tuple[str, ...]
    """Names of its inputs, see `Inputs`: the literal `READS` of the script."""

    @classmethod
    def of(cls, path: Path) -> "Script":
        """Read a script; RunError where its text is not Python, has no docstring, or names no inputs."""
        kind, _, rest = path.stem.partition("_")
        try:
            tree = ast.parse(path.read_text())
            summary = (ast.get_docstring(tree) or "").splitlines()[0]
            reads = ast.literal_eval(_assigned(tree, "READS"))
        except (SyntaxError, ValueError, LookupError) as error:
            raise RunError(
                f"{path}: a figure's script needs a docstring and READS = (...), its inputs: {error}"
            ) from None
        name = rest.replace("_", "-")
        return cls(
            name=f"table-{name}" if kind == Kind.TABLE else name,
            kind=Kind(kind),
            path=path,
            summary=summary,
            reads=tuple(reads),
        )

    def load(self) -> ModuleType:
        """Run the script."""
        return load_module(self.path)


def load_module(path: Path) -> ModuleType:
    """Run a file, which may import what lies beside it; nothing of it stays among the imported modules."""
    spec = spec_from_file_location(f"_cuhlm_opt_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RunError(f"{path} cannot be run")
    module = module_from_spec(spec)
    before = set(sys.modules)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
        beside = {other.stem for other in path.parent.glob("*.py")}
        for name in beside & (set(sys.modules) - before):
            del sys.modules[name]
    return module


def _assigned(tree: ast.Module, name: str) -> ast.expr:
    """What a module assigns to a name; LookupError where it does not."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            return node.value
    raise LookupError(f"{name} is not assigned")


def find_scripts(folder: Path, kinds: Iterable[Kind] = (Kind.FIGURE, Kind.TABLE)) -> dict[str, Script]:
    """Every script of some kinds, by name, figures first."""
    paths = [path for kind in kinds for path in sorted(folder.glob(f"{kind}_*.py"))]
    return {script.name: script for script in map(Script.of, paths)}


def choose(scripts: dict[str, Script], names: Iterable[str]) -> list[Script]:
    """The scripts called `names`; all where none is named; InputError for an unknown name."""
    wanted = list(dict.fromkeys(names)) or list(scripts)
    for name in wanted:
        if name not in scripts:
            raise unknown_name("NAME", name, scripts)
    return [scripts[name] for name in wanted]
