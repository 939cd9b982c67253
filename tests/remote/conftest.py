"""One server for the tests that leave it as it is, and secrets."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from remote_fakes import serving

from cuhlm_opt.remote.serving import Server

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="session")
def served() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a self-signed certificate for `localhost`, its key, another certificate, and a token."""
    folder = tmp_path_factory.mktemp("secrets")
    for name in ("", "other-"):
        subprocess.run(
            [
                "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                "-keyout", str(folder / f"{name}key.pem"), "-out", str(folder / f"{name}cert.pem"),
            ],
            check=True, capture_output=True,
        )  # fmt: skip
    (folder / "token").write_text(f"{TOKEN}\n")
    (folder / "short").write_text("tooshort\n")
    (folder / "empty").write_text("\n")
    return folder
