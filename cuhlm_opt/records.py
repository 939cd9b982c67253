"""Records: one row per position of a calibration run, in parquet, with what produced them in the file's metadata.

Ranges: probabilities, masses, TV and uncertainties in [0, 1]; entropy in nats; ids and ranks integers >= 0.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.quantisation import MEASURED_BITS, Quantiser, measured_sizes
from cuhlm_opt.signals import RecordedFeatures, Signal, resampled, value_of

SCHEMA_VERSION: Final = 1
TOP = 8
"""Tokens kept in full per position: enough for skip(t) and risk(t) up to `T_LIMIT` [N, THEORY 4.2]."""
T_LIMIT = 0.875
"""Largest threshold below 1 whose skippable tokens are all among the `TOP` largest of x."""
GRID_STEP = 2.0**-13
"""`tail_mass` and `tv_x_xhat` are rounded up to a multiple of this."""
QUANTISED_STEP = 2.0**-17
"""`tv_quantised` is rounded up to a multiple of this."""

_METADATA_KEY = b"cuhlm_opt"
_ROW_GROUP = 2**17
"""Rows that are read at once, beside others."""


def record_schema(k_grid: Sequence[int]) -> pa.Schema:
    """Arrow schema of the records; `k_grid` holds the truncation sizes of the metadata, up to |V|."""
    grid = pa.list_(pa.float32(), len(k_grid))
    some = pa.list_(pa.float32())  # a list of fixed length would take room where it is null
    return pa.schema(
        [
            ("prompt_id", pa.string()),
            ("domain", pa.string()),
            ("position", pa.int32()),  # 0 for the first token of the answer
            ("source", pa.string()),  # who drew the context: llm, slm or hybrid
            ("context_token", pa.int32()),  # what the source drew here; it ends the next position's context
            ("draft_token", pa.int32()),  # drawn from the scorer's own x
            ("draft_rank", pa.int32()),  # 0 for the most likely
            ("x_d", pa.float32()),
            ("y_d", pa.float32()),
            ("beta", pa.float32()),
            ("u_mc", pa.float32()),  # sampled uncertainty [P]
            ("u_bar", pa.float32()),  # its integral [N]
            ("tv", pa.float32()),  # TV(x, y)
            ("entropy", pa.float32()),  # of x, nats
            ("p_max", pa.float32()),
            ("margin", pa.float32()),  # largest minus second largest of x
            ("top_id", pa.list_(pa.int32(), TOP)),
            ("top_x", pa.list_(pa.float32(), TOP)),
            ("top_y", pa.list_(pa.float32(), TOP)),
            ("top_u_bar", pa.list_(pa.float32(), TOP)),
            ("tail_mass", grid),  # mass of x beyond the k largest
            ("tv_x_xhat", grid),  # TV(x, x_hat_k)
            # on a random subset of positions, null elsewhere:
            ("tv_redraw", some),  # TV(norm((y - x)+), norm((y - x_hat_k)+))
            ("bias_exact", some),  # TV(output, y) of cu-hlm-offline without skipping
            ("tv_xhat_y", some),  # TV(x_hat_k, y)
            ("tv_quantised", some),  # TV(x_hat_k, decoded x_hat_k), see `Records.tv_quantised`
        ]
    )


COLUMNS = (
    "prompt_id", "domain", "position", "source", "context_token", "x_d", "beta", "u_mc", "u_bar", "tv", "entropy",
    "top_id", "top_x", "top_y", "top_u_bar", "tv_x_xhat", "tv_quantised",
)  # fmt: skip
"""What `Records` is made of."""
_TOPS = ("top_x", "top_y", "top_u_bar")
_WIDEST = "tv_x_xhat"
_BATCH = 2**14
"""Rows of the widest column that are read at once."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """Records of one domain as arrays; n positions, G truncation sizes."""

    prompt: NDArray[np.int64]
    """(n,) index of the prompt, 0 .. n_prompts - 1."""
    x_d: NDArray[np.float64]
    beta: NDArray[np.float64]
    u_mc: NDArray[np.float64]
    u_bar: NDArray[np.float64]
    tv: NDArray[np.float64]
    entropy: NDArray[np.float64]
    """Of x, nats."""
    top_x: NDArray[np.float32]
    """(n, TOP)"""
    top_y: NDArray[np.float32]
    top_u_bar: NDArray[np.float32]
    emitted: NDArray[np.int8]
    """(n,) which of the `TOP` tokens the source drew, -1 where none of them."""
    k_grid: NDArray[np.int64]
    """(G,) truncation sizes, from 0 to |V|."""
    tv_x_xhat: NDArray[np.float32]
    """(n, G)"""
    tv_quantised: NDArray[np.float32]
    """(m, quantisers, MEASURED_BITS, `measured_sizes`) TV(x_hat_k, decoded x_hat_k) on a random subset of positions."""
    measured: NDArray[np.intp]
    """(m,) the positions of that subset."""
    sources: frozenset[str] = frozenset({"llm"})
    """Who drew the contexts."""

    @property
    def n_tokens(self) -> int:
        """Number of positions."""
        return len(self.prompt)

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return int(self.prompt.max()) + 1

    @property
    def features(self) -> RecordedFeatures:
        """What signals are made of."""
        first, second = self.top_x[:, 0].astype(np.float64), self.top_x[:, 1].astype(np.float64)
        return RecordedFeatures(
            u_bar=self.u_bar, x_d=self.x_d, p_max=first, margin=first - second, entropy=self.entropy
        )

    def signal(self, signal: Signal, weights: Sequence[float] = ()) -> NDArray[np.float64]:
        """A signal of the recorded drafts, shape (n,); sampled otherwise than recorded, it is drawn given `u_bar`."""
        if signal is Signal.U_MC:
            return self.u_mc
        if signal.samples is not None:
            return resampled(self.u_bar, signal.samples, np.random.default_rng(0))
        return value_of(signal, self.features, weights)

    def halves(self) -> tuple[Self, Self]:
        """Every other prompt to learn on, and those between to judge by."""
        return self.of_prompts(np.arange(0, self.n_prompts, 2)), self.of_prompts(np.arange(1, self.n_prompts, 2))

    def some_prompts(self, most: int) -> Self:
        """Every so many a prompt, at most `most`; its own self where there are no more."""
        every = -(-self.n_prompts // most)
        return self if every == 1 else self.of_prompts(np.arange(0, self.n_prompts, every))

    def of_prompts(self, prompts: NDArray[np.integer]) -> Self:
        """The positions of some prompts, given by their increasing indices."""
        chosen = np.flatnonzero(np.isin(self.prompt, prompts))
        place = np.full(self.n_tokens, -1)
        place[chosen] = np.arange(len(chosen))
        kept = place[self.measured] >= 0
        arrays = ("x_d", "beta", "u_mc", "u_bar", "tv", "entropy", "emitted", "tv_x_xhat", *_TOPS)
        return replace(
            self,
            prompt=np.searchsorted(prompts, self.prompt[chosen]),
            **{name: getattr(self, name)[chosen] for name in arrays},
            tv_quantised=self.tv_quantised[kept],
            measured=place[self.measured][kept],
        )

    @classmethod
    def read(cls, path: Path, domain: str) -> Self:
        """Records of one domain from a file, as `of`; the widest column is read piece by piece, to be held once.

        Raises:
            InputError: as `read_records`, or the file has no rows of the domain.
        """
        table = read_records(path, [name for name in COLUMNS if name != _WIDEST])
        own = pc.equal(table.column("domain"), domain).to_numpy()
        wide = np.empty((np.count_nonzero(own), len(read_metadata(table)["k_grid"])), dtype=np.float32)
        at = filled = 0
        with _readable(path):
            for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=[_WIDEST]):
                part = _matrix(batch.column(0))[own[at : at + len(batch)]]
                wide[filled : filled + len(part)] = part
                at, filled = at + len(batch), filled + len(part)
        return cls.of(table, domain, wide)

    @classmethod
    def of(cls, table: pa.Table, domain: str, tv_x_xhat: NDArray[np.float32] | None = None) -> Self:
        """Select the rows of `domain`; InputError where there are none, naming the domains there are.

        Args:
            table: from `read_records`.
            domain: which rows.
            tv_x_xhat: that column of the domain's rows, shape (n, G), where the table is without.
        """
        chosen = np.flatnonzero(pc.equal(table.column("domain"), domain).to_numpy())
        if not len(chosen):
            recorded = sorted(table.column("domain").unique().to_pylist())
            raise InputError(f"domain {domain!r} has no records; recorded: {', '.join(recorded)}")
        prompt, position = _prompt_indices(table)[chosen], table.column("position").to_numpy()[chosen]
        if not _along_answers(prompt, position):
            order = np.lexsort((position, prompt))
            chosen, prompt, tv_x_xhat = chosen[order], prompt[order], None if tv_x_xhat is None else tv_x_xhat[order]
        rows = table if np.array_equal(chosen, np.arange(len(table))) else table.take(chosen)

        def flat(name: str) -> NDArray[np.float64]:
            return np.asarray(rows.column(name).to_numpy(), dtype=np.float64)

        def nested(name: str) -> NDArray[np.float32]:
            return np.concatenate([_matrix(chunk) for chunk in rows.column(name).chunks])

        drawn = nested("top_id") == rows.column("context_token").to_numpy()[:, None]

        k_grid = np.array(read_metadata(table)["k_grid"], dtype=np.int64)
        measured = rows.column("tv_quantised").combine_chunks().flatten().to_numpy()
        _, prompt = np.unique(prompt, return_inverse=True)
        return cls(
            prompt=prompt,
            x_d=flat("x_d"),
            beta=flat("beta"),
            u_mc=flat("u_mc"),
            u_bar=flat("u_bar"),
            tv=flat("tv"),
            entropy=flat("entropy"),
            top_x=nested("top_x"),
            top_y=nested("top_y"),
            top_u_bar=nested("top_u_bar"),
            emitted=np.where(drawn.any(axis=1), drawn.argmax(axis=1), -1).astype(np.int8),
            k_grid=k_grid,
            tv_x_xhat=nested(_WIDEST) if tv_x_xhat is None else tv_x_xhat,
            tv_quantised=measured.reshape(-1, *_quantised_shape(int(k_grid[-1]))),
            measured=np.flatnonzero(rows.column("tv_quantised").is_valid().to_numpy()),
            sources=frozenset(rows.column("source").unique().to_pylist()),
        )


def _matrix(lists: pa.FixedSizeListArray) -> NDArray[Any]:
    """Lists of one length as rows."""
    return np.asarray(lists.flatten().to_numpy().reshape(len(lists), -1))


def _along_answers(prompt: NDArray[np.integer], position: NDArray[np.integer]) -> bool:
    """Whether each prompt's positions stand together and in order, as runs of skipped tokens are counted."""
    inside = np.diff(prompt) == 0
    starts = 1 + np.count_nonzero(~inside)
    return starts == len(np.unique(prompt)) and bool(np.all(np.diff(position)[inside] > 0))


def _prompt_indices(rows: pa.Table) -> NDArray[np.int64]:
    """Index of each row's prompt among the ids in order."""
    ids = rows.column("prompt_id").combine_chunks().dictionary_encode()
    _, rank = np.unique(ids.dictionary.to_numpy(zero_copy_only=False), return_inverse=True)
    return np.asarray(rank, dtype=np.int64)[ids.indices.to_numpy()]


def _quantised_shape(vocab_size: int) -> tuple[int, int, int]:
    return len(Quantiser), len(MEASURED_BITS), len(measured_sizes(vocab_size))


def write_records(tables: Iterable[pa.Table], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write `tables`, of one schema, one after the other as one file, atomically; few of them are held at a time."""
    grids = [
        f"{name}.list.element"
        for name in ("tail_mass", "tv_x_xhat", "tv_redraw", "bias_exact", "tv_xhat_y", "tv_quantised")
    ]
    stored = {_METADATA_KEY: json.dumps(metadata, sort_keys=True).encode()}
    groups = _row_groups(tables)
    first = next(groups)
    options = {
        "compression": "zstd",
        "compression_level": 12,
        "use_dictionary": ["prompt_id", "domain", "source"],
        "use_byte_stream_split": grids,
    }
    with (
        replaced(path) as handle,
        pq.ParquetWriter(handle, first.schema.with_metadata(stored), **options) as writer,
    ):
        for group in chain([first], groups):
            writer.write_table(group.replace_schema_metadata(stored), row_group_size=_ROW_GROUP)


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of `tables`, so many together as make up a row group; at least one table, be it empty."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= _ROW_GROUP:
            rows = pa.concat_tables(held)
            whole = len(rows) // _ROW_GROUP * _ROW_GROUP
            yield rows.slice(0, whole)
            held = [rows.slice(whole)] if whole < len(rows) else []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def read_records(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read records and check their schema.

    Args:
        path: parquet file.
        columns: the columns to read; None reads all.

    Raises:
        InputError: the file is missing, cut, not parquet, of another schema version, or lacks a column (named).
    """
    require_schema(path)
    with _readable(path):
        return pq.read_table(path, columns=None if columns is None else list(columns))


def require_whole(path: Path) -> None:
    """Read records piece by piece; InputError as `read_records`."""
    require_schema(path)
    with _readable(path):
        for _ in pq.ParquetFile(path).iter_batches(_BATCH):
            pass


def require_schema(path: Path) -> pa.Schema:
    """The schema of records; InputError as `read_records`, but for what shows only where the rows are read."""
    with _readable(path):
        schema = pq.read_schema(path)
    metadata = read_metadata(schema)
    if metadata.get("schema_version") != SCHEMA_VERSION:
        version = metadata.get("schema_version")
        raise InputError(f"records {path}: schema version {version!r}; this release reads version {SCHEMA_VERSION}")
    expected = record_schema(metadata["k_grid"])
    for field in expected:
        if field.name not in schema.names or schema.field(field.name).type != field.type:
            found = schema.field(field.name).type if field.name in schema.names else "missing"
            raise InputError(f"records {path}: column {field.name!r} is {found}; this release reads {field.type}")
    return schema


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What goes wrong while a file is read, in one line."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"records {path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"records {path}: not a readable parquet file ({str(error).splitlines()[0]})") from None


def read_metadata(rows: pa.Table | pa.Schema) -> dict[str, Any]:
    """Metadata that `write_records` stored with a table or its schema; empty where there is none."""
    schema = rows if isinstance(rows, pa.Schema) else rows.schema
    stored = (schema.metadata or {}).get(_METADATA_KEY)
    metadata: dict[str, Any] = json.loads(stored) if stored else {}
    return metadata


def rows_sha256(path: Path) -> str:
    """Hex SHA-256 of the rows of records, column after column; neither metadata nor how they are stored enters."""
    digest = hashlib.sha256()
    for name in require_schema(path).names:
        column = read_records(path, [name]).replace_schema_metadata(None).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, column.schema) as stream:
            stream.write_table(column)
        digest.update(sink.getvalue())
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file as `replaced` does."""
    with replaced(path) as handle:
        handle.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, so that at every moment either the old or the new content is at `path`, whole.

    Where the block raises, the old content stays.

    Raises:
        InputError: something else than a regular file is there, such as a device or a folder; it is left alone.
        RunError: the disk is full, read-only or gone.
    """
    temporary: Path | None = None
    if path.exists() and not path.is_file():
        raise InputError(f"cannot write {path}: it exists and is no regular file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
            temporary = Path(handle.name)
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
