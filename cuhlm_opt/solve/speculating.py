"""Rounds of several drafts on the records: which draft lengths, stopping rules and messages there are [N, THEORY 7].

All are exact, so that only time, bits and passes tell them apart. They are ranked as if rounds began at every position
alike; the best for each draft length is counted along the recorded answers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.channel import Link
from cuhlm_opt.latency import Asks, ComputeTimes, TokenLaw
from cuhlm_opt.modes import Drafting, PendingData
from cuhlm_opt.payload import Format, coarse_bits, law_bits
from cuhlm_opt.quantisation import Quantiser, level_below
from cuhlm_opt.records import TOP, Records
from cuhlm_opt.rounds import Chances, RoundRates, depths, round_rates
from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.threshold import Gate

_Floats = NDArray[np.float64]

MOST_DRAFTS = 16
"""Longest rounds that are tried where the draft length is chosen."""
SIZES = (1, 2, 4, 8)
"""Entries of each pending draft's law that are tried: up to `TOP` the records hold them one by one."""
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""At which triggered drafting is tried; below `T_LIMIT`, where every token that goes on is recorded."""


@dataclass(frozen=True, kw_only=True)
class RoundOptions:
    """What is asked of rounds; None is chosen."""

    draft_length: int | None = None
    """Most drafts of a round, at least 1."""
    drafting: Drafting | None = None
    data: PendingData | None = None


@dataclass(frozen=True, kw_only=True)
class DraftCoding:
    """How the law of each pending draft is written."""

    vocab_size: int
    b_prob: int
    quantiser: Quantiser
    law_format: Format

    def bits(self, data: PendingData, k: int) -> int:
        """Bits of one pending draft's part of the message."""
        if data is PendingData.COARSE:
            return int(coarse_bits(k, self.vocab_size, self.b_prob))
        return law_bits(k, self.vocab_size, self.b_prob, self.law_format, self.quantiser)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to draft and to send; a threshold of None is fixed drafting."""

    data: PendingData
    k: int
    threshold: float | None

    @property
    def drafting(self) -> Drafting:
        """When drafting stops."""
        return Drafting.FIXED if self.threshold is None else Drafting.TRIGGERED


@dataclass(frozen=True, kw_only=True)
class Speculation:
    """A way with its draft length, and the rounds that it makes of the recorded answers."""

    way: Way
    draft_length: int
    coding: DraftCoding
    rates: RoundRates

    @property
    def asks(self) -> Asks:
        """Each round asks once, with the message of all its drafts."""
        bits = self.coding.bits(self.way.data, self.way.k)
        drafts = np.arange(self.draft_length + 1.0)
        return Asks(bits=bits * drafts, weights=np.diag(self.rates.weights), together=True)

    def time(self, times: ComputeTimes, link: Link) -> TokenLaw:
        """Law of a token's latency, the time since the token before it: those that come with a round take none."""
        n = np.arange(1, self.draft_length + 2.0)
        device = _device_s(self.way, times)
        return TokenLaw(
            skipped_s=0.0,
            asked_s=link.rtt_s + link.downlink_s,
            pass_s=times.pass_s(n) + (n - 1) * device,
            busy_s=times.busy_s(n, device),
            asks=self.asks,
            link=link,
        )


def speculations(
    gate: Gate, coding: DraftCoding, options: RoundOptions, times: ComputeTimes | None, link: Link, tokens: int
) -> list[Speculation]:
    """The fastest way for each draft length, and the best of all in passes and in bits.

    Args:
        gate: holds the records; contexts drawn by the LLM.
        coding: how laws are written.
        options: what is not to be chosen.
        times: compute times; None ranks by passes and bits alone.
        link: the link.
        tokens: length of an answer.
    """
    longest = options.draft_length or MOST_DRAFTS
    lengths = range(1 if options.draft_length is None else longest, longest + 1)
    ways = list(_ways(gate, coding, options))
    shape = (len(ways), len(lengths))
    seconds, passes, sent = np.zeros(shape), np.empty(shape), np.empty(shape)  # per token
    for at, way in enumerate(ways):
        stood, drafted = _depths(gate, coding, way, longest)
        tokens_out, bits = 1.0 + np.cumsum(stood), coding.bits(way.data, way.k)
        passes[at] = (1.0 / tokens_out)[-len(lengths) :]
        sent[at] = (bits * np.cumsum(drafted) / tokens_out)[-len(lengths) :]
        if times is not None:  # a round takes what each draft adds, as often as it is drafted
            added = np.diff(_round_costs(way, times, link, bits, longest), prepend=0.0)
            seconds[at] = (np.cumsum(drafted * added) / tokens_out)[-len(lengths) :]
    chosen = [divmod(int(np.argmin(each)), len(lengths)) for each in (passes, sent)]
    if times is not None:
        chosen += [(int(np.lexsort((sent[:, at], seconds[:, at]))[0]), at) for at in range(len(lengths))]
    found = dict.fromkeys((ways[way], lengths[at]) for way, at in chosen)
    return [
        Speculation(way=way, draft_length=g, coding=coding, rates=_rates(gate, coding, way, g, tokens))
        for way, g in found
    ]


def chances(records: Records, coding: DraftCoding, way: Way) -> Chances:
    """What drafting does at each recorded position.

    Drafts are drawn from decoded masses. Beyond the `TOP` most likely tokens nothing is known one by one: what is
    emitted there counts as redrawn, so that tokens per round are a lower bound.
    """
    x, y = records.top_x.astype(np.float64), records.top_y.astype(np.float64)
    k, vocab_size = min(way.k, TOP), coding.vocab_size
    drawn = np.empty_like(x)
    drawn[:, :k] = level_below(x[:, :k], coding.quantiser, coding.b_prob)
    rest = np.maximum(1.0 - drawn[:, :k].sum(axis=1), 0.0)
    if way.data is PendingData.COARSE:
        x_rest = np.maximum(1.0 - x[:, :k].sum(axis=1), 0.0)
        scale = np.divide(rest, x_rest, out=np.zeros_like(rest), where=x_rest > 0)
        drawn[:, k:] = x[:, k:] * scale[:, None]
        y_rest = np.maximum(1.0 - y[:, :k].sum(axis=1), 0.0)
        larger = np.maximum(rest, y_rest)[:, None]
        stands = np.minimum(drawn, y)
        lumped = drawn[:, k:] * y[:, k:]  # the lump is accepted, and the same token drawn from it
        stands[:, k:] = np.divide(lumped, larger, out=np.zeros_like(lumped), where=larger > 0)
    else:
        drawn[:, k:] = (rest / max(vocab_size - k, 1))[:, None]
        stands = np.minimum(drawn, y)
    rows, emitted = np.arange(len(x)), records.emitted
    known = emitted >= 0
    probability = y[rows, emitted]
    accepted = np.divide(stands[rows, emitted], probability, out=np.zeros(len(x)), where=known & (probability > 0))
    accepted = np.minimum(accepted, 1.0)
    if way.threshold is None:
        every = np.ones(len(x))
        return Chances(
            prompt=records.prompt, accepted=accepted, stops=np.zeros(len(x), bool), refused_on=every, on=every
        )
    on = records.top_u_bar <= way.threshold
    refused = np.maximum(1.0 - stands.sum(axis=1), 0.0)
    refused_on = np.where(on, drawn - stands, 0.0).sum(axis=1)
    return Chances(
        prompt=records.prompt,
        accepted=accepted,
        stops=~(known & on[rows, emitted]),
        refused_on=np.clip(np.divide(refused_on, refused, out=np.zeros(len(x)), where=refused > 0), 0.0, 1.0),
        on=np.minimum(np.where(on, drawn, 0.0).sum(axis=1), 1.0),
    )


def _ways(gate: Gate, coding: DraftCoding, options: RoundOptions) -> Iterator[Way]:
    """Ways that are open. Triggered drafting reads `u_bar`, the signal that the records hold of every likely token."""
    thresholds: list[float | None] = []
    if options.drafting is not Drafting.TRIGGERED:
        thresholds.append(None)
    if options.drafting is not Drafting.FIXED and gate.signal is Signal.U_BAR:
        thresholds += THRESHOLDS
    kinds = list(PendingData) if options.data is None else [options.data]
    for data, k, threshold in product(kinds, SIZES, thresholds):
        if k < coding.vocab_size:
            yield Way(data=data, k=k, threshold=threshold)


def _depths(gate: Gate, coding: DraftCoding, way: Way, longest: int) -> tuple[_Floats, _Floats]:
    return gate.remembered(
        ("depths", coding, way, longest), lambda: depths(chances(gate.few.records, coding, way), longest)
    )


def _rates(gate: Gate, coding: DraftCoding, way: Way, draft_length: int, tokens: int) -> RoundRates:
    return gate.remembered(
        ("rounds", coding, way, draft_length, tokens),
        lambda: round_rates(chances(gate.some.records, coding, way), draft_length, tokens),
    )


def _round_costs(way: Way, times: ComputeTimes, link: Link, bits: int, longest: int) -> _Floats:
    """Mean seconds of a round of 1 .. `longest` drafts."""
    drafts = np.arange(1, longest + 1.0)
    sent = link.mean_uplink_s(bits * drafts) + link.rtt_s + link.downlink_s
    return np.asarray(drafts * _device_s(way, times) + sent + times.pass_s(drafts + 1.0))


def _device_s(way: Way, times: ComputeTimes) -> float:
    """Time of the device at each draft."""
    return times.slm_s + (0.0 if way.threshold is None else times.gate_s)
