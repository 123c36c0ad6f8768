"""Exercise 5.3: what the check says about tables as students hand them in, and which ones it lets pass."""

from __future__ import annotations

import io
import time
import warnings

import numpy as np
import pandas as pd
import pytest

import autograde_tests
from autograde_tests.sheets.capstone import results as sheet

TABLE = """model,seed,parameters,long_view,click,like
SharedBottom,0,9983,0.75038,0.75464,0.75344
SharedBottom,1,9983,0.75914,0.74911,0.75856
SharedBottom,2,9983,0.75138,0.74521,0.7298
SharedBottom,3,9983,0.75992,0.75159,0.76505
HoME,0,10128,0.76508,0.75902,0.79234
HoME,1,10128,0.76673,0.75948,0.78402
HoME,2,10128,0.76824,0.7606,0.79278
HoME,3,10128,0.7699,0.76777,0.78428
"HoME, no feature gates",0,9939,0.76249,0.76345,0.76256
"HoME, no feature gates",1,9939,0.76528,0.76427,0.78557
"HoME, no feature gates",2,9939,0.76641,0.76149,0.78184
"HoME, no feature gates",3,9939,0.7686,0.76358,0.77854
"""
LINES = TABLE.splitlines()
AUCS = ["long_view", "click", "like"]


def frame() -> pd.DataFrame:
    return pd.read_csv(io.StringIO(TABLE))


def put(**columns) -> str:
    """The table with other columns."""
    return frame().assign(**columns).to_csv(index=False)


def only(*rows: int) -> str:
    return "\n".join([LINES[0], *(LINES[row] for row in rows)])


def copied(to: slice, source: slice) -> str:
    """The table with the AUCs of some rows written into others; rows count from 0, the last one included."""
    table = frame()
    table.loc[to, AUCS] = table.loc[source, AUCS].to_numpy()
    return table.to_csv(index=False)


def long(task: str, auc: str) -> str:
    return frame().melt(sheet.COLUMNS, var_name=task, value_name=auc).to_csv(index=False)


def changed(old: str, new: str) -> str:
    assert old in TABLE
    return TABLE.replace(old, new)


LAST_ROW = {"SharedBottom": 4, "HoME": 8, '"HoME, no feature gates"': 12}
SEEDS = {
    f"seed {entry!r} of {name}": (
        changed(f"{name},3,", f"{name},{entry},"),
        sheet.SEED,
        f"seed {f'has {entry!r}' if entry else 'is empty'} in row {row} ({name.replace(chr(34), '')}).",
    )
    for name, row in LAST_ROW.items()
    for entry in ("", "NA", "nan")
}
WRONG = {
    # columns that are no tasks
    "a learning rate": (put(lr=0.01), sheet.SETTING, "The column lr has 0.01 in every row."),
    "a flag that is True": (put(converged=True), sheet.WORDS, "The column converged has 'True' in row 1"),
    "a flag": (put(best=[True, False] * 6), sheet.WORDS, "Every column beside model, seed and parameters"),
    "a date": (put(machine="laptop"), sheet.WORDS, "The column machine has 'laptop' in row 1"),
    "epochs": (put(epochs=3), sheet.NUMBER, "The column epochs has '3' in row 1 (SharedBottom)."),
    # tasks that nobody learned
    "a dead task": (put(click=0.5), sheet.SETTING, "The column click has 0.5 in every row."),
    "a perfect task": (put(click=1.0), sheet.SETTING, "The column click has 1 in every row."),
    "a task of zeros": (put(like=0.0), sheet.SETTING, "The column like has 0 in every row."),
    "a task twice": (put(like=frame()["click"]), sheet.SAME, "Look at the columns click and like."),
    "a task dead in one model": (
        put(like=frame()["like"].where(frame()["model"] != "HoME", 0.5)),
        sheet.CONSTANT,
        "Look at HoME: like is 0.5 in all its rows.",
    ),
    # runs that are no runs
    "an ablation that is a copy": (
        copied(slice(8, 11), slice(4, 7)),
        sheet.COPY,
        'Look at "HoME" and "HoME, no feature gates".',
    ),
    "a model that is the base": (
        copied(slice(4, 7), slice(0, 3)),
        sheet.COPY,
        'Look at "SharedBottom" and "HoME".',
    ),
    "two seeds alike": (copied(slice(5, 5), slice(4, 4)), sheet.TWICE, "Look at HoME, seeds 0, 1."),
    "three seeds alike": (
        copied(slice(9, 10), slice(8, 8)),
        sheet.TWICE,
        "Look at HoME, no feature gates, seeds 0, 1, 2.",
    ),
    "parameters without end": (
        put(parameters=np.inf),
        sheet.PARAMETERS,
        "has 'inf' in row 1 (SharedBottom).",
    ),
    # models and their names
    "the base alone": (only(1, 2, 3), sheet.ALONE, "All rows are of SharedBottom."),
    "one model alone": (only(5, 6, 7), sheet.ALONE, "All rows are of HoME."),
    "no base": (
        changed("SharedBottom", "Base"),
        sheet.NO_BASE,
        "Rows: Base 4; HoME 4; HoME, no feature gates 4.",
    ),
    "two models": (only(*range(1, 9)), sheet.ABLATION, "Rows: SharedBottom 4; HoME 4."),
    "a row without a name": (
        changed('"HoME, no feature gates",2', ",2"),
        sheet.NAME,
        "The column model is empty in row 11.",
    ),
    "a name in capitals": (
        changed("HoME,3", "HOME,3"),
        sheet.PAIRS,
        "Rows: SharedBottom 4; HoME 3; HOME 1; HoME, no feature gates 4.",
    ),
    "a seed twice": (changed("HoME,3", "HoME,2"), sheet.PAIRS, "it has the seeds 0, 1, 2, 2."),
    "mine is listed first and worse": (
        "\n".join(
            [LINES[0], *(line.replace(",0.7", ",0.6") for line in LINES[5:9]), *LINES[1:5], *LINES[9:]]
        ),
        sheet.WORSE,
        "HoME minus SharedBottom: -0.0",
    ),
    # what stands around the table
    "two tables": (TABLE + TABLE, sheet.NO_RUN, "Row 13 below the header is 'model,seed,"),
    "a sentence below": (
        TABLE + "\nAll of it ran on my laptop, in 2 hours.\n",
        sheet.NO_RUN,
        "Row 13 below the header is 'All of it ran on my laptop,in 2 hours.'.",
    ),
    "a fence below": (TABLE + "```\n", sheet.NO_RUN, "Row 13 below the header is '```'."),
    "a fence above": (f"```\n{TABLE}", sheet.COLUMN, "The first line of your text is '```'."),
    "a title": (
        f"My runs, three models\n{TABLE}",
        sheet.COLUMN,
        "first line of your text is 'My runs,three models'",
    ),
    "a header alone": (LINES[0], sheet.NO_ROW, ""),
    "headers in capitals": (
        changed("model,seed", "Model,Seed"),
        sheet.COLUMN,
        "Not found: model, seed. `Model` is there: write it `model`. `Seed` is there: write it `seed`.",
    ),
    "commas and no table": (" ,\n,, ", sheet.COLUMN, "Not found: model, seed, parameters."),
    "a column twice": (changed("click", "like"), sheet.TWINS, "Look at like."),
    # commas in a cell
    "a comma in a name": (
        TABLE.replace('"', ""),
        sheet.MORE,
        "The header has 6 cells, row 9 has 7: HoME,no feature gates,0,9939",
    ),
    "a comma in a number": (changed("10128", "10,128"), sheet.MORE, "row 5 has 7: HoME,0,10,128"),
    "a comma in each row's number": (
        TABLE.replace("9983", "9,983").replace("9939", "9,939").replace("10128", "10,128"),
        sheet.MORE,
        "row 1 has 7: SharedBottom,0,9,983",
    ),
    "a row that is cut": (
        changed(",0.76777,0.78428", ""),
        sheet.NUMBER,
        "The column click is empty in row 8 (HoME).",
    ),
    "a row for each metric": (long("metric", "value"), sheet.LONG, ""),
    "a row for each task": (long("Task", "AUC"), sheet.LONG, ""),
    # things that are no text
    "a DataFrame": (frame(), sheet.FRAME, "between three quotation marks?"),
    "bytes": (TABLE.encode(), sheet.BYTES, "between three quotation marks?"),
    "dots": (..., sheet.DOTS, "between three quotation marks?"),
    "a list of lines": (LINES, sheet.TEXT, "between three quotation marks?"),
    **SEEDS,
}
RIGHT = {
    "as printed": TABLE,
    "two tasks": frame().drop(columns="long_view").to_csv(index=False),
    "one task, the same to four digits with two seeds": frame()
    .assign(like=[0.7534, 0.7534, 0.7298, 0.765] * 3 + np.repeat([0, 0.01, 0.005], 4))[
        sheet.COLUMNS + ["like"]
    ]
    .to_csv(index=False),
    "indented": TABLE.replace("\n", "\n        "),
    "old line ends": TABLE.replace("\n", "\r"),
    "Windows line ends": TABLE.replace("\n", "\r\n"),
    "tabs around": TABLE.replace(",", ",\t").replace(",\t no", ", no"),
    "blank lines and rows": TABLE.replace("\nHoME,0", "\n\n,,,,,\nHoME,0"),
    "a space behind names and headers": changed("model,", "model ,").replace("HoME,3", "HoME ,3"),
    "seeds as floats in a part": changed("HoME,3", "HoME,3.0"),
    "seeds in words": TABLE.replace(",0,", ",a,")
    .replace(",1,", ",b,")
    .replace(",2,", ",c,")
    .replace(",3,", ",d,"),
    "a model called None": TABLE.replace('"HoME, no feature gates"', "None"),
    "a model called 7": TABLE.replace('"HoME, no feature gates"', "7"),
}


def said(answer: object) -> autograde_tests.Verdict:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return autograde_tests.verdict("5.3", lambda: answer)


@pytest.mark.parametrize("what", WRONG)
def test_a_table_that_carries_nothing_is_met_with_the_sentence_and_the_place(what):
    answer, sentence, detail = WRONG[what]
    verdict = said(answer)
    assert verdict.mistake == sentence, str(verdict)
    assert detail in str(verdict)
    assert len(str(verdict).splitlines()) <= 6


@pytest.mark.parametrize("what", RIGHT)
def test_a_table_that_can_carry_a_claim_passes_however_it_is_written(what):
    verdict = said(RIGHT[what])
    assert verdict.passed, str(verdict)


def test_a_name_from_another_cell_is_explained():
    verdict = autograde_tests.verdict("5.3", lambda: results.to_csv())  # noqa: F821
    assert verdict.mistake == sheet.ELSEWHERE and "NameError: name 'results'" in str(verdict)


def test_the_columns_that_count_as_tasks_are_told():
    assert sheet.tasks_of({"out": np.array(TABLE)}) == "tasks: long_view, click, like"
    assert "tasks: long_view, click, like" in str(said(TABLE))
    assert sheet.tasks_of({"out": np.array(put(loss=1 - frame()["click"]))}).endswith("click, like, loss")


@pytest.mark.parametrize("models, tasks", [(3000, 2), (3, 6000)])
def test_a_huge_table_does_not_keep_the_judge(models, tasks):
    digits = (
        np.random.default_rng(0).integers(1, 999 if models > tasks else 9, (models, 3, tasks)).astype(str)
    )
    lines = [",".join(["model,seed,parameters", *(np.base_repr(i, 36) for i in range(tasks))])]
    for m, seed in np.ndindex(models, 3):
        lines.append(",".join([f"{m or 'SharedBottom'},{seed},9", *("." + d for d in digits[m, seed])]))
    text = "\n".join(lines)
    assert 100_000 < len(text) < sheet.LONGEST
    start = time.perf_counter()
    sheet.rule({"out": np.array(text)})
    assert time.perf_counter() - start < 20  # under 3 on a quiet core


def test_spoiled_texts_are_met_with_a_sentence_of_the_sheet():
    """Cells emptied, doubled, cut or made odd at random: never a crash, always a sentence."""
    rng = np.random.default_rng(0)
    odd = ["", " ", ",", '"', "\n", "nan", "inf", "-1", "0", "True", "model", "1e999", "\x00", "Ω", "None"]
    for _ in range(300):
        text = list(TABLE)
        for _ in range(int(rng.integers(1, 6))):
            start = int(rng.integers(0, len(text)))
            text[start : start + int(rng.integers(0, 12))] = odd[int(rng.integers(len(odd)))]
        sentence = sheet.rule({"out": np.array("".join(text))}).split("\n")[0]
        assert not sentence or sentence in sheet.MY_RESULTS.mistakes, sentence
