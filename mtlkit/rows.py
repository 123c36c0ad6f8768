"""Where training takes its rows from: a table on one device, or whatever else gives batches."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mtlkit.data.table import SPLITS, Kind, Split, Table
from mtlkit.models import Recommender
from mtlkit.parallel import place, share

_FEATURES = ("fields", "cardinalities", "dense_names")  # what a model must have in common with its tables


@dataclass(frozen=True)
class Rows:
    """Rows as tensors on one device: ids (N, F), dense (N, K), labels (N, T)."""

    ids: Tensor
    dense: Tensor
    labels: Tensor

    @classmethod
    def of(cls, table: Table, model: Recommender, device: torch.device) -> Rows:
        """Raises ``ValueError`` with one sentence where ``model`` cannot read the table."""
        _check(table, model)
        return cls(
            torch.from_numpy(np.ascontiguousarray(table.ids, dtype=np.int64)).to(device),
            torch.from_numpy(np.ascontiguousarray(table.dense, dtype=np.float32)).to(device),
            torch.from_numpy(table.label_matrix()).to(device),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Rows:
        return Rows(self.ids[index], self.dense[index], self.labels[index])

    def to(self, device: torch.device) -> Rows:
        """The rows on a device; themselves where they are there."""
        if self.labels.device == device:
            return self
        return Rows(self.ids.to(device), self.dense.to(device), self.labels.to(device))

    def split(self, size: int) -> Iterator[Rows]:
        """Neighbouring rows, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


@dataclass(frozen=True)
class Part:
    """A split to predict: ``labels`` holds all processes' rows, ``batches(size)`` this process's share.

    ``labels`` is a table of labels and users, maybe without features. Its rows are those of process 0, then
    of process 1, ..., each in the order of its ``batches``.
    """

    labels: Table
    batches: Callable[[int], Iterator[Rows]]


class Source(Protocol):
    """Rows for ``training.fit``. ``TableSource`` holds them in memory, ``stream.Stream`` reads files.

    With several processes every process gives its share of each batch; all take as many steps.
    """

    tasks: tuple[str, ...]
    kinds: Mapping[str, Kind]

    def check(self, model: Recommender) -> None:
        """Refuse a model that cannot read the rows."""

    def steps(self, batch_size: int) -> int:
        """Batches of an epoch."""

    def epoch(self, number: int, batch_size: int, seed: int) -> Iterator[Rows]:
        """The batches of epoch ``number``, from 1: always the same for one number and seed."""

    def part(self, name: Split) -> Part:
        """A split to predict."""

    def fingerprint(self) -> str:
        """What tells these rows from others: a checkpoint keeps it."""


class TableSource:
    """A table's rows on one device. An epoch is one random order of all training rows.

    The batches do not depend on the number of processes: each takes its share of every batch.
    """

    def __init__(self, table: Table, model: Recommender, device: torch.device) -> None:
        self.table, self.model, self.device = table, model, device
        self.tasks, self.kinds = table.tasks, table.kinds
        train = table.part("train")
        self.rows = Rows.of(train, model, device)
        check_observed(train)
        self._seed, self._drawn, self._shuffle = None, 0, torch.Generator()

    def check(self, model: Recommender) -> None:
        """Refuse another model than that of the beginning."""
        if model is not self.model:
            raise ValueError(
                "TableSource: the rows were checked for another model; make a source for this one."
            )

    def steps(self, batch_size: int) -> int:
        """Batches of an epoch; the last one may be short."""
        return -(-len(self.rows) // batch_size)

    def epoch(self, number: int, batch_size: int, seed: int) -> Iterator[Rows]:
        """The epochs' orders come from one generator, one after the other."""
        if seed != self._seed or number <= self._drawn:
            self._seed, self._drawn = seed, 0
            self._shuffle.manual_seed(seed)
        for _ in range(number - self._drawn):  # more than one where a run is resumed
            order = torch.randperm(len(self.rows), generator=self._shuffle)
        self._drawn = number
        several = place()[1] > 1
        for batch in order.to(self.device).split(batch_size):
            yield self.rows[batch[share(len(batch))] if several else batch]

    def part(self, name: Split) -> Part:
        """A split of the table, checked."""
        table = self.table.part(name)
        rows = Rows.of(table, self.model, self.device)
        return Part(table, lambda size: rows[share(len(rows))].split(size))

    def fingerprint(self) -> str:
        """A checksum of all inputs, labels and splits."""
        found = 0
        for part in (self.table.ids, self.table.dense, self.table.label_matrix(), self.table.split):
            found = zlib.crc32(np.ascontiguousarray(part), found)
        return f"{len(self.table)} rows, {found:08x}"


def check_counts(who: str, **counts: int | None) -> None:
    """Refuse what is no whole number of at least 1; None is for the function to know."""
    for name, value in counts.items():
        whole = isinstance(value, Integral) and not isinstance(value, bool) and value >= 1
        if value is not None and not whole:
            raise ValueError(f"{who}: {name} must be a whole number of at least 1, got {value!r}.")


def check_observed(table: Table) -> None:
    """Refuse a task that has no label to learn from."""
    train = table.split == SPLITS.index("train")
    for task, y in table.labels.items():
        if np.isnan(y[train]).all():
            raise ValueError(f"Task {task!r} has no observed label in the train split; drop it or fill it.")


def _check(table: Table, model: Recommender) -> None:
    if not isinstance(model, Recommender):
        raise ValueError(
            f"A {type(model).__name__} cannot read a table; put it behind an encoder, as in "
            "Recommender(table, MMoE, experts=8)."
        )
    if model.tasks != table.tasks:
        raise ValueError(
            f"The model was built for the tasks {', '.join(model.tasks)}, but the table has "
            f"{', '.join(table.tasks)}. Use table.select(model.tasks)."
        )
    kinds = tuple(model.kinds.values()), tuple(table.kinds[task] for task in table.tasks)
    parts = {name: (getattr(model, name), getattr(table, name)) for name in _FEATURES}
    for name, (own, there) in ({"kinds": kinds} | parts).items():
        if own != there:
            differ = next(
                ((a, b) for a, b in zip(own, there, strict=False) if a != b), (len(own), len(there))
            )
            raise ValueError(
                f"The table's {name} are not those that the model was built for ({differ[1]!r} instead of "
                f"{differ[0]!r}). Encode both tables alike, with the same training rows."
            )
    # on a GPU an id out of range would end the process without naming the field
    low, high = table.ids.min(axis=0, initial=0), table.ids.max(axis=0, initial=0)
    for field, a, b, size in zip(table.fields, low, high, table.cardinalities, strict=True):
        if a < 0 or b >= size:
            raise ValueError(f"Field {field!r} has the id {a if a < 0 else b}; ids must lie in [0, {size}).")
    finite = np.isfinite(table.dense)
    if not finite.all():
        column = int(finite.all(axis=0).argmin())
        raise ValueError(
            f"Dense feature {table.dense_names[column]!r} is NaN or infinite in "
            f"{(~finite[:, column]).sum()} of {len(table)} rows; fill or drop them."
        )
    for task, y in table.labels.items():
        binary = table.kinds[task] == "binary"
        wrong = ~(np.isnan(y) | ((y == 0) | (y == 1) if binary else np.isfinite(y)))
        if wrong.any():
            raise ValueError(
                f"Task {task!r} has the label {y[wrong][0]:g}; labels of a {table.kinds[task]} task must be "
                f"{'0, 1' if binary else 'finite'} or NaN (unobserved)."
            )
