"""What stands beside the figures of an answer: warnings, and what the figures rest on."""

from collections.abc import Mapping
from typing import Any

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.latency import Accounting
from cuhlm_opt.links import link_of
from cuhlm_opt.modes import Distortion, Mode
from cuhlm_opt.provenance import pair_differences


def warnings_of(point: OperatingPoint, pair: str, provenance: Mapping[str, Any]) -> list[str]:
    """What to know before trusting an answer at `point` by `pair`, of this provenance."""
    warnings = []
    if point.calibration.pair != pair:
        warnings.append(
            f"the operating point was solved for pair {point.calibration.pair!r} and is applied to {pair!r}: "
            "thresholds do not carry over"
        )
    elif point.calibration.models is not None:
        warnings += [
            f"the threshold was calibrated on other laws: {difference}; calibrate --check tests whether it still holds"
            for difference in pair_differences(point.calibration.models, provenance)
        ]
    if point.mode is Mode.QUERY:
        warnings.append("bias_skip is E[s beta]; the bias of mode query is larger, see risk_expected")
    if point.mode is Mode.CU_HLM_ONLINE and point.distortion is Distortion.SURROGATE:
        warnings.append(
            "k is chosen by the published surrogate, which reads the draft: no mean of TV(x, x_hat) bounds it"
        )
    if point.accounting is not Accounting.MEAN_LATENCY:
        warnings.append(f"the operating point uses {point.accounting} accounting; measured figures use mean-latency")
    return warnings


def assumptions_of(point: OperatingPoint, *, is_priced: bool) -> tuple[str, ...]:
    """What the figures of an answer rest on: on a link that is priced, or on a real one."""
    link = link_of(point.channel)
    priced = (
        f"link: {link.uplink.describe()}; {link.uplink.rate_bps:g} bit/s, round trip {link.rtt_s:g} s, downlink "
        f"{link.downlink_s:g} s per token; priced at its mean time, not slept"
    )
    measured = "link: real; its time is that of waiting for replies, without the LLM's as the server tells it"
    lines = [
        priced if is_priced else measured,
        "no pipelining: compute and link times add up; prefill, flush and audit are measured apart",
        "a token that ends the answer counts as a token",
    ]
    if point.mode is Mode.SPECULATIVE:
        lines.append("no more tokens are drafted than may still be put out, and none behind one that ends the answer")
    if point.mode not in (Mode.SLM, Mode.LLM):
        decoded = (
            f"the server verifies with what it decodes, {point.b_prob} bits a probability in {point.quantiser} levels"
        )
        billed = "; token ids, and the probabilities of skipped tokens that bias_skip is measured with, are not billed"
        lines.append(decoded + (billed if is_priced else ""))
    return tuple(lines)
