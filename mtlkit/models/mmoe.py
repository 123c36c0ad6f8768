"""MMoE: multi-gate mixture of experts (Ma et al., KDD 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtlkit.layers import Experts, Gates, Towers, mix


class MMoE(nn.Module):
    """Each task mixes the shared experts by a gate of its own.   x (B, D) -> logits (B, T)

    "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts" (KDD 2018).
    In the picture of the series: experts that belong to all tasks, and a gate per task that sees them all.
    ``experts`` networks of hidden widths ``expert``, ``tower`` the hidden widths of a tower; ReLU after each.

    ``gate_hidden`` puts hidden ReLU layers of these widths into every gate. This deviates from the paper,
    whose gates are linear in the input (Eq. 8); FunRec, FuxiCTR and DeepCTR have such gates by default.
    ``expert_norm=True`` is the MMoE* of the HoME paper: with its experts, Swish(BatchNorm(MLP)).
    """

    def __init__(
        self,
        in_width: int,
        tasks: int,
        experts: int = 8,
        expert: Sequence[int] = (16,),
        tower: Sequence[int] = (),
        gate_hidden: Sequence[int] = (),
        expert_norm: bool = False,
    ) -> None:
        super().__init__()
        self.experts = Experts(in_width, experts, expert, norm=expert_norm)
        self.gate_hidden = Experts(in_width, tasks, gate_hidden) if gate_hidden else nn.Identity()
        self.gates = Gates(gate_hidden[-1] if gate_hidden else in_width, tasks, experts)
        self.towers = Towers(expert[-1], tasks, tower)

    def forward(self, x: Tensor) -> Tensor:
        # Eq. 8: g^k(x) = softmax(W_gk x)
        g = self.gates(self.gate_hidden(x))  # (B, T, E)
        # Eq. 7: f^k(x) = sum_i g^k(x)_i f_i(x)
        f = mix(g, self.experts(x))  # (B, T, H)
        # Eq. 6: y_k = h^k(f^k(x))
        return self.towers(f)  # (B, T)
