"""Find a calibration by name or folder, and choose the domain."""

from dataclasses import dataclass
from pathlib import Path

from cuhlm_opt.artefacts import Calibration, DomainFit
from cuhlm_opt.errors import InputError, unknown_name
from cuhlm_opt.records import Records, sha256_of
from cuhlm_opt.resources import calibration_dir

CALIBRATION, RECORDS = "calibration.json", "records.parquet"
_USUAL_DOMAIN = "general"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A calibration, one of its domains, and the records of that domain where there are any."""

    calibration: Calibration
    domain: str
    domain_given: bool
    fit: DomainFit
    records: Records | None


def load_evidence(name: str, domain: str | None = None) -> Evidence:
    """Load a calibration and the records of one domain.

    Args:
        name: a shipped calibration, or the folder of one: calibration.json, and records.parquet unless it is a
            published one.
        domain: which domain; None takes the only one, or `general`.

    Raises:
        InputError: unknown name or domain; a file is missing, cut, of another schema version, or not the one that the
            calibration was fitted on.

    >>> load_evidence("published-cu-hlm").fit.delta.value
    0.5955
    """
    folder = find_calibration(name)
    calibration = Calibration.read(folder / CALIBRATION)
    chosen = _choose_domain(calibration, domain)
    return Evidence(
        calibration=calibration,
        domain=chosen,
        domain_given=domain is not None,
        fit=calibration.domains[chosen],
        records=_read(calibration, folder / RECORDS, chosen),
    )


def shipped() -> list[str]:
    """Names of the calibrations that come with the package."""
    return sorted(path.parent.name for path in (calibration_dir() / "recorded").glob(f"*/{CALIBRATION}"))


def fingerprint(name: str) -> str:
    """Hash of a calibration, which holds that of its records."""
    return sha256_of(find_calibration(name) / CALIBRATION)


def find_calibration(name: str) -> Path:
    """Folder of a shipped calibration, or `name` itself where that is a folder; InputError otherwise."""
    if name in shipped():
        return calibration_dir() / "recorded" / name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise InputError(f"--calibration {name!r} is a file; give the folder that holds {CALIBRATION}")
    raise unknown_name("--calibration", name, shipped())


def _choose_domain(calibration: Calibration, domain: str | None) -> str:
    if not calibration.domains:
        raise InputError(f"calibration {calibration.id!r} has no domain; calibrate again")
    if domain is None:
        return _USUAL_DOMAIN if _USUAL_DOMAIN in calibration.domains else min(calibration.domains)
    if domain not in calibration.domains:
        raise unknown_name("--domain", domain, calibration.domains)
    return domain


def _read(calibration: Calibration, path: Path, domain: str) -> Records | None:
    """Records of `domain`; None for a calibration that was published without any."""
    if calibration.records_sha256 is None:
        return None
    if not path.is_file():
        raise InputError(f"records {path}: no such file, and calibration {calibration.id!r} rests on it")
    if sha256_of(path) != calibration.records_sha256:
        raise InputError(f"records {path}: not the file that calibration {calibration.id!r} was fitted on; fit again")
    return Records.read(path, domain)
