"""What every script of this folder returns: one result, its assumptions, how it was checked, and whether it holds."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum

import sympy as sp


class Source(StrEnum):
    """Whose statement it is; the three are never mixed."""

    PUBLISHED = "P"
    """The published method."""
    REIMPLEMENTED = "P2"
    """A detail of the published method known only from public re-implementations."""
    OWN = "N"
    """This project's own."""


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """One result.

    Args:
        name: the script's name.
        theory: section of THEORY.md.
        statement: the result in plain text.
        latex: the result as LaTeX mathematics, for a `gather*` display.
        source: whose statement it is.
        assumptions: what it rests on.
        method: how it was checked.
        result: the sympy object that was derived.
        holds: whether every check passed; computed, never written down.
    """

    name: str
    theory: str
    statement: str
    latex: str
    source: Source
    assumptions: tuple[str, ...]
    method: str
    result: sp.Basic
    holds: bool

    def __post_init__(self) -> None:
        empty = [field.name for field in fields(self) if getattr(self, field.name) in ("", ())]
        if empty or not isinstance(self.holds, bool):
            raise ValueError(f"derivation {self.name!r}: {', '.join(empty) or 'holds'} is not filled in")

    def __str__(self) -> str:
        lines = [
            f"{self.name} [{self.source}], THEORY {self.theory}: {'holds' if self.holds else 'DOES NOT HOLD'}",
            f"  {self.statement}",
            *(f"  assuming {assumption}" for assumption in self.assumptions),
            f"  checked by {self.method}",
            f"  result: {self.result}",
        ]
        return "\n".join(lines)


def show(derive: Callable[[], Derivation]) -> None:
    """Print one result, and exit with 1 where it does not hold: what each script does when it is run alone."""
    derivation = derive()
    print(derivation)
    if not derivation.holds:
        raise SystemExit(1)


def vanishes(*expressions: sp.Expr) -> bool:
    """Whether each expression is identically zero, by simplification."""
    return all(sp.simplify(expression) == 0 for expression in expressions)
