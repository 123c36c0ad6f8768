"""Cross-Stitch networks (Misra et al., CVPR 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlkit.layers import Experts, Towers, mix


class CrossStitch(nn.Module):
    """A network per task; after each layer every task reads a blend of all.   x (B, D) -> logits (B, T)

    Misra et al., "Cross-stitch Networks for Multi-task Learning" (CVPR 2016) Eq. 1, for T tasks: a T x T
    matrix after every hidden layer of the bottoms, the same for all rows. In the picture of the series: an
    expert per task, and a gate per task that sees all of them, without softmax and without a look at x.

    A stitch starts near the identity, as in the paper (same-task values large, cross-task values small):
    ``own`` on the diagonal, the rest of 1 - ``own`` spread over the other tasks. Give the ``stitches`` a
    learning rate of their own where you can; the paper's is far larger than the network's.
    """

    def __init__(
        self,
        in_width: int,
        tasks: int,
        bottom: Sequence[int],
        tower: Sequence[int] = (),
        own: float = 0.9,
    ) -> None:
        super().__init__()
        widths = [in_width, *bottom]
        self.bottoms = nn.ModuleList(Experts(a, tasks, [b]) for a, b in zip(widths, bottom, strict=False))
        start = torch.full((tasks, tasks), (1 - own) / max(tasks - 1, 1)).fill_diagonal_(own)
        self.stitches = nn.ParameterList(start.clone() for _ in bottom)
        self.towers = Towers(widths[-1], tasks, tower)

    def forward(self, x: Tensor) -> Tensor:
        for layer, stitch in zip(self.bottoms, self.stitches, strict=True):
            h = layer(x)  # (B, T, h)
            # Eq. 1: x~_j = sum_k alpha_jk x_k
            x = mix(stitch.expand(h.shape[0], -1, -1), h)  # (B, T, h)
        return self.towers(x)  # (B, T)
