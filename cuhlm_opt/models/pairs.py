"""Load a small and a large model that share one vocabulary, by the name of a registered pair or one by one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypedDict, Unpack

from cuhlm_opt.errors import InputError, unknown_name
from cuhlm_opt.models.files import cache_dir, verify_file
from cuhlm_opt.models.padding import without_padding
from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.models.registry import Backend, ModelFile, registry

ROLES = ("slm", "llm")

PROBE = (
    "def f(x: int) -> str:\n\treturn f'{x:>08.3f}' if x != 0 else None  # 12345 67.89e-10\r\n\n"
    'for (int i = 0; i < n; ++i) { a[i] |= b[i] << 2; }\n    <div class="x">&nbsp;</div>   \n'
    "The quick brown fox doesn't jump; it's naïve, coöperative, straße, Ελληνικά, кириллица, "
    "עברית, العربية, हिन्दी, ไทย, 中文字符, 日本語のテキスト, 한국어. ≤ ∑ ∞ → €100 😀👩‍👩‍👧‍👦🇪🇺 end"
)
"""Text that two vocabularies must cut into the same token ids: code, scripts, digits, white space, emoji."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A draft model and the model it drafts for, over one vocabulary."""

    name: str
    slm: LanguageModel
    llm: LanguageModel

    def provenance(self) -> dict[str, Any]:
        """Name, and what makes each model's logits reproducible."""
        return {"name": self.name, "slm": self.slm.provenance(), "llm": self.llm.provenance()}

    def close(self) -> None:
        """Free both models."""
        self.slm.close()
        self.llm.close()


class Loading(TypedDict, total=False):
    """How models are loaded."""

    backend: str | None
    """llama.cpp (GGUF files only) or transformers; None for the registered one, or llama.cpp for a GGUF file and
    transformers for anything else."""
    device: str
    """auto (default), cpu, or a GPU such as cuda."""
    dtype: str
    """Of weights and caches in transformers; float32, auto for `faster_dtype`. llama.cpp takes the file's."""
    lanes: int
    """Sequences per model; 1."""
    context_length: int
    """Tokens per lane; 2048."""
    threads: int | None
    """CPU threads; None (default) for all processors."""
    shared_cache: bool
    """Of llama.cpp, see `LlamaCppModel`: faster where passes are of some lanes, and less reproducible; False."""


def load_pair(
    name: str | None = None, *, slm: str | None = None, llm: str | None = None, **how: Unpack[Loading]
) -> Pair:
    """Load both models of a pair and check that they share a vocabulary.

    Args:
        name: a pair of the registry; the default one where neither it nor `slm` and `llm` are given.
        slm: hub id, folder or GGUF file of the small model, instead of `name` and together with `llm`.
        llm: the same for the large model.
        how: see `Loading`.

    Returns:
        The pair, with empty lanes.

    Raises:
        InputError: unknown or contradictory names, files that were not fetched or do not load, two vocabularies.
        RunError: no memory.
    """
    options = _settled(how, name, slm=slm, llm=llm)
    if slm is None and llm is None:
        pair_name, sources = _registered(name, options.backend)
    elif name is not None:
        raise InputError(f"--pair {name!r} cannot be combined with --slm and --llm; give one or the other")
    elif slm is None or llm is None:
        raise InputError(f"{'--slm' if slm is None else '--llm'} is missing; --slm and --llm go together")
    else:
        pair_name = f"{Path(slm).name}+{Path(llm).name}"
        sources = [(source, _backend_of(source, options.backend)) for source in (slm, llm)]
    small = _load(*sources[0], options)
    try:
        large = _load(*sources[1], options)
        try:
            size = min(small.vocab_size, large.vocab_size)
            small, large = without_padding(small, size), without_padding(large, size)
            check_vocabularies(small, large)
        except InputError:
            large.close()
            raise
    except Exception:
        small.close()
        raise
    return Pair(name=pair_name, slm=small, llm=large)


def load_model(
    role: str, name: str | None = None, *, source: str | None = None, **how: Unpack[Loading]
) -> tuple[str, LanguageModel]:
    """Load one model of a pair, for a device or a server that has no other: (name of the pair or source, model).

    Args:
        role: "slm" or "llm".
        name: a pair of the registry; the default one where neither it nor `source` is given.
        source: hub id, folder or GGUF file, instead of `name`.
        how: see `Loading`.

    Raises:
        InputError: as `load_pair`, but for the vocabulary.
        RunError: as there.
    """
    if source is not None and name is not None:
        raise InputError(f"--pair {name!r} cannot be combined with --{role}; give one or the other")
    options = _settled(how, name, **{role: source})
    if source is not None:
        return Path(source).name, _load(source, _backend_of(source, options.backend), options)
    pair, (found,) = _registered(name, options.backend, (role,))
    return pair, _load(*found, options)


def settled_dtype(
    dtype: str,
    device: str,
    name: str | None = None,
    *,
    slm: str | None = None,
    llm: str | None = None,
    backend: str | None = None,
) -> str:
    """The dtype itself; for "auto" what `faster_dtype` finds, where transformers loads. Takes what `load_pair` does."""
    if dtype != "auto":
        return dtype
    sources = [source for source in (slm, llm) if source is not None]
    backends = {_backend_of(source, backend) for source in sources}
    if not sources:
        backends = {Backend(backend) if backend in list(Backend) else registry().pair(name).backend}
    if Backend.TRANSFORMERS not in backends:
        return "float32"
    from cuhlm_opt.models.huggingface import faster_dtype

    return faster_dtype(device)


def check_vocabularies(slm: LanguageModel, llm: LanguageModel) -> None:
    """Raise InputError unless both models have one vocabulary: its size, its tokens id by id, and the cuts of `PROBE`.

    Padding that only one model has is to be cut before, by `without_padding`.
    Tokens without bytes, special ones and padding, are compared where both models give them some.
    """
    if slm.vocab_size != llm.vocab_size:
        raise InputError(
            f"--slm has a vocabulary of {slm.vocab_size} tokens and --llm one of {llm.vocab_size}; they must agree"
        )
    for token in range(slm.vocab_size):
        ours, theirs = slm.detokenize([token]), llm.detokenize([token])
        if ours != theirs and ours and theirs:
            raise InputError(f"--slm and --llm have different vocabularies: token {token} is {ours!r} and {theirs!r}")
    pairs = zip_longest(slm.tokenize(PROBE), llm.tokenize(PROBE))
    for position, (own, other) in enumerate(pairs):
        if own != other:
            raise InputError(
                f"--slm and --llm have different vocabularies: token {position} of the probe text is "
                f"{_told(slm, own)} and {_told(llm, other)}"
            )


def missing_files(name: str | None, roles: Sequence[str] = ROLES) -> list[ModelFile]:
    """Files of a registered pair, of both models or one, that are not in the cache folder with their size."""
    folder = cache_dir()
    files = registry().files_of(registry().pair(name))
    return [file for role, file in files.items() if role in roles and not _has_size(folder / file.name, file.size)]


@dataclass(frozen=True, kw_only=True)
class _Options:
    """`Loading`, complete."""

    backend: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    lanes: int = 1
    context_length: int = 2048
    threads: int | None = None
    shared_cache: bool = False


def _settled(how: Loading, name: str | None, *, slm: str | None = None, llm: str | None = None) -> _Options:
    """`how` with what is left open, valid."""
    options = _Options(**how)
    if options.lanes < 1 or options.context_length < 1:
        raise InputError(f"lanes {options.lanes} and context_length {options.context_length} must be at least 1")
    if options.backend is not None and options.backend not in list(Backend):
        raise unknown_name("--backend", options.backend, list(Backend))
    dtype = settled_dtype(options.dtype, options.device, name, slm=slm, llm=llm, backend=options.backend)
    return replace(options, dtype=dtype)


def _registered(
    name: str | None, backend: str | None, roles: Sequence[str] = ROLES
) -> tuple[str, list[tuple[str, Backend]]]:
    """Name, sources and backends of a registered pair; its files are verified."""
    entry = registry().pair(name)
    if missing_files(name, roles):
        raise InputError(
            f"--pair {entry.name!r} is not in {cache_dir()}; get it with: cuhlm-opt pairs fetch {entry.name}"
        )
    chosen = Backend(backend) if backend else entry.backend
    if chosen is not entry.backend and (entry.backend, chosen) != (Backend.LLAMA_CPP, Backend.TRANSFORMERS):
        raise InputError(f"--backend {backend!r} cannot load --pair {entry.name!r}; it needs {str(entry.backend)!r}")
    sources = {role: getattr(entry, role) for role in roles}
    for role, file in registry().files_of(entry).items():
        if role not in roles:
            continue
        path = cache_dir() / file.name
        verify_file(path, size=file.size, sha256=None if file.derived else file.sha256)
        sources[role] = str(path)
    return entry.name, [(source, chosen) for source in sources.values()]


def _backend_of(source: str, backend: str | None) -> Backend:
    is_gguf = source.lower().endswith(".gguf")
    if backend == Backend.TINY:
        raise InputError(f"--backend 'tiny' cannot load {source!r}; give --pair tiny")
    if backend == Backend.LLAMA_CPP and not is_gguf:
        raise InputError(f"--backend 'llama.cpp' cannot load {source!r}; give a .gguf file")
    return Backend(backend) if backend else Backend.LLAMA_CPP if is_gguf else Backend.TRANSFORMERS


def _load(source: str, backend: Backend, options: _Options) -> LanguageModel:
    if backend is Backend.TINY:
        from cuhlm_opt.models.tiny import Role, TinyModel

        return TinyModel(Role(source), lanes=options.lanes, context_length=options.context_length)
    if backend is Backend.LLAMA_CPP:
        from cuhlm_opt.models.llamacpp import LlamaCppModel, gpu_layers

        return LlamaCppModel(
            source,
            lanes=options.lanes,
            context_length=options.context_length,
            threads=options.threads,
            gpu_layers=gpu_layers(options.device),
            shared_cache=options.shared_cache,
        )
    from cuhlm_opt.models.huggingface import TransformersModel

    return TransformersModel(
        source,
        lanes=options.lanes,
        context_length=options.context_length,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
    )


def _told(model: LanguageModel, token: int | None) -> str:
    return "missing" if token is None else f"{token} ({model.detokenize([token])!r})"


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
