"""Progress of long work on stderr: a live line on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from cuhlm_opt.calibrate.check import CheckResult


class _Shown:
    """A bar on a terminal, lines elsewhere."""

    def __init__(self, total: int, interval_s: float = 10.0) -> None:
        self._total, self._interval_s = total, interval_s
        self._start = self._last = time.monotonic()
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

    def _elapsed_s(self) -> float:
        return max(time.monotonic() - self._start, 1e-9)

    def _show(self, done: int, text: str, beside: str) -> None:
        """Show `text`, with `beside` it where no bar tells how much is left."""
        now = time.monotonic()
        if self._live and self._task is not None:
            self._live.update(self._task, completed=done, description=text)
        elif now - self._last >= self._interval_s or done == self._total:
            self._last = now
            print(text + beside, file=sys.stderr, flush=True)


class TokenProgress(_Shown):
    """Counts prompts or answers done and their tokens, and shows the rate and the time left."""

    _tokens = _worked = _done = 0

    def __init__(self, total: int, of: str = "prompts") -> None:
        super().__init__(total)
        self._of = of

    def __call__(self, tokens: int, done: int, note: str = "") -> None:
        """Report one finished part; it has no tokens if it was there already."""
        self._tokens += tokens
        self._worked += (done - self._done) if tokens else 0
        self._done = done
        left_s = (self._total - done) * self._elapsed_s() / self._worked if self._worked else 0.0
        rate = self._tokens / self._elapsed_s()
        text = f"{done}/{self._total} {self._of}, {self._tokens} tokens, {rate:.1f} tokens/s"
        self._show(done, text, f", {left_s:.0f} s left" + (f" ({note})" if note else ""))


class CheckProgress(_Shown):
    """Counts fresh prompts, and shows what they say so far."""

    def __call__(self, result: "CheckResult") -> None:
        """Report the result after one more part."""
        e_values = f"{result.budget.e_value:.3g} and {result.exchangeable.e_value:.3g}"
        self._show(
            result.n_prompts,
            f"{result.n_prompts}/{self._total} prompts, {result.n_tokens} tokens, risk {result.mean_risk:.4f}, "
            f"e-values {e_values} of {result.budget.refused_at:g}",
            "",
        )


class PointProgress(_Shown):
    """Counts points, and shows the rate and the time left."""

    _first: int | None = None

    def __call__(self, done: int) -> None:
        """Report how many points are done; the first call tells how many were done before."""
        self._first = done if self._first is None else self._first
        rate = (done - self._first) / self._elapsed_s()
        left = f", {(self._total - done) / rate:.0f} s left" if rate > 0 and done < self._total else ""
        self._show(done, f"{done}/{self._total} points, {rate:.1f} points/s", left)


def note(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)
