"""What a decoding run did, step by step, and the figures that follow from it.

Every figure but those under `timing` is a function of the steps, so that the same command and seed give the same JSON.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cuhlm_opt.artefacts import LedgerEntry, OperatingPoint
from cuhlm_opt.channel import Link
from cuhlm_opt.channel_states import state_links
from cuhlm_opt.decode.policy import LawError
from cuhlm_opt.decode.verifier import Risk
from cuhlm_opt.links import link_of
from cuhlm_opt.modes import Mode
from cuhlm_opt.signals import Signal

_PROPOSES_NOTHING = (Mode.SLM, Mode.LLM, Mode.QUERY)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One token of the answer.

    `draft` is None in mode `llm`, `accepted` where nothing was proposed, `risk` where the LLM never read the position.
    `read` is the number of tokens that the LLM read for it.
    """

    token: int
    draft: int | None
    skipped: bool
    u: float | None = None
    entries: int = 0
    payload_bits: int = 0
    accepted: bool | None = None
    risk: Risk | None = None
    read: int = 0
    state: int | None = None
    """State of the channel that the device saw; None where it looks at none."""
    drafted: int = 1
    """Drafts in the message that brought the token."""
    follows: bool = False
    """Whether it came with the round of the token before it, which bears the message and the LLM's pass."""
    alone: bool = False
    """Whether no server could be reached: the draft stands, and was not verified."""
    error: LawError | None = None
    """What truncation and quantisation add to the bias at most; None where no bound is known."""


@dataclass(kw_only=True)
class Traffic:
    """What crossed a real link, in DATA frames of HTTP/2; its other frames, TLS, TCP and IP are not counted."""

    sent_bytes: int = 0
    received_bytes: int = 0
    messages: int = 0
    """Sent with a draft, or a round of them, to verify."""
    message_bytes: int = 0
    """Of these, within `sent_bytes`."""
    reconnects: int = 0


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """A finished answer.

    Args:
        pair: name of the model pair.
        point: the operating point that was applied.
        seed: seed of both random streams.
        text: the answer without the token that ended it.
        finish_reason: `eos`, `length` (--max-tokens) or `context` (a model's context is full).
        steps: one per token, in order. A token that ended the answer is the last of them: it was drawn, verified and
            billed like any other, so it counts everywhere; only `text` leaves it out.
        prompt_tokens: tokens of the prompt, read by each model in use but for the last one, which its first step reads.
        flushed: tokens that the LLM read after the end, only to learn the risk of the last skips.
        seconds: measured wall time by label.
        warnings: what the reader should know before trusting the figures.
        assumptions: what the figures rest on.
        traffic: what crossed the link, if there was one; then its time was measured, not priced.
    """

    pair: str
    point: OperatingPoint
    seed: int
    text: str
    finish_reason: str
    steps: tuple[Step, ...]
    prompt_tokens: int
    flushed: int
    seconds: Mapping[str, float]
    warnings: tuple[str, ...]
    assumptions: tuple[str, ...]
    traffic: Traffic | None = None

    @property
    def uploads(self) -> tuple[Step, ...]:
        """Steps that sent something; none in mode `llm`, where the server streams."""
        if self.point.mode is Mode.LLM:
            return ()
        return tuple(step for step in self.steps if not (step.skipped or step.follows or step.alone))

    @property
    def payload_bits_total(self) -> int:
        """Bits of all uploads."""
        return sum(step.payload_bits for step in self.uploads)

    @property
    def bias_skip(self) -> float | None:
        """Realised risk per token: sum of beta over skipped drafts / tokens; None if the LLM did not tell all of it."""
        betas = [None if step.risk is None else step.risk.beta for step in self.steps if step.skipped or step.alone]
        known = [beta for beta in betas if beta is not None]
        return None if len(known) < len(betas) else float(np.sum(known)) / len(self.steps)

    @property
    def risk_unverified(self) -> float | None:
        """Risk per token of drafts that no server verified, by the calibration's line; an estimate, no bound."""
        slope, intercept = self.point.slope, self.point.intercept
        alone = [step.u for step in self.steps if step.alone]
        if slope is None or intercept is None or None in alone or self.point.signal != Signal.U_BAR:
            return None
        estimates = [min(max(slope * u + intercept, 0.0), 1.0) for u in alone if u is not None]
        return sum(estimates) / len(self.steps)

    @property
    def risk_expected(self) -> float | None:
        """The same with each position's mean over drafts, with less noise [N, THEORY 6.1]; None if not known."""
        expected = [None if step.risk is None else step.risk.expected for step in self.steps]
        known = [value for value in expected if value is not None]
        return float(np.mean(known)) if len(known) == len(self.steps) else None

    def ledger(self) -> list[LedgerEntry]:
        """What the distance to the LLM's law was made of on this answer's contexts, and how well each part is known."""
        query = self.point.mode is Mode.QUERY
        skipping = self.risk_expected if query or self.bias_skip is None else self.bias_skip
        errors = [step.error for step in self.steps if step.error is not None]
        known = len(errors) == len(self.steps)
        truncation = float(np.mean([error.truncation for error in errors])) if known else None
        rounding = float(np.mean([error.quantisation for error in errors])) if known else None
        expected = self.bias_skip if self.risk_expected is None else self.risk_expected
        parts = (expected, truncation, rounding)
        answer = None if None in parts else min(1.0, len(self.steps) * sum(part or 0.0 for part in parts))
        realised = "1/2 sum |s_v x_v - S y_v|" if query else "sum of beta over the skipped drafts"
        return [
            LedgerEntry(term="skipping", value=skipping, kind="exact", meaning=f"{realised}, per token"),
            LedgerEntry(
                term="truncation", value=truncation, kind="bound", meaning="TV(x, x_hat), mean over its positions"
            ),
            LedgerEntry(
                term="quantisation", value=rounding, kind="bound",
                meaning="TV(x_hat, decoded x_hat), mean over its positions",
            ),
            LedgerEntry(
                term="numeric floor", value=self.point.numeric_floor, kind="estimate",
                meaning="TV between the laws of one model read in two ways, from the calibration",
            ),
            LedgerEntry(
                term="answer", value=answer, kind="bound",
                meaning="sum over this answer's tokens of expected skip risk, truncation and quantisation: its mean "
                "over answers bounds the TV between the laws of whole answers",
            ),
        ]  # fmt: skip

    @property
    def link_s(self) -> float:
        """Time of the link: measured, or priced with the mean time of each upload, a round trip each, the downlink.

        In mode `llm` there is one round trip an answer.
        """
        if self.traffic is not None:
            return self.seconds.get("link", 0.0)
        link, llm_only = self._link, self.point.mode is Mode.LLM
        exchanges = 1 if llm_only else len(self.uploads)
        returned = len(self.steps) if llm_only else len(self.uploads)
        return self._uplink_s + exchanges * link.rtt_s + returned * link.downlink_s

    @cached_property
    def _link(self) -> Link:
        return link_of(self.point.channel)

    @cached_property
    def _uplink_s(self) -> float:
        """Mean time of all uploads."""
        links: dict[int | None, Link] = {None: self._link}
        if self.point.state_thresholds:
            links |= dict(enumerate(state_links(self._link)))
        return float(sum(links[step.state].mean_uplink_s(step.payload_bits) for step in self.uploads))

    @property
    def compute_s(self) -> float:
        """Measured time of SLM steps, gate and LLM passes, after the prompt and without what only measures."""
        return sum(self.seconds.get(label, 0.0) for label in ("slm", "gate", "llm"))

    def to_json(self) -> dict[str, Any]:
        """The figures under the operating point's key names; means per token or per upload, totals named so."""
        steps, uploads, point = self.steps, self.uploads, self.point
        asked = [step for step in steps if step.accepted is not None]
        rounds = point.mode is Mode.SPECULATIVE and bool(uploads)
        rejections = None if point.mode in _PROPOSES_NOTHING else sum(not step.accepted for step in asked)
        ledger = {entry.term: entry.value for entry in self.ledger()}
        payload_bits = self.payload_bits_total / len(uploads) if uploads else None
        return {
            "text": self.text,
            "tokens": [step.token for step in steps],
            "mode": str(point.mode),
            "seed": self.seed,
            "pair": self.pair,
            "finish_reason": self.finish_reason,
            "wire_bytes": None if self.traffic is None else self.traffic.sent_bytes,
            "wire": self._wire(),
            "n_tokens": len(steps),
            "prompt_tokens": self.prompt_tokens,
            "skip_rate": sum(step.skipped for step in steps) / len(steps),
            "tokens_unverified": sum(step.alone for step in steps),
            "risk_unverified": self.risk_unverified,
            "uploads": len(uploads),
            "rejections": rejections,
            "rejection_rate": rejections / len(asked) if rejections is not None and asked else None,
            "payload_bits": payload_bits,
            "payload_bits_total": self.payload_bits_total,
            "uplink_s": self._uplink_s / len(uploads) if uploads and self.traffic is None else None,
            "link_total_s": self.link_s,
            "server_passes_per_token": sum(step.read > 0 for step in steps) / len(steps),
            "llm_tokens_read": sum(step.read for step in steps),
            "llm_tokens_flushed": self.flushed,
            "bias_skip": self.bias_skip,
            "risk_expected": self.risk_expected,
            "bias_truncation": ledger["truncation"],
            "bias_quantisation": ledger["quantisation"],
            "bias_ledger": [entry.model_dump() for entry in self.ledger()],
            "numeric_floor": point.numeric_floor,
            "bias_budget": point.bias_budget,
            "u_threshold": point.u_threshold,
            "state_thresholds": [state.model_dump() for state in point.state_thresholds],
            "signal": point.signal,
            "k": point.k if point.mode in (Mode.CU_HLM_OFFLINE, Mode.EXACT, Mode.SPECULATIVE) else None,
            "k_mean": sum(step.entries for step in uploads) / len(uploads) if uploads else None,
            "tokens_per_round": len(steps) / len(uploads) if rounds else None,
            "drafts_per_round": sum(step.drafted for step in uploads) / len(uploads) if rounds else None,
            "domain": point.domain,
            "timing": self._timing(),
            "warnings": list(self.warnings),
            "assumptions": list(self.assumptions),
        }

    def _wire(self) -> dict[str, int] | None:
        """Bytes on the wire beside the codec's."""
        if self.traffic is None:
            return None
        codec = sum((step.payload_bits + 7) // 8 for step in self.uploads)
        return {
            **asdict(self.traffic),
            "codec_bytes": codec,
            "overhead_bytes": self.traffic.message_bytes - codec,
        }

    def _timing(self) -> dict[str, float]:
        """Measured seconds of this run: the only figures that the clock enters."""
        total = self.compute_s + self.link_s
        labels = ("slm", "gate", "llm", "prefill_slm", "prefill_llm", "flush", "audit", "elapsed")
        return {
            "latency_s": total / len(self.steps),
            "throughput_tokens_per_s": len(self.steps) / total if total > 0 else 0.0,
            **{f"{label}_total_s": self.seconds.get(label, 0.0) for label in labels},
        }
