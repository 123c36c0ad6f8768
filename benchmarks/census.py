"""The series' models on the complete Census-Income, beside published and classical figures.

    python benchmarks/census.py [--path FOLDER] [--seeds 10] [--groups 1 2] [--models NAME ...] [--out FILE]
    python benchmarks/census.py --tune [lr dropout ...]

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

The settings were chosen on validation figures alone, for Shared-Bottom and Single-Task, and are the same for
all: `--tune` prints for the networks asked for (`--models`) what other settings would have given on the
validation half, one change at a time, main task. No figure is a mean over the predictions of several
networks.

`--out FILE` keeps each finished run as a JSON line, and a run that is in the file is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from reporting import Runs, chance, data_path, markdown, one_hot, spread
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
INPUTS = {"embedding": 8, "dropout": 0.2}
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


def matched(name: str, table: Table, options: dict) -> dict:
    """The sizes whose parameters come nearest to Shared-Bottom's."""
    kind, sizes = NETWORKS[name]
    budget = count_parameters(Recommender(table, SharedBottom, **SHARED_BOTTOM, **options))
    tower = {"tower": SHARED_BOTTOM["tower"]}
    width = match_width(lambda w: Recommender(table, kind, **tower, **sizes(w), **options), budget)
    return tower | sizes(width)


def network(
    name: str, table: Table, seed: int, fitting: dict, options: dict
) -> tuple[dict[str, pd.DataFrame], int]:
    """Predictions on validation and test, and the number of parameters."""
    model = Recommender(table, NETWORKS[name][0], seed=seed, **options)
    training.fit(model, table, seed=seed, progress=False, **fitting)
    return _held_out(lambda part: training.predict(model, part), table), count_parameters(model)


def linear(table: Table, kept: list[int]) -> tuple[dict[str, pd.DataFrame], int]:
    """Logistic regression on one-hot ids of the fields ``kept`` and the scaled log1p of the numbers."""
    train = table.part("train")
    x = one_hot(train, kept)
    fitted = {t: LogisticRegression(max_iter=1000).fit(x, y) for t, y in train.labels.items()}
    size = len(fitted) * (x.shape[1] + 1)
    return _held_out(lambda part: _columns(fitted, one_hot(part, kept)), table), size


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


def _columns(fitted: dict, x) -> pd.DataFrame:
    return pd.DataFrame({task: model.predict_proba(x)[:, 1] for task, model in fitted.items()})


def _held_out(predict, table: Table) -> dict[str, pd.DataFrame]:
    return {name: predict(table.part(name)) for name in ("validation", "test")}


class Bench:
    def __init__(self, path: str | None, out: Path | None) -> None:
        self.path, self.runs = path, Runs(out)
        self.tables: dict[tuple[int, bool], Table] = {}

    def table(self, group: int, education: bool) -> Table:
        asked = (group, education)
        if asked not in self.tables:
            self.tables[asked] = census_income(group, keep_education=education, path=self.path)
        return self.tables[asked]

    def run(self, name: str, group: int, seed: int, education: bool = False, **changes) -> dict:
        """One run's line: what was asked, parameters, seconds, AUC by part and task."""
        table = self.table(group, education)
        asked = {"model": name, "group": group, "seed": seed, "education": education}
        if name in NETWORKS:
            options = TRAINING | INPUTS | changes
            fitting = {key: options.pop(key) for key in TRAINING}
            options |= matched(name, table, options)
            asked |= fitting | options

        def make() -> dict:
            columns = [i for i, field in enumerate(table.fields) if field in (*CATEGORICAL, "education")]
            if name in NETWORKS:
                guesses, size = network(name, table, seed, fitting, options)
            elif name == TREES:
                guesses, size = trees(table, columns)
            else:
                guesses, size = linear(table, columns if name == LINEAR else list(range(len(table.fields))))
            auc = {
                part: {task: metrics.auc(guess[task], table.part(part).labels[task]) for task in guess}
                for part, guess in guesses.items()
            }
            return {"parameters": size} | auc

        return self.runs.get(asked, make)


def paired(one: np.ndarray, two: np.ndarray) -> str:
    gap = one - two
    if len(gap) < 2:
        return f"{gap.mean():+.5f}"
    return f"{gap.mean():+.5f} +- {gap.std(ddof=1) / len(gap) ** 0.5:.5f} ({(gap > 0).sum()} of {len(gap)})"


def report(bench: Bench, group: int, names: list[str], seeds: int, epochs: int) -> Iterator[str]:
    """The lines of one group's tables."""
    tasks = bench.table(group, False).tasks
    for seed in range(seeds):  # seed by seed: an interrupted run has as many of each network
        for name in names:
            bench.run(name, group, seed, epochs=epochs)
    results: dict[str, dict[str, np.ndarray]] = {}  # label -> part -> AUC (seeds, tasks)
    plan = [(name, name, False, seeds) for name in names]
    plan += [(name, name, False, 1) for name in (LINEAR, LINEAR_ALL, TREES)]
    with_education = "education" not in tasks and "SharedBottom" in names
    if with_education:
        plan += [
            ("SharedBottom, education is an input", "SharedBottom", True, seeds),
            (f"{TREES}, education is an input", TREES, True, 1),
        ]
    cells = []
    for label, name, education, count in plan:
        changes = {"epochs": epochs} if name in NETWORKS else {}
        lines = [bench.run(name, group, seed, education, **changes) for seed in range(count)]
        results[label] = {
            part: np.array([[line[part][task] for task in tasks] for line in lines])
            for part in ("validation", "test")
        }
        size = f"{lines[0]['parameters']:,}" if lines[0]["parameters"] else ""
        cells.append([label, size, *(spread(auc) for auc in results[label]["test"].T)])
    cells += [[label, "", *(f"{figure:.4f}" for figure in figures)] for label, *figures in PUBLISHED[group]]
    yield f"\nGroup {group}: test AUC, mean +- sd over {seeds} seeds, {epochs} epochs\n"
    yield from markdown(["model", "parameters", *tasks], cells)

    yield "\nPaired by seed, mean +- standard error over seeds (seeds above 0), on both halves: a gain"
    yield "that the other half does not show may be luck of the test rows; more seeds do not average it out\n"
    pairs = [(name, names[0]) for name in names[1:]]
    pairs += [(names[0], LINEAR_ALL)]
    if with_education:
        pairs.append(("SharedBottom, education is an input", "SharedBottom"))
    parts = [(t, task, part) for t, task in enumerate(tasks) for part in ("test", "validation")]
    rows = []
    for one, two in pairs:
        gaps = [paired(results[one][part][:, t], results[two][part][:, t]) for t, _, part in parts]
        rows.append([f"{one} - {two}", *gaps])
    yield from markdown(["", *(f"{task}, {part}" for _, task, part in parts)], rows)
    shared = results[names[0]]["test"].mean(axis=0)
    labels = bench.table(group, False).part("test").labels
    errors = (chance(labels[task], auc) for task, auc in zip(tasks, shared, strict=True))
    yield (
        "\nStandard error of any AUC above from the draw of the test half, the same rows for all "
        "(Hanley and McNeil): "
        + ", ".join(f"{task} {error:.4f}" for task, error in zip(tasks, errors, strict=True))
    )


def tune(bench: Bench, group: int, names: list[str], seeds: int, settings: list[str]) -> Iterator[str]:
    """The lines of the validation grid of one group; of these ``settings`` only, if there are any."""
    tasks = bench.table(group, False).tasks
    yield f"\nGroup {group}: validation AUC, {tasks[0]}, mean +- sd over {seeds} seeds; one change\n"
    cells = []
    for changes in (change for change in GRID if not settings or set(change) <= set(settings)):
        label = ", ".join(f"{k} {v:g}" for k, v in changes.items()) or "settings"
        cells.append([label])
        for name in names:
            lines = [bench.run(name, group, seed, **changes)["validation"] for seed in range(seeds)]
            cells[-1].append(spread(np.array([line[tasks[0]] for line in lines])))
    yield from markdown(["change", *names], cells)


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
    changed = sorted({setting for change in GRID for setting in change})
    parser.add_argument(
        "--tune",
        nargs="*",
        choices=changed,
        metavar="SETTING",
        help=f"print the validation grid and no test figure; all of it, or of some settings: {changed}",
    )
    options = parser.parse_args()

    torch.set_num_threads(1)  # small products: more threads only wait for each other on a busy machine
    bench = Bench(data_path(options.path, "census-income"), options.out)
    for group in options.groups:
        if options.tune is not None:
            lines = tune(bench, group, options.models, options.seeds, options.tune)
        else:
            lines = report(bench, group, options.models, options.seeds, options.epochs)
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
