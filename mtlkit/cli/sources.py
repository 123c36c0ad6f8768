"""The data that a run was asked to use: a data set of the package, or the user's own file."""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import replace

import numpy as np
import torch

from mtlkit.cli.options import DATA, data_options
from mtlkit.cli.run import Run
from mtlkit.data.table import SPLITS, Split, Table
from mtlkit.models import Recommender
from mtlkit.parallel import first_does
from mtlkit.rows import Part, Rows, Source, TableSource


def asked(args: argparse.Namespace) -> dict:
    """The arguments about data as the config keeps them; names, options and the schema are checked."""
    if args.data in DATA:
        if args.schema or args.stream:
            raise ValueError(f"--schema and --stream are for files of your own; {args.data} needs neither.")
        found = {"name": args.data, "options": data_options(args.data, args.data_set), "tasks": args.tasks}
        return json.loads(json.dumps(found))  # as it will be read again
    from mtlkit.data.files import Log
    from mtlkit.data.schema import Schema

    if args.data_set:
        raise ValueError(f"--data-set is for {', '.join(DATA)}; a file is described by its --schema.")
    log = Log(args.data)
    if not args.schema:
        raise ValueError(
            f"{args.data} needs --schema FILE.toml, which says what its columns are (see README)."
        )
    schema = Schema.read(args.schema)
    if args.tasks:
        if other := [task for task in args.tasks if task not in schema.labels]:
            raise ValueError(
                f"--tasks: no label {other[0]!r} in {args.schema}; there is {', '.join(schema.labels)}."
            )
        labels = {task: schema.labels[task] for task in args.tasks}
        kept = {task: c for task, c in schema.categories.items() if task in labels}
        schema = replace(schema, labels=labels, categories=kept)
    found = {"file": str(log.path.resolve()), "stamp": log.stamp(), "schema": schema.as_dict()}
    return found | {"stream": args.stream, "buffer": args.buffer if args.stream else None}


def table(wanted: dict) -> Table:
    """A data set of the package, or a file with an encoder fitted on it, in memory."""
    if "name" in wanted:
        options = {n: tuple(v) if isinstance(v, list) else v for n, v in wanted["options"].items()}
        found = DATA[wanted["name"]](**options)
        return found.select(wanted["tasks"]) if wanted["tasks"] else found
    from mtlkit.data.encoder import read_table
    from mtlkit.data.schema import Schema

    return read_table(wanted["file"], Schema.of(wanted["schema"]))


class Opened:
    """The data of a run: ``frame`` has its tasks and features, ``source`` gives its rows to a model."""

    def __init__(self, run: Run, wanted: dict, progress: bool = False) -> None:
        self.log = self.encoder = self.table = None
        self.wanted = wanted
        if "name" in wanted:
            self.table = table(wanted)
            self.frame = self.table.rows(np.zeros(0, dtype=int))
            return
        from mtlkit.data.encoder import Encoder
        from mtlkit.data.files import Log
        from mtlkit.data.schema import Schema

        self.log = Log(wanted["file"])
        if self.log.stamp() != wanted["stamp"] and not run.rows.exists():
            warnings.warn(
                f"{self.log.path} has changed since the run was trained; rows may be in other splits now.",
                stacklevel=2,
            )
        schema = Schema.of(wanted["schema"])

        def prepare() -> None:
            if wanted["stream"]:
                self.log.as_parquet(run.rows, schema.columns())
            if not run.encoder.exists():
                if run.result_file.exists():
                    raise ValueError(f"{run.encoder} is missing; without it the model's ids mean nothing.")
                Encoder.fit(self.log, schema, progress).save(run.encoder)

        first_does(prepare)
        if wanted["stream"]:
            self.log = self.log.as_parquet(run.rows, schema.columns())
        self.encoder = Encoder.load(run.encoder)
        self.frame = self.encoder.frame()

    def source(self, model: Recommender, device: torch.device) -> Source:
        """All rows, in memory or streamed."""
        if self.wanted.get("stream"):
            from mtlkit.stream import Stream

            return Stream(self.log, self.encoder, self.wanted["buffer"])
        return TableSource(self.table or self.encoder.table(self.log), model, device)

    def some(self, model: Recommender, split: Split, rows: int) -> Rows:
        """Up to ``rows`` rows of a split: of a table at random, of a stream the first ones."""
        if self.wanted.get("stream"):
            batch = next(self.source(model, torch.device("cpu")).part(split).batches(rows))
            return batch[:rows]
        part = (self.table or self.encoder.table(self.log)).part(split)
        chosen = np.sort(np.random.default_rng(0).permutation(len(part))[:rows])
        return Rows.of(part.rows(chosen), model, torch.device("cpu"))


def new_rows(run: Run, file: str) -> Part:
    """All rows of another file, encoded as the run's own data were and never all in memory."""
    if not run.encoder.exists():
        raise ValueError(
            f"{run.folder} was trained on {run.config['data']['name']}, so it cannot read {file}."
        )
    from mtlkit.data.encoder import Encoder
    from mtlkit.data.files import Log
    from mtlkit.stream import all_rows

    return all_rows(Log(file), Encoder.load(run.encoder))


def has(source: Source, split: Split) -> bool:
    """Whether any row is in the split."""
    if isinstance(source, TableSource):
        return bool((source.table.split == SPLITS.index(split)).any())
    return bool(source.counts[:, SPLITS.index(split)].sum())
