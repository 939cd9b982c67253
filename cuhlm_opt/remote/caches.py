"""Key-value caches of many conversations on the lanes of one model: the least recently used makes room.

A conversation whose cache was evicted is rebuilt from its tokens at its next pass, in one chunk; the laws that follow
are the same but for the rounding of a chunk's size.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cuhlm_opt.errors import InputError
from cuhlm_opt.models.batching import Batching, Lane
from cuhlm_opt.models.protocol import LanguageModel


class Caches:
    """Lanes of `model`, lent to conversations for a pass at a time.

    Args:
        model: bounds the memory by its lanes and their length.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.batching = Batching()
        self._free = list(range(model.lanes))
        self._owners: OrderedDict[int, CachedModel] = OrderedDict()  # by last use
        self._changed = threading.Condition()
        self.evictions = 0

    def open(self) -> "CachedModel":
        """The model for one conversation, with an empty cache."""
        return CachedModel(self, self.batching, self._model)

    @contextmanager
    def lent(self, to: "CachedModel") -> Iterator[None]:
        """While `to` holds a lane that nobody takes away."""
        with self._changed:
            while not self._assign(to):
                self._changed.wait()
            to.is_busy = True
        try:
            yield
        finally:
            with self._changed:
                to.is_busy = False
                if to.lane is not None:
                    self._owners.move_to_end(to.lane)
                self._changed.notify_all()

    def give_back(self, of: "CachedModel") -> None:
        """A conversation is over: free its lane, if it still has one."""
        with self._changed:
            if of.lane is not None:
                del self._owners[of.lane]
                self._free.append(of.lane)
                of.lane = None
                self._changed.notify_all()

    def _assign(self, to: "CachedModel") -> bool:
        """Give `to` a lane unless it has one; False if every lane is busy."""
        if to.lane is not None:
            return True
        if not self._free:
            idle = next((lane for lane, owner in self._owners.items() if not owner.is_busy), None)
            if idle is None:
                return False
            self._owners.pop(idle).lane = None
            self._free.append(idle)
            self.evictions += 1
        to.lane = self._free.pop(0)
        self._owners[to.lane] = to
        with self.batching.alone():
            self._model.truncate(to.lane, 0)
        return True


class CachedModel(Lane):
    """One conversation's model, lane 0 alone; it may lose its cache between passes, not its tokens."""

    def __init__(self, caches: Caches, batching: Batching, model: LanguageModel) -> None:
        super().__init__(batching, model, None)
        self._caches = caches
        self._tokens: list[int] = []
        self.is_busy = False

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, Any]:
        """Append tokens; those of an evicted cache are read again before."""
        tokens = list(chunks[0])
        if len(self._tokens) + len(tokens) > self.context_length:
            raise InputError(f"{len(self._tokens) + len(tokens)} tokens; at most {self.context_length} fit the context")
        with self._caches.lent(self), self._batching.working():
            if self._tokens and not super().length(0):
                super().extend({0: self._tokens}, last_only=True)
            rows = super().extend({0: tokens}, last_only=last_only)
        self._tokens += tokens
        return rows

    def length(self, lane: int) -> int:
        """Tokens of the conversation, whether or not they are cached."""
        return len(self._tokens)

    def truncate(self, lane: int, length: int) -> None:
        """Forget all but the first `length` tokens."""
        del self._tokens[length:]
        with self._caches.lent(self):
            super().truncate(0, length)

    def close(self) -> None:
        """Give the lane back."""
        self._caches.give_back(self)
