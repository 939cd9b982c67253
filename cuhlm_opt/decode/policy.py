"""The device's side of one step: draw a draft, decide whether to ask, and if so write the upload and count its bits."""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.bounds import published_surrogate, smallest_within
from cuhlm_opt.codec import LawCodec, Message, lumped_law
from cuhlm_opt.decode.wire import EMPTY, Terms
from cuhlm_opt.distributions import Logits, sample, total_variation
from cuhlm_opt.errors import InputError, unknown_name
from cuhlm_opt.gate import Step, read_signal, read_steps
from cuhlm_opt.modes import Distortion, Drafting, Mode
from cuhlm_opt.signals import Signal
from cuhlm_opt.truncation import reconstruct, size_grid

_Value = TypeVar("_Value")

_WATCHED = 64
"""Skippable sets of up to this many tokens are watched for the expected risk."""

_NEEDS: dict[Mode, tuple[str, ...]] = {
    Mode.RANDOM: ("skip_rate",),
    Mode.CU_HLM_OFFLINE: ("k",),
    Mode.CU_HLM_ONLINE: ("distortion", "theta"),
    Mode.EXACT: ("k",),
    Mode.SPECULATIVE: ("k", "drafting", "pending_data"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Skippable:
    """Every token that the gate would keep at one position, and its probability under the draft law."""

    tokens: NDArray[np.intp]
    masses: NDArray[np.float64]


NOTHING = Skippable(tokens=np.empty(0, dtype=np.intp), masses=np.empty(0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """u_bar of the only tokens of a position that can be within the threshold."""

    tokens: NDArray[np.intp]
    u_bar: NDArray[np.float64]

    def skippable(self, masses: NDArray[np.float64], threshold: float) -> Skippable:
        """Those within the threshold that a law with these `masses` of `tokens` can draw."""
        kept = (self.u_bar <= threshold) & (masses > 0)
        return Skippable(tokens=self.tokens[kept], masses=masses[kept])

    def of(self, token: int) -> float | None:
        """u_bar of `token`, None if it is none of them."""
        own = self.u_bar[self.tokens == token]
        return float(own[0]) if len(own) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Draft:
    """A token drawn from x of `step`, or from `decoded`, what the server will decode.

    That is x_hat in mode `exact`, and in mode `coarse` the lumped law. `message` is what it was decoded from, with so
    many `entries`, and in mode `coarse` `reading` the gate's, which came before the draft.
    """

    token: int
    step: Step
    decoded: NDArray[np.float64] | None = None
    message: Message = EMPTY
    entries: int = 0
    reading: Reading | None = None

    @property
    def law(self) -> NDArray[np.float64]:
        """The law that the token was drawn from, shape (|V|,)."""
        return self.step.law if self.decoded is None else self.decoded

    def masses(self, tokens: NDArray[np.intp]) -> NDArray[np.float64]:
        """Probabilities of `tokens` under that law, without working out all of it."""
        return self.step.masses(tokens) if self.decoded is None else self.decoded[tokens]

    @property
    def probability(self) -> float:
        """Probability of the token under the law it was drawn from."""
        return float(self.masses(np.array([self.token]))[0])


@dataclass(frozen=True, kw_only=True)
class LawError:
    """How far what the server decodes is from x: the parts of a bound on the bias, TV in [0, 1]."""

    truncation: float
    quantisation: float


NO_ERROR = LawError(truncation=0.0, quantisation=0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """Keep the draft (`message` is None), or send `message`, which holds `entries` vocabulary entries.

    `told` is the draft, where the server is told. `u` is the signal of the draft, None where the decision did not need
    it. `skippable` is what the gate came to know of the whole skippable set.
    """

    message: Message | None
    told: int | None = None
    entries: int = 0
    u: float | None = None
    skippable: Skippable | None = None


class Device:
    """The device under one operating point.

    Args:
        point: mode, threshold, truncation and sampling settings. A threshold of None never skips.
        rng: the device's random stream: drafts, sampled uncertainty, the coin of `random`.

    Raises:
        InputError: the point lacks what its mode needs.
    """

    def __init__(self, point: OperatingPoint, rng: np.random.Generator) -> None:
        check_point(point)
        self._point, self._mode, self._rng = point, point.mode, rng
        self._threshold = point.u_threshold if point.mode.skips else None
        self.state: int | None = None
        """State of the channel at the present step, where thresholds follow it; drawn, as the link is modelled."""

    def draw(self, logits: Logits) -> Draft:
        """Draw a draft from x, or from what the server decodes in the modes that fix it before [N, THEORY 4.7, 5]."""
        if states := self._point.state_thresholds:
            self.state = int(self._rng.choice(len(states), p=[state.probability for state in states]))
            self._threshold = states[self.state].u_threshold
        step = read_steps([logits], self._point.temperature, self._point.top_p)[0]
        everything = self._threshold is not None and self._threshold >= 1  # kept, so that nothing is sent or decoded
        if self._mode is Mode.EXACT and not everything:
            k = min(_given(self._point.k), len(logits))
            message, law = self._codec(len(logits)).transmit(step.law, k)
            return Draft(token=sample(law, self._rng), step=step, decoded=law, message=message, entries=k)
        if self._mode is Mode.COARSE and self._threshold is not None and not everything:
            reading = _read_gate(step, self._threshold)
            kept = reading.skippable(step.masses(reading.tokens), self._threshold)
            codec = self._codec(len(logits))
            message = codec.encode(kept.tokens, kept.masses)
            law = lumped_law(step.law, *codec.decode(message))
            token, entries = sample(law, self._rng), len(kept.tokens)
            return Draft(token=token, step=step, decoded=law, message=message, entries=entries, reading=reading)
        return Draft(token=step.draw(self._rng), step=step)

    def decide(self, draft: Draft) -> Decision:
        """Decide whether to keep `draft` without asking, and write the upload if not."""
        if self._mode is Mode.SLM:
            return Decision(message=None)
        if self._mode is Mode.RANDOM:
            skip = self._rng.random() < _given(self._point.skip_rate)
            return Decision(message=None) if skip else self._ask(draft, None, None)
        threshold = self._threshold
        if threshold is None:
            return self._ask(draft, None, NOTHING)
        if threshold >= 1:
            return Decision(message=None)
        if self._point.signal != Signal.U_BAR:
            u = self._signal(draft)
            return Decision(message=None, u=u) if u <= threshold else self._ask(draft, u, None)
        if draft.token not in _candidates(draft.step, threshold) and self._mode is not Mode.COARSE:
            return self._ask(draft, None, None)  # whatever its u_bar, it lies above the threshold: not computed
        reading = draft.reading or _read_gate(draft.step, threshold)
        skippable, known = reading.skippable(draft.masses(reading.tokens), threshold), reading.of(draft.token)
        if draft.token in skippable.tokens:
            return Decision(message=None, u=known, skippable=skippable)
        return self._ask(draft, known, skippable)

    def watch(self, draft: Draft, decision: Decision) -> Skippable | None:
        """The whole skippable set at a position, for the expected risk; None where it is random or too large to carry.

        This is measurement, not method: what the gate did not need is computed here.
        """
        if decision.skippable is not None:
            return decision.skippable
        threshold = self._threshold
        if not self._mode.skips:
            return NOTHING
        if self._mode is Mode.RANDOM or threshold is None or (self._point.signal != Signal.U_BAR and threshold < 1):
            return None
        if _candidate_count(draft.step.vocab_size, threshold) > _WATCHED:
            return None
        reading = _read_gate(draft.step, threshold)
        return reading.skippable(draft.masses(reading.tokens), threshold)

    def law_error(self, draft: Draft) -> LawError | None:
        """What an upload of x at this position adds to the bias at most, whether or not one was sent: measurement too.

        Nothing where drafts are drawn from the decoded law, or where no law is sent; None where k depends on the draft,
        so that no bound is known.
        """
        if self._mode is Mode.CU_HLM_ONLINE and self._point.distortion is Distortion.SURROGATE:
            return None
        if self._mode in (Mode.CU_HLM_OFFLINE, Mode.CU_HLM_ONLINE):
            k = self._truncation_size(draft, None)[1]
        elif self._mode in (Mode.HLM, Mode.RANDOM, Mode.U_HLM):
            k = len(draft.law)
        else:
            return NO_ERROR
        kept = draft.step.largest(k)
        x_hat = reconstruct(kept, draft.law[kept], len(draft.law))
        _, decoded = self._codec(len(draft.law)).transmit(draft.law, k)
        return LawError(truncation=total_variation(draft.law, x_hat), quantisation=total_variation(x_hat, decoded))

    def _signal(self, draft: Draft) -> float:
        """The signal of a draft."""
        signal, weights = Signal(self._point.signal), self._point.signal_weights
        return read_signal(signal, weights, draft.step, draft.token, self._rng)

    def _ask(self, draft: Draft, u: float | None, skippable: Skippable | None) -> Decision:
        """Write the upload of a draft that is not kept."""
        message, told, entries = draft.message, None if self._mode is Mode.COARSE else draft.token, draft.entries
        if self._mode is Mode.QUERY:
            told = None
        elif self._mode not in (Mode.COARSE, Mode.EXACT):  # whose messages came before the draft
            entries = vocab_size = draft.step.vocab_size
            if self._mode in (Mode.CU_HLM_OFFLINE, Mode.CU_HLM_ONLINE):
                u, entries = self._truncation_size(draft, u)
            kept = draft.step.largest(entries) if entries < vocab_size else np.arange(vocab_size)
            message = self._codec(vocab_size).encode(kept, draft.masses(kept))
        return Decision(message=message, told=told, entries=entries, u=u, skippable=skippable)

    def _codec(self, vocab_size: int) -> LawCodec:
        return Terms.of(self._point, vocab_size).codec

    def _truncation_size(self, draft: Draft, u: float | None) -> tuple[float | None, int]:
        """(u, k): the fixed k, the smallest within the bound, or by the published surrogate, which reads the draft."""
        point, step, vocab_size = self._point, draft.step, draft.step.vocab_size
        if self._mode is Mode.CU_HLM_OFFLINE:
            return u, min(_given(point.k), vocab_size)
        theta = _given(point.theta)
        if point.distortion is Distortion.BOUND:
            return u, step.smallest_size(theta)
        u = self._signal(draft) if u is None else u
        beta = min(max(_given(point.slope) * u + _given(point.intercept), 0.0), 1.0)
        sizes = size_grid(vocab_size)
        _, tv = step.ranked.distances(sizes)
        return u, int(sizes[smallest_within(published_surrogate(tv, draft.probability, beta), theta)])


def check_point(point: OperatingPoint) -> None:
    """Refuse an operating point that lacks what its mode needs, or whose signal the gate does not have."""
    if point.signal not in list(Signal):
        raise unknown_name("signal", point.signal, list(Signal))
    if point.signal == Signal.COMBINED and not point.signal_weights:
        raise InputError("signal 'combined' needs signal_weights, empty in the operating point")
    if point.mode in (Mode.COARSE, Mode.EXACT) and point.signal != Signal.U_BAR:
        raise InputError(f"signal {point.signal!r} is not allowed in mode {str(point.mode)!r}; use u_bar")
    if point.mode is Mode.SPECULATIVE and point.draft_length < 1:
        raise InputError(f"draft_length {point.draft_length!r} is not allowed; give a whole number of at least 1")
    if point.drafting is Drafting.TRIGGERED and point.mode is Mode.SPECULATIVE and point.signal != Signal.U_BAR:
        raise InputError(f"signal {point.signal!r} is not allowed in triggered drafting; use u_bar")
    needs = _NEEDS.get(point.mode, ())
    if point.mode is Mode.CU_HLM_ONLINE and point.distortion is Distortion.SURROGATE:
        needs += ("slope", "intercept")
    missing = [name for name in needs if getattr(point, name) is None]
    if missing:
        raise InputError(f"mode {str(point.mode)!r} needs {', '.join(missing)}, null in the operating point")


def _candidate_count(vocab_size: int, threshold: float) -> int:
    """Most tokens that can have u_bar <= t: sum_v (1 - u_bar_v) = 1, so floor(1/(1 - t)) of them [N, THEORY 4.2]."""
    return vocab_size if threshold >= 1 else min(vocab_size, math.floor(1 / (1 - threshold) + 1e-9))


def _candidates(step: Step, threshold: float) -> NDArray[np.intp]:
    """The only tokens that can have u_bar <= t: those of the largest logits; for t < 1/2 the argmax alone."""
    return step.largest(_candidate_count(step.vocab_size, threshold))


def _read_gate(step: Step, threshold: float) -> Reading:
    """u_bar of the candidates, a function of the logits alone."""
    candidates = _candidates(step, threshold)
    return Reading(tokens=candidates, u_bar=step.u_bar(candidates))


def _given(value: _Value | None) -> _Value:
    assert value is not None  # check_point has refused the others
    return value
