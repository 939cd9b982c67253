"""The decoding modes of THEORY.md, section 3, by the names users type."""

from enum import StrEnum
from typing import Self


class Mode(StrEnum):
    """Who drafts, what crosses the link, and who has the last word. [P] is published, [N] is not."""

    meaning: str
    """The mode in a line."""

    def __new__(cls, value: str, meaning: str = "") -> Self:
        """A member is its name; its meaning comes along."""
        member = str.__new__(cls, value)
        member._value_, member.meaning = value, meaning
        return member

    SLM = "slm", "SLM only; nothing crosses the link."
    LLM = "llm", "LLM only; the server streams the answer."
    QUERY = "query", "Skip or let the server draw from y; token ids only [N]."
    HLM = "hlm", "Upload all of x at every token, exact verification [P]."
    RANDOM = "random", "As u-hlm, skipping by a coin of the same rate: the control of every uncertainty signal."
    U_HLM = "u-hlm", "Upload all of x when u > u_th [P, arXiv 2412.12687]."
    CU_HLM_OFFLINE = (
        "cu-hlm-offline",
        "Upload the k largest entries of x when u > u_th, one k for all positions [P, arXiv 2505.11788].",
    )
    CU_HLM_ONLINE = "cu-hlm-online", "As cu-hlm-offline with a k for each position [P]."
    EXACT = "exact", "Truncate, then draw: drafts from x_hat, verified against the same x_hat [N]."
    """THEORY 4.7."""
    COARSE = "coarse", "Coarse verification: only the skippable entries cross the link [N]."
    """THEORY 5."""
    SPECULATIVE = "speculative", "Several drafts a round, all of them tested; back to the first that fails [N]."
    """THEORY 7."""

    @property
    def skips(self) -> bool:
        """Whether the mode keeps some drafts without asking."""
        return self not in (Mode.SLM, Mode.LLM, Mode.HLM, Mode.SPECULATIVE)

    @property
    def truncates(self) -> bool:
        """Whether the upload is a truncated law of k entries."""
        return self in (Mode.CU_HLM_OFFLINE, Mode.CU_HLM_ONLINE, Mode.EXACT, Mode.SPECULATIVE)


class Drafting(StrEnum):
    """When the device stops drafting and uploads what is pending [N, THEORY 7.1]."""

    FIXED = "fixed"
    """After a fixed number of drafts; no uncertainty is read."""
    TRIGGERED = "triggered"
    """At the first draft whose uncertainty is above the threshold, or when so many are pending."""


class Pending(StrEnum):
    """What becomes of the drafts that are pending when the device uploads [N, THEORY 7.1]."""

    ROLL_BACK = "roll-back"
    """All are tested, the one that stopped drafting included; the text goes back to the first that fails: exact."""
    KEEP = "keep"
    """Only the one that stopped drafting is tested: this is skipping, in the modes `exact` and `coarse`, and has their
    bias E[s beta]."""


class PendingData(StrEnum):
    """What the server is sent of each pending draft's law."""

    TRUNCATED = "truncated"
    """The k largest entries, the rest spread evenly; the draft is drawn from what is decoded [N, THEORY 4.7]."""
    COARSE = "coarse"
    """The k largest entries, the rest one lump [N, THEORY 5]: a draft in it is redrawn, and ends the round unless the
    redraw is the same token."""


class Distortion(StrEnum):
    """What the truncation size is chosen by."""

    BOUND = "bound"
    """TV(x, x_hat_k), proved [N, THEORY 4.4]; depends on x alone."""
    SURROGATE = "surrogate"
    """The published U [P2, THEORY 2.7]; not a bound."""
