"""What happens inside a trained model, as numbers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def gradient_cosine(losses: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Cosine between the gradients of every pair of tasks on shared parameters.   (T,) -> (T, T)

    Below zero two tasks pull the shared part in opposite directions (a conflict), near zero they do not
    touch each other, near one they agree. A task without a gradient (no observed label in the batch) has
    NaN in its row and column. The graph of ``losses`` is kept, so a training step can follow.
    Source: the usual diagnosis of negative transfer, e.g. Yu et al., NeurIPS 2020, Definition 1.
    """
    shared = list(parameters)
    rows = []
    for loss in losses:
        grads = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        pairs = zip(shared, grads, strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs]))
    g = torch.stack(rows)  # (T, P)
    g = g / g.norm(dim=1, keepdim=True)  # 0 / 0 = NaN marks a task without a gradient
    return g @ g.T  # (T, T)
