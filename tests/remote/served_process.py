"""`cuhlm-opt serve` in a process of its own, on a port that it chooses and tells.

Shared with `tests/long/measure_faults.py`.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S, STOP_S = 120.0, 20.0


class Served:
    """A server of the tiny pair. Warnings are errors in it, as in tests.

    Args:
        options: of the command, beside the pair.
        listen: where.
    """

    def __init__(self, *options: str, listen: str = "127.0.0.1:0") -> None:
        self._said = tempfile.NamedTemporaryFile()  # noqa: SIM115  closed by `kill`
        command = ["-W", "error", "-m", "cuhlm_opt", "serve", "--pair", "tiny", "--listen", listen, *options]
        self.process = subprocess.Popen([sys.executable, *command], stdout=self._said, stderr=self._said)
        self.address = self._told()

    @property
    def said(self) -> str:
        """What it wrote so far."""
        return Path(self._said.name).read_text()

    def _told(self) -> str:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            found = re.search(r"^serving the LLM of tiny on (\S+:\d+)\n", self.said, re.MULTILINE)
            if found:
                return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        said = self.said
        self.kill()
        raise RuntimeError(f"no server: {said}")

    def stop(self, number: int) -> tuple[int, str]:
        """Exit code and what it wrote, after a signal."""
        self.process.send_signal(number)
        return self.process.wait(STOP_S), self.said

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        self._said.close()


@contextmanager
def served_process(*options: str) -> Iterator[Served]:
    server = Served(*options)
    try:
        yield server
    finally:
        server.kill()


def resident_bytes(process: int) -> int | None:
    """Memory that a process holds; None where the system does not tell."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    found: Sequence[str] = re.findall(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return 1024 * int(found[0]) if found else None
