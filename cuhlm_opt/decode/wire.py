"""What crosses the link for a draft, and what the server makes of it, by terms that both sides know."""

from dataclasses import dataclass
from typing import Self

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.codec import LawCodec, Message, coarse_codec
from cuhlm_opt.errors import CodecError, InputError
from cuhlm_opt.modes import Mode, PendingData
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.truncation import reconstruct
from cuhlm_opt.verification import CoarseProposal, Proposal, Query, Upload

EMPTY = Message(0, b"")
"""Of modes that send no law, and of `coarse` where nothing is skippable."""

_DOWN = (Mode.EXACT, Mode.SPECULATIVE)
"""Modes whose drafts are drawn from decoded masses."""
_KNOWN_SIZE = (Mode.CU_HLM_OFFLINE, Mode.EXACT, Mode.SPECULATIVE)
"""Modes with a k that both sides know."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The part of an operating point that device and server agree on before the first message.

    Raises:
        InputError: a number is out of range, or the mode has no codec with these.
    """

    vocab_size: int
    mode: Mode
    temperature: float
    top_p: float
    k: int | None
    b_prob: int
    quantiser: Quantiser
    format: Format
    pending_data: PendingData | None

    @classmethod
    def of(cls, point: OperatingPoint, vocab_size: int) -> Self:
        """The terms of `point` over a vocabulary of `vocab_size`."""
        return cls(
            vocab_size=vocab_size,
            mode=point.mode,
            temperature=point.temperature,
            top_p=point.top_p,
            k=point.k,
            b_prob=point.b_prob,
            quantiser=point.quantiser,
            format=point.format,
            pending_data=point.pending_data,
        )

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or 1e-30 <= self.temperature <= 1e30):  # logits are float32
            raise InputError(f"temperature {self.temperature!r} is not allowed; give 0 or a number from 1e-30 to 1e30")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p!r} is not allowed; give a number in (0, 1]")
        if self.mode in _KNOWN_SIZE and self.k is None and not self.is_coarse:
            raise InputError(f"mode {str(self.mode)!r} needs k, null in the operating point")
        if self.vocab_size < 1 or (self.k is not None and self.k < 0):
            raise InputError(f"vocab_size {self.vocab_size} and k {self.k} are not allowed")

    @property
    def is_coarse(self) -> bool:
        """Whether a message holds some entries of x, all other tokens lumped into one."""
        lumped = self.mode is Mode.SPECULATIVE and self.pending_data is PendingData.COARSE
        return self.mode is Mode.COARSE or lumped

    @property
    def codec(self) -> LawCodec:
        """The codec of laws, or of coarse messages; both sides know k but where it varies."""
        size = self.vocab_size
        if self.is_coarse:
            return coarse_codec(self.vocab_size, self.b_prob, self.quantiser)
        if self.mode in _KNOWN_SIZE:
            size = min(self.k or 0, size)
        return LawCodec(
            vocab_size=self.vocab_size,
            b_prob=self.b_prob,
            format=self.format,
            quantiser=self.quantiser,
            down=self.mode in _DOWN,
            size=None if self.mode is Mode.CU_HLM_ONLINE else size,
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
        if self.mode in (Mode.LLM, Mode.QUERY):
            if draft is not None or message.bits:
                raise CodecError(f"mode {str(self.mode)!r} sends no draft and no message")
            return Query()
        ids, masses = self.codec.decode(message)
        if self.is_coarse:
            return CoarseProposal(kept=ids, masses=masses, draft=draft if draft in ids else None)
        if draft is None:
            raise CodecError(f"mode {str(self.mode)!r} sends a draft")
        return Proposal(draft=draft, law=reconstruct(ids, masses, self.vocab_size))
