"""`cuhlm-opt pairs list|fetch|check`."""

import json as js
import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cuhlm_opt.models.files import cache_dir
from cuhlm_opt.models.pairs import load_pair, missing_files
from cuhlm_opt.models.registry import Backend, registry

app = typer.Typer(help="Model pairs: list them, fetch their files, check that they fit.", no_args_is_help=True)

Name = Annotated[str | None, typer.Argument(help="Pair of the registry; the default one where it is left out.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command("list")
def list_pairs(json: Json = False) -> None:
    """Show the registered pairs, and which are ready to load."""
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "description": entry.description,
            "backend": str(entry.backend),
            "bytes": sum(file.size for file in registry().files_of(entry).values()),
            "ready": None if entry.backend is Backend.TRANSFORMERS else not missing_files(entry.name),
        }
        for entry in registry().pairs.values()
    ]
    if json:
        print(js.dumps({"default": registry().default, "cache": str(cache_dir()), "pairs": rows}, indent=2))
        return
    table = Table("pair", "backend", "size", "ready", "", box=None)
    table.columns[0].no_wrap = True
    for row in rows:
        ready = {True: "yes", False: "no", None: "-"}[row["ready"]]
        size = f"{row['bytes'] / 1e6:,.0f} MB" if row["bytes"] else "-"
        mark = " (default)" if row["name"] == registry().default else ""
        table.add_row(f"{row['name']}{mark}", row["backend"], size, ready, row["description"])
    Console().print(table)


@app.command()
def fetch(name: Name = None, json: Json = False) -> None:
    """Download a pair's files into the cache folder and verify them; goes on with what an earlier try has left."""
    from cuhlm_opt.models.fetch import fetch as fetch_files

    paths = {role: str(path) for role, path in fetch_files(name, progress=_Notes()).items()}
    pair = registry().pair(name).name
    if json:
        print(js.dumps({"pair": pair, "files": paths}, indent=2))
    else:
        print("\n".join([f"{pair} is ready", *(f"{role}: {path}" for role, path in paths.items())]))


@app.command()
def check(name: Name = None, json: Json = False) -> None:
    """Load both models of a pair and compare their vocabularies."""
    pair = load_pair(name, context_length=64)
    try:
        report: dict[str, Any] = {
            "pair": pair.name,
            "vocab_size": pair.llm.vocab_size,
            "shared_vocabulary": True,
            "eos_tokens": {"slm": sorted(pair.slm.eos_tokens), "llm": sorted(pair.llm.eos_tokens)},
            **{role: pair.provenance()[role] for role in ("slm", "llm")},
        }
    finally:
        pair.close()
    for role, file in registry().files_of(registry().pair(name)).items():
        report[role] |= {"bytes": file.size, "as_recorded": report[role].get("sha256") == file.sha256}
    if json:
        print(js.dumps(report, indent=2))
        return
    print(f"{pair.name}: both models load and share a vocabulary of {pair.llm.vocab_size:,} tokens")
    for role in ("slm", "llm"):
        print(f"{role}: " + ", ".join(f"{key} {value}" for key, value in report[role].items()))


class _Notes:
    """Progress on stderr: a line for each new note, and every few seconds while one lasts."""

    def __init__(self, interval_s: float = 5.0) -> None:
        self._interval_s = interval_s
        self._note, self._next_s = "", 0.0

    def __call__(self, note: str, done: int, total: int) -> None:
        now = time.monotonic()
        if note == self._note and now < self._next_s and done < total:
            return
        self._note, self._next_s = note, now + self._interval_s
        print(f"{note} ({done / 1e6:,.0f} of {total / 1e6:,.0f} MB)", file=sys.stderr, flush=True)
