"""`cuhlm-opt calibrate --check`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from cuhlm_opt.cli.progress import CheckProgress, note
from cuhlm_opt.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from cuhlm_opt.artefacts import Calibration, OperatingPoint
    from cuhlm_opt.calibrate.check import Checked, CheckResult
    from cuhlm_opt.calibrate.prompts import Prompt
    from cuhlm_opt.calibrate.record import Collection
    from cuhlm_opt.models.pairs import Pair

_BANDWIDTH_HZ = 10e6
"""Of the link that a point is solved for; the threshold of `coarse` does not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """Where the fresh prompts come from: records that are there, or prompts to roll out."""

    records: Path | None
    prompts: list[str] | None
    limit: int | None
    out: Path | None
    resume: bool
    models: dict[str, Any]
    """Arguments of `load_pair`; name and backend, where none, are the calibration's."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """Whose threshold is in use: that of an operating point, or the one certified for a budget."""

    operating_point: Path | None
    domain: str | None
    max_bias: float | None
    delta: float | None


def check_calibration(name: str, use: Use, fresh: Fresh, alpha: float, *, json: bool) -> None:
    """Test whether calibration `name` holds, and print what was found."""
    from cuhlm_opt.calibrate.check import Checked, check
    from cuhlm_opt.records import read_metadata, read_records

    if (fresh.records is None) == (fresh.prompts is None):
        raise InputError("--check needs fresh prompts: give either --prompts or --records")
    checked = Checked.of(name, _point(name, use))
    if fresh.records is not None:
        table = read_records(fresh.records)
        result = check(checked, [table], alpha=alpha, warnings=checked.differences(read_metadata(table)))
    else:
        result = _rolled_out(checked, fresh, alpha)
    if json:
        print(result.model_dump_json(indent=2))
    else:
        _show(result)


def _point(name: str, use: Use) -> "OperatingPoint":
    """The point whose threshold is in use; where none is given, `coarse`, which leaves the whole budget to skipping."""
    from cuhlm_opt.artefacts import OperatingPoint
    from cuhlm_opt.modes import Mode
    from cuhlm_opt.solve import solve
    from cuhlm_opt.solve.load import load_evidence

    given = {"--domain": use.domain, "--max-bias": use.max_bias, "--delta": use.delta}
    if use.operating_point is not None:
        for option, value in given.items():
            if value is not None:
                raise InputError(f"{option} {value!r} is that of --operating-point; leave it out")
        return OperatingPoint.read(use.operating_point)
    domains = sorted(load_evidence(name, use.domain).calibration.domains)
    if use.domain is None and len(domains) > 1:
        raise InputError(f"--domain is missing; calibration {name!r} has {', '.join(domains)}")
    return solve(
        name,
        bandwidth_hz=_BANDWIDTH_HZ,
        domain=use.domain or domains[0],
        max_bias=0.02 if use.max_bias is None else use.max_bias,
        delta=use.delta,
        mode=Mode.COARSE,
    )


def _rolled_out(checked: "Checked", fresh: Fresh, alpha: float) -> "CheckResult":
    """Roll fresh prompts out as the calibration was, and test them as they come."""
    from cuhlm_opt.calibrate.check import check
    from cuhlm_opt.calibrate.prompts import load_prompt_sets

    if fresh.out is None:
        raise InputError("--out is missing; give a folder for the fresh records")
    calibration = checked.evidence.calibration
    given = load_prompt_sets(fresh.prompts or [])
    chosen = [prompt for prompt in given if prompt.prompt_id not in checked.recorded_ids]
    if not chosen:
        raise InputError("--prompts: all of them are among those of the calibration; give others")
    if len(chosen) < len(given):
        note(f"{len(given) - len(chosen)} prompts are among those of the calibration and are left out")
    chosen = chosen[: fresh.limit]
    collection = _collection(calibration)
    pair = _load(calibration, collection, fresh)
    try:
        warnings = checked.differences({**calibration.provenance, "pair": pair.provenance()})
        with CheckProgress(len(chosen)) as progress:
            tables = _tables(pair, chosen, collection, fresh.out, fresh.resume)
            return check(checked, tables, alpha=alpha, warnings=warnings, progress=progress)
    except KeyboardInterrupt:
        note(f"interrupted; finished parts are kept in {fresh.out}, add --resume to go on")
        raise typer.Exit(130) from None
    finally:
        pair.close()


def _tables(
    pair: "Pair", prompts: list["Prompt"], collection: "Collection", out: Path, resume: bool
) -> Iterator["pa.Table"]:
    from cuhlm_opt.calibrate.collect import record_parts
    from cuhlm_opt.calibrate.engines import InProcess
    from cuhlm_opt.records import read_records

    for part in record_parts(InProcess(pair), prompts, collection, out, resume=resume):
        yield read_records(part.path)


def _collection(calibration: "Calibration") -> "Collection":
    """How the calibration was rolled out."""
    from cuhlm_opt.calibrate.record import Collection

    try:
        return Collection.as_recorded(calibration.provenance)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"--check: calibration {calibration.id!r} does not say how it was rolled out ({error}); give --records"
        ) from None


def _load(calibration: "Calibration", collection: "Collection", fresh: Fresh) -> "Pair":
    """The pair of the calibration, or the models that were named instead."""
    from cuhlm_opt.models.pairs import load_pair

    recorded = calibration.provenance.get("pair", {}).get("slm", {})
    models = dict(fresh.models)
    if models["slm"] is None and models["llm"] is None:
        models["name"] = models["name"] or calibration.pair
    models["backend"] = models["backend"] or recorded.get("backend")
    return load_pair(**models, lanes=collection.lanes, context_length=recorded.get("context_length", 1024))


def _show(result: "CheckResult") -> None:
    """The verdict in plain lines."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    verdict = "holds so far" if result.holds else "no longer holds"
    of = result.calibration
    threshold = "those of the states" if result.u_threshold is None else f"{result.u_threshold:g}"
    console.print(
        f"calibration {of.id}, domain {of.domain}, threshold {threshold}: {verdict}, "
        f"after {result.n_prompts} fresh prompts, {result.n_tokens} tokens"
    )
    for test in (result.budget, result.exchangeable):
        outcome = "refused" if test.refused else "not refused"
        console.print(f"{outcome}: {test.hypothesis}; e-value {test.e_value:.3g}, refused from {test.refused_at:g}")
    console.print(
        f"skip risk {result.mean_risk:.4f} per token, at least {result.risk_at_least:.4f} and at most "
        f"{result.risk_at_most:.4f}, each with probability {1 - result.alpha / 2:.3g} at all moments if prompts are of "
        f"one law; skip rate {result.skip_rate:.1%}; mean TV(x, y) {result.mean_tv:.4f}, recorded "
        f"{result.recorded_mean_tv:.4f}"
    )
    console.print(f"error: where both are true, one is refused with probability {result.alpha:g} at most, at any time")
    for line in result.warnings:
        console.print(f"warning: {line}")
