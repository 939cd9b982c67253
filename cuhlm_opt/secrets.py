"""Files with keys, certificates and tokens."""

from pathlib import Path

from cuhlm_opt.errors import InputError


def read_secret(path: Path, option: str) -> bytes:
    """Content of a key, certificate or token file, not empty."""
    try:
        content = path.read_bytes().strip()
    except OSError as error:
        raise InputError(f"{option} {str(path)!r}: {error.strerror}") from None
    if not content:
        raise InputError(f"{option} {str(path)!r} is empty")
    return content


def read_token(path: Path) -> str:
    """A bearer token: printable ASCII without spaces, at least 16 characters."""
    token = read_secret(path, "--token").decode("latin-1")
    if len(token) < 16 or not all("!" <= character <= "~" for character in token):
        raise InputError(f"--token {str(path)!r} holds no token: at least 16 printable ASCII characters, no spaces")
    return token
