"""A Hugging Face tokenizer as the protocol needs it: plain text stays plain, and tokens have bytes."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from cuhlm_opt.models.chat import TEMPLATE_DATE, chat_text


class Tokenizer:
    """Wraps a tokenizer of transformers.

    Args:
        backend: a `PreTrainedTokenizerFast`.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text: no special tokens are added or parsed."""
        return list(self._backend(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    def chat_tokens(self, prompt: str) -> list[int]:
        """`prompt` as one user turn in the chat template, or after the start token where there is no template."""
        if not self._backend.chat_template:
            start = self._backend.bos_token_id
            begins = start is not None and self._backend("").input_ids[:1] == [start]
            return ([start] if begins else []) + self.tokenize(prompt)
        before, plain, after = chat_text(self._render, prompt, self._specials)
        return [*self._parse(before), *self.tokenize(plain), *self._parse(after)]

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """Bytes of `tokens`; special tokens and padding entries have none."""
        return b"".join(map(self._bytes, tokens))

    def _parse(self, text: str) -> list[int]:
        return list(self._backend(text, add_special_tokens=False, split_special_tokens=False).input_ids)

    def _render(self, prompt: str) -> str:
        return str(
            self._backend.apply_chat_template(
                [{"role": "user", "content": prompt}],
                tokenize=False,
                add_generation_prompt=True,
                date_string=TEMPLATE_DATE,
            )
        )

    def _bytes(self, token: int) -> bytes:
        if (added := self._backend.added_tokens_decoder.get(token)) is not None:
            return b"" if added.special else str(added.content).encode()
        piece = self._backend.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if self._byte_letters:
            return bytes(self._byte_letters[letter] for letter in piece)
        if match := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
            return bytes([int(match[1], 16)])
        return str(piece).replace("\u2581", " ").encode()

    @cached_property
    def _specials(self) -> list[str]:
        return [str(added.content) for added in self._backend.added_tokens_decoder.values()]

    @cached_property
    def _byte_letters(self) -> dict[str, int]:
        """Byte of each letter in a byte-level vocabulary; empty for other vocabularies."""
        if "ByteLevel" not in str(self._backend.backend_tokenizer.decoder):
            return {}
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        return {letter: byte for byte, letter in bytes_to_unicode().items()}
