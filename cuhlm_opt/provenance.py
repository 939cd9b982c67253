"""What records were made with, against what is installed or loaded now: the laws may have changed with it."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = {"llama_cpp_python": "llama-cpp-python", "transformers": "transformers", "torch": "torch"}
"""Keys of a model's provenance that hold versions, and whose."""
_SETTINGS = ("backend", *_PACKAGES, "version", "dtype", "device", "chunk", "repack")
"""Keys on which the logits depend, beside the weights; lanes, threads and context length are not among them."""
_ROLES = ("slm", "llm")


def installed_differences(recorded: Mapping[str, Any]) -> list[str]:
    """Versions of packages that differ from those installed, in words; those that are not installed are left out.

    Args:
        recorded: provenance of a pair, with those of its models under `slm` and `llm`.

    Example:
        >>> installed_differences({"slm": {"backend": "tiny"}})
        []
    """
    found = []
    for role in _ROLES:
        for key, package in _PACKAGES.items():
            then, now = recorded.get(role, {}).get(key), _installed(package)
            if then is not None and now is not None and _plain(then) != _plain(now):
                found.append(f"{package} {then} recorded, {now} installed")
    return list(dict.fromkeys(found))


def pair_differences(recorded: Mapping[str, Any], used: Mapping[str, Any]) -> list[str]:
    """Where a pair is not the recorded one, in words: weights, backend, versions, and how its logits are computed.

    A model of which nothing is known in `used` is left out.

    Example:
        >>> pair_differences({"slm": {"backend": "tiny"}}, {"slm": {"backend": "llama.cpp"}})
        ['backend tiny recorded, llama.cpp in use']
    """
    found = []
    for role in (role for role in _ROLES if role in used):
        then, now = recorded.get(role, {}), used[role]
        if "sha256" in then and then["sha256"] != now.get("sha256"):
            found.append(f"other weights of the {role.upper()}")
        found += [
            f"{key} {then[key]} recorded, {now.get(key)} in use"
            for key in _SETTINGS
            if key in then and then[key] != now.get(key)
        ]
    return list(dict.fromkeys(found))


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _plain(found: str) -> str:
    """A version without what it was built for."""
    return found.partition("+")[0]
