"""Exercise 5.3: a table of one's own runs. There is no right table, only one that can carry a claim."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from autograde_tests.exercise import Exercise, Trial

BASE, COLUMNS = "SharedBottom", ["model", "seed", "parameters"]
SEEDS, BUDGET, LONGEST = 3, 0.05, 200_000
NOTHING = ("", "na", "n/a", "<na>", "nan", "none", "null")  # how an empty cell is written
OF_TASKS = "Every column beside model, seed and parameters counts as a task."

WHAT = "Do you return what the cell with `to_csv` prints, the text itself, between three quotation marks?"
TEXT = f"this is no text with a table in it, columns apart by commas. {WHAT}"
FRAME = f"the DataFrame is returned, not its text. {WHAT}"
BYTES = f"bytes are returned, no text. {WHAT}"
DOTS = f"the three dots are still there. {WHAT}"
ELSEWHERE = f"`results` comes from another cell. The check may run without that cell. {WHAT}"
COLUMN = "a column is missing. Is it model, seed or parameters, or are there no tasks?"
TWINS = "two columns have the same name. Which of them is meant?"
NO_ROW = "there is no row below the header. Which runs do you hand in?"
NO_RUN = "a row is no run. Is it a sentence, a title or a second table?"
MORE = "a row has more cells than the header. Is there a comma inside a name or a number?"
NAME = "the name of a model is missing. Whose run is it?"
SEED = "a seed is missing. How does a run find its partner among the other models?"
LONG = "the table has a row for each task. How does each task get a column of its own?"
WORDS = "a column has words in it, or True and False. Is it the AUC of a task?"
NUMBER = "an AUC is not a number between 0 and 1. Is it a percentage, or a run that failed?"
PARAMETERS = "parameters is not a finite number above 0. Is there a word in it, or a comma inside the number?"
ALONE = "there is only one model. What is it compared with, and where is its ablation?"
NO_BASE = "there are no runs of SharedBottom. What is your model compared with?"
ABLATION = "there are only two models. Which part of your model is taken out in the ablation?"
SETTING = "a column has the same number in every row. Is it a task, and do its AUCs come from the runs?"
SAME = "two tasks have the same AUC in every row. Is one column written down twice?"
FEW = "a model has fewer than three seeds. How can you tell its luck from its skill?"
PAIRS = "the models do not all have the same seeds, each once. Which runs form a pair?"
CONSTANT = (
    "a model has the same AUC of a task with every seed. Does the seed reach the network and its training, or are the "
    "numbers rounded too far?"
)
TWICE = (
    "two seeds of a model have the same AUCs, to the last digit. Are they one run, does the seed reach the network, or "
    "are the numbers rounded too far?"
)
CHANGES = "the size of a model changes from run to run. Which of its runs do you compare?"
COPY = "two models have the same AUCs with every seed. Does the switch of the ablation reach the network?"
SIZE = "a model is more than 5 % larger or smaller than SharedBottom. Does the model win, or its size?"
WORSE = (
    "your model (the first beside SharedBottom) is below SharedBottom by more than two standard deviations. Is it "
    "trained well: the learning rate, the epochs, the labels?"
)


def rule(arrays: Mapping[str, np.ndarray]) -> str:
    """What keeps the table from carrying a claim, then lines of detail; "" where nothing does."""
    text = _text(arrays)
    if not text:
        return TEXT
    try:
        table = _read(text)
    except csv.Error as error:
        return f"{TEXT}\n{str(error)[:80]}"
    return table if isinstance(table, str) else _cells(table) or _models(_numbers(table))


def tasks_of(arrays: Mapping[str, np.ndarray]) -> str:
    """What a table that passes has for tasks, in a line: no other column than a task's should count."""
    return f"tasks: {', '.join(_tasks(_read(_text(arrays))))}"


def _text(arrays: Mapping[str, np.ndarray]) -> str:
    """The text that was returned, "" where it cannot be a table."""
    out = arrays.get("out", np.array(0))
    text = str(out).strip().removeprefix("\ufeff") if out.dtype.kind == "U" and out.ndim == 0 else ""
    return text if "," in text and len(text) <= LONGEST else ""


def _read(text: str) -> pd.DataFrame | str:
    """The cells as texts, or what keeps them from being a table. Spaces around a cell do not count."""
    lines = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    rows = [[cell.strip() for cell in line] for line in lines]
    header, *rows = [row for row in rows if any(row)] or [[]]
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        alike = {name.lower(): name for name in header}
        other = [f" `{alike[name]}` is there: write it `{name}`." for name in missing if name in alike]
        return (
            f"{COLUMN}\nNot found: {', '.join(missing)}.{''.join(other)}\n"
            f"The first line of your text is {','.join(header)[:60]!r}."
        )
    for i, row in enumerate(rows, 1):
        while len(row) > len(header) and not row[-1]:
            row.pop()
        if _is_no_run(row, len(header)):
            return f"{NO_RUN}\nRow {i} below the header is {','.join(row)[:60]!r}."
        if len(row) > len(header):
            return f"{MORE}\nThe header has {len(header)} cells, row {i} has {len(row)}: {','.join(row)[:60]}"
    rows = [row + [""] * (len(header) - len(row)) for row in rows]
    table = pd.DataFrame(rows, columns=header, dtype=object)
    table = table.loc[:, [name != "" and not name.startswith("Unnamed:") for name in header]]  # an index
    twins = table.columns[table.columns.duplicated()]
    if len(twins):
        return f"{TWINS}\nLook at {twins[0]}."
    if not _tasks(table):
        return f"{COLUMN}\nNot found: a column for a task."
    return table if rows else NO_ROW


def _is_no_run(row: list[str], cells: int) -> bool:
    """Whether a row has no number, and is too short for a run or has no digit behind its first cell."""
    numberless = not any(math.isfinite(_number(cell)) for cell in row)
    return numberless and (len(row) < cells or not any(c.isdigit() for cell in row[1:] for c in cell))


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _tasks(table: pd.DataFrame) -> list[str]:
    return [name for name in table if name not in COLUMNS]


def _cells(table: pd.DataFrame) -> str:
    """What is wrong with single cells, or with what a column holds."""
    tasks = _tasks(table)
    for name, sentence, nothing in (("model", NAME, ["", "nan"]), ("seed", SEED, NOTHING)):
        empty = table[name].str.lower().isin(nothing)
        if empty.any():
            return f"{sentence}\n{_cell(table, name, empty)}"
    wordy = [name for name in tasks if table[name].map(_number).isna().all()]
    if {"task", "auc"} <= {name.lower() for name in tasks} or (
        0 < len(wordy) < len(tasks) and table.duplicated(["model", "seed"], keep=False).all()
    ):
        return LONG
    for name in wordy:
        words = ~table[name].str.lower().isin(NOTHING) & ~table[name].str.contains(r"\d")
        if words.all():
            return f"{WORDS}\n{_cell(table, name, words)}\n{OF_TASKS}"
    for name in tasks:
        wrong = ~table[name].map(_number).between(0, 1)
        if wrong.any():
            return f"{NUMBER}\n{_cell(table, name, wrong)}\n{OF_TASKS}"
    wrong = table["parameters"].map(lambda cell: not 0 < _number(cell) < math.inf)
    return f"{PARAMETERS}\n{_cell(table, 'parameters', wrong)}" if wrong.any() else ""


def _cell(table: pd.DataFrame, column: str, wrong: pd.Series) -> str:
    """Where the first wrong entry of a column stands, and what it is."""
    row = int(wrong.to_numpy().argmax())
    entry, model = table[column].iloc[row], table["model"].iloc[row]
    what = f"has {entry[:20]!r}" if entry else "is empty"
    whose = f" ({model[:40]})" if column != "model" else ""
    return f"The column {column} {what} in row {row + 1}{whose}."


def _numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The same table with numbers for texts; of a seed, 0 and 0.0 are the same."""
    numbers = {name: table[name].map(_number) for name in ("parameters", *_tasks(table))}
    seeds = [_number(seed) for seed in table["seed"]]
    seeds = [str(int(n)) if n.is_integer() else seed for n, seed in zip(seeds, table["seed"], strict=True)]
    return table.assign(**numbers, seed=seeds)


def _models(table: pd.DataFrame) -> str:
    """Which model or task the table lacks, or has in vain."""
    tasks, names = _tasks(table), list(table["model"].unique())
    if len(names) == 1:
        return f"{ALONE}\nAll rows are of {names[0]}."
    if BASE not in names:
        return f"{NO_BASE}\n{_counts(table)}"
    if len(names) == 2:
        return f"{ABLATION}\n{_counts(table)}"
    for name in tasks:
        if table[name].nunique() == 1:
            return f"{SETTING}\nThe column {name} has {table[name].iloc[0]:g} in every row.\n{OF_TASKS}"
    alike = _alike({name: table[name] for name in tasks})
    if alike:
        return f"{SAME}\nLook at the columns {alike[0]} and {alike[1]}."
    models = {name: own for name, own in table.groupby("model", sort=False)}
    return _runs(models, tasks) or _between(models, tasks)


def _alike(arrays: Mapping[str, pd.DataFrame | pd.Series]) -> tuple[str, str] | None:
    """The names of the first two that hold the same numbers."""
    first: dict[bytes, str] = {}
    for name, array in arrays.items():
        before = first.setdefault((array.to_numpy(float) + 0.0).tobytes(), name)  # no -0
        if before != name:
            return before, name
    return None


def _counts(table: pd.DataFrame, at_most: int = 8) -> str:
    """The models with their numbers of rows: a name with a slip of the pen stands out."""
    counts = table["model"].value_counts(sort=False)
    more = "; ..." if len(counts) > at_most else ""
    return f"Rows: {'; '.join(f'{name} {n}' for name, n in counts[:at_most].items())}{more}."


def _runs(models: Mapping[str, pd.DataFrame], tasks: list[str]) -> str:
    """What is wrong with the runs of a model."""
    base, rows = models[BASE], _counts(pd.concat(models.values()))
    for name, own in models.items():
        if own["seed"].nunique() < SEEDS:
            return f"{FEW}\n{name} has {own['seed'].nunique()}.\n{rows}"
        if sorted(own["seed"]) != sorted(base["seed"].unique()):
            return f"{PAIRS}\nLook at {name}: it has the seeds {', '.join(own['seed'][:12])}.\n{rows}"
        for task in tasks:
            if own[task].nunique() == 1:
                return f"{CONSTANT}\nLook at {name}: {task} is {own[task].iloc[0]:g} in all its rows."
        if own["parameters"].nunique() > 1:
            return f"{CHANGES}\nLook at {name}."
        again = own.duplicated(tasks, keep=False)
        if again.any() and len(tasks) > 1:  # a single figure can be the same twice by chance
            first = own[again].iloc[0]
            alike = own["seed"][(own[tasks] == first[tasks]).all(axis=1)]
            return f"{TWICE}\nLook at {name}, seeds {', '.join(alike[:5])}."
    return ""


def _between(models: Mapping[str, pd.DataFrame], tasks: list[str]) -> str:
    """What is wrong between models. They have the same seeds here."""
    models = {name: own.set_index("seed").sort_index() for name, own in models.items()}
    alike = _alike({name: own[tasks] for name, own in models.items()})
    if alike:
        return f'{COPY}\nLook at "{alike[0]}" and "{alike[1]}".'
    size = models[BASE]["parameters"].iloc[0]
    for name, own in models.items():
        if abs(own["parameters"].iloc[0] / size - 1) > BUDGET:
            return f"{SIZE}\n{name} has {own['parameters'].iloc[0]:,.0f}, {BASE} {size:,.0f}."
    mine = next(name for name in models if name != BASE)
    gap = models[mine][tasks].mean(axis=1) - models[BASE][tasks].mean(axis=1)
    if gap.mean() < -2 * gap.std():
        return (
            f"{WORSE}\n{mine} minus {BASE}: {gap.mean():+.4f}, standard deviation {gap.std():.4f}.\n"
            f"This is the mean over the tasks {', '.join(tasks)}."
        )
    return ""


def _table(
    change=None, models=(BASE, "Mine", "Mine without a part"), seeds=4, tasks=("click", "like"), **columns
) -> str:
    """A table that can carry a claim, or one with another column, or one changed by ``change``."""
    table = pd.DataFrame([(m, s) for m in models for s in range(seeds)], columns=["model", "seed"])
    table["parameters"] = table["model"].map({BASE: 10_000, "Mine": 10_200}).fillna(9_900).astype(int)
    for i, task in enumerate(tasks):
        noise = [0.002 * math.sin(7 * k + i) for k in range(len(table))]
        table[task] = 0.7 + 0.01 * (table["model"] == "Mine") + np.array(noise)
    for name, values in columns.items():
        table[name] = values(table)
    table = table if change is None else change(table)
    return table.to_csv(index=False)


def _copied(rows):
    """A change of the table that writes the AUCs of one row into another one: to -> from."""

    def change(table):
        aucs = table[["click", "like"]]
        table.loc[list(rows), ["click", "like"]] = aucs.loc[list(rows.values())].to_numpy()
        return table

    return change


def _says(text):
    return lambda: text


def _from_another_cell():
    return results.to_csv(index=False)  # noqa: F821


def my_results():
    return _table()


MY_RESULTS = Exercise(
    id="5.3",
    title="a table that can carry a claim",
    how="function",
    reference=my_results,
    rule=rule,
    seen=tasks_of,
    example=Trial("your table of runs", {}),
    mistakes={
        TEXT: lambda: 0.75,
        FRAME: lambda: pd.read_csv(io.StringIO(_table())),
        BYTES: lambda: _table().encode(),
        DOTS: lambda: ...,
        ELSEWHERE: _from_another_cell,
        COLUMN: _says(_table(lambda t: t.drop(columns="seed"))),
        TWINS: _says(_table().replace("like", "click")),
        NO_ROW: _says(_table(lambda t: t[:0])),
        NO_RUN: _says(f"{_table()}The runs took an hour.\n"),
        MORE: _says(_table().replace("10200", "10,200")),
        NAME: _says(_table(model=lambda t: t["model"].where(t.index != 10))),
        SEED: _says(_table(seed=lambda t: t["seed"].where(t.index != 3))),
        LONG: _says(_table(lambda t: t.melt(COLUMNS, var_name="metric"))),
        WORDS: _says(_table(converged=lambda t: True)),
        NUMBER: _says(_table(click=lambda t: 100 * t["click"])),
        PARAMETERS: _says(_table(parameters=lambda t: t["parameters"].map("{:,}".format))),
        ALONE: _says(_table(models=("Mine",))),
        NO_BASE: _says(_table(models=("MMoE", "Mine", "Mine without a part"))),
        ABLATION: _says(_table(models=(BASE, "Mine"))),
        SETTING: _says(_table(lr=lambda t: 0.01)),
        SAME: _says(_table(like=lambda t: t["click"])),
        FEW: _says(_table(seeds=2)),
        PAIRS: _says(_table(lambda t: t.drop(index=10))),
        CONSTANT: _says(_table(like=lambda t: t["like"].where(t["model"] != "Mine", 0.71))),
        TWICE: _says(_table(_copied({5: 4, 6: 4}))),
        CHANGES: _says(_table(parameters=lambda t: 10_000 + t["seed"])),
        COPY: _says(_table(_copied({8: 4, 9: 5, 10: 6, 11: 7}))),
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
        _says(_table(tasks=("long_view", "click", "like"), seed=lambda t: 100 * t["seed"] + 100)),
        _says(_table(tasks=[f"task{i}" for i in range(8)], models=(BASE, "Mine", "a, b", "no c", "no d"))),
        _says(_table(models=(BASE, "Mine, with a part", "Mine, without"), seeds=3).replace("\n", "\r\n")),
        _says("\ufeff" + _table().replace(",", " , ")),  # spaces around each cell, a mark in front of all
        _says(_table(parameters=lambda t: t["parameters"].astype(float)).replace("\n", ",\n")),
    ],
)
