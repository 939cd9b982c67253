"""Time per token of each mode against a simulation of the rounds, the accounting switch, and the LLM-only crossover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuhlm_opt.channel import AwgnChannel
from cuhlm_opt.errors import InputError
from cuhlm_opt.latency import Accounting, ComputeTimes, TokenTime, token_time
from cuhlm_opt.modes import Mode

TIMES = ComputeTimes(slm_s=0.03, gate_s=0.004, llm_pass_s={1: 0.07, 2: 0.09, 4: 0.15, 8: 0.25})
CHANNEL = AwgnChannel(bandwidth_hz=1e6, snr=10.0, rtt_s=0.02, downlink_s=0.001)


def simulate(
    mode: Mode, skip_rate: float, bits: float, answer: int, rng: np.random.Generator, n: int = 200_000
) -> float:
    """Mean time per token of 200 000 tokens, step by step."""
    n = 200_000
    if mode is Mode.SLM:
        return TIMES.slm_s
    if mode is Mode.LLM:
        return TIMES.llm_s(1) + CHANNEL.downlink_s + CHANNEL.rtt_s / answer
    total, pending = 0.0, 0
    for skipped in rng.random(n) < skip_rate:
        total += TIMES.slm_s + (TIMES.gate_s if mode.skips else 0.0)
        if skipped:
            pending += 1
            continue
        total += bits / CHANNEL.rate_bps + CHANNEL.rtt_s + TIMES.llm_s(pending + 1) + CHANNEL.downlink_s
        pending = 0
    return total / n


@pytest.mark.parametrize("mode", list(Mode))
def test_closed_form_equals_the_rounds(mode):
    """Within 1 %: the standard error of 200 000 tokens is a third of that."""
    skip_rate = 0.6 if mode.skips else float(mode is Mode.SLM)
    time = token_time(mode, TIMES, CHANNEL, payload_bits=50_000, skip_rate=skip_rate, answer_tokens=64)
    simulated = simulate(mode, skip_rate, 50_000, 64, np.random.default_rng(0))
    assert time.mean_s == pytest.approx(simulated, rel=0.01)


@pytest.mark.parametrize(
    "passes", [dict(TIMES.llm_pass_s), {1: 0.04}, {2: 0.04, 4: 0.06}, {1: 0.04, 2: 0.03}, {3: 0.05, 16: 0.3}]
)
def test_pass_time_per_token_sums_the_geometric_law(passes):
    times = ComputeTimes(slm_s=0.02, gate_s=0.0, llm_pass_s=passes)
    n, skip_rates = np.arange(1, 5000), np.array([0.0, 0.3, 0.75, 0.9, 0.99])
    weights = (1 - skip_rates[:, None]) * skip_rates[:, None] ** (n - 1.0)
    expected = (1 - skip_rates) * (weights @ [times.llm_s(size) for size in n])
    np.testing.assert_allclose(times.llm_per_token_s(skip_rates), expected, rtol=1e-9)
    assert times.llm_per_token_s(0.3) == pytest.approx(expected[1], rel=1e-9)


def test_no_pass_where_everything_is_skipped():
    time = token_time(Mode.U_HLM, TIMES, CHANNEL, payload_bits=1.0, skip_rate=1.0, answer_tokens=1)
    assert time.mean_s == TIMES.slm_s + TIMES.gate_s
    assert np.isnan(time.asked_s)


def test_passes_are_interpolated_and_extrapolated():
    assert TIMES.llm_s(3) == pytest.approx(0.12)
    assert TIMES.llm_s(12) == pytest.approx(0.35)
    assert ComputeTimes(slm_s=0, gate_s=0, llm_pass_s={1: 0.05}).llm_s(9) == 0.05
    assert ComputeTimes(slm_s=0, gate_s=0, llm_pass_s={1: 0.04, 2: 0.06}).llm_s(4) == pytest.approx(0.10)
    assert ComputeTimes(slm_s=0, gate_s=0, llm_pass_s={1: 0.04, 2: 0.03}).llm_s(4) == 0.03


@given(st.floats(0.0, 1.0), st.floats(1e-3, 1.0), st.floats(0.0, 10.0))
def test_mean_rate_is_at_least_one_over_mean_latency(skip_rate, skipped_s, extra_s):
    """Jensen: E[1/latency] >= 1/E[latency]."""
    time = TokenTime(skip_rate=skip_rate, skipped_s=skipped_s, asked_s=skipped_s + extra_s)
    assert time.throughput(Accounting.MEAN_RATE) >= time.throughput(Accounting.MEAN_LATENCY) * (1 - 1e-12)


@given(st.floats(0.0, 0.99), st.floats(0.0, 0.1), st.floats(1e4, 1e8))
def test_llm_wins_iff_the_stated_inequality_holds(skip_rate, rtt_s, bandwidth_hz):
    """(1-p)(r + tau_up) + tau_gate > p tau_llm - tau_slm + downlink + r/T, where passes cost the same for every n."""
    times = ComputeTimes(slm_s=0.03, gate_s=0.004, llm_pass_s={1: 0.07})
    channel = AwgnChannel(bandwidth_hz=bandwidth_hz, snr=3.0, rtt_s=rtt_s)
    bits, answer = 10_000.0, 50

    def mean(mode: Mode) -> float:
        return token_time(
            mode, times, channel, payload_bits=bits, skip_rate=skip_rate, answer_tokens=answer
        ).mean_s  # fmt: skip

    left = (1 - skip_rate) * (rtt_s + channel.uplink_s(bits)) + times.gate_s
    right = skip_rate * 0.07 - times.slm_s + rtt_s / answer
    if abs(left - right) > 1e-9:
        assert (mean(Mode.LLM) < mean(Mode.CU_HLM_OFFLINE)) == (left > right)


def test_gain_over_hlm_stays_under_the_cap_of_the_headline():
    """152.6 at 97.4 % compression, 4 233 at k = 30, and 53 at k = 832 against a dense law, with 74.8 % skipped."""
    skipped = 0.748
    free = ComputeTimes(slm_s=0.0, gate_s=0.0, llm_pass_s={1: 0.0})
    channel = AwgnChannel(bandwidth_hz=1.0, snr=1.0)

    def gain(bits: float, full_bits: float) -> float:
        hybrid, full = (
            token_time(mode, free, channel, payload_bits=b, skip_rate=s, answer_tokens=1).mean_s
            for mode, b, s in ((Mode.CU_HLM_OFFLINE, bits, skipped), (Mode.HLM, full_bits, 0.0))
        )
        return full / hybrid

    assert gain(0.026 * 32_000 * 23, 32_000 * 23) == pytest.approx(152.6, abs=0.05)
    assert round(gain(30 * 23, 32_000 * 23)) == 4233
    assert round(gain(832 * 23, 32_000 * 8)) == 53


@pytest.mark.parametrize("slm_s", [float("nan"), -0.1, float("inf")])
def test_impossible_times_are_refused(slm_s):
    with pytest.raises(InputError, match="compute times"):
        ComputeTimes(slm_s=slm_s, gate_s=0.0, llm_pass_s={1: 0.1})
    with pytest.raises(InputError, match="compute times"):
        ComputeTimes(slm_s=0.1, gate_s=0.0, llm_pass_s={})
