"""Losses over the union of the tasks' sample spaces: an unobserved label costs nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlkit.data.table import Kind


def task_losses(logits: Tensor, labels: Tensor, kinds: Sequence[Kind]) -> Tensor:
    """The loss of each task, averaged over its observed labels.   (B, T), (B, T) -> (T,)

    Binary tasks: cross-entropy of the logit. Regression tasks: squared error of the raw output.
    A label of NaN is unobserved and masked; a task without any observed label in the batch has loss 0.
    Source: PLE paper (Tang et al., RecSys 2020) Eq. 9, the union of the tasks' sample spaces, with the batch
    for the samples.
    Raises ``ValueError`` for shapes that differ, or kinds that are not T times "binary" or "regression".
    """
    if logits.shape != labels.shape or logits.dim() != 2:
        raise ValueError(
            f"task_losses: logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must both be (B, T)."
        )
    if len(kinds) != logits.shape[1] or not set(kinds) <= {"binary", "regression"}:
        raise ValueError(
            f"task_losses: kinds must name 'binary' or 'regression' for each of {logits.shape[1]} tasks, got "
            f"{kinds!r}."
        )
    seen = ~labels.isnan()
    target = torch.where(seen, labels, torch.zeros_like(labels))  # keeps NaN out of the gradient
    binary = [kind == "binary" for kind in kinds]
    if all(binary):
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")  # (B, T)
    elif not any(binary):
        each = (logits - target).square()  # (B, T)
    else:
        is_binary = torch.tensor(binary, device=logits.device)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        each = torch.where(is_binary, cross_entropy, (logits - target).square())  # (B, T)
    return (each * seen).sum(dim=0) / seen.sum(dim=0).clamp(min=1)  # (T,)


@dataclass(frozen=True)
class TaskWeights:
    """Weights of the task losses that change in training: omega_k^(t) = omega_k,0 * gamma_k^t.

    ``start`` holds omega_k,0 and ``ratio`` gamma_k by task name, 1 for a task that is not named. t counts
    what ``unit`` says, from 0 on: the paper updates the weights after each step and calls t the epoch.
    Source: PLE paper (Tang et al., RecSys 2020) Eq. 10, which prints no values.
    Raises ``ValueError`` for a weight below 0, a ratio that is not above 0, or another unit.
    """

    start: Mapping[str, float] = field(default_factory=dict)
    ratio: Mapping[str, float] = field(default_factory=dict)
    unit: Literal["epoch", "step"] = "epoch"

    def __post_init__(self) -> None:
        if self.unit not in ("epoch", "step"):
            raise ValueError(f"TaskWeights: unit must be 'epoch' or 'step', got {self.unit!r}.")
        for name, numbers in (("weight", self.start), ("ratio", self.ratio)):
            for task, value in numbers.items():
                good = isinstance(value, Real) and 0 <= value < math.inf
                if not good or (name == "ratio" and value == 0):
                    raise ValueError(f"TaskWeights: task {task!r} cannot have the {name} {value!r}.")

    def at(self, tasks: Sequence[str], epoch: int, step: int) -> list[float]:
        """The weights after ``epoch`` finished epochs or ``step`` finished steps.   -> T numbers

        Raises ``ValueError`` where a name is not among ``tasks``.
        """
        unknown = [name for name in {**self.start, **self.ratio} if name not in tasks]
        if unknown:
            raise ValueError(f"TaskWeights: no task {unknown[0]!r}; the tasks are {', '.join(tasks)}.")
        t = epoch if self.unit == "epoch" else step
        # Eq. 10: omega_k^(t) = omega_k,0 * gamma_k^t
        return [self.start.get(k, 1.0) * self.ratio.get(k, 1.0) ** t for k in tasks]
