"""An exact pair of models over a few letters: second-order Markov chains whose logits are short formulas.

For trying every command, and for tests that compare with sums over the whole vocabulary.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.errors import InputError
from cuhlm_opt.models.feed import checked_chunks

MAX_VOCAB_SIZE = 26
_END_LOGIT = -1.5
_VERSION = 1


class Role(StrEnum):
    """Which of the two laws."""

    SLM = "slm"
    LLM = "llm"


@cache
def tiny_logits(role: Role, vocab_size: int = 6) -> NDArray[np.float32]:
    """Logits of every context, shape (|V|, |V|, |V|), indexed by the last but one token, the last one, and the next.

    With b, l, n for these three, the LLM's logit is spread(b, l) * shape(b, l, n), and the SLM's has
    gap(b, l) * drift(b, l, n) added: some contexts are peaked and some flat, and the two laws are close in some and
    far apart in others, farther on the whole where the SLM is less certain. The end token, |V| - 1, has one logit
    everywhere. Every entry is a multiple of 1/64 and so exact in float32: its softmax in float64 is the model's law.

    >>> bool((tiny_logits(Role.SLM) * 64 % 1 == 0).all())
    True
    """
    b, l, n = np.indices((vocab_size,) * 3)  # noqa: E741  the letters of the formula
    spread = 2.0 ** ((b + l + b * l) % 5 - 1)
    shape = ((2 * b * b + 3 * l * n + 11 * n * n + 10 * b * n + 5 * l) % 31 - 15) / 16
    logits = spread * shape
    if role is Role.SLM:
        gap = 2.0 ** ((b + 2 * l) % 4 - 1)
        drift = ((6 * b * l + 4 * n * n + 6 * l * n + 10 * b) % 17 - 8) / 16
        logits += gap * drift
    logits[:, :, -1] = _END_LOGIT
    table: NDArray[np.float32] = logits.astype(np.float32)
    table.flags.writeable = False
    return table


class TinyModel:
    """One model of the tiny pair; implements `LanguageModel`.

    Token 0 is "a", token 1 "b" and so on; the last token ends an answer, and stands before the first one of a prompt.

    Args:
        role: SLM or LLM.
        lanes: independent sequences.
        vocab_size: letters and the end token together, 2 to 26.
        context_length: tokens per lane.
    """

    def __init__(self, role: Role, *, lanes: int = 1, vocab_size: int = 6, context_length: int = 4096) -> None:
        if not 2 <= vocab_size <= MAX_VOCAB_SIZE:
            raise InputError(f"vocab_size {vocab_size} is not allowed; the tiny pair has 2 to {MAX_VOCAB_SIZE} tokens")
        self._role = role
        self._logits = tiny_logits(role, vocab_size)
        self._context_length = context_length
        self._held: list[list[int]] = [[] for _ in range(lanes)]

    @property
    def vocab_size(self) -> int:
        """Letters and the end token."""
        return len(self._logits)

    @property
    def context_length(self) -> int:
        """Largest number of tokens that one lane can hold."""
        return self._context_length

    @property
    def lanes(self) -> int:
        """Number of lanes."""
        return len(self._held)

    @property
    def eos_tokens(self) -> frozenset[int]:
        """The end token."""
        return frozenset({self.vocab_size - 1})

    def tokenize(self, text: str) -> list[int]:
        """One letter per character: a letter of the vocabulary is itself, any other character is mapped to one."""
        return [(ord(character) - ord("a")) % (self.vocab_size - 1) for character in text]

    def chat_tokens(self, prompt: str) -> list[int]:
        """The end token as a start, then the letters of `prompt`."""
        return [self.vocab_size - 1, *self.tokenize(prompt)]

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """Letters; the end token has none."""
        return bytes(ord("a") + token for token in tokens if token < self.vocab_size - 1)

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, NDArray[np.float32]]:
        """Append tokens to lanes and return next-token logits; see `LanguageModel.extend`."""
        feeds = checked_chunks(chunks, [len(held) for held in self._held], self.context_length, self.vocab_size)
        logits = {}
        for lane, tokens in feeds.items():
            held = self._held[lane]
            last = np.array([*[self.vocab_size - 1] * 2, *held][-2:] + tokens)  # a lane starts as if after two ends
            rows = self._logits[last[1:-1], last[2:]]
            logits[lane] = rows[-1:] if last_only else rows
            held.extend(tokens)
        return logits

    def length(self, lane: int) -> int:
        """Number of tokens that `lane` holds."""
        return len(self._held[lane])

    def truncate(self, lane: int, length: int) -> None:
        """Forget all but the first `length` tokens of `lane`."""
        del self._held[lane][length:]

    def provenance(self) -> dict[str, Any]:
        """The formula is named by its version."""
        return {"backend": "tiny", "version": _VERSION, "role": str(self._role), "vocab_size": self.vocab_size}

    def close(self) -> None:
        """There is nothing to free."""
