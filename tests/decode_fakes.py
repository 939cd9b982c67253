"""Models whose logits depend on the last token alone, and operating points to run them at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.artefacts import CalibrationRef, ChannelSettings, OperatingPoint, Recommendation
from cuhlm_opt.latency import Accounting
from cuhlm_opt.modes import Distortion, Drafting, Mode, Pending, PendingData
from cuhlm_opt.payload import Format
from cuhlm_opt.quantisation import Quantiser

SLM = np.random.default_rng(25).normal(0.0, 1.6, (6, 6)).clip(-2.0, 2.5).astype(np.float32)
LLM = (SLM + np.random.default_rng(125).normal(0.0, 0.9, (6, 6))).clip(-2.2, 2.5).astype(np.float32)
PROMPT = (0, 1, 2, 3)


class TableModel:
    """Row `table[token]` holds the logits behind `token`. Records every chunk that it is fed."""

    lanes = 1

    def __init__(
        self, table: NDArray[np.float32], eos: Sequence[int] = (), pieces: Sequence[bytes] = (), context: int = 10**6
    ) -> None:
        self.table, self.eos_tokens, self.context_length = table, frozenset(eos), context
        self.pieces = pieces or [bytes([97 + token]) for token in range(len(table))]
        self.chunks: list[list[int]] = []
        self.cache: list[int] = []
        self.truncations: list[int] = []
        self.closed = False

    @property
    def vocab_size(self) -> int:
        return self.table.shape[1]

    def tokenize(self, text: str) -> list[int]:
        return [byte % len(self.table) for byte in text.encode()]

    def chat_tokens(self, prompt: str) -> list[int]:
        return list(PROMPT) if prompt == "go" else self.tokenize(prompt)

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self.pieces[token] for token in tokens)

    def extend(self, chunks: Mapping[int, Sequence[int]], *, last_only: bool = False) -> dict[int, NDArray[np.float32]]:
        (chunk,) = chunks.values()
        assert chunk
        self.chunks.append(list(chunk))
        self.cache += chunk
        assert len(self.cache) <= self.context_length
        return {0: self.table[list(chunk)][-1:] if last_only else self.table[list(chunk)]}

    def length(self, lane: int) -> int:
        return len(self.cache)

    def truncate(self, lane: int, length: int) -> None:
        assert length < len(self.cache) or length == 0, "nothing to forget"
        del self.cache[length:]
        if length == 0:
            self.chunks = []
        self.truncations.append(length)

    def provenance(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self.closed = True


@dataclass
class FakePair:
    slm: TableModel
    llm: TableModel
    name: str = "fake"

    def provenance(self) -> dict[str, Any]:
        return {"name": self.name, "slm": self.slm.provenance(), "llm": self.llm.provenance()}

    def close(self) -> None:
        self.slm.close()
        self.llm.close()


def fake_pair(slm: NDArray[np.float32] = SLM, llm: NDArray[np.float32] = LLM, **options: Any) -> Any:
    return FakePair(slm=TableModel(slm, **options), llm=TableModel(llm, **options))


def certain(successors: Sequence[int], vocab_size: int = 6) -> NDArray[np.float32]:
    """Logits of a model that follows token v with `successors[v]`, always."""
    table = np.full((len(successors), vocab_size), -1e4, dtype=np.float32)
    table[np.arange(len(successors)), list(successors)] = 0.0
    return table


def operating_point(mode: Mode | str, **changes: Any) -> OperatingPoint:
    point = OperatingPoint(
        status="optimal", policy="budget", mode=Mode(mode), signal="u_bar", u_threshold=0.49, u_threshold_computed=0.49,
        skip_rate=0.3, skip_rate_ci=None, k=2, k_mean=2.0, truncation_rule=None, distortion=Distortion.BOUND, theta=0.1,
        b_prob=8, quantiser=Quantiser.UNIFORM,
        format=Format.PUBLISHED, draft_length=1, payload_bits=None, compression=None, uplink_s=None,
        latency_s=None, latency_p95_s=None, throughput_tokens_per_s=None, speedup_vs_hlm=None,
        speedup_vs_hlm_published=None, bias_skip=None, bias_truncation=None, bias_quantisation=None, bias_total=None,
        bias_budget=0.02, numeric_floor=None, certificate=None, binding=None, accounting=Accounting.MEAN_LATENCY,
        domain="general", temperature=1.0, top_p=1.0, slope=0.8, intercept=-0.05, answer_tokens=32,
        channel=ChannelSettings(bandwidth_hz=1e3, snr_db=0.0, rtt_s=0.5, downlink_s=0.25), times=None, baselines=(),
        recommended=Recommendation(mode=None, reason=""), assumptions=(),
        calibration=CalibrationRef(id="fake", pair="fake", domain="general"), warnings=(),
    )  # fmt: skip
    if point.mode is Mode.SPECULATIVE:
        drafted = {"drafting": Drafting.FIXED, "pending": Pending.ROLL_BACK, "pending_data": PendingData.TRUNCATED}
        point = point.model_copy(update={"draft_length": 3, **drafted})
    return point.model_copy(update=changes)
