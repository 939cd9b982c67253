"""Progress of long work on stderr: a live line on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class TokenProgress:
    """Counts prompts done and tokens recorded, and shows the rate and the time left."""

    def __init__(self, prompts: int, interval_s: float = 10.0) -> None:
        self._total = prompts
        self._interval_s = interval_s
        self._start = self._last = time.monotonic()
        self._tokens = self._worked = 0
        self._done = 0
        console = Console(stderr=True)
        columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._live = Progress(*columns, console=console) if console.is_terminal else None
        self._task = self._live.add_task("starting", total=prompts) if self._live else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, tokens: int, prompts_done: int, note: str) -> None:
        """Report one finished part."""
        now = time.monotonic()
        self._tokens += tokens
        self._worked += (prompts_done - self._done) if tokens else 0
        self._done = prompts_done
        elapsed = now - self._start
        left_s = (self._total - prompts_done) * elapsed / self._worked if self._worked else 0.0
        rate = self._tokens / max(elapsed, 1e-9)
        text = f"{prompts_done}/{self._total} prompts, {self._tokens} tokens, {rate:.1f} tokens/s"
        if self._live and self._task is not None:
            self._live.update(self._task, completed=prompts_done, description=text)
        elif now - self._last >= self._interval_s or prompts_done == self._total:
            self._last = now
            print(f"{text}, {left_s:.0f} s left ({note})", file=sys.stderr, flush=True)


class PointProgress:
    """Counts points, and shows the rate and the time left."""

    def __init__(self, total: int, interval_s: float = 10.0) -> None:
        self._total, self._interval_s = total, interval_s
        self._start = self._last = time.monotonic()
        self._first: int | None = None
        console = Console(stderr=True)
        columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._live = Progress(*columns, console=console) if console.is_terminal else None
        self._task = self._live.add_task("starting", total=total) if self._live else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, done: int) -> None:
        """Report how many points are done; the first call tells how many were done before."""
        now = time.monotonic()
        self._first = done if self._first is None else self._first
        rate = (done - self._first) / max(now - self._start, 1e-9)
        text = f"{done}/{self._total} points, {rate:.1f} points/s"
        if self._live and self._task is not None:
            self._live.update(self._task, completed=done, description=text)
        elif now - self._last >= self._interval_s or done == self._total:
            self._last = now
            left = f", {(self._total - done) / rate:.0f} s left" if rate > 0 and done < self._total else ""
            print(text + left, file=sys.stderr, flush=True)
