"""Errors that reach the user as one line on stderr and an exit code."""

from collections.abc import Iterable
from difflib import get_close_matches


class CuhlmError(Exception):
    """Base of all expected failures; `exit_code` is what the command line returns."""

    exit_code = 1


class RunError(CuhlmError):
    """Work that was well specified failed while running: disk, memory, network, NaN."""


class InputError(CuhlmError):
    """The request is wrong. The message names the argument, its value and what is allowed."""

    exit_code = 2


class CodecError(InputError):
    """What was to be encoded is not a law, or what was to be decoded is no message of this codec."""


class InfeasibleError(CuhlmError):
    """No operating point meets the constraints. The message names which one to relax, and to what."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    r"""First line of what an error of a library says; its kind where it says nothing.

    >>> first_line(ValueError()), first_line(OSError("gone\nfor good"))
    ('ValueError', 'gone')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unknown_name(argument: str, name: str, known: Iterable[str]) -> InputError:
    """Build the error for a name that is not among `known`, near misses first."""
    names = sorted(known)
    starting = [known_name for known_name in names if name and known_name.startswith(name)]
    near = list(dict.fromkeys([*starting, *get_close_matches(name, names, n=3, cutoff=0.5)]))[:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return InputError(f"{argument} {name!r} is unknown; {hint}")
