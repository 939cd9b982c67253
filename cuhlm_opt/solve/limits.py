"""What a point is to be best at, and what it must keep beside the bias budget."""

from dataclasses import dataclass
from enum import StrEnum

from cuhlm_opt.errors import InputError
from cuhlm_opt.latency import Asks, TokenLaw
from cuhlm_opt.units import check_fraction, format_si


class Objective(StrEnum):
    """What each mode's point is best at."""

    THROUGHPUT = "throughput"
    """Largest tokens per second, under the accounting."""
    LATENCY_P95 = "latency-p95"
    """Smallest 95th percentile of a token's latency."""
    BITS = "bits"
    """Fewest uploaded bits per token."""
    PASSES = "passes"
    """Fewest LLM passes per token."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits in SI units; None is none.

    Raises:
        InputError: a limit that nothing can mean.
    """

    latency_p95_s: float | None = None
    uplink_bps: float | None = None
    passes: float | None = None
    skip_rate: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("--max-latency-p95", self.latency_p95_s), ("--max-uplink", self.uplink_bps)):
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name} {value!r} is not allowed; give a finite number > 0")
        if self.passes is not None and not 0 <= self.passes < float("inf"):
            raise InputError(f"--max-passes {self.passes!r} is not allowed; give a finite number >= 0")
        if self.skip_rate is not None:
            check_fraction(self.skip_rate, "--min-skip")

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return any(value is not None for value in (self.latency_p95_s, self.uplink_bps, self.passes, self.skip_rate))

    def excess(self, asks: Asks, law: TokenLaw | None) -> dict[str, float]:
        """Each limit that is not kept, by its argument, and by what factor it is passed.

        Without compute times (`law` is None) latency and uplink rate are not judged.
        """
        ratios: dict[str, float] = {}
        if self.latency_p95_s is not None and law is not None:
            ratios["--max-latency-p95"] = law.quantile(0.95) / self.latency_p95_s
        if self.uplink_bps is not None and law is not None:
            ratios["--max-uplink"] = law.uplink_bps / self.uplink_bps
        if self.passes is not None:
            ratios["--max-passes"] = (asks.rate if law is None else law.passes) / max(self.passes, 1e-12)
        if self.skip_rate is not None and self.skip_rate > 0:
            ratios["--min-skip"] = self.skip_rate / max(asks.skip_rate, 1e-12)
        return {name: ratio for name, ratio in ratios.items() if ratio > 1 + 1e-9}

    def relaxed(self, asks: Asks, law: TokenLaw | None) -> list[tuple[str, str]]:
        """Each limit that is not kept, as it was given and as it would have to be for these laws to be allowed."""
        p95 = "" if law is None else format_si(law.quantile(0.95), "s")
        uplink = "" if law is None else format_si(law.uplink_bps, "bps")
        values = {
            "--max-latency-p95": (format_si(self.latency_p95_s or 0.0, "s"), p95),
            "--max-uplink": (format_si(self.uplink_bps or 0.0, "bps"), uplink),
            "--max-passes": (f"{self.passes!r}", f"{asks.rate if law is None else law.passes:.4f}"),
            "--min-skip": (f"{self.skip_rate!r}", f"{asks.skip_rate:.4f}"),
        }
        return [(f"{name} {values[name][0]}", f"{name} to {values[name][1]}") for name in self.excess(asks, law)]
