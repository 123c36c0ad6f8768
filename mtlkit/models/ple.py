"""PLE: progressive layered extraction (Tang et al., RecSys 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtlkit.layers import Towers
from mtlkit.models.cgc import Level, count_experts, own_and_shared


class PLE(nn.Module):
    """CGC in levels; each module reads its own mixture of the level below.   x (B, D) -> logits (B, T)

    "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized
    Recommendations" (RecSys 2020), section 4.2. In the picture of the series: the experts of CGC on every
    level; a task's gate sees its own and the shared ones, and below the last level a shared gate sees all: it
    mixes what the shared module of the next level reads. With one level it is CGC.

    ``shared_experts`` and ``task_experts`` as in ``CGC``, on each level; ``levels`` holds the hidden widths
    of one expert, level by level (the paper's experiments have two levels of single-layer experts).
    ``expert_norm=True`` is the PLE* of the HoME paper: with its experts.
    """

    def __init__(
        self,
        in_width: int,
        tasks: int,
        shared_experts: int = 2,
        task_experts: int | Sequence[int] = 2,
        levels: Sequence[Sequence[int]] = ((16,), (16,)),
        tower: Sequence[int] = (),
        expert_norm: bool = False,
    ) -> None:
        super().__init__()
        if not levels:
            raise ValueError("PLE needs at least one level: levels=[[64], [32]] gives two.")
        experts = count_experts(tasks, shared_experts, task_experts)
        inputs = [in_width, *(widths[-1] for widths in levels)]
        # without shared experts nobody would read the shared gate
        shared = [shared_experts > 0] * (len(levels) - 1) + [False]
        self.levels = nn.ModuleList(
            Level(a, experts, widths, own_and_shared(experts, tasks, gate), expert_norm)
            for a, widths, gate in zip(inputs, levels, shared, strict=False)
        )
        self.towers = Towers(inputs[-1], tasks, tower)

    def forward(self, x: Tensor) -> Tensor:
        g = x  # g^{k,0}(x) = x for every module
        for level in self.levels:
            # Eq. 6: g^{k,j}(x) = w^{k,j}(g^{k,j-1}(x)) S^{k,j}(x), k a task or the shared module
            g = level(g)  # (B, T + 1, H), on the last level (B, T, H)
        # Eq. 7: y^k(x) = t^k(g^{k,N}(x))
        return self.towers(g)  # (B, T)
