"""A model that hands everything on to another one: what a wrapper does not change, it leaves to this."""

from collections.abc import Mapping, Sequence
from typing import Any

from cuhlm_opt.models.protocol import LanguageModel


class Wrapped:
    """`model` itself; implements `LanguageModel`."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    @property
    def vocab_size(self) -> int:
        """Number of logits per position, |V|."""
        return self._model.vocab_size

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

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, Any]:
        """Append tokens to lanes and return next-token logits; see `LanguageModel.extend`."""
        return self._model.extend(chunks, last_only=last_only)

    def length(self, lane: int) -> int:
        """Number of tokens that `lane` holds."""
        return self._model.length(lane)

    def truncate(self, lane: int, length: int) -> None:
        """Forget all but the first `length` tokens of `lane`."""
        self._model.truncate(lane, length)

    def provenance(self) -> dict[str, Any]:
        """What makes the logits reproducible."""
        return self._model.provenance()

    def close(self) -> None:
        """Free the model's memory."""
        self._model.close()
