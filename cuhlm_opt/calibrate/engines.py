"""Where the parts of a run are worked on: in this process, in processes of this machine, or by Ray's actors.

An engine knows nothing of calibration: it has pairs, and calls functions with them. Each item is done once, whatever
happens to the workers, and what comes back does not depend on how many there are.
"""

import multiprocessing
import signal
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, TypeVar

from cuhlm_opt.errors import CuhlmError, RunError, first_line
from cuhlm_opt.models.pairs import Pair

ATTEMPTS = 3
"""Workers that one item may cost before the run is given up."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_W = TypeVar("_W")


class EngineName(StrEnum):
    """The engines by the names users type."""

    LOCAL = "local"
    RAY = "ray"


class Engine(Protocol):
    """Calls functions with a loaded pair."""

    def call(self, work: Callable[[Pair], _Result]) -> _Result:
        """Result of `work` with some pair."""

    def map(self, work: Callable[[Pair, _Item], _Result], items: Sequence[_Item]) -> Iterator[tuple[int, _Result]]:
        """Index and result of every item, once each, in the order in which they are done.

        Raises:
            CuhlmError: as `work` does.
            RunError: workers died time and again.
        """

    def close(self) -> None:
        """Free the pairs and end the workers; calling it twice is harmless."""


class InProcess:
    """The engine that is this process, with a pair that is loaded already."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    def call(self, work: Callable[[Pair], _Result]) -> _Result:
        """Result of `work`."""
        return work(self._pair)

    def map(self, work: Callable[[Pair, _Item], _Result], items: Sequence[_Item]) -> Iterator[tuple[int, _Result]]:
        """Index and result of every item, in order."""
        for index, item in enumerate(items):
            yield index, work(self._pair, item)

    def close(self) -> None:
        """Free the pair."""
        self._pair.close()


@dataclass(frozen=True)
class Outcome:
    """What became of one call in a worker: a value, or an error of ours."""

    value: Any = None
    error: CuhlmError | ModuleNotFoundError | None = None


class Worker:
    """A pair in a process of its own, loaded once.

    Args:
        load: loads the pair; called in the worker.
    """

    def __init__(self, load: Callable[[], Pair]) -> None:
        self._load = load
        self._pair: Pair | None = None

    def start(self) -> Outcome:
        """Load the pair; the value is its provenance."""
        return self.run(_provenance)

    def run(self, work: Callable[..., Any], *items: Any) -> Outcome:
        """Call `work` with the pair; what fails is told, not raised, so that it crosses processes in one line."""
        try:
            self._pair = self._pair or self._load()
            return Outcome(value=work(self._pair, *items))
        except (CuhlmError, ModuleNotFoundError) as error:
            return Outcome(error=error)
        except MemoryError:
            reason = "a worker ran out of memory; finished parts are kept, go on with fewer --workers"
            return Outcome(error=RunError(reason))
        except Exception as error:  # an error of a library may not even be one that can be sent
            return Outcome(error=RunError(f"a worker failed: {type(error).__name__}: {first_line(error)}"))


class WorkerLostError(Exception):
    """A worker is gone, and what it was doing with it; the message says how it ended."""


class Crew(ABC, Generic[_W]):
    """An engine of several workers: each has one item at a time, and that of a worker that died goes to a new one.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int) -> None:
        self._idle: list[_W] = []
        self._busy: dict[_W, int | None] = {}
        """Index of what each working worker does; None while it loads its pair."""
        self._provenance: dict[str, Any] | None = None
        for _ in range(workers):
            self._busy[self._hire()] = None

    def call(self, work: Callable[[Pair], _Result]) -> _Result:
        """Result of `work` on the first worker that is free."""
        ((_, result),) = self.map(_call, [work])
        return result

    def map(self, work: Callable[[Pair, _Item], _Result], items: Sequence[_Item]) -> Iterator[tuple[int, _Result]]:
        """Index and result of every item; see `Engine.map`."""
        waiting = deque(range(len(items)))
        losses: Counter[int | None] = Counter()
        while waiting or any(index is not None for index in self._busy.values()):
            while waiting and self._idle:
                worker, index = self._idle.pop(), waiting.popleft()
                self._busy[worker] = index
                self._give(worker, work, items[index])
            worker = self._next(list(self._busy))
            task = self._busy.pop(worker)
            try:
                outcome = self._outcome(worker)
            except WorkerLostError as lost:
                losses[task] += 1
                if losses[task] == ATTEMPTS:
                    doing = "loading the models" if task is None else "over one part"
                    raise RunError(f"{ATTEMPTS} workers died {doing} ({lost}); finished parts are kept") from None
                if task is not None:
                    waiting.appendleft(task)
                self._busy[self._hire()] = None
                continue
            self._idle.append(worker)
            if outcome.error is not None:
                raise outcome.error
            if task is None:
                self._require_alike(outcome.value)
            else:
                yield task, outcome.value

    @abstractmethod
    def close(self) -> None:
        """End the workers."""

    @abstractmethod
    def _hire(self) -> _W:
        """A new worker, which loads its pair."""

    @abstractmethod
    def _give(self, worker: _W, work: Callable[..., Any], item: Any) -> None:
        """Let a worker begin with an item."""

    @abstractmethod
    def _next(self, busy: list[_W]) -> _W:
        """The first of some workers that is done or dead."""

    @abstractmethod
    def _outcome(self, worker: _W) -> Outcome:
        """What such a worker has to tell.

        Raises:
            WorkerLostError: it is dead.
        """

    def _require_alike(self, provenance: dict[str, Any]) -> None:
        """Refuse a worker whose rows would not be those of the others."""
        self._provenance = self._provenance or provenance
        if difference := first_difference(self._provenance, provenance):
            raise RunError(f"workers are not alike, their rows would differ: {difference}")


class Processes(Crew["_Process"]):
    """The engine of several processes of this machine.

    Args:
        load: loads the pair; called in each process, so it must be one that pickle takes.
        workers: how many.
    """

    def __init__(self, load: Callable[[], Pair], workers: int) -> None:
        self._load = load
        super().__init__(workers)

    def close(self) -> None:
        """Kill the processes: what they have not told is done again."""
        for worker in [*self._idle, *self._busy]:
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
        self._idle, self._busy = [], {}

    def _hire(self) -> "_Process":
        context = multiprocessing.get_context("spawn")  # a fork would share the locks of numerical libraries
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self._load, theirs), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process is the end of what can be read
        return _Process(process, ours)

    def _give(self, worker: "_Process", work: Callable[..., Any], item: Any) -> None:
        with suppress(OSError):  # it died idle, which `_outcome` finds
            worker.connection.send((work, item))

    def _next(self, busy: list["_Process"]) -> "_Process":
        (first, *_) = wait([worker.connection for worker in busy])
        return next(worker for worker in busy if worker.connection is first)

    def _outcome(self, worker: "_Process") -> Outcome:
        try:
            outcome: Outcome = worker.connection.recv()
        except (EOFError, OSError):
            worker.connection.close()
            worker.process.join()
            code = worker.process.exitcode
            raise WorkerLostError(f"killed by signal {-code}" if code and code < 0 else f"exit code {code}") from None
        return outcome


@dataclass(frozen=True, eq=False)
class _Process:
    process: BaseProcess
    connection: "Connection[Any, Any]"


def _serve(load: Callable[[], Pair], connection: "Connection[Any, Any]") -> None:
    """A worker's life: load, then do what is asked until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the one who asked ends the others
    worker = Worker(load)
    connection.send(worker.start())
    try:
        while True:
            connection.send(worker.run(*connection.recv()))
    except (EOFError, OSError):
        return


def first_difference(stored: Any, asked: Any, where: str = "") -> str | None:
    """The first key, in order, whose values differ between two JSON objects, with both values; None where none does.

    >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2}})
    'a.b is 1 there, 2 here'
    """
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted({*stored, *asked}):
            found = first_difference(stored.get(key), asked.get(key), f"{where}.{key}" if where else key)
            if found:
                return found
        return None
    return None if stored == asked else f"{where} is {stored!r} there, {asked!r} here"


def _call(pair: Pair, work: Callable[[Pair], _Result]) -> _Result:
    return work(pair)


def _provenance(pair: Pair) -> dict[str, Any]:
    return pair.provenance()
