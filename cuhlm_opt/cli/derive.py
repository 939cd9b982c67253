"""`cuhlm-opt derive`: run every derivation, print what was proved and how."""

import json as json_format
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cuhlm_opt.errors import RunError
from cuhlm_opt.latex import latex_text
from cuhlm_opt.resources import derivations_dir


class Derived(Protocol):
    """What `derive()` of a script returns: derivations/derivation.py, which is no part of the package."""

    name: str
    theory: str
    statement: str
    latex: str
    source: str
    assumptions: tuple[str, ...]
    method: str
    result: Any
    holds: bool


def derive(
    json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON list on stdout.")] = False,
    latex: Annotated[Path | None, typer.Option(help="Also write them as a LaTeX appendix to this file.")] = None,
) -> None:
    """Derive every result the other commands rest on: [P] published, [P2] from re-implementations, [N] our own."""
    derived = run_derivations(derivations_dir())
    if latex is not None:
        from cuhlm_opt.records import write_atomically

        write_atomically(latex, latex_appendix(derived))
    if json:
        print(json_format.dumps([as_record(derivation) for derivation in derived], indent=2))
    else:
        _print_table(derived)
    failed = [derivation.name for derivation in derived if not derivation.holds]
    if failed:
        raise RunError(f"{len(failed)} of {len(derived)} derivations do not hold: {', '.join(failed)}")


def run_derivations(folder: Path) -> list[Derived]:
    """Run `derive()` of each script that has one, in the order of THEORY.md.

    Raises:
        RunError: sympy is missing, the folder holds no derivation, or a script failed.
    """
    if find_spec("sympy") is None:
        raise RunError("derive needs sympy, which is not installed; pip install 'cuhlm-opt[proofs]'")
    derived: list[Derived] = []
    with _importable(folder), Console(stderr=True).status("deriving") as status:
        for name in sorted(path.stem for path in folder.glob("*.py")):
            status.update(f"deriving {name}")
            try:
                script = import_module(name)
                if hasattr(script, "derive"):
                    derived.append(script.derive())
            except Exception as error:  # a script is data here: whatever it raises is one failed derivation
                raise RunError(f"derivation {name}: {type(error).__name__}: {error}") from error
    if not derived:
        raise RunError(f"no derivation found in {folder}")
    return sorted(derived, key=lambda derivation: ([int(n) for n in derivation.theory.split(".")], derivation.name))


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the scripts import each other by name, as they do when one is run alone."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def as_record(derivation: Derived) -> dict[str, Any]:
    """One derivation as a JSON object; `result` is its sympy object in sympy's own notation."""
    return {
        "name": derivation.name,
        "theory": derivation.theory,
        "statement": derivation.statement,
        "source": str(derivation.source),
        "assumptions": list(derivation.assumptions),
        "method": derivation.method,
        "holds": derivation.holds,
        "latex": derivation.latex,
        "result": str(derivation.result),
    }


def _print_table(derived: Sequence[Derived]) -> None:
    console = Console()
    table = Table(
        title=escape("[P] published   [P2] known from re-implementations   [N] this project's own"),
        title_justify="left",
        show_lines=True,
        expand=True,
    )
    table.add_column("name, source", no_wrap=True)
    table.add_column("statement", ratio=5, overflow="fold")
    table.add_column("how it is checked", ratio=3, overflow="fold")
    table.add_column("holds")
    for derivation in derived:
        table.add_row(
            escape(f"{derivation.name}\n[{derivation.source}] THEORY {derivation.theory}"),
            escape(derivation.statement),
            escape(derivation.method),
            "yes" if derivation.holds else "NO",
        )
    console.print(table, highlight=False)
    console.print(f"{sum(d.holds for d in derived)} of {len(derived)} hold", highlight=False)


def latex_appendix(derived: Sequence[Derived]) -> str:
    r"""All results as LaTeX for `\input`, with `\usepackage{amsmath,booktabs}`: a table, then each with its formula."""
    rows = [
        rf"{latex_text(d.name)} & {d.theory} & [{d.source}] & {latex_text(d.method)} & {'yes' if d.holds else 'no'} \\"
        for d in derived
    ]
    lines = [
        r"% Written by `cuhlm-opt derive --latex`. Needs \usepackage{amsmath,booktabs}.",
        r"\begingroup\emergencystretch=3em",
        r"\section*{Derivations}",
        r"[P] published, [P2] known from public re-implementations, [N] this work.",
        "",
        r"\begingroup\scriptsize\setlength{\tabcolsep}{3pt}\noindent",
        r"\begin{tabular}{@{}lllp{0.5\linewidth}l@{}}",
        r"\toprule",
        r"Result & Section & Source & Checked by & Holds \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}\par\endgroup",
    ]
    for d in derived:
        lines += [
            "",
            rf"\paragraph{{{latex_text(d.name.replace('_', ' ').capitalize())} [{d.source}].}}",
            rf"{latex_text(d.statement[0].upper() + d.statement[1:])}.",
            r"\begin{gather*}",
            d.latex,
            r"\end{gather*}",
            rf"Assumptions: {latex_text('; '.join(d.assumptions))}. Checked by {latex_text(d.method)}"
            + ("." if d.holds else r"; \textbf{does not hold}."),
        ]
    return "\n".join([*lines, r"\par\endgroup"]) + "\n"
