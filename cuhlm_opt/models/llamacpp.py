"""llama.cpp backend: GGUF files on CPU or GPU, several lanes in one context, through the low-level interface."""

import ctypes
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from numpy.typing import NDArray

from cuhlm_opt.errors import InputError, RunError


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silence(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Drop llama.cpp's own log lines: the library does not print."""


class LlamaCppModel:
    """A GGUF model; implements `LanguageModel`.

    Weights are not repacked unless `repack`: without it laws are bit-equal for batches of one to four tokens, whatever
    the lanes, and the kernels run on every processor (repacked AMX kernels fault where a hypervisor hides AMX's state).

    Args:
        path: GGUF file.
        lanes: independent sequences.
        context_length: tokens per lane.
        threads: CPU threads; llama.cpp's choice where None.
        gpu_layers: layers on the GPU, -1 for all.
        chunk: most tokens in one pass; longer feeds are split, always at the same places.
        repack: let llama.cpp repack weights: faster single steps, laws that move with the batch.

    Raises:
        InputError: the file is missing or no model.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        lanes: int = 1,
        context_length: int = 2048,
        threads: int | None = None,
        gpu_layers: int = 0,
        chunk: int = 512,
        repack: bool = False,
    ) -> None:
        self._path = Path(path)
        if not self._path.is_file():
            raise InputError(f"model {str(path)!r}: no such file")
        _start_backend()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = gpu_layers
        model_params.use_extra_bufts = repack
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise InputError(f"model {str(path)!r} is not a GGUF file that llama.cpp can load")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = lanes * context_length
        params.n_batch = params.n_ubatch = chunk
        params.n_seq_max = lanes
        params.kv_unified = True
        params.no_perf = True
        if threads is not None:
            params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RunError(f"model {str(path)!r}: no memory for {lanes} lanes of {context_length} tokens")
        self._threads = int(llama_cpp.llama_n_threads(self._context))
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._batch = llama_cpp.llama_batch_init(chunk, 0, 1)
        self._chunk, self._repack = chunk, repack
        self._lengths = [0] * lanes
        self._context_length = context_length
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self.eos_tokens = frozenset(
            token for token in range(self.vocab_size) if llama_cpp.llama_vocab_is_eog(self._vocab, token)
        )

    @property
    def context_length(self) -> int:
        """Tokens that one lane can hold."""
        return self._context_length

    @property
    def lanes(self) -> int:
        """Number of lanes."""
        return len(self._lengths)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text; special tokens are not parsed."""
        return self._tokenize(text, special=False)

    def chat_tokens(self, prompt: str) -> list[int]:
        """`prompt` as one user turn in the file's chat template; special tokens in the prompt stay plain text."""
        marker = "\x00"
        rendered = self._template(messages=[{"role": "user", "content": marker}]).prompt
        before, after = rendered.split(marker)
        return [*self._tokenize(before, special=True), *self.tokenize(prompt), *self._tokenize(after, special=True)]

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """Bytes of `tokens`; special tokens are left out."""
        size = 256
        pieces = []
        buffer = ctypes.create_string_buffer(size)
        for token in tokens:
            length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            pieces.append(buffer.raw[: max(length, 0)])
        return b"".join(pieces)

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, NDArray[np.float32]]:
        """Append tokens to lanes and return next-token logits; see `LanguageModel.extend`."""
        for lane, tokens in chunks.items():
            if self._lengths[lane] + len(tokens) > self._context_length:
                total = self._lengths[lane] + len(tokens)
                raise InputError(f"a sequence of {total} tokens passes the context of {self._context_length}")
        feed = [
            (lane, token, self._lengths[lane] + index, not last_only or index == len(tokens) - 1)
            for lane, tokens in chunks.items()
            for index, token in enumerate(tokens)
        ]
        rows: dict[int, list[NDArray[np.float32]]] = {lane: [] for lane in chunks}
        for start in range(0, len(feed), self._chunk):
            part = feed[start : start + self._chunk]
            self._decode(part)
            for index, (lane, _, position, wanted) in enumerate(part):
                if wanted:
                    rows[lane].append(self._logits(index, lane, position))
        for lane, tokens in chunks.items():
            self._lengths[lane] += len(tokens)
        return {lane: np.stack(logits) for lane, logits in rows.items()}

    def length(self, lane: int) -> int:
        """Number of tokens in `lane`."""
        return self._lengths[lane]

    def truncate(self, lane: int, length: int) -> None:
        """Forget all but the first `length` tokens of `lane`."""
        llama_cpp.llama_memory_seq_rm(self._memory, lane, length, -1)
        self._lengths[lane] = min(length, self._lengths[lane])

    def provenance(self) -> dict[str, Any]:
        """Backend, version, file, threads and chunk plan."""
        return {
            "backend": "llama.cpp",
            "version": llama_cpp.__version__,
            "file": self._path.name,
            "bytes": self._path.stat().st_size,
            "threads": self._threads,
            "lanes": self.lanes,
            "chunk": self._chunk,
            "repack": self._repack,
        }

    def close(self) -> None:
        """Free the model and its caches."""
        if self._model:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._context)
            llama_cpp.llama_model_free(self._model)
            self._model = None

    def _decode(self, part: Sequence[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(part)
        for index, (lane, token, position, wanted) in enumerate(part):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position, wanted
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, lane
        status = llama_cpp.llama_decode(self._context, batch)
        if status != 0:
            raise RunError(f"llama.cpp could not evaluate a batch of {len(part)} tokens (status {status})")

    def _logits(self, index: int, lane: int, position: int) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        logits = np.ctypeslib.as_array(pointer, shape=(self.vocab_size,)).copy()
        if np.isnan(logits).any():
            raise RunError(f"{self._path.name}: NaN logits after token {position} of lane {lane}")
        return logits

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        buffer = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), buffer, room, False, special)
        return list(buffer[:count])

    @functools.cached_property
    def _template(self) -> Jinja2ChatFormatter:
        raw = llama_cpp.llama_model_chat_template(self._model, None)
        if not raw:
            raise InputError(f"model {self._path.name!r} has no chat template")
        return Jinja2ChatFormatter(template=raw.decode(), eos_token="", bos_token="")


@functools.cache
def _start_backend() -> None:
    llama_cpp.llama_log_set(_silence, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
