"""Addresses, and files with keys, certificates and tokens."""

import ipaddress
from pathlib import Path

from cuhlm_opt.errors import InputError


def split_address(address: str, option: str) -> tuple[str, int]:
    """Host, with the brackets of an IPv6 address, and port.

    >>> split_address("[::1]:50051", "--listen")
    ('[::1]', 50051)
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(f"{option} {address!r} is not allowed; give HOST:PORT")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's own, by its name or number.

    >>> is_loopback("127.0.0.1"), is_loopback("[::1]"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


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
