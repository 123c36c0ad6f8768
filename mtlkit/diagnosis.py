"""What happens inside a trained model, as numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mtlkit.layers import Gates


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


def gate_weights(model: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """The weights that each gate of ``model`` gives to its experts for these inputs.   -> name: (B, G, E)

    The names are those of ``model.named_modules()``: "gates" in an MMoE, "body.gates" in a Recommender
    around it. A model without gates gives an empty dictionary. Nothing is trained and no mode is changed.
    """
    found: dict[str, Tensor] = {}
    handles = [
        part.register_forward_hook(lambda _part, _given, out, name=name: found.__setitem__(name, out))
        for name, part in model.named_modules()
        if isinstance(part, Gates)
    ]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


class ExpertUse(NamedTuple):
    """mean (G, E): the mean weight of each expert. entropy (G,): how undecided a gate is, in nats."""

    mean: Tensor
    entropy: Tensor


def expert_use(weights: Tensor) -> ExpertUse:
    """Who uses which expert.   gate weights (B, G, E) -> mean (G, E), entropy (G,)

    The entropy is that of one row, averaged over the rows: log E where a gate always takes equal shares,
    0 where it always picks one expert, whichever it is.
    """
    return ExpertUse(weights.mean(dim=0), torch.special.entr(weights).sum(dim=2).mean(dim=0))
