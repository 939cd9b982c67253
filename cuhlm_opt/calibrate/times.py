"""Compute times of a pair, as medians over warm repetitions: one SLM step, the gate, LLM passes over n tokens."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from cuhlm_opt.artefacts import Times
from cuhlm_opt.errors import RunError
from cuhlm_opt.gate import read_signal, read_steps
from cuhlm_opt.models.pairs import Pair
from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.signals import REGRESSORS, Signal

PASS_SIZES = (1, 2, 4, 8, 16)
BATCH_SIZES = (1, 2, 4, 8, 16)
NEARLY = 1.05


def measure_times(pair: Pair, prompt: list[int], repeats: int = 9) -> Times:
    """Measure on lane 0, after `prompt` as context.

    The gate is what a hybrid adds to an SLM step: the law, the draft, and the integral uncertainty of the argmax. The
    size k and the entries to send are left out, as they come up only where the device asks. A signal is what reading
    it adds to the law and the draft.

    Args:
        pair: both models.
        prompt: tokens of the context.
        repeats: passes of each size; the median is kept.
    """
    steps = _pass_s(pair.slm, prompt, 1, repeats)
    logits = pair.slm.extend({0: [prompt[-1]]}, last_only=True)[0][0]
    rng = np.random.default_rng(0)

    def gate() -> None:
        step = read_steps([logits])[0]
        step.draw(rng)
        step.u_bar(np.array([step.argmax]))

    def reading(signal: Signal) -> Callable[[], object]:
        step, weights = read_steps([logits])[0], (0.0,) * REGRESSORS
        return lambda: read_signal(signal, weights, step, step.argmax, rng)

    return Times(
        slm_s=steps,
        gate_s=_median_s(gate, repeats),
        llm_pass_s={n: _pass_s(pair.llm, prompt, n, repeats) for n in PASS_SIZES},
        signal_s={str(signal): _median_s(reading(signal), repeats) for signal in Signal},
    )


def fastest_batch(model: LanguageModel, prompt: list[int], repeats: int = 5) -> int:
    """Lanes to roll out side by side: the fewest whose time per token is within `NEARLY` of the best there is.

    Where the model fails at some number of lanes, as for want of memory, fewer are taken.

    Args:
        model: who rolls out; its lanes bound what is tried.
        prompt: tokens of the context.
        repeats: steps at each number of lanes; the median is kept.
    """
    seconds: dict[int, float] = {}

    def one_step(lanes: int) -> None:
        model.extend(dict.fromkeys(range(lanes), prompt[-1:]), last_only=True)
        for lane in range(lanes):
            model.truncate(lane, len(prompt) - 1)

    for lanes in (lanes for lanes in BATCH_SIZES if lanes <= model.lanes):
        try:
            for lane in range(lanes):
                model.truncate(lane, 0)
                if len(prompt) > 1:
                    model.extend({lane: prompt[:-1]}, last_only=True)
            seconds[lanes] = _median_s(partial(one_step, lanes), repeats) / lanes
        except RunError:
            if not seconds:
                raise
            break
    return fewest_nearly_best(seconds)


def fewest_nearly_best(seconds: Mapping[int, float]) -> int:
    """The smallest key whose value is within `NEARLY` of the least.

    >>> fewest_nearly_best({1: 2.0, 2: 1.06, 4: 1.03, 8: 1.0})
    4
    """
    return min(lanes for lanes, each in seconds.items() if each <= NEARLY * min(seconds.values()))


def _pass_s(model: LanguageModel, prompt: list[int], n: int, repeats: int) -> float:
    chunk = (prompt * n)[:n]

    def one_pass() -> None:
        model.extend({0: chunk}, last_only=True)
        model.truncate(0, len(prompt))

    model.truncate(0, 0)
    model.extend({0: prompt}, last_only=True)
    return _median_s(one_pass, repeats)


def _median_s(work: Callable[[], object], repeats: int) -> float:
    work()
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return float(np.median(durations))
