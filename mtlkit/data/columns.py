"""Columns of a log as arrays: numbers, labels, users and the split of each row. Needs pyarrow."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pyarrow as pa

from mtlkit.data.fetch import DataError
from mtlkit.data.files import line
from mtlkit.data.schema import Schema
from mtlkit.data.table import SPLITS

_DAY = re.compile(r"\d{4}-?[01]\d-?[0-3]\d(?!\d)")


def dictionary(column: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Codes (n,) and the values that they stand for; -1 = empty."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), encoded.dictionary


def _floats(column: pa.Array, name: str) -> np.ndarray:
    """(n,) float64; an empty one is NaN."""
    try:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        x = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"Column {name!r} must hold numbers ({line(error)}).") from error
    if np.isinf(x).any():
        raise DataError(f"Column {name!r} holds an infinite number; leave it empty if it is unknown.")
    return x


def numbers(batch: pa.RecordBatch, name: str, schema: Schema) -> np.ndarray:
    """A dense column before it is scaled, (n,) float64; an empty one is NaN."""
    x = _floats(batch.column(name), name)
    return np.log1p(np.maximum(x, 0)) if name in schema.log else x


def labels_of(batch: pa.RecordBatch, schema: Schema) -> np.ndarray:
    """(n, T) float32; NaN = unobserved."""
    y = np.full((len(batch), len(schema.labels)), np.nan, dtype=np.float32)
    for t, (task, kind) in enumerate(schema.labels.items()):
        if task in batch.schema.names:
            y[:, t] = _floats(batch.column(task), task)
            wrong = y[:, t][~(np.isnan(y[:, t]) | np.isin(y[:, t], (0, 1)))]
            if kind == "binary" and len(wrong):
                raise DataError(
                    f"Label {task!r} has the value {wrong[0]:g}; a binary label must be 0, 1 or empty "
                    "(unobserved)."
                )
    return y


def users_of(column: pa.Array, name: str) -> np.ndarray:
    """(n,) int64; text becomes a hash of 64 bits."""
    if column.null_count:
        raise DataError(f"The user column {name!r} is empty in some rows; every row needs its user.")
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()).to_numpy()
    codes, values = dictionary(column)
    hashes = pd.util.hash_array(values.to_numpy(zero_copy_only=False).astype(object))
    return hashes.view(np.int64)[codes]


def split_of(schema: Schema, batch: pa.RecordBatch, first: int) -> np.ndarray:
    """The split of each row, (n,) int8 as in ``Table``. ``first``: the number of the first row in its log."""
    rule = schema.split
    if schema.split_column is None:
        return random_split(schema, first, len(batch))
    name = schema.split_column
    column = batch.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.date32(), safe=False)
    codes, values = dictionary(column)
    if column.null_count:
        raise DataError(f"The split column {name!r} is empty in some rows.")
    words = [str(value) for value in values.to_pylist()]
    if "column" in rule:
        if other := [word for word in words if word not in SPLITS]:
            raise DataError(f"The split column {name!r} has the value {other[0]!r}; use {', '.join(SPLITS)}.")
        of_value = [SPLITS.index(word) for word in words]
    else:
        days = [word.replace("-", "")[:8] for word in words]
        if other := [word for word in words if not _DAY.match(word)]:
            raise DataError(
                f"The date column {name!r} has the value {other[0]!r}; use YYYY-MM-DD, YYYYMMDD or a date "
                "type."
            )
        of_value = np.searchsorted([rule["validation"], rule["test"]], days, side="right")
    return np.asarray(of_value, dtype=np.int8)[codes]


def random_split(schema: Schema, first: int, rows: int) -> np.ndarray:
    """The split by a hash of the seed and a row's number: no memory, and the same whoever reads the row."""
    share = _uniform(first, rows, schema.split["seed"])
    return np.searchsorted(np.cumsum(schema.split["random"][:2]), share, side="right").astype(np.int8)


def _uniform(first: int, rows: int, seed: int) -> np.ndarray:
    """A number in [0, 1) for each row (SplitMix64: Steele et al., OOPSLA 2014)."""
    x = np.arange(first, first + rows, dtype=np.uint64)
    with np.errstate(over="ignore"):
        x = (x + np.uint64(1) + np.uint64(seed) * np.uint64(0x2545F4914F6CDD1D)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)) * 2.0**-53
