"""Caches of many conversations: no conversation reads another's, whoever was evicted, closed or waited for."""

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cuhlm_opt.errors import InputError
from cuhlm_opt.models.tiny import Role, TinyModel
from cuhlm_opt.remote.caches import Caches

PATIENCE_S = 60.0

steps = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.one_of(
            st.lists(st.integers(0, 5), min_size=1, max_size=4), st.sampled_from(["close", "clear", "forget 1", "fail"])
        ),
        st.booleans(),
    ),
    max_size=40,
)


@given(lanes=st.integers(1, 3), taken=steps)
def test_conversations_in_turn_are_as_with_a_model_of_their_own(
    lanes: int, taken: list[tuple[int, list[int] | str, bool]]
) -> None:
    caches = Caches(TinyModel(Role.LLM, lanes=lanes, context_length=20))
    shared, own = {}, {}
    for who, what, last_only in taken:
        if who not in shared:
            shared[who], own[who] = caches.open(), TinyModel(Role.LLM, context_length=20)
        lengths = [model.length(0) for model in (shared[who], own[who])]
        assert lengths[0] == lengths[1]
        match what:
            case "close":
                shared.pop(who).close()
            case "clear":
                shared[who].truncate(0, 0)
                own[who].truncate(0, 0)
            case "forget 1":
                for model in (shared[who], own[who]):
                    model.truncate(0, max(0, lengths[0] - 1))
            case "fail":
                with pytest.raises(InputError, match="token 99"):
                    shared[who].extend({0: [99]})
            case tokens if lengths[0] + len(tokens) > 20:
                with pytest.raises(InputError, match="at most 20 fit the context"):
                    shared[who].extend({0: tokens})
            case tokens:
                found, expected = (
                    model.extend({0: tokens}, last_only=last_only)[0] for model in (shared[who], own[who])
                )
                np.testing.assert_array_equal(found, expected)
    for conversation in shared.values():
        conversation.close()
    fresh = [caches.open() for _ in range(lanes)]
    before = caches.evictions
    for conversation in fresh:
        conversation.extend({0: [1]})
    assert caches.evictions == before, "every lane came back"


def test_the_least_recently_used_makes_room() -> None:
    caches = Caches(TinyModel(Role.LLM, lanes=2))
    first, second, third = (caches.open() for _ in range(3))
    first.extend({0: [0]})
    second.extend({0: [1]})
    first.extend({0: [2]})
    third.extend({0: [3]})
    assert (first.lane is None, second.lane is None, third.lane is None) == (False, True, False)
    assert caches.evictions == 1
    second.extend({0: [4]})
    assert (first.lane is None, caches.evictions) == (True, 2)


def test_an_evicted_conversation_is_read_again_in_one_chunk() -> None:
    chunks: list[list[int]] = []

    class Written(TinyModel):
        def extend(
            self, given: Mapping[int, Sequence[int]], *, last_only: bool = False
        ) -> dict[int, NDArray[np.float32]]:
            chunks.extend(list(chunk) for chunk in given.values())
            return super().extend(given, last_only=last_only)

    caches = Caches(Written(Role.LLM))
    first, second = caches.open(), caches.open()
    first.extend({0: [0, 1]})
    first.extend({0: [2]})
    second.extend({0: [5]})
    first.extend({0: [3, 4]})
    assert chunks == [[0, 1], [2], [5], [0, 1, 2], [3, 4]]
    first.truncate(0, 2)
    second.extend({0: [5]})
    first.extend({0: [0]})
    assert chunks[5:] == [[5], [5], [0, 1], [0]]


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads give way to others as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_conversations_that_come_and_go_side_by_side_keep_apart(lanes: int) -> None:
    """Some end at the moment that their lane is taken away."""
    caches = Caches(TinyModel(Role.LLM, lanes=lanes))
    wrong: list[str] = []

    def converse(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(300):
                conversation, own = caches.open(), TinyModel(Role.LLM)
                for _ in range(int(rng.integers(1, 4))):
                    chunk = rng.integers(0, 6, size=rng.integers(1, 4)).tolist()
                    if not np.array_equal(conversation.extend({0: chunk})[0], own.extend({0: chunk})[0]):
                        wrong.append("a row of another conversation")
                conversation.close()
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=converse, args=(seed,), daemon=True) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads), "nobody waits for ever"
    assert wrong == []


def test_a_lane_that_is_read_is_not_taken_away() -> None:
    """Another conversation waits for the end of the pass."""
    inside, may_end = threading.Event(), threading.Event()

    class Slow(TinyModel):
        def extend(
            self, given: Mapping[int, Sequence[int]], *, last_only: bool = False
        ) -> dict[int, NDArray[np.float32]]:
            inside.set()
            assert may_end.wait(PATIENCE_S)
            return super().extend(given, last_only=last_only)

    caches = Caches(Slow(Role.LLM))
    first, second = caches.open(), caches.open()
    threads = [threading.Thread(target=first.extend, args=({0: [0]},), daemon=True)]
    threads[0].start()
    assert inside.wait(PATIENCE_S)
    threads.append(threading.Thread(target=second.extend, args=({0: [1]},), daemon=True))
    threads[1].start()
    assert (first.is_busy, second.lane, caches.evictions) == (True, None, 0)
    may_end.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert (first.lane, second.lane, caches.evictions) == (None, 0, 1)
