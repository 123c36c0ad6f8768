"""HoME: hierarchy of multi-gate experts (Wang et al., KDD 2025)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from mtlkit.layers import Experts, FeatureGates, Gates, SelfGates, Towers, mix


class HoMELevel(nn.Module):
    """Groups of experts with inputs of their own, and gates that add a self gate.

    x (B, D) for all groups, or (B, M, D) with a row for each, -> (B, G, H). ``experts`` has the size of each
    group; M of them have experts. ``visible`` and ``own`` (G, groups) say which groups a gate sees, and which
    are its own; ``mask=False`` lets it see all. The gates read ``given``: (B, width) or (B, G, width).
    """

    def __init__(
        self,
        experts: Sequence[int],
        expert: Sequence[int],
        *,
        in_width: int,
        gate_width: int,
        visible: Tensor,
        own: Tensor,
        loras: int | None,
        rank: int | None,
        self_gates: bool,
        mask: bool,
        reads: Tensor | None = None,
    ) -> None:
        super().__init__()
        sizes = torch.tensor(experts, device="cpu")
        visible, own = (pairs.repeat_interleave(sizes, dim=1) for pairs in (visible, own))  # (G, E)
        experts = [n for n in experts if n]
        self.feature_gates = None if loras is None else FeatureGates(in_width, len(experts), loras, rank)
        self.experts = Experts(in_width, experts, expert, norm=True)
        self.gates = Gates(gate_width, *visible.shape, visible if mask else None, reads)
        self.self_gates = SelfGates(gate_width, own, reads) if self_gates and own.any() else None

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        # Eq. 10: v_m = v * Fea_Gate_m(v), the input of group m
        v = x if self.feature_gates is None else self.feature_gates(x)  # (B, M, D)
        # Eq. 6: Sum(Gate(v), Experts(v)); Eq. 11 adds Sum(Self_Gate(v), own Experts(v)): one sum does both
        weights = self.gates(given)  # (B, G, E)
        if self.self_gates is not None:
            weights = weights + self.self_gates(given)
        return mix(weights, self.experts(v))  # (B, G, H)


def two_levels(
    in_width: int,
    category: Sequence[int],
    levels: Sequence[Sequence[int]],
    meta: Sequence[int] | None = None,
    experts: Sequence[int] | None = None,
    *,
    loras: int = 2,
    rank: int | None = None,
    feature_gates: tuple[bool, bool] = (True, True),
    self_gates: bool = True,
    mask: bool = True,
) -> tuple[HoMELevel, HoMELevel]:
    """The levels of a HoME; ``category`` numbers that of each task, from 0 to C - 1.

    Level 1, (B, D) twice -> (B, C + 1, H): ``meta`` experts of each category, then shared ones, and gates in
    the same order. Level 2 -> (B, T, H): ``experts`` of each task, of each category, then shared ones, and a
    gate per task. It reads a vector of level 1 for each group of experts, and (B, C, 2H) for the gates, a row
    per category. One expert each unless given. The other arguments are those of ``HoME``.
    """
    tasks, categories, width = len(category), max(category) + 1, levels[0][-1]
    loras_of = [loras if gated else None for gated in feature_gates]
    with torch.device("cpu"):  # structure, no weights: also under torch.device("meta")
        of_task = torch.tensor(category)
        every = torch.eye(categories + 1, dtype=torch.bool)  # the categories, then what all share
        task = torch.eye(tasks, dtype=torch.bool)
    one = HoMELevel(
        [1] * (categories + 1) if meta is None else meta,
        levels[0],
        in_width=in_width,
        gate_width=in_width,
        visible=every | every[-1] | every[-1:].T,
        own=every,
        loras=loras_of[0],
        rank=rank,
        self_gates=self_gates,
        mask=mask,
    )
    two = HoMELevel(
        [1] * (tasks + categories + 1) if experts is None else experts,
        levels[1],
        in_width=width,
        gate_width=2 * width,
        visible=torch.cat([task, every[of_task] | every[-1]], dim=1),
        own=torch.cat([task, torch.zeros_like(every[of_task])], dim=1),
        reads=of_task,
        loras=loras_of[1],
        rank=rank,
        self_gates=self_gates,
        mask=mask,
    )
    return one, two


class HoME(nn.Module):
    """Experts by category first, then by task; a gate for each one's features.   x (B, D) -> logits (B, T)

    "HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at Kuaishou" (KDD 2025, arXiv 2408.05430).
    In the picture of the series: on level 1 experts belong to a category or to all, and a category's gate
    sees its own and the shared ones, the shared gate all of them. On level 2 they belong to a task, a
    category or to all, and a task's gate sees its own, its category's and the shared ones. All experts are
    Swish(BatchNorm(MLP)); feature gates give each group of experts its input, and self gates add the mixture
    of a gate's own experts.

    Parameters
    ----------
    groups: the category of each task, T numbers or names, say ["watch", "interaction", "watch"].
    meta_shared_experts, meta_category_experts: experts of level 1. shared_experts, category_experts,
        task_experts: experts of level 2. A number for each category (task), or a list of them.
    expert, tower: hidden widths; ``levels`` has those of one expert on level 1 and on level 2.
    loras, rank: of the feature gates (``layers.FeatureGates``).
    feature_gates: on level 1, on level 2. The paper's "w/o fg2" is (True, False), "w/o fg" (False, False).
    self_gates: False is "w/o sg".
    mask: False is "w/o mask": every gate sees all experts of its level; inputs and self gates stay.

    Where the paper is silent: the gates, linear and without bias, read a level's raw input, on level 2 the
    vectors of the task's category and of all, side by side (Eq. 7), and so do the self gates there; a self
    gate of level 2 takes the task's experts; every group on level 2 has a feature gate of its own. The paper
    prints no sizes.
    """

    reads_categories = True  # a Recommender gives ``groups`` from its table

    def __init__(
        self,
        in_width: int,
        tasks: int,
        groups: Sequence[Hashable],
        meta_shared_experts: int = 1,
        meta_category_experts: int | Sequence[int] = 1,
        shared_experts: int = 1,
        category_experts: int | Sequence[int] = 1,
        task_experts: int | Sequence[int] = 1,
        levels: Sequence[Sequence[int]] = ((16,), (16,)),
        tower: Sequence[int] = (),
        loras: int = 2,
        rank: int | None = None,
        feature_gates: tuple[bool, bool] = (True, True),
        self_gates: bool = True,
        mask: bool = True,
    ) -> None:
        super().__init__()
        groups = list(groups)
        if len(groups) != tasks:
            raise ValueError(f"HoME: groups has {len(groups)} entries for {tasks} tasks; give one per task.")
        if len(levels) != 2:
            raise ValueError(f"HoME has two levels: levels=[[64], [32]]; got {len(levels)}.")
        names = list(dict.fromkeys(groups))  # categories in the order of their first tasks
        meta = [*_counts("meta_category_experts", meta_category_experts, len(names)), meta_shared_experts]
        local = _counts("category_experts", category_experts, len(names))
        own = _counts("task_experts", task_experts, tasks)
        experts = [*own, *local, shared_experts]
        _check(meta, experts, groups, names)
        self.categories = tuple(names)
        category = [names.index(name) for name in groups]
        reads = [*category, *range(len(names) + 1)]  # which vector of level 1 a group of experts reads
        reads = [row for row, n in zip(reads, experts, strict=True) if n]
        self.category = tuple(category)  # of each task, an index of ``categories``
        self.reads = tuple(reads)
        parts = {"loras": loras, "rank": rank, "self_gates": self_gates, "mask": mask}
        two = two_levels(in_width, category, levels, meta, experts, feature_gates=feature_gates, **parts)
        self.levels = nn.ModuleList(two)
        self.towers = Towers(levels[1][-1], tasks, tower)

    def forward(self, x: Tensor) -> Tensor:
        meta, task = self.levels
        # Eq. 6: z_meta of each category, and of all tasks
        z = meta(x, x)  # (B, C + 1, H)
        # Eq. 7: Gate^t(z_category + z_shared), the two side by side
        both = torch.cat([z[:, :-1], z[:, -1:].expand(-1, len(self.categories), -1)], dim=2)  # (B, C, 2H)
        rows = z.unbind(1)
        own = torch.stack([rows[row] for row in self.reads]).transpose(0, 1)  # (B, M, H), M first in memory
        h = task(own, both)  # (B, T, H)
        # Eq. 7: y^t = Tower^t(h^t)
        return self.towers(h)  # (B, T)


def _check(
    meta: Sequence[int], experts: Sequence[int], groups: Sequence[Hashable], names: Sequence[Hashable]
) -> None:
    """Refuse numbers of experts that leave a gate without an expert, or a part without a reader."""
    if min(*meta, *experts) < 0:
        raise ValueError(f"HoME: {[*meta]} and {[*experts]} experts on its levels; a number is negative.")
    if not experts[-1]:
        raise ValueError("HoME: level 2 needs shared_experts >= 1, which read what all categories share.")
    for c, name in enumerate(names):
        if not meta[c] + meta[-1]:
            raise ValueError(f"HoME: category {name!r} sees no expert on level 1.")
        if not experts[len(groups) + c] + sum(experts[t] for t, g in enumerate(groups) if g == name):
            raise ValueError(f"HoME: category {name!r} and its tasks have no expert on level 2.")


def _counts(name: str, experts: int | Sequence[int], n: int) -> list[int]:
    """A number for each of n categories or tasks."""
    counts = [experts] * n if isinstance(experts, int) else list(experts)
    if len(counts) != n:
        raise ValueError(f"HoME: {name}={counts} has {len(counts)} numbers, expected {n}.")
    return counts
