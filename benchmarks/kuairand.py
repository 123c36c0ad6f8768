"""Models of equal budget on KuaiRand-Pure, AUC and GAUC, beside logistic regression and a published table.

    python benchmarks/kuairand.py [--path FOLDER] [--seeds 5] [--sections three eight swapped history]
                                  [--out FILE]
    python benchmarks/kuairand.py --tune [--seeds 2] [--path FOLDER] [--out FILE]

three, eight: SingleTask, SharedBottom, MMoE, CGC, PLE and AdaTT on click, long_view and like, and on all
eight kinds of feedback; trained by `mtlkit.training.fit` with the same settings and paired by seed. Equal
budget: the parameters behind the embedding table are within 5 % of SharedBottom's. All have the same table,
but SingleTask, which shares nothing, has one for each task; so it has the most parameters in all (printed).
"SingleTask, each as large" (three tasks only) has for each task a network as large as SharedBottom with one
tower.
swapped: what a published table with AUC below 0.5 did; see `PUBLISHED`.
history: what `kuairand(history=...)` does to AUC and GAUC, on the validation rows.

Rows are split by date; settings were chosen on the validation days alone, and `--tune` prints that grid, one
change at a time. Inputs: `kuairand(history=True, min_count=10)`; the history is that of the tasks at hand.
A seed moves starting weights, shuffling and dropout, so "sd" is the spread of training alone. The chance in
the draw of the test rows is larger, the same for all rows of a table, and printed apart (standard error of an
AUC by Hanley and McNeil, which takes rows for independent). A paired gain is a finding where test and
validation days both show it.

The official archive is taken where no folder holds the files: its log begins on 04-08, that of ../shared/data
on 04-25. `--out FILE` keeps each finished run as a JSON line; a run that is in the file is not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from reporting import Runs, chance, markdown, one_hot, run_sections, spread
from sklearn.linear_model import LogisticRegression

from mtlkit import metrics, training
from mtlkit.data import Table, kuairand
from mtlkit.data.kuairand_file import OUTCOMES
from mtlkit.diagnosis import seesaw, transfer
from mtlkit.models import (
    CGC,
    PLE,
    AdaTT,
    MMoE,
    Recommender,
    SharedBottom,
    SingleTask,
    count_parameters,
    match_width,
)

TRAINING = {
    "epochs": 3,
    "batch_size": 1024,
    "lr": 2e-3,
    "weight_decay": 0.1,
    "schedule": "one_cycle",
    "patience": None,
}
INPUTS = {"embedding": 8, "dropout": 0.2}
THREE = ("is_click", "long_view", "is_like")
WIDTHS = {3: 128, 8: 256}  # tasks -> first layer of SharedBottom, whose size is the budget
# a model and its sizes, given the one width that is matched to the budget
NETWORKS: dict[str, tuple[type, Callable[[int], dict]]] = {
    "SingleTask": (SingleTask, lambda w: {"bottom": [w, max(w // 2, 1)], "tower": [32]}),
    "SharedBottom": (SharedBottom, lambda w: {"bottom": [w, w // 2], "tower": [32]}),
    "MMoE": (MMoE, lambda w: {"experts": 4, "expert": [w, 32], "tower": [32]}),
    "CGC": (CGC, lambda w: {"shared_experts": 1, "task_experts": 1, "expert": [w, 32], "tower": [32]}),
    "PLE": (PLE, lambda w: {"shared_experts": 1, "task_experts": 1, "levels": [[w], [32]], "tower": [32]}),
    "AdaTT": (
        AdaTT,
        lambda w: {"shared_experts": 1, "task_experts": 1, "levels": [[w], [32]], "tower": [32]},
    ),
}
LARGE = "SingleTask, each as large"
LINEAR, LINEAR_ALL = "logistic regression, no history", "logistic regression, the networks' inputs"
C = 0.03  # of logistic regression: 1 / the L2 penalty
# one change at a time, the same for the networks of the grid
TUNED = ("SharedBottom", "PLE")
GRID = [
    {},
    {"lr": 1e-3},
    {"lr": 4e-3},
    {"epochs": 2},
    {"epochs": 5},
    {"dropout": 0.0},
    {"dropout": 0.4},
    {"weight_decay": 0.0},
    {"embedding": 4},
    {"embedding": 16},
]
C_GRID = [0.01, 0.03, 0.1, 1.0]

# FunRec, chapter 3.4.1, on KuaiRand-1K: test AUC of click, long_view and like. The labels stand in the order
# click, long_view, like of its task list for the model, and in the order click, like, long_view of the data's
# columns for the loss; Keras matches by position. So the tower that is printed as like learned long_view, and
# the tower printed as long_view learned like.
PUBLISHED = {
    "SharedBottom": ("0.61", "0.436", "0.431"),
    "MMoE": ("0.60", "0.459", "0.420"),
    "PLE": ("0.60", "0.447", "0.419"),
}


class Bench:
    def __init__(self, path: str | None, out: Path | None) -> None:
        self.path, self.runs = path, Runs(out)
        self.tables: dict[tuple, Table] = {}

    def table(self, tasks: tuple[str, ...], history: bool | str = True) -> Table:
        key = (tasks, history)
        if key not in self.tables:
            self.tables[key] = kuairand(tasks, history=history, min_count=10, path=self.path)
        return self.tables[key]

    def network(
        self,
        name: str,
        tasks: tuple[str, ...],
        seed: int,
        history: bool | str = True,
        swap: bool = False,
        **changes,
    ) -> dict:
        """One run's line: what was asked, parameters, seconds, AUC and GAUC by part and task."""
        table = self.table(tasks, history)
        options = TRAINING | INPUTS | changes
        fitting = {key: options.pop(key) for key in TRAINING}
        kind, sizes = matched(
            name, len(tasks), len(table.fields) * options["embedding"] + len(table.dense_names)
        )
        asked = {"model": name, "tasks": list(tasks), "seed": seed, "history": history, "swap": swap}
        asked |= {"first_day": table.notes["days"][0]} | fitting | options | sizes

        def make() -> dict:
            seen = swapped(table) if swap else table
            model = Recommender(seen, kind, seed=seed, **options, **sizes)
            fitted = training.fit(model, seen, seed=seed, progress=False, **fitting)
            behind, all_of_it = count_parameters(model.body), count_parameters(model)
            line = {"parameters": behind, "with_table": all_of_it, "best_epoch": fitted.attrs["best_epoch"]}
            return line | figures(lambda part: training.predict(model, part), table)

        return self.runs.get(asked, make)

    def linear(self, tasks: tuple[str, ...], history: bool | str, c: float = C) -> dict:
        """Logistic regression on one-hot ids and the dense features, of the same rows."""
        table = self.table(tasks, history)
        asked = {"model": "linear", "tasks": list(tasks), "history": history, "C": c}
        asked |= {"first_day": table.notes["days"][0]}
        kept = range(len(table.fields))

        def make() -> dict:
            train = table.part("train")
            x = one_hot(train, kept)
            models = {t: LogisticRegression(C=c, max_iter=300).fit(x, y) for t, y in train.labels.items()}

            def predict(part: Table) -> pd.DataFrame:
                x = one_hot(part, kept)
                return pd.DataFrame({t: model.predict_proba(x)[:, 1] for t, model in models.items()})

            size = len(tasks) * (x.shape[1] + 1)
            return {"parameters": size, "with_table": size} | figures(predict, table)

        return self.runs.get(asked, make)


def matched(name: str, tasks: int, in_width: int) -> tuple[type, dict]:
    """The class and the sizes whose parameters are within 5 % of SharedBottom's."""
    width = WIDTHS[tasks]
    if name == LARGE:
        kind, sizes = NETWORKS["SingleTask"]
        return kind, sizes(width)
    kind, sizes = NETWORKS[name]
    if kind is not SharedBottom:
        base, shape = NETWORKS["SharedBottom"]
        budget = count_parameters(base(in_width, tasks, **shape(width)))
        width = match_width(lambda w: kind(in_width, tasks, **sizes(w)), budget)
    return kind, sizes(width)


def swapped(table: Table) -> Table:
    """The same rows, but long_view's column holds the label like, and like's column long_view."""
    other = {"long_view": "is_like", "is_like": "long_view"}
    return replace(table, labels={task: table.labels[other.get(task, task)] for task in table.tasks})


def figures(predict: Callable[[Table], pd.DataFrame], table: Table) -> dict:
    """AUC and GAUC of each task on the held-out parts, by the labels' names."""
    found = {}
    for name in ("validation", "test"):
        part = table.part(name)
        guess = predict(part)
        found[name] = {
            task: {
                "auc": metrics.auc(guess[task], y),
                "gauc": metrics.gauc(guess[task], y, part.users).value,
            }
            for task, y in part.labels.items()
        }
    return found


def values(lines: list[dict], part: str, metric: str, task: str) -> np.ndarray:
    return np.array([line[part][task][metric] for line in lines])


def report(bench: Bench, tasks: tuple[str, ...], seeds: int) -> Iterator[str]:
    """All models on these tasks."""
    table = bench.table(tasks)
    log = "{} to {}".format(*table.notes["days"])
    names = list(NETWORKS)
    if len(tasks) <= 3:  # with eight, some ten times the time of SharedBottom
        names.insert(1, LARGE)
    networks = {name: [] for name in names}
    for seed in range(seeds):  # seed by seed: an interrupted run has as many of each network
        for name in names:
            networks[name].append(bench.network(name, tasks, seed))
    linear = {LINEAR: [bench.linear(tasks, False)], LINEAR_ALL: [bench.linear(tasks, True)]}
    lines = networks | linear
    yield f"\n## {len(tasks)} tasks\n"
    rows = {name: f"{len(table.part(name)):,}" for name in ("train", "validation", "test")}
    yield f"Log of {log}: " + ", ".join(f"{count} rows {name}" for name, count in rows.items()) + "."
    yield f"Mean +- sd over {seeds} seeds.\n"
    test, train = table.part("test"), table.part("train")
    cells = []
    for task, y in test.labels.items():
        kept = metrics.gauc(y, y, test.users)
        error = chance(y, float(values(lines["SharedBottom"], "test", "auc", task).mean()))
        positives = [f"{int(labels.sum()):,}" for labels in (train.labels[task], y)]
        cells.append([task, *positives, f"{kept.users:,} ({kept.rows:,})", f"{error:.4f}"])
    header = [
        "task",
        "positives, train",
        "test",
        "users (rows) in GAUC, test",
        "standard error of an AUC, test",
    ]
    yield from markdown(header, cells)

    sizes = {
        name: (f"{line[0]['parameters']:,}", f"{line[0]['with_table']:,}") for name, line in lines.items()
    }
    for part, metric in (("test", "auc"), ("test", "gauc"), ("validation", "auc")):
        yield f"\n{metric.upper()}, {part} days\n"
        cells = [
            [name, *sizes[name], *(spread(values(runs, part, metric, task)) for task in tasks)]
            for name, runs in lines.items()
        ]
        yield from markdown(["model", "parameters", "with embeddings", *tasks], cells)

    runs = pd.DataFrame(
        {"model": name, "seed": seed, "task": task, "part": part} | line[part][task]
        for name, several in networks.items()
        for seed, line in enumerate(several)
        for part in ("test", "validation")
        for task in tasks
    )
    if seeds < 2:
        return
    verdicts = {}
    for metric in ("auc", "gauc"):
        for part in ("test", "validation"):
            gains = transfer(runs[runs["part"] == part], metric)
            verdicts[metric, part] = seesaw(gains)
            yield f"\n{metric.upper()} minus that of SingleTask, {part} days, paired by seed:"
            yield "mean +- standard error over seeds (seeds with a gain)\n"
            models = gains.index.unique("model")
            cells = [[model, *(_gain(gains.loc[model, task]) for task in tasks)] for model in models]
            yield from markdown(["model", *tasks], cells)
    for metric in ("auc", "gauc"):
        yield f"\nTasks won and lost against SingleTask, {metric.upper()}: the 95 % interval of the gain is"
        yield "on one side of 0, as it will be for 5 % of the tasks without any difference.\n"
        one, two = verdicts[metric, "test"], verdicts[metric, "validation"]
        cells = []
        for model in one.index:
            row = [model]
            for side in ("won", "lost"):
                sides = [frame.loc[model, side].split(", ") for frame in (one, two)]
                row += [", ".join(side) or "-" for side in sides]
                row.append(", ".join(task for task in sides[0] if task and task in sides[1]) or "-")
            cells.append(row)
        header = [f"{side}, {where}" for side in ("won", "lost") for where in ("test", "validation", "both")]
        yield from markdown(["model", *header], cells)


def _gain(row: pd.Series) -> str:
    return f"{row['gain']:+.5f} +- {row['error']:.5f} ({row['wins']:.0f})"


def swap_report(bench: Bench, seeds: int) -> Iterator[str]:
    """The published table, and the swapped run beside the right one."""
    yield "\n## A published table with AUC below 0.5: the labels of two towers swapped\n"
    yield f"Test days, mean +- sd over {seeds} seeds; the published row is from another log, KuaiRand-1K.\n"
    cells = []
    for name, published in PUBLISHED.items():
        cells.append([name, "published (FunRec)", *published, *["-"] * len(THREE)])
        for swap in (True, False):
            lines = [bench.network(name, THREE, seed, swap=swap) for seed in range(seeds)]
            found = [
                spread(values(lines, "test", metric, task)) for metric in ("auc", "gauc") for task in THREE
            ]
            cells.append([name, "labels swapped" if swap else "labels by name", *found])
    header = [f"{metric} {task}" for metric in ("AUC", "GAUC") for task in THREE]
    yield from markdown(["model", "training", *header], cells)


def history_report(bench: Bench, seeds: int) -> Iterator[str]:
    """What the past as input does."""
    yield "\n## The past as input\n"
    yield f"SharedBottom, validation days, mean +- sd over {seeds} seeds.\n"
    cells = []
    for label, history in (("False", False), ('"split"', True), ('"row"', "row")):
        lines = [bench.network("SharedBottom", THREE, seed, history) for seed in range(seeds)]
        found = [
            spread(values(lines, "validation", metric, task)) for metric in ("auc", "gauc") for task in THREE
        ]
        cells.append([label, *found])
    header = [f"{metric} {task}" for metric in ("AUC", "GAUC") for task in THREE]
    yield from markdown(["history=", *header], cells)


def tune(bench: Bench, seeds: int) -> Iterator[str]:
    """The validation grid of the three tasks."""
    yield f"\n## Validation AUC, mean +- sd over {seeds} seeds; one change from the settings\n"
    cells = []
    for changes in GRID:
        found = []
        for name in TUNED:
            lines = [bench.network(name, THREE, seed, **changes) for seed in range(seeds)]
            found += [spread(values(lines, "validation", "auc", task)) for task in THREE]
        cells.append([", ".join(f"{k} {v:g}" for k, v in changes.items()) or "settings", *found])
    yield from markdown(["change", *(f"{name}, {task}" for name in TUNED for task in THREE)], cells)
    yield ""
    cells = []
    for c in C_GRID:
        lines = [bench.linear(THREE, history, c) for history in (False, True)]
        found = [f"{line['validation'][task]['auc']:.4f}" for line in lines for task in THREE]
        cells.append([f"C {c:g}", *found])
    yield from markdown(["", *(f"{name}: {task}" for name in (LINEAR, LINEAR_ALL) for task in THREE)], cells)


def main() -> None:
    sections = {
        "three": lambda bench, seeds: report(bench, THREE, seeds),
        "eight": lambda bench, seeds: report(bench, OUTCOMES, seeds),
        "swapped": lambda bench, seeds: swap_report(bench, min(seeds, 3)),
        "history": lambda bench, seeds: history_report(bench, min(seeds, 3)),
    }
    run_sections(__doc__, Bench, sections, tune, seeds=5, few="swapped and history take at most 3")


if __name__ == "__main__":
    main()
