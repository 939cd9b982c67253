"""Secrets come from files, are told apart from empty ones, and are never part of what is said about them."""

from pathlib import Path

import pytest

from cuhlm_opt.errors import InputError
from cuhlm_opt.remote.access import read_secret, read_token


def test_white_space_around_a_secret_is_none_of_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b" \n0123456789abcdef\r\n")
    assert read_token(path) == "0123456789abcdef"
    assert read_secret(path, "--tls-key") == b"0123456789abcdef"


@pytest.mark.parametrize("token", ["!" * 16, "~" * 16, "A-Za-z0-9._~+/==", "0123456789abcdef" * 64])
def test_printable_tokens_of_16_characters_are_read(tmp_path: Path, token: str) -> None:
    path = tmp_path / "token"
    path.write_text(token)
    assert read_token(path) == token


@pytest.mark.parametrize(
    "content", [b"0123456789abcde", b"0123456789 abcdef", b"0123456789abcdef\n0123456789abcdef", "ä".encode() * 16,
                b"0123456789abcdef\x00", b"0123456789abcde\x7f", b"\xff" * 16, b"0123456789\tabcdef"],
)  # fmt: skip
def test_other_tokens_are_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"--token '.*token' holds no token: at least 16") as caught:
        read_token(path)
    assert content.decode("latin-1")[:10] not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere", "No such file"), (".", "Is a directory"), ("empty", "is empty"), ("blank", "is empty")],
)
def test_a_file_without_a_secret_is_named_with_its_option(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "blank").write_bytes(b" \n\t")
    for read in (lambda path: read_secret(path, "--tls-key"), read_token):
        with pytest.raises(InputError, match=said) as caught:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert str(caught.value).startswith("--t")
