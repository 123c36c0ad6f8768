"""SNR: sub-network routing (Ma et al., AAAI 2019), with transformations or with averages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit.layers import Experts, Towers, mix


class Connections(nn.Module):
    """The on/off connections between two levels, a hard concrete gate each.   u (B, E, H) -> (B, R, H)

    E sub-networks of one level, R readers on the next. The coding variables z (R, E) are drawn anew at
    every call in training, so once per mini-batch; in evaluation they are the deterministic estimate.
    SNR paper (AAAI 2019); Louizos et al., "Learning Sparse Neural Networks through L0 Regularization"
    (ICLR 2018) Eq. 10-13, with its values of beta, gamma, zeta. ``transform`` puts an H x H matrix on each.
    """

    def __init__(
        self,
        readers: int,
        experts: int,
        width: int,
        transform: bool,
        beta: float,
        gamma: float,
        zeta: float,
    ) -> None:
        super().__init__()
        if not (beta > 0 and gamma < 0 and zeta > 1):
            raise ValueError(f"SNR needs beta > 0, gamma < 0 and zeta > 1, got {beta}, {gamma}, {zeta}.")
        self.beta, self.gamma, self.zeta = beta, gamma, zeta
        self.log_alpha = nn.Parameter(torch.empty(readers, experts))
        nn.init.normal_(self.log_alpha, std=0.01)
        self.matrices = None
        if transform:
            self.matrices = nn.Parameter(torch.empty(readers, width, experts, width))
            bound = 1 / math.sqrt(experts * width)
            nn.init.uniform_(self.matrices, -bound, bound)

    def code(self) -> Tensor:
        """The coding variables z, sampled in training.   () -> (R, E)"""
        if self.training:
            u = torch.rand_like(self.log_alpha)
            # s = sigmoid((log u - log(1 - u) + log alpha) / beta), u ~ U(0, 1)
            s = ((torch.logit(u, eps=1e-6) + self.log_alpha) / self.beta).sigmoid()
        else:
            s = self.log_alpha.sigmoid()
        # z = min(1, max(0, s (zeta - gamma) + gamma))
        return (s * (self.zeta - self.gamma) + self.gamma).clamp(0, 1)  # (R, E)

    def open_probability(self) -> Tensor:
        """P(z > 0) of every connection in training.   () -> (R, E)"""
        # 1 - Q(s < 0) = sigmoid(log alpha - beta log(-gamma / zeta))
        return (self.log_alpha - self.beta * math.log(-self.gamma / self.zeta)).sigmoid()

    def forward(self, u: Tensor) -> Tensor:
        z = self.code()  # (R, E)
        if self.matrices is None:
            # SNR-Aver: v_i = sum_j z_ij u_j
            return mix(z.expand(u.shape[0], -1, -1), u)  # (B, R, H)
        # SNR-Trans: v_i = sum_j z_ij W_ij u_j, one product with the blocks z_ij W_ij side by side
        blocks = z[:, None, :, None] * self.matrices  # (R, H, E, H)
        v = F.linear(u.flatten(1), blocks.flatten(0, 1).flatten(1))  # (B, R*H)
        return v.unflatten(1, blocks.shape[:2])  # (B, R, H)


class SNRAver(nn.Module):
    """Levels of sub-networks, routed by learned on/off connections.   x (B, D) -> logits (B, T)

    "SNR: Sub-Network Routing for Flexible Parameter Sharing in Multi-Task Learning" (AAAI 2019), the form
    that adds sub-network outputs up. In the picture of the series: experts + gates, where a gate is a row of
    z, the same for all rows of x; the boolean matrix is learned. Every z = 1 is Shared-Bottom.

    ``experts`` sub-networks on each level; ``levels`` holds the hidden widths of one, level by level.
    Add ``penalty()`` to the loss: ``l0`` times the expected number of open connections.
    """

    transform = False

    def __init__(
        self,
        in_width: int,
        tasks: int,
        experts: int = 8,
        levels: Sequence[Sequence[int]] = ((16,), (16,)),
        tower: Sequence[int] = (),
        l0: float = 1e-4,
        beta: float = 2 / 3,
        gamma: float = -0.1,
        zeta: float = 1.1,
    ) -> None:
        super().__init__()
        if not levels:
            raise ValueError("SNR needs at least one level: levels=[[64], [32]] gives two.")
        inputs = [in_width, *(widths[-1] for widths in levels)]
        readers = [experts] * (len(levels) - 1) + [tasks]  # who reads a level: the next one, or the tasks
        self.levels = nn.ModuleList(Experts(a, experts, w) for a, w in zip(inputs, levels, strict=False))
        self.connections = nn.ModuleList(
            Connections(n, experts, width, self.transform, beta, gamma, zeta)
            for n, width in zip(readers, inputs[1:], strict=True)
        )
        self.towers = Towers(inputs[-1], tasks, tower)
        self.l0 = l0

    def forward(self, x: Tensor) -> Tensor:
        v = x
        for experts, connections in zip(self.levels, self.connections, strict=True):
            v = connections(experts(v))  # (B, E, H), on the last level (B, T, H)
        return self.towers(v)  # (B, T)

    def penalty(self) -> Tensor:
        """What to add to the loss (a scalar)."""
        # lambda sum_ij (1 - Q(s_ij < 0))
        return self.l0 * sum(part.open_probability().sum() for part in self.connections)


class SNRTrans(SNRAver):
    """SNR with a learned matrix on every connection.   x (B, D) -> logits (B, T)

    The paper, the arguments and the penalty of ``SNRAver``.
    """

    transform = True
