"""ML-MMoE: MMoE in several levels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtlkit.layers import Experts, Gates, Towers, mix


class MLMMoE(nn.Module):
    """MMoE stacked: an expert of the next level reads a mixture of its own.   x (B, D) -> logits (B, T)

    A baseline of SNR (Ma et al., AAAI 2019) and of PLE (Tang et al., RecSys 2020). Every gate, of
    every level, reads the raw input x; only the experts read the level below. With one level it is MMoE.
    ``experts`` networks on each level; ``levels`` holds the hidden widths of one expert, level by level.
    """

    def __init__(
        self,
        in_width: int,
        tasks: int,
        experts: int = 8,
        levels: Sequence[Sequence[int]] = ((16,), (16,)),
        tower: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if not levels:
            raise ValueError("ML-MMoE needs at least one level: levels=[[64], [32]] gives two.")
        inputs = [in_width, *(widths[-1] for widths in levels)]
        readers = [experts] * (len(levels) - 1) + [tasks]  # who mixes a level: the next experts, or the tasks
        self.levels = nn.ModuleList(Experts(a, experts, w) for a, w in zip(inputs, levels, strict=False))
        self.gates = nn.ModuleList(Gates(in_width, n, experts) for n in readers)
        self.towers = Towers(inputs[-1], tasks, tower)

    def forward(self, x: Tensor) -> Tensor:
        z = x
        for experts, gates in zip(self.levels, self.gates, strict=True):
            # MMoE Eq. 7 with a mixture per reader: z_r = sum_i softmax(W_r x)_i f_i(z_i)
            z = mix(gates(x), experts(z))  # (B, E, H), on the last level (B, T, H)
        return self.towers(z)  # (B, T)
