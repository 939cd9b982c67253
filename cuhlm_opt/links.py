"""A link from its settings, as the command line takes them and an operating point keeps them."""

from pathlib import Path

from cuhlm_opt.artefacts import ChannelSettings
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
from cuhlm_opt.errors import InputError, unknown_name
from cuhlm_opt.fading import Fading, Nakagami, Rayleigh, Rician
from cuhlm_opt.trace import read_trace, trace_sha256

FADING = ("rayleigh", "rician", "nakagami")
CHANNELS = ("awgn", *FADING, "short-packet", "trace")
CODINGS = ("fixed-rate", "ergodic", "instantaneous")
"""How fading is met: one rate with retransmissions, many blocks a message, or the rate of each block."""


def link_of(settings: ChannelSettings) -> Link:
    """Build the link.

    Raises:
        InputError: unknown names, settings of another channel, values out of range, a trace that cannot be used, or a
            mean time that is infinite.

    >>> link_of(ChannelSettings(bandwidth_hz=10e6, snr_db=0.0)).uplink.rate_bps
    10000000.0
    """
    uplink = _uplink(settings)
    return Link(
        uplink=uplink,
        rtt_s=settings.rtt_s,
        downlink_s=settings.downlink_s,
        overhead_bits=settings.overhead_bits,
    )


def settled(settings: ChannelSettings, link: Link) -> ChannelSettings:
    """The settings with what was chosen, the fixed rate, and what follows: the rate of long messages, the hash."""
    found: dict[str, float | str] = {"rate_bps": link.uplink.rate_bps}
    if isinstance(link.uplink, RetransmissionUplink):
        found["fixed_rate"] = link.uplink.chosen_rate
    if settings.trace is not None:
        found["trace_sha256"] = trace_sha256(Path(settings.trace))
    return settings.model_copy(update=found)


def _uplink(settings: ChannelSettings) -> Uplink:
    kind = settings.kind
    if kind not in CHANNELS:
        raise unknown_name("--channel", kind, CHANNELS)
    if settings.coding is not None and kind not in FADING:
        raise InputError(f"--coding {settings.coding!r} goes with {', '.join(FADING)}, not with --channel {kind}")
    if settings.fixed_rate is not None and (kind not in FADING or settings.coding not in (None, "fixed-rate")):
        raise InputError("--fixed-rate goes with --coding fixed-rate over a fading channel")
    if (settings.trace is None) is (kind == "trace"):
        raise InputError("--channel 'trace' and --trace FILE go together; give both, or neither")
    if kind == "trace":
        path = Path(str(settings.trace))
        trace = read_trace(path)
        if settings.trace_sha256 not in (None, trace_sha256(path)):
            raise InputError(f"--trace {str(path)!r} is not the file that the operating point was solved for")
        return TraceUplink(trace=trace)
    bandwidth_hz, snr_db = settings.bandwidth_hz, settings.snr_db
    if bandwidth_hz is None:
        raise InputError(f"--bandwidth is missing; --channel {kind} needs one, such as 10MHz")
    if not 0 < bandwidth_hz < float("inf"):
        raise InputError(f"--bandwidth {bandwidth_hz!r} is not allowed; give a finite frequency > 0, such as 10MHz")
    if not abs(snr_db) <= 100:
        raise InputError(f"--snr {snr_db!r} dB is not allowed; give decibels between -100 and 100")
    snr = 10.0 ** (snr_db / 10)
    if kind == "awgn":
        return AwgnUplink(bandwidth_hz=bandwidth_hz, snr=snr)
    if kind == "short-packet":
        return ShortPacketUplink(bandwidth_hz=bandwidth_hz, snr=snr, block_error=settings.block_error)
    fading: Fading
    if kind == "rayleigh":
        fading = Rayleigh(snr)
    elif kind == "rician":
        fading = Rician(snr, settings.rician_k)
    else:
        fading = Nakagami(snr, settings.nakagami_m)
    match settings.coding:
        case None | "fixed-rate":
            return RetransmissionUplink(bandwidth_hz=bandwidth_hz, fading=fading, rate=settings.fixed_rate)
        case "ergodic":
            return ErgodicUplink(bandwidth_hz=bandwidth_hz, fading=fading)
        case "instantaneous":
            return InstantaneousUplink(bandwidth_hz=bandwidth_hz, fading=fading)
        case unknown:
            raise unknown_name("--coding", unknown, CODINGS)
