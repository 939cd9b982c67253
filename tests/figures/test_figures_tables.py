"""Tables: the same cells in Markdown and LaTeX, with what LaTeX would misread written out."""

from cuhlm_opt.figures.tables import Table

TABLE = Table(
    head=("link", "mode", "bias (%)"),
    rows=(("a_b", "u-hlm", "≤ 1 ± 2"), ("a_b", "llm*", "–"), ("c", "slm", "3")),
    caption="E[β | u] at\n100 %.",
    text_columns=2,
)


def test_markdown_has_every_cell():
    lines = TABLE.markdown.splitlines()
    assert lines[0] == "| link | mode | bias (%) |"
    assert lines[1] == "| --- | --- | ---: |"
    assert lines[2:] == ["| a_b | u-hlm | ≤ 1 ± 2 |", "| a_b | llm* | – |", "| c | slm | 3 |"]


def test_latex_groups_rows_and_escapes():
    text = TABLE.latex("table-modes")
    assert r"\label{tab:modes}" in text
    assert r"\caption{E[$\beta$ $|$ u] at 100 \%.}" in text
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    assert body == [
        r"a\_b & u-hlm & $\le$ 1 $\pm$ 2 \\",
        r" & llm$*$ & -- \\",
        r"\addlinespace",
        r"c & slm & 3 \\",
    ]
