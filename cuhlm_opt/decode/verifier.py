"""The server's side of one step: the LLM with its key-value cache, catching up on skipped tokens.

Between two uploads the server has not read the token that it gave last (at first: the prompt's last token) and the
tokens skipped since. One pass over them gives the law y behind each, so that the risk of every skip is known at no
extra pass [N, THEORY 6.6].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.bounds import query_bias, skip_risk
from cuhlm_opt.codec import Message
from cuhlm_opt.decode.policy import Skippable
from cuhlm_opt.decode.timing import Stopwatch
from cuhlm_opt.decode.wire import Terms
from cuhlm_opt.distributions import Logits, rejection_probability, softmax
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.modes import Mode
from cuhlm_opt.verification import Round


@dataclass(frozen=True, kw_only=True, eq=False)
class Skipped:
    """A token that the device kept without asking: its probability when drawn, and the skippable set it came from.

    A server that was not told them learns nothing of the risk.
    """

    token: int
    probability: float | None
    skippable: Skippable | None


@dataclass(frozen=True, kw_only=True)
class Risk:
    """What skipping risked at one position.

    `beta` is the rejection probability of the skipped draft, None at an upload. `expected` is its mean over drafts,
    sum_v s_v (x_v - y_v)+ (for `query`, whose bias is larger, that bias); None where the skippable set is not known.
    """

    beta: float | None
    expected: float | None


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """The server's answer to one upload: the token, whether the proposal stood, and what it learned of the skips.

    `risks` holds the skipped positions in order, then the uploaded one. `read` is the number of tokens the LLM read.
    """

    token: int
    accepted: bool
    risks: tuple[Risk, ...]
    read: int


class UnreachableError(RunError):
    """No server answers, within the time that was given to it."""


class Server(Protocol):
    """Whom the device asks, in this process or at the other end of a link; one answer at a time.

    Each method may raise RunError, and UnreachableError where there is a link.
    """

    @property
    def eos_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""

    @property
    def context_length(self) -> int:
        """Largest number of tokens of prompt and answer, but for the last."""

    def chat_tokens(self, prompt: str) -> list[int]:
        """Token ids of `prompt` as one user turn, which `prefill` is given next."""

    def prefill(self, prompt: Sequence[int], most: int) -> None:
        """Read the prompt but for its last token. At most `most` tokens will be asked for."""

    def verify(
        self, skipped: Sequence[Skipped], told: int | None, message: Message, skippable: Skippable | None
    ) -> "Ruling":
        """Catch up on tokens that were skipped since the last upload, and rule on the next."""

    def verify_round(self, drafts: Sequence[tuple[int, Message]], *, ended: bool) -> tuple[tuple[int, ...], int]:
        """Test all drafts of a round, the last of which may have ended the answer: (tokens put out, tokens read)."""

    def flush(self, skipped: Sequence[Skipped]) -> tuple[tuple[Risk, ...], int]:
        """Risks of the tokens skipped after the last upload, and the number of tokens read to learn them."""


class Verifier:
    """Answers uploads with the LLM on lane 0; implements `Server`. Every token is read once, in one pass per upload.

    Args:
        llm: the large model; lane 0 is cleared by `prefill`.
        terms: what the uploads are read with.
        rng: the server's random stream: acceptance and redraws.
        stopwatch: where the time of passes, and of what only measures, is added up.
    """

    def __init__(self, llm: LanguageModel, terms: Terms, rng: np.random.Generator, stopwatch: Stopwatch) -> None:
        self._llm, self._terms, self._rng, self._stopwatch = llm, terms, rng, stopwatch
        self._unread: list[int] = []

    @property
    def eos_tokens(self) -> frozenset[int]:
        """Of the LLM."""
        return self._llm.eos_tokens

    @property
    def context_length(self) -> int:
        """Of the LLM."""
        return self._llm.context_length

    def chat_tokens(self, prompt: str) -> list[int]:
        """Token ids of `prompt` in the LLM's chat template."""
        return self._llm.chat_tokens(prompt)

    def prefill(self, prompt: Sequence[int], most: int) -> None:
        """Read the prompt but for its last token, which the first upload's pass reads."""
        if len(prompt) > self.context_length:
            raise InputError(f"prompt has {len(prompt)} tokens; at most {self.context_length} fit the context")
        self._llm.truncate(0, 0)
        if len(prompt) > 1:
            with self._stopwatch("prefill_llm"):
                self._llm.extend({0: prompt[:-1]}, last_only=True)
        self._unread = [prompt[-1]]

    def verify(
        self, skipped: Sequence[Skipped], told: int | None, message: Message, skippable: Skippable | None
    ) -> Ruling:
        """Catch up on `skipped` in one pass and rule on what the device proposes.

        Args:
            skipped: tokens kept since the last upload, in order.
            told: the draft for the next position, where the server is told.
            message: what to verify it with.
            skippable: tokens that would have been skipped there, for the expected risk.

        Raises:
            CodecError: no device writes this under these terms.
        """
        upload = self._terms.read(told, message)
        chunk = [*self._unread, *(skip.token for skip in skipped)]
        with self._stopwatch("llm"):
            rows = self._llm.extend({0: chunk})[0]
            y = self._law(rows[-1])
            token, accepted = upload.verify(y).sample(self._rng)
        self._unread = [token]
        with self._stopwatch("audit"):
            risks = (*self._risks(skipped, rows), Risk(beta=None, expected=self._expected(skippable, y)))
        return Ruling(token=token, accepted=accepted, risks=risks, read=len(chunk))

    def verify_round(self, drafts: Sequence[tuple[int, Message]], *, ended: bool) -> tuple[tuple[int, ...], int]:
        """Test all drafts of a round in one pass, and forget those behind the first that fails.

        Args:
            drafts: the drafts, with what to verify each.
            ended: whether the last draft ends the answer: it is tested, but nothing is drawn behind it.

        Returns:
            (the tokens that the round puts out, the number of tokens read).

        Raises:
            CodecError: as `verify`.
        """
        uploads = tuple(self._terms.read(token, message) for token, message in drafts)
        drafted = Round(drafts=tuple(token for token, _ in drafts), uploads=uploads)
        chunk = [*self._unread, *(drafted.drafts[:-1] if ended else drafted.drafts)]
        behind = len(self._unread) - 1
        with self._stopwatch("llm"):
            rows = self._llm.extend({0: chunk})[0][behind:]
            tokens = drafted.sample(map(self._law, rows), self._rng)
            surplus = len(rows) - len(tokens)
            if surplus > 0:
                self._llm.truncate(0, self._llm.length(0) - surplus)
        self._unread = [tokens[-1]]
        return tokens, len(chunk)

    def flush(self, skipped: Sequence[Skipped]) -> tuple[tuple[Risk, ...], int]:
        """Risks of the tokens skipped after the last upload, and the number of tokens read to learn them.

        The last skipped token itself is not read: nothing follows it.
        """
        if not skipped:
            return (), 0
        chunk = [*self._unread, *(skip.token for skip in skipped[:-1])]
        with self._stopwatch("flush"):
            risks = self._risks(skipped, self._llm.extend({0: chunk})[0])
        self._unread = [skipped[-1].token]
        return risks, len(chunk)

    def _law(self, logits: Logits) -> NDArray[np.float64]:
        return softmax(logits, self._terms.temperature, self._terms.top_p)

    def _risks(self, skipped: Sequence[Skipped], rows: Sequence[Logits]) -> tuple[Risk, ...]:
        """Row i is the law of the i-th skipped token: it stands behind the token before it."""
        risks = []
        for skip, row in zip(skipped, rows, strict=False):
            y = self._law(row)
            known = skip.probability
            beta = None if known is None else float(rejection_probability(known, y[skip.token]))
            risks.append(Risk(beta=beta, expected=self._expected(skip.skippable, y)))
        return tuple(risks)

    def _expected(self, skippable: Skippable | None, y: NDArray[np.float64]) -> float | None:
        if skippable is None:
            return None
        masses, own = skippable.masses, y[skippable.tokens]
        every = np.ones_like(masses)
        if self._terms.mode is not Mode.QUERY:
            return skip_risk(masses, own, every)
        # The tokens outside the set have s = 0: together they are one more symbol of the sum.
        return query_bias(np.append(masses, 0.0), np.append(own, max(0.0, 1.0 - own.sum())), np.append(every, 0.0))
