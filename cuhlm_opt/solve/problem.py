"""What is to be solved: one domain's evidence, one link, one bias budget, one policy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.artefacts import Calibration, DomainFit, SignalFit, Times
from cuhlm_opt.channel import Link
from cuhlm_opt.errors import InputError, unknown_name
from cuhlm_opt.latency import Accounting, ComputeTimes, Pipelining
from cuhlm_opt.modes import Distortion, Mode
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.certificate import CertifiedThreshold, certify
from cuhlm_opt.solve.coding import PUBLISHED_BITS, Coding, open_codings
from cuhlm_opt.solve.joint import Worth
from cuhlm_opt.solve.limits import Limits, Objective
from cuhlm_opt.solve.losses import threshold_grid
from cuhlm_opt.solve.speculating import RoundOptions
from cuhlm_opt.solve.threshold import Gate, Policy, published_threshold

_Floats = NDArray[np.float64]

_RESTS = 24
"""Rests of the budget at which a certificate is taken where it is shared."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Inputs of every mode, validated."""

    calibration: Calibration
    fit: DomainFit
    signal: Signal
    gate: Gate | None
    """The skipping rule on the records; None for a calibration without records."""
    times: Times | None
    link: Link
    budget: float
    """Largest TV per token against the LLM's law, in [0, 1]."""
    policy: Policy
    distortion: Distortion
    theta: float | None
    """Truncation tolerance; None takes what the budget leaves (bound) or 0.1 (surrogate)."""
    b_prob: int | None
    """Bits of a probability; None chooses them where they matter, and takes 8 [P2] elsewhere."""
    quantiser: Quantiser | None
    """How they are spent; None takes the way of least measured bias."""
    law_format: Format
    accounting: Accounting
    answer_tokens: int
    pipelining: Pipelining = Pipelining.NONE
    adaptive: bool = False
    """Whether thresholds follow the channel, where the device can know its state [N, THEORY 6.2]."""
    delta: float | None = None
    """Probability that a certificate may fail; None certifies in expectation."""
    objective: Objective = Objective.THROUGHPUT
    """What each mode's point is best at."""
    limits: Limits = field(default_factory=Limits)
    """What it must keep beside the budget."""
    rounds: RoundOptions = field(default_factory=RoundOptions)
    """What is asked of the rounds of `speculative`."""

    @property
    def late(self) -> bool:
        """Whether late quantiles of the latency are sought or limited."""
        return self.objective is Objective.LATENCY_P95 or self.limits.latency_p95_s is not None

    @property
    def line(self) -> SignalFit:
        """Fitted line of the signal."""
        return self.fit.signals[self.signal]

    @property
    def compute_times(self) -> ComputeTimes | None:
        """The times as the latency model reads them."""
        if self.times is None:
            return None
        times = self.times
        return ComputeTimes(
            slm_s=times.slm_s, gate_s=times.gate_s, llm_pass_s=times.llm_pass_s, pipelining=self.pipelining
        )

    @property
    def computed_threshold(self) -> float | None:
        """What a published policy's formula gives, judged or not; None for other policies, or without a value."""
        return published_threshold(self.line, self.policy) if self.policy.is_published else None

    @property
    def degenerate(self) -> bool:
        """Whether a published policy gives no threshold in [0, 1]."""
        computed = self.computed_threshold
        return self.policy.is_published and (computed is None or not 0 <= computed <= 1)

    @property
    def bits(self) -> int:
        """Bits of a probability where they are not chosen."""
        return PUBLISHED_BITS if self.b_prob is None else self.b_prob

    @property
    def full_coding(self) -> Coding | None:
        """How all of x is written: of the ways that are open, the one of least measured bias; None without records."""
        if self.gate is None:
            return None
        codings = self._codings(self.gate, self.law_format, self.bits)
        return min(codings, key=lambda coding: np.nan_to_num(coding.whole_bias))

    @property
    def truncated_format(self) -> Format:
        """How fewer than |V| entries are written: the dense format holds all of them, so compactly in its place."""
        return Format.COMPACT if self.law_format is Format.DENSE else self.law_format

    def codings(self, gate: Gate) -> Sequence[Coding]:
        """Ways to write a truncated law that are open, over the records of `gate`."""
        return self._codings(gate, self.truncated_format, self.b_prob)

    def _codings(self, gate: Gate, law_format: Format, b_prob: int | None) -> Sequence[Coding]:
        """Open codings, each made once: what rounding does is a mean over many positions."""
        key = ("codings", law_format, self.quantiser, b_prob)
        return gate.remembered(key, lambda: open_codings(gate.records, law_format, self.quantiser, b_prob))

    def gate_of(self, mode: Mode) -> Gate | None:
        """The gate of a mode, over the law that its drafts are drawn from."""
        if self.gate is None or mode not in (Mode.EXACT, Mode.COARSE):
            return self.gate
        return self.gate.decoded(self.mass_quantiser, self.bits)

    @property
    def mass_quantiser(self) -> Quantiser:
        """How single masses are rounded, each by itself and down."""
        return Quantiser.UNIFORM if self.quantiser in (None, Quantiser.TYPES) else self.quantiser

    @property
    def length_limit(self) -> int:
        """Length limit of the recorded answers; InputError where a certificate misses it."""
        limit = self.calibration.max_tokens
        if limit is None:
            raise InputError(
                "--policy 'certified' needs max_tokens, the length limit, in the metadata of the records; "
                "--policy budget does without, and gives no guarantee"
            )
        return limit

    def certified(self, gate: Gate, spent: float = 0.0) -> CertifiedThreshold | None:
        """Certified threshold of `gate` where `spent` of the budget is taken; None with nothing left.

        Raises:
            InputError: the records cannot carry a certificate: contexts not drawn by the LLM alone, or no length limit.
        """
        left = min(self.budget - spent, 1 - 1e-9)
        if left <= 0:
            return None
        sources, limit, grid = gate.records.sources, self.length_limit, threshold_grid()
        if sources != {"llm"}:
            raise InputError(
                f"--policy 'certified' needs contexts drawn by the LLM; recorded: {', '.join(sources)}; "
                "--policy budget takes any, without a guarantee"
            )

        def make() -> CertifiedThreshold:
            return certify(gate.losses(left, limit), grid, left, self.delta)

        found = gate.remembered(("certified", left, limit, self.delta), make)
        return replace(found, budget=self.budget)

    def certified_skip(self, gate: Gate) -> Callable[[_Floats], _Floats]:
        """Skip rate at the certified threshold of each rest of the budget, rounded down to `_RESTS` levels of it."""
        rests = self.budget * (1.0 - np.linspace(1.0, 0.0, _RESTS + 1) ** 2)  # closest where little is taken

        def make() -> _Floats:
            found = [self.certified(gate, self.budget - float(rest)) for rest in rests[1:]]
            rates = [0.0 if each is None else gate.curve.skip_at(each.threshold) for each in found]
            return np.maximum.accumulate([0.0, *rates])

        known = gate.remembered(("certified skip", self.budget, self.calibration.max_tokens, self.delta), make)

        def skip_within(left: _Floats) -> _Floats:
            reached = np.searchsorted(rests, left * (1 + 1e-9), side="right") - 1
            return np.asarray(known[np.clip(reached, 0, _RESTS)])

        return skip_within

    @property
    def worth(self) -> Worth:
        """How candidates of a shared budget are ranked."""
        return Worth(
            times=self.compute_times,
            link=self.link,
            accounting=self.accounting,
            objective=self.objective,
            limits=self.limits,
        )


def choose_signal(fit: DomainFit, signal: str | None) -> Signal:
    """The signal asked for; None takes `u_bar`, or the one that was fitted.

    Raises:
        InputError: the calibration has no line for it.
    """
    fitted = [name for name in Signal if name in fit.signals]
    if signal is None and fitted:
        return fitted[0]
    if signal not in fitted:
        raise unknown_name("--signal", str(signal), fitted)
    return Signal(signal)


def effective_times(
    measured: Times | None, slm_s: float | None, gate_s: float | None, llm_s: float | None
) -> Times | None:
    """Measured times with overrides; None where the SLM's or the LLM's time is neither measured nor given.

    An LLM time given for one token scales the measured passes over n tokens alike; without measured passes every pass
    takes it. A gate time that is neither measured nor given is 0.

    Raises:
        InputError: a time is not finite, or not positive (the gate's may be 0).
    """
    for name, value in (("--slm-time", slm_s), ("--llm-time", llm_s), ("--gate-time", gate_s)):
        if value is not None and not (0 < value < float("inf") or (name == "--gate-time" and value == 0)):
            raise InputError(f"{name} {value!r} s is not allowed; give a finite time > 0 (the gate's may be 0)")
    if measured is None:
        if slm_s is None or llm_s is None:
            return None
        return Times(slm_s=slm_s, gate_s=gate_s or 0.0, llm_pass_s={1: llm_s})
    passes = measured.llm_pass_s
    if llm_s is not None:
        scale = llm_s / passes[min(passes)]
        passes = {n: scale * seconds for n, seconds in passes.items()}
    return Times(
        slm_s=measured.slm_s if slm_s is None else slm_s,
        gate_s=measured.gate_s if gate_s is None else gate_s,
        llm_pass_s=passes,
    )
