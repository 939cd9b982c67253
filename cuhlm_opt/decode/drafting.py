"""The device's side of a round of several drafts: draw one after the other, and write what verifies each [N, THEORY 7].

Every draft is drawn from what the server will decode, so that testing all of them is exact, however few the bits.
"""

from dataclasses import dataclass

import numpy as np

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.codec import Message, lumped_law
from cuhlm_opt.decode.wire import Terms
from cuhlm_opt.distributions import Logits, sample
from cuhlm_opt.gate import Step, read_steps
from cuhlm_opt.modes import Drafting


@dataclass(frozen=True, kw_only=True, eq=False)
class PendingDraft:
    """A draft that waits to be tested, with its part of the message, which holds `entries` of its law.

    `stops` says that the device drafts no further behind it; `u` is its uncertainty where that was read.
    """

    token: int
    message: Message
    entries: int
    u: float | None
    stops: bool


class Drafter:
    """Draws the drafts of a round.

    Args:
        point: an operating point of mode `speculative`, as `policy.check_point` passes it.
        rng: the device's random stream.
    """

    def __init__(self, point: OperatingPoint, rng: np.random.Generator) -> None:
        self._point, self._rng = point, rng
        self.most = point.draft_length

    def draw(self, logits: Logits) -> PendingDraft:
        """Draw the next draft from logits of shape (|V|,)."""
        point = self._point
        step = read_steps([logits], point.temperature, point.top_p)[0]
        x, vocab_size, k = step.law, len(logits), point.k or 0
        terms = Terms.of(point, vocab_size)
        codec = terms.codec
        if terms.is_coarse:
            kept = step.largest(min(k, vocab_size - 1))  # one token at least makes the lump
            message = codec.encode(kept, x[kept])
            kept, masses = codec.decode(message)
            token = sample(lumped_law(x, kept, masses), self._rng)
        else:
            k = min(k, vocab_size)
            message, law = codec.transmit(x, k)
            token = sample(law, self._rng)
        u, stops = self._reads(step, token)
        return PendingDraft(token=token, message=message, entries=k, u=u, stops=stops)

    def _reads(self, step: Step, token: int) -> tuple[float | None, bool]:
        """Uncertainty of a draft, and whether it stops drafting; a threshold of None lets every draft stop it."""
        if self._point.drafting is Drafting.FIXED:
            return None, False
        threshold = self._point.u_threshold
        if threshold is None:
            return None, True
        u = float(step.u_bar(np.array([token]))[0])
        return u, u > threshold
