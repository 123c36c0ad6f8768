"""The series' models on the complete Census-Income, beside published and classical figures.

    python benchmarks/census.py [--path FOLDER] [--seeds 10] [--groups 1 2] [--models NAME ...] [--out FILE]
    python benchmarks/census.py --tune

What is compared: networks of equal size (within 5 % of Shared-Bottom's parameters, printed), trained by
`mtlkit.training.fit` with the same settings, and paired by seed. Beside them, scikit-learn on the same
rows: gradient boosting, and logistic regression on one-hot categories and the log1p of the numbers, and
again on all inputs of the networks (numbers as ids and buckets, too). AUC on the test half of the official
test file.

What a seed moves: starting weights, shuffling and dropout. The halving of the test file stays that of
seed 0 for all runs, as in the MMoE paper (one split, 400 starts): the settings were chosen on its
validation half, so its rows must not come back as test rows. "sd" is therefore the spread of training
alone; the chance in the draw of the test half itself is printed apart, and is the same for all rows.
The paired differences are printed for the validation half, too: it chose the settings, but for both.

The settings were chosen on validation figures alone, for Shared-Bottom and Single-Task: `--tune` prints that
grid, one change at a time from the settings below, for all networks asked for (`--models`). The learning rate
of each other network is the best of three in that grid (group 1, one seed: RATES below). No figure is a mean
over the predictions of several networks.

`--out FILE` keeps each finished run as a JSON line, and a run that is in the file is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from mtlkit import metrics, training
from mtlkit.data import Table, census_income
from mtlkit.data.census_file import CATEGORICAL
from mtlkit.models import (
    CGC,
    PLE,
    AdaTT,
    CrossStitch,
    L2Constrained,
    MLMMoE,
    MMoE,
    OMoE,
    Recommender,
    SharedBottom,
    SingleTask,
    SNRAver,
    SNRTrans,
    count_parameters,
    match_width,
)

TRAINING = {
    "epochs": 8,
    "batch_size": 1024,
    "lr": 8e-3,
    "weight_decay": 0.1,
    "schedule": "one_cycle",
    "patience": None,
}
SHARED_BOTTOM = {"bottom": [256, 128], "tower": [32]}
# The sizes of each network as a function of one width, which is chosen to match Shared-Bottom's parameters.
NETWORKS: dict[str, tuple[Callable, Callable[[int], dict]]] = {
    "SharedBottom": (SharedBottom, lambda w: {"bottom": [w, 128]}),
    "SingleTask": (SingleTask, lambda w: {"bottom": [w, 64]}),
    "L2Constrained": (L2Constrained, lambda w: {"bottom": [w, 64]}),
    "CrossStitch": (CrossStitch, lambda w: {"bottom": [w, 64]}),
    "SNRTrans": (SNRTrans, lambda w: {"experts": 4, "levels": [[w], [32]]}),
    "SNRAver": (SNRAver, lambda w: {"experts": 4, "levels": [[w], [32]]}),
    "OMoE": (OMoE, lambda w: {"experts": 4, "expert": [w, 32]}),
    "MMoE": (MMoE, lambda w: {"experts": 4, "expert": [w, 32]}),
    "MLMMoE": (MLMMoE, lambda w: {"experts": 4, "levels": [[w], [32]]}),
    "CGC": (CGC, lambda w: {"shared_experts": 2, "task_experts": 1, "expert": [w, 32]}),
    "PLE": (PLE, lambda w: {"shared_experts": 2, "task_experts": 1, "levels": [[w], [32]]}),
    "AdaTT": (AdaTT, lambda w: {"shared_experts": 0, "task_experts": 2, "levels": [[w], [32]]}),
}
RATES: dict[str, float] = {}  # where another learning rate did better than TRAINING's
# one change at a time, the same for all networks
GRID = [
    {},
    {"lr": 4e-3},
    {"lr": 1.6e-2},
    {"epochs": 4},
    {"epochs": 12},
    {"dropout": 0.0},
    {"dropout": 0.4},
    {"weight_decay": 0.0},
]

# Test AUC of the main task and of never married.
PUBLISHED = {
    1: [
        ("MMoE paper, Single-Task, mean of 400", 0.9337, 0.9922),
        ("MMoE paper, Shared-Bottom, mean of 400", 0.9295, 0.9921),
        ("MMoE paper, L2-Constrained, mean of 400", 0.9359, 0.9918),
        ("MMoE paper, Cross-Stitch, mean of 400", 0.9361, 0.9922),
        ("MMoE paper, OMoE, mean of 400", 0.9319, 0.9923),
        ("MMoE paper, MMoE, mean of 400", 0.9359, 0.9927),
        ("MMoE paper, Single-Task, best of 400", 0.9398, 0.9933),
        ("MMoE paper, Shared-Bottom, best of 400", 0.9361, 0.9915),
        ("MMoE paper, MMoE, best of 400", 0.9410, 0.9926),
        ("PLE paper, Single-Task", 0.9445, 0.9923),
        ("PLE paper, PLE", 0.9522, 0.9945),
        ("torch-rechub, Shared-Bottom (education is an input)", 0.9560, 0.9948),
        ("torch-rechub, MMoE (education is an input)", 0.9579, 0.9950),
        ("torch-rechub, PLE (education is an input)", 0.9593, 0.9950),
    ],
    2: [
        ("MMoE paper, Single-Task, mean of 400", 0.8792, 0.9922),
        ("MMoE paper, Shared-Bottom, mean of 400", 0.8813, 0.9917),
        ("MMoE paper, L2-Constrained, mean of 400", 0.8823, 0.9918),
        ("MMoE paper, Cross-Stitch, mean of 400", 0.8819, 0.9921),
        ("MMoE paper, OMoE, mean of 400", 0.8813, 0.9912),
        ("MMoE paper, MMoE, mean of 400", 0.8826, 0.9924),
        ("MMoE paper, Single-Task, best of 400", 0.8843, 0.9933),
        ("MMoE paper, Shared-Bottom, best of 400", 0.8836, 0.9927),
        ("MMoE paper, MMoE, best of 400", 0.8860, 0.9932),
    ],
}
LINEAR, TREES = "logistic regression", "gradient boosting"
LINEAR_ALL = f"{LINEAR}, the networks' inputs"


def network(name: str, table: Table, seed: int, changes: dict) -> tuple[dict[str, pd.DataFrame], int]:
    """Predictions on validation and test, and the number of parameters."""
    options = settings(name) | changes
    fitting = {key: options.pop(key) for key in TRAINING}
    kind, sizes = NETWORKS[name]

    def build(width: int) -> Recommender:
        return Recommender(table, kind, seed=seed, tower=SHARED_BOTTOM["tower"], **sizes(width), **options)

    budget = Recommender(table, SharedBottom, **SHARED_BOTTOM, **options)
    model = build(match_width(build, count_parameters(budget)))
    training.fit(model, table, seed=seed, progress=False, **fitting)
    return _held_out(lambda part: training.predict(model, part), table), count_parameters(model)


def settings(name: str) -> dict:
    return TRAINING | {"lr": RATES.get(name, TRAINING["lr"]), "embedding": 8, "dropout": 0.2}


def linear(table: Table, kept: list[int]) -> tuple[dict[str, pd.DataFrame], int]:
    """Logistic regression on one-hot ids of the fields ``kept`` and the scaled log1p of the numbers."""
    starts = np.cumsum([0, *(table.cardinalities[i] for i in kept)])

    def inputs(part: Table) -> sparse.csr_matrix:
        columns = (part.ids[:, kept] + starts[:-1]).ravel()
        rows = np.arange(len(part) + 1) * len(kept)
        hot = sparse.csr_matrix(
            (np.ones(len(columns), np.float32), columns, rows), shape=(len(part), starts[-1])
        )
        return sparse.hstack([hot, part.dense], format="csr")

    train = table.part("train")
    x, width = inputs(train), int(starts[-1]) + len(table.dense_names)
    fitted = {t: LogisticRegression(max_iter=1000).fit(x, y) for t, y in train.labels.items()}
    return _held_out(lambda part: _columns(fitted, inputs(part)), table), len(fitted) * (width + 1)


def trees(table: Table, kept: list[int]) -> tuple[dict[str, pd.DataFrame], int]:
    """Gradient-boosted trees on the fields ``kept`` and the numbers; stop on a tenth of the training rows."""

    def inputs(part: Table) -> np.ndarray:
        return np.hstack([part.ids[:, kept], part.dense])

    train = table.part("train")
    fitted = {}
    for task, y in train.labels.items():
        model = HistGradientBoostingClassifier(
            max_iter=1000,
            learning_rate=0.05,
            categorical_features=list(range(len(kept))),
            early_stopping=True,
            random_state=0,
        )
        fitted[task] = model.fit(inputs(train), y)
    return _held_out(lambda part: _columns(fitted, inputs(part)), table), 0


def _columns(fitted: dict, x: np.ndarray | sparse.csr_matrix) -> pd.DataFrame:
    return pd.DataFrame({task: model.predict_proba(x)[:, 1] for task, model in fitted.items()})


def _held_out(predict, table: Table) -> dict[str, pd.DataFrame]:
    return {name: predict(table.part(name)) for name in ("validation", "test")}


class Bench:
    """Runs, each once: what ``out`` holds is read instead."""

    def __init__(self, path: str | None, out: Path | None) -> None:
        self.path, self.out = path, out
        self.done: dict[str, dict] = {}
        self.tables: dict[tuple[int, bool], Table] = {}
        if out and out.exists():
            lines = (json.loads(line) for line in out.read_text().splitlines())
            self.done = {self.key(line["asked"]): line for line in lines}

    @staticmethod
    def key(asked: dict) -> str:
        return json.dumps(asked, sort_keys=True)

    def table(self, group: int, education: bool) -> Table:
        asked = (group, education)
        if asked not in self.tables:
            self.tables[asked] = census_income(group, keep_education=education, path=self.path)
        return self.tables[asked]

    def run(self, name: str, group: int, seed: int, education: bool = False, **changes) -> dict:
        """One run's line: what was asked, parameters, seconds, AUC by part and task."""
        asked = {"model": name, "group": group, "seed": seed, "education": education}
        asked |= settings(name) | changes if name in NETWORKS else {}
        if self.key(asked) not in self.done:
            table, start = self.table(group, education), time.perf_counter()
            columns = [i for i, field in enumerate(table.fields) if field in (*CATEGORICAL, "education")]
            if name in NETWORKS:
                guesses, size = network(name, table, seed, changes)
            elif name == TREES:
                guesses, size = trees(table, columns)
            else:
                guesses, size = linear(table, columns if name == LINEAR else list(range(len(table.fields))))
            auc = {
                part: {task: metrics.auc(guess[task], table.part(part).labels[task]) for task in guess}
                for part, guess in guesses.items()
            }
            line = {"asked": asked, "parameters": size, "seconds": time.perf_counter() - start} | auc
            self.done[self.key(asked)] = line
            if self.out:
                with self.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            print(".", end="", file=sys.stderr, flush=True)
        return self.done[self.key(asked)]


def chance(table: Table, task: str, auc: float) -> float:
    """Standard error of one AUC from the finite test half (Hanley and McNeil, Radiology 1982)."""
    y = table.part("test").labels[task]
    positive, negative = int((y == 1).sum()), int((y == 0).sum())
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positive - 1) * (q1 - auc**2) + (negative - 1) * (q2 - auc**2)
    return float(np.sqrt(variance / (positive * negative)))


def spread(values: np.ndarray) -> str:
    sd = f" +- {values.std(ddof=1):.5f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{sd}"


def paired(one: np.ndarray, two: np.ndarray) -> str:
    gap = one - two
    error = gap.std(ddof=1) / len(gap) ** 0.5 if len(gap) > 1 else float("nan")
    return f"{gap.mean():+.5f} +- {error:.5f} (higher in {(gap > 0).sum()} of {len(gap)} pairs)"


def report(bench: Bench, group: int, names: list[str], seeds: int, epochs: int) -> Iterator[str]:
    """The lines of one group's table."""
    tasks = bench.table(group, False).tasks
    for seed in range(seeds):  # seed by seed: an interrupted run has as many of each network
        for name in names:
            bench.run(name, group, seed, epochs=epochs)
    results: dict[str, dict[str, np.ndarray]] = {}  # label -> part -> AUC (seeds, tasks)
    yield f"\nGroup {group}: {' + '.join(tasks)}; test AUC, mean +- sd over {seeds} seeds, {epochs} epochs"
    yield f"{'':52}{'parameters':>10}  " + "".join(f"{task:20}" for task in tasks)
    plan = [(name, name, False, seeds) for name in names]
    plan += [(name, name, False, 1) for name in (LINEAR, LINEAR_ALL, TREES)]
    with_education = "education" not in tasks and "SharedBottom" in names
    if with_education:
        plan += [
            ("SharedBottom, education is an input", "SharedBottom", True, seeds),
            (f"{TREES}, education is an input", TREES, True, 1),
        ]
    for label, name, education, count in plan:
        changes = {"epochs": epochs} if name in NETWORKS else {}
        lines = [bench.run(name, group, seed, education, **changes) for seed in range(count)]
        results[label] = {
            part: np.array([[line[part][task] for task in tasks] for line in lines])
            for part in ("validation", "test")
        }
        auc = results[label]["test"]
        size = f"{lines[0]['parameters']:,}" if lines[0]["parameters"] else ""
        yield f"{label:52}{size:>10}  " + "".join(f"{spread(auc[:, t]):20}" for t in range(len(tasks)))
    for label, *figures in PUBLISHED[group]:
        yield f"{label:52}{'':10}  " + "".join(f"{figure:<20.4f}" for figure in figures)

    yield "paired by seed, mean +- standard error over seeds, on both halves: a gain that the other half does"
    yield "not show may be the luck of the test rows, which more seeds do not average out"
    pairs = [(name, "SharedBottom") for name in names if name != "SharedBottom"]
    pairs += [(names[0], LINEAR_ALL)]
    if with_education:
        pairs.append(("SharedBottom, education is an input", "SharedBottom"))
    for one, two in pairs:
        yield f"  {one} - {two}"
        for t, task in enumerate(tasks):
            for part in ("test", "validation"):
                gap = paired(results[one][part][:, t], results[two][part][:, t])
                yield f"    {task:15}{part:12}{gap}"
    shared = results[names[0]]["test"].mean(axis=0)
    errors = (chance(bench.table(group, False), task, auc) for task, auc in zip(tasks, shared, strict=True))
    yield (
        "standard error of any AUC above from the draw of the test half, the same rows for all "
        "(Hanley and McNeil): "
        + ", ".join(f"{task} {error:.4f}" for task, error in zip(tasks, errors, strict=True))
    )


def tune(bench: Bench, group: int, names: list[str], seeds: int) -> Iterator[str]:
    """The lines of the validation grid of one group."""
    tasks = bench.table(group, False).tasks
    yield f"\nGroup {group}: validation AUC, mean over {seeds} seeds; one change from the settings"
    yield f"{'':24}" + "".join(f"{f'{name}: ' + task:32}" for name in names for task in tasks)
    for changes in GRID:
        cells = []
        for name in names:
            lines = [bench.run(name, group, seed, **changes)["validation"] for seed in range(seeds)]
            cells += [spread(np.array([line[task] for line in lines])) for task in tasks]
        label = ", ".join(f"{k} {v:g}" for k, v in changes.items()) or "settings"
        yield f"{label:24}" + "".join(f"{cell:32}" for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--path", help="folder with the official files; else MTLKIT_DATA, ../shared/data, download"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NAME")
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 2], choices=[1, 2])
    parser.add_argument("--epochs", type=int, default=TRAINING["epochs"])
    parser.add_argument("--out", type=Path, help="JSON lines; finished runs in it are not run again")
    parser.add_argument("--tune", action="store_true", help="print the validation grid and no test figure")
    options = parser.parse_args()

    beside = Path(__file__).parents[2] / "shared/data"
    path = options.path
    if path is None and not os.environ.get("MTLKIT_DATA") and (beside / "census-income").is_dir():
        path = str(beside)
    torch.set_num_threads(1)  # small products: more threads only wait for each other on a busy machine
    bench = Bench(path, options.out)
    for group in options.groups:
        if options.tune:
            lines = tune(bench, group, options.models, options.seeds)
        else:
            lines = report(bench, group, options.models, options.seeds, options.epochs)
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
