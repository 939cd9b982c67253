"""Uplinks: known limits of each channel, laws of the service time against draws, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from cuhlm_opt.channel import (
    AwgnUplink,
    ErgodicUplink,
    InstantaneousUplink,
    Link,
    RetransmissionUplink,
    ShortPacketUplink,
)
from cuhlm_opt.errors import InputError
from cuhlm_opt.fading import Nakagami, Rayleigh, Rician, best_fixed_rate, ergodic_capacity, success_probability
from cuhlm_opt.service import Attempts, Fixed, PiecewiseUniform

POSITIVE = st.floats(1e-3, 1e9)
FADINGS = [
    Rayleigh(10.0), Rayleigh(0.1), Rician(10.0, 6.0), Rician(1.0, 0.5), Rician(1e6, 6.0), Rician(1e4, 100.0),
    Nakagami(10.0, 2.0), Nakagami(3.0, 0.7),
]  # fmt: skip
BLOCKS = 400_000


@pytest.mark.parametrize(("snr", "bits_per_hz"), [(1, 1), (3, 2), (1023, 10), (math.sqrt(2) - 1, 0.5)])
def test_shannon(snr, bits_per_hz):
    """W log2(1 + SNR) bit/s."""
    uplink = AwgnUplink(bandwidth_hz=2e6, snr=snr)
    assert uplink.rate_bps == pytest.approx(2e6 * bits_per_hz, rel=1e-14)
    assert uplink.mean_s(5e6) == pytest.approx(2.5 / bits_per_hz, rel=1e-14)


def test_published_upload_at_10_mhz_and_10_db():
    """736 000 bits at 10 MHz log2(11) = 34.594 Mbit/s take 21.27 ms."""
    assert AwgnUplink(bandwidth_hz=10e6, snr=10.0).mean_s(736_000) == pytest.approx(21.2752e-3, rel=1e-5)


def test_low_snr():
    """The rate tends to W SNR / ln 2, from below by a factor 1 - SNR/2: 1e-12 must not be lost beside 1."""
    assert AwgnUplink(bandwidth_hz=1e6, snr=1e-12).rate_bps == pytest.approx(1e6 * 1e-12 / math.log(2), rel=1e-11)


def test_wide_band():
    """With received power P and noise N0, W log2(1 + P/(N0 W)) tends to P/(N0 ln 2), by a factor 1 - P/(2 N0 W)."""
    assert AwgnUplink(bandwidth_hz=1e12, snr=1e6 / 1e12).rate_bps == pytest.approx(1e6 / math.log(2), rel=1e-6)


@given(POSITIVE, POSITIVE, st.floats(1.01, 100))
def test_rate_grows_with_bandwidth_and_snr(bandwidth_hz, snr, factor):
    base = AwgnUplink(bandwidth_hz=bandwidth_hz, snr=snr)
    assert AwgnUplink(bandwidth_hz=factor * bandwidth_hz, snr=snr).rate_bps > base.rate_bps
    assert AwgnUplink(bandwidth_hz=bandwidth_hz, snr=factor * snr).rate_bps > base.rate_bps
    assert base.mean_s(0) == 0
    assert base.mean_s(2e3) == pytest.approx(2 * base.mean_s(1e3), rel=1e-14)


@pytest.mark.parametrize("fading", FADINGS)
def test_fading_by_draws(fading):
    """Mean, outage and quantile of the SNR of a block within 4 standard errors of draws."""
    snr = fading.sample(np.random.default_rng(0), BLOCKS)
    assert abs(snr.mean() - fading.mean_snr) < 4 * snr.std() / math.sqrt(BLOCKS)
    for q in (0.01, 0.3, 0.9):
        at = fading.quantile(q)
        assert float(fading.outage(at)) == pytest.approx(q, rel=1e-9)
        assert abs(np.mean(snr < at) - q) < 4 * math.sqrt(q * (1 - q) / BLOCKS)


@pytest.mark.parametrize("fading", FADINGS)
def test_ergodic_capacity_by_draws(fading):
    carried = np.log2(1 + fading.sample(np.random.default_rng(1), BLOCKS))
    assert abs(ergodic_capacity(fading) - carried.mean()) < 4 * carried.std() / math.sqrt(BLOCKS)
    uplink = ErgodicUplink(bandwidth_hz=2.0, fading=fading)
    assert uplink.rate_bps == pytest.approx(2 * ergodic_capacity(fading))
    assert uplink.service(8.0).mean_s == uplink.mean_s(8.0) == pytest.approx(4 / ergodic_capacity(fading))


def test_rician_and_nakagami_contain_rayleigh_and_awgn():
    """K = 0 and m = 1 are Rayleigh; K and m to infinity a fixed SNR."""
    snr = np.array([0.1, 1.0, 10.0, 40.0])
    for same in (Rician(10.0, 0.0), Nakagami(10.0, 1.0)):
        np.testing.assert_allclose(same.outage(snr), Rayleigh(10.0).outage(snr), rtol=1e-12)
        assert ergodic_capacity(same) == pytest.approx(ergodic_capacity(Rayleigh(10.0)), rel=1e-9)
        assert best_fixed_rate(same) == pytest.approx(best_fixed_rate(Rayleigh(10.0)), rel=1e-6)
    for steady in (Rician(10.0, 1e6), Nakagami(10.0, 1e6)):
        assert ergodic_capacity(steady) == pytest.approx(math.log2(11), rel=1e-4)


@pytest.mark.parametrize("fading", FADINGS)
def test_fixed_rate_has_the_largest_goodput(fading):
    best = RetransmissionUplink(bandwidth_hz=1.0, fading=fading)
    rates = best.chosen_rate * np.geomspace(0.02, 20, 4001)
    goodput = [rate * success_probability(fading, float(rate)) for rate in rates]
    assert best.rate_bps >= max(goodput) * (1 - 1e-9)
    assert best.rate_bps < ergodic_capacity(fading)
    given_rate = RetransmissionUplink(bandwidth_hz=1.0, fading=fading, rate=0.5)
    assert given_rate.rate_bps == pytest.approx(0.5 * (1 - float(fading.outage(math.sqrt(2) - 1))))
    law = given_rate.service(10.0)
    assert law.mean_s == pytest.approx(float(given_rate.mean_s(10.0)))
    assert law.quantile(1e-9) == 20.0


@pytest.mark.parametrize("fading", [Rayleigh(10.0), Rician(10.0, 6.0), Rician(10.0, 0.0), Nakagami(5.0, 1.0)])
def test_mean_latency_at_instantaneous_rate_is_refused_where_it_diverges(fading):
    with pytest.raises(InputError, match=r"--coding 'instantaneous' .* infinite; use fixed-rate or ergodic"):
        InstantaneousUplink(bandwidth_hz=1e6, fading=fading)


@pytest.mark.parametrize("m", [1.3, 2.0, 6.0])
def test_instantaneous_rate_where_its_mean_exists(m):
    """E[1/log2(1 + SNR)] for m > 1 by draws, below the bound ln 2 (1 + m/((m-1) g)) [N, fading_divergence]."""
    uplink = InstantaneousUplink(bandwidth_hz=1e3, fading=Nakagami(10.0, m))
    law = uplink.service(500.0)
    times = law.sample(np.random.default_rng(2), BLOCKS)
    if m >= 2:  # below, the draws have no variance
        assert abs(times.mean() - law.mean_s) < 5 * times.std() / math.sqrt(BLOCKS)
    assert law.mean_s < 0.5 * math.log(2) * (1 + m / ((m - 1) * 10))
    for q in (0.1, 0.5, 0.95):
        assert abs(np.mean(times <= law.quantile(q)) - q) < 4 * math.sqrt(q * (1 - q) / BLOCKS)
        assert float(law.cdf(law.quantile(q))) == pytest.approx(q, rel=1e-9)
    seconds, weights = law.atoms()
    assert seconds @ weights == pytest.approx(law.mean_s)
    rate = np.mean(1 / (0.1 + times))
    assert weights @ (1 / (0.1 + seconds)) == pytest.approx(rate, rel=0.01), "the tail must not move the other atoms"
    assert uplink.service(0.0).mean_s == 0.0


def test_short_packets_against_the_formula_and_its_limits():
    """N log2(1+s) - sqrt(N V) Q^-1(e) + log2(2N)/2 bits; the uses are the fewest, and tend to those of capacity."""
    uplink = ShortPacketUplink(bandwidth_hz=1e6, snr=10.0, block_error=1e-3)
    dispersion = (1 - 11.0**-2) * math.log2(math.e) ** 2
    for n in (10.0, 300.0):
        bits = n * math.log2(11) - math.sqrt(n * dispersion) * norm.isf(1e-3) + 0.5 * math.log2(2 * n)
        assert float(uplink.bits_within(n)) == pytest.approx(bits, rel=1e-12)
    wanted = np.array([1.0, 26.0, 500.0, 1e5])
    uses = uplink.uses(wanted)
    assert np.all(uplink.bits_within(uses) >= wanted)
    assert np.all(uplink.bits_within(uses - 1) < wanted)
    assert float(uplink.mean_s(1e8)) == pytest.approx(1e8 / uplink.rate_bps, rel=1e-3)
    capacity_s = AwgnUplink(bandwidth_hz=1e6, snr=10.0).mean_s(26.0)
    assert float(uplink.mean_s(26.0)) > 1.4 * float(capacity_s), "26 bits are far from capacity"
    assert uplink.uses(0.0) == 0
    law = uplink.service(500.0)
    assert law.mean_s == pytest.approx(float(uplink.mean_s(500.0)))


@given(st.floats(1e-3, 1e4), st.sampled_from([0.5, 0.1, 1e-3, 1e-6]), st.floats(1.0, 1e6))
def test_uses_of_short_packets_grow_with_the_bits(snr, error, bits):
    uplink = ShortPacketUplink(bandwidth_hz=1.0, snr=snr, block_error=error)
    uses = uplink.uses(np.array([bits, 1.5 * bits]))
    assert uses[0] <= uses[1]
    assert uses[0] == math.floor(uses[0]) >= 1
    assert np.all(uplink.bits_within(uses) >= [bits, 1.5 * bits])


def test_attempts_and_atoms():
    law = Attempts(0.5, 0.25)
    draws = law.sample(np.random.default_rng(3), BLOCKS)
    assert abs(draws.mean() - law.mean_s) < 4 * draws.std() / math.sqrt(BLOCKS)
    seconds, weights = law.atoms()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert seconds @ weights == pytest.approx(law.mean_s, rel=1e-9)
    assert law.cdf(np.array([0.4, 0.5, 1.0])).tolist() == [0.0, 0.25, 1 - 0.75**2]
    assert [law.quantile(q) for q in (0.25, 0.26, 1 - 0.75**3)] == [0.5, 1.0, 1.5]
    assert Attempts(0.5, 1.0).quantile(0.999) == 0.5
    assert Fixed(2.0).cdf(np.array([1.9, 2.0])).tolist() == [0.0, 1.0]


def test_mixture_of_uniforms_with_a_step():
    law = PiecewiseUniform(np.array([1.0, 0.0]), np.array([1.0, 2.0]), np.array([0.5, 0.5]))
    assert law.cdf(np.array([-1.0, 0.5, 0.999999999, 1.0, 2.0, 3.0])) == pytest.approx([0, 0.125, 0.25, 0.75, 1, 1])
    assert [law.quantile(q) for q in (0.125, 0.3, 0.75, 0.875)] == pytest.approx([0.5, 1.0, 1.0, 1.5])
    draws = law.sample(np.random.default_rng(4), BLOCKS)
    assert np.mean(draws <= 1.0) == pytest.approx(0.75, abs=4 * math.sqrt(0.1875 / BLOCKS))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rician(1.0, -0.1), "--rician-k -0.1"),
        (lambda: Nakagami(1.0, 0.49), "--nakagami-m 0.49"),
        (lambda: ShortPacketUplink(bandwidth_hz=1.0, snr=1.0, block_error=0.0), "--block-error 0.0"),
        (lambda: Link(uplink=AwgnUplink(bandwidth_hz=1.0, snr=1.0), rtt_s=-1.0), "--rtt -1.0"),
        (lambda: Link(uplink=AwgnUplink(bandwidth_hz=1.0, snr=1.0), overhead_bits=math.nan), "--overhead nan"),
    ],
)
def test_refused(make, message):
    with pytest.raises(InputError, match=f"^{message} is not allowed"):
        make()


def test_headers_are_part_of_every_message():
    link = Link(uplink=AwgnUplink(bandwidth_hz=1e3, snr=1.0), overhead_bits=40.0)
    assert float(link.mean_uplink_s(0.0)) == link.service(0.0).mean_s == pytest.approx(0.04)
    assert float(link.mean_uplink_s(60.0)) == pytest.approx(0.1)
