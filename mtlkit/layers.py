"""The parts that every model of the series is built from.

One idea carries them: experts + gates + a boolean matrix that says which gate sees which expert.
Each part computes all experts, gates or tasks at once.

Letters: B batch, F fields, D input width, E experts, H expert width, G gates, T tasks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]

# Above so many outputs of a layer (rows x experts x width; 4 MB) `Experts` cuts the batch, so that a CPU
# keeps the activations in its cache. Chosen with benchmarks/step.py, as are the cuts.
CACHE = 2**20
# Below so many multiplications torch's bmm takes a plain loop on a CPU (ATen's own bound). Then sums of
# products, with B as the last dimension in memory, are two to three times faster; stacked runs, too.
TINY = 400


def fits_cache(x: Tensor, outputs: int) -> bool:
    """Whether to compute the whole batch x at once, with ``outputs`` numbers for each of its rows."""
    return (
        not x.is_cpu
        or torch.compiler.is_compiling()  # a graph takes any batch and orders its work itself
        or x.shape[0] * outputs <= CACHE
    )


def in_blocks(f: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """f(x), computed for ``rows`` rows of the batch at a time."""
    blocks = x.split(rows)
    return f(x) if len(blocks) == 1 else torch.cat([f(block) for block in blocks])


class StackedLinear(nn.Module):
    """``n`` independent linear layers computed in one product.

    Shapes: (n, B, in) -> (n, B, out); an input (B, in) is shared by all n.
    ``weight`` (n, out, in) and ``bias`` (n, out): entry e is the weight and bias of an ``nn.Linear``.
    Each layer starts like ``nn.Linear``: uniform in +-1/sqrt(in), drawn independently per layer.
    """

    def __init__(self, n: int, in_width: int, out_width: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, out_width, in_width))
        self.bias = nn.Parameter(torch.empty(n, out_width)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh starting weights."""
        bound = 1 / math.sqrt(max(self.weight.shape[2], 1))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:  # one input for all: one large product
            bias = None if self.bias is None else self.bias.flatten()
            y = F.linear(x, self.weight.flatten(0, 1), bias)  # (B, n*out)
            return y.unflatten(1, self.weight.shape[:2]).transpose(0, 1)  # (n, B, out)
        if self.bias is None:
            return torch.bmm(x, self.weight.transpose(1, 2))  # (n, B, out)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))  # (n, B, out)

    def rows_last(self, x: Tensor) -> Tensor:
        """The same with B as the last dimension.   (n, in, B), or (in, B) for all n, -> (n, out, B)"""
        if x.dim() == 2:
            y = self.weight.flatten(0, 1) @ x  # (n*out, B)
            y = y if self.bias is None else y.add_(self.bias.flatten().unsqueeze(-1))
            return y.unflatten(0, self.weight.shape[:2])  # (n, out, B)
        y = torch.bmm(self.weight, x)  # (n, out, B)
        return y if self.bias is None else y.add_(self.bias.unsqueeze(-1))


def _rows_are_last(x: Tensor) -> bool:
    """Whether (n, width, B) has B last in memory, too."""
    return x.stride(2) == 1 < x.stride(1)


def _check_input(name: str, x: Tensor, width: int, n: int, shared: bool = True) -> None:
    """One clear sentence for an input of the wrong shape; B is free."""
    if x.shape[1:] not in ((width,), (n, width)) or (x.dim() == 2 and not shared):
        expected = f"(B, {width}) or (B, {n}, {width})" if shared else f"(B, {n}, {width})"
        raise ValueError(f"{name}: the input has shape {tuple(x.shape)}, expected {expected}.")


class Experts(nn.Module):
    """``experts`` identical MLPs with their own weights, activation after every layer.

    Shapes: (B, D) -> (B, E, H), one input for all experts; (B, E, D) -> (B, E, H), an input per expert.
    Several experts can read one input: ``experts=[2, 0, 3]`` are five experts, and of an input (B, 3, D)
    the first two read row 0, the other three row 2. The weights are laid out the same way in every case.
    ``widths`` are the hidden layers; the last one is H. ReLU after each layer as in the MMoE paper
    (Ma et al., KDD 2018, section 4.1: "experts are identical multilayer perceptrons with ReLU").
    """

    def __init__(
        self,
        in_width: int,
        experts: int | Sequence[int],
        widths: Sequence[int],
        activation: Activation = F.relu,
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("Experts need at least one layer: widths=[64] gives one of width 64.")
        readers = [1] * experts if isinstance(experts, int) else list(experts)
        if sum(readers) < 1 or min(readers) < 0:
            raise ValueError(f"Experts: experts={experts}; there must be at least one.")
        experts = sum(readers)
        sizes = [in_width, *widths]
        self.layers = nn.ModuleList(
            StackedLinear(experts, a, b) for a, b in zip(sizes, sizes[1:], strict=False)
        )
        self.activation = activation
        self.in_width, self.experts, self.readers = in_width, experts, readers
        self.widest = max(widths)

    def forward(self, x: Tensor) -> Tensor:
        _check_input("Experts", x, self.in_width, len(self.readers))
        if fits_cache(x, self.experts * self.widest):
            return self._together(x)
        # Narrow inputs: the activations are the traffic, and those of one expert fit the inner cache. Wide
        # inputs: the gradient of x is, and one product for all experts writes it once.
        narrow = self.in_width <= self.widest
        run, rows = (self._one_by_one, 2048) if narrow else (self._together, 1024)
        return in_blocks(run, x, rows)  # (B, E, H)

    def _own(self, x: Tensor) -> list[Tensor]:
        return [row for row, n in zip(x.unbind(1), self.readers, strict=True) for _ in range(n)]

    def _together(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            x = x.transpose(0, 1) if set(self.readers) == {1} else torch.stack(self._own(x))  # (E, B, D)
        if 2 * self.experts * self.widest < TINY and (x.dim() == 2 or _rows_are_last(x.mT)):
            x = x.mT  # (D, B) or (E, D, B)
            for layer in self.layers:
                x = self.activation(layer.rows_last(x))  # (E, H, B)
            return x.permute(2, 0, 1)  # (B, E, H)
        for layer in self.layers:
            x = self.activation(layer(x))  # (E, B, H)
        return x.transpose(0, 1)  # (B, E, H)

    def _one_by_one(self, x: Tensor) -> Tensor:
        # ReLU in place: half the memory an expert writes, and autograd needs its output only
        activation = torch.relu_ if self.activation is F.relu else self.activation
        own = self._own(x) if x.dim() == 3 else [x] * self.experts  # E times (B, D)
        layers = [zip(m.weight.unbind(0), m.bias.unbind(0), strict=True) for m in self.layers]
        outs = []
        for h, *layers_of_one in zip(own, *layers, strict=True):
            for weight, bias in layers_of_one:
                h = activation(F.linear(h, weight, bias))  # (B, H)
            outs.append(h)
        return torch.stack(outs, dim=1)  # (B, E, H)


class Gates(nn.Module):
    """One softmax over experts per gate: linear in the input, no hidden layer, no bias.

    MMoE paper Eq. 8: g^k(x) = softmax(W_gk x); PLE paper Eq. 3 with ``visible`` for who sees whom.
    Shapes: (B, D) -> (B, G, E), one input for all gates; (B, G, D) -> (B, G, E), an input per gate.
    ``visible`` is a (G, E) boolean matrix; an expert that a gate does not see has weight exactly 0.
    Only visible pairs have parameters, a row each in the order of ``visible``, and a gate that sees one
    expert has none (its weight is 1): nothing in ``state_dict`` is dead.
    Raises ``ValueError`` when a gate sees no expert or the input does not fit.
    """

    def __init__(self, in_width: int, gates: int, experts: int, visible: Tensor | None = None) -> None:
        super().__init__()
        # on the CPU also under torch.device("meta"): who sees whom is structure, not a weight
        if visible is None:
            visible = torch.ones(gates, experts, dtype=torch.bool, device="cpu")
        visible = torch.as_tensor(visible, dtype=torch.bool, device="cpu")
        if visible.shape != (gates, experts):
            raise ValueError(
                f"Gates: visible has shape {tuple(visible.shape)}, "
                f"expected (gates, experts) = {(gates, experts)}."
            )
        blind = (~visible.any(dim=1)).nonzero().flatten().tolist()
        if blind:
            raise ValueError(f"Gates: gate {blind[0]} sees no expert; give its row of `visible` one True.")
        self.in_width, self.gates, self.experts = in_width, gates, experts
        choices = visible & (visible.sum(dim=1, keepdim=True) > 1)
        self.weight = nn.Parameter(torch.empty(int(choices.sum()), in_width))  # a row per visible pair
        self.register_buffer("pairs", choices.flatten().nonzero().flatten(), persistent=False)
        self.register_buffer("hidden", ~visible, persistent=False)
        self.sees_all, self.chooses_all = bool(visible.all()), bool(choices.all())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh starting weights, uniform in +-1/sqrt(D)."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        _check_input("Gates", x, self.in_width, self.gates)
        if x.dim() == 2:
            logits = self._all_pairs(self.weight @ x.T)  # (G, E, B)
        else:
            logits = torch.bmm(self._all_pairs(self.weight), x.permute(1, 2, 0))  # (G, E, B)
        if not self.sees_all:
            logits = logits.masked_fill(self.hidden.unsqueeze(-1), -torch.inf)
        # B stands last so that the softmax runs over whole vectors of rows: over a last dimension of a few
        # experts it is ten times slower
        return logits.softmax(dim=1).permute(2, 0, 1)  # (B, G, E)

    def _all_pairs(self, rows: Tensor) -> Tensor:
        """A row per parameter, 0 for the other pairs of gate and expert.   (pairs, n) -> (G, E, n)"""
        if not self.chooses_all:
            full = rows.new_zeros(self.gates * self.experts, rows.shape[1])
            rows = full.index_copy(0, self.pairs, rows)  # (G*E, n)
        return rows.view(self.gates, self.experts, -1)


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """Weighted sum of the experts for every gate (MMoE paper Eq. 6, PLE paper Eq. 2).

    weights (B, G, E), experts (B, E, H) -> (B, G, H)
    """
    if weights.shape[1] * experts.shape[1] * experts.shape[2] < TINY and weights.is_cpu:
        if experts.stride(0) == 1:
            return _mix_rows_last(weights.permute(2, 1, 0), experts.permute(1, 2, 0)).permute(2, 0, 1)
        return torch.stack([(own.unsqueeze(2) * experts).sum(dim=1) for own in weights.unbind(1)], dim=1)
    # bmm copies row by row what has B last in memory
    experts = experts.contiguous() if experts.stride(0) == 1 else experts
    return torch.bmm(weights.contiguous(), experts)  # (B, G, H)


def _mix_rows_last(weights: Tensor, experts: Tensor) -> Tensor:
    """weights (E, G, B), experts (E, H, B) -> (G, H, B)"""
    if torch.compiler.is_compiling():  # becomes one loop
        return (weights.unsqueeze(2) * experts.unsqueeze(1)).sum(dim=0)
    pairs = zip(weights.unsqueeze(2).unbind(0), experts.unbind(0), strict=True)  # (G, 1, B), (H, B)
    weight, expert = next(pairs)
    mixed = weight * expert
    for weight, expert in pairs:
        mixed = torch.addcmul(mixed, weight, expert)
    return mixed


class Towers(nn.Module):
    """One MLP per task that ends in a single logit.   (B, T, H) -> (B, T)

    ``widths`` are the hidden layers of each tower, with ReLU; [] leaves one linear layer.
    """

    def __init__(self, in_width: int, tasks: int, widths: Sequence[int] = ()) -> None:
        super().__init__()
        self.hidden = Experts(in_width, tasks, widths) if widths else None
        self.out = StackedLinear(tasks, widths[-1] if widths else in_width, 1)
        self.in_width, self.tasks = in_width, tasks

    def forward(self, z: Tensor) -> Tensor:
        _check_input("Towers", z, self.in_width, self.tasks, shared=False)
        if self.hidden is not None:
            z = self.hidden(z)  # (B, T, h)
        if _rows_are_last(z.permute(1, 2, 0)):
            return self.out.rows_last(z.permute(1, 2, 0)).squeeze(1).T  # (B, T)
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
        starts = [0, *itertools.accumulate(cardinalities)]
        self.register_buffer("offsets", torch.tensor(starts[:-1], dtype=torch.long), persistent=False)
        self.copies = copies
        self.table = None
        if len(cardinalities):
            self.table = nn.Embedding(int(starts[-1]), (copies or 1) * embedding)
            # unit variance for each embedded row, so that it does not swamp the scaled dense features
            nn.init.normal_(self.table.weight, std=1 / math.sqrt(embedding))
        self.out_width = len(cardinalities) * embedding + dense_width

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        if self.table is None and self.copies is None:
            return dense  # (B, K)
        parts = [dense] if self.copies is None else [dense.unsqueeze(1).expand(-1, self.copies, -1)]
        if self.table is not None:
            rows = self.table(ids + self.offsets)  # (B, F, copies * embedding)
            if self.copies is not None:
                rows = rows.unflatten(2, (self.copies, -1)).transpose(1, 2)  # (B, T, F, embedding)
            parts.insert(0, rows.flatten(-2))
        return torch.cat(parts, dim=-1)  # (B, D) or (B, T, D)
