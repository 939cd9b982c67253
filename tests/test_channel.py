"""The Shannon uplink: limits, monotonicity, and what is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuhlm_opt.channel import AwgnChannel
from cuhlm_opt.errors import InputError

POSITIVE = st.floats(1e-3, 1e9)


@pytest.mark.parametrize(("snr", "bits_per_hz"), [(1, 1), (3, 2), (1023, 10), (math.sqrt(2) - 1, 0.5)])
def test_shannon(snr, bits_per_hz):
    """W log2(1 + SNR) bit/s."""
    channel = AwgnChannel(bandwidth_hz=2e6, snr=snr)
    assert channel.rate_bps == pytest.approx(2e6 * bits_per_hz, rel=1e-14)
    assert channel.uplink_s(5e6) == pytest.approx(2.5 / bits_per_hz, rel=1e-14)


def test_published_upload_at_10_mhz_and_10_db():
    """736 000 bits at 10 MHz log2(11) = 34.594 Mbit/s take 21.27 ms."""
    assert AwgnChannel(bandwidth_hz=10e6, snr=10.0).uplink_s(736_000) == pytest.approx(21.2752e-3, rel=1e-5)


def test_low_snr():
    """The rate tends to W SNR / ln 2, from below by a factor 1 - SNR/2: 1e-12 must not be lost beside 1."""
    channel = AwgnChannel(bandwidth_hz=1e6, snr=1e-12)
    assert channel.rate_bps == pytest.approx(1e6 * 1e-12 / math.log(2), rel=1e-11)


def test_wide_band():
    """With received power P and noise N0, W log2(1 + P/(N0 W)) tends to P/(N0 ln 2), by a factor 1 - P/(2 N0 W)."""
    assert AwgnChannel(bandwidth_hz=1e12, snr=1e6 / 1e12).rate_bps == pytest.approx(1e6 / math.log(2), rel=1e-6)


def test_high_snr():
    """Each 3.01 dB bring one more bit/s/Hz."""
    rates = [AwgnChannel(bandwidth_hz=1.0, snr=snr).rate_bps for snr in (1e9, 2e9)]
    assert rates[1] - rates[0] == pytest.approx(1, abs=2e-9)  # log2 of (1 + 2s)/(2 (1 + s)) = -1/(2 s ln 2)


@given(POSITIVE, POSITIVE, st.floats(1.01, 100))
def test_rate_grows_with_bandwidth_and_snr(bandwidth_hz, snr, factor):
    base = AwgnChannel(bandwidth_hz=bandwidth_hz, snr=snr)
    assert AwgnChannel(bandwidth_hz=factor * bandwidth_hz, snr=snr).rate_bps > base.rate_bps
    assert AwgnChannel(bandwidth_hz=bandwidth_hz, snr=factor * snr).rate_bps > base.rate_bps
    assert base.uplink_s(0) == 0
    assert base.uplink_s(2e3) == pytest.approx(2 * base.uplink_s(1e3), rel=1e-14)


@pytest.mark.parametrize("name", ["bandwidth_hz", "snr", "rtt_s", "downlink_s"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, -math.inf])
def test_refused(name, value):
    with pytest.raises(InputError, match=rf"^{name} {value!r} is not allowed; give a finite number >=? 0$"):
        AwgnChannel(**{"bandwidth_hz": 1e6, "snr": 1.0, name: value})


@pytest.mark.parametrize("name", ["bandwidth_hz", "snr"])
def test_zero_is_refused_where_it_means_no_link(name):
    with pytest.raises(InputError, match=f"^{name} 0.0 .* > 0$"):
        AwgnChannel(**{"bandwidth_hz": 1e6, "snr": 1.0, name: 0.0})


def test_zero_delays_are_a_choice():
    channel = AwgnChannel(bandwidth_hz=1e6, snr=1.0)
    assert (channel.rtt_s, channel.downlink_s) == (0.0, 0.0)
