"""A model without the padding at the end of its vocabulary, as families of models have it in some sizes only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.models.protocol import LanguageModel


class WithoutPadding:
    """`model` with the first `vocab_size` entries of its logits; implements `LanguageModel`.

    The law is the model's own, given that the token is none of those cut: no text has them, and training leaves them
    next to no mass.
    """

    def __init__(self, model: LanguageModel, vocab_size: int) -> None:
        self._model, self._vocab_size = model, vocab_size

    @property
    def vocab_size(self) -> int:
        """Number of logits per position, |V|."""
        return self._vocab_size

    @property
    def context_length(self) -> int:
        """Largest number of tokens that one lane can hold."""
        return self._model.context_length

    @property
    def lanes(self) -> int:
        """Number of lanes."""
        return self._model.lanes

    @property
    def eos_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self._model.eos_tokens

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return self._model.tokenize(text)

    def chat_tokens(self, prompt: str) -> list[int]:
        """Token ids of `prompt` as one user turn."""
        return self._model.chat_tokens(prompt)

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """UTF-8 bytes of `tokens`."""
        return self._model.detokenize(tokens)

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, NDArray[np.float32]]:
        """Append tokens to lanes and return next-token logits; see `LanguageModel.extend`."""
        logits = self._model.extend(chunks, last_only=last_only)
        return {lane: rows[:, : self._vocab_size] for lane, rows in logits.items()}

    def length(self, lane: int) -> int:
        """Number of tokens that `lane` holds."""
        return self._model.length(lane)

    def truncate(self, lane: int, length: int) -> None:
        """Forget all but the first `length` tokens of `lane`."""
        self._model.truncate(lane, length)

    def provenance(self) -> dict[str, Any]:
        """The model's own, and what is left of its vocabulary."""
        return {**self._model.provenance(), "vocab_size": self._vocab_size}

    def close(self) -> None:
        """Free the model's memory."""
        self._model.close()


def without_padding(model: LanguageModel, vocab_size: int) -> LanguageModel:
    """`model` with a vocabulary of `vocab_size` tokens, if all that it has beyond is padding; else `model` itself."""
    beyond = range(vocab_size, model.vocab_size)
    if not beyond or model.eos_tokens.intersection(beyond) or any(model.detokenize([token]) for token in beyond):
        return model
    return WithoutPadding(model, vocab_size)
