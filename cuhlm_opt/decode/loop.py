"""Decode one prompt at an operating point, both models in one process.

Each model reads a token once. The SLM reads the last token at every step; the LLM reads at an upload what came since
the last one. No token is read before it is certain, so nothing is taken back from a cache; but for mode `speculative`,
where both read drafts, and forget those behind the first that fails.
"""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.decode.drafting import Drafter, PendingDraft
from cuhlm_opt.decode.policy import NO_ERROR, NOTHING, Decision, Device, Draft
from cuhlm_opt.decode.result import DecodeResult, Step
from cuhlm_opt.decode.timing import Stopwatch
from cuhlm_opt.decode.verifier import Risk, Skipped, Verifier
from cuhlm_opt.errors import InputError
from cuhlm_opt.latency import Accounting
from cuhlm_opt.links import link_of
from cuhlm_opt.models.pairs import Pair
from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.modes import Distortion, Mode
from cuhlm_opt.provenance import pair_differences
from cuhlm_opt.verification import Query, Round

_STREAM = Decision(upload=Query(), skippable=NOTHING)
"""Mode `llm`: the server draws every token, the device proposes nothing."""


def decode(
    pair: Pair,
    point: OperatingPoint,
    prompt: str,
    *,
    seed: int = 0,
    max_tokens: int = 128,
    on_text: Callable[[str], None] | None = None,
) -> DecodeResult:
    """Answer `prompt` at `point`.

    Device and server draw from streams of their own, spawned from `seed`: the text does not depend on whether they
    share a process.

    Args:
        pair: both models; lane 0 of each is cleared and used.
        point: mode, threshold, truncation, sampling and channel.
        prompt: one user turn, not empty.
        seed: at least 0.
        max_tokens: length limit of the answer, at least 1; the token that ends it counts.
        on_text: receives the answer as it grows, whole characters only.

    Raises:
        InputError: an argument is not allowed, the point lacks what its mode needs, or the prompt passes the context.
        RunError: a model failed.
    """
    if not prompt.strip():
        raise InputError("prompt is empty; give some text")
    if max_tokens < 1:
        raise InputError(f"max_tokens {max_tokens!r} is not allowed; give an integer of at least 1")
    if seed < 0:
        raise InputError(f"seed {seed!r} is not allowed; give an integer of at least 0")
    device_seed, server_seed = np.random.SeedSequence(seed).spawn(2)
    device_rng = np.random.default_rng(device_seed)
    device = Device(point, device_rng)
    drafter = Drafter(point, device_rng) if point.mode is Mode.SPECULATIVE else None
    stopwatch = Stopwatch()
    server = Verifier(pair.llm, point, np.random.default_rng(server_seed), stopwatch)
    tokens = pair.llm.chat_tokens(prompt)
    run = _Run(pair, point.mode, device, drafter, server, stopwatch, on_text)
    room = run.room(len(tokens))
    with stopwatch("elapsed"):
        run.prefill(tokens)
        ended = run.generate(min(max_tokens, room))
        flushed = run.finish()
    return DecodeResult(
        pair=pair.name,
        point=point,
        seed=seed,
        text=run.text,
        finish_reason="eos" if ended else "length" if max_tokens <= room else "context",
        steps=tuple(run.steps),
        prompt_tokens=len(tokens),
        flushed=flushed,
        seconds=stopwatch.seconds,
        warnings=(*point.warnings, *_warnings(pair, point)),
        assumptions=_assumptions(point),
    )


class _Run:
    """One answer in the making: the device, the server, and the steps so far."""

    def __init__(
        self,
        pair: Pair,
        mode: Mode,
        device: Device,
        drafter: Drafter | None,
        server: Verifier,
        stopwatch: Stopwatch,
        on_text: Callable[[str], None] | None,
    ) -> None:
        self._slm: LanguageModel | None = None if mode is Mode.LLM else pair.slm
        self._llm: LanguageModel | None = None if mode is Mode.SLM else pair.llm
        self._device, self._drafter, self._server, self._stopwatch = device, drafter, server, stopwatch
        self._eos = pair.slm.eos_tokens | pair.llm.eos_tokens
        self._detokenize = pair.llm.detokenize
        self._on_text = on_text or (lambda _: None)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._unread: list[int] = []  # tokens that the SLM reads next
        self._pending: list[Skipped] = []
        self.steps: list[Step] = []
        self.text = ""

    def room(self, prompt_tokens: int) -> int:
        """Tokens that fit behind the prompt: the context of the models in use, and one more that is never read."""
        context = min(model.context_length for model in (self._slm, self._llm) if model is not None)
        if prompt_tokens > context:
            raise InputError(f"prompt has {prompt_tokens} tokens; at most {context} fit the context")
        return context - prompt_tokens + 1

    def prefill(self, tokens: Sequence[int]) -> None:
        """Read the prompt on both sides, but for its last token, which the first step reads."""
        self._unread = [tokens[-1]]
        if self._slm is not None:
            self._slm.truncate(0, 0)
            if len(tokens) > 1:
                with self._stopwatch("prefill_slm"):
                    self._slm.extend({0: tokens[:-1]}, last_only=True)
        if self._llm is not None:
            self._server.prefill(tokens)

    def generate(self, limit: int) -> bool:
        """Add tokens up to `limit`, or up to one that ends the answer: then True."""
        while len(self.steps) < limit:
            for token in self._next(limit - len(self.steps)):
                if token in self._eos:
                    return True
                self._show(self._utf8.decode(self._detokenize([token])))
        return False

    def _next(self, room: int) -> tuple[int, ...]:
        """The next tokens of the answer, at most `room`: one, or those of a round."""
        if self._slm is None:
            return (self._ask(_STREAM, None),)
        if self._drafter is not None:
            return self._round(self._slm, self._drafter, room)
        token = self._step(self._slm)
        self._unread = [token]
        return (token,)

    def finish(self) -> int:
        """Close the text, and learn the risk of skips that no upload followed; returns the tokens read for that."""
        self._show(self._utf8.decode(b"", final=True))
        if self._llm is None:
            return 0
        risks, read = self._server.flush(self._pending)
        self._settle(risks)
        return read

    def _step(self, slm: LanguageModel) -> int:
        """Draft one token and keep it, or ask."""
        with self._stopwatch("slm"):
            logits = slm.extend({0: self._unread}, last_only=True)[0][-1]
        with self._stopwatch("gate"):
            draft = self._device.draw(logits)
            decision = self._device.decide(draft)
        if decision.upload is not None:
            return self._ask(decision, draft)
        with self._stopwatch("audit"):
            error = self._device.law_error(draft)
            skippable = self._device.watch(draft, decision)
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
        if self._llm is not None:
            self._pending.append(Skipped(token=draft.token, probability=draft.probability, skippable=skippable))
        return draft.token

    def _round(self, slm: LanguageModel, drafter: Drafter, room: int) -> tuple[int, ...]:
        """Draft several tokens, have them all tested, and go back to the first that fails.

        A round puts out one token more than stand, so that at most `room` - 1 are drafted.
        """
        pending: list[PendingDraft] = []
        unread = self._unread
        while len(pending) < min(drafter.most, room - 1):
            with self._stopwatch("slm"):
                logits = slm.extend({0: unread}, last_only=True)[0][-1]
            with self._stopwatch("gate"):
                draft = drafter.draw(logits)
            pending.append(draft)
            unread = [draft.token]
            if draft.stops or draft.token in self._eos:
                break
        drafts = tuple(draft.token for draft in pending)
        ended = bool(drafts) and drafts[-1] in self._eos
        drafted = Round(drafts=drafts, uploads=tuple(draft.upload for draft in pending))
        tokens, read = self._server.verify_round(drafted, ended=ended)
        self._unread = self._after(slm, drafts, tokens)
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

    def _after(self, slm: LanguageModel, drafts: tuple[int, ...], tokens: tuple[int, ...]) -> list[int]:
        """Take the drafts behind the first that failed from the SLM's cache; returns what it has yet to read.

        The SLM has read all drafts but the last. Where nothing was drafted, it has not read the last token either.
        """
        if not drafts:
            return [*self._unread, *tokens]
        stood = len(tokens) - 1
        surplus = len(drafts) - 1 - stood
        if surplus > 0:
            slm.truncate(0, slm.length(0) - surplus)
        return [*drafts[len(drafts) - 1 : stood], tokens[-1]]

    def _ask(self, decision: Decision, draft: Draft | None) -> int:
        """Send an upload and take the server's token."""
        upload = decision.upload
        assert upload is not None
        with self._stopwatch("audit"):
            error = NO_ERROR if draft is None else self._device.law_error(draft)
            skippable = decision.skippable if draft is None else self._device.watch(draft, decision)
        ruling = self._server.verify(self._pending, upload, skippable)
        self.steps.append(
            Step(
                token=ruling.token,
                draft=None if draft is None else draft.token,
                skipped=False,
                u=decision.u,
                entries=decision.entries,
                payload_bits=decision.message.bits,
                accepted=None if isinstance(upload, Query) else ruling.accepted,
                read=ruling.read,
                state=self._device.state,
                error=error,
            )
        )
        self._settle(ruling.risks)
        return ruling.token

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


def _warnings(pair: Pair, point: OperatingPoint) -> list[str]:
    warnings = []
    if point.calibration.pair != pair.name:
        warnings.append(
            f"the operating point was solved for pair {point.calibration.pair!r} and is applied to {pair.name!r}: "
            "thresholds do not carry over"
        )
    elif point.calibration.models is not None:
        warnings += [
            f"the threshold was calibrated on other laws: {difference}; calibrate --check tests whether it still holds"
            for difference in pair_differences(point.calibration.models, pair.provenance())
        ]
    if point.mode is Mode.QUERY:
        warnings.append("bias_skip is E[s beta]; the bias of mode query is larger, see risk_expected")
    if point.mode is Mode.CU_HLM_ONLINE and point.distortion is Distortion.SURROGATE:
        warnings.append(
            "k is chosen by the published surrogate, which reads the draft: no mean of TV(x, x_hat) bounds it"
        )
    if point.accounting is not Accounting.MEAN_LATENCY:
        warnings.append(f"the operating point uses {point.accounting} accounting; measured figures use mean-latency")
    return warnings


def _assumptions(point: OperatingPoint) -> tuple[str, ...]:
    link = link_of(point.channel)
    lines = [
        f"link: {link.uplink.describe()}; {link.uplink.rate_bps:g} bit/s, round trip {link.rtt_s:g} s, downlink "
        f"{link.downlink_s:g} s per token; priced at its mean time, not slept",
        "no pipelining: compute and link times add up; prefill, flush and audit are measured apart",
        "a token that ends the answer counts as a token",
    ]
    if point.mode is Mode.SPECULATIVE:
        lines.append("no more tokens are drafted than may still be put out, and none behind one that ends the answer")
    if point.mode not in (Mode.SLM, Mode.LLM):
        lines.append(
            f"the server verifies with what it decodes, {point.b_prob} bits a probability in {point.quantiser} levels; "
            "token ids, and the probabilities of skipped tokens that bias_skip is measured with, are not billed"
        )
    return tuple(lines)
