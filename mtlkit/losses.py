"""Losses over the union of the tasks' sample spaces: an unobserved label costs nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mtlkit.data.table import Kind


def task_losses(logits: Tensor, labels: Tensor, kinds: Sequence[Kind]) -> Tensor:
    """The loss of each task, averaged over its observed labels.   (B, T), (B, T) -> (T,)

    Binary tasks: cross-entropy of the logit. Regression tasks: squared error of the raw output.
    A label of NaN is unobserved and masked; a task without any observed label in the batch has loss 0.
    Source: PLE paper (Tang et al., RecSys 2020) Eq. 8-9, the union of the tasks' sample spaces.
    """
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
