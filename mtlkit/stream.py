"""Train on files larger than memory: row groups in random order, and a buffer that shuffles their rows."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from mtlkit.data.columns import labels_of, random_split, split_of, users_of
from mtlkit.data.encoder import Encoder
from mtlkit.data.fetch import DataError
from mtlkit.data.files import Log, Piece
from mtlkit.data.table import SPLITS, Split, Table
from mtlkit.models import Recommender
from mtlkit.parallel import gather, place
from mtlkit.rows import Part, Rows

WAYS = 8  # row groups that are read at the same time


class Stream:
    """A Parquet log as a source of rows for ``training.fit``; memory does not grow with the log.

    An epoch deals the rows like this: the row groups come in random order, ``WAYS`` of them at a time; a
    buffer of ``buffer`` rows takes pieces of 65,536 rows (or a whole smaller row group) from a random one of
    these, shuffles them, and gives them out in batches. A file sorted by time or by user wants a buffer of
    many row groups. One buffer is being given out while a thread fills the next.

    With several processes each reads row groups of its own, about equally many rows, always the same ones.
    A process that has fewer gives empty batches at the end of the epoch.

    What does grow are the labels, users and predictions of a held-out split, of which metrics need all:
    about 4 T + 8 bytes per row, and some 75 while a GAUC is computed.
    """

    def __init__(self, log: Log, encoder: Encoder, buffer: int = 1 << 19) -> None:
        if log.is_csv:
            raise DataError(f"{log.path}: a CSV file cannot be streamed; Log.as_parquet rewrites it.")
        if buffer < 1:
            raise ValueError(f"Stream: buffer must be at least 1 row, got {buffer!r}.")
        self.log, self.encoder, self.buffer = log, encoder, buffer
        frame = encoder.frame()
        self.tasks, self.kinds = frame.tasks, frame.kinds
        # rows of each row group by split: (row groups, 3)
        self.counts = np.stack([self._count(piece) for piece in log.pieces])
        for name, rows in zip(SPLITS, self.counts.sum(axis=0), strict=True):
            if not rows and name != "test":
                raise DataError(f"{log.path}: the {name} split is empty.")

    def check(self, model: Recommender) -> None:
        """Refuse a model that was built for other inputs or tasks."""
        Rows.of(self.encoder.frame(), model, torch.device("cpu"))

    def _count(self, piece: Piece) -> np.ndarray:
        schema = self.encoder.schema
        if schema.split_column is None:
            return np.bincount(random_split(schema, piece.first, piece.rows), minlength=len(SPLITS))
        batches = self.log.batches([schema.split_column], piece)
        none = np.zeros(len(SPLITS), dtype=np.int64)  # an empty row group
        return sum((np.bincount(split_of(schema, batch), minlength=len(SPLITS)) for batch in batches), none)

    def steps(self, batch_size: int) -> int:
        """Batches of an epoch: those of the process with the most rows."""
        rows = max(self.counts[own, 0].sum() for own in self._dealt("train"))
        return max(-(-int(rows) // self._share(batch_size)), 1)

    def epoch(self, number: int, batch_size: int, seed: int) -> Iterator[Rows]:
        """This process's batches of an epoch; a row's place depends on seed, number and processes alone."""
        rank = place()[0]
        rng = np.random.default_rng((seed, number, rank))
        own = self._dealt("train")[rank]
        size, left = self._share(batch_size), self.steps(batch_size)
        for rows in _ahead(self._blocks([self.log.pieces[p] for p in rng.permutation(own)], rng, size)):
            for batch in rows.split(size):
                left -= 1
                yield _wide(batch)
        none = self.encoder.frame()
        for _ in range(left):
            yield _wide(Rows(*map(torch.from_numpy, (none.ids, none.dense, none.label_matrix()))))

    def part(self, name: Split) -> Part:
        """A split in the order of the log, by process; its labels and users are read at once."""
        own = [self.log.pieces[p] for p in self._dealt(name)[place()[0]]]
        schema = self.encoder.schema
        columns = [c for c in (*schema.labels, schema.user, schema.split_column) if c]
        labels = [np.zeros((0, len(self.tasks)), dtype=np.float32)]
        users = [np.zeros(0, dtype=np.int64)]
        for piece in own:
            for batch in self.log.batches(list(dict.fromkeys(columns)), piece):
                chosen = split_of(schema, batch) == SPLITS.index(name)
                labels.append(labels_of(batch, schema)[chosen])
                if schema.user:
                    users.append(users_of(batch, schema.user)[chosen])
        y = gather(torch.from_numpy(np.concatenate(labels))).numpy()
        if not len(y):
            raise DataError(f"{self.log.path}: the {name} split is empty.")
        who = gather(torch.from_numpy(np.concatenate(users))).numpy() if schema.user else None
        return Part(_thin(self.encoder, y, who, name), lambda size: self._in_order(own, name, size))

    def fingerprint(self) -> str:
        """Of the rows of each row group by split, and the sizes of the files."""
        sizes = [file.stat().st_size for file in self.log.files]
        return f"{self.counts.sum()} rows, {zlib.crc32(repr((self.counts.tolist(), sizes)).encode()):08x}"

    def _share(self, batch_size: int) -> int:
        return max(batch_size // place()[1], 1)

    def _dealt(self, name: Split) -> list[np.ndarray]:
        """The row groups of each process: large ones first, to whoever has the fewest rows; in order."""
        rows, processes = self.counts[:, SPLITS.index(name)], place()[1]
        sums, own = np.zeros(processes, dtype=np.int64), [[] for _ in range(processes)]
        for p in np.argsort(-rows, kind="stable")[: np.count_nonzero(rows)]:
            least = int(sums.argmin())
            own[least].append(p)
            sums[least] += rows[p]
        return [np.sort(np.array(some, dtype=np.int64)) for some in own]

    def _encoded(self, piece: Piece, split: int) -> Iterator[Rows]:
        """The rows of one split in a row group, some at a time."""
        schema = self.encoder.schema
        for batch in self.log.batches(schema.columns(), piece):
            of_row = split_of(schema, batch)
            if not (of_row == split).all():
                batch, of_row = batch.only(of_row == split), of_row[of_row == split]
            if len(batch):
                rows = self.encoder.encode(batch, of_row)
                yield Rows(*map(torch.from_numpy, (rows.ids, rows.dense, rows.labels)))

    def _blocks(self, pieces: list[Piece], rng: np.random.Generator, size: int) -> Iterator[Rows]:
        """Shuffled buffers of whole batches; the last one may end with a short batch."""
        waiting, reading = list(pieces), []
        kept, rows = [], 0
        while waiting or reading:
            while waiting and len(reading) < WAYS:
                reading.append(self._encoded(waiting.pop(), SPLITS.index("train")))
            which = int(rng.integers(len(reading)))
            part = next(reading[which], None)
            if part is None:
                del reading[which]
                continue
            kept.append(part)
            rows += len(part)
            if rows >= max(self.buffer, size):
                block, whole = _shuffled(kept, rng), rows // size * size
                yield block[:whole]
                kept, rows = [block[whole:]], rows - whole
        if rows:
            yield _shuffled(kept, rng)

    def _in_order(self, pieces: list[Piece], name: Split, size: int) -> Iterator[Rows]:
        parts = (rows for piece in pieces for rows in self._encoded(piece, SPLITS.index(name)))
        for rows in _ahead(parts):
            yield from map(_wide, rows.split(size))


def all_rows(log: Log, encoder: Encoder) -> Part:
    """Another log to predict, CSV or Parquet, read as it is asked for; all its rows count.

    It needs the inputs. Labels that it lacks are NaN; without the user column there is no GAUC.
    """
    schema, there = encoder.schema, log.columns
    known = [c for c in dict.fromkeys((*schema.labels, schema.user)) if c in there]
    parts = []
    for batch in log.batches(known or list(schema.inputs[:1])):
        users = users_of(batch, schema.user) if schema.user in known else None
        parts.append((labels_of(batch, schema), users))
    if not parts:
        raise DataError(f"{log.path} holds no rows.")
    labels = np.concatenate([part[0] for part in parts])
    users = np.concatenate([part[1] for part in parts]) if schema.user in known else None
    inputs = list(dict.fromkeys((*schema.inputs, *known)))

    def batches(size: int) -> Iterator[Rows]:
        for batch in log.batches(inputs):
            rows = encoder.encode(batch, np.zeros(len(batch), np.int8))
            yield from map(
                _wide, Rows(*map(torch.from_numpy, (rows.ids, rows.dense, rows.labels))).split(size)
            )

    return Part(_thin(encoder, labels, users, "test"), batches)


def _thin(encoder: Encoder, y: np.ndarray, users: np.ndarray | None, name: Split) -> Table:
    """Labels (N, T) and users (N,) as a table without features."""
    schema = encoder.schema
    return Table(
        ids=np.zeros((len(y), 0), np.int32),
        dense=np.zeros((len(y), 0), np.float32),
        labels={task: y[:, t] for t, task in enumerate(schema.labels)},
        split=np.full(len(y), SPLITS.index(name), dtype=np.int8),
        kinds=dict(schema.labels),
        users=users,
    )


def _shuffled(parts: list[Rows], rng: np.random.Generator) -> Rows:
    """The rows of all parts in a random order. ``parts`` is emptied: two copies at a time are enough."""
    columns = [[getattr(part, name) for part in parts] for name in ("ids", "dense", "labels")]
    parts.clear()
    order = torch.from_numpy(rng.permutation(sum(map(len, columns[2]))))
    mixed = []
    while columns:
        mixed.append(torch.cat(columns.pop(0)).index_select(0, order))
    return Rows(*mixed)


def _wide(rows: Rows) -> Rows:
    """Ids as a model takes them; in the buffer they are half as wide."""
    return Rows(rows.ids.long(), rows.dense, rows.labels)


def _ahead(blocks: Iterator[Rows]) -> Iterator[Rows]:
    """The same blocks; a thread makes the next one meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = thread.submit(next, blocks, None)
            yield block
            del block  # before the next one but one is made
