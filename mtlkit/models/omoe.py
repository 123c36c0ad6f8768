"""OMoE: one-gate mixture of experts (Ma et al., KDD 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtlkit.layers import Experts, Gates, Towers, mix


class OMoE(nn.Module):
    """All tasks read the same mixture of shared experts.   x (B, D) -> logits (B, T)

    MMoE paper (Ma et al., KDD 2018) section 4, Eq. 5: MMoE's own baseline. In the picture of the
    series: experts that belong to all tasks, and a single gate that sees them all.
    ``experts`` networks of hidden widths ``expert``, ``tower`` the hidden widths of a tower; ReLU after each.
    """

    def __init__(
        self,
        in_width: int,
        tasks: int,
        experts: int = 8,
        expert: Sequence[int] = (16,),
        tower: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.tasks = tasks
        self.experts = Experts(in_width, experts, expert)
        self.gates = Gates(in_width, 1, experts)
        self.towers = Towers(expert[-1], tasks, tower)

    def forward(self, x: Tensor) -> Tensor:
        # Eq. 5: f(x) = sum_i g(x)_i f_i(x), the gate linear as in Eq. 8
        f = mix(self.gates(x), self.experts(x))  # (B, 1, H)
        # y_k = h^k(f(x))
        return self.towers(f.expand(-1, self.tasks, -1))  # (B, T)
