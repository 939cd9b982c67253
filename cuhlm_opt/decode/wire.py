"""What crosses the link for a draft, and what the server makes of it: the codecs of an operating point."""

from dataclasses import dataclass

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.codec import LawCodec, Message, coarse_codec
from cuhlm_opt.errors import CodecError
from cuhlm_opt.modes import Mode, PendingData
from cuhlm_opt.truncation import reconstruct
from cuhlm_opt.verification import CoarseProposal, Proposal, Query, Upload

EMPTY = Message(0, b"")
"""Of modes that send no law, and of `coarse` where nothing is skippable."""

_DOWN = (Mode.EXACT, Mode.SPECULATIVE)
"""Modes whose drafts are drawn from decoded masses."""
_KNOWN_SIZE = (Mode.CU_HLM_OFFLINE, Mode.EXACT, Mode.SPECULATIVE)
"""Modes with a k that both sides know."""


@dataclass(frozen=True, kw_only=True)
class Wire:
    """Codecs of an operating point over a vocabulary of `vocab_size`."""

    point: OperatingPoint
    vocab_size: int

    @property
    def is_coarse(self) -> bool:
        """Whether a message holds some entries of x, all other tokens lumped into one."""
        mode = self.point.mode
        return mode is Mode.COARSE or (mode is Mode.SPECULATIVE and self.point.pending_data is PendingData.COARSE)

    @property
    def codec(self) -> LawCodec:
        """The codec of laws, or of coarse messages; both sides know k but where it varies."""
        point, size = self.point, self.vocab_size
        if self.is_coarse:
            return coarse_codec(self.vocab_size, point.b_prob, point.quantiser)
        if point.mode in _KNOWN_SIZE:
            size = min(point.k or 0, size)
        return LawCodec(
            vocab_size=self.vocab_size,
            b_prob=point.b_prob,
            format=point.format,
            quantiser=point.quantiser,
            down=point.mode in _DOWN,
            size=None if point.mode is Mode.CU_HLM_ONLINE else size,
        )

    def read(self, draft: int | None, message: Message) -> Upload:
        """What the server verifies.

        Args:
            draft: the draft, where the server is told: None in modes `llm` and `query`, and in `coarse` in the lump.
            message: the rest.

        Raises:
            CodecError: the device does not write this in the mode of the point.
        """
        if draft is not None and not 0 <= draft < self.vocab_size:
            raise CodecError(f"draft {draft} is not within |V| = {self.vocab_size}")
        if self.point.mode in (Mode.LLM, Mode.QUERY):
            if draft is not None or message.bits:
                raise CodecError(f"mode {str(self.point.mode)!r} sends no draft and no message")
            return Query()
        ids, masses = self.codec.decode(message)
        if self.is_coarse:
            return CoarseProposal(kept=ids, masses=masses, draft=draft if draft in ids else None)
        if draft is None:
            raise CodecError(f"mode {str(self.point.mode)!r} sends a draft")
        return Proposal(draft=draft, law=reconstruct(ids, masses, self.vocab_size))
