"""Quantities with units, as people write them, to SI floats: the one place where text becomes numbers.

A bare number is refused where a unit carries meaning: `10` could be hertz or megahertz.
"""

import math

from quantiphy import QuantiPhyError, Quantity

from cuhlm_opt.errors import InputError

_REFUSED = set(",=:#")  # QuantiPhy reads 1,4GHz as 14 GHz, and takes names (W = 10MHz) and comments
_HINT_HZ = "a positive frequency with its unit, such as 10MHz or 200kHz"
_HINT_S = "a time of at least zero with its unit, such as 20ms"


def _quantity(text: str, name: str, hint: str) -> Quantity:
    try:
        if _REFUSED & set(text):
            raise QuantiPhyError
        return Quantity(text.strip().replace("μ", "µ"))
    except QuantiPhyError:
        raise InputError(f"{name} {text!r} is not a quantity; give {hint}") from None


def parse_bandwidth_hz(text: str, name: str = "--bandwidth") -> float:
    """Bandwidth in Hz, positive and finite.

    >>> parse_bandwidth_hz("10MHz")
    10000000.0
    """
    quantity = _quantity(text, name, _HINT_HZ)
    if quantity.units != "Hz" or not math.isfinite(quantity) or quantity <= 0:
        raise InputError(f"{name} {text!r} is not allowed; give {_HINT_HZ}")
    return float(quantity)


def parse_snr(text: str, name: str = "--snr") -> float:
    """Linear signal-to-noise ratio, positive, from decibels (`10dB`, `-5dB`).

    >>> parse_snr("10dB")
    10.0
    """
    hint = "decibels between -100dB and 100dB, such as 10dB or -5dB"
    quantity = _quantity(text, name, hint)
    if quantity.units != "dB" or not abs(float(quantity)) <= 100:
        raise InputError(f"{name} {text!r} is not allowed; give {hint}")
    return float(10 ** (float(quantity) / 10))


def parse_snr_db(text: str, name: str = "--snr") -> float:
    """Signal-to-noise ratio in decibels, as `parse_snr` reads it.

    >>> parse_snr_db("-5dB")
    -5.0
    """
    return round(10 * math.log10(parse_snr(text, name)), 9)


def parse_time_s(text: str, name: str) -> float:
    """Time in seconds, at least zero and finite.

    >>> parse_time_s("20ms", "--rtt")
    0.02
    """
    quantity = _quantity(text, name, _HINT_S)
    if quantity.units != "s" or not math.isfinite(quantity) or quantity < 0:
        raise InputError(f"{name} {text!r} is not allowed; give {_HINT_S}")
    return float(quantity)


def parse_wait_s(text: str, name: str) -> float:
    """A time to wait for, at most 10^6 s.

    >>> parse_wait_s("250ms", "--deadline")
    0.25
    """
    seconds = parse_time_s(text, name)
    if seconds > 1e6:
        raise InputError(f"{name} {text!r} is not allowed; give at most 1e6s")
    return seconds


def parse_rate_bps(text: str, name: str) -> float:
    """Bit rate, positive and finite, in bit/s.

    >>> parse_rate_bps("50kbps", "--max-uplink")
    50000.0
    """
    hint = "a positive rate in bps, such as 50kbps"
    quantity = _quantity(text, name, hint)
    if quantity.units not in ("bps", "b/s", "bit/s") or not math.isfinite(quantity) or quantity <= 0:
        raise InputError(f"{name} {text!r} is not allowed; give {hint}")
    return float(quantity)


def parse_bits(text: str, name: str) -> float:
    """Bits, at least zero, from bits (`320b`) or bytes (`40B`).

    >>> parse_bits("40B", "--overhead")
    320.0
    """
    hint = "bits or bytes of at least zero, such as 320b or 40B"
    quantity = _quantity(text, name, hint)
    if quantity.units not in ("b", "B") or not math.isfinite(quantity) or quantity < 0:
        raise InputError(f"{name} {text!r} is not allowed; give {hint}")
    return float(quantity) * (8 if quantity.units == "B" else 1)


def parse_fraction(text: str, name: str) -> float:
    """A number in [0, 1] in text; InputError for anything else."""
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{name} {text!r} is not a number; give one between 0 and 1") from None
    return check_fraction(value, name)


def check_fraction(value: float, name: str) -> float:
    """Return `value` if it lies in [0, 1], else raise InputError naming the argument."""
    if not 0 <= value <= 1:
        raise InputError(f"{name} {value!r} is not allowed; give a number between 0 and 1")
    return value


def format_si(value: float, unit: str) -> str:
    """Human-readable quantity with an SI prefix, such as `12.3 ms`.

    >>> format_si(0.0123, "s")
    '12.3 ms'
    """
    return str(Quantity(value, unit).render(prec=2, strip_zeros=True))
