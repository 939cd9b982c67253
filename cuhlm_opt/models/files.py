"""Model files on disk: the cache folder, and hashes that are computed once per version of a file."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from cuhlm_opt.errors import InputError


def cache_dir() -> Path:
    """Folder of fetched model files: CUHLM_CACHE, else XDG_CACHE_HOME or ~/.cache, then cuhlm-opt/models."""
    if override := os.environ.get("CUHLM_CACHE"):
        return Path(override).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cuhlm-opt" / "models"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex.

    A stamp in the cache folder keeps the hash together with the file's size and modification time, so that a large
    file is read once and not at every start.

    Raises:
        InputError: there is no such file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"model file {str(path)!r} cannot be read: {error.strerror}") from None
    version = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:20]
    stamp = cache_dir() / "stamps" / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(stamp.read_text())
        if isinstance(kept, dict) and {key: kept.get(key) for key in version} == version:
            return str(kept["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # a read-only cache only costs hashing again
        stamp.parent.mkdir(parents=True, exist_ok=True)
        scratch = stamp.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps({**version, "sha256": digest, "path": str(path)}))
        scratch.replace(stamp)
    return digest


def verify_file(path: Path, *, size: int, sha256: str | None) -> str:
    """Check a file against its recorded size in bytes and hash (None: any); return its hash.

    Raises:
        InputError: the file is missing or is another one.
    """
    if path.is_file() and (found := path.stat().st_size) != size:
        raise InputError(f"model file {str(path)!r} has {found} bytes, {size} are expected; fetch it again")
    digest = file_sha256(path)
    if sha256 is not None and digest != sha256:
        raise InputError(f"model file {str(path)!r} has sha256 {digest}, {sha256} is expected; fetch it again")
    return digest
