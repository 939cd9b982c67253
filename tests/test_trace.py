"""Traces: draining against a step-by-step fluid, the law of the time, and every file that is refused."""

import numpy as np
import pytest

from cuhlm_opt.artefacts import ChannelSettings
from cuhlm_opt.channel import TraceUplink
from cuhlm_opt.errors import InputError
from cuhlm_opt.links import link_of, settled
from cuhlm_opt.trace import Trace, read_trace

TRACE = Trace(np.array([0.0, 1.0, 1.5, 4.0]), np.array([2e3, 500.0, 4e3, 1e3]), 5.0)


def drained(start: float, bits: float, step: float = 1e-4) -> float:
    """When `bits` are through, by small steps of time."""
    time = start
    while bits > 0:
        at = np.searchsorted(TRACE.starts_s, time % TRACE.length_s, side="right") - 1
        bits -= TRACE.rates_bps[at] * step
        time += step
    return time


@pytest.mark.parametrize("bits", [10.0, 1500.0, 30_000.0])
def test_a_message_drains_as_a_fluid(bits):
    starts = np.array([0.0, 0.9, 2.2, 4.95])
    finish = TRACE.finish_s(starts, bits)
    assert finish == pytest.approx([drained(float(start), bits) for start in starts], abs=5e-3)


@pytest.mark.parametrize("bits", [10.0, 777.0, 1500.0, 14_750.0, 30_000.0])
def test_law_of_the_time_is_that_of_random_starts(bits):
    starts = (np.arange(1_000_000) + 0.5) / 1e6 * TRACE.length_s
    times, law = TRACE.finish_s(starts, bits) - starts, TRACE.service(bits)
    assert law.mean_s == pytest.approx(times.mean(), rel=1e-6)
    for q in (0.05, 0.4, 0.5, 0.95, 0.99):
        assert law.quantile(q) == pytest.approx(np.quantile(times, q), rel=3e-4)
        assert float(law.cdf(law.quantile(q))) >= q - 1e-9


def test_neither_bits_over_the_mean_rate_nor_the_mean_of_bits_over_the_rate():
    law = TRACE.service(1500.0)
    steps = np.diff(np.append(TRACE.starts_s, TRACE.length_s)) / TRACE.length_s
    assert law.mean_s > 1.02 * 1500 / TRACE.mean_rate_bps
    assert law.mean_s < 0.9 * float(steps @ (1500 / TRACE.rates_bps))


def test_a_constant_trace_is_a_constant_rate():
    law = Trace(np.array([0.0, 1.0]), np.array([1e3, 1e3]), 2.0).service(250.0)
    assert (law.mean_s, law.quantile(0.01), law.quantile(0.99)) == pytest.approx((0.25, 0.25, 0.25))


def test_many_lengths_are_interpolated():
    uplink, bits = TraceUplink(trace=TRACE), np.geomspace(1.0, 1e5, 700)
    exact = [TRACE.service(float(each)).mean_s for each in bits[::50]]
    assert uplink.mean_s(bits)[::50] == pytest.approx(exact, rel=1e-3)
    assert uplink.mean_s(np.zeros((2, 3))).tolist() == [[0.0] * 3] * 2


def write(tmp_path, text: str):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


def test_nothing_to_send_takes_no_time():
    assert TraceUplink(trace=TRACE).mean_s(np.empty(0)).shape == (0,)


def test_another_file_than_the_point_s_is_refused(tmp_path):
    path = write(tmp_path, "0,1000\n1,2000\n")
    settings = ChannelSettings(kind="trace", trace=str(path))
    settings = settled(settings, link_of(settings))
    assert link_of(settings).uplink.rate_bps == 1500.0
    path.write_text("0,1000\n1,2001\n")
    with pytest.raises(InputError, match="is not the file that the operating point was solved for"):
        link_of(settings)


def test_read_with_and_without_a_row_of_names(tmp_path):
    rows = "10,1000\n11,2000\n12.5,500\n"
    for text in (rows, "time_s,rate_bps\n" + rows, "\ufeff" + rows):
        trace = read_trace(write(tmp_path, text))
        assert trace.starts_s.tolist() == [0.0, 1.0, 2.5]
        assert trace.rates_bps.tolist() == [1000.0, 2000.0, 500.0]
        assert trace.length_s == 4.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 rows"),
        ("time,rate\n0,1\n", "has 1 rows"),
        ("0,1\n1\n", "without two numbers"),
        ("0,1\n1,fast\n", "without two numbers"),
        ("0,1\n1,0\n", "rate 0 at 1 s"),
        ("0,1\n1,-3\n", "rate -3 at"),
        ("0,1\n1,nan\n", "rate nan"),
        ("0,1\n2,1\n1,1\n", "time does not increase after 2 s"),
        ("0,1\n1,1\n1,2\n", "time does not increase"),
        ("0,1\n1,1\n2,1\n3,1\n60,1\n61,1\n", "a gap of 57 s after 3 s"),
    ],
)
def test_unusable_files_are_named_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match="--trace") as caught:
        read_trace(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_trace(tmp_path / "none.csv")
