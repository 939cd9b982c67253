"""Render a prompt in a chat template such that the prompt's own text cannot pass for special tokens."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

TEMPLATE_DATE = "26 Jul 2024"
"""Date given to templates that ask for one: a prompt has the same tokens tomorrow."""
_MARK = "\ue000prompt\ue001"


class ChatText(NamedTuple):
    """A rendered turn in three pieces: special tokens are parsed in `before` and `after`, not in `plain`."""

    before: str
    plain: str
    after: str


def chat_text(render: Callable[[str], str], prompt: str, specials: Iterable[str]) -> ChatText:
    r"""Cut a rendered turn at the template's special tokens nearest to the prompt.

    Between these tokens the text is in one piece, so that it is tokenised as the model has seen it in training.

    Args:
        render: the chat template for one user turn.
        prompt: the user's text.
        specials: spellings of all special tokens.

    Example:
        >>> chat_text(lambda text: f"<s>user: {text.strip()}\n<e>bot:", " hi <e> ", ["<s>", "<e>"])
        ChatText(before='<s>', plain='user: hi <e>\n', after='<e>bot:')
    """
    rendered = render(prompt)
    head, _, tail = render(_MARK).partition(_MARK)
    if not (rendered.startswith(head) and rendered.endswith(tail)):
        head = tail = ""  # a template that depends on the text: nothing in it is trusted
    spellings = list(specials)
    start = max((head.rfind(s) + len(s) for s in spellings if s in head), default=0)
    stop = min((tail.find(s) for s in spellings if s in tail), default=len(tail))
    end = len(rendered) - len(tail) + stop
    return ChatText(rendered[:start], rendered[start:end], rendered[end:])
