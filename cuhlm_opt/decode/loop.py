"""Decode one prompt at an operating point, with both models in one process, or with a server at the end of a link.

Each model reads a token once. The SLM reads the last token at every step; the LLM reads at an upload what came since
the last one. No token is read before it is certain, so nothing is taken back from a cache; but for mode `speculative`,
where both read drafts, and forget those behind the first that fails.
"""

import codecs
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.decode.drafting import Drafter, PendingDraft
from cuhlm_opt.decode.policy import NO_ERROR, NOTHING, Decision, Device, Draft, LawError, Skippable
from cuhlm_opt.decode.remarks import assumptions_of, warnings_of
from cuhlm_opt.decode.result import DecodeResult, Step, Traffic
from cuhlm_opt.decode.timing import Stopwatch
from cuhlm_opt.decode.verifier import Risk, Server, Skipped, UnreachableError, Verifier
from cuhlm_opt.decode.wire import EMPTY, Terms
from cuhlm_opt.distributions import Logits
from cuhlm_opt.errors import InputError
from cuhlm_opt.models.pairs import Pair
from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.modes import Mode

_STREAM = Decision(message=EMPTY, skippable=NOTHING)
"""Mode `llm`: the server draws every token, the device proposes nothing."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A draft of this turn, and its uncertainty where that was read."""

    token: int
    u: float | None


def decode(
    pair: Pair,
    point: OperatingPoint,
    prompt: str,
    *,
    seed: int = 0,
    max_tokens: int = 128,
    audit: bool = True,
    on_text: Callable[[str], None] | None = None,
) -> DecodeResult:
    """Answer `prompt` at `point`, both models in this process.

    Device and server draw from streams of their own, spawned from `seed`: the text does not depend on whether they
    share a process.

    Args:
        pair: both models; lane 0 of each is cleared and used.
        point: mode, threshold, truncation, sampling and channel.
        prompt: one user turn, not empty.
        seed: at least 0.
        max_tokens: length limit of the answer, at least 1; the token that ends it counts.
        audit: also measure, at every step, what the method does not need: the expected risk, and the parts of the bias
            that truncation and rounding may add. Without it these are None.
        on_text: receives the answer as it grows, whole characters only.

    Raises:
        InputError: an argument is not allowed, the point lacks what its mode needs, or the prompt passes the context.
        RunError: a model failed.
    """
    stopwatch = Stopwatch()
    terms = Terms.of(point, pair.llm.vocab_size)
    server = Verifier(pair.llm, terms, server_stream(seed), stopwatch)
    answer = Answer(pair.slm, server, point, stopwatch, seed=seed, audit=audit, on_text=on_text)
    answer.decode(prompt, max_tokens)
    return answer.result(pair.name, pair.provenance())


def server_stream(seed: int, resumed: int = 0) -> np.random.Generator:
    """The server's random stream, another one where an answer is resumed behind `resumed` tokens."""
    _, stream = _streams(seed)
    return np.random.default_rng(stream if not resumed else np.random.SeedSequence(seed, spawn_key=(1, resumed)))


def _streams(seed: int) -> list[np.random.SeedSequence]:
    """Of the device and of the server."""
    if seed < 0:
        raise InputError(f"seed {seed!r} is not allowed; give an integer of at least 0")
    return np.random.SeedSequence(seed).spawn(2)


class Answer:
    """One answer in the making: the device, the server, and the steps so far.

    Args:
        slm: the device's model; lane 0 is cleared and used.
        server: whom the device asks.
        point: as `decode`.
        stopwatch: shared with the server, which adds its own labels.
        seed: as `decode`.
        audit: as `decode`.
        on_text: as `decode`.
    """

    def __init__(
        self,
        slm: LanguageModel,
        server: Server,
        point: OperatingPoint,
        stopwatch: Stopwatch,
        *,
        seed: int = 0,
        audit: bool = True,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        rng = np.random.default_rng(_streams(seed)[0])
        self._device = Device(point, rng)
        self._drafter = Drafter(point, rng) if point.mode is Mode.SPECULATIVE else None
        self._slm, self._server, self._point, self._stopwatch = slm, server, point, stopwatch
        self._seed, self._audit, self._on_text = seed, audit, on_text or (lambda _: None)
        self._drafts, self._asks = point.mode is not Mode.LLM, point.mode is not Mode.SLM
        self._eos = slm.eos_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._unread: list[int] = []  # tokens that the SLM reads next
        self._pending: list[Skipped] = []
        self._drawn: list[Drawn] = []
        self._prompt_tokens = self._flushed = self._limit = 0
        self._finish_reason = ""
        self._lost: str | None = None
        self.steps: list[Step] = []
        self.text = ""

    def decode(self, prompt: str, max_tokens: int) -> None:
        """Answer `prompt` with at most `max_tokens` tokens."""
        if not prompt.strip():
            raise InputError("prompt is empty; give some text")
        if max_tokens < 1:
            raise InputError(f"max_tokens {max_tokens!r} is not allowed; give an integer of at least 1")
        with self._stopwatch("elapsed"):
            self._prefill(prompt, max_tokens)
            ended = self._generate()
            self._finish_reason = "eos" if ended else "length" if len(self.steps) == max_tokens else "context"
            self._show(self._utf8.decode(b"", final=True))
            self._flush()

    def result(self, pair: str, provenance: Mapping[str, Any], traffic: Traffic | None = None) -> DecodeResult:
        """What was done, after `decode`.

        Args:
            pair: name of the model pair.
            provenance: of both models, as `Pair.provenance`.
            traffic: of the link to the server, if there is one.
        """
        lost = [step for step in self.steps if step.alone]
        warnings = [*self._point.warnings, *warnings_of(self._point, pair, provenance)]
        if self._lost is not None:
            warnings.append(f"{self._lost}; the last {len(lost)} tokens are the SLM's alone: none of them was verified")
        return DecodeResult(
            pair=pair,
            point=self._point,
            seed=self._seed,
            text=self.text,
            finish_reason=self._finish_reason,
            steps=tuple(self.steps),
            prompt_tokens=self._prompt_tokens,
            flushed=self._flushed,
            seconds=self._stopwatch.seconds,
            warnings=tuple(warnings),
            assumptions=assumptions_of(self._point, is_priced=traffic is None),
            traffic=traffic,
        )

    def _prefill(self, prompt: str, max_tokens: int) -> None:
        """Read the prompt on both sides, but for its last token, which the first step reads."""
        try:
            tokens = self._server.chat_tokens(prompt)
            self._eos |= self._server.eos_tokens
            contexts = [self._server.context_length] if self._asks else []
        except UnreachableError as error:
            self._lost, tokens, contexts = str(error), self._slm.chat_tokens(prompt), []
        self._prompt_tokens = len(tokens)
        if self._drafts or self._lost is not None:
            contexts.append(self._slm.context_length)
        if len(tokens) > min(contexts):
            raise InputError(f"prompt has {len(tokens)} tokens; at most {min(contexts)} fit the context")
        self._limit = min(max_tokens, min(contexts) - len(tokens) + 1)  # the last token is never read
        self._slm.truncate(0, 0)
        self._unread = list(tokens)
        if self._drafts and len(tokens) > 1:
            with self._stopwatch("prefill_slm"):
                self._slm.extend({0: tokens[:-1]}, last_only=True)
            self._unread = [tokens[-1]]
        if self._asks and self._lost is None:
            try:
                self._server.prefill(tokens, self._limit)
            except UnreachableError as error:
                self._lose(error)

    def _generate(self) -> bool:
        """Add tokens up to the limit, or up to one that ends the answer: then True."""
        while len(self.steps) < self._limit:
            for token in self._next(self._limit - len(self.steps)):
                if token in self._eos:
                    return True
                self._show(self._utf8.decode(self._slm.detokenize([token])))
        return False

    def _next(self, room: int) -> tuple[int, ...]:
        """The next tokens of the answer, at most `room`: one, or those of a round."""
        self._drawn = []
        if self._lost is None:
            try:
                if not self._drafts:
                    token = self._ask(_STREAM, None)
                    self._unread.append(token)
                    return (token,)
                if self._drafter is not None:
                    return self._round(self._drafter, room)
                token = self._step()
                self._unread = [token]
                return (token,)
            except UnreachableError as error:
                self._lose(error)
                if len(self.steps) >= self._limit:
                    return ()
        return self._alone()

    def _lose(self, error: UnreachableError) -> None:
        """Go on without the server, as far as the SLM's context reaches."""
        self._lost, self._pending = str(error), []
        self._limit = min(self._limit, self._slm.context_length - self._prompt_tokens + 1)

    def _alone(self) -> tuple[int, ...]:
        """What was drawn when the server went, else the next draft, as it is."""
        if not self._drawn:
            logits = self._read()
            with self._stopwatch("gate"):
                draft = self._device.draw(logits)
                self._drawn = [Drawn(token=draft.token, u=float(draft.step.u_bar(np.array([draft.token]))[0]))]
        for drawn in self._drawn:
            self.steps.append(Step(token=drawn.token, draft=drawn.token, skipped=False, u=drawn.u, alone=True))
        self._unread = [self._drawn[-1].token]
        return tuple(drawn.token for drawn in self._drawn)

    def _flush(self) -> None:
        """Learn the risk of skips that no upload followed."""
        if not self._asks or self._lost is not None:
            return
        try:
            risks, self._flushed = self._server.flush(self._pending)
        except UnreachableError:
            return  # the answer is complete; the risk of its last skips stays unknown
        self._settle(risks)

    def _read(self) -> Logits:
        """Logits behind the last token."""
        with self._stopwatch("slm"):
            return self._slm.extend({0: self._unread}, last_only=True)[0][-1]

    def _step(self) -> int:
        """Draft one token and keep it, or ask."""
        logits = self._read()
        with self._stopwatch("gate"):
            draft = self._device.draw(logits)
            decision = self._device.decide(draft)
        self._drawn = [Drawn(token=draft.token, u=decision.u)]
        if decision.message is not None:
            return self._ask(decision, draft)
        error, skippable = self._audited(draft, decision)
        self.steps.append(
            Step(
                token=draft.token,
                draft=draft.token,
                skipped=True,
                u=decision.u,
                state=self._device.state,
                error=error,
            )
        )
        if self._asks:
            self._pending.append(Skipped(token=draft.token, probability=draft.probability, skippable=skippable))
        return draft.token

    def _round(self, drafter: Drafter, room: int) -> tuple[int, ...]:
        """Draft several tokens, have them all tested, and go back to the first that fails.

        A round puts out one token more than stand, so that at most `room` - 1 are drafted.
        """
        pending: list[PendingDraft] = []
        unread = self._unread
        while len(pending) < min(drafter.most, room - 1):
            logits = self._read()
            with self._stopwatch("gate"):
                draft = drafter.draw(logits)
            pending.append(draft)
            self._drawn.append(Drawn(token=draft.token, u=draft.u))
            self._unread = [draft.token]
            if draft.stops or draft.token in self._eos:
                break
        drafts = tuple(draft.token for draft in pending)
        ended = bool(drafts) and drafts[-1] in self._eos
        tokens, read = self._server.verify_round([(draft.token, draft.message) for draft in pending], ended=ended)
        self._unread = self._after(unread, drafts, tokens)
        for place, token in enumerate(tokens):
            own = pending[place] if place < len(pending) else None
            step = Step(
                token=token,
                draft=None if own is None else own.token,
                skipped=False,
                u=None if own is None else own.u,
                accepted=None if own is None else token == own.token,
                follows=place > 0,
                risk=Risk(beta=None, expected=0.0),
                error=NO_ERROR,
            )
            self.steps.append(step)
        self.steps[-len(tokens)] = replace(
            self.steps[-len(tokens)],
            entries=max((draft.entries for draft in pending), default=0),
            payload_bits=sum(draft.message.bits for draft in pending),
            drafted=len(pending),
            read=read,
        )
        return tokens

    def _after(self, unread: list[int], drafts: tuple[int, ...], tokens: tuple[int, ...]) -> list[int]:
        """Take the drafts behind the first that failed from the SLM's cache; returns what it has yet to read.

        The SLM has read all drafts but the last. Where nothing was drafted, it has not read the last token either.
        """
        if not drafts:
            return [*unread, *tokens]
        stood = len(tokens) - 1
        surplus = len(drafts) - 1 - stood
        if surplus > 0:
            self._slm.truncate(0, self._slm.length(0) - surplus)
        return [*drafts[len(drafts) - 1 : stood], tokens[-1]]

    def _ask(self, decision: Decision, draft: Draft | None) -> int:
        """Send an upload and take the server's token."""
        message = decision.message
        assert message is not None
        error, skippable = (NO_ERROR, decision.skippable) if draft is None else self._audited(draft, decision)
        ruling = self._server.verify(self._pending, decision.told, message, skippable)
        self.steps.append(
            Step(
                token=ruling.token,
                draft=None if draft is None else draft.token,
                skipped=False,
                u=decision.u,
                entries=decision.entries,
                payload_bits=message.bits,
                accepted=ruling.accepted if self._point.mode not in (Mode.LLM, Mode.QUERY) else None,
                read=ruling.read,
                state=self._device.state,
                error=error,
            )
        )
        self._settle(ruling.risks)
        return ruling.token

    def _audited(self, draft: Draft, decision: Decision) -> tuple[LawError | None, Skippable | None]:
        """What truncation and rounding may add here, and what would have been skipped, if that is to be measured."""
        if not self._audit:
            return None, decision.skippable
        with self._stopwatch("audit"):
            return self._device.law_error(draft), self._device.watch(draft, decision)

    def _settle(self, risks: Sequence[Risk]) -> None:
        """Write what the LLM learned into the last steps."""
        start = len(self.steps) - len(risks)
        for offset, risk in enumerate(risks):
            self.steps[start + offset] = replace(self.steps[start + offset], risk=risk)
        self._pending = []

    def _show(self, text: str) -> None:
        if text:
            self.text += text
            self._on_text(text)
