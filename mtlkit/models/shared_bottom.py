"""Shared-Bottom (Caruana 1997)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtlkit.layers import Experts, Towers


class SharedBottom(nn.Module):
    """One bottom for all tasks, one tower per task.   x (B, D) -> logits (B, T)

    Caruana, "Multitask Learning", Machine Learning 28 (1997); MMoE paper (Ma et al., KDD 2018) Eq. 1.
    In the picture of the series: one expert that belongs to all tasks, and no gate.
    ``bottom`` and ``tower`` are the hidden widths, ReLU after each.
    """

    def __init__(self, in_width: int, tasks: int, bottom: Sequence[int], tower: Sequence[int] = ()) -> None:
        super().__init__()
        self.tasks = tasks
        self.bottom = Experts(in_width, 1, bottom)
        self.towers = Towers(bottom[-1], tasks, tower)

    def forward(self, x: Tensor) -> Tensor:
        # Eq. 1: y_k = h^k(f(x))
        f = self.bottom(x)  # (B, 1, H)
        return self.towers(f.expand(-1, self.tasks, -1))  # (B, T)
