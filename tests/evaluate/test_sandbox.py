"""The sandbox: what comes to its end passes, all else says why in a line; nothing of the machine is within reach."""

import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuhlm_opt.errors import RunError
from cuhlm_opt.evaluate import sandbox
from cuhlm_opt.evaluate.sandbox import FILE_BYTES, MEMORY_BYTES, OPEN_FILES, failure

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "program",
    [
        "",
        "x = 1\nassert x == 1\n",
        "def f():\n    return g()\n\ndef g():\n    return 2\n\nassert f() == 2 and [f() for _ in range(3)]",
        "import collections, hashlib, heapq, itertools, math, random, re, string, typing",
        "if __name__ == '__main__':\n    done = True\nassert done",
        "assert len('é') == 1 and 'é'.encode() == bytes([195, 169])",
        "assert __import__('os').getcwd() == '/tmp'",
    ],
)
def test_a_program_that_ends_passes(program: str) -> None:
    assert failure(program) is None


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("assert 1 > 2, 'too small'", "AssertionError: too small"),
        ("raise SystemExit", "SystemExit:"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import sys; sys.exit()", "SystemExit:"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt:"),
        ("raise BaseException", "BaseException:"),
        ("x = = 1", "SyntaxError: invalid syntax (answer, line 1)"),
        ("input()", "EOFError: EOF when reading a line"),
        ("raise ValueError('one\\ntwo')", "ValueError: one two"),
        ("import os; os._exit(0)", "ended early, with code 0"),
        ("import os; os._exit(7)", "ended early, with code 7"),
        ("import os; os.abort()", "ended early, with code 134"),
        ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "ended early, with code 1"),
        ("import os; os.closerange(3, 64)", "ended early, with code 1"),
    ],
)
def test_a_program_that_does_not_end_says_why(program: str, why: str) -> None:
    assert failure(program) == why


def test_a_long_failure_is_cut() -> None:
    assert failure("raise ValueError('x' * 10**6)") == f"ValueError: {'x' * 288}"


def test_what_is_no_source_text_fails() -> None:
    assert "cannot contain null bytes" in str(failure("x = '\0'"))
    assert failure("x = '\udc80'\nassert x == '?'") is None, "a lone surrogate is replaced"


@settings(max_examples=20)
@given(message=st.text(max_size=400))
def test_a_failure_is_a_line_whatever_the_message(message: str) -> None:
    why = failure(f"raise KeyError({message!r})")
    assert why is not None
    assert why.startswith("KeyError:")
    assert len(why.splitlines()) == 1
    assert len(why) <= 300


def test_endless_programs_are_ended() -> None:
    """Side by side, each in a sandbox of its own: busy, asleep, catching everything, and behind its own end."""
    programs = [
        "while True:\n    pass",
        "import time\ntime.sleep(60)",
        "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass",
        "import atexit\n\n@atexit.register\ndef f():\n    while True:\n        pass",
    ]
    with ThreadPoolExecutor(len(programs)) as pool:
        assert list(pool.map(failure, programs, [1.0] * len(programs))) == ["took more than 1 s"] * len(programs)


def test_there_is_no_network() -> None:
    """Neither beyond the machine, nor to what listens on it."""
    connect = "import socket\nsocket.create_connection({!r}, 2)"
    assert "Network is unreachable" in str(failure(connect.format(("1.1.1.1", 53))))
    datagram = "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53))"
    assert "Network is unreachable" in str(failure(datagram))
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
        assert "Error" in str(failure(connect.format(server.getsockname())))


def test_an_abstract_socket_of_the_machine_is_out_of_reach() -> None:
    name = f"\0{secrets.token_hex(8)}"
    connect = f"import socket\nsocket.socket(socket.AF_UNIX).connect({name!r})"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)
        assert failure(connect) == "ConnectionRefusedError: [Errno 111] Connection refused"


@pytest.mark.parametrize(
    "start",
    [
        "import os; os.fork()",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', ''])",
        "import os; os.system('true') == 0 or os.fork()",
        "import threading; threading.Thread(target=print).start()",
        "import _thread; _thread.start_new_thread(print, ())",
    ],
)
def test_no_process_and_no_thread_is_started(start: str) -> None:
    why = failure(start)
    assert why in (
        "BlockingIOError: [Errno 11] Resource temporarily unavailable",
        "RuntimeError: can't start new thread",
    )


def test_another_program_in_its_place_is_no_pass() -> None:
    assert failure("import os, sys\nos.execv(sys.executable, ['python', '-c', 'print(1)'])") is not None


def test_no_process_is_seen() -> None:
    """No other one, of the sandbox either: its first process has the caller's streams."""
    assert failure("import os\nassert not os.path.exists('/proc')") is None
    assert failure("import os\nfor p in range(2, 300):\n    if p != os.getpid():\n        os.kill(p, 0)") is not None


@pytest.mark.parametrize("folder", ["/", "/usr", "/bin", "/lib", "/python", "/python/lib", "/dev", "/dev/shm", "/proc"])
def test_no_file_is_written_outside_tmp(folder: str) -> None:
    why = failure(f"open('{folder}/written', 'w')")
    assert why is not None
    assert why.startswith(("PermissionError", "OSError", "FileNotFoundError")), why


def test_tmp_is_its_own_each_time() -> None:
    path = f"/tmp/{secrets.token_hex(8)}"
    write = f"import os\nassert not os.listdir('/tmp')\nwith open({path!r}, 'w') as file:\n    file.write('x')\n"
    assert failure(write + f"assert open({path!r}).read() == 'x'") is None
    assert not Path(path).exists()
    assert failure(write) is None, "nothing is left of the first"


def test_sizes_of_files_are_limited() -> None:
    write = "for i in range({}):\n    with open(f'/tmp/{{i}}', 'wb') as file:\n        file.write(bytes({}))"
    assert failure(write.format(1, FILE_BYTES)) is None
    assert failure(write.format(1, FILE_BYTES + 1)) == "OSError: [Errno 27] File too large"
    assert failure(write.format(15, FILE_BYTES)) is None
    assert failure(write.format(17, FILE_BYTES)) == "OSError: [Errno 28] No space left on device"
    many = f"files = [open('/dev/null') for _ in range({OPEN_FILES})]"
    assert failure(many) == "OSError: [Errno 24] Too many open files: '/dev/null'"


def test_memory_is_limited() -> None:
    assert failure(f"x = bytearray({MEMORY_BYTES // 4})") is None
    assert failure(f"x = bytearray({MEMORY_BYTES})") == "MemoryError:"
    assert failure("x = []\nwhile True:\n    x.append(bytes(2**20))") == "MemoryError:"


def test_limits_cannot_be_lifted() -> None:
    for limit in ("AS", "FSIZE", "NPROC", "NOFILE", "CPU"):
        lift = f"import resource as r\nr.setrlimit(r.RLIMIT_{limit}, (r.RLIM_INFINITY, r.RLIM_INFINITY))"
        assert failure(lift) == "ValueError: not allowed to raise maximum limit"


@pytest.mark.parametrize(
    "path", [Path(__file__), REPOSITORY, Path.home(), Path("/etc/passwd"), Path("/root"), Path("/home")]
)
def test_files_of_the_machine_are_not_seen(path: Path) -> None:
    assert failure(f"import os\nassert not os.path.lexists({str(path)!r})") is None


def test_packages_are_not_seen() -> None:
    assert failure("import cuhlm_opt") == "ModuleNotFoundError: No module named 'cuhlm_opt'"
    assert failure("import numpy") == "ModuleNotFoundError: No module named 'numpy'"


def test_the_environment_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secrets.token_hex(8)
    monkeypatch.setenv("CUHLM_SECRET", secret)
    names = ("LD_LIBRARY_PATH", "PWD", "LC_CTYPE")  # the first is given, bubblewrap and Python add the others
    assert failure(f"import os\nassert set(os.environ) <= set({names!r}), set(os.environ)") is None
    assert failure(f"import os\nassert {secret!r} not in os.environ.values()") is None


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_however_much_does_no_harm(stream: str) -> None:
    loud = f"import sys\nfor _ in range(200):\n    sys.{stream}.write('x' * 10**6)\n"
    assert failure(loud) is None
    assert failure(loud + "assert 0, 'quiet'") == "AssertionError: quiet"


def test_output_is_not_taken_for_a_pass() -> None:
    """Whatever is written, and to whatever is open: the program that leaves early does not know what is awaited."""
    for word in ("", "ok", "None", "0" * 32):
        assert failure(f"import os\nprint({word!r}, flush=True)\nos._exit(0)") == "ended early, with code 0"
        everywhere = f"import os\nfor fd in range(64):\n    try:\n        os.write(fd, {word.encode()!r})\n"
        assert failure(everywhere + "    except OSError:\n        pass\nos._exit(0)") is not None


@pytest.fixture
def looked_for_again() -> Iterator[None]:
    """Bubblewrap is looked for anew, in the test and behind it."""
    sandbox._bubblewrap.cache_clear()
    yield
    sandbox._bubblewrap.cache_clear()


@pytest.mark.usefixtures("looked_for_again")
def test_without_bubblewrap_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RunError, match=r"bubblewrap is not installed; .*apt-get install bubblewrap"):
        failure("x = 1")
    monkeypatch.undo()
    assert failure("x = 1") is None, "a failure to find it is not remembered"


@pytest.mark.usefixtures("looked_for_again")
def test_a_sandbox_that_does_not_start_is_no_answer_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(refusing))
    with pytest.raises(RunError, match="the sandbox does not start: bwrap: No permissions to create new namespace"):
        failure("x = 1")
