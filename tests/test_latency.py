"""Latency of each mode against a simulation of the rounds, quantiles by hand, and the LLM-only crossover."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuhlm_opt.channel import AwgnUplink, Link, RetransmissionUplink
from cuhlm_opt.errors import InputError
from cuhlm_opt.fading import Rayleigh
from cuhlm_opt.latency import Accounting, Asks, ComputeTimes, Pipelining, token_law
from cuhlm_opt.modes import Mode
from cuhlm_opt.payload import dense_bits, index_bits, published_bits

TIMES = ComputeTimes(slm_s=0.03, gate_s=0.004, llm_pass_s={1: 0.07, 2: 0.09, 4: 0.15, 8: 0.25})
LINK = Link(uplink=AwgnUplink(bandwidth_hz=1e6, snr=10.0), rtt_s=0.02, downlink_s=0.001)
LONGEST = 400


def geometric(skip_rate: float, bits: float) -> Asks:
    """Independent skips, and one message."""
    n = np.arange(LONGEST)
    return Asks(bits=np.array([bits]), weights=((1 - skip_rate) ** 2 * skip_rate**n)[None])


def simulate(
    mode: Mode, skip_rate: float, bits: float, answer: int, rng: np.random.Generator, n: int = 200_000
) -> float:
    """Mean time per token of 200 000 tokens, step by step."""
    n = 200_000
    if mode is Mode.SLM:
        return TIMES.slm_s
    if mode is Mode.LLM:
        return TIMES.llm_s(1) + LINK.downlink_s + LINK.rtt_s / answer
    total, pending = 0.0, 0
    for skipped in rng.random(n) < skip_rate:
        total += TIMES.slm_s + (TIMES.gate_s if mode.skips else 0.0)
        if skipped:
            pending += 1
            continue
        total += bits / LINK.uplink.rate_bps + LINK.rtt_s + TIMES.llm_s(pending + 1) + LINK.downlink_s
        pending = 0
    return total / n


@pytest.mark.parametrize("mode", list(Mode))
def test_law_equals_the_rounds(mode):
    """Within 1 %: the standard error of 200 000 tokens is a third of that."""
    skip_rate = 0.6 if mode.skips else float(mode is Mode.SLM)
    asks = geometric(skip_rate, 50_000) if mode.skips else Asks.never() if mode is Mode.SLM else Asks.always(50_000)
    law = token_law(mode, TIMES, LINK, asks, 64)
    simulated = simulate(mode, skip_rate, 50_000, 64, np.random.default_rng(0))
    assert law.mean_s == pytest.approx(simulated, rel=0.01)
    seconds, weights = law.atoms
    assert weights.sum() == pytest.approx(1)
    assert seconds @ weights == pytest.approx(law.mean_s)


def test_everything_skipped_takes_the_device_alone():
    law = token_law(Mode.U_HLM, TIMES, LINK, Asks.never(), 1)
    assert law.mean_s == law.quantile(0.99) == TIMES.slm_s + TIMES.gate_s


def test_quantiles_of_two_classes_through_retransmissions():
    """Against the atoms sorted by hand; the distribution function is their sum."""
    link = Link(uplink=RetransmissionUplink(bandwidth_hz=1e6, fading=Rayleigh(10.0)), rtt_s=0.01)
    weights = np.array([[0.2, 0.05], [0.1, 0.05]])
    law = token_law(Mode.COARSE, TIMES, link, Asks(bits=np.array([0.0, 9e4]), weights=weights), 1)
    uplink = link.uplink
    attempt_s, device = 9e4 / (1e6 * uplink.chosen_rate), 0.034
    atoms = [(device, 0.6)]
    for n, (empty, full) in enumerate(weights.T):
        base = device + 0.01 + (0.07, 0.09)[n]
        atoms.append((base, empty))
        atoms += [
            (base + tries * attempt_s, full * uplink.success * (1 - uplink.success) ** (tries - 1))
            for tries in range(1, 60)
        ]
    seconds, masses = (np.array(column) for column in zip(*sorted(atoms), strict=True))
    for q in (0.5, 0.61, 0.8, 0.86, 0.9, 0.95, 0.99):
        assert law.quantile(q) == pytest.approx(seconds[np.searchsorted(np.cumsum(masses), q)], rel=1e-9)
    assert law.mean_s == pytest.approx(seconds @ masses)
    assert law.throughput(Accounting.MEAN_RATE) == pytest.approx(masses @ (1 / seconds), rel=1e-9)
    assert law.cdf(0.6) == pytest.approx(masses[seconds <= 0.6].sum())


def test_scaled_asks_keep_messages_and_runs():
    asks = geometric(0.5, 10.0).scaled(0.75)
    assert asks.rate == pytest.approx(0.25)
    assert asks.mean_bits == 10.0
    assert Asks.never().scaled(0.5).rate == 0.0


def test_passes_are_interpolated_and_extrapolated():
    assert TIMES.llm_s(3) == pytest.approx(0.12)
    assert TIMES.llm_s(12) == pytest.approx(0.35)
    assert ComputeTimes(slm_s=0, gate_s=0, llm_pass_s={1: 0.05}).llm_s(9) == 0.05
    assert ComputeTimes(slm_s=0, gate_s=0, llm_pass_s={1: 0.04, 2: 0.06}).llm_s(4) == pytest.approx(0.10)
    assert ComputeTimes(slm_s=0, gate_s=0, llm_pass_s={1: 0.04, 2: 0.03}).llm_s(4) == 0.03


@given(st.floats(0.0, 1.0), st.floats(1e-3, 1.0), st.floats(0.0, 10.0))
def test_mean_rate_is_at_least_one_over_mean_latency(skip_rate, skipped_s, extra_s):
    """Jensen: E[1/latency] >= 1/E[latency]."""
    times = ComputeTimes(slm_s=skipped_s, gate_s=0.0, llm_pass_s={1: extra_s})
    law = token_law(Mode.U_HLM, times, LINK, Asks(bits=np.zeros(1), weights=np.array([[1 - skip_rate]])), 1)
    assert law.throughput(Accounting.MEAN_RATE) >= law.throughput(Accounting.MEAN_LATENCY) * (1 - 1e-12)


@given(st.floats(0.0, 0.99), st.floats(0.0, 0.1), st.floats(1e4, 1e8))
def test_llm_wins_iff_the_stated_inequality_holds(skip_rate, rtt_s, bandwidth_hz):
    """(1-p)(r + tau_up) + tau_gate > p tau_llm - tau_slm + downlink + r/T, where passes cost the same for every n."""
    times = ComputeTimes(slm_s=0.03, gate_s=0.004, llm_pass_s={1: 0.07})
    link = Link(uplink=AwgnUplink(bandwidth_hz=bandwidth_hz, snr=3.0), rtt_s=rtt_s)
    bits, answer = 10_000.0, 50
    hybrid = token_law(Mode.CU_HLM_OFFLINE, times, link, geometric(skip_rate, bits).scaled(skip_rate), answer)
    alone = token_law(Mode.LLM, times, link, Asks.always(0.0), answer)
    left = (1 - skip_rate) * (rtt_s + float(link.mean_uplink_s(bits))) + times.gate_s
    right = skip_rate * 0.07 - times.slm_s + rtt_s / answer
    if abs(left - right) > 1e-9:
        assert (alone.mean_s < hybrid.mean_s) == (left > right)


def test_gain_over_hlm_stays_under_the_cap_of_the_headline():
    """152.6 at 97.4 % compression, 4 233 at k = 30, and 53 at k = 832 against a dense law, with 74.8 % skipped."""
    free = ComputeTimes(slm_s=0.0, gate_s=0.0, llm_pass_s={1: 0.0})
    link = Link(uplink=AwgnUplink(bandwidth_hz=1.0, snr=1.0))

    def gain(bits: float, full_bits: float) -> float:
        hybrid = token_law(Mode.CU_HLM_OFFLINE, free, link, Asks.always(bits).scaled(0.748), 1)
        return token_law(Mode.HLM, free, link, Asks.always(full_bits), 1).mean_s / hybrid.mean_s

    assert gain(0.026 * 32_000 * 23, 32_000 * 23) == pytest.approx(152.6, abs=0.05)
    assert round(gain(30 * 23, 32_000 * 23)) == 4233
    assert round(gain(832 * 23, 32_000 * 8)) == 53


def test_a_peer_s_latency_table_from_its_assumptions():
    """L(K) = 0.07 + 0.23 K/|V|, |V| = 32 000 [THEORY 7.3]: 16 bits a probability, no index bits, one law a token."""
    vocab_size, fixed_s = 32_000, 0.07
    full_bits = dense_bits(vocab_size, 16)
    link = Link(uplink=AwgnUplink(bandwidth_hz=full_bits / 0.23, snr=1.0))
    times = ComputeTimes(slm_s=fixed_s, gate_s=0.0, llm_pass_s={1: 0.0})
    found = []
    for k in (3, 32, 320, 3_200, 32_000):
        bits = published_bits(float(k), vocab_size, 16) - k * index_bits(vocab_size)
        found.append(token_law(Mode.HLM, times, link, Asks.always(bits), 1).mean_s)
    assert found == pytest.approx([0.0700, 0.0702, 0.0723, 0.093, 0.300], abs=5e-5)


@pytest.mark.parametrize("slm_s", [float("nan"), -0.1, float("inf")])
def test_impossible_times_are_refused(slm_s):
    with pytest.raises(InputError, match="compute times"):
        ComputeTimes(slm_s=slm_s, gate_s=0.0, llm_pass_s={1: 0.1})
    with pytest.raises(InputError, match="compute times"):
        ComputeTimes(slm_s=0.1, gate_s=0.0, llm_pass_s={})


def eager_s(asked: list[bool], link: Link, bits: float) -> float:
    """Time from the verdict before an answer to its last one, event by event."""
    device = TIMES.device_s(Mode.U_HLM)
    verdict, arrived = 0.0, link.rtt_s / 2 + link.downlink_s  # when the LLM gave one, and when the device got it
    run = 0
    for asks in asked:
        run += 1
        if not asks:
            continue
        message = arrived + run * device + float(link.mean_uplink_s(bits)) + link.rtt_s / 2
        free = verdict + float(TIMES.llm_s(1))
        verdict = max(message, free) + (float(TIMES.llm_s(run - 1)) if run > 1 else 0.0)
        arrived, run = verdict + link.rtt_s / 2 + link.downlink_s, 0
    return verdict


@pytest.mark.parametrize("seed", range(6))
def test_reading_on_from_each_verdict_event_by_event(seed):
    """Pipelined: the stated latencies add up to the time from verdict to verdict."""
    rng = np.random.default_rng(seed)
    times = replace(TIMES, pipelining=Pipelining.EAGER)
    link = Link(uplink=AwgnUplink(bandwidth_hz=10 ** rng.uniform(3, 7), snr=3.0), rtt_s=rng.choice([0, 0.01, 0.2]))
    asked = [*(rng.random(300) < 0.5).tolist(), True]
    runs = np.diff(np.flatnonzero([True, *asked]))
    asks = Asks(bits=np.array([5e3]), weights=np.bincount(runs - 1)[None] / len(asked))
    law = token_law(Mode.U_HLM, times, link, asks, 1)
    assert law.mean_s * len(asked) == pytest.approx(eager_s(asked, link, 5e3))
    assert law.passes == pytest.approx((len(runs) + np.count_nonzero(runs > 1)) / len(asked))
