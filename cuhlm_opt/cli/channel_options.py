"""Options of the link, shared by the commands that take one."""

from typing import Annotated, TypedDict

import typer

from cuhlm_opt.units import parse_bandwidth_hz, parse_bits, parse_snr_db, parse_time_s

Bandwidth = Annotated[str | None, typer.Option(help="Uplink bandwidth, such as 10MHz; none with a trace.")]
Snr = Annotated[str, typer.Option(help="Signal-to-noise ratio in decibels; of fading its mean.")]
Rtt = Annotated[str, typer.Option(help="Round trip.")]
Downlink = Annotated[str, typer.Option(help="Downlink time of one token.")]
Channel = Annotated[str, typer.Option(help="awgn, rayleigh, rician, nakagami, short-packet, trace.")]
Coding = Annotated[
    str | None, typer.Option(help="Fading: fixed-rate (with retransmissions, the default), ergodic, instantaneous.")
]
FixedRate = Annotated[
    float | None, typer.Option(help="Fixed rate in bit/s/Hz; none chooses it, for goodput or late quantiles.")
]
RicianK = Annotated[float, typer.Option(help="Rician fading: power of the line of sight over that of the rest.")]
NakagamiM = Annotated[float, typer.Option(help="Nakagami fading: shape, at least 0.5.")]
BlockError = Annotated[float, typer.Option(help="Short packets: target block error.")]
Trace = Annotated[str | None, typer.Option(help="CSV file of time in s and rate in bit/s, for --channel trace.")]
Overhead = Annotated[str, typer.Option(help="Header of every message, such as 40B or 320b.")]


Adaptive = Annotated[
    bool,
    typer.Option("--adaptive", help="Thresholds that follow the channel, where the device knows its state."),
]
Pipelined = Annotated[str, typer.Option(help="none, or eager: from each verdict the LLM reads on at once.")]


class LinkArguments(TypedDict):
    """Of `solve`, in SI units."""

    bandwidth_hz: float | None
    snr_db: float
    rtt_s: float
    downlink_s: float
    overhead_bits: float


def link_arguments(bandwidth: str | None, snr: str, rtt: str, downlink: str, overhead: str) -> LinkArguments:
    """The options with units as arguments of `solve`."""
    return {
        "bandwidth_hz": None if bandwidth is None else parse_bandwidth_hz(bandwidth),
        "snr_db": parse_snr_db(snr),
        "rtt_s": parse_time_s(rtt, "--rtt"),
        "downlink_s": parse_time_s(downlink, "--downlink"),
        "overhead_bits": parse_bits(overhead, "--overhead"),
    }
