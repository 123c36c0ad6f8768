"""Exercise 5.3: a table of one's own runs. There is no right table, only one that can carry a claim."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from autograde_tests.exercise import Exercise, Trial

BASE, COLUMNS = "SharedBottom", ["model", "seed", "task", "auc", "parameters"]
SEEDS, BUDGET, LONGEST = 3, 0.05, 200_000

TEXT = "this is no text. What does the cell with `to_csv` print, and do you return it between three quotation marks?"
COLUMN = "a column is missing. Which of model, seed, task, auc and parameters is it?"
NUMBER = "an AUC is not a number between 0 and 1. Is it a percentage, or a run that failed?"
NO_BASE = "there are no runs of SharedBottom. What is your model compared with?"
ABLATION = "there are only two models. Which part of your model is taken out in the ablation?"
FEW = "a model has fewer than three seeds. How can you tell its luck from its skill?"
PAIRS = "the models do not all have the same seeds and tasks, each once. Which runs form a pair?"
CONSTANT = "a model has the same AUC with every seed. Does the seed reach the network and its training?"
CHANGES = "the size of a model changes from run to run. Which of its runs do you compare?"
SIZE = "a model is more than 5 % larger or smaller than SharedBottom. Does the model win, or its size?"
WORSE = (
    "your model (the second in the table) is below SharedBottom by more than two standard deviations. Is it trained "
    "well: the learning rate, the epochs, the labels?"
)


def rule(arrays: Mapping[str, np.ndarray]) -> str:
    """What keeps the table from carrying a claim, then a line of detail; "" where nothing does."""
    text = str(arrays["out"]) if "out" in arrays and arrays["out"].dtype.kind == "U" else ""
    if "," not in text or len(text) > LONGEST:
        return TEXT
    try:
        table = pd.read_csv(io.StringIO(text.strip()), skipinitialspace=True)
    except (pd.errors.ParserError, ValueError) as error:
        return f"{TEXT}\n{str(error).splitlines()[0][:80]}"
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        return f"{COLUMN}\nNot found: {', '.join(missing)}."
    table = table[COLUMNS].assign(model=table["model"].astype(str), task=table["task"].astype(str))
    for name in ("auc", "parameters"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    wrong = table[~table["auc"].between(0, 1)]
    if len(wrong):
        return f"{NUMBER}\nLook at row {wrong.index[0] + 1}: {wrong['model'].iloc[0]}."
    names = list(table["model"].unique())
    if BASE not in names:
        return f"{NO_BASE}\nThere are {', '.join(names[:5])}."
    if len(names) < 3:
        return ABLATION
    return _runs(table, names)


def _runs(table: pd.DataFrame, names: list[str]) -> str:
    for name, own in table.groupby("model", sort=False):
        if own["seed"].nunique() < SEEDS:
            return f"{FEW}\n{name} has {own['seed'].nunique()}."
    runs = table.groupby("model", sort=False)[["seed", "task"]].apply(
        lambda own: sorted(map(tuple, own.astype(str).values))
    )
    for name, own in runs.items():
        if (
            own != runs[BASE]
            or len(own) != len(set(own))
            or len(own) != len({s for s, _ in own}) * len({t for _, t in own})
        ):
            return f"{PAIRS}\nLook at {name}."
    for name, own in table.groupby("model", sort=False):
        if (own.groupby("task")["auc"].nunique() == 1).all():
            return f"{CONSTANT}\nLook at {name}."
        if own["parameters"].nunique(dropna=False) > 1 or not own["parameters"].iloc[0] > 0:
            return f"{CHANGES}\nLook at {name}."
    sizes = table.groupby("model", sort=False)["parameters"].first()
    for name, size in sizes.items():
        if abs(size / sizes[BASE] - 1) > BUDGET:
            return f"{SIZE}\n{name} has {size:,.0f}, {BASE} {sizes[BASE]:,.0f}."
    mine = next(name for name in names if name != BASE)
    means = table.pivot_table(index="seed", columns="model", values="auc")
    gap = means[mine] - means[BASE]
    if gap.mean() < -2 * gap.std():
        return f"{WORSE}\n{mine} minus {BASE}: {gap.mean():+.4f}, standard deviation {gap.std():.4f}."
    return ""


def _table(change=None, models=(BASE, "Mine", "Mine without a part"), seeds=4, **columns) -> str:
    """A table that can carry a claim, or one with another column, or one changed by ``change``."""
    rows = [(m, s, t) for m in models for s in range(seeds) for t in ("click", "like")]
    table = pd.DataFrame(rows, columns=["model", "seed", "task"])
    noise = [0.002 * math.sin(7 * i) for i in range(len(table))]
    table["auc"] = 0.7 + 0.01 * (table["model"] == "Mine") + np.array(noise)
    table["parameters"] = table["model"].map(dict(zip(models, (10_000, 10_200, 9_900, 10_100), strict=False)))
    for name, values in columns.items():
        table[name] = values(table)
    table = table if change is None else change(table)
    return table.to_csv(index=False)


def _says(text):
    return lambda: text


def my_results():
    return _table()


MY_RESULTS = Exercise(
    id="5.3",
    title="a table that can carry a claim",
    how="function",
    reference=my_results,
    rule=rule,
    example=Trial("your table of runs", {}),
    mistakes={
        TEXT: lambda: 0.75,
        COLUMN: _says(_table(lambda t: t.drop(columns="seed"))),
        NUMBER: _says(_table(auc=lambda t: 100 * t["auc"])),
        NO_BASE: _says(_table(models=("MMoE", "Mine", "Mine without a part"))),
        ABLATION: _says(_table(models=(BASE, "Mine"))),
        FEW: _says(_table(seeds=2)),
        PAIRS: _says(_table(lambda t: t.drop(index=10))),
        CONSTANT: _says(_table(auc=lambda t: 0.7 + 0.01 * (t["model"] == "Mine"))),
        CHANGES: _says(_table(parameters=lambda t: 10_000 + t["seed"])),
        SIZE: _says(_table(parameters=lambda t: np.where(t["model"] == "Mine", 12_000, 10_000))),
        WORSE: _says(_table(auc=lambda t: t["auc"] - 0.05 * (t["model"] == "Mine"))),
    },
    also_right=[
        _says(
            _table(lambda t: t.sample(frac=1, random_state=0).sort_values("model", key=lambda m: m == "Mine"))
        ),
        _says("\n" + _table(lambda t: t.assign(gauc=0.6)[["gauc", *COLUMNS]]) + "\n"),
        _says(_table(auc=lambda t: t["auc"] - 0.011 * (t["model"] == "Mine"))),  # no better, and honest
    ],
)
