"""Answers side by side: those of one after another, from passes that are shared; errors and ends that leave no thread.

Threads that begin together are held at a barrier, so that which passes there are does not depend on the machine.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cuhlm_opt.decode.default_point import tiny_operating_point
from cuhlm_opt.decode.loop import decode
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.models import batching
from cuhlm_opt.models.batching import Batching, side_by_side
from cuhlm_opt.models.pairs import Pair, load_pair
from cuhlm_opt.models.tiny import Role, TinyModel
from cuhlm_opt.modes import Mode

LANES = 4
PATIENCE_S = 60.0
POINTS = {mode: tiny_operating_point(load_pair("tiny"), mode) for mode in Mode}

Answer = tuple[Mode, str, int, int]
"""Mode, prompt, seed and most tokens."""


class Counted(TinyModel):
    """Writes down which lanes each pass reads."""

    def __init__(self, role: Role, lanes: int = LANES) -> None:
        super().__init__(role, lanes=lanes)
        self.passes: list[set[int]] = []

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, NDArray[np.float32]]:
        self.passes.append(set(chunks))
        return super().extend(chunks, last_only=last_only)


def counted_pair(lanes: int = LANES) -> tuple[Pair, Counted, Counted]:
    slm, llm = Counted(Role.SLM, lanes), Counted(Role.LLM, lanes)
    return Pair(name="tiny", slm=slm, llm=llm), slm, llm


class Watch:
    """Calls what may never come back: after a minute the test fails, and the threads that still wait are sent home."""

    def __init__(self) -> None:
        self.made: list[Batching] = []

    def batching(self) -> Batching:
        self.made.append(Batching())
        return self.made[-1]

    def __call__(self, call: Callable[[], Any]) -> Any:
        outcome: list[tuple[Any, BaseException | None]] = []

        def run() -> None:
            try:
                outcome.append((call(), None))
            except BaseException as error:
                outcome.append((None, error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        if not outcome:
            for each in self.made:
                each._stopped = True  # also where one holds the lock and never waits
                each.stop()
            pytest.fail(f"not done after {PATIENCE_S:g} s")
        result, error = outcome[0]
        if error is not None:
            raise error
        return result


@pytest.fixture(scope="module")
def watched() -> Iterator[Watch]:
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "Batching", watch.batching)
        yield watch


def answer(pair: Pair, what: Answer) -> dict[str, Any]:
    mode, prompt, seed, max_tokens = what
    figures = decode(pair, POINTS[mode], prompt, seed=seed, max_tokens=max_tokens).to_json()
    del figures["timing"]
    return figures


def together(pair: Pair, work: Callable[[Pair, Any], Any], items: Sequence[Any]) -> dict[int, Any]:
    """Results of items that all begin together, which is as many as there are lanes."""
    begin = threading.Barrier(len(items), timeout=PATIENCE_S)

    def held(own: Pair, item: Any) -> Any:
        begin.wait()
        return work(own, item)

    return dict(side_by_side(pair, held, items))


@pytest.mark.parametrize("lanes", [1, LANES, 60])
def test_answers_are_those_of_one_after_another(watched: Watch, lanes: int) -> None:
    asked = [(mode, prompt, seed, 40) for seed, prompt in enumerate(["abc", "e"]) for mode in Mode]
    found = watched(lambda: list(side_by_side(load_pair("tiny", lanes=lanes), answer, asked)))
    assert sorted(index for index, _ in found) == list(range(len(asked))), "each once"
    single = load_pair("tiny")
    assert [figures for _, figures in sorted(found)] == [answer(single, each) for each in asked]


@settings(max_examples=20)
@given(
    asked=st.lists(
        st.tuples(
            st.sampled_from(Mode), st.text("abcde", min_size=1, max_size=5), st.integers(0, 99), st.integers(1, 30)
        ),
        max_size=9,
    ),
    lanes=st.integers(1, 5),
)
def test_any_answers_are_those_of_one_after_another(watched: Watch, asked: list[Answer], lanes: int) -> None:
    found = watched(lambda: dict(side_by_side(load_pair("tiny", lanes=lanes), answer, asked)))
    single = load_pair("tiny")
    assert found == {index: answer(single, each) for index, each in enumerate(asked)}


def test_a_pair_can_answer_again_side_by_side(watched: Watch) -> None:
    """Lanes hold what the last answers left in them."""
    pair = load_pair("tiny", lanes=LANES)
    asked = [(mode, "abc", 5, 20) for mode in Mode]
    first, again = (watched(lambda: dict(side_by_side(pair, answer, asked))) for _ in range(2))
    assert first == again


def test_no_items_are_no_work(watched: Watch) -> None:
    assert watched(lambda: list(side_by_side(load_pair("tiny", lanes=2), answer, []))) == []


def test_one_lane_answers_in_order(watched: Watch) -> None:
    pair = Pair(name="tiny", slm=TinyModel(Role.SLM, lanes=1), llm=TinyModel(Role.LLM, lanes=3))
    begun = []
    found = watched(lambda: list(side_by_side(pair, lambda own, item: begun.append(item), "abcdef")))
    assert begun == list("abcdef")
    assert [index for index, _ in found] == list(range(6))


def test_no_two_at_once_have_the_same_lane(watched: Watch) -> None:
    pair, slm, _ = counted_pair()
    given_lanes: list[int] = watched(
        lambda: [*together(pair, lambda own, _: (own.slm.lane, own.llm.lane), range(LANES)).values()]
    )
    assert sorted(given_lanes) == [(lane, lane) for lane in range(LANES)]
    assert slm.passes == []


def passes(own: Pair, n: int) -> None:
    """Read n tokens with the LLM, one a pass."""
    for token in range(n):
        own.llm.extend({0: [token % 5]}, last_only=True)


@given(lengths=st.lists(st.integers(0, 12), min_size=LANES, max_size=LANES))
def test_every_pass_has_all_who_wait(watched: Watch, lengths: list[int]) -> None:
    """Pass k has those whose answer is that long, and waits for nobody who is done."""
    pair, slm, llm = counted_pair()
    watched(lambda: together(pair, passes, lengths))
    assert [len(lanes) for lanes in llm.passes] == [sum(n >= k for n in lengths) for k in range(1, max(lengths) + 1)]
    assert slm.passes == []


@pytest.mark.parametrize("mode", list(Mode))
def test_answers_share_passes(watched: Watch, mode: Mode) -> None:
    """As few as the longest answer alone would take, where only one model is read; else fewer than there are reads."""
    asked = [(mode, "abc", seed, 40) for seed in range(LANES)]
    alone = []
    for each in asked:
        single, *models = counted_pair(lanes=1)
        answer(single, each)
        alone.append([len(model.passes) for model in models])
    pair, *models = counted_pair()
    watched(lambda: together(pair, answer, asked))
    for model, reads in zip(models, zip(*alone, strict=True), strict=True):
        assert sum(map(len, model.passes)) == sum(reads)
        assert len(model.passes) >= max(reads)
        if mode in (Mode.SLM, Mode.LLM):
            assert len(model.passes) == max(reads)
    reads_of_all, passes_of_all = np.sum(alone), sum(len(model.passes) for model in models)
    print("RATIO", mode, passes_of_all / reads_of_all, reads_of_all)
    assert passes_of_all < 0.5 * reads_of_all


def test_passes_of_two_models_and_of_two_kinds_are_apart(watched: Watch) -> None:
    """All wait; the model and the kind of rows that most wait for come first."""
    kinds: list[tuple[str, int, bool]] = []

    class Kinds(TinyModel):
        def extend(
            self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False
        ) -> dict[int, NDArray[np.float32]]:
            kinds.append((str(self.provenance()["role"]), len(chunks), last_only))
            return super().extend(chunks, last_only=last_only)

    def once(own: Pair, what: tuple[str, bool]) -> tuple[int, ...]:
        role, last_only = what
        return getattr(own, role).extend({0: [1, 2]}, last_only=last_only)[0].shape

    pair = Pair(name="tiny", slm=Kinds(Role.SLM, lanes=6), llm=Kinds(Role.LLM, lanes=6))
    asked = [("slm", True), ("llm", True), ("llm", False), ("llm", True), ("llm", False), ("llm", True)]
    shapes = watched(lambda: together(pair, once, asked))
    assert kinds == [("llm", 3, True), ("llm", 2, False), ("slm", 1, True)]
    assert shapes == {index: (1 if last_only else 2, 6) for index, (_, last_only) in enumerate(asked)}


@pytest.mark.parametrize("wrong", range(LANES))
def test_an_error_of_one_is_its_own_and_the_others_are_read_alone(watched: Watch, wrong: int) -> None:
    pair, _, llm = counted_pair()
    rows: dict[int, NDArray[np.float32]] = {}

    def work(own: Pair, item: int) -> None:
        rows[item] = own.llm.extend({0: [0, 99 if item == wrong else item]})[0]

    with pytest.raises(InputError, match="token 99 is outside the vocabulary"):
        watched(lambda: together(pair, work, range(LANES)))
    assert llm.passes[0] == set(range(LANES))
    assert sorted(map(sorted, llm.passes[1:])) == [[lane] for lane in range(LANES)]
    assert rows.keys() == set(range(LANES)) - {wrong}
    for item, own in rows.items():
        np.testing.assert_array_equal(own, TinyModel(Role.LLM).extend({0: [0, item]})[0])


def test_who_catches_its_error_goes_on(watched: Watch) -> None:
    """And so do the others, with answers as before."""

    def work(own: Pair, item: int) -> dict[str, Any]:
        if item == 1:
            with pytest.raises(InputError, match="token 99"):
                own.slm.extend({0: [99]})
        return answer(own, (Mode.U_HLM, "abc", item, 30))

    found = watched(lambda: together(load_pair("tiny", lanes=LANES), work, range(LANES)))
    single = load_pair("tiny")
    assert found == {item: answer(single, (Mode.U_HLM, "abc", item, 30)) for item in range(LANES)}


def test_a_batch_that_fails_as_such_is_read_one_by_one(watched: Watch) -> None:
    """As where the memory does not do for all at once."""

    class Small(TinyModel):
        def extend(
            self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False
        ) -> dict[int, NDArray[np.float32]]:
            if len(chunks) > 1:
                raise RunError("no memory")
            return super().extend(chunks, last_only=last_only)

    pair = Pair(name="tiny", slm=Small(Role.SLM, lanes=LANES), llm=Small(Role.LLM, lanes=LANES))
    asked = [(mode, "abc", 1, 20) for mode in (Mode.EXACT, Mode.SPECULATIVE, Mode.LLM, Mode.HLM)]
    found = watched(lambda: together(pair, answer, asked))
    single = load_pair("tiny")
    assert found == {index: answer(single, each) for index, each in enumerate(asked)}


def endless(own: Pair, item: int) -> int:
    """The first one ends, the others do not."""
    while item:
        own.llm.extend({0: [1]}, last_only=True)
        own.llm.truncate(0, 0)
    return item


def test_stopping_early_ends_every_thread(watched: Watch) -> None:
    pair, begun = load_pair("tiny", lanes=LANES), []

    def work(own: Pair, item: int) -> int:
        begun.append(item)
        return endless(own, item)

    def first_only() -> tuple[int, int]:
        before = threading.active_count()
        running = side_by_side(pair, work, range(50))
        assert next(running) == (0, 0)
        assert threading.active_count() > before
        running.close()
        return before, threading.active_count()

    before, after = watched(first_only)
    assert before == after
    assert set(begun) <= set(range(LANES + 1)), "one lane became free"


@pytest.mark.parametrize("error", [ValueError("mine"), InputError("wrong"), RunError("failed")])
def test_an_error_ends_every_thread_and_reaches_the_caller(watched: Watch, error: Exception) -> None:
    def work(own: Pair, item: int) -> int:
        if item == 0:
            raise error
        return endless(own, item)

    def counts() -> tuple[int, int]:
        before = threading.active_count()
        with pytest.raises(type(error), match=str(error)):
            list(side_by_side(load_pair("tiny", lanes=LANES), work, range(50)))
        return before, threading.active_count()

    before, after = watched(counts)
    assert before == after


def test_what_is_not_asked_for_is_not_begun(watched: Watch) -> None:
    begun: list[int] = []
    before = threading.active_count()
    side_by_side(load_pair("tiny"), lambda own, item: begun.append(item), range(3)).close()
    assert (begun, threading.active_count()) == ([], before)


def test_after_a_stop_every_pass_is_an_error() -> None:
    meeting, model = Batching(), TinyModel(Role.LLM, lanes=2)
    lane = meeting.lane(model, 1)
    with meeting.working():
        assert lane.extend({0: [1]})[0].shape == (1, 6)
        meeting.stop()
        with pytest.raises(RunError, match="stopped"):
            lane.extend({0: [1]})
    assert (model.length(0), model.length(1)) == (0, 1)


def test_a_lane_is_the_model_with_that_lane_only() -> None:
    meeting, model = Batching(), TinyModel(Role.SLM, lanes=3)
    lane = meeting.lane(model, 2)
    assert lane.lanes == 1
    for name in ("vocab_size", "context_length", "eos_tokens"):
        assert getattr(lane, name) == getattr(model, name)
    assert lane.provenance() == model.provenance()
    assert (lane.tokenize("abc"), lane.chat_tokens("abc")) == (model.tokenize("abc"), model.chat_tokens("abc"))
    assert lane.detokenize([0, 1]) == b"ab"
    with meeting.working():
        assert lane.extend({}) == {}
        lane.extend({0: [1, 2, 3]})
    lane.truncate(0, 2)
    assert lane.length(0) == model.length(2) == 2
    assert model.length(0) == model.length(1) == 0
    lane.close()
    assert model.length(2) == 2
