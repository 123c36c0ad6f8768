"""Exercise 3.7: PLE's joint loss, over the union of sample spaces and with weights that change."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from autograde_tests.exercise import ONE_ROW_ONE_TASK, Draw, Exercise, Trial, some


def joint_loss(logits, labels, start, ratio, epoch):
    seen = ~labels.isnan()
    each = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
    losses = (each * seen).sum(dim=0) / seen.sum(dim=0).clamp(min=1)  # (T,)
    return (start * ratio**epoch * losses).sum()


def _each(z, y):
    return F.binary_cross_entropy_with_logits(z, y.nan_to_num(), reduction="none")


def _losses(z, y):
    seen = ~y.isnan()
    return (_each(z, y) * seen).sum(0) / seen.sum(0).clamp(min=1)


def _weighted(weights):
    """joint_loss with other weights: weights(start, ratio, epoch) -> (T,)."""
    return lambda z, y, start, ratio, epoch: (weights(start, ratio, epoch) * _losses(z, y)).sum()


def _other(losses):
    """joint_loss with other task losses: losses(z, y) -> (T,)."""
    return lambda z, y, start, ratio, epoch: (start * ratio**epoch * losses(z, y)).sum()


def _intersection(z, y):
    rows = ~y.isnan().any(1)
    return _each(z, y)[rows].sum(0) / rows.sum().clamp(min=1)


def _loop(z, y, start, ratio, epoch):
    total = z.sum() * 0
    for t in range(z.shape[1]):
        known = ~torch.isnan(y[:, t])
        if known.any():
            loss = F.binary_cross_entropy(torch.sigmoid(z[known, t].double()), y[known, t].double())
            total = total + float(start[t]) * float(ratio[t]) ** epoch * loss
    return total


def _loss_draw(rng, B=None, T=None, empty=False):
    B, T = some(rng, B, T)
    B = max(B, 6) if B > 1 else B
    labels = rng.integers(0, 2, size=(B, T)).astype(np.float32)
    hidden = rng.random(size=(B, T)) < 0.4
    hidden[0] = False  # each task has a label,
    if B > 1:
        hidden[1, 0] = True  # some row has a gap,
        hidden[2:, -1] &= rng.random(B - 2) < 0.5  # and the gaps are not the same in all columns
    labels[hidden] = np.nan
    if empty:
        labels[:, -1] = np.nan
    return Draw(
        {
            "logits": rng.normal(size=(B, T)).astype(np.float32),
            "labels": labels,
            "start": rng.uniform(0.5, 3, size=T).astype(np.float32),
            "ratio": rng.uniform(0.6, 1.4, size=T).astype(np.float32),
            "epoch": int(rng.integers(3, 6)),
        }
    )


JOINT_LOSS = Exercise(
    id="3.7",
    title="the joint loss",
    how="function",
    reference=joint_loss,
    shape="()",
    grads=["logits"],
    example=Trial(
        "two users: like costs log 4 and log 16, click costs log 4 and has a gap; the weights after two epochs are "
        "4 and 1/4 (worked by hand)",
        {
            "logits": np.array([[-np.log(3), np.log(3)], [np.log(15), 1]], np.float32),
            "labels": np.array([[1, 0], [0, np.nan]], np.float32),
            "start": np.array([1, 1], np.float32),
            "ratio": np.array([2, 0.5], np.float32),
            "epoch": 2,
        },
        grads=["logits"],
        want={"out": np.array(4 * np.log(8) + np.log(4) / 4)},
    ),
    draw=_loss_draw,
    sizes=ONE_ROW_ONE_TASK | {"a task without any label": {"B": 7, "empty": True}},
    mistakes={
        # the sample spaces
        "every task is divided by all rows, the missing ones with them. How many samples has the space of task k?": (
            _other(lambda z, y: (_each(z, y) * ~y.isnan()).sum(0) / len(y))
        ),
        "all tasks are divided by the number of all known labels. How many samples has the space of task k?": (
            _other(lambda z, y: (_each(z, y) * ~y.isnan()).sum(0) / (~y.isnan()).sum())
        ),
        "only rows with all labels count: that is the intersection of the sample spaces. Which rows has the union?": (
            _other(_intersection)
        ),
        "a missing label counts as 0. A user who never saw the button: did she dislike it?": (
            _other(lambda z, y: _each(z, y).mean(0))
        ),
        "a missing label made everything NaN. Which number should stand in the gap before the loss?": _other(
            lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none").mean(0)
        ),
        "a missing label is masked after the loss, and NaN times 0 is NaN. Which number should stand in the gap before "
        "the loss?": _other(
            lambda z, y: (
                (F.binary_cross_entropy_with_logits(z, y, reduction="none") * ~y.isnan()).sum(0)
                / (~y.isnan()).sum(0).clamp(min=1)
            )
        ),
        "a task without any label is 0 / 0. What should such a task add?": _other(
            lambda z, y: (_each(z, y) * ~y.isnan()).sum(0) / (~y.isnan()).sum(0)
        ),
        "the NaN of a missing label is hidden after the loss (`where`, `nan_to_num` or `nansum`), but the gradient "
        "there is still NaN. Which number should stand in the gap before the loss?": _other(
            lambda z, y: (
                F.binary_cross_entropy_with_logits(z, y, reduction="none").nansum(0)
                / (~y.isnan()).sum(0).clamp(min=1)
            )
        ),
        "`nanmean` leaves out the missing labels after the loss: the gradient there is still NaN, and so is a task "
        "without any label. Which number should stand in the gap before the loss?": _other(
            lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none").nanmean(0)
        ),
        "a task without any label is the mean of no rows, which is NaN. What should such a task add?": _other(
            lambda z, y: torch.stack([_each(a, b)[~b.isnan()].mean() for a, b in zip(z.T, y.T, strict=True)])
        ),
        "a task without any label is 0 / 0, and `nansum`, `nan_to_num` or `where` hides the NaN in the loss, but not in its gradient. What "
        "can you divide by there?": lambda z, y, start, ratio, epoch: (
            start * ratio**epoch * ((_each(z, y) * ~y.isnan()).sum(0) / (~y.isnan()).sum(0))
        ).nansum(),
        'the loss is one mean over all labels: `reduction="none"` is missing. How many losses do you want: one, or one '
        "per label?": _other(
            lambda z, y: (
                (F.binary_cross_entropy_with_logits(z, y.nan_to_num()) * ~y.isnan()).sum(0)
                / (~y.isnan()).sum(0).clamp(min=1)
            )
        ),
        "the mask is turned: the gaps count, and the known labels do not. Where is `labels.isnan()` True?": _other(
            lambda z, y: (_each(z, y) * y.isnan()).sum(0) / y.isnan().sum(0).clamp(min=1)
        ),
        "the gaps are filled with 0, and their losses are still in the sum. What takes them out again?": _other(
            lambda z, y: _each(z, y).sum(0) / (~y.isnan()).sum(0).clamp(min=1)
        ),
        "the sum runs over the tasks (axis 1), a loss per user. Which axis counts the users, and has to go?": _other(
            lambda z, y: (_each(z, y) * ~y.isnan()).sum(1) / (~y.isnan()).sum(1).clamp(min=1)
        ),
        "the losses are added up, not averaged. Should a larger batch have a larger loss?": _other(
            lambda z, y: (_each(z, y) * ~y.isnan()).sum(0)
        ),
        "the loss takes logits, and you gave it probabilities. Where is the sigmoid already?": _other(
            lambda z, y: _losses(z.sigmoid(), y)
        ),
        "this is a squared error. Which loss fits a yes or no?": _other(
            lambda z, y: (
                ((z.sigmoid() - y.nan_to_num()).square() * ~y.isnan()).sum(0)
                / (~y.isnan()).sum(0).clamp(min=1)
            )
        ),
        # the weights
        "the weights do not change with the epoch. Where is gamma in Eq. 10?": _weighted(lambda s, r, t: s),
        "the starting weights are missing. Which argument holds them?": _weighted(lambda s, r, t: r**t),
        "there are no weights at all. What does Eq. 8 multiply a task's loss with?": _weighted(
            lambda s, r, t: torch.ones_like(s)
        ),
        "gamma is multiplied by the epoch. What does an exponent say?": _weighted(lambda s, r, t: s * r * t),
        "the whole product has the exponent. To what does the t of Eq. 10 belong?": _weighted(
            lambda s, r, t: (s * r) ** t
        ),
        "the starting weight has the exponent, not gamma. To what does the t of Eq. 10 belong?": _weighted(
            lambda s, r, t: s**t * r
        ),
        "the exponent is one too high. What is the weight in epoch 0?": _weighted(
            lambda s, r, t: s * r ** (t + 1)
        ),
        "the exponent is one too low. What is the weight in epoch 0?": _weighted(
            lambda s, r, t: s * r ** (t - 1)
        ),
        "the change is taken once, whatever the epoch. What is the weight in epoch 2?": _weighted(
            lambda s, r, t: s * r
        ),
        "you divide by gamma. In which direction does a ratio above 1 move the weight?": _weighted(
            lambda s, r, t: s / r**t
        ),
        "the change is exp(-gamma t). Which function of t stands in Eq. 10?": _weighted(
            lambda s, r, t: s * torch.exp(-r * t)
        ),
        "the weights are scaled so that they sum to 1. Does Eq. 8 ask for that?": _weighted(
            lambda s, r, t: s * r**t / (s * r**t).sum()
        ),
        "the weights go through a softmax. Does Eq. 8 ask for that?": _weighted(
            lambda s, r, t: (s * r**t).softmax(0)
        ),
        # the sum
        "the tasks are averaged, not added up. What does Eq. 8 do with the losses of the tasks?": (
            lambda z, y, s, r, t: (s * r**t * _losses(z, y)).mean()
        ),
        "the losses of the tasks are not added up. How many losses can `backward` start from?": (
            lambda z, y, s, r, t: s * r**t * _losses(z, y)
        ),
        "the loss has lost its graph (`item`, `float` or `detach`). What should `backward` follow?": (
            lambda z, y, s, r, t: joint_loss(z.detach(), y, s, r, t)
        ),
    },
    also_right=[
        _loop,
        _other(
            lambda z, y: (
                ((z.clamp(min=0) - z * y.nan_to_num() + (-z.abs()).exp().log1p()) * ~y.isnan()).sum(0)
                / (~y.isnan()).sum(0).clamp(min=1)
            )
        ),
        lambda z, y, s, r, t: torch.dot((s * r.pow(t)).to(z), _losses(z, y)),
        lambda z, y, s, r, t: joint_loss(z.double(), y.double(), s.double(), r.double(), t),
        _other(
            lambda z, y: torch.stack(
                [
                    F.binary_cross_entropy_with_logits(a[~b.isnan()], b[~b.isnan()], reduction="sum")
                    / max(1, int((~b.isnan()).sum()))
                    for a, b in zip(z.T, y.T, strict=True)
                ]
            )
        ),
        _other(
            lambda z, y: torch.nan_to_num(
                torch.where(y.isnan(), torch.nan, F.softplus(z) - z * y.nan_to_num()).nanmean(0)
            )
        ),
    ],
)
