"""Records to calibration: the correlation of each signal with rejection, its thresholds, and the means, per domain."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.artefacts import Calibration, DomainFit, Estimate, Floor, SignalFit, Times
from cuhlm_opt.bootstrap import ClusterBootstrap, line_statistics, line_sums, noise_statistics, noise_sums
from cuhlm_opt.calibrate.compare import compare, learn_combination
from cuhlm_opt.correlation import fit_isotonic, fit_linear, risk_averse_threshold, risk_prone_threshold
from cuhlm_opt.records import Records, read_metadata, read_records, require_schema, sha256_of
from cuhlm_opt.runs import MOST_PROMPTS
from cuhlm_opt.signals import Signal
from cuhlm_opt.uncertainty import SAMPLES

_OF_ALL = tuple(signal for signal in Signal if signal is not Signal.COMBINED)
"""Signals that nothing is learned for."""
_LEAST_PROMPTS = 4
"""Below so many prompts nothing is learned or compared."""


def fit_domain(records: Records, samples: int = SAMPLES) -> DomainFit:
    """Fit one domain. Means are per token; standard errors and intervals treat prompts as the units.

    Args:
        records: one domain.
        samples: M of the sampled uncertainty.
    """
    bootstrap = ClusterBootstrap.draw(records.n_prompts, np.random.default_rng(0))
    delta = cluster_mean((records.beta > 0).astype(float), records.prompt)
    noise = bootstrap.intervals(noise_statistics(samples), noise_sums(records.prompt, records.u_bar))
    signals = {str(signal): _line(records, signal, bootstrap, delta.value or 0.0) for signal in _OF_ALL}
    comparison = None
    if records.n_prompts >= _LEAST_PROMPTS:
        learned_on, judged_by = records.halves()
        weights = tuple(learn_combination(learned_on.features, learned_on.beta).tolist())
        rest = ClusterBootstrap.draw(judged_by.n_prompts, np.random.default_rng(0))
        signals[Signal.COMBINED] = _line(judged_by, Signal.COMBINED, rest, delta.value or 0.0, weights)
        compared = judged_by.some_prompts(MOST_PROMPTS)
        values = {signal: compared.signal(signal, weights) for signal in Signal}
        comparison = compare(values, compared.beta, compared.prompt)
    return DomainFit(
        n_prompts=records.n_prompts,
        n_tokens=records.n_tokens,
        delta=delta,
        mean_beta=cluster_mean(records.beta, records.prompt),
        mean_tv=cluster_mean(records.tv, records.prompt),
        u_noise=Estimate.of(noise["u_se"]),
        attenuation=Estimate.of(noise["attenuation"]),
        signals=signals,
        comparison=comparison,
    )


def _line(
    records: Records, signal: Signal, bootstrap: ClusterBootstrap, delta: float, weights: tuple[float, ...] = ()
) -> SignalFit:
    """Line and isotonic fit of one signal, with intervals over prompts."""
    u = records.signal(signal, weights)
    line = fit_linear(u, records.beta, records.prompt)
    knots, values = fit_isotonic(u, records.beta)
    spans = bootstrap.intervals(line_statistics, line_sums(records.prompt, u, records.beta))
    return SignalFit(
        a=line.a, b=line.b, a_se=line.a_se, b_se=line.b_se,
        a_ci=Estimate.of(spans["a"]).ci, b_ci=Estimate.of(spans["b"]).ci, r_ci=Estimate.of(spans["r"]).ci,
        r=line.r, r2=line.r2, r_binned=line.r_binned, r2_binned=line.r2_binned,
        risk_averse_ci=Estimate.of(spans["risk_averse"]).ci, risk_prone_ci=Estimate.of(spans["risk_prone"]).ci,
        risk_averse=risk_averse_threshold(line.a, line.b),
        risk_prone=risk_prone_threshold(line.a, line.b, delta),
        isotonic_u=tuple(knots.tolist()), isotonic_beta=tuple(values.tolist()), weights=weights,
    )  # fmt: skip


def cluster_mean(values: NDArray[np.float64], prompts: NDArray[np.integer]) -> Estimate:
    """Mean over tokens, with the standard error of a ratio of sums over independent prompts; null for one prompt."""
    mean = float(np.mean(values))
    deviations = np.bincount(prompts, weights=values - mean)
    n = len(deviations)
    error = float(np.sqrt(n / (n - 1) * np.sum(deviations**2)) / len(values)) if n > 1 else None
    return Estimate(value=mean, se=error)


def fit_records(
    path: Path,
    *,
    calibration_id: str,
    pair: str,
    times: Times | None = None,
    numeric_floor: Floor | None = None,
    provenance: dict[str, Any] | None = None,
) -> Calibration:
    """Fit every domain of the records at `path` apart.

    Args:
        path: the records, parquet; their hash goes into the calibration.
        calibration_id: name of the calibration.
        pair: name of the model pair.
        times: measured compute times, if known.
        numeric_floor: measured numeric floor, if known.
        provenance: what else is known of where the records come from.
    """
    metadata = read_metadata(require_schema(path))
    scoring = metadata.get("scoring", {})
    return Calibration(
        id=calibration_id,
        kind="measured" if "pair" in metadata else "imported",
        pair=pair,
        vocab_size=int(metadata["k_grid"][-1]),
        domains={
            domain: fit_domain(Records.read(path, domain), scoring.get("samples", SAMPLES))
            for domain in sorted(read_records(path, ["domain"])["domain"].unique().to_pylist())
        },
        records_sha256=sha256_of(path),
        times=times,
        numeric_floor=numeric_floor,
        temperature=scoring.get("temperature"),
        top_p=scoring.get("top_p"),
        max_tokens=metadata.get("max_tokens"),
        provenance={key: value for key, value in metadata.items() if key != "k_grid"} | (provenance or {}),
    )
