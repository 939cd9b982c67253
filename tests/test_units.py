"""Text to SI floats and back, and every text that is refused."""

import math

import pytest

from cuhlm_opt.errors import InputError
from cuhlm_opt.units import check_fraction, format_si, parse_bandwidth_hz, parse_snr, parse_time_s

NO_QUANTITY = ["", " ", "MHz", "ten MHz", "infHz", "-infHz", "nanHz", "10 k Hz", "10MHz\n20MHz", "1,4GHz", "W = 10MHz",
               "W: 10MHz", "10MHz # or so"]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "hertz"),
    [("10MHz", 10e6), ("200kHz", 200e3), ("1.4GHz", 1.4e9), ("10 MHz", 10e6), (" 1Hz ", 1.0), ("1e6Hz", 1e6)],
)
def test_bandwidth(text, hertz):
    assert parse_bandwidth_hz(text) == pytest.approx(hertz, rel=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "0Hz",
        "-5MHz",
        "10",
        "10M",
        "10 parsecs",
        "NaN",
        "inf",
        "10mhz",
        "10Mhz",
        "10MHZ",
        "1e400Hz",
        "10ms",
        *NO_QUANTITY,
    ],
)
def test_bandwidth_refuses(text):
    assert_refused(lambda: parse_bandwidth_hz(text), "--bandwidth", text, "10MHz")


@pytest.mark.parametrize(("text", "ratio"), [("-5dB", 10**-0.5), ("10dB", 10.0), ("0dB", 1.0), ("3 dB", 10**0.3)])
def test_snr(text, ratio):
    assert parse_snr(text) == pytest.approx(ratio, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["10", "0", "10db", "10dBm", "100.5dB", "-101dB", "1e9dB", "NaN", "10MHz", *NO_QUANTITY]
)
def test_snr_refuses(text):
    assert_refused(lambda: parse_snr(text), "--snr", text, "decibels")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20ms", 20e-3), ("20us", 20e-6), ("20µs", 20e-6), ("20μs", 20e-6), ("0s", 0.0), ("1.5s", 1.5)],
)
def test_time(text, seconds):
    """Both micro signs of Unicode are read."""
    assert parse_time_s(text, "--rtt") == pytest.approx(seconds, rel=1e-15)


@pytest.mark.parametrize("text", ["0", "20", "-1ms", "20 sec", "1min", "NaN", "inf", "20Hz", *NO_QUANTITY])
def test_time_refuses(text):
    assert_refused(lambda: parse_time_s(text, "--rtt"), "--rtt", text, "20ms")


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1, 1.0])
def test_fraction(value):
    assert check_fraction(value, "--p") == value


@pytest.mark.parametrize("value", [-1e-9, 1 + 1e-9, math.nan, math.inf, -math.inf])
def test_fraction_refuses(value):
    assert_refused(lambda: check_fraction(value, "--p"), "--p", value, "between 0 and 1")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0123, "s", "12.3 ms"), (2e7, "Hz", "20 MHz"), (0.0, "s", "0 s"), (1234.5, "bit/s", "1.23 kbit/s")],
)
def test_format_si(value, unit, text):
    assert format_si(value, unit) == text


def assert_refused(parse, name, value, allowed):
    """One line, exit code 2, with the argument, its value and what is allowed."""
    with pytest.raises(InputError) as refusal:
        parse()
    message = str(refusal.value)
    assert "\n" not in message
    assert message.startswith(f"{name} {value!r} ")
    assert allowed in message
    assert refusal.value.exit_code == 2
    assert refusal.value.__cause__ is None
