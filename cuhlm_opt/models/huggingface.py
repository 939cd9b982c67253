"""transformers backend: hub models, local folders and GGUF files on any device that torch knows."""

import contextlib
import inspect
import io
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.errors import InputError, RunError, first_line, unknown_name
from cuhlm_opt.models.feed import checked_chunks, require_numbers
from cuhlm_opt.models.files import file_sha256
from cuhlm_opt.models.tokenizer import Tokenizer

DTYPES = ("float32", "bfloat16", "float16")
_CLEARLY = 0.9
"""A dtype takes at most this share of another's time where it is clearly faster."""
_SNAPSHOT = ["*.json", "*.jinja", "*.model", "*.safetensors", "*.txt"]


class TransformersModel:
    """A causal language model of transformers; implements `LanguageModel`.

    The lanes of the last call are the rows of one batched cache, all other lanes are parked apart from it, so that a
    call costs what its own lanes cost. Chunks of unequal length are padded on the right. Padding and forgotten tokens
    leave columns in the cache that the attention mask hides from then on; they are cut off at the end of the cache, and
    squeezed out where they are more than half of it.

    Models with sliding-window attention count columns, hidden ones included, against their window.

    Args:
        source: hub id, local folder, or GGUF file (dequantised to `dtype`).
        lanes: independent sequences.
        device: "auto" for a GPU where there is one, or a torch device.
        dtype: of weights and cache: float32, bfloat16 or float16. Another dtype has other laws, by its rounding.
        context_length: tokens per lane.
        threads: CPU threads of torch, process-wide; None leaves them.
        tensors: give logits as tensors on the device, so that they are read there; None: unless that is the CPU.

    Raises:
        InputError: transformers is not installed, or `source`, `device` or `dtype` cannot be had.
        RunError: `source` is on the hub, and the hub cannot be reached.
    """

    def __init__(
        self,
        source: str,
        *,
        lanes: int = 1,
        device: str = "auto",
        dtype: str = "float32",
        context_length: int = 2048,
        threads: int | None = None,
        tensors: bool | None = None,
    ) -> None:
        try:
            import torch
            import transformers
        except ModuleNotFoundError as error:
            raise InputError(f"{error.name} is not installed; pip install 'cuhlm-opt[models]'") from None
        if dtype not in DTYPES:
            raise unknown_name("--dtype", dtype, (*DTYPES, "auto"))
        self._torch, self._new_cache = torch, transformers.DynamicCache
        self._version = transformers.__version__
        self._device = _device(torch, device)
        if threads is not None:
            torch.set_num_threads(threads)
        self._tensors = self._device.type != "cpu" if tensors is None else tensors
        self._source, self._dtype = source, dtype
        with _quiet(transformers.utils.logging):
            self._network, self._tokenizer, self._weights = _load(
                transformers, source, getattr(torch, dtype), self._device
            )
        config = self._network.config.get_text_config()
        self._vocab_size = int(config.vocab_size)
        if context_length > (trained := int(getattr(config, "max_position_embeddings", context_length))):
            raise InputError(f"context_length {context_length} is not allowed; {source} has at most {trained}")
        self._context_length = context_length
        parameters = inspect.signature(self._network.forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"
        self._picks_logits = "logits_to_keep" in parameters
        self._eos_tokens = _eos_tokens(self._network, self._tokenizer)
        self._text = Tokenizer(self._tokenizer)
        self._lengths = [0] * lanes
        self._rows: list[int] = []
        self._cache = self._new_cache()
        self._visible = np.zeros((0, 0), dtype=bool)
        self._parked: dict[int, list[tuple[Any, Any]]] = {}

    @property
    def vocab_size(self) -> int:
        """Number of logits per position, |V|, padding entries included."""
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
        """End tokens of the generation settings, the model and the tokenizer."""
        return self._eos_tokens

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text: no special tokens are added or parsed."""
        return self._text.tokenize(text)

    def chat_tokens(self, prompt: str) -> list[int]:
        """`prompt` as one user turn in the chat template, or after the start token where there is none."""
        return self._text.chat_tokens(prompt)

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """Bytes of `tokens`; special tokens have none."""
        return self._text.detokenize(tokens)

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, Any]:
        """Append tokens to lanes in one forward pass and return next-token logits; see `LanguageModel.extend`."""
        feeds = checked_chunks(chunks, self._lengths, self._context_length, self._vocab_size)
        if not feeds:
            return {}
        self._arrange(list(feeds))
        sizes = [len(tokens) for tokens in feeds.values()]
        new = np.arange(max(sizes))
        wanted = sorted({size - 1 for size in sizes}) if last_only else new.tolist()
        columns = self._visible.shape[1]
        try:
            rows = self._forward(feeds, new, wanted)
            logits = {
                lane: rows[row, slice(at := wanted.index(size - 1), at + 1) if last_only else slice(size)]
                for row, (lane, size) in enumerate(zip(feeds, sizes, strict=True))
            }
            require_numbers(logits, self._lengths, feeds)
        except RunError:
            self._crop(columns)
            raise
        self._visible = np.hstack([self._visible, new < np.array(sizes)[:, None]])
        for lane, size in zip(feeds, sizes, strict=True):
            self._lengths[lane] += size
        return logits

    def length(self, lane: int) -> int:
        """Number of tokens that `lane` holds."""
        return self._lengths[lane]

    def truncate(self, lane: int, length: int) -> None:
        """Forget all but the first `length` tokens of `lane`."""
        if length >= self._lengths[lane]:
            return
        self._lengths[lane] = length
        if lane in self._rows:
            row = self._visible[self._rows.index(lane)]
            row[np.flatnonzero(row)[length:]] = False
            used = np.flatnonzero(self._visible.any(axis=0))
            self._crop(int(used[-1]) + 1 if len(used) else 0)
        else:
            kept = self._parked.pop(lane)
            if length:
                self._parked[lane] = [(keys[:, :length], values[:, :length]) for keys, values in kept]

    def provenance(self) -> dict[str, Any]:
        """Backend, versions, source and its hashes, dtype, device, threads and chunk plan."""
        return {
            "backend": "transformers",
            "transformers": self._version,
            "torch": str(self._torch.__version__),
            "source": Path(self._source).name if Path(self._source).exists() else self._source,
            "sha256": {file.name: file_sha256(file) for file in self._weights},
            "dtype": self._dtype,
            "device": str(self._device),
            "threads": int(self._torch.get_num_threads()),
            "lanes": self.lanes,
            "context_length": self._context_length,
            "chunk": "whole",
        }

    def close(self) -> None:
        """Free the model and its caches; calling it twice is harmless."""
        self._network = None
        self._cache, self._rows, self._parked = None, [], {}

    def _forward(self, feeds: Mapping[int, list[int]], new: NDArray[np.int64], wanted: list[int]) -> Any:
        """Logits of shape (lanes fed, wanted, |V|).

        New columns are all visible during the pass, padding too: it stands to the right of every token of its row, so
        that no token sees it, and no row of the mask is empty, which would make NaN.
        """
        torch, tokens = self._torch, np.zeros((len(feeds), len(new)), dtype=np.int64)
        for row, chunk in enumerate(feeds.values()):
            tokens[row, : len(chunk)] = chunk
        positions = np.minimum(
            np.array([self._lengths[lane] for lane in feeds])[:, None] + new, self._context_length - 1
        )
        mask = np.hstack([self._visible, np.ones_like(tokens, dtype=bool)])
        options: dict[str, Any] = {self._cache_argument: self._cache, "use_cache": True}
        if self._picks_logits:
            options["logits_to_keep"] = torch.tensor(wanted, device=self._device)
        try:
            with torch.inference_mode():
                logits = self._network(
                    input_ids=torch.from_numpy(tokens).to(self._device),
                    attention_mask=torch.from_numpy(mask.astype(np.int64)).to(self._device),
                    position_ids=torch.from_numpy(positions).to(self._device),
                    **options,
                ).logits
        except RuntimeError as error:
            said = first_line(error)
            raise RunError(f"{self._source}: torch failed on a batch of shape {tokens.shape}: {said}") from None
        picked = logits if self._picks_logits else logits[:, wanted]
        return picked.float() if self._tensors else picked.float().cpu().numpy()

    def _arrange(self, lanes: list[int]) -> None:
        """Make `lanes` the rows of the batched cache, without hidden columns where anything has to move."""
        width = max(self._lengths[lane] for lane in lanes)
        if lanes == self._rows and self._visible.shape[1] <= 2 * width:
            return
        self._park()
        self._rows, self._cache = lanes, self._new_cache()
        self._visible = np.arange(width) < np.array([self._lengths[lane] for lane in lanes])[:, None]
        parked = {row: self._parked.pop(lane) for row, lane in enumerate(lanes) if self._lengths[lane]}
        layers = len(next(iter(parked.values()))) if parked else 0
        for layer in range(layers):
            batch = []
            for part in (0, 1):
                one = next(iter(parked.values()))[layer][part]
                both = one.new_zeros((len(lanes), one.shape[0], width, one.shape[2]))
                for row, kept in parked.items():
                    both[row, :, : kept[layer][part].shape[1]] = kept[layer][part]
                batch.append(both)
            self._cache.update(*batch, layer)

    def _park(self) -> None:
        """Copy the visible columns of every row out of the batched cache."""
        for row, lane in enumerate(self._rows):
            if self._lengths[lane]:
                columns = self._torch.from_numpy(np.flatnonzero(self._visible[row])).to(self._device)
                self._parked[lane] = [
                    (layer.keys[row].index_select(1, columns), layer.values[row].index_select(1, columns))
                    for layer in self._cache.layers
                ]

    def _crop(self, columns: int) -> None:
        """Cut the batched cache to its first `columns` columns."""
        self._visible = self._visible[:, :columns]
        if columns == 0:
            self._cache = self._new_cache()
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[:, :, :columns], layer.values[:, :, :columns]


def hub_snapshot(repository: str) -> Path:
    """Folder of a hub repository's weights and settings in the hub's own cache, downloaded where it is not there.

    Raises:
        InputError: huggingface_hub is not installed, or the hub has no such repository.
        RunError: the hub cannot be reached, and the repository is not in its cache.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; pip install 'cuhlm-opt[models]'") from None
    try:
        return Path(snapshot_download(repository, allow_patterns=_SNAPSHOT))
    except (HFValidationError, RepositoryNotFoundError) as error:
        said = first_line(error)
        raise InputError(f"model {repository!r} is no local folder and no hub repository: {said}") from None
    except Exception as error:  # the network's errors share no base class
        raise RunError(
            f"model {repository!r} is no local folder, and the model hub cannot be reached: {first_line(error)}"
        ) from None


def _device(torch: Any, device: str) -> Any:
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {device!r} is not allowed: {first_line(error)}") from None


def faster_dtype(device: str, width: int = 4096, repeats: int = 5) -> str:
    """bfloat16 where a layer of few tokens takes clearly less time in it, else float32.

    Args:
        device: "auto" for a GPU where there is one, or a torch device.
        width: of the layer; large enough that its weights do not stay in a cache.
        repeats: the least time of so many counts.

    Raises:
        InputError: torch is not installed, or the device cannot be had.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; pip install 'cuhlm-opt[models]'") from None
    where, seconds = _device(torch, device), {}
    for name in ("float32", "bfloat16"):
        layer = torch.nn.Linear(width, width, bias=False, device=where, dtype=getattr(torch, name))
        tokens = torch.zeros((4, width), device=where, dtype=getattr(torch, name))
        durations = []
        with torch.inference_mode():
            for _ in range(1 + repeats):
                start = time.perf_counter()
                float(layer(tokens).sum())  # waits for the device
                durations.append(time.perf_counter() - start)
        seconds[name] = min(durations[1:])
    return "bfloat16" if seconds["bfloat16"] < _CLEARLY * seconds["float32"] else "float32"


def _load(transformers: Any, source: str, dtype: Any, device: Any) -> tuple[Any, Any, list[Path]]:
    """Network, in evaluation mode on `device`, tokenizer, and the files of the weights."""
    path = Path(source)
    where, options = source, {}
    if source.lower().endswith(".gguf"):
        if not path.is_file():
            raise InputError(f"model {source!r}: there is no such file")
        where, options = str(path.parent), {"gguf_file": path.name}
    elif not path.is_dir():
        where = str(hub_snapshot(source))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
        network = transformers.AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **options)
        weights = [path] if options else sorted(Path(where).glob("*.safetensors"))
        return network.to(device).eval(), tokenizer, weights
    except MemoryError:
        raise
    except Exception as error:  # loaders raise OSError, ValueError, KeyError, RuntimeError and errors of their own
        raise InputError(f"model {source!r} cannot be loaded by transformers: {first_line(error)}") from None


def _eos_tokens(network: Any, tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    for owner in (network.generation_config, network.config, tokenizer):
        token = getattr(owner, "eos_token_id", None)
        found |= set(token) if isinstance(token, list) else {token} if token is not None else set()
    return frozenset(found)


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Keep transformers from writing to stderr, but for progress bars on a terminal; restore its settings."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
