"""Exercise 3.9: the labels that stood in another order than the tasks."""

from __future__ import annotations

import numpy as np
import torch

from autograde_tests.exercise import Draw, Exercise, Trial

NAMES = ["is_click", "is_like", "long_view", "is_follow", "is_comment", "is_forward", "is_hate", "user_id"]


def label_matrix(columns, names, tasks):
    return torch.stack([columns[:, names.index(task)] for task in tasks], dim=1)


def _pick(order):
    """A label matrix with the columns ``order(names, tasks)``."""
    return lambda columns, names, tasks: columns[:, order(names, tasks)]


def _last_two_swapped(names, tasks):
    found = [i for i, name in enumerate(names) if name in tasks]
    return found[:-2] + found[-2:][::-1]


def _label_draw(rng, T=None, B=None):
    T, B = T or int(rng.integers(4, 6)), B or int(rng.integers(6, 10))
    order = np.roll(np.arange(T), 1)  # a rotation: its inverse is another one, and no task keeps its place
    while True:
        names = [NAMES[i] for i in rng.permutation(len(NAMES))]
        inner = rng.permutation(np.arange(1, len(names) - 1))  # neither the first nor the last column
        tasks = [names[i] for i in np.sort(inner[:T])[order]]
        if T < 3 or tasks not in (
            sorted(tasks),
            sorted(tasks)[::-1],
        ):  # no order that the alphabet gives, too
            break
    columns = rng.normal(size=(B, len(names))).astype(
        np.float32
    )  # all different, so that none is taken for another
    return Draw({"columns": columns, "names": names, "tasks": tasks})


LABEL_MATRIX = Exercise(
    id="3.9",
    title="labels in the order of the tasks",
    how="function",
    reference=label_matrix,
    shape="(B, T)",
    example=Trial(
        "the log has click, like, long_view; the model has click, long_view, like (worked by hand)",
        {
            "columns": np.array([[1, 0, 1], [1, 1, 0]], np.float32),
            "names": ["is_click", "is_like", "long_view"],
            "tasks": ["is_click", "long_view", "is_like"],
        },
        want={"out": np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])},
    ),
    draw=_label_draw,
    sizes={"random columns": {}, "three tasks": {"T": 3}, "a batch of one": {"B": 1}, "one task": {"T": 1}},
    real_valued=False,
    mistakes={
        "the columns still come in the order of the log. In which order are the model's outputs?": _pick(
            lambda names, tasks: [i for i, name in enumerate(names) if name in tasks]
        ),
        "the columns come in the order of the alphabet. In which order are the model's outputs?": _pick(
            lambda names, tasks: [names.index(task) for task in sorted(tasks)]
        ),
        "the columns come in the reverse order. Which column belongs to output 0?": _pick(
            lambda names, tasks: [names.index(task) for task in tasks[::-1]]
        ),
        "the first T columns are taken, whatever their names. What if the log begins with a user's id?": _pick(
            lambda names, tasks: list(range(len(tasks)))
        ),
        "the last T columns are taken, whatever their names. Where does the log say what a column means?": _pick(
            lambda names, tasks: list(range(len(names) - len(tasks), len(names)))
        ),
        "the order is turned inside out: you looked up where the log's columns stand among the tasks, not the tasks "
        "among the columns. Which column holds the labels of tasks[0]?": lambda columns, names, tasks: (
            columns[:, [i for i, name in enumerate(names) if name in tasks]][
                :, [tasks.index(name) for name in names if name in tasks]
            ]
        ),
        "swapped: all columns are there, in the order of the log. How many columns has the result?": _pick(
            lambda names, tasks: list(range(len(names)))
        ),
        "the two last tasks are swapped by hand. What does that do to another log?": _pick(_last_two_swapped),
        "the result is (T, B). Which axis has the batch?": lambda columns, names, tasks: (
            label_matrix(columns, names, tasks).T
        ),
        "every output gets the labels of the first task. Which column belongs to output t?": _pick(
            lambda names, tasks: [names.index(tasks[0])] * len(tasks)
        ),
    },
    also_right=[
        _pick(lambda names, tasks: [names.index(task) for task in tasks]),
        lambda columns, names, tasks: (
            torch.stack([dict(zip(names, columns.T, strict=True))[task] for task in tasks]).T
        ),
        lambda columns, names, tasks: columns.numpy()[:, [names.index(task) for task in tasks]],
    ],
)
