"""CGC: customized gate control (Tang et al., RecSys 2020), the one-level form of PLE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlkit.layers import Experts, Gates, Towers, mix


def count_experts(tasks: int, shared_experts: int, task_experts: int | Sequence[int]) -> list[int]:
    """How many experts each module has: one module per task, then the shared one unless it is empty.

    ``task_experts`` is the number for every task, or a number for each.
    Raises ``ValueError`` where the numbers do not fit or a task would see no expert.
    """
    own = [task_experts] * tasks if isinstance(task_experts, int) else list(task_experts)
    if len(own) != tasks:
        raise ValueError(f"task_experts={own} has {len(own)} numbers for {tasks} tasks.")
    if min([shared_experts, *own]) < 0:
        raise ValueError(f"task_experts={own}, shared_experts={shared_experts}: a number is negative.")
    if not shared_experts and 0 in own:
        raise ValueError(f"Task {own.index(0)} has no expert of its own, and there is no shared one.")
    return [*own, shared_experts] if shared_experts else own


def own_and_shared(experts: Sequence[int], tasks: int, shared_gate: bool = False) -> Tensor:
    """Who sees whom: a task its own and the shared experts, the shared gate all.   -> (G, E) boolean

    ``experts`` as ``count_experts`` gives them. G = T, or T + 1 with ``shared_gate``. The experts stand in
    the order of the modules, so a task finds its own first, then the shared ones (PLE paper Eq. 4).
    """
    module = torch.arange(len(experts), device="cpu")
    owner = module.repeat_interleave(torch.tensor(experts, device="cpu"))  # (E,)
    visible = (owner == module[:tasks, None]) | (owner == tasks)  # (T, E)
    return torch.cat([visible, torch.ones_like(visible[:1])]) if shared_gate else visible


class Level(nn.Module):
    """Modules of experts, and gates that see some of them.   x (B, D) or (B, M, D) -> (B, G, H)

    The PLE paper's "extraction network". Module m has ``experts[m]`` networks of hidden widths ``expert``,
    ReLU after each, or HoME's (``expert_norm``); ``visible`` (G, E) says which gate sees which expert. All M
    modules read one x (B, D), or each its own row of (B, M, D), and so does a module's gate. With fewer gates
    than modules the last modules have none.
    """

    def __init__(
        self,
        in_width: int,
        experts: Sequence[int],
        expert: Sequence[int],
        visible: Tensor,
        expert_norm: bool = False,
    ) -> None:
        super().__init__()
        self.experts = Experts(in_width, experts, expert, norm=expert_norm)
        self.gates = Gates(in_width, *visible.shape, visible)

    def weights(self, x: Tensor) -> Tensor:
        """What each gate gives to each expert.   -> (B, G, E)"""
        if x.dim() == 3 and x.shape[1] > self.gates.gates:
            x = x[:, : self.gates.gates]
        # Eq. 3: w^k(x) = Softmax(W_g^k x)
        return self.gates(x)  # (B, G, E)

    def forward(self, x: Tensor) -> Tensor:
        # Eq. 4: S^k(x), the own experts and the shared ones; Eq. 2: g^k(x) = w^k(x) S^k(x)
        return mix(self.weights(x), self.experts(x))  # (B, G, H)


class CGC(Level):
    """Each task mixes experts of its own and shared ones.   x (B, D) -> logits (B, T)

    "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized
    Recommendations" (RecSys 2020), section 4.1. In the picture of the series: experts that belong to a task
    or to all; a task's gate sees its own and the shared ones. Without ``task_experts`` it is MMoE.

    ``shared_experts`` for all and ``task_experts`` for each task (a number, or one per task), networks of
    hidden widths ``expert``; ``tower`` the hidden widths of a tower; ReLU after each. The paper tunes the
    numbers of experts and prints none. ``expert_norm=True`` is the CGC* of the HoME paper: with its experts.
    """

    def __init__(
        self,
        in_width: int,
        tasks: int,
        shared_experts: int = 2,
        task_experts: int | Sequence[int] = 2,
        expert: Sequence[int] = (16,),
        tower: Sequence[int] = (),
        expert_norm: bool = False,
    ) -> None:
        experts = count_experts(tasks, shared_experts, task_experts)
        super().__init__(in_width, experts, expert, own_and_shared(experts, tasks), expert_norm)
        self.towers = Towers(expert[-1], tasks, tower)

    def forward(self, x: Tensor) -> Tensor:
        # Eq. 5: y^k(x) = t^k(g^k(x))
        return self.towers(super().forward(x))  # (B, T)
