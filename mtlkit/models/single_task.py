"""Single-Task: the baseline that shares nothing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtlkit.layers import Experts, Towers


class SingleTask(nn.Module):
    """A separate network for each task, trained side by side.   x (B, D) -> logits (B, T)

    The baseline of every table of the MMoE and PLE papers. In the picture of the series: an expert per
    task that only its owner sees. ``bottom`` and ``tower`` are the hidden widths, ReLU after each.
    ``private_inputs`` asks ``Recommender`` for an embedding table per task, so that nothing is shared at all.
    """

    private_inputs = True

    def __init__(self, in_width: int, tasks: int, bottom: Sequence[int], tower: Sequence[int] = ()) -> None:
        super().__init__()
        self.bottoms = Experts(in_width, tasks, bottom)
        self.towers = Towers(bottom[-1], tasks, tower)

    def forward(self, x: Tensor) -> Tensor:
        # y_k = h^k(f_k(x)); x is (B, D), or (B, T, D) where each task has its own embeddings
        f = self.bottoms(x)  # (B, T, H)
        return self.towers(f)  # (B, T)
