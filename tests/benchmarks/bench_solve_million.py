"""One solve over a million positions, the shipped records replicated, against the same solve over the shipped ones.

Time and memory are those of a process of its own, reading included.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc

from cuhlm_opt.artefacts import Calibration
from cuhlm_opt.records import read_metadata, read_records, sha256_of, write_records
from cuhlm_opt.resources import calibration_dir

DOMAIN, POSITIONS, REPEATS = "code", 1_000_000, 3


def replicate(source: Path, target: Path) -> None:
    """A calibration on the records of `source`, repeated under new prompt ids until they are `POSITIONS`."""
    table = read_records(source / "records.parquet")
    rows = table.filter(pc.equal(table.column("domain"), DOMAIN))
    at = rows.schema.get_field_index("prompt_id")
    copies = [
        rows.set_column(at, rows.schema.field(at), pc.binary_join_element_wise(rows.column(at), str(copy), "-"))
        for copy in range(-(-POSITIONS // len(rows)))
    ]
    write_records([pa.concat_tables(copies).slice(0, POSITIONS)], target / "records.parquet", read_metadata(table))
    calibration = Calibration.read(source / "calibration.json")
    changes = {
        "records_sha256": sha256_of(target / "records.parquet"),
        "domains": {DOMAIN: calibration.domains[DOMAIN]},
    }
    calibration.model_copy(update=changes).write(target / "calibration.json")


def solve(calibration: str) -> tuple[float, float]:
    """Wall time in seconds and largest memory in GiB of one solve in a process of its own."""
    arguments = ("solve", "--calibration", calibration, "--domain", DOMAIN, "--bandwidth", "10MHz", "--json")
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "cuhlm_opt", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"solve failed with status {status}")
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def main() -> None:
    """Print one JSON object: seconds of the best run, of the reference, their ratio, and the largest memory."""
    with TemporaryDirectory() as folder:
        replicate(calibration_dir() / "recorded" / "qwen2.5-coder", Path(folder))
        runs = [solve(folder) for _ in range(REPEATS)]
    value, memory = min(run[0] for run in runs), max(run[1] for run in runs)
    base = min(solve("qwen2.5-coder")[0] for _ in range(REPEATS))
    figures = {"value": value, "reference": base, "ratio": value / base, "unit": "s", "memory_gib": memory}
    print(json.dumps({"name": "solve_1m_records_s", **figures}))


if __name__ == "__main__":
    main()
