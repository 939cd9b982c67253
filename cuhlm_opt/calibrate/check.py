"""Whether a calibration still holds on fresh prompts, which come one after the other [N].

Two hypotheses are tested, each at alpha/2, so that a calibration for which both are true is refused with probability
alpha at most, however many prompts are looked at and whenever one stops (`cuhlm_opt.sequential`):

- budget, what a certificate promises: given the prompts before it, the expected skip risk of each fresh prompt is at
  most the budget. The loss is that of the certificate, per emitted token (`LossUnit.EMITTED`), at the threshold in use;
- exchangeable, what a certificate rests on: fresh and recorded prompts are exchangeable. What is ranked is each
  prompt's mean TV(x, y), which depends on neither threshold nor budget.

A change may leave the risk within the budget: then the second is refused and not the first. Whether either is true is
not proved by not refusing it; the upper bound of the risk says how much is known.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cuhlm_opt.artefacts import Artefact, CalibrationRef, OperatingPoint
from cuhlm_opt.errors import InputError
from cuhlm_opt.modes import Mode
from cuhlm_opt.provenance import pair_differences
from cuhlm_opt.records import Records, read_records
from cuhlm_opt.sequential import conformal_p_values, log_change_e_values, log_risk_e_values, risk_bounds
from cuhlm_opt.signals import Signal
from cuhlm_opt.solve.load import RECORDS, Evidence, find_calibration, load_evidence
from cuhlm_opt.solve.losses import LossUnit, losses_of
from cuhlm_opt.solve.threshold import Gate

_Floats = NDArray[np.float64]

BUDGET = "given those before it, the expected skip risk of each fresh prompt is at most {:g} per emitted token"
EXCHANGEABLE = "fresh and recorded prompts are exchangeable, by their mean TV(x, y)"
MODES = (Mode.U_HLM, Mode.CU_HLM_OFFLINE, Mode.CU_HLM_ONLINE, Mode.EXACT, Mode.COARSE)
"""Modes whose skipping adds E[s beta] to the bias, which is what is tested."""
_SEED = 0
"""Of the ties between ranks."""


class SequentialTest(Artefact):
    """One hypothesis and its capital after the last prompt."""

    hypothesis: str
    e_value: float
    refused_at: float
    """The e-value from which the hypothesis is refused, 2/alpha."""
    refused: bool


class CheckResult(Artefact):
    """What fresh prompts say of a calibration; the last one is that of the first refusal, where there is any."""

    holds: bool
    """Whether neither hypothesis is refused so far."""
    alpha: float
    """Largest probability that a calibration is refused for which both hypotheses are true."""
    n_prompts: int
    n_tokens: int
    budget: SequentialTest
    exchangeable: SequentialTest
    u_threshold: float | None
    skip_rate: float
    mean_risk: float
    """Skip risk per emitted token, the estimate on the fresh prompts."""
    risk_at_least: float
    """Confidence sequence for prompts of one law: at all moments, with probability 1 - alpha/2."""
    risk_at_most: float
    """Likewise."""
    mean_tv: float
    """Mean TV(x, y) per token."""
    recorded_mean_tv: float
    calibration: CalibrationRef
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """Figures of each prompt, shape (n,)."""

    lengths: NDArray[np.int64]
    risk: _Floats
    """Summed over the answer, as what follows."""
    kept: _Floats
    tv: _Floats

    @property
    def mean_tv(self) -> _Floats:
        return self.tv / self.lengths


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A calibration and the operating point whose threshold is in use.

    Raises:
        InputError: nothing is skipped, or not by E[s beta]; there are no records, or they lack the length limit.
    """

    point: OperatingPoint
    evidence: Evidence
    recorded_ids: frozenset[str]

    @classmethod
    def of(cls, calibration: str, point: OperatingPoint) -> "Checked":
        """Load what belongs to `calibration`, a name or folder."""
        evidence = load_evidence(calibration, point.domain)
        if point.calibration.id != evidence.calibration.id:
            raise InputError(
                f"--operating-point was solved for calibration {point.calibration.id!r}, --check asks about "
                f"{evidence.calibration.id!r}"
            )
        if evidence.records is None:
            raise InputError(f"--check {calibration!r} has no records to compare fresh prompts with")
        if evidence.calibration.max_tokens is None:
            raise InputError(f"--check {calibration!r} does not say max_tokens, the length limit of its answers")
        if point.mode not in MODES:
            raise InputError(
                f"--operating-point: mode {str(point.mode)!r} is not checked; give one of {_listed(MODES)}"
            )
        if not 0 < point.bias_budget < 1 or (point.u_threshold is None and not point.state_thresholds):
            raise InputError(
                f"--operating-point never skips (budget {point.bias_budget:g}): there is no threshold to check"
            )
        ids = read_records(find_calibration(calibration) / RECORDS, ["prompt_id"]).column("prompt_id")
        return cls(point=point, evidence=evidence, recorded_ids=frozenset(ids.unique().to_pylist()))

    @property
    def max_tokens(self) -> int:
        """T_max of the calibration."""
        limit = self.evidence.calibration.max_tokens
        assert limit is not None
        return limit

    def fresh(self, table: pa.Table) -> pa.Table:
        """The rows of prompts that are not among the recorded ones."""
        known = pa.array(sorted(self.recorded_ids), type=pa.string())
        return table.filter(pc.invert(pc.is_in(table.column("prompt_id"), value_set=known)))

    def differences(self, metadata: Mapping[str, Any]) -> list[str]:
        """In what a run of fresh prompts is not the calibration's, in words."""
        recorded = self.evidence.calibration.provenance
        then, now = (_settings(run) for run in (recorded, metadata))
        found = [f"{name} {then[name]} recorded, {now[name]} in use" for name in then if then[name] != now[name]]
        return found + pair_differences(recorded.get("pair", {}), metadata.get("pair", {}))

    def answers(self, table: pa.Table) -> _Answers:
        """Figures of the prompts of a table of whole answers, in the order of their first rows."""
        order = table.column("prompt_id").combine_chunks().dictionary_encode().indices.to_numpy()
        names = pa.array([f"{at:012d}" for at in order])
        domain = pa.array([self.point.domain] * len(table))
        for column, values in (("prompt_id", names), ("domain", domain)):
            table = table.set_column(table.schema.get_field_index(column), column, values)
        records = Records.of(table, self.point.domain)
        recorded = self.evidence.records
        if recorded is not None and not records.sources <= recorded.sources:
            raise InputError(
                f"contexts of fresh prompts are drawn by {_listed(records.sources)}, those of the calibration by "
                f"{_listed(recorded.sources)}; roll out the same model"
            )
        gate = Gate(records, Signal(self.point.signal), weights=self.point.signal_weights)
        if self.point.mode in (Mode.EXACT, Mode.COARSE):
            gate = gate.decoded(self.point.quantiser, self.point.b_prob)
        states = [(state.probability, state.u_threshold) for state in self.point.state_thresholds]
        parts = [(share, gate.at(threshold)) for share, threshold in states or [(1.0, self.point.u_threshold)]]

        def summed(values: _Floats) -> _Floats:
            return np.asarray(np.bincount(records.prompt, values), dtype=np.float64)

        return _Answers(
            lengths=np.bincount(records.prompt),
            risk=summed(np.sum([share * each.risk for share, each in parts], axis=0)),
            kept=summed(np.sum([share * each.skip for share, each in parts], axis=0)),
            tv=summed(records.tv),
        )


def check(
    checked: Checked,
    tables: Iterable[pa.Table],
    *,
    alpha: float = 0.05,
    warnings: Sequence[str] = (),
    progress: Callable[[CheckResult], None] = lambda result: None,
) -> CheckResult:
    """Test fresh prompts in their order, until a hypothesis is refused or there are no more.

    Args:
        checked: the calibration and the point.
        tables: records of whole answers, as they come; recorded prompts among them are left out.
        alpha: the error, in (0, 1), as `CheckResult.alpha`.
        warnings: what else should be told with the result.
        progress: called after each table.

    Raises:
        InputError: there is no fresh prompt, or one that the calibration's settings do not allow.
    """
    if not 0 < alpha < 1:
        raise InputError(f"--alpha {alpha!r} is not allowed; give a number between 0 and 1, both excluded")
    recorded = checked.evidence.records
    assert recorded is not None
    of_recorded = np.bincount(recorded.prompt, recorded.tv) / np.bincount(recorded.prompt)
    found: list[_Answers] = []
    result = None
    for table in tables:
        fresh = checked.fresh(table)
        if not len(fresh):
            continue
        found.append(checked.answers(fresh))
        result = _tested(checked, found, of_recorded, float(np.mean(recorded.tv)), alpha, tuple(warnings))
        progress(result)
        if not result.holds:
            break
    if result is None:
        raise InputError("no prompt is fresh: all of them are among those of the calibration; give others")
    return result


def _tested(
    checked: Checked, found: Sequence[_Answers], recorded: _Floats, recorded_tv: float, alpha: float, warnings: Any
) -> CheckResult:
    """Both tests on all prompts so far, up to the first at which one is refused."""
    lengths, risk, kept, tv, scores = (
        np.concatenate([getattr(each, name) for each in found]) for name in ("lengths", "risk", "kept", "tv", "mean_tv")
    )
    eps = checked.point.bias_budget
    losses = losses_of(risk[:, None], lengths, max_tokens=checked.max_tokens, unit=LossUnit.EMITTED, eps=eps)[:, 0]
    ranks = conformal_p_values(scores, recorded, np.random.default_rng(_SEED))
    log_e = np.stack([log_risk_e_values(losses, eps), log_change_e_values(ranks)])
    refused = log_e >= math.log(2.0 / alpha)
    first = np.flatnonzero(refused.any(axis=0))
    n = int(first[0]) + 1 if len(first) else len(lengths)
    tokens = int(lengths[:n].sum())
    budget, exchangeable = (
        SequentialTest(
            hypothesis=hypothesis,
            e_value=float(np.exp(log_e[at, n - 1])),
            refused_at=2.0 / alpha,
            refused=bool(refused[at, n - 1]),
        )
        for at, hypothesis in enumerate((BUDGET.format(eps), EXCHANGEABLE))
    )
    low, high = risk_bounds(risk[:n], lengths[:n].astype(np.float64), checked.max_tokens, alpha / 2)
    calibration = checked.evidence.calibration
    return CheckResult(
        holds=not len(first),
        alpha=alpha,
        n_prompts=n,
        n_tokens=tokens,
        budget=budget,
        exchangeable=exchangeable,
        u_threshold=checked.point.u_threshold,
        skip_rate=float(kept[:n].sum() / tokens),
        mean_risk=float(risk[:n].sum() / tokens),
        risk_at_least=low,
        risk_at_most=high,
        mean_tv=float(tv[:n].sum() / tokens),
        recorded_mean_tv=recorded_tv,
        calibration=CalibrationRef(id=calibration.id, pair=calibration.pair, domain=checked.point.domain),
        warnings=warnings,
    )


def _settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's metadata the laws and the lengths depend on, beside the models."""
    scoring = run.get("scoring", {})
    return {
        "temperature": scoring.get("temperature"),
        "top_p": scoring.get("top_p"),
        "max_tokens": run.get("max_tokens"),
    }


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, names)))
