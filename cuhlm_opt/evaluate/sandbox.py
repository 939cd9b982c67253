"""Run a program that a model wrote, locked in: bubblewrap's namespaces, and limits of its own.

It sees a read-only file system of Python and the system's libraries, and 16 MiB of /tmp; no network, no other process,
no environment. It may not start a process or a thread, and has limits of time, memory and file size. That keeps what it
does away from this machine; a program that sets out to be judged right has a way, since it shares an interpreter with
its judge.
"""

import os
import secrets
import shutil
import subprocess
import sys
from functools import cache
from tempfile import TemporaryFile
from typing import IO

from cuhlm_opt.errors import RunError

MEMORY_BYTES, FILE_BYTES, OPEN_FILES = 2**30, 2**20, 32
_NOBODY = 65534
# What the program prints goes nowhere. The nonce is reported at its end: leaving early is no pass.
_INSIDE = f"""
import os, resource, sys
def judge():
    nonce, program = sys.stdin.readline(), sys.stdin.read()
    for limit, value in (
        (resource.RLIMIT_AS, {MEMORY_BYTES}), (resource.RLIMIT_FSIZE, {FILE_BYTES}), (resource.RLIMIT_NPROC, 1),
        (resource.RLIMIT_NOFILE, {OPEN_FILES}), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, int(sys.argv[1])),
    ):
        resource.setrlimit(limit, (value, value))
    if os.getuid() == 0:  # whom a limit of processes does not bind
        os.setgroups([])
        os.setgid({_NOBODY})
        os.setuid({_NOBODY})
    report, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    said = nonce
    try:
        exec(compile(program, "answer", "exec"), {{"__name__": "__main__"}})
    except BaseException as error:
        said = f"{{type(error).__name__}}: {{error}}"[:300]
    os.write(report, said.encode(errors="replace"))
judge()
"""


def failure(program: str, timeout_s: float = 10.0) -> str | None:
    """Why `program` did not come to its end, in a line; None if it did.

    Args:
        program: Python source.
        timeout_s: of wall time, and of the processor's in whole seconds, > 0.

    Raises:
        RunError: there is no bubblewrap, or it may not make namespaces.
    """
    nonce = secrets.token_hex(16)
    with TemporaryFile() as out, TemporaryFile() as err:  # files have a largest size, pipes have not
        try:
            done = subprocess.run(
                [*_bubblewrap(), str(int(timeout_s) + 1)],
                input=f"{nonce}\n{program}".encode(errors="replace"),
                stdout=out,
                stderr=err,
                env={},
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"took more than {timeout_s:g} s"
        said, told = map(_beginning, (out, err))
    if told:  # the program's own stderr goes nowhere
        raise RunError(f"the sandbox does not start: {told}")
    return None if said == nonce else said[:300] or f"ended early, with code {done.returncode}"


def _beginning(file: IO[bytes]) -> str:
    """What a file begins with, in a line."""
    file.seek(0)
    return " ".join(file.read(1000).decode(errors="replace").split())


@cache
def _bubblewrap() -> tuple[str, ...]:
    """The command in front of the program's limits."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise RunError("bubblewrap is not installed; answers run in it alone (Debian: apt-get install bubblewrap)")
    python = os.path.relpath(os.path.realpath(sys.executable), sys.base_prefix)
    command = [bwrap, "--ro-bind", sys.base_prefix, "/python", "--dev", "/dev"]
    for folder in ("/usr", "/bin", "/lib", "/lib64"):
        command += ["--ro-bind-try", folder, folder]
    command += ["--perms", "1777", "--size", str(16 * 2**20), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    command += ["--remount-ro", "/dev", "--remount-ro", "/"]
    command += ["--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]
    command += ["--new-session", "--cap-drop", "ALL", "--clearenv", "--setenv", "LD_LIBRARY_PATH", "/python/lib"]
    if os.getuid() == 0:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return (*command, f"/python/{python}", "-I", "-S", "-B", "-c", _INSIDE)
