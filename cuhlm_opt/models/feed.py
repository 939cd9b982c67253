"""What every backend checks about the tokens it is fed and the logits it returns."""

from collections.abc import Mapping, Sequence

import numpy as np

from cuhlm_opt.distributions import Logits, on_host
from cuhlm_opt.errors import InputError, RunError


class NanLogitError(RunError):
    """A model gave no number.

    Args:
        lane: of the model.
        position: token of the lane behind which the logit stands.
        token: whose logit it is, the first of them.
    """

    def __init__(self, lane: int, position: int, token: int) -> None:
        super().__init__(lane, position, token)  # as pickle gives them back
        self.lane, self.position, self.token = lane, position, token

    def __str__(self) -> str:
        return f"the logit of token {self.token} after position {self.position} of lane {self.lane} is NaN"


def checked_chunks(
    chunks: Mapping[int, Sequence[int]], lengths: Sequence[int], context_length: int, vocab_size: int
) -> dict[int, list[int]]:
    """The chunks of one call in the order of their lanes.

    Args:
        chunks: tokens to append per lane.
        lengths: tokens that each lane holds.
        context_length: most tokens in a lane.
        vocab_size: |V|.

    Raises:
        InputError: an unknown lane, an empty chunk, a token outside the vocabulary, or a full context.
    """
    if unknown := [lane for lane in chunks if not 0 <= lane < len(lengths)]:
        raise InputError(f"lane {unknown[0]} is unknown; there are lanes 0 to {len(lengths) - 1}")
    for lane, tokens in chunks.items():
        if not tokens:
            raise InputError(f"lane {lane} is fed no token; at least one is needed")
        if (total := lengths[lane] + len(tokens)) > context_length:
            raise InputError(f"lane {lane} would hold {total} tokens; its context length is {context_length}")
        if min(tokens) < 0 or max(tokens) >= vocab_size:
            wrong = next(token for token in tokens if not 0 <= token < vocab_size)
            raise InputError(f"token {wrong} is outside the vocabulary of {vocab_size} tokens")
    return {lane: list(chunks[lane]) for lane in sorted(chunks)}


def require_numbers(logits: Mapping[int, Logits], lengths: Sequence[int], chunks: Mapping[int, Sequence[int]]) -> None:
    """Raise NanLogitError, naming lane, position and token, where a logit is NaN.

    Args:
        logits: rows per lane, the last one after the lane's last new token.
        lengths: tokens that each lane held before.
        chunks: the new tokens.
    """
    for lane, rows in logits.items():
        largest = rows.max(axis=1) if isinstance(rows, np.ndarray) else on_host(rows.amax(dim=1))
        bad = np.flatnonzero(np.isnan(largest))  # the maximum of a row is NaN where any entry is
        if len(bad):
            position = lengths[lane] + len(chunks[lane]) - len(rows) + int(bad[0])
            raise NanLogitError(lane, position, int(np.isnan(on_host(rows[int(bad[0])])).argmax()))
