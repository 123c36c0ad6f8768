"""AdaTT: adaptive task-to-task fusion (Li et al., KDD 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlkit.layers import Towers
from mtlkit.models.cgc import Level, count_experts


class FusionLevel(Level):
    """Each unit fuses all experts by its gate, and adds its native ones.   (B, D) or (B, M, D) -> (B, G, H)

    ``native`` holds the vectors v_t of the G units that fuse, one after the other; an entry per expert.
    Where every module has one expert, the weight is 1 and there is nothing to learn.
    """

    def __init__(
        self,
        in_width: int,
        experts: Sequence[int],
        expert: Sequence[int],
        gates: int,
        expert_norm: bool = False,
    ) -> None:
        everything = torch.ones(gates, sum(experts), device="cpu")
        super().__init__(in_width, experts, expert, everything, expert_norm)
        fusing = list(experts[:gates])
        unit = torch.arange(gates, device="cpu").repeat_interleave(torch.tensor(fusing, device="cpu"))
        place = unit * sum(experts) + torch.arange(len(unit), device="cpu")
        self.register_buffer("place", place, persistent=False)  # of v_t's entries in a (G, E) matrix
        if max(experts) > 1:
            # the authors' code: uniform in +-1/sqrt(m_t)
            starts = [nn.init.uniform_(torch.empty(m), -1, 1) / math.sqrt(m) for m in fusing]
            self.native = nn.Parameter(torch.cat(starts))
        else:
            self.register_buffer("native", torch.ones(gates), persistent=False)

    def weights(self, x: Tensor) -> Tensor:
        """What each unit gives to each expert, its residual included.   -> (B, G, E)"""
        # G_t = softmax(W_t f_t), over all experts
        g = super().weights(x)  # (B, G, E)
        padded = g.new_zeros(g.shape[1:].numel()).index_copy(0, self.place, self.native.to(g.dtype))
        # Eq. 11: f_t = (pad(v_t^T) + G_t^T) E, computed for all units at once
        return g + padded.view(g.shape[1:])  # (B, G, E)


class AdaTT(nn.Module):
    """Each task fuses all tasks' experts and adds its own, on every level.   x (B, D) -> logits (B, T)

    "AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in Recommendations" (KDD 2023). In the
    picture of the series: experts that belong to a task; every gate sees all of them, and a learned vector
    that does not look at x adds the task's own. Each unit (experts, gate) reads its own output of the level
    below. ``shared_experts`` form a unit more, which has no gate on the last level; 0 gives AdaTT-sp.

    ``task_experts`` for each task (a number, or one per task; at least one) on each level, ``levels`` the
    hidden widths of one expert, level by level, ``tower`` the hidden widths of a tower; ReLU after each.
    The gates have no bias, as in the paper; the authors' code has one. ``expert_norm=True`` is the AdaTT* of
    the HoME paper: with its experts.
    """

    def __init__(
        self,
        in_width: int,
        tasks: int,
        shared_experts: int = 1,
        task_experts: int | Sequence[int] = 2,
        levels: Sequence[Sequence[int]] = ((16,), (16,)),
        tower: Sequence[int] = (),
        expert_norm: bool = False,
    ) -> None:
        super().__init__()
        if not levels:
            raise ValueError("AdaTT needs at least one level: levels=[[64], [32]] gives two.")
        experts = count_experts(tasks, shared_experts, task_experts)
        if 0 in experts:
            raise ValueError(f"AdaTT: task {experts.index(0)} has no expert of its own to add.")
        inputs = [in_width, *(widths[-1] for widths in levels)]
        gates = [len(experts)] * (len(levels) - 1) + [tasks]
        self.levels = nn.ModuleList(
            FusionLevel(a, experts, widths, n, expert_norm)
            for a, widths, n in zip(inputs, levels, gates, strict=False)
        )
        self.towers = Towers(inputs[-1], tasks, tower)

    def forward(self, x: Tensor) -> Tensor:
        f = x  # f_t^0(x) = x for every unit
        for level in self.levels:
            f = level(f)  # (B, T + 1, H), on the last level (B, T, H)
        # y_t = h_t(f_t^L(x))
        return self.towers(f)  # (B, T)
