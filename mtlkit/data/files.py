"""The user's own log, a CSV or Parquet file, read a few rows at a time. Needs pyarrow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mtlkit.data.fetch import DataError

BATCH = 1 << 16  # rows that are decoded at a time
_PAGES = 1 << 20  # bytes that a column reads ahead


@dataclass(frozen=True)
class Piece:
    """Rows that are read one after the other: a row group of a Parquet file. ``first`` counts over all."""

    file: Path
    group: int
    first: int
    rows: int


@dataclass(frozen=True)
class Batch:
    """Rows of a log. ``first`` and ``row``: the number of the first one in the log and in ``file``, from 0.

    ``kept``: which of so many neighbouring rows these are, where only some were taken.
    """

    rows: pa.RecordBatch
    file: Path
    first: int
    row: int
    kept: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, column: str) -> bool:
        return column in self.rows.schema.names

    def column(self, name: str) -> pa.Array:
        """Its values."""
        return self.rows.column(name)

    def only(self, keep: np.ndarray) -> Batch:
        """The rows where ``keep`` is true."""
        return replace(self, rows=self.rows.filter(pa.array(keep)), kept=np.flatnonzero(keep))

    def error(self, i: int, sentence: str) -> DataError:
        """What is wrong with row ``i`` of these, and where the user finds that row."""
        number = self.row + int(i if self.kept is None else self.kept[i]) + 1
        below = "" if self.file.suffix == ".parquet" else " below the header"
        return DataError(f"{self.file}, row {number}{below}: {sentence}")


class Log:
    """A Parquet file, a folder of them, or a CSV file with a header line."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            self.files = sorted(self.path.glob("*.parquet"))
        else:
            self.files = [self.path] if self.path.is_file() else []
        if not self.files:
            what = "holds no *.parquet file" if self.path.is_dir() else "is no file"
            raise DataError(
                f"{self.path} {what}; name a .csv or .parquet file, or a folder of .parquet files."
            )
        self.is_csv = self.files[0].suffix != ".parquet"
        self._metadata: dict[Path, pq.FileMetaData] = {}

    @cached_property
    def pieces(self) -> list[Piece]:
        """The row groups of all files. A CSV file has none: see ``as_parquet``."""
        found, first = [], 0
        for file in self.files:
            parts = self._metadata[file] = _parquet(file).metadata
            for group in range(parts.num_row_groups):
                found.append(Piece(file, group, first, parts.row_group(group).num_rows))
                first += found[-1].rows
        return found

    def stamp(self) -> list:
        """Names, sizes and times: what tells the files from changed ones."""
        return [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in self.files]

    @property
    def columns(self) -> list[str]:
        """Their names, as the first file has them."""
        if self.is_csv:
            return _open_csv(self.path).schema.names
        return _parquet(self.files[0]).schema_arrow.names

    def batches(self, columns: Sequence[str], piece: Piece | None = None) -> Iterator[Batch]:
        """The rows of a piece, or all."""
        if self.is_csv:
            first = 0
            for rows in _csv(self.path, columns):
                yield Batch(rows, self.path, first, first)
                first += len(rows)
            return
        first = 0 if piece is None else piece.first
        for path in self.files if piece is None else [piece.file]:
            file = _parquet(path, self._metadata.get(path))
            _need(columns, file.schema_arrow.names, path)
            groups = range(file.num_row_groups) if piece is None else [piece.group]
            row = sum(file.metadata.row_group(group).num_rows for group in range(groups[0])) if groups else 0
            batches = file.iter_batches(BATCH, groups, list(columns), use_threads=False)
            for rows in _each(batches, path, "Parquet"):
                yield Batch(rows, path, first, row)
                first, row = first + len(rows), row + len(rows)

    def as_parquet(self, target: Path, columns: Sequence[str]) -> Log:
        """This log; a CSV file rewritten as ``target``, once, for it can only be read in order."""
        if not self.is_csv:
            return self
        if not target.exists():
            temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
            writer = None
            for batch in self.batches(columns):
                writer = writer or pq.ParquetWriter(temporary, batch.rows.schema)
                writer.write_batch(batch.rows, row_group_size=BATCH)
            if writer is None:
                raise DataError(f"{self.path} holds no rows.")
            writer.close()
            os.replace(temporary, target)
        return Log(target)


def _parquet(file: Path, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, metadata=metadata, buffer_size=_PAGES)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet ({line(error)}).") from error


def _csv(file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    _need(columns, _open_csv(file).schema.names, file)
    # as text: an id column may begin with numbers and go on with words
    options = pyarrow.csv.ConvertOptions(
        include_columns=list(columns),
        column_types=dict.fromkeys(columns, pa.string()),
        strings_can_be_null=True,
    )
    return _each(_open_csv(file, options), file, "CSV")


def _each(batches: Iterable[pa.RecordBatch], file: Path, kind: str) -> Iterator[pa.RecordBatch]:
    """The same; a damaged file is one sentence."""
    try:
        yield from batches
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} cannot be read as {kind} ({line(error)}).") from error


def _open_csv(
    file: Path, options: pyarrow.csv.ConvertOptions | None = None
) -> pyarrow.csv.CSVStreamingReader:
    try:
        return pyarrow.csv.open_csv(file, convert_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} cannot be read as CSV ({line(error)}).") from error


def _need(columns: Sequence[str], there: list[str], file: Path) -> None:
    if missing := [name for name in columns if name not in there]:
        raise DataError(f"{file} has no column {missing[0]!r}; it has {', '.join(there)}.")
    if twice := [name for name in columns if there.count(name) > 1]:
        raise DataError(f"{file} has two columns {twice[0]!r}; rename one.")


def line(error: BaseException) -> str:
    """The first line of a library's message, for use inside a sentence."""
    return str(error).partition("\n")[0].rstrip(".")
