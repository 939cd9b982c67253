"""llama.cpp backend: GGUF files on CPU or GPU, several lanes in one context, through the low-level interface."""

import ctypes
import os
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.models.chat import TEMPLATE_DATE, chat_text
from cuhlm_opt.models.feed import checked_chunks, require_numbers
from cuhlm_opt.models.files import file_sha256

_TO_THE_END = -1


class LlamaCppModel:
    """A GGUF model; implements `LanguageModel`.

    The feeds of one call are put one after the other in the order of the lanes, and cut every `chunk` tokens: that is
    the chunk plan, on which quantised logits depend.

    Args:
        path: GGUF file.
        lanes: independent sequences.
        context_length: tokens per lane.
        threads: CPU threads; None for all processors.
        gpu_layers: layers on the GPU, -1 for all.
        chunk: most tokens in one pass.
        shared_cache: one cache for all lanes. Passes of some lanes are several times faster then, but a law depends by
            rounding on what the other lanes hold.
        repack: let llama.cpp repack weights for the processor at hand. Off, since a law then moves more with the batch
            (unpacked, batches of one to five tokens were bit-equal), and since the kernels for AMX fault where a
            hypervisor shows AMX to the guest without letting it run.

    Raises:
        InputError: llama.cpp is not installed, or the file is missing or no model.
        RunError: no memory for the caches.
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
        shared_cache: bool = False,
    ) -> None:
        self._model: Any = None
        self._context: Any = None
        self._batch: Any = None
        self._path, self._chunk, self._repack = Path(path), chunk, repack
        if not self._path.is_file():
            raise InputError(f"model {str(path)!r}: there is no such file")
        self._api = api = _library()
        model_params = api.llama_model_default_params()
        model_params.n_gpu_layers = gpu_layers
        model_params.use_extra_bufts = repack
        self._model = api.llama_model_load_from_file(str(self._path).encode(), model_params)
        if not self._model:
            raise InputError(f"model {str(path)!r} is not a whole GGUF file that llama.cpp {api.__version__} can load")
        if context_length > (trained := int(api.llama_model_n_ctx_train(self._model))):
            self.close()
            raise InputError(f"context_length {context_length} is not allowed; {self._path.name} has at most {trained}")
        params = api.llama_context_default_params()
        params.n_ctx, params.n_seq_max = lanes * context_length, lanes
        params.kv_unified = self._shared_cache = shared_cache
        params.n_batch = params.n_ubatch = chunk
        params.n_threads = params.n_threads_batch = self._threads = threads or _processors()
        params.no_perf = True
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            self.close()
            raise RunError(f"model {str(path)!r}: no memory for {lanes} lanes of {context_length} tokens")
        self._memory = api.llama_get_memory(self._context)
        self._vocab = api.llama_model_get_vocab(self._model)
        self._batch = api.llama_batch_init(chunk, 0, 1)
        self._lengths = [0] * lanes
        self._context_length = context_length
        self._vocab_size = int(api.llama_vocab_n_tokens(self._vocab))
        self._eos_tokens = frozenset(
            token for token in range(self._vocab_size) if api.llama_vocab_is_eog(self._vocab, token)
        )

    @property
    def vocab_size(self) -> int:
        """Number of logits per position, |V|."""
        return self._vocab_size

    @property
    def context_length(self) -> int:
        """Largest number of tokens that one lane can hold."""
        return self._context_length

    @property
    def lanes(self) -> int:
        """Number of lanes."""
        return len(self._lengths)

    @property
    def eos_tokens(self) -> frozenset[int]:
        """Every end-of-generation token of the file."""
        return self._eos_tokens

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text: no special tokens are added or parsed."""
        return self._tokenize(text, special=False)

    def chat_tokens(self, prompt: str) -> list[int]:
        """`prompt` as one user turn in the file's chat template, or after the start token where it has none."""
        start = self._api.llama_vocab_bos(self._vocab)
        if self._template is None:
            return ([start] if self._api.llama_vocab_get_add_bos(self._vocab) else []) + self.tokenize(prompt)
        before, plain, after = chat_text(self._render, prompt, self._specials)
        return [*self._tokenize(before, special=True), *self.tokenize(plain), *self._tokenize(after, special=True)]

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """Bytes of `tokens`; special tokens have none."""
        return b"".join(map(self._piece, tokens))

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, NDArray[np.float32]]:
        """Append tokens to lanes and return next-token logits; see `LanguageModel.extend`."""
        feeds = checked_chunks(chunks, self._lengths, self._context_length, self._vocab_size)
        steps = [
            (lane, token, self._lengths[lane] + index, not last_only or index == len(tokens) - 1)
            for lane, tokens in feeds.items()
            for index, token in enumerate(tokens)
        ]
        logits = {
            lane: np.empty((1 if last_only else len(tokens), self._vocab_size), np.float32)
            for lane, tokens in feeds.items()
        }
        filled = dict.fromkeys(feeds, 0)
        try:
            for start in range(0, len(steps), self._chunk):
                part = steps[start : start + self._chunk]
                self._decode(part)
                for index, (lane, _, _, wanted) in enumerate(part):
                    if wanted:
                        row = self._api.llama_get_logits_ith(self._context, index)
                        logits[lane][filled[lane]] = np.ctypeslib.as_array(row, shape=(self._vocab_size,))
                        filled[lane] += 1
            require_numbers(logits, self._lengths, feeds)
        except RunError:
            for lane in feeds:
                self._forget(lane, self._lengths[lane])
            raise
        for lane, tokens in feeds.items():
            self._lengths[lane] += len(tokens)
        return logits

    def length(self, lane: int) -> int:
        """Number of tokens that `lane` holds."""
        return self._lengths[lane]

    def truncate(self, lane: int, length: int) -> None:
        """Forget all but the first `length` tokens of `lane`."""
        if length < self._lengths[lane]:
            self._forget(lane, length)
            self._lengths[lane] = length
        if not any(self._lengths):  # start again at the first cell: where cells lie changes the rounding of attention
            self._api.llama_memory_clear(self._memory, False)

    def provenance(self) -> dict[str, Any]:
        """Backend, version, file and its hash, threads and chunk plan."""
        return {
            "backend": "llama.cpp",
            "llama_cpp_python": self._api.__version__,
            "file": self._path.name,
            "sha256": file_sha256(self._path),
            "threads": self._threads,
            "lanes": self.lanes,
            "context_length": self._context_length,
            "chunk": self._chunk,
            "repack": self._repack,
            **({"cache": "shared"} if self._shared_cache else {}),
        }

    def close(self) -> None:
        """Free the model and its caches; calling it twice is harmless."""
        if self._batch:
            self._api.llama_batch_free(self._batch)
        if self._context:
            self._api.llama_free(self._context)
        if self._model:
            self._api.llama_model_free(self._model)
        self._model = self._context = self._batch = None

    def _decode(self, steps: Sequence[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(steps)
        for index, (lane, token, position, wanted) in enumerate(steps):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position, wanted
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, lane
        if status := self._api.llama_decode(self._context, batch):
            raise RunError(f"{self._path.name}: llama.cpp failed on a batch of {len(steps)} tokens, status {status}")

    def _forget(self, lane: int, length: int) -> None:
        if not self._api.llama_memory_seq_rm(self._memory, lane, length, _TO_THE_END):
            raise RunError(f"{self._path.name}: this architecture cannot forget a part of a sequence")

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        room = len(data) + 8  # a token has at least one byte, but for a prefix that some vocabularies add
        buffer = (self._api.llama_token * room)()
        count = self._api.llama_tokenize(self._vocab, data, len(data), buffer, room, False, special)
        return list(buffer[:count])

    def _piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = int(self._api.llama_token_to_piece(self._vocab, token, buffer, room, 0, False))
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def _render(self, prompt: str) -> str:
        assert self._template is not None
        turns = [{"role": "user", "content": prompt}]
        return str(self._template(messages=turns, date_string=TEMPLATE_DATE).prompt)

    @cached_property
    def _specials(self) -> list[str]:
        """Spellings of the tokens that llama.cpp finds in text before it tokenises the rest."""
        api, kinds = self._api, self._api.LLAMA_TOKEN_ATTR_CONTROL | self._api.LLAMA_TOKEN_ATTR_USER_DEFINED
        return [
            api.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")
            for token in range(self._vocab_size)
            if api.llama_vocab_get_attr(self._vocab, token) & kinds
        ]

    @cached_property
    def _template(self) -> Any:
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        source = self._api.llama_model_chat_template(self._model, None)
        if not source:
            return None
        names = {}
        for key, find in (("bos_token", self._api.llama_vocab_bos), ("eos_token", self._api.llama_vocab_eos)):
            token = find(self._vocab)
            names[key] = self._api.llama_vocab_get_text(self._vocab, token).decode() if token >= 0 else ""
        return Jinja2ChatFormatter(template=source.decode(), **names)


def gpu_layers(device: str) -> int:
    """Layers to put on the GPU: all (-1) where `device` names one, or is "auto" and llama.cpp was built for one.

    Raises:
        InputError: a GPU is named and llama.cpp was built without.
    """
    if device == "cpu":
        return 0
    if _library().llama_supports_gpu_offload():
        return -1
    if device == "auto":
        return 0
    raise InputError(f"--device {device!r} is not allowed; this llama.cpp was built for the CPU, give 'cpu' or 'auto'")


def quantise(source: Path, target: Path, kind: str, *, threads: int | None = None) -> None:
    """Requantise a GGUF file with llama.cpp's quantiser.

    Args:
        source: GGUF file, quantised or not.
        target: file to write.
        kind: file type as llama.cpp names it, as "Q2_K".
        threads: CPU threads; None for all processors.

    Raises:
        RunError: llama.cpp failed, as on a full disk.
    """
    api = _library()
    params = api.llama_model_quantize_default_params()
    params.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.allow_requantize = True
    params.nthread = threads or _processors()
    status = api.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status:
        target.unlink(missing_ok=True)
        raise RunError(f"llama.cpp could not quantise {source.name} to {kind}, status {status}")


def _processors() -> int:
    return os.cpu_count() or 1


@cache
def _library() -> Any:
    """llama.cpp's low-level interface, initialised once and silent."""
    try:
        import llama_cpp
    except ModuleNotFoundError:
        raise InputError("llama.cpp is not installed; pip install 'cuhlm-opt[edge]'") from None
    llama_cpp.llama_log_set(_silent_log(), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


@cache
def _silent_log() -> Any:
    """A log callback that drops every line; cached, since llama.cpp keeps the pointer."""
    from llama_cpp import llama_log_callback

    return llama_log_callback(lambda level, text, data: None)
