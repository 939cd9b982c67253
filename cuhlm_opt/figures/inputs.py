"""What a figure may read: recorded results only, each of them checked to belong to the calibration.

Names of inputs: `calibration`; `records`, with the calibration; `published`, the published linear models; `pairs`, the
shipped calibrations that were measured, beside the one in question; `measured/NAME`, a JSON file of long measurements;
`data/NAME`, a table that `data_NAME.py` made. With a question mark behind it, an input may be missing.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cuhlm_opt.artefacts import Calibration
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.figures.scripts import Kind, Script
from cuhlm_opt.records import Records, read_metadata, read_records, sha256_of
from cuhlm_opt.resources import calibration_dir
from cuhlm_opt.solve.load import CALIBRATION, RECORDS, find_calibration, fingerprint
from cuhlm_opt.solve.options import Posed, pose

_MADE_OF = b"cuhlm_opt_figures"
_PUBLISHED = "published-"
_MISSING = "missing"
"""In place of the hash of an input that may be missing."""


class Inputs:
    """Recorded results of one calibration, each read once.

    Args:
        calibration: name of a shipped calibration, or the folder of one.
        folder: the scripts, with measured/ and data/ beside them.
        out: where results are written; its own measured/ and data/ come first.
    """

    def __init__(self, calibration: str, folder: Path, out: Path) -> None:
        self.name, self.folder, self.out = calibration, folder, out
        self.calibration_folder = find_calibration(calibration)
        self.calibration = Calibration.read(self.calibration_folder / CALIBRATION)
        self._read: dict[Any, Any] = {}
        self._declared: tuple[str, ...] = ()

    @contextmanager
    def reading(self, script: Script) -> Iterator[None]:
        """Let `script` read what its `READS` declare, and nothing else: all that it shows is then in its hash."""
        self._declared = script.reads
        try:
            yield
        finally:
            self._declared = ()

    def _declare(self, *names: str) -> None:
        if self._declared and not set(names) & set(self._declared):
            raise RunError(f"READS of the script lacks {names[0]!r}, which it reads")

    @property
    def domains(self) -> list[str]:
        """Domains of the calibration."""
        return list(self.calibration.domains)

    def records(self, domain: str) -> Records:
        """Records of one domain."""
        self._declare("records")
        key = ("records", domain)
        if key not in self._read:
            self._read[key] = Records.of(self.rows, domain)
        return self._read[key]

    @cached_property
    def rows(self) -> pa.Table:
        """All columns of the records, of all domains."""
        self._declare("records")
        return read_records(self._checked_records())

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the records."""
        return read_metadata(self.rows)

    def scoring(self, name: str) -> Any:
        """A setting that the records were scored with; InputError where they do not say, as imported ones may not."""
        settings = self.metadata.get("scoring", {})
        if name not in settings:
            raise InputError(f"records of --calibration {self.name!r} do not say scoring.{name}, which this shows")
        return settings[name]

    def posed(self, domain: str, max_bias: float = 0.02) -> Posed:
        """The problem that `solve` would pose for one domain and budget, on an arbitrary link."""
        self._declare("records")
        key = ("posed", domain, max_bias)
        if key not in self._read:
            folder = str(self.calibration_folder)
            self._read[key] = pose(folder, bandwidth_hz=1e6, domain=domain, max_bias=max_bias)
        return self._read[key]

    @property
    def published(self) -> dict[str, Calibration]:
        """Published linear models by name."""
        self._declare("published")
        folders = sorted((calibration_dir() / "recorded").glob(f"{_PUBLISHED}*"))
        return {folder.name: Calibration.read(folder / CALIBRATION) for folder in folders}

    @property
    def pairs(self) -> dict[str, Calibration]:
        """The calibration, then the other ones that are shipped and were measured, by name."""
        self._declare("pairs")
        folders = [path.parent for path in sorted((calibration_dir() / "recorded").glob(f"*/{CALIBRATION}"))]
        shipped = [Calibration.read(folder / CALIBRATION) for folder in folders]
        own = self.calibration
        others = (each for each in shipped if each.kind == "measured" and each.id != own.id)
        return {each.id: each for each in (own, *others)}

    def measured(self, name: str) -> dict[str, Any]:
        """A long measurement; where it has a part about recorded prompts, that is under `recorded`."""
        self._declare(f"measured/{name}")
        found: dict[str, Any] = json.loads(self._measured_path(name).read_text())
        own = self._own_part(found)
        return found | {"recorded": own}

    def measured_if_any(self, name: str) -> dict[str, Any] | None:
        """A long measurement that is declared as `measured/<name>?`; None where these records have none."""
        self._declare(f"measured/{name}?")
        if self.sha256(f"measured/{name}?") == _MISSING:
            return None
        found: dict[str, Any] = json.loads(self._measured_path(name).read_text())
        return found | {"recorded": self._own_part(found)}

    def data(self, name: str) -> list[dict[str, Any]]:
        """Rows of a table that `data_<name>.py` made of this very calibration."""
        self._declare(f"data/{name}")
        key = ("data", name)
        if key not in self._read:
            self._read[key] = pq.read_table(self._data_path(name)).to_pylist()
        rows: list[dict[str, Any]] = self._read[key]
        return rows

    def sha256(self, name: str) -> str:
        """Hash of an input.

        Raises:
            InputError: it is missing, or of another calibration; the message names the command that makes it.
        """
        if name.endswith("?"):
            try:
                return self.sha256(name.removesuffix("?"))
            except InputError:
                return _MISSING
        kind, _, rest = name.partition("/")
        if kind == "measured":
            return sha256_of(self._measured_path(rest))
        if kind == "data":
            return sha256_of(self._data_path(rest))
        if name in ("published", "pairs"):
            found = self.published if name == "published" else self.pairs
            parts = [calibration.model_dump_json() for calibration in found.values()]
            return sha256("\n".join(parts).encode()).hexdigest()
        if name == "records":
            self._checked_records()  # whose hash stands in the calibration
        return sha256_of(self.calibration_folder / CALIBRATION)

    def _checked_records(self) -> Path:
        path, wanted = self.calibration_folder / RECORDS, self.calibration.records_sha256
        if wanted is None:
            raise InputError(f"--calibration {self.name!r} has no records; cuhlm-opt calibrate --out DIR records some")
        if not path.is_file() or self._hash_of(path) != wanted:
            raise InputError(
                f"records {path}: missing, or not the file that the calibration was fitted on; "
                f"cuhlm-opt fit {path} --out {self.calibration_folder} fits again"
            )
        return path

    def _hash_of(self, path: Path) -> str:
        key = ("sha256", path)
        if key not in self._read:
            self._read[key] = sha256_of(path)
        found: str = self._read[key]
        return found

    def _measured_path(self, name: str) -> Path:
        relative = Path("measured") / f"{name}.json"
        paths = [path for path in (self.out / relative, self.folder / relative) if path.is_file()]
        for path in paths:
            if "recorded" not in (found := json.loads(path.read_text())) or self._own_part(found) is not None:
                return path
        own = f"was measured on other records than those of --calibration {self.name!r}"
        state = own if paths else "is missing"
        command = f"python tests/long/measure_{name}.py --calibration {self.name} --out {self.out / relative}"
        raise InputError(f"{relative} {state}; {command} measures it, in a checkout")

    def _own_part(self, measured: Mapping[str, Any]) -> Any:
        """The part of a measurement that used these records."""
        parts = measured.get("recorded", {}).values()
        wanted = self.calibration.records_sha256
        return next((part for part in parts if part["records_sha256"] == wanted), None)

    def _data_path(self, name: str) -> Path:
        relative = Path("data") / f"{name}.parquet"
        script = self.folder / f"{Kind.DATA}_{name.replace('-', '_')}.py"
        paths = [path for path in (self.out / relative, self.folder / relative) if path.is_file()]
        wanted = made_of(Script.of(script), self.name)
        for path in paths:
            if _stored(path) == wanted:
                return path
        why = "is missing"
        if paths:
            script_too = _stored(paths[0]).get("script") != wanted["script"]
            why = f"was made by another version of {script.name}" if script_too else "was made of another calibration"
        raise InputError(f"{relative} {why}; make it with: {self.data_command(name)}")

    def data_command(self, name: str = "") -> str:
        """The command that makes a table of data, or all."""
        shipped = self.out.resolve() == (self.folder / "out").resolve()
        parts = ["cuhlm-opt figures-data", name, "--out", str(self.folder if shipped else self.out)]
        parts += [] if self.name == DEFAULT_CALIBRATION else ["--calibration", self.name]
        return " ".join(part for part in parts if part)


DEFAULT_CALIBRATION = "qwen2.5-coder"


def made_of(script: Script, calibration: str) -> dict[str, str]:
    """What a table of data rests on: its script and the calibration, which holds the hash of its records."""
    return {"script": sha256_of(script.path), "calibration": fingerprint(calibration)}


def _stored(path: Path) -> dict[str, str]:
    """What a table of data says it was made of; empty where it is no such table."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return {}
    found: dict[str, str] = json.loads(metadata.get(_MADE_OF, b"{}"))
    return found


def with_identity(table: pa.Table, identity: Mapping[str, str]) -> pa.Table:
    """The table, saying what it was made of."""
    return table.replace_schema_metadata({_MADE_OF: json.dumps(identity, sort_keys=True).encode()})


def is_made_of(path: Path, identity: Mapping[str, str]) -> bool:
    """Whether a file is a table that was made of these very inputs."""
    return path.is_file() and _stored(path) == identity
