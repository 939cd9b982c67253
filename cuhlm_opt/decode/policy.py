"""The device's side of one step: draw a draft, decide whether to ask, and if so write the upload and count its bits."""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.bounds import published_surrogate, smallest_within
from cuhlm_opt.distributions import sample, softmax
from cuhlm_opt.errors import InputError, unknown_name
from cuhlm_opt.modes import Distortion, Mode
from cuhlm_opt.payload import coarse_bits, full_law_bits, published_bits
from cuhlm_opt.truncation import largest, reconstruct, size_grid, smallest_size, truncation_distances
from cuhlm_opt.uncertainty import mean_uncertainty, sampled_uncertainty
from cuhlm_opt.verification import CoarseProposal, Proposal, Query, Upload

U_BAR, U_MC = "u_bar", "u_mc"
"""Signals that the gate reads: the integral [N], a function of the logits and the draft, and the sampled one [P]."""

_Value = TypeVar("_Value")

_WATCHED = 64
"""Skippable sets of up to this many tokens are watched for the expected risk."""

_NEEDS: dict[Mode, tuple[str, ...]] = {
    Mode.RANDOM: ("skip_rate",),
    Mode.CU_HLM_OFFLINE: ("k",),
    Mode.CU_HLM_ONLINE: ("distortion", "theta"),
    Mode.EXACT: ("k",),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Skippable:
    """Every token that the gate would keep at one position, and its probability under the draft law."""

    tokens: NDArray[np.intp]
    masses: NDArray[np.float64]


NOTHING = Skippable(tokens=np.empty(0, dtype=np.intp), masses=np.empty(0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Draft:
    """A token drawn from `law`: x, or x_hat in mode `exact`, with the SLM logits that it comes from."""

    token: int
    law: NDArray[np.float64]
    logits: NDArray[np.float32]

    @property
    def probability(self) -> float:
        """Probability of the token under the law it was drawn from."""
        return float(self.law[self.token])


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """Keep the draft (`upload` is None), or send `upload`, which holds `entries` vocabulary entries in `payload_bits`.

    `u` is the signal of the draft, None where the decision did not need it. `skippable` is what the gate came to know
    of the whole skippable set.
    """

    upload: Upload | None
    entries: int = 0
    payload_bits: float = 0.0
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

    def draw(self, logits: NDArray[np.float32]) -> Draft:
        """Draw a draft from x; in mode `exact` from x_hat, which is fixed before the draft is drawn [N, THEORY 4.7]."""
        law = softmax(logits, self._point.temperature, self._point.top_p)
        if self._mode is Mode.EXACT:
            law = _truncated(law, _given(self._point.k))
        return Draft(token=sample(law, self._rng), law=law, logits=logits)

    def decide(self, draft: Draft) -> Decision:
        """Decide whether to keep `draft` without asking, and write the upload if not."""
        if self._mode is Mode.SLM:
            return Decision(upload=None)
        if self._mode is Mode.RANDOM:
            skip = self._rng.random() < _given(self._point.skip_rate)
            return Decision(upload=None) if skip else self._ask(draft, None, None)
        threshold = self._threshold
        if threshold is None:
            return self._ask(draft, None, NOTHING)
        if threshold >= 1:
            return Decision(upload=None)
        if self._point.signal == U_MC:
            u = sampled_uncertainty(draft.logits, draft.token, self._rng)
            return Decision(upload=None, u=u) if u <= threshold else self._ask(draft, u, None)
        if draft.token not in _candidates(draft.logits, threshold) and self._mode is not Mode.COARSE:
            return self._ask(draft, None, None)  # whatever its u_bar, it lies above the threshold: not computed
        skippable, known = _read_gate(draft, threshold)
        if draft.token in skippable.tokens:
            return Decision(upload=None, u=known, skippable=skippable)
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
        if self._mode is Mode.RANDOM or threshold is None or (self._point.signal == U_MC and threshold < 1):
            return None
        if _candidate_count(len(draft.law), threshold) > _WATCHED:
            return None
        return _read_gate(draft, threshold)[0]

    def _ask(self, draft: Draft, u: float | None, skippable: Skippable | None) -> Decision:
        """Write the upload of a draft that is not kept."""
        point, vocab_size = self._point, len(draft.law)
        upload: Upload
        match self._mode:
            case Mode.QUERY:
                upload, entries, bits = Query(), 0, 0.0
            case Mode.COARSE:
                assert skippable is not None
                kept = skippable.tokens
                upload = CoarseProposal(kept=kept, masses=skippable.masses, draft=None)
                entries, bits = len(kept), coarse_bits(len(kept), vocab_size, point.b_prob)
            case Mode.EXACT:
                upload = Proposal(draft=draft.token, tested=draft.probability, law=draft.law)
                entries = min(_given(point.k), vocab_size)
                bits = published_bits(entries, vocab_size, point.b_prob)
            case Mode.CU_HLM_OFFLINE | Mode.CU_HLM_ONLINE:
                u, entries = self._truncation_size(draft, u)
                law = _truncated(draft.law, entries)
                upload = Proposal(draft=draft.token, tested=draft.probability, law=law)
                bits = published_bits(entries, vocab_size, point.b_prob)
            case _:
                upload = Proposal(draft=draft.token, tested=draft.probability, law=draft.law)
                entries, bits = vocab_size, full_law_bits(vocab_size, point.b_prob, point.format)
        return Decision(upload=upload, entries=entries, payload_bits=bits, u=u, skippable=skippable)

    def _truncation_size(self, draft: Draft, u: float | None) -> tuple[float | None, int]:
        """(u, k): the fixed k, the smallest within the bound, or by the published surrogate, which reads the draft."""
        point, vocab_size = self._point, len(draft.law)
        if self._mode is Mode.CU_HLM_OFFLINE:
            return u, min(_given(point.k), vocab_size)
        theta = _given(point.theta)
        if point.distortion is Distortion.BOUND:
            return u, smallest_size(draft.law, theta)
        if u is None and point.signal == U_BAR:
            u = float(mean_uncertainty(draft.logits, np.array([draft.token]))[0])
        elif u is None:
            u = sampled_uncertainty(draft.logits, draft.token, self._rng)
        beta = min(max(_given(point.slope) * u + _given(point.intercept), 0.0), 1.0)
        sizes = size_grid(vocab_size)
        _, tv = truncation_distances(np.sort(draft.law)[::-1], sizes)
        return u, int(sizes[smallest_within(published_surrogate(tv, draft.probability, beta), theta)])


def check_point(point: OperatingPoint) -> None:
    """Refuse an operating point that lacks what its mode needs, or whose signal the gate does not have."""
    if point.signal not in (U_BAR, U_MC):
        raise unknown_name("signal", point.signal, (U_BAR, U_MC))
    if point.mode is Mode.COARSE and point.signal != U_BAR:
        raise InputError(f"signal {point.signal!r} is not allowed in mode 'coarse'; use u_bar, a function of x and d")
    needs = _NEEDS.get(point.mode, ())
    if point.mode is Mode.CU_HLM_ONLINE and point.distortion is Distortion.SURROGATE:
        needs += ("slope", "intercept")
    missing = [name for name in needs if getattr(point, name) is None]
    if missing:
        raise InputError(f"mode {str(point.mode)!r} needs {', '.join(missing)}, null in the operating point")


def _candidate_count(vocab_size: int, threshold: float) -> int:
    """Most tokens that can have u_bar <= t: sum_v (1 - u_bar_v) = 1, so floor(1/(1 - t)) of them [N, THEORY 4.2]."""
    return vocab_size if threshold >= 1 else min(vocab_size, math.floor(1 / (1 - threshold) + 1e-9))


def _candidates(logits: NDArray[np.float32], threshold: float) -> NDArray[np.intp]:
    """The only tokens that can have u_bar <= t: those of the largest logits; for t < 1/2 the argmax alone."""
    count = _candidate_count(len(logits), threshold)
    return np.array([np.argmax(logits)]) if count == 1 else largest(logits, count)


def _read_gate(draft: Draft, threshold: float) -> tuple[Skippable, float | None]:
    """The skippable set, a function of the logits alone, and u_bar of the draft where it is a candidate."""
    candidates = _candidates(draft.logits, threshold)
    u_bar = mean_uncertainty(draft.logits, candidates)
    kept = candidates[(u_bar <= threshold) & (draft.law[candidates] > 0)]
    own = u_bar[candidates == draft.token]
    return Skippable(tokens=kept, masses=draft.law[kept]), float(own[0]) if len(own) else None


def _truncated(law: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    kept = largest(law, k)
    return reconstruct(kept, law[kept], len(law))


def _given(value: _Value | None) -> _Value:
    assert value is not None  # check_point has refused the others
    return value
