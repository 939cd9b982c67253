"""Tables for a paper: the same cells as Markdown and as LaTeX with booktabs."""

from collections.abc import Sequence
from dataclasses import dataclass

from cuhlm_opt.latex import latex_text

_LATEX = {"±": r"$\pm$", "–": "--", "≤": r"$\le$", "·": r"$\cdot$", "β": r"$\beta$", "Δ": r"$\Delta$"}
"""Characters of cells that LaTeX takes from mathematics."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text; rows that share their first cell with the row above stand in one group.

    Example:
        >>> table = Table(head=("mode", "bias"), rows=(("u-hlm", "0.02 ± 0.01"),), caption="Modes.")
        >>> print(table.markdown, end="")
        | mode | bias |
        | --- | ---: |
        | u-hlm | 0.02 ± 0.01 |
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    text_columns: int = 1
    """Columns that hold words, on the left; the others hold numbers and are set to the right."""
    size: str = "footnotesize"
    """Type size in LaTeX."""

    @property
    def markdown(self) -> str:
        """The table in Markdown."""
        rule = ["---"] * self.text_columns + ["---:"] * (len(self.head) - self.text_columns)
        return "".join(
            f"| {' | '.join(_markdown_text(cell) for cell in row)} |\n" for row in (self.head, rule, *self.rows)
        )

    def latex(self, label: str) -> str:
        r"""The table as a `table*` for `\input`, with `\usepackage{booktabs}`."""
        columns = "l" * self.text_columns + "r" * (len(self.head) - self.text_columns)
        body = []
        for above, row in zip((None, *self.rows), self.rows, strict=False):
            if above is not None and above[0] != row[0] and self.text_columns > 1:
                body.append(r"\addlinespace")
            repeated = above is not None and above[0] == row[0] and self.text_columns > 1
            body.append(_latex_row(["", *row[1:]] if repeated else row))
        lines = [
            r"% Needs \usepackage{booktabs}.",
            r"\begin{table*}",
            r"\centering",
            rf"\{self.size}\setlength{{\tabcolsep}}{{4pt}}",
            rf"\caption{{{_latex_cell(' '.join(self.caption.split()))}}}",
            rf"\label{{tab:{label.removeprefix('table-')}}}",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            _latex_row(self.head),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
        ]
        return "\n".join(lines) + "\n"


def _markdown_text(cell: str) -> str:
    return cell.replace("|", "\\|")


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(_latex_cell(cell) for cell in cells) + r" \\"


def _latex_cell(text: str) -> str:
    """Plain text as LaTeX text."""
    text = latex_text(text)
    for character, command in _LATEX.items():
        text = text.replace(character, command)
    return text
