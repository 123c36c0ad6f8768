"""A run folder: what was asked, what came out, and the trained model."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import mtlkit
from mtlkit.checkpoint import read, write
from mtlkit.cli.options import MODELS
from mtlkit.data.table import Table
from mtlkit.models import Recommender, count_parameters

_ASKED = ("model", "sizes", "inputs", "data", "training")


class Run:
    """The files of one run:

    config.json         what was asked, and what the model must know of the data
    encoder.parquet     ids and scales of the user's own files
    rows.parquet        the rows of a CSV file that is streamed
    history.csv         a row per epoch
    checkpoint.safetensors   while the run goes on
    model.safetensors   the weights of the best epoch
    test.csv            figures per task on the test split
    learning_curves.png
    result.json         written last: the run is finished
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config_file, self.encoder = self.folder / "config.json", self.folder / "encoder.parquet"
        self.rows = self.folder / "rows.parquet"
        self.history_file, self.test_file = self.folder / "history.csv", self.folder / "test.csv"
        self.checkpoint, self.weights = (self.folder / f"{n}.safetensors" for n in ("checkpoint", "model"))
        self.result_file = self.folder / "result.json"

    @classmethod
    def finished(cls, folder: str | Path) -> Run:
        """A finished run; raises ``ValueError`` with one sentence for anything else."""
        run = cls(folder)
        if not run.config_file.is_file():
            raise ValueError(f"{folder} is no run of mtlkit: it holds no config.json.")
        if not run.result_file.is_file() or "features" not in run.config:
            raise ValueError(
                f"The run in {folder} is not finished; the command that started it goes on with it."
            )
        return run

    @property
    def config(self) -> dict:
        try:
            found = json.loads(self.config_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.config_file} is damaged ({error}).") from error
        if missing := [name for name in _ASKED if not isinstance(found, dict) or name not in found]:
            raise ValueError(f"{self.config_file} is damaged (it has no {missing[0]!r}).")
        return found

    def claim(self, asked: dict, overwrite: bool) -> None:
        """Make the folder for a new run, or go on with the same one; refuse to touch anything else."""
        if overwrite and self.config_file.exists():
            shutil.rmtree(self.folder)
        if self.config_file.exists():
            there = self.config
            for name in _ASKED:
                if there.get(name) != asked[name]:
                    other = _difference(there.get(name), asked[name], name)
                    raise ValueError(
                        f"{self.folder} holds another run ({other}); give another --out, or --overwrite."
                    )
            for left in self.folder.glob("*.tmp"):  # of a write that a kill cut off
                left.unlink()
            if self.result_file.exists():
                raise ValueError(
                    f"{self.folder} holds this run, finished; give another --out, or --overwrite."
                )
            return
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file; give another --out.")
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} is not empty and holds no run; give another --out.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.save_json(self.config_file, asked)

    def release(self) -> None:
        """Take back a claim that came to nothing: a failed start must not bar the way to the next one."""
        if self.checkpoint.exists() or self.history_file.exists():
            return
        for file in (self.config_file, self.encoder, self.rows, *self.folder.glob("*.tmp")):
            file.unlink(missing_ok=True)
        with suppress(OSError):  # somebody put a file there meanwhile
            self.folder.rmdir()

    def note_features(self, table: Table) -> None:
        """Add to the config what the model must know of its data."""
        features = {
            "fields": dict(zip(table.fields, table.cardinalities, strict=True)),
            "dense": list(table.dense_names),
            "tasks": dict(table.kinds),
            "categories": dict(table.categories),
        }
        versions = {"mtlkit": mtlkit.__version__, "torch": torch.__version__, "numpy": np.__version__}
        self.save_json(self.config_file, self.config | {"features": features, "versions": versions})

    def frame(self) -> Table:
        """A table without rows: tasks, fields and dense features of the run."""
        features = self.config["features"]
        return Table(
            ids=np.zeros((0, len(features["fields"])), np.int32),
            dense=np.zeros((0, len(features["dense"])), np.float32),
            labels={task: np.zeros(0, np.float32) for task in features["tasks"]},
            split=np.zeros(0, np.int8),
            cardinalities=tuple(features["fields"].values()),
            fields=tuple(features["fields"]),
            dense_names=tuple(features["dense"]),
            kinds=features["tasks"],
            categories=features["categories"],
        )

    def build(self) -> Recommender:
        """The model with its starting weights."""
        config, frame = self.config, self.frame()
        kind, seed = MODELS[config["model"]], config["training"]["seed"]
        return Recommender(frame, kind, seed=seed, **config["inputs"], **config["sizes"])

    def model(self) -> Recommender:
        """The trained model."""
        model = self.build()
        model.load_state_dict(read(self.weights)[0])
        return model.eval()

    def finish(self, model: Recommender, history: pd.DataFrame, test: pd.DataFrame | None) -> None:
        """Write what came out; result.json last, then the checkpoint goes."""
        best = history.attrs["best_epoch"]
        write(self.weights, model.state_dict(), {"epoch": best})
        self.save_history(history)
        if test is not None:
            self.save_text(self.test_file, test.to_csv())
        result = {"best_epoch": best, "epochs": len(history), "seconds": history["seconds"].iloc[-1]}
        result |= {"parameters": count_parameters(model), "without_embeddings": count_parameters(model.body)}
        self.save_json(self.result_file, result)
        self.checkpoint.unlink(missing_ok=True)

    def save_history(self, history: pd.DataFrame) -> None:
        """The epochs so far."""
        self.save_text(self.history_file, history.to_csv(index=False))

    def test(self) -> pd.DataFrame:
        """Figures per task; raises ``ValueError`` where the data had no test split."""
        if not self.test_file.exists():
            raise ValueError(f"The run in {self.folder} has no test figures: its data have no test split.")
        return _table(self.test_file, index_col="task")

    def history(self) -> pd.DataFrame:
        """A row per epoch."""
        return _table(self.history_file)

    def save_json(self, file: Path, content: dict) -> None:
        self.save_text(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @staticmethod
    def save_text(file: Path, text: str) -> None:
        """Whole or not at all."""
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)


def _table(file: Path, **options: object) -> pd.DataFrame:
    try:
        return pd.read_csv(file, **options)
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}).") from error


def _difference(one: object, two: object, name: str) -> str:
    """Where two settings differ first, in words."""
    if isinstance(one, dict) and isinstance(two, dict):
        key = next(k for k in {**one, **two} if one.get(k) != two.get(k))
        if key == "stamp":
            return f"{two['file']} has changed since"
        return _difference(one.get(key), two.get(key), f"{name}, {key}")
    return f"{name}: {one!r}, not {two!r}"
