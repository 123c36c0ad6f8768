"""Exercises 1.1: the masked loss of each task."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from autograde_tests.exercise import ONE_ROW_ONE_TASK, Draw, Exercise, Trial, some

NAN = float("nan")

# --- 1.1 masked loss per task ------------------------------------------------------------------------------


def masked_bce(logits, labels):
    seen = ~labels.isnan()
    target = torch.where(seen, labels, 0.0)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (each * seen).sum(0) / seen.sum(0).clamp(min=1)


def _bce(z, y):
    """Cross-entropy of every cell with NaN labels set to 0, and which cells are observed."""
    seen = ~y.isnan()
    return F.binary_cross_entropy_with_logits(z, y.nan_to_num(), reduction="none"), seen


def _bce_loop(z, y):
    losses = []
    for t in range(z.shape[1]):
        seen = ~y[:, t].isnan()
        losses.append(
            F.binary_cross_entropy_with_logits(z[seen, t], y[seen, t]) if seen.any() else z[:, t].sum() * 0
        )
    return torch.stack(losses)


def _inverted(z, y):
    seen = y.isnan()
    each = F.binary_cross_entropy_with_logits(z, torch.where(seen, y, 0.0), reduction="none")
    return (each * seen).sum(0) / seen.sum(0).clamp(min=1)


def _bce_draw(rng, B=None, T=None, unlabelled=False):
    B, T = some(rng, B, T)
    labels = np.where(rng.random((B, T)) < 0.3, NAN, rng.random((B, T)) < 0.4).astype(np.float32)
    if B > 1:  # what tells the mistakes apart: a seen positive, a seen negative and a gap in the first task
        labels[:3, 0] = 1, 0, NAN
    if unlabelled:
        labels[:, -1] = NAN
    return Draw({"logits": (2 * rng.normal(size=(B, T))).astype(np.float32), "labels": labels})


MASKED_BCE = Exercise(
    id="1.1",
    title="the loss of each task over its observed labels",
    how="function",
    reference=masked_bce,
    shape="(T,)",
    grads=["logits"],
    example=Trial(
        "three users, two tasks, one label unobserved: logits of 0 cost log 2 (worked by hand)",
        {
            "logits": np.array([[0, 0], [0, np.log(3)], [0, 0]], np.float32),
            "labels": np.array([[1, 1], [0, 1], [1, NAN]], np.float32),
        },
        grads=["logits"],
        want={"out": np.array([np.log(2), (np.log(2) + np.log(4 / 3)) / 2])},
    ),
    draw=_bce_draw,
    sizes=ONE_ROW_ONE_TASK | {"a task that nobody labelled": {"unlabelled": True}},
    mistakes={
        "the mean runs over all B rows, the unobserved ones too. How many labels of this task were observed?": (
            lambda z, y: (_bce(z, y)[0] * _bce(z, y)[1]).mean(0)
        ),
        "the losses are summed and not averaged. By what do you have to divide?": (
            lambda z, y: (_bce(z, y)[0] * _bce(z, y)[1]).sum(0)
        ),
        "an unobserved label counts as a 0. Is a row without a label a negative?": (
            lambda z, y: _bce(z, y)[0].mean(0)
        ),
        "the loss is NaN where a label is NaN: NaN times 0 is still NaN. When must the gap be filled?": (
            lambda z, y: (
                (F.binary_cross_entropy_with_logits(z, y, reduction="none") * ~y.isnan()).sum(0)
                / (~y.isnan()).sum(0).clamp(min=1)
            )
        ),
        "your mask is True everywhere: NaN is not equal to anything, not even to NaN. Which function finds NaN?": (
            lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none").mean(0)
        ),
        "the sigmoid is applied twice: once by you, once inside the loss. Which loss takes logits?": (
            lambda z, y: masked_bce(z.sigmoid(), y)
        ),
        "all tasks end in one number. Over which axis do you average, and which has to stay?": (
            lambda z, y: (_bce(z, y)[0] * _bce(z, y)[1]).sum() / _bce(z, y)[1].sum()
        ),
        "each task is divided by the observed labels of all tasks together. Whose labels belong to this mean?": (
            lambda z, y: (_bce(z, y)[0] * _bce(z, y)[1]).sum(0) / _bce(z, y)[1].sum().clamp(min=1)
        ),
        "the mean runs over the tasks of each row (axis 1). Which axis holds the rows?": (
            lambda z, y: (_bce(z, y)[0] * _bce(z, y)[1]).sum(1) / _bce(z, y)[1].sum(1).clamp(min=1)
        ),
        "the sign is turned: the loss falls as the guess gets worse. What is the sign of a log-likelihood?": (
            lambda z, y: -masked_bce(z, y)
        ),
        "only positive labels cost something. What does the model pay for a high score on a negative?": (
            lambda z, y: (
                (-F.logsigmoid(z) * y.nan_to_num() * ~y.isnan()).sum(0) / (~y.isnan()).sum(0).clamp(min=1)
            )
        ),
        "a task without any observed label gives 0/0 = NaN, which would spoil the whole sum. "
        "What should such a task cost?": (
            lambda z, y: (_bce(z, y)[0] * _bce(z, y)[1]).sum(0) / _bce(z, y)[1].sum(0)
        ),
        "the loss is one number for the whole table before your mask comes: `reduction` is missing. How do you get a "
        "loss for every cell?": lambda z, y: (
            (F.binary_cross_entropy_with_logits(z, y.nan_to_num()) * ~y.isnan()).sum(0)
            / (~y.isnan()).sum(0).clamp(min=1)
        ),
        "the mask is turned around: only the unobserved cells are averaged. Which cells does `isnan` mark?": (
            lambda z, y: (_bce(z, y)[0] * y.isnan()).sum(0) / y.isnan().sum(0).clamp(min=1)
        ),
        "the mask is turned around, so NaN goes into the loss and the labels stay out. Which cells does `isnan` mark?": (
            _inverted
        ),
        "the squared error of the probability is averaged, not the cross-entropy. Which loss does the text ask for?": (
            lambda z, y: (
                ((z.sigmoid() - y.nan_to_num()).square() * ~y.isnan()).sum(0)
                / (~y.isnan()).sum(0).clamp(min=1)
            )
        ),
    },
    also_right=[
        _bce_loop,
        lambda z, y: (
            (F.softplus(z) - z * y.nan_to_num()).masked_fill(y.isnan(), 0).sum(0)
            / (~y.isnan()).sum(0).clamp(min=1)
        ),
        lambda z, y: torch.nan_to_num(torch.where(y.isnan(), torch.nan, _bce(z, y)[0]).nanmean(0)),
        lambda z, y: masked_bce(z.double(), y.double()),
        lambda z, y: F.binary_cross_entropy_with_logits(
            z, y.nan_to_num(), weight=(~y.isnan()) / (~y.isnan()).sum(0).clamp(min=1), reduction="none"
        ).sum(0),
    ],
)
