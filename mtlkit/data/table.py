"""The one table type that every data set of the package returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Kind = Literal["binary", "regression"]


@dataclass(frozen=True, eq=False, repr=False)  # arrays have no one truth, and a notebook need not see them
class Table:
    """Rows of a log: categorical ids, dense features, labels by task name, user, split.

    Letters: N rows, F categorical fields, D dense features.

    Attributes
    ----------
    ids: (N, F) int32. Category codes of each field; 0 means "unknown or unseen in training".
    dense: (N, D) float32. Dense features, scaled with training statistics.
    labels: task name -> (N,) float32. NaN marks a label that was not observed.
    split: (N,) int8. Index into ``SPLITS``: 0 train, 1 validation, 2 test.
    cardinalities: F sizes; the codes of field f lie in ``[0, cardinalities[f])``.
    fields, dense_names: F and D column names.
    kinds: task name -> "binary" or "regression" (decides loss and metrics).
    users: (N,) user ids for per-user metrics, numbers or text, or None where rows have no user.
    categories: task name -> its category of behaviour, say "watch" or "interaction"; only for the tasks
        that have one.
    probabilities: task name -> (N,) float32. The true chance of a positive label, for the tasks of a
        simulator, which knows it; no input of a model.
    notes: facts about the draw or the source, by name (say ``label_correlation``).

    Lists, Series and tensors are taken, too, and become arrays of these types; users stay what they are.
    Raises ``ValueError`` with one sentence for parts that are no such numbers or do not fit together.
    """

    ids: np.ndarray
    dense: np.ndarray
    labels: Mapping[str, np.ndarray]
    split: np.ndarray
    cardinalities: tuple[int, ...] = ()
    fields: tuple[str, ...] = ()
    dense_names: tuple[str, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    users: np.ndarray | None = None
    categories: Mapping[str, str] = field(default_factory=dict)
    probabilities: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._take("ids", _array("ids", self.ids, np.int32, 2))
        self._take("dense", _array("dense", self.dense, np.float32, 2))
        self._take("split", _array("split", self.split, np.int8, 1))
        for part, what in (("labels", "label"), ("probabilities", "probability")):
            columns = getattr(self, part).items()
            self._take(part, {t: _array(f"{what} {t}", y, np.float32, 1) for t, y in columns})
        for name in ("cardinalities", "fields", "dense_names"):
            self._take(name, tuple(getattr(self, name)))
        if self.users is not None:
            self._take("users", np.asarray(self.users))
        n = len(self.split)
        if n and not 0 <= self.split.min() <= self.split.max() < len(SPLITS):
            wrong = self.split[(self.split < 0) | (self.split >= len(SPLITS))][0]
            raise ValueError(f"Table: split has the value {wrong}; 0 is train, 1 validation, 2 test.")
        parts = {
            "ids": self.ids,
            "dense": self.dense,
            **{f"label {t}": y for t, y in self.labels.items()},
            **{f"probability {t}": p for t, p in self.probabilities.items()},
        }
        if self.users is not None:
            parts["users"] = self.users
        for name, part in parts.items():
            if len(part) != n:
                raise ValueError(f"Table: {name} has {len(part)} rows, but split has {n}.")
        if not self.ids.shape[1] == len(self.cardinalities) == len(self.fields):
            raise ValueError(
                f"Table: {self.ids.shape[1]} id columns, {len(self.cardinalities)} cardinalities "
                f"and {len(self.fields)} field names; the three must be equal."
            )
        if self.dense.shape[1] != len(self.dense_names):
            raise ValueError(
                f"Table: {self.dense.shape[1]} dense columns, but {len(self.dense_names)} dense names."
            )
        if not self.labels:
            raise ValueError("Table: no labels. Give at least one task: labels={'like': array}.")
        for task in self.labels:
            kind = self.kinds.get(task)
            if kind not in ("binary", "regression"):
                raise ValueError(f"Table: kinds[{task!r}] must be 'binary' or 'regression', got {kind!r}.")
        for part, names in (("categories", self.categories), ("probabilities", self.probabilities)):
            for task in names:
                if task not in self.labels:
                    raise ValueError(
                        f"Table: {part} names {task!r}, but the tasks are {', '.join(self.labels)}."
                    )

    def _take(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen for its users

    def __len__(self) -> int:
        return len(self.split)

    def __repr__(self) -> str:
        splits = ", ".join(f"{(self.split == i).sum():,} {name}" for i, name in enumerate(SPLITS))
        return (
            f"Table({len(self):,} rows ({splits}); {len(self.fields)} fields, {len(self.dense_names)} dense "
            f"features; tasks {', '.join(self.tasks)})"
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, in the order of the columns of every model's output."""
        return tuple(self.labels)

    def rows(self, index: np.ndarray) -> Table:
        """The rows that an integer or boolean index (N,) picks, as a new table."""
        return replace(
            self,
            ids=self.ids[index],
            dense=self.dense[index],
            labels={task: y[index] for task, y in self.labels.items()},
            split=self.split[index],
            users=None if self.users is None else self.users[index],
            probabilities={task: p[index] for task, p in self.probabilities.items()},
        )

    def part(self, name: Split) -> Table:
        """The rows of one split: "train", "validation" or "test"."""
        if name not in SPLITS:
            raise ValueError(f"There is no split {name!r}; choose one of {', '.join(SPLITS)}.")
        chosen = self.rows(self.split == SPLITS.index(name))
        if not len(chosen):
            raise ValueError(
                f"The {name} split is empty: 0 of {len(self)} rows. Check how the rows were split."
            )
        return chosen

    def select(self, tasks: Sequence[str]) -> Table:
        """The same rows with these tasks only, in this order."""
        missing = [task for task in tasks if task not in self.labels]
        if missing:
            raise ValueError(f"Unknown task {missing[0]!r}; this table has {', '.join(self.tasks)}.")
        if len(set(tasks)) < len(tasks):
            raise ValueError(f"Table: a task is named twice in {', '.join(tasks)}.")
        return replace(
            self,
            labels={task: self.labels[task] for task in tasks},
            kinds={task: self.kinds[task] for task in tasks},
            categories={task: self.categories[task] for task in tasks if task in self.categories},
            probabilities={task: self.probabilities[task] for task in tasks if task in self.probabilities},
        )

    def label_matrix(self) -> np.ndarray:
        """All labels as one (N, T) float32 array, columns in the order of ``tasks``."""
        return np.stack([self.labels[task] for task in self.tasks], axis=1)

    def summary(self) -> pd.DataFrame:
        """Rows, observed labels and label mean (the positive rate) by split and task."""
        lines = []
        for index, name in enumerate(SPLITS):
            here = self.split == index
            for task, y in self.labels.items():
                seen = y[here]
                seen = seen[~np.isnan(seen)]
                mean = float(seen.mean()) if len(seen) else float("nan")
                lines.append((name, task, int(here.sum()), len(seen), mean))
        return pd.DataFrame(lines, columns=["split", "task", "rows", "observed", "label_mean"])


def _array(name: str, given: object, dtype: type, dimensions: int) -> np.ndarray:
    """``given`` as an array of this type, itself where it is one."""
    found = np.asarray(given)
    if found.dtype.kind not in "biuf":  # text, objects, complex numbers
        try:
            found = found.astype(np.float64) if found.dtype.kind == "O" else None
        except (TypeError, ValueError):
            found = None
    if found is None or found.ndim != dimensions:
        shape = "numbers in one column" if dimensions == 1 else "a matrix of numbers, a row per row"
        got = f"{np.asarray(given).dtype} of shape {np.shape(given)}"
        raise ValueError(f"Table: {name} must be {shape}; got {got}.")
    if found.dtype == dtype:
        return found
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # a number beyond float32 is infinite, and refused as such
        cast = found.astype(dtype)
    if np.issubdtype(dtype, np.integer) and not (cast == found).all():
        wrong = found[cast != found][0]
        raise ValueError(f"Table: {name} must be whole numbers, got {wrong}.")
    return cast
