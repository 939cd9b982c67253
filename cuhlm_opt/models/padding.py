"""A model without the padding at the end of its vocabulary, as families of models have it in some sizes only."""

from collections.abc import Mapping, Sequence
from typing import Any

from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.models.wrapped import Wrapped


class WithoutPadding(Wrapped):
    """`model` with the first `vocab_size` entries of its logits.

    The law is the model's own, given that the token is none of those cut: no text has them, and training leaves them
    next to no mass.
    """

    def __init__(self, model: LanguageModel, vocab_size: int) -> None:
        super().__init__(model)
        self._vocab_size = vocab_size

    @property
    def vocab_size(self) -> int:
        """Number of logits per position, |V|."""
        return self._vocab_size

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, Any]:
        """Append tokens to lanes and return next-token logits; see `LanguageModel.extend`."""
        logits = self._model.extend(chunks, last_only=last_only)
        return {lane: rows[:, : self._vocab_size] for lane, rows in logits.items()}

    def provenance(self) -> dict[str, Any]:
        """The model's own, and what is left of its vocabulary."""
        return {**self._model.provenance(), "vocab_size": self._vocab_size}


def without_padding(model: LanguageModel, vocab_size: int) -> LanguageModel:
    """`model` with a vocabulary of `vocab_size` tokens, if all that it has beyond is padding; else `model` itself."""
    beyond = range(vocab_size, model.vocab_size)
    if not beyond or model.eos_tokens.intersection(beyond) or any(model.detokenize([token]) for token in beyond):
        return model
    return WithoutPadding(model, vocab_size)
