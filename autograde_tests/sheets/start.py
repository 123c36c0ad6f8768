"""Exercises of notebook 00: how a check talks, and the letters of the series."""

from __future__ import annotations

import numpy as np
import torch

from autograde_tests.exercise import Draw, Exercise, Trial

# --- 0.1 rate ----------------------------------------------------------------------------------------------


def rate(labels, observed):
    return (labels * observed).sum(0) / observed.sum(0)


def _rate_draw(rng, B=None, T=None):
    B, T = B or int(rng.integers(4, 9)), T or int(rng.integers(2, 5))
    observed = rng.random((B, T)) < 0.6
    observed[rng.integers(B, size=T), np.arange(T)] = True  # every task has a label
    return Draw({"labels": (rng.random((B, T)) < 0.5).astype(np.float32), "observed": observed})


RATE_MISTAKES = {
    "the positives are divided by all B rows. How many labels of this task were observed?": (
        lambda y, m: (y * m).sum(0) / len(y)
    ),
    "the observed flags are ignored: rows nobody labelled count as well. What does `observed` tell you?": (
        lambda y, m: y.mean(0)
    ),
    "all tasks share one rate. Over which axis do you sum, and which one has to stay?": (
        lambda y, m: ((y * m).sum() / m.sum()).expand(y.shape[1])
    ),
    "all tasks end in a single number. Which axis has to stay in the result?": (
        lambda y, m: (y * m).sum() / m.sum()
    ),
    "the mean runs over the tasks of each row (axis 1). Which axis holds the rows?": (
        lambda y, m: (y * m).sum(1) / m.sum(1)
    ),
    "the positives are counted, not divided by anything. What makes a count a rate?": (
        lambda y, m: (y * m).sum(0)
    ),
    "the rate is in percent. The message asks for a share between 0 and 1: what is the extra factor?": (
        lambda y, m: 100 * (y * m).sum(0) / m.sum(0)
    ),
    "only the unobserved cells are counted. What does True in `observed` stand for?": (
        lambda y, m: (y * ~m).sum(0) / (~m).sum(0)
    ),
    "the divisor counts the observed labels, but the sum counts all of them. What stands in an unobserved cell?": (
        lambda y, m: y.sum(0) / m.sum(0)
    ),
    "you computed how often a label was observed. Where do the labels themselves enter?": (
        lambda y, m: m.float().mean(0)
    ),
}


def _rate_loop(labels, observed):
    return torch.stack([labels[observed[:, t], t].mean() for t in range(labels.shape[1])])


RATE = Exercise(
    id="0.1",
    title="the positive rate of each task",
    how="function",
    reference=rate,
    shape="(T,)",
    example=Trial(
        "three users, two tasks, one label unobserved (worked by hand)",
        {
            "labels": np.array([[1, 0], [0, 1], [1, 1]], np.float32),
            "observed": np.array([[True, True], [True, False], [True, True]]),
        },
        want={"out": np.array([2 / 3, 1 / 2])},
    ),
    draw=_rate_draw,
    sizes={"random sizes": {}, "many rows": {"B": 40}, "a batch of one": {"B": 1}, "one task": {"T": 1}},
    mistakes=RATE_MISTAKES,
    also_right=[
        _rate_loop,
        lambda y, m: torch.where(m, y, torch.nan).nanmean(0),
        lambda y, m: (y.double() * m).sum(0) / m.double().sum(0),
        lambda y, m: torch.einsum("bt,bt->t", y, m.to(y.dtype)) / m.sum(dim=0),
        lambda y, m: y.masked_fill(~m, 0).sum(0).div(m.sum(0)),
        lambda y, m: np.asarray((y * m).sum(0) / m.sum(0)),
    ],
)

# --- 0.2 letters -------------------------------------------------------------------------------------------

RIGHT_LETTERS = {"one batch of inputs": "BD", "labels of all tasks": "BT", "outputs of all experts": "BEH"}


def _letters(**changed):
    return lambda: RIGHT_LETTERS | {key.replace("_", " "): value for key, value in changed.items()}


LETTERS = Exercise(
    id="0.2",
    title="the letters of the series",
    how="function",
    reference=_letters(),
    example=Trial("three shapes, each spelled with the letters of the table", {}),
    mistakes={
        "D and H are swapped: D is the width that goes in. What does an expert give back?": _letters(
            one_batch_of_inputs="BH", outputs_of_all_experts="BED"
        ),
        "the outputs of the experts have no axis for the experts. Which letter counts them?": _letters(
            outputs_of_all_experts="BH"
        ),
        "E comes before B. In this series the batch is always the first axis: what follows it?": _letters(
            outputs_of_all_experts="EBH"
        ),
        "the labels have an axis of experts. Does a label belong to an expert or to a task?": _letters(
            labels_of_all_tasks="BE"
        ),
        "T comes before B in the labels. Which axis is always the first?": _letters(labels_of_all_tasks="TB"),
        "the inputs carry the letter of the fields. What is the width of one row after the encoder?": _letters(
            one_batch_of_inputs="BF"
        ),
    },
    also_right=[lambda: dict(reversed(RIGHT_LETTERS.items()))],
    real_valued=False,
)

EXERCISES = [RATE, LETTERS]
