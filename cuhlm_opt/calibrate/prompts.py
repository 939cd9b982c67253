"""Prompt sets to calibrate on: three named ones, files of the user, and data sets of the library `datasets`."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuhlm_opt.errors import InputError, RunError, first_line, unknown_name
from cuhlm_opt.human_eval import load_tasks
from cuhlm_opt.resources import calibration_dir

HUMAN_EVAL = "human-eval"
SHIPPED = ("general", "stdlib")
SOURCES = (*SHIPPED, HUMAN_EVAL)
DATASET = "hf:"
"""What begins the name of a data set."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One request to a chat model.

    Args:
        prompt_id: unique within its source.
        domain: what the fits are grouped by.
        text: the user's turn.
    """

    prompt_id: str
    domain: str
    text: str


def load_prompt_sets(sources: Sequence[str], *, limit: int | None = None) -> list[Prompt]:
    """Load several sources one after the other.

    Args:
        sources: names or files, see `load_prompts`.
        limit: take the first `limit` prompts of each source; all of them if None.

    Returns:
        The prompts, in the order of the sources.

    Raises:
        InputError: a source is wrong, two sources share an id, or `limit` is below 1.

    >>> [prompt.domain for prompt in load_prompt_sets(["general", "stdlib"], limit=2)]
    ['general', 'general', 'code', 'code']
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} is not allowed; give 1 or more")
    owner: dict[str, str] = {}
    chosen = []
    for source in sources:
        prompts = load_prompts(source)[:limit]
        for prompt in prompts:
            if prompt.prompt_id in owner:
                raise InputError(f"prompts {source!r}: id {prompt.prompt_id!r} is also in {owner[prompt.prompt_id]!r}")
        owner |= dict.fromkeys((prompt.prompt_id for prompt in prompts), source)
        chosen += prompts
    return chosen


def load_prompts(source: str) -> list[Prompt]:
    """Load one source.

    Args:
        source: `general`, `stdlib`, `human-eval`, or the path of a JSONL file (it has a path separator or ends in
            `.jsonl`) whose lines have the keys `prompt`, and optionally `id` and `domain`. Blank lines are skipped.
            Or `hf:NAME[@CONFIG][:COLUMN[:SPLIT]]`, a data set on the hub or in a folder; the column is `prompt` unless
            it is given, the split the only one.

    Returns:
        The prompts in the order of the source; the ids of a file's lines default to `<stem>/<line>`, the domains to
        `custom`. Rows of a data set are `<name>/<row>`, counted from 0, of the domain `<name>` without its owner.

    Raises:
        InputError: the name is unknown, or the file is missing, empty or malformed.
        ModuleNotFoundError: a data set is asked for, and `datasets` is not installed.
        RunError: the hub cannot be reached.

    >>> load_prompts("general")[0].domain
    'general'
    >>> load_prompts("generel")
    Traceback (most recent call last):
    cuhlm_opt.errors.InputError: prompts 'generel' is unknown; did you mean general?
    """
    if source == HUMAN_EVAL:
        return [Prompt(prompt_id=task.task_id, domain="code", text=task.request) for task in load_tasks()]
    if source.startswith(DATASET):
        return _load_dataset(source)
    if source in SHIPPED:
        return _read_jsonl(calibration_dir() / "prompts" / f"{source}.jsonl")
    if "/" in source or "\\" in source or source.endswith(".jsonl"):
        return _read_jsonl(Path(source))
    raise unknown_name("prompts", source, SOURCES)


def _load_dataset(source: str) -> list[Prompt]:
    where, column, split = (*source.removeprefix(DATASET).split(":"), "", "")[:3]
    name, _, config = where.partition("@")
    if not name or source.count(":") > 3:
        raise InputError(f"prompts {source!r} is not allowed; give hf:NAME[@CONFIG][:COLUMN[:SPLIT]]")
    import datasets

    try:
        with _quiet(datasets):
            splits = datasets.load_dataset(name, config or None)
    except (ConnectionError, TimeoutError) as error:
        raise RunError(f"prompts {source!r}: the hub cannot be reached: {first_line(error)}") from None
    except Exception as error:  # the library's errors share no base class
        raise InputError(f"prompts {source!r} cannot be loaded: {first_line(error)}") from None
    if split not in splits and (split or len(splits) > 1):
        raise unknown_name(f"prompts {source!r}: split", split, splits)
    rows = splits[split or next(iter(splits))]
    if (column or "prompt") not in rows.column_names:
        raise unknown_name(f"prompts {source!r}: column", column or "prompt", rows.column_names)
    stem = Path(name).name
    prompts = []
    for number, text in enumerate(rows[column or "prompt"]):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"prompts {source!r} row {number} is {text!r}; every row must have some text")
        prompts.append(Prompt(prompt_id=f"{stem}/{number}", domain=stem, text=text))
    if not prompts:
        raise InputError(f"prompts {source!r} is empty")
    return prompts


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Keep progress bars, and the hub's word on every attempt, from stderr; restore both settings."""
    shown, hub = not datasets.are_progress_bars_disabled(), logging.getLogger("huggingface_hub")
    level = hub.level
    datasets.disable_progress_bars()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(level)
        if shown:
            datasets.enable_progress_bars()


def _read_jsonl(path: Path) -> list[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"prompts '{path}' cannot be read: {reason}") from error
    first_line: dict[str, int] = {}
    prompts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"prompts '{path}' line {number}"
        prompt = _parse(line, f"{path.stem}/{number}", where)
        if prompt.prompt_id in first_line:
            raise InputError(f"{where}: id {prompt.prompt_id!r} is already on line {first_line[prompt.prompt_id]}")
        first_line[prompt.prompt_id] = number
        prompts.append(prompt)
    if not prompts:
        raise InputError(f"prompts '{path}' is empty; give one JSON object a line with the key 'prompt'")
    return prompts


def _parse(line: str, default_id: str, where: str) -> Prompt:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{where} is {line.strip()[:40]!r}; give a JSON object with the key 'prompt'")
    if "prompt" not in row:
        raise InputError(f"{where} has no key 'prompt'")
    fields = {"id": default_id, "domain": "custom"} | row
    for key in ("prompt", "id", "domain"):
        if not isinstance(fields[key], str) or not fields[key].strip():
            raise InputError(f"{where}: {key} {fields[key]!r} is not allowed; give a non-empty string")
    return Prompt(prompt_id=fields["id"], domain=fields["domain"], text=fields["prompt"])
