"""Answers side by side: each in a thread of its own, their passes through a model put together into one batch.

A batch starts when every thread that works waits for a model, so that it is as large as it can be; the batched pass
costs little more than a single one. Logits depend on the batch by rounding, and so may a draw now and then.
"""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cuhlm_opt.errors import RunError
from cuhlm_opt.models.pairs import Pair
from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.models.wrapped import Wrapped

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(eq=False)
class _Request:
    """What one thread waits for."""

    model: LanguageModel
    lane: int
    tokens: Sequence[int]
    last_only: bool
    rows: Any = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.rows is not None or self.error is not None


@dataclass(eq=False)
class Batching:
    """Where threads meet."""

    _changed: threading.Condition = field(default_factory=threading.Condition)
    _working: int = 0
    _waiting: list[_Request] = field(default_factory=list)
    _stopped: bool = False

    def lane(self, model: LanguageModel, lane: int) -> "Lane":
        """One lane of `model`, as a model of its own, for a thread within `working`."""
        return Lane(self, model, lane)

    @contextmanager
    def working(self) -> Iterator[None]:
        """While this thread computes, or waits for a model: batches wait for it."""
        with self._changed:
            self._working += 1
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    def stop(self) -> None:
        """Make every thread's next pass a RunError."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def extend(self, model: LanguageModel, lane: int, tokens: Sequence[int], last_only: bool) -> Any:
        """Rows of one lane, as `LanguageModel.extend` returns them, from a pass with whoever else waits."""
        request = _Request(model, lane, tokens, last_only)
        with self._changed:
            self._waiting.append(request)
            self._changed.notify_all()
            while not request.is_done and not self._stopped:
                if len(self._waiting) >= self._working:
                    self._run()
                    self._changed.notify_all()
                else:
                    self._changed.wait()
        if request.error is not None:
            raise request.error
        if request.rows is None:
            raise RunError("stopped")
        return request.rows

    def _run(self) -> None:
        """One pass for the model and the kind of rows that most wait for."""
        kinds = Counter((id(request.model), request.last_only) for request in self._waiting)
        kind = kinds.most_common(1)[0][0]
        batch = [request for request in self._waiting if (id(request.model), request.last_only) == kind]
        self._waiting = [request for request in self._waiting if request not in batch]
        try:
            _pass(batch)
        except Exception:  # whoever's fault it was: each alone
            for request in batch:
                try:
                    _pass([request])
                except Exception as error:
                    request.error = error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no batch runs, and no other thread is alone."""
        with self._changed:
            yield


def _pass(batch: Sequence[_Request]) -> None:
    model, last_only = batch[0].model, batch[0].last_only
    rows = model.extend({request.lane: request.tokens for request in batch}, last_only=last_only)
    for request in batch:
        request.rows = rows[request.lane]


class Lane(Wrapped):
    """One lane of a model as a `LanguageModel` with that lane only, by the name of 0; see `Batching.lane`."""

    def __init__(self, batching: Batching, model: LanguageModel, lane: int | None) -> None:
        super().__init__(model)
        self._batching = batching
        self.lane = lane
        """Of the model; None while it has none, when nothing may be read."""

    @property
    def lanes(self) -> int:
        """One."""
        return 1

    def tokenize(self, text: str) -> list[int]:
        """As the model."""
        with self._batching.alone():
            return self._model.tokenize(text)

    def chat_tokens(self, prompt: str) -> list[int]:
        """As the model."""
        with self._batching.alone():
            return self._model.chat_tokens(prompt)

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """As the model."""
        with self._batching.alone():
            return self._model.detokenize(tokens)

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, Any]:
        """As the model, in a batch with other lanes."""
        return {0: self._batching.extend(self._model, self._own, chunks[0], last_only)} if chunks else {}

    def length(self, lane: int) -> int:
        """As the model."""
        return self._model.length(self._own)

    def truncate(self, lane: int, length: int) -> None:
        """As the model."""
        with self._batching.alone():
            self._model.truncate(self._own, length)

    def close(self) -> None:
        """Nothing: the model is closed by whom it belongs to."""

    @property
    def _own(self) -> int:
        assert self.lane is not None
        return self.lane


def side_by_side(
    pair: Pair, work: Callable[[Pair, _Item], _Result], items: Sequence[_Item]
) -> Iterator[tuple[int, _Result]]:
    """Do `work` on every item, as many at once as both models have lanes: (index, result) as they are done.

    Args:
        pair: both models.
        work: is given a pair of one lane each, and must use no other.
        items: begun in this order.
    """
    batching = Batching()
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    lanes = min(pair.slm.lanes, pair.llm.lanes)
    for lane in range(lanes):
        free.put(lane)

    def one(item: _Item) -> _Result:
        lane = free.get()
        own = Pair(name=pair.name, slm=batching.lane(pair.slm, lane), llm=batching.lane(pair.llm, lane))
        try:
            with batching.working():
                return work(own, item)
        finally:
            free.put(lane)

    pool = ThreadPoolExecutor(lanes)
    try:
        futures = {pool.submit(one, item): index for index, item in enumerate(items)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        batching.stop()
        pool.shutdown(cancel_futures=True)
