"""The user's own log as numbers: values become ids, dense columns are scaled, all by the training rows.

Nothing here holds a whole log unless ``Encoder.table`` is asked for one. Needs pyarrow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from mtlkit.data.columns import dictionary, labels_of, named_users, numbers, split_of, users_of
from mtlkit.data.fetch import DataError
from mtlkit.data.files import Batch, Log, line
from mtlkit.data.schema import Schema
from mtlkit.data.table import SPLITS, Table

_COMPACT = 1 << 20  # counted values that may wait to be added up


@dataclass(frozen=True)
class Columns:
    """Encoded rows: ids (n, F) int32, dense (n, K) float32, labels (n, T) float32, split (n,), users (n,)."""

    ids: np.ndarray
    dense: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    users: np.ndarray | None

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """The rows of all parts, one after the other."""
        names = [name for name in cls.__dataclass_fields__ if getattr(parts[0], name) is not None]
        whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(**{"users": None} | whole)


class Encoder:
    """How a log becomes numbers: the ids of the values and the scale of the dense columns.

    ``vocabulary``: field -> its known values; value i has the id i + 1, every other one and an empty one 0.
    ``scale``: dense column -> mean and standard deviation (after log1p where the schema says so); an empty
    number becomes the mean.
    """

    def __init__(
        self, schema: Schema, vocabulary: Mapping[str, pa.Array], scale: Mapping[str, tuple[float, float]]
    ) -> None:
        self.schema, self.vocabulary, self.scale = schema, dict(vocabulary), dict(scale)
        self._index = {name: pd.Index(values.to_pandas()) for name, values in self.vocabulary.items()}

    @classmethod
    def fit(cls, log: Log, schema: Schema, progress: bool = False) -> Encoder:
        """Read the log once; its train split decides. Raises ``DataError``, also without labels."""
        counts = {name: _Counts(f"{log.path}: column {name!r}") for name in schema.categorical}
        moments = {name: np.zeros(3) for name in schema.dense}  # rows, mean, sum of squared differences
        seen, rows = np.zeros(len(schema.labels), dtype=np.int64), np.zeros(len(SPLITS), dtype=np.int64)
        bar = tqdm(unit="row", unit_scale=True, desc="fit the encoding", disable=not progress, leave=False)
        for batch in log.batches(schema.columns()):
            bar.update(len(batch))
            split = split_of(schema, batch)
            rows += np.bincount(split, minlength=len(SPLITS))
            train = split == 0
            for name, count in counts.items():
                count.add(batch.column(name).filter(pa.array(train)))
            # all rows are looked at, for a wrong value should be found here and not after an epoch
            for name, have in moments.items():
                x = numbers(batch, name, schema)
                _merge(have, x[train & ~np.isnan(x)].astype(np.float64))
            seen += (~np.isnan(labels_of(batch, schema)[train])).sum(axis=0)
            if schema.user:
                named_users(batch, schema.user)
        bar.close()
        for name, count in zip(SPLITS, rows, strict=True):
            if not count and name != "test":
                raise DataError(
                    f"{log.path}: the {name} split is empty: 0 of {rows.sum()} rows; check [split]."
                )
        for task, count in zip(schema.labels, seen, strict=True):
            if not count:
                raise DataError(f"{log.path}: task {task!r} has no observed label in the train split.")
        scale = {}
        for name, (n, mean, squares) in moments.items():
            sd = float(np.sqrt(squares / max(n, 1)))
            scale[name] = (float(mean), sd if sd > 1e-9 * max(abs(mean), 1) else 1.0)
        return cls(schema, {name: count.kept(schema.min_count) for name, count in counts.items()}, scale)

    def encode(self, batch: Batch, split: np.ndarray | None = None) -> Columns:
        """Rows as numbers. ``split``: theirs, where known. Labels that are not there are NaN, users None."""
        ids = np.empty((len(batch), len(self.vocabulary)), dtype=np.int32)
        for f, name in enumerate(self.vocabulary):
            ids[:, f] = self._ids(name, batch)
        dense = np.empty((len(batch), len(self.scale)), dtype=np.float32)
        for k, (name, (mean, sd)) in enumerate(self.scale.items()):
            dense[:, k] = np.nan_to_num((numbers(batch, name, self.schema) - mean) / sd)
        user = self.schema.user
        return Columns(
            ids,
            dense,
            labels_of(batch, self.schema),
            split_of(self.schema, batch) if split is None else split,
            users_of(batch, user) if user in batch else None,
        )

    def table(self, log: Log) -> Table:
        """The whole log in memory."""
        parts = [self.encode(batch) for batch in log.batches(self.schema.columns())]
        if not parts:
            raise DataError(f"{log.path} holds no rows.")
        return self.frame(Columns.joined(parts), {"source": str(log.path)})

    def frame(self, rows: Columns | None = None, notes: Mapping[str, object] | None = None) -> Table:
        """A table of these rows, or of none: what a model must know of its inputs and tasks."""
        rows = rows or Columns(
            np.zeros((0, len(self.vocabulary)), np.int32),
            np.zeros((0, len(self.scale)), np.float32),
            np.zeros((0, len(self.schema.labels)), np.float32),
            np.zeros(0, np.int8),
            None,
        )
        return Table(
            ids=rows.ids,
            dense=rows.dense,
            labels={task: rows.labels[:, t] for t, task in enumerate(self.schema.labels)},
            split=rows.split,
            cardinalities=tuple(len(values) + 1 for values in self.vocabulary.values()),
            fields=tuple(self.vocabulary),
            dense_names=tuple(self.scale),
            kinds=dict(self.schema.labels),
            users=rows.users,
            categories=dict(self.schema.categories),
            notes=notes or {},
        )

    def _ids(self, name: str, batch: Batch) -> np.ndarray:
        codes, values = dictionary(batch.column(name))
        known = self.vocabulary[name].type
        if values.type != known:  # text in a CSV file, numbers in a Parquet file
            try:
                values = values.cast(known)
            except pa.ArrowInvalid as error:
                raise DataError(
                    f"{batch.file}: column {name!r} holds {values.type}, but the model knows it as {known} "
                    f"({line(error)})."
                ) from error
        # one look-up per distinct value; unknown is -1 + 1, an empty one has the code -1, which is the last
        ids = np.append(self._index[name].get_indexer(values.to_pandas()) + 1, 0).astype(np.int32)
        return ids[codes]

    def save(self, path: Path) -> None:
        """As a Parquet file: a column of one list per field, the rest in its metadata."""
        lists = {
            name: pa.ListArray.from_arrays([0, len(values)], values)
            for name, values in self.vocabulary.items()
        }
        facts = json.dumps({"schema": self.schema.as_dict(), "scale": self.scale})
        table = pa.table(lists or {"nothing": [0]}).replace_schema_metadata({"mtlkit": facts})
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        pq.write_table(table, temporary)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> Encoder:
        """What ``save`` wrote."""
        try:
            table = pq.read_table(path)
            facts = json.loads(table.schema.metadata[b"mtlkit"])
        except (pa.ArrowInvalid, OSError, KeyError, TypeError) as error:
            raise DataError(f"{path} cannot be read as an encoder of mtlkit ({line(error)}).") from error
        schema = Schema.of(facts["schema"])
        lists = {name: table.column(name).combine_chunks().flatten() for name in schema.categorical}
        return cls(schema, lists, {name: tuple(pair) for name, pair in facts["scale"].items()})


def read_table(path: str | Path, schema: Schema | str | Path) -> Table:
    """A CSV or Parquet file, or a folder of Parquet files, as a table in memory.

    ``schema``: which columns are what, or the .toml or .json file that says it (``mtlkit.data.schema``). Ids,
    scales and the choice of known values come from the train split. Raises ``DataError`` with one sentence.
    """
    log = Log(path)
    return Encoder.fit(log, schema if isinstance(schema, Schema) else Schema.read(schema)).table(log)


class _Counts:
    """How many rows hold each value of a column."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.values: list[pa.Array] = []
        self.rows: list[np.ndarray] = []

    def add(self, column: pa.Array) -> None:
        codes, values = dictionary(column)
        rows = np.bincount(codes + 1, minlength=len(values) + 1)[1:]
        self.values.append(values.filter(pa.array(rows > 0)))
        self.rows.append(rows[rows > 0])
        if len(self.values) > 1 and sum(map(len, self.rows)) > max(_COMPACT, 2 * len(self.rows[0])):
            self._compact()

    def _compact(self) -> None:
        if len(kinds := {str(values.type) for values in self.values}) > 1:
            raise DataError(f"{self.where} is {' here and '.join(sorted(kinds))} there; make it one type.")
        table = pa.table({"value": pa.chunked_array(self.values), "rows": np.concatenate(self.rows)})
        total = table.group_by("value").aggregate([("rows", "sum")]).combine_chunks()
        self.values, self.rows = [total["value"].combine_chunks()], [total["rows_sum"].to_numpy()]

    def kept(self, least: int) -> pa.Array:
        """The values of at least so many rows, in their order; empty ones and NaN are none."""
        self._compact()
        (values,), (rows,) = self.values, self.rows
        real = values.is_valid() if not pa.types.is_floating(values.type) else pc.is_finite(values)
        values = values.filter(pc.and_(pa.array(rows >= least), pc.fill_null(real, False)))
        return values.take(pc.array_sort_indices(values))


def _merge(have: np.ndarray, x: np.ndarray) -> None:
    """Add the values x to rows, mean and sum of squared differences (Chan et al. 1979)."""
    if len(x):
        n, mean, squares = len(x), x.mean(), np.square(x - x.mean()).sum()
        rows, step = have[0] + n, mean - have[1]
        have[:] = rows, have[1] + step * n / rows, have[2] + squares + step**2 * have[0] * n / rows
