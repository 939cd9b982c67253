"""Plain text as LaTeX text."""

import re

_LATEX_TEXT = {
    "\\": r"\textbackslash{}",
    "<=": r"$\le$",
    ">=": r"$\ge$",
    "<": "$<$",
    ">": "$>$",
    "|": r"$|$",
    "^": r"\textasciicircum{}",
    "~": r"$\sim$",
    "*": r"$*$",
    **{character: f"\\{character}" for character in "_{}&%#$"},
}
_LATEX_PATTERN = re.compile("|".join(re.escape(text) for text in sorted(_LATEX_TEXT, key=len, reverse=True)))


def latex_text(text: str) -> str:
    r"""Plain text as LaTeX text.

    >>> latex_text("TV <= E[s_d]")
    'TV $\\le$ E[s\\_d]'
    """
    return _LATEX_PATTERN.sub(lambda match: _LATEX_TEXT[match.group()], text)
