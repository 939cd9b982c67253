"""Monte Carlo replay of the recorded answers through a link: fades, packets and starts are drawn one by one [N].

Nothing here uses the law of a message's time or the law of the runs: each token's coin is tossed, the skipped tokens
are counted, each fade is drawn and compared with the rate. The means and quantiles that `solve` states are checked
against this.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.channel import (
    AwgnUplink,
    ErgodicUplink,
    InstantaneousUplink,
    Link,
    RetransmissionUplink,
    ShortPacketUplink,
    TraceUplink,
    Uplink,
)
from cuhlm_opt.channel_states import AfterOutage, channel_states, state_links
from cuhlm_opt.fading import least_snr
from cuhlm_opt.latency import ComputeTimes
from cuhlm_opt.modes import Mode
from cuhlm_opt.runs import repeated

Floats = NDArray[np.float64]

QUANTILES = (0.5, 0.95, 0.99)
_ERGODIC_BLOCKS = 400
"""Blocks that a message spans, where it is coded over many."""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One mode at its point, position by position.

    Args:
        mode: decoding mode.
        times: compute times.
        link: the link.
        prompt: index of the prompt per position, shape (n,).
        skip: probability to keep the draft, shape (n,), or in each state of the channel, shape (H, n).
        bits: length of the message that the position would send, of the same shape.
        tokens: length of an answer; the recorded one is repeated a whole number of times, to at least so many.
    """

    mode: Mode
    times: ComputeTimes
    link: Link
    prompt: NDArray[np.integer]
    skip: Floats
    bits: Floats
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A simulated figure: the mean of the replications, with its standard error."""

    value: float
    se: float

    @classmethod
    def of(cls, draws: list[float]) -> "Measured":
        """From one figure a replication."""
        return cls(value=float(np.mean(draws)), se=float(np.std(draws, ddof=1) / np.sqrt(len(draws))))


@dataclass(frozen=True, kw_only=True)
class Replication:
    """Every recorded answer once."""

    seconds: Floats
    """Latency of each token, shape (answers, longest); nan beyond an answer's end."""
    weights: Floats
    """What a token of each answer stands for, shape (answers,): each recorded position counts alike."""
    answers_s: Floats
    """Time of the first `tokens` tokens of each answer, shape (answers,)."""
    skip_rate: float
    bits_per_token: float


def replications(replayed: Replayed, seed: int = 0) -> Iterator[Replication]:
    """Replay without end; each replication has a random stream of its own."""
    starts, lengths, totals = repeated(replayed.prompt, replayed.tokens)
    longest = int(totals[0])
    places = np.arange(longest)
    within = places < totals[:, None]
    rows = starts[:, None] + places % lengths[:, None]
    skip, bits = np.atleast_2d(replayed.skip), np.atleast_2d(replayed.bits)
    known = channel_states(replayed.link.uplink) if len(skip) > 1 else ()
    links = state_links(replayed.link) if known else (replayed.link,)
    weights = lengths / (totals * lengths.sum())
    times, link = replayed.times, replayed.link
    device = times.device_s(replayed.mode)
    streams = np.random.SeedSequence(seed)
    while True:
        rng = np.random.default_rng(streams.spawn(1)[0])
        state = np.zeros(rows.shape, dtype=np.intp)
        if known:
            state[:] = rng.choice(len(known), rows.shape, p=[each.probability for each in known])
        asked = within & (rng.random(rows.shape) >= skip[state, rows])
        pending = np.zeros(len(rows))
        read = np.zeros(rows.shape)
        for place in range(longest):
            pending += 1
            read[:, place] = pending
            pending[asked[:, place]] = 0
        seconds = np.where(within, device, np.nan)
        sent, seen = bits[state[asked], rows[asked]] + link.overhead_bits, state[asked]
        waiting = np.full(len(sent), link.rtt_s + link.downlink_s)
        for number, each in enumerate(links):
            waiting[seen == number] += draw_uplink_s(each.uplink, sent[seen == number], rng)
        since = read[asked]
        seconds[asked] = np.maximum(device + waiting, times.busy_s(since, device)) + times.pass_s(since)
        yield Replication(
            seconds=seconds,
            weights=weights,
            answers_s=np.sum(seconds[:, : replayed.tokens], axis=1),
            skip_rate=1.0 - float(weights @ asked.sum(axis=1)),
            bits_per_token=float(weights @ np.bincount(np.nonzero(asked)[0], sent, len(rows))),
        )


def figures(replication: Replication) -> dict[str, float]:
    """What one replication says of a token and of an answer; weights make every recorded position count alike."""
    seconds = replication.seconds
    kept = np.isfinite(seconds)
    weights = np.broadcast_to(replication.weights[:, None], seconds.shape)[kept]
    order = np.argsort(seconds[kept])
    ordered, reached = seconds[kept][order], np.cumsum(weights[order])
    mean = float(weights @ seconds[kept])
    found = {
        "skip_rate": replication.skip_rate,
        "latency_s": mean,
        **{_name("latency", q): float(ordered[np.searchsorted(reached, q * (1 - 1e-9))]) for q in QUANTILES},
        "mean_rate_tokens_per_s": float(weights @ (1.0 / seconds[kept])) if ordered[0] > 0 else float("inf"),
        "uplink_bits_per_s": replication.bits_per_token / mean if mean > 0 else 0.0,
        "answer_s": float(replication.answers_s.mean()),
    }
    quantiles = np.quantile(replication.answers_s, QUANTILES)
    return found | {_name("answer", q): float(value) for q, value in zip(QUANTILES, quantiles, strict=True)}


def simulate(
    replayed: Replayed, *, precision: float = 0.002, most: int = 400, least: int = 20, seed: int = 0
) -> tuple[dict[str, Measured], int]:
    """Replay until the mean latency is known to `precision`, relative standard error; stop at `most` replications.

    Returns:
        (figures with their standard errors, replications).
    """
    draws: list[dict[str, float]] = []
    for replication in replications(replayed, seed):
        draws.append(figures(replication))
        mean = Measured.of([draw["latency_s"] for draw in draws]) if len(draws) >= least else None
        if len(draws) >= most or (mean is not None and mean.se <= precision * mean.value):
            break
    return {name: Measured.of([draw[name] for draw in draws]) for name in draws[0]}, len(draws)


def draw_uplink_s(uplink: Uplink, bits: Floats, rng: np.random.Generator) -> Floats:
    """Times of messages, each fade or packet drawn; nothing to send takes no time."""
    match uplink:
        case AwgnUplink():
            return np.asarray(bits / uplink.rate_bps)
        case RetransmissionUplink():
            attempt_s = bits / (uplink.bandwidth_hz * uplink.chosen_rate)
            threshold = least_snr(uplink.chosen_rate)
            return attempt_s * _attempts(len(bits), lambda n: uplink.fading.sample(rng, n) >= threshold)
        case AfterOutage(given):
            return bits / (given.bandwidth_hz * given.chosen_rate) + draw_uplink_s(given, bits, rng)
        case ShortPacketUplink():
            attempt_s = uplink.uses(bits) / uplink.bandwidth_hz
            return attempt_s * _attempts(len(bits), lambda n: rng.random(n) >= uplink.block_error)
        case InstantaneousUplink():
            return np.asarray(bits / (uplink.bandwidth_hz * np.log2(1.0 + uplink.fading.sample(rng, len(bits)))))
        case ErgodicUplink():
            return bits / uplink.rate_bps * _spanned_blocks(uplink, len(bits), rng) / _ERGODIC_BLOCKS
        case TraceUplink():
            starts = uplink.trace.random_starts_s(rng, len(bits), uplink.rows)
            return uplink.trace.finish_s(starts, bits) - starts
    raise TypeError(f"no blocks are drawn for {type(uplink).__name__}")


def _attempts(count: int, succeed: Callable[[int], NDArray[np.bool_]]) -> Floats:
    """Attempts until each of `count` messages is through."""
    attempts, waiting = np.zeros(count), np.arange(count)
    while len(waiting):
        attempts[waiting] += 1
        waiting = waiting[~succeed(len(waiting))]
    return attempts


def _spanned_blocks(uplink: ErgodicUplink, count: int, rng: np.random.Generator) -> Floats:
    """Blocks, the last in part, until each message is through; `_ERGODIC_BLOCKS` at the mean rate."""
    wanted = _ERGODIC_BLOCKS * uplink.rate_bps / uplink.bandwidth_hz
    spanned = np.empty(count)
    for start in range(0, count, 4096):
        size = min(4096, count - start)
        carried = np.zeros(size)
        spent = np.zeros(size)
        while np.any(carried < wanted):
            block = np.log2(1.0 + uplink.fading.sample(rng, size))
            part = np.clip((wanted - carried) / block, 0.0, 1.0)
            spent += part
            carried += block
        spanned[start : start + size] = spent
    return spanned


def _name(what: str, quantile: float) -> str:
    return f"{what}_p{round(100 * quantile)}_s"
