"""Calibrations and operating points: what the stages hand on, as JSON with a schema version.

SI units; a dimensional key carries its unit. `model_json_schema()` of each class is its published JSON schema.
"""

import json
import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cuhlm_opt.bootstrap import Interval
from cuhlm_opt.channel import BLOCK_ERROR
from cuhlm_opt.errors import InputError
from cuhlm_opt.fading import NAKAGAMI_M, RICIAN_K
from cuhlm_opt.latency import Accounting, Pipelining
from cuhlm_opt.modes import Distortion, Drafting, Mode, Pending, PendingData
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser
from cuhlm_opt.records import SCHEMA_VERSION, write_atomically


class Artefact(BaseModel):
    """A frozen JSON document; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and validate; InputError with one line where the file is missing, cut, or of another schema version."""
        kind = cls.__name__.lower()
        try:
            document = json.loads(path.read_text())
        except FileNotFoundError:
            raise InputError(f"{kind} {path}: no such file") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{kind} {path}: not readable as JSON ({error})") from None
        if not isinstance(document, dict):
            raise InputError(f"{kind} {path}: holds no JSON object")
        version = document.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(f"{kind} {path}: schema version {version!r}; this release reads version {SCHEMA_VERSION}")
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(f"{kind} {path}: {where}: {first['msg']}") from None

    def write(self, path: Path) -> None:
        """Write atomically."""
        write_atomically(path, self.model_dump_json(indent=2) + "\n")


Span = tuple[float, float] | None
"""95 % interval by a cluster bootstrap over prompts; null where it cannot be taken."""


class Estimate(Artefact):
    """A figure over tokens with its uncertainty, prompts as units; null where there is no record to take it from."""

    value: float | None
    se: float | None = None
    ci: Span = None

    @classmethod
    def of(cls, interval: Interval) -> Self:
        """An estimate with a bootstrap's interval; null where one has no value."""
        ends = (interval.low, interval.high)
        return cls(
            value=interval.value if math.isfinite(interval.value) else None,
            ci=ends if all(map(math.isfinite, ends)) else None,
        )


class SignalFit(Artefact):
    """Correlation of one uncertainty signal with rejection: E[beta | u] = a u + b [P]."""

    a: float
    b: float
    a_se: float | None = None
    b_se: float | None = None
    a_ci: Span = None
    b_ci: Span = None
    r: float | None = None
    r_ci: Span = None
    r2: float | None = None
    r_binned: float | None = None
    r2_binned: float | None = None
    risk_averse: float | None
    """-b/a [P2], as computed: it may leave [0, 1]."""
    risk_averse_ci: Span = None
    risk_prone: float | None
    """(Delta - b)/a [P2], as computed: it may leave [0, 1]."""
    risk_prone_ci: Span = None
    isotonic_u: tuple[float, ...] = ()
    """Knots of the monotone alternative [N]."""
    isotonic_beta: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    """Of the learned combination [N]."""


class SignalComparison(Artefact):
    """One signal on prompts that none was learned on; the recorded draft stands for all drafts [N]."""

    r: Estimate
    """Correlation with rejection, per token."""
    r2: float
    r_binned: Estimate
    """Correlation of the means of 20 bins of equal width, as published; its interval is a jackknife over prompts."""
    auroc: Estimate
    """Probability that a rejected draft has a larger signal than an accepted one, ties for half."""
    skip_rate: dict[str, Estimate]
    """Largest skip rate within each bias."""


class SignalTable(Artefact):
    """Signals compared."""

    n_prompts: int
    rows: dict[str, SignalComparison]
    best: str
    """Largest skip rate at bias 0.02."""
    not_worse: tuple[str, ...]
    """Signals whose skip rate there is not significantly below that."""


class DomainFit(Artefact):
    """What was fitted on the records of one domain."""

    n_prompts: int | None = None
    n_tokens: int | None = None
    delta: Estimate
    """P(y_d < x_d)."""
    mean_beta: Estimate
    mean_tv: Estimate
    u_noise: Estimate | None = None
    """Sampling error of u at M samples, root mean square over tokens [N, THEORY 4.2]."""
    attenuation: Estimate | None = None
    """Factor by which that error shrinks the slope on sampled u [N, THEORY 4.2]."""
    signals: dict[str, SignalFit]
    comparison: SignalTable | None = None
    """Null where there are too few prompts."""


class Times(Artefact):
    """Measured compute times in seconds, medians."""

    slm_s: float
    gate_s: float
    llm_pass_s: dict[int, float]
    """LLM pass over n tokens."""
    signal_s: dict[str, float] = {}
    """What each uncertainty signal adds to the law and the draft."""


class Floor(Artefact):
    """Mean TV between the laws of one model for the same prefix, read in two ways."""

    slm: float
    llm: float
    compared: str


class Calibration(Artefact):
    """Outcome of `calibrate` or `fit`, or a published linear model without records."""

    schema_version: Literal[1] = SCHEMA_VERSION
    id: str
    kind: Literal["measured", "published", "imported"]
    pair: str
    vocab_size: int
    domains: dict[str, DomainFit]
    records_sha256: str | None = None
    times: Times | None = None
    numeric_floor: Floor | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    """T_max, the length limit of the recorded answers."""
    provenance: dict[str, Any]


class ModeRow(Artefact):
    """One mode on the same link with the same accounting."""

    mode: Mode
    throughput_tokens_per_s: float | None
    latency_s: float | None
    payload_bits: float | None
    """Mean bits of one upload."""
    skip_rate: float | None
    skip_rate_ci: Span = None
    throughput_ci: Span = None
    server_passes_per_token: float | None
    bias: float | None
    """TV per token against the LLM's law; what it is stands in `bias_kind`."""
    bias_ci: Span = None
    """95 % over prompts, like the others, of skipping and truncation; rounding enters as its mean."""
    bias_kind: Literal["exact", "bound", "none"]
    """`none`: no bound can be computed from the records."""
    u_threshold: float | None = None
    """Its own threshold; null never skips."""
    k: int | None = None
    theta: float | None = None
    """Its own truncation tolerance."""
    b_prob: int | None = None
    quantiser: Quantiser | None = None
    """How its probabilities are written."""
    draft_length: int = 1
    """Of `speculative`, drafts of a round: so many, or at most so many where drafting is triggered."""
    drafting: Drafting | None = None
    pending_data: PendingData | None = None
    law: str


class ChannelSettings(Artefact):
    """The link an operating point was solved for; `links.link_of` builds it and checks the values."""

    kind: str = "awgn"
    """awgn, rayleigh, rician, nakagami, short-packet, trace."""
    coding: str | None = None
    """Of fading: fixed-rate (the default), ergodic, instantaneous."""
    fixed_rate: float | None = None
    """Of fixed-rate coding, bit/s/Hz; null takes the one of the largest goodput, or of the least late quantile."""
    bandwidth_hz: float | None = None
    """Null for a trace."""
    snr_db: float = 10.0
    """Mean SNR of fading."""
    rician_k: float = RICIAN_K
    nakagami_m: float = NAKAGAMI_M
    block_error: float = BLOCK_ERROR
    """Target of short packets."""
    trace: str | None = None
    """CSV of time in seconds and rate in bit/s."""
    trace_sha256: str | None = None
    rtt_s: float = 0.0
    downlink_s: float = 0.0
    overhead_bits: float = 0.0
    """Header of every message."""
    rate_bps: float | None = None
    """Of long messages, retransmissions included; follows from the others."""


class StateThreshold(Artefact):
    """The threshold in one state of the channel, where thresholds follow it."""

    seen: str
    """What the device sees before it decides."""
    probability: float
    uplink_s: float
    """Mean time of a message of mean length in this state."""
    u_threshold: float | None
    """Null never skips."""


class AnswerLatency(Artefact):
    """Time of an answer of `answer_tokens` tokens, after the prompt was read."""

    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    answers: int
    """Replayed answers that the figures come from; 0 where every token takes the same time."""


class MarginalWorth(Artefact):
    """Tokens per second that a little more of a resource brings to the mode of an operating point."""

    per_bias: float | None
    """Per unit of the bias budget."""
    per_hz: float | None
    """Per hertz of bandwidth."""
    per_db: float | None
    """Per decibel of signal-to-noise ratio."""


class Certificate(Artefact):
    """What a threshold is guaranteed to do, and what that rests on [N, THEORY 6.4]."""

    method: str
    delta: float | None
    n_prompts: int
    assumptions: tuple[str, ...]


class LedgerEntry(Artefact):
    """One part of the distance between the output's law and the LLM's; null where it is not known."""

    term: Literal["skipping", "truncation", "quantisation", "numeric floor", "answer"]
    value: float | None
    kind: Literal["exact", "bound", "estimate"]
    meaning: str


class Recommendation(Artefact):
    """What to run on this link, and why."""

    mode: Mode | None
    reason: str


class CalibrationRef(Artefact):
    """Which calibration was used."""

    id: str
    pair: str
    domain: str
    models: dict[str, Any] | None = None
    """Provenance of both models as recorded, to compare those in use with; null where it is not known."""


class OperatingPoint(Artefact):
    """Outcome of `solve`, input of `decode`. What could not be computed is null, and a warning says why."""

    schema_version: Literal[1] = SCHEMA_VERSION
    status: Literal["optimal", "degenerate", "incomplete"]
    policy: str
    mode: Mode
    signal: str
    signal_weights: tuple[float, ...] = ()
    """Of the learned combination."""
    u_threshold: float | None
    u_threshold_computed: float | None
    state_thresholds: tuple[StateThreshold, ...] = ()
    """The fastest state first, whose threshold is `u_threshold`; empty where one threshold holds in all."""
    """What the policy's formula gave, before it was judged: outside [0, 1] it is degenerate and not used."""
    skip_rate: float | None
    skip_rate_ci: Span
    k: int | None
    k_mean: float | None
    truncation_rule: str | None
    distortion: Distortion | None
    theta: float | None
    b_prob: int
    quantiser: Quantiser
    format: Format
    draft_length: int
    """Drafts of a round; 1 in every mode but `speculative`, where triggered drafting may stop before."""
    drafting: Drafting | None = None
    """Of `speculative`: when the device stops drafting."""
    pending: Pending | None = None
    """What becomes of pending drafts; null in modes without any."""
    pending_data: PendingData | None = None
    """Of `speculative`: what the server is sent of each draft's law."""
    payload_bits: float | None
    compression: float | None
    uplink_s: float | None
    latency_s: float | None
    latency_p50_s: float | None = None
    latency_p95_s: float | None
    latency_p99_s: float | None = None
    answer_latency: AnswerLatency | None = None
    throughput_tokens_per_s: float | None
    throughput_ci: Span = None
    """Times held fixed: it holds the uncertainty of the skip rate."""
    speedup_vs_hlm: float | None
    speedup_vs_hlm_published: float | None
    bias_skip: float | None
    bias_skip_ci: Span = None
    bias_truncation: float | None
    bias_quantisation: float | None
    bias_total: float | None
    bias_total_ci: Span = None
    bias_budget: float
    numeric_floor: float | None
    bias_ledger: tuple[LedgerEntry, ...] = ()
    certificate: Certificate | None
    binding: str | None
    marginal_worth: MarginalWorth | None = None
    accounting: Accounting
    pipelining: Pipelining = Pipelining.NONE
    domain: str
    temperature: float
    top_p: float
    slope: float | None
    """a of the linear model in use."""
    intercept: float | None
    """b of the linear model in use."""
    answer_tokens: int
    channel: ChannelSettings
    times: Times | None
    baselines: tuple[ModeRow, ...]
    recommended: Recommendation
    assumptions: tuple[str, ...]
    calibration: CalibrationRef
    warnings: tuple[str, ...]
