"""The parts that every model of the series is built from.

One idea carries them: experts + gates + a boolean matrix that says which gate sees which expert.
Each part computes all experts, gates or tasks at once.

Letters: B batch, F fields, D input width, E experts, H expert width, G gates (or groups that have one),
T tasks, L LoRAs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]

# Above so many outputs of a layer (rows x experts x width; 4 MB) they leave a CPU's cache, and `Experts` goes
# through them expert by expert where that pays. Chosen with benchmarks/step.py.
CACHE = 2**20
# Below so many multiplications torch's bmm takes a plain loop on a CPU (ATen's own bound). Then sums of
# products, with B as the last dimension in memory, are two to three times faster; stacked runs, too.
TINY = 400


class StackedLinear(nn.Module):
    """``n`` independent linear layers computed in one product.

    Shapes: (n, B, in) -> (n, B, out); an input (B, in) is shared by all n.
    ``weight`` (n, out, in) and ``bias`` (n, out): entry e is the weight and bias of an ``nn.Linear``.
    Each layer starts like ``nn.Linear``: uniform in +-1/sqrt(in), drawn independently per layer.
    Raises ``ValueError`` for a width below 1.
    """

    def __init__(self, n: int, in_width: int, out_width: int, bias: bool = True) -> None:
        super().__init__()
        if out_width < 1:
            raise ValueError(f"A layer cannot have the width {out_width}; every width must be at least 1.")
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
        bias = None if self.bias is None else self.bias.unsqueeze(-1)  # (n, out, 1)
        if x.dim() == 2:
            weight = self.weight.flatten(0, 1)  # (n*out, in)
            y = weight @ x if bias is None else torch.addmm(bias.flatten(0, 1), weight, x)  # (n*out, B)
            return y.unflatten(0, self.weight.shape[:2])  # (n, out, B)
        # not bmm and then add_: after an in-place change of a view, gradients are copied twice
        return torch.bmm(self.weight, x) if bias is None else torch.baddbmm(bias, self.weight, x)


def _rows_are_last(x: Tensor) -> bool:
    """Whether (n, width, B) has B last in memory, too."""
    return x.stride(2) == 1 < x.stride(1)


def _check_input(name: str, x: Tensor, width: int, n: int, shared: bool = True) -> None:
    """One clear sentence for an input of the wrong shape; B is free."""
    if x.shape[1:] not in ((width,), (n, width)) or (x.dim() == 2 and not shared):
        expected = f"(B, {width}) or (B, {n}, {width})" if shared else f"(B, {n}, {width})"
        raise ValueError(f"{name}: the input has shape {tuple(x.shape)}, expected {expected}.")


class ExpertNorm(nn.Module):
    """Batch norm of every output unit of every expert, each by itself.   (B, E, H) -> (B, E, H)

    HoME paper (arXiv 2408.05430) Eq. 4: gamma (z - mu) / sqrt(delta^2 + eps) + beta, with mean and variance
    over the batch; ``weight`` (E, H) is gamma, ``bias`` is beta. As ``nn.BatchNorm1d`` it keeps running
    averages (``momentum``, the variance with B - 1), which stand in for the batch's in evaluation.
    One row has no variance: a training batch of one row is normalised by the running averages, too, and
    leaves them as they are.
    """

    def __init__(self, experts: int, width: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(experts, width))
        self.bias = nn.Parameter(torch.zeros(experts, width))
        self.register_buffer("running_mean", torch.zeros(experts, width))
        self.register_buffer("running_var", torch.ones(experts, width))
        self.eps, self.momentum = eps, momentum

    def forward(self, z: Tensor) -> Tensor:
        averages = self.running_mean.view(-1), self.running_var.view(-1)
        from_batch = self.training and z.shape[0] > 1
        y = F.batch_norm(
            z.flatten(1),
            *averages,
            self.weight.view(-1),
            self.bias.view(-1),
            from_batch,
            self.momentum,
            self.eps,
        )
        return y.unflatten(1, self.weight.shape)  # (B, E, H)


class Experts(nn.Module):
    """``experts`` identical MLPs with their own weights, activation after every layer.

    Shapes: (B, D) -> (B, E, H), one input for all experts; (B, E, D) -> (B, E, H), an input per expert.
    Several experts can read one input: ``experts=[2, 0, 3]`` are five experts, and of an input (B, 3, D)
    the first two read row 0, the other three row 2. The weights are laid out the same way in every case.
    ``widths`` are the hidden layers; the last one is H. ReLU after each layer as in the MMoE paper
    (Ma et al., KDD 2018, section 4.1: "experts are identical multilayer perceptrons with ReLU").

    ``norm=True`` makes HoME's experts, Swish(BatchNorm(MLP)) (arXiv 2408.05430, Eq. 5): the last layer is
    normalised (``ExpertNorm``, which takes over its bias) and followed by Swish. The paper does not say what
    stands between the hidden layers; it is ``activation``.
    """

    def __init__(
        self,
        in_width: int,
        experts: int | Sequence[int],
        widths: Sequence[int],
        activation: Activation = F.relu,
        norm: bool = False,
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("Experts need at least one layer: widths=[64] gives one of width 64.")
        readers = [1] * experts if isinstance(experts, int) else list(experts)
        if sum(readers) < 1 or min(readers) < 0:
            raise ValueError(f"Experts: experts={experts}; there must be at least one.")
        experts = sum(readers)
        sizes = [in_width, *widths]
        # batch norm takes the mean away, and with it a bias: a bias before it would never learn
        biases = [True] * (len(widths) - 1) + [not norm]
        self.layers = nn.ModuleList(
            StackedLinear(experts, a, b, bias) for a, b, bias in zip(sizes, sizes[1:], biases, strict=False)
        )
        self.norm = ExpertNorm(experts, widths[-1]) if norm else None
        self.activation = activation
        self.in_width, self.experts, self.readers = in_width, experts, readers
        self.widest = max(widths)

    def forward(self, x: Tensor) -> Tensor:
        _check_input("Experts", x, self.in_width, len(self.readers))
        if self.norm is not None:
            return self._normalised(x)
        # Wide inputs: one product for all experts writes the gradient of x once. Narrow ones: the activations
        # are the traffic, and those of one expert stay in the cache.
        # A compiled graph takes any batch and orders its work itself.
        on_cpu = x.is_cpu and not torch.compiler.is_compiling()
        narrow = self.in_width <= self.widest
        one_by_one = on_cpu and narrow and x.shape[0] * self.experts * self.widest > CACHE
        return self._one_by_one(x) if one_by_one else self._together(x)  # (B, E, H)

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

    def _normalised(self, x: Tensor) -> Tensor:
        """All rows at once: they share their mean and variance."""
        x = torch.stack(self._own(x)) if x.dim() == 3 else x  # (E, B, D) or (B, D)
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))  # (E, B, H)
        # HoME Eq. 5: Swish(BatchNorm(MLP_E(v)))
        return F.silu(self.norm(last(x).transpose(0, 1)))  # (B, E, H)

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
    Several gates can read one input: with ``reads`` (G,), gate g reads row reads[g] of (B, M, D).
    Raises ``ValueError`` when a gate sees no expert or the input does not fit.
    """

    def __init__(
        self,
        in_width: int,
        gates: int,
        experts: int,
        visible: Tensor | None = None,
        reads: Tensor | None = None,
    ) -> None:
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
        choices = self._choices(visible)
        self.by_input: list[int] | None = None
        if reads is not None:
            of_pair = reads.repeat_interleave(choices.sum(dim=1))
            self.by_input = of_pair.bincount(minlength=int(reads.max()) + 1).tolist()  # parameters per input
            self.register_buffer("sorted", of_pair.argsort(stable=True), persistent=False)
        self.weight = nn.Parameter(torch.empty(int(choices.sum()), in_width))  # a row per visible pair
        self.register_buffer("pairs", choices.flatten().nonzero().flatten(), persistent=False)
        self.register_buffer("hidden", ~visible, persistent=False)
        start = torch.zeros(gates, experts, device="cpu").masked_fill(~visible, -torch.inf)
        self.register_buffer("start", start, persistent=False)  # of a logit; -inf: not seen
        self.chooses_all = bool(choices.all())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh starting weights, uniform in +-1/sqrt(D)."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)

    @staticmethod
    def _choices(visible: Tensor) -> Tensor:
        """Which pairs of gate and expert have parameters.   (G, E) -> (G, E)"""
        return visible & (visible.sum(dim=1, keepdim=True) > 1)

    def forward(self, x: Tensor) -> Tensor:
        inputs = self.gates if self.by_input is None else len(self.by_input)
        _check_input(type(self).__name__, x, self.in_width, inputs, shared=self.by_input is None)
        if self.by_input is not None:
            weights = self.weight[self.sorted].split(self.by_input)
            logits = torch.cat([(z @ w.T).T for w, z in zip(weights, x.unbind(1), strict=True)])  # (pairs, B)
            logits = self._all_pairs(logits, self.start, self.pairs[self.sorted])  # (G, E, B)
        elif x.dim() == 2:
            logits = self._all_pairs(self.weight @ x.T, self.start)  # (G, E, B)
        else:
            weight = self._all_pairs(self.weight, torch.zeros_like(self.start)).mT  # (G, D, E)
            # x first: then its gradient has x's layout
            logits = torch.baddbmm(self.start.unsqueeze(1), x.transpose(0, 1), weight).mT  # (G, E, B)
        # B stands last so that the softmax runs over whole vectors of rows: over a last dimension of a few
        # experts it is ten times slower
        return logits.softmax(dim=1).permute(2, 0, 1)  # (B, G, E)

    def _all_pairs(self, rows: Tensor, start: Tensor, pairs: Tensor | None = None) -> Tensor:
        """A row per parameter, ``start`` for the other pairs of gate and expert.   (pairs, n) -> (G, E, n)"""
        if not self.chooses_all or pairs is not None:
            full = start.to(rows.dtype).view(-1, 1).expand(-1, rows.shape[1])  # (G*E, n)
            # a copy, or torch.compile writes all n into the one place that an expanded row has
            full = full.contiguous()
            rows = full.index_copy(0, self.pairs if pairs is None else pairs, rows)
        return rows.view(self.gates, self.experts, -1)


class SelfGates(Gates):
    """What a reader gives once more to its own experts: softmax over several, sigmoid for one.

    HoME paper (arXiv 2408.05430) Eq. 11. ``own`` (G, E) says whose an expert is; a gate without an expert of
    its own gives nothing. Shapes as in ``Gates``: (B, D) or (B, G, D) -> (B, G, E), 0 for other experts.
    Every pair of a gate and an own expert has parameters, a row each in the order of ``own``.
    """

    def __init__(self, in_width: int, own: Tensor, reads: Tensor | None = None) -> None:
        # sigmoid(a) is the first weight of softmax(a, 0): a last expert, "none", whose logit is always 0,
        # is seen by the gates with one expert or without any
        own = torch.as_tensor(own, dtype=torch.bool, device="cpu")
        none = own.sum(dim=1, keepdim=True) < 2
        super().__init__(in_width, len(own), own.shape[1] + 1, torch.cat([own, none], dim=1), reads)

    @staticmethod
    def _choices(visible: Tensor) -> Tensor:
        return torch.cat([visible[:, :-1], torch.zeros_like(visible[:, -1:])], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, :-1]  # (B, G, E)


class FeatureGates(nn.Module):
    """An input of its own for each of ``groups``: features amplified or damped.   -> (B, G, D)

    HoME paper (arXiv 2408.05430) Eq. 8-10: x times a mixture of ``loras`` small networks 2 sigmoid(x B A)
    with B (D, rank) and A (rank, D), mixed by a softmax gate that reads x; each factor lies in (0, 2).
    Shapes: one input (B, D) for all groups, or an input per group (B, G, D).
    ``rank`` is D / L in the paper, so L must divide D; then a group has 2 D^2 weights for any L, and only a
    smaller rank saves some. Where the paper is silent: no bias, and A starts at 0, so each factor at 1.
    """

    def __init__(self, in_width: int, groups: int, loras: int = 2, rank: int | None = None) -> None:
        super().__init__()
        if loras < 1 or (rank is None and in_width % loras) or (rank is not None and rank < 1):
            raise ValueError(
                f"FeatureGates: loras={loras}, rank={rank} for an input of width {in_width} (all embeddings "
                "and dense features): loras must be at least 1 and divide the width, or give a rank of at "
                "least 1, such as rank=4."
            )
        rank = rank or in_width // loras
        self.in_width, self.groups, self.loras = in_width, groups, loras
        self.down = StackedLinear(
            groups, in_width, loras * rank, bias=False
        )  # B, the LoRAs one below the other
        self.up = StackedLinear(groups * loras, rank, in_width, bias=False)  # A
        self.gates = Gates(in_width, groups, loras)
        nn.init.zeros_(self.up.weight)

    def factors(self, x: Tensor) -> Tensor:
        """What each feature of each group is multiplied with, in (0, 2).   -> (B, G, D)"""
        _check_input("FeatureGates", x, self.in_width, self.groups)
        low = self.down(x if x.dim() == 2 else x.transpose(0, 1))  # (G, B, L*rank)
        low = low.unflatten(2, (self.loras, -1)).transpose(1, 2)  # (G, L, B, rank)
        # Eq. 8: Fea_LoRA(v) = 2 sigmoid(v B A); the 2 stands with the weights, which are fewer
        loras = self.up(low.flatten(0, 1)).sigmoid().unflatten(0, (-1, self.loras))  # (G, L, B, D)
        # Eq. 9: Fea_Gate(v) = sum_l Gate^fea(v)_l Fea_LoRA^l(v)
        weights = 2 * self.gates(x).permute(1, 2, 0).unsqueeze(3)  # (G, L, B, 1)
        return (weights * loras).sum(dim=1).transpose(0, 1)  # (B, G, D)

    def forward(self, x: Tensor) -> Tensor:
        # Eq. 10: v * Fea_Gate(v)
        return (x if x.dim() == 3 else x.unsqueeze(1)) * self.factors(x)  # (B, G, D)


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """Weighted sum of the experts for every gate (MMoE paper Eq. 6, PLE paper Eq. 2).

    weights (B, G, E), experts (B, E, H) -> (B, G, H)
    Raises ``ValueError`` for other shapes.
    """
    if weights.dim() != 3 or experts.dim() != 3 or weights.shape[2] != experts.shape[1]:
        raise ValueError(
            f"mix: weights {tuple(weights.shape)} and experts {tuple(experts.shape)} do not fit; "
            "expected (B, G, E) and (B, E, H)."
        )
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
    Ids are not looked at: one out of range reads another field's embedding (``training`` checks its tables).
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
        self.copies, self.dense_width = copies, dense_width
        self.table = None
        if len(cardinalities):
            self.table = nn.Embedding(int(starts[-1]), (copies or 1) * embedding)
            # unit variance for each embedded row, so that it does not swamp the scaled dense features
            nn.init.normal_(self.table.weight, std=1 / math.sqrt(embedding))
        self.out_width = len(cardinalities) * embedding + dense_width

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        if not isinstance(ids, Tensor) or not isinstance(dense, Tensor):
            raise ValueError("FeatureEncoder takes tensors: torch.from_numpy(table.ids) and (table.dense).")
        widths = self.offsets.shape[0], self.dense_width
        if (ids.shape[1:], dense.shape[1:]) != (widths[:1], widths[1:]):
            raise ValueError(
                f"FeatureEncoder: ids {tuple(ids.shape)} and dense {tuple(dense.shape)} must be "
                f"(B, {widths[0]}) and (B, {widths[1]})."
            )
        if self.table is None and self.copies is None:
            return dense  # (B, K)
        parts = [dense] if self.copies is None else [dense.unsqueeze(1).expand(-1, self.copies, -1)]
        if self.table is not None:
            rows = self.table(ids + self.offsets)  # (B, F, copies * embedding)
            if self.copies is not None:
                rows = rows.unflatten(2, (self.copies, -1)).transpose(1, 2)  # (B, T, F, embedding)
            parts.insert(0, rows.flatten(-2))
        return torch.cat(parts, dim=-1)  # (B, D) or (B, T, D)
