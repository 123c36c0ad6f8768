"""Exercise 5.3: a table of one's own runs. There is no right table, only one that can carry a claim."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from autograde_tests.exercise import Exercise, Trial

BASE, COLUMNS = "SharedBottom", ["model", "seed", "parameters"]
SEEDS, BUDGET, LONGEST = 3, 0.05, 200_000

TEXT = "this is no text with a table in it, columns apart by commas. What does the cell with `to_csv` print, and do you return it between three quotation marks?"
COLUMN = "a column is missing. Is it model, seed or parameters, or are there no tasks?"
NUMBER = "an AUC is not a number between 0 and 1. Is it a percentage, or a run that failed?"
LONG = "the table has a row for each task. How does each task get a column of its own?"
PARAMETERS = "parameters is not a number above 0. Is there a comma inside the number, or a word?"
NO_BASE = "there are no runs of SharedBottom. What is your model compared with?"
ABLATION = "there are only two models. Which part of your model is taken out in the ablation?"
FEW = "a model has fewer than three seeds. How can you tell its luck from its skill?"
PAIRS = "the models do not all have the same seeds, each once. Which runs form a pair?"
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
    table = table[[name for name in table if not name.startswith("Unnamed:")]]  # an index without a name
    missing = [name for name in COLUMNS if name not in table]
    tasks = [name for name in table if name not in COLUMNS]
    if missing or not tasks:
        return f"{COLUMN}\nNot found: {', '.join(missing) or 'a column for a task'}."
    if {"task", "auc"} <= {name.lower() for name in tasks}:
        return LONG
    given, table = table, table.assign(model=table["model"].astype(str))
    for name in ("parameters", *tasks):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    wrong = ~table[tasks].apply(lambda auc: auc.between(0, 1))
    if wrong.any(axis=None):
        task = next(name for name in tasks if wrong[name].any())
        return (
            f"{NUMBER}\n{_cell(given, task, wrong[task])}\n"
            "Every column beside model, seed and parameters counts as a task."
        )
    if not (table["parameters"] > 0).all():
        return f"{PARAMETERS}\n{_cell(given, 'parameters', ~(table['parameters'] > 0))}"
    names = list(table["model"].unique())
    if BASE not in names:
        return f"{NO_BASE}\nThere are {', '.join(names[:5])}."
    if len(names) < 3:
        return ABLATION
    return _runs({name: table[table["model"] == name] for name in names}, tasks)


def _cell(table: pd.DataFrame, column: str, wrong: pd.Series) -> str:
    """Where the first wrong entry of a column stands, and what it is."""
    row = int(wrong.to_numpy().argmax())
    entry = table[column].iloc[row]
    what = "is empty" if pd.isna(entry) else f"has {str(entry)[:20]!r}"
    return f"The column {column} {what} in row {row + 1} ({table['model'].iloc[row]})."


def _runs(models: Mapping[str, pd.DataFrame], tasks: list[str]) -> str:
    base = models[BASE]
    for name, own in models.items():
        if own["seed"].nunique() < SEEDS:
            return f"{FEW}\n{name} has {own['seed'].nunique()}."
        if sorted(own["seed"].astype(str)) != sorted(base["seed"].astype(str).unique()):
            return f"{PAIRS}\nLook at {name}."
        if (own[tasks].nunique() == 1).all():
            return f"{CONSTANT}\nLook at {name}."
        if own["parameters"].nunique() > 1:
            return f"{CHANGES}\nLook at {name}."
    size = base["parameters"].iloc[0]
    for name, own in models.items():
        if abs(own["parameters"].iloc[0] / size - 1) > BUDGET:
            return f"{SIZE}\n{name} has {own['parameters'].iloc[0]:,.0f}, {BASE} {size:,.0f}."
    mine = next(name for name in models if name != BASE)
    means = [models[name].set_index("seed")[tasks].mean(axis=1) for name in (mine, BASE)]
    gap = means[0] - means[1]
    if gap.mean() < -2 * gap.std():
        return f"{WORSE}\n{mine} minus {BASE}: {gap.mean():+.4f}, standard deviation {gap.std():.4f}."
    return ""


def _table(change=None, models=(BASE, "Mine", "Mine without a part"), seeds=4, **columns) -> str:
    """A table that can carry a claim, or one with another column, or one changed by ``change``."""
    table = pd.DataFrame([(m, s) for m in models for s in range(seeds)], columns=["model", "seed"])
    table["parameters"] = table["model"].map(dict(zip(models, (10_000, 10_200, 9_900), strict=False)))
    for i, task in enumerate(("click", "like")):
        noise = [0.002 * math.sin(7 * k + i) for k in range(len(table))]
        table[task] = 0.7 + 0.01 * (table["model"] == "Mine") + np.array(noise)
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
        NUMBER: _says(_table(click=lambda t: 100 * t["click"])),
        LONG: _says(_table(lambda t: t.melt(COLUMNS, var_name="task", value_name="auc"))),
        PARAMETERS: _says(_table(parameters=lambda t: t["parameters"].map("{:,}".format))),
        NO_BASE: _says(_table(models=("MMoE", "Mine", "Mine without a part"))),
        ABLATION: _says(_table(models=(BASE, "Mine"))),
        FEW: _says(_table(seeds=2)),
        PAIRS: _says(_table(lambda t: t.drop(index=10))),
        CONSTANT: _says(_table(click=lambda t: 0.7 + 0.01 * (t["model"] == "Mine"), like=lambda t: 0.7)),
        CHANGES: _says(_table(parameters=lambda t: 10_000 + t["seed"])),
        SIZE: _says(_table(parameters=lambda t: np.where(t["model"] == "Mine", 12_000, 10_000))),
        WORSE: _says(_table(click=lambda t: t["click"] - 0.05 * (t["model"] == "Mine"))),
    },
    also_right=[
        _says(
            _table(lambda t: t.sample(frac=1, random_state=0).sort_values("model", key=lambda m: m == "Mine"))
        ),
        _says(pd.read_csv(io.StringIO(_table())).to_csv()),  # with its index
        _says("\n" + _table(lambda t: t[["like", "seed", "parameters", "model"]]) + "\n"),
        _says(_table(click=lambda t: t["click"] - 0.018 * (t["model"] == "Mine"))),  # no better, and honest
    ],
)
