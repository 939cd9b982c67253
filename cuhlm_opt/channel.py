"""Uplink channels: bits to seconds."""

import math
from dataclasses import dataclass

from cuhlm_opt.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AwgnChannel:
    """Additive white Gaussian noise at the Shannon rate, with a round trip and a per-token downlink [P, THEORY 2.8].

    Args:
        bandwidth_hz: W > 0.
        snr: linear signal-to-noise ratio > 0.
        rtt_s: round trip in seconds, zero by choice as published.
        downlink_s: time of one token on the downlink in seconds, zero by choice as published.
    """

    bandwidth_hz: float
    snr: float
    rtt_s: float = 0.0
    downlink_s: float = 0.0

    def __post_init__(self) -> None:
        for name, value, positive in (
            ("bandwidth_hz", self.bandwidth_hz, True),
            ("snr", self.snr, True),
            ("rtt_s", self.rtt_s, False),
            ("downlink_s", self.downlink_s, False),
        ):
            if not math.isfinite(value) or value < 0 or (positive and value == 0):
                raise InputError(f"{name} {value!r} is not allowed; give a finite number {'>' if positive else '>='} 0")

    @property
    def rate_bps(self) -> float:
        """W log2(1 + SNR), bit/s.

        >>> AwgnChannel(bandwidth_hz=10e6, snr=1.0).rate_bps
        10000000.0
        """
        return self.bandwidth_hz * math.log1p(self.snr) / math.log(2)

    def uplink_s(self, bits: float) -> float:
        """Seconds to send `bits`."""
        return bits / self.rate_bps
