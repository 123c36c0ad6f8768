"""Columns of a log as arrays: numbers, labels, users and the split of each row. Needs pyarrow."""

from __future__ import annotations

import re
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa

from mtlkit.data.fetch import DataError
from mtlkit.data.files import Batch, line
from mtlkit.data.schema import Schema
from mtlkit.data.table import SPLITS

_DAY = re.compile(r"\d{4}-?[01]\d-?[0-3]\d(?!\d)")


def dictionary(column: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Codes (n,) and the values that they stand for; -1 = empty."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), encoded.dictionary


def _floats(batch: Batch, name: str) -> np.ndarray:
    """(n,) float64; an empty one is NaN."""
    column = batch.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        x = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowNotImplementedError as error:
        raise DataError(f"{batch.file}: column {name!r} must hold numbers ({line(error)}).") from error
    except pa.ArrowInvalid as error:
        row = _first_no_number(column)
        raise batch.error(
            row, f"column {name!r} must hold numbers, but holds {column[row].as_py()!r}."
        ) from error
    wide = np.abs(x) > np.finfo(np.float32).max  # models compute in float32
    if wide.any():
        row = wide.argmax()
        raise batch.error(row, f"column {name!r} holds {x[row]:g}; leave it empty if it is unknown.")
    return x


def _first_no_number(column: pa.Array) -> int:
    """The first row that stops the cast, by halves."""
    good, bad = 0, len(column)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            column[good:middle].cast(pa.float64())
            good = middle
        except pa.ArrowInvalid:
            bad = middle
    return good


def numbers(batch: Batch, name: str, schema: Schema) -> np.ndarray:
    """A dense column before it is scaled, (n,) float64; an empty one is NaN."""
    x = _floats(batch, name)
    return np.log1p(np.maximum(x, 0)) if name in schema.log else x


def labels_of(batch: Batch, schema: Schema) -> np.ndarray:
    """(n, T) float32; NaN = unobserved."""
    y = np.full((len(batch), len(schema.labels)), np.nan, dtype=np.float32)
    for t, (task, kind) in enumerate(schema.labels.items()):
        if task in batch:
            y[:, t] = _floats(batch, task)
            wrong = ~(np.isnan(y[:, t]) | np.isin(y[:, t], (0, 1)))
            if kind == "binary" and wrong.any():
                row = wrong.argmax()
                raise batch.error(
                    row,
                    f"label {task!r} has the value {y[row, t]:g}; a binary label must be 0, 1 or empty "
                    "(unobserved).",
                )
    return y


def named_users(batch: Batch, name: str) -> pa.Array:
    """The user column, which must not be empty in any row."""
    column = batch.column(name)
    if column.null_count:
        row = column.is_null().to_numpy(zero_copy_only=False).argmax()
        raise batch.error(row, f"the user column {name!r} is empty; every row needs its user.")
    return column


def users_of(batch: Batch, name: str) -> np.ndarray:
    """(n,) int64; text becomes a hash of 64 bits."""
    column = named_users(batch, name)
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()).to_numpy()
    codes, values = dictionary(column)
    hashes = pd.util.hash_array(values.to_numpy(zero_copy_only=False).astype(object))
    return hashes.view(np.int64)[codes]


def split_of(schema: Schema, batch: Batch) -> np.ndarray:
    """The split of each row, (n,) int8 as in ``Table``."""
    rule = schema.split
    if schema.split_column is None:
        return random_split(schema, batch.first, len(batch))
    name = schema.split_column
    column = batch.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.date32(), safe=False)
    codes, values = dictionary(column)
    words = [str(value) for value in values.to_pylist()]
    if "column" in rule:
        of_value = [SPLITS.index(word) if word in SPLITS else -1 for word in words]
        wanted = f"use {', '.join(SPLITS)}"
    else:
        days = [word.replace("-", "")[:8] if _DAY.match(word) else "" for word in words]
        real = {day: _is_day(day) for day in set(days)}
        of_value = np.searchsorted([rule["validation"], rule["test"]], days, side="right")
        of_value = np.where([real[day] for day in days], of_value, -1)
        wanted = "use YYYY-MM-DD, YYYYMMDD or a date type"
    split = np.append(of_value, -1).astype(np.int8)[codes]  # an empty one has the code -1
    if (split < 0).any():
        row = (split < 0).argmax()
        has = "is empty" if codes[row] < 0 else f"has the value {words[codes[row]]!r}"
        raise batch.error(
            row, f"the {'split' if 'column' in rule else 'date'} column {name!r} {has}; {wanted}."
        )
    return split


def _is_day(digits: str) -> bool:
    """Whether the calendar has this YYYYMMDD."""
    try:
        return bool(date.fromisoformat(digits))
    except ValueError:
        return False


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
