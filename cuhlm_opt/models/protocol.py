"""The one protocol that every backend meets: batched next-token logits with a key-value cache."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class LanguageModel(Protocol):
    """An autoregressive model with `lanes` independent sequences, each with its own key-value cache.

    A lane holds the tokens fed to it so far. Feeding is incremental: nothing that is cached is computed again.
    """

    @property
    def vocab_size(self) -> int:
        """Number of logits per position, |V|."""

    @property
    def context_length(self) -> int:
        """Largest number of tokens that one lane can hold."""

    @property
    def lanes(self) -> int:
        """Number of lanes, addressed 0 .. lanes - 1."""

    @property
    def eos_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text: no special tokens are added or parsed."""

    def chat_tokens(self, prompt: str) -> list[int]:
        """Token ids of `prompt` as one user turn in the model's chat template, ready for the answer."""

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """UTF-8 bytes of `tokens`; a cut multi-byte character is returned as it stands."""

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, Any]:
        """Append tokens to lanes in one batch and return the next-token logits.

        Args:
            chunks: tokens to append per lane, at least one each.
            last_only: return the logits after the last token of each chunk only.

        Returns:
            Per lane, float32 logits of shape (n, |V|), row i after the i-th new token; n = 1 when `last_only`. Arrays,
            or tensors where they lie on a device that is to read them, see `gate.read_steps`.

        Raises:
            InputError: a lane would pass `context_length`.
            RunError: the backend failed, or a logit is NaN (the position is named).
        """

    def length(self, lane: int) -> int:
        """Number of tokens that `lane` holds."""

    def truncate(self, lane: int, length: int) -> None:
        """Forget all but the first `length` tokens of `lane`; 0 clears it."""

    def provenance(self) -> dict[str, Any]:
        """What makes the logits reproducible: backend, versions, file hashes, dtype, device, threads, chunk plan."""

    def close(self) -> None:
        """Free the model's memory. Calling it twice is harmless."""
