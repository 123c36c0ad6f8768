"""The parts that every model of the series is built from.

One idea carries them: experts + gates + a boolean matrix that says which gate sees which expert.
Each part computes all experts, gates or tasks at once; there is no Python loop over them.

Letters: B batch, F fields, D input width, E experts, H expert width, G gates, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


class StackedLinear(nn.Module):
    """``n`` independent linear layers computed in one batched product.

    Shapes: (n, B, in) -> (n, B, out); an input (B, in) is shared by all n.
    Each layer starts like ``nn.Linear``: uniform in +-1/sqrt(in), drawn independently per layer.
    """

    def __init__(self, n: int, in_width: int, out_width: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, in_width, out_width))
        self.bias = nn.Parameter(torch.empty(n, 1, out_width)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh starting weights."""
        bound = 1 / math.sqrt(max(self.weight.shape[1], 1))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            x = x.expand(self.weight.shape[0], *x.shape)  # (n, B, in), no copy
        if self.bias is None:
            return torch.bmm(x, self.weight)  # (n, B, out)
        return torch.baddbmm(self.bias, x, self.weight)  # (n, B, out)


class Experts(nn.Module):
    """``experts`` identical MLPs with their own weights, activation after every layer.

    Shapes: (B, D) -> (B, E, H), one input for all experts; (B, E, D) -> (B, E, H), an input per expert.
    ``widths`` are the hidden layers; the last one is H. ReLU after each layer as in the MMoE paper
    (Ma et al., KDD 2018, section 4.1: "experts are identical multilayer perceptrons with ReLU").
    """

    def __init__(
        self, in_width: int, experts: int, widths: Sequence[int], activation: Activation = F.relu
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("Experts need at least one layer: widths=[64] gives one of width 64.")
        sizes = [in_width, *widths]
        self.layers = nn.ModuleList(
            StackedLinear(experts, a, b) for a, b in zip(sizes, sizes[1:], strict=False)
        )
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            x = x.transpose(0, 1)  # (E, B, D)
        for layer in self.layers:
            x = self.activation(layer(x))  # (E, B, H)
        return x.transpose(0, 1)  # (B, E, H)


class Gates(nn.Module):
    """One softmax over experts per gate: linear in the input, no hidden layer, no bias.

    MMoE paper Eq. 8: g^k(x) = softmax(W_gk x); PLE paper Eq. 3 with ``visible`` for who sees whom.
    Shapes: (B, D) -> (B, G, E), one input for all gates; (B, G, D) -> (B, G, E), an input per gate.
    ``visible`` is a (G, E) boolean matrix; an expert that a gate does not see has weight exactly 0.
    Only visible pairs have parameters, so nothing in ``state_dict`` is dead.
    Raises ``ValueError`` when a gate sees no expert.
    """

    def __init__(self, in_width: int, gates: int, experts: int, visible: Tensor | None = None) -> None:
        super().__init__()
        if visible is None:
            visible = torch.ones(gates, experts, dtype=torch.bool)
        visible = torch.as_tensor(visible, dtype=torch.bool)
        if visible.shape != (gates, experts):
            raise ValueError(
                f"Gates: visible has shape {tuple(visible.shape)}, expected (gates, experts) = {(gates, experts)}."
            )
        blind = (~visible.any(dim=1)).nonzero().flatten().tolist()
        if blind:
            raise ValueError(f"Gates: gate {blind[0]} sees no expert; give its row of `visible` one True.")
        self.gates, self.experts = gates, experts
        self.weight = nn.Parameter(torch.empty(int(visible.sum()), in_width))  # a row per visible pair
        self.register_buffer("pairs", visible.flatten().nonzero().flatten(), persistent=False)
        self.register_buffer("hidden", ~visible, persistent=False)
        self.sees_all = bool(visible.all())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh starting weights, uniform in +-1/sqrt(D)."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if not self.sees_all:
            full = weight.new_zeros(self.gates * self.experts, weight.shape[1])
            weight = full.index_copy(0, self.pairs, weight)  # (G*E, D)
        if x.dim() == 2:
            logits = (x @ weight.T).view(-1, self.gates, self.experts)  # (B, G, E)
        else:
            by_gate = weight.view(self.gates, self.experts, -1)  # (G, E, D)
            logits = torch.einsum("bgd,ged->bge", x, by_gate)  # (B, G, E)
        if not self.sees_all:
            logits = logits.masked_fill(self.hidden, -torch.inf)
        return logits.softmax(dim=-1)  # (B, G, E)


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """Weighted sum of the experts for every gate (MMoE paper Eq. 6, PLE paper Eq. 2).

    weights (B, G, E), experts (B, E, H) -> (B, G, H)
    """
    return torch.bmm(weights, experts)  # (B, G, H)


class Towers(nn.Module):
    """One MLP per task that ends in a single logit.   (B, T, H) -> (B, T)

    ``widths`` are the hidden layers of each tower, with ReLU; [] leaves one linear layer.
    """

    def __init__(self, in_width: int, tasks: int, widths: Sequence[int] = ()) -> None:
        super().__init__()
        self.hidden = Experts(in_width, tasks, widths) if widths else None
        self.out = StackedLinear(tasks, widths[-1] if widths else in_width, 1)

    def forward(self, z: Tensor) -> Tensor:
        if self.hidden is not None:
            z = self.hidden(z)  # (B, T, h)
        return self.out(z.transpose(0, 1)).squeeze(-1).T  # (B, T)


class FeatureEncoder(nn.Module):
    """Embeds every categorical field, appends the dense features.   ids (B, F), dense (B, K) -> (B, D)

    D = F * embedding + K. All fields share one embedding table with an offset per field, so the look-up
    is a single kernel. ``cardinalities`` are the F sizes; ids of field f lie in [0, cardinalities[f]).
    ``copies`` = T keeps a separate embedding for each of T readers: the output is (B, T, D).
    """

    def __init__(
        self,
        cardinalities: Sequence[int],
        dense_width: int = 0,
        embedding: int = 8,
        copies: int | None = None,
    ) -> None:
        super().__init__()
        sizes = torch.tensor(cardinalities, dtype=torch.long)
        self.register_buffer("offsets", sizes.cumsum(0) - sizes, persistent=False)
        self.copies = copies
        self.table = None
        if len(sizes):
            self.table = nn.Embedding(int(sizes.sum()), (copies or 1) * embedding)
            # unit variance for each embedded row, so that it does not swamp the scaled dense features
            nn.init.normal_(self.table.weight, std=1 / math.sqrt(embedding))
        self.out_width = len(sizes) * embedding + dense_width

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        parts = [dense] if self.copies is None else [dense.unsqueeze(1).expand(-1, self.copies, -1)]
        if self.table is not None:
            rows = self.table(ids + self.offsets)  # (B, F, copies * embedding)
            if self.copies is not None:
                rows = rows.unflatten(2, (self.copies, -1)).transpose(1, 2)  # (B, T, F, embedding)
            parts.insert(0, rows.flatten(-2))
        return torch.cat(parts, dim=-1)  # (B, D) or (B, T, D)
