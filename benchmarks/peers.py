"""The models that step.py times: mtlkit's, a naive loop, and published packages, at equal sizes.

The peers come from the registry where you have them (they are not dependencies of mtlkit):
``pip install --no-deps torch-rechub deepctr-torch LibMTL``. They run as a user gets them, except that
DeepCTR-Torch's gates are made linear (``gate_dnn_hidden_units=()``), which is less work and the papers'
form; "no BN" is torch-rechub without its batch norms, which it cannot switch off: less work again. LibMTL's
experts and towers are the caller's modules, here nn.Sequential of Linear and ReLU; its PLE is for images
alone. DeepCTR-Torch's PLE mixes a shared gate on the last level, too, which nothing reads.

Each function takes the sizes and gives (module, whether its outputs are probabilities).
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlkit.models import PLE, HoME, MMoE


@dataclass(frozen=True)
class Sizes:
    """An MMoE has ``experts`` networks; a PLE ``own`` for each task and ``shared``, on each level.

    A HoME has two categories, every other task in one; ``shared`` experts for each category and for all on
    both levels, ``own`` for each task; ``loras`` in its feature gates.
    """

    model: str = "mmoe"
    batch: int = 512
    width: int = 128
    experts: int = 8
    expert: tuple[int, ...] = (64, 32)
    tasks: int = 8
    tower: tuple[int, ...] = (16,)
    own: int = 2
    shared: int = 2
    levels: int = 2
    loras: int = 2

    def __str__(self) -> str:
        experts = f"{self.experts} experts {list(self.expert)}"
        if self.model == "ple":
            experts = f"{self.levels} levels of {self.own} + {self.shared} experts {list(self.expert)}"
        if self.model == "home":
            experts = (
                f"3 x {self.shared} and {self.own} per task + 3 x {self.shared} experts "
                f"{list(self.expert)}, {self.loras} LoRAs"
            )
        return (
            f"{self.model}: B {self.batch}, D {self.width}, {experts}, "
            f"{self.tasks} tasks, towers {[*self.tower, 1]}"
        )

    def flops(self) -> float:
        """Of the matrix products of a step: forward, gradient of the inputs, gradient of the weights.

        A gate is counted with the experts that it sees, and of HoME's norms, gates and feature gates the
        products alone.
        """
        if self.model == "home":
            return 3 * 2.0 * self.batch * self._home()
        levels = [(self.width, self.experts, self.tasks * self.experts)]  # input, experts, visible pairs
        if self.model == "ple":
            experts, pairs = self.tasks * self.own + self.shared, self.tasks * (self.own + self.shared)
            inputs = [self.width, *[self.expert[-1]] * (self.levels - 1)]
            levels = [(width, experts, pairs + experts) for width in inputs]
            levels[-1] = (inputs[-1], experts, pairs)
        products = self.tasks * products_of([self.expert[-1], *self.tower, 1])
        for width, experts, pairs in levels:
            products += experts * products_of([width, *self.expert]) + pairs * (width + self.expert[-1])
        return 3 * 2.0 * self.batch * products

    def _home(self) -> int:
        """Multiplications of one row."""
        shared, own, h = self.shared, self.own, self.expert[-1]
        # input, groups, experts, input of the gates, visible pairs, pairs of the self gates
        meta = (self.width, 3, 3 * shared, self.width, 7 * shared, 3 * shared)
        seen, groups = self.tasks * (own + 2 * shared), self.tasks * (own > 0) + 3
        task = (h, groups, self.tasks * own + 3 * shared, 2 * h, seen, self.tasks * own)
        products = self.tasks * products_of([h, *self.tower, 1])
        for width, groups, experts, gates, pairs, own_pairs in (meta, task):
            # L LoRAs of rank D / L and their mixture; experts; gates; mixtures
            products += groups * (2 * width * width + 2 * self.loras * width)
            products += experts * products_of([width, *self.expert])
            products += (pairs + own_pairs) * (gates + h)
        return products


def products_of(widths: Sequence[int]) -> int:
    """Multiplications of one row through an MLP."""
    return sum(a * b for a, b in itertools.pairwise(widths))


TEACHING = Sizes()
LARGE = Sizes(batch=4096, width=512, expert=(256, 128), tower=(64,))


# --- mtlkit and the naive loop ----------------------------------------------------------------------


def mlp(in_width: int, widths: Sequence[int], out: bool = False) -> nn.Sequential:
    steps: list[nn.Module] = []
    for a, b in itertools.pairwise([in_width, *widths]):
        steps += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*steps, *([nn.Linear(widths[-1], 1)] if out else []))


class NaiveMMoE(nn.Module):
    """What one writes first: a loop over experts, a loop over tasks."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp(s.width, s.expert) for _ in range(s.experts))
        self.gates = nn.ModuleList(nn.Linear(s.width, s.experts, bias=False) for _ in range(s.tasks))
        self.towers = nn.ModuleList(mlp(s.expert[-1], s.tower, out=True) for _ in range(s.tasks))

    def forward(self, x: Tensor) -> Tensor:
        outs = torch.stack([expert(x) for expert in self.experts], dim=1)  # (B, E, H)
        logits = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            weights = gate(x).softmax(dim=-1).unsqueeze(1)  # (B, 1, E)
            logits.append(tower(torch.bmm(weights, outs).squeeze(1)))
        return torch.cat(logits, dim=1)  # (B, T)


class NaivePLE(nn.Module):
    """The same for PLE: lists of modules, a loop over them on every level."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        everything = s.tasks * s.own + s.shared
        for level in range(s.levels):
            width = s.expert[-1] if level else s.width
            sees = [s.own + s.shared] * s.tasks + [everything] * (level + 1 < s.levels)
            parts = nn.ModuleDict()
            parts["experts"] = nn.ModuleList(
                nn.ModuleList(mlp(width, s.expert) for _ in range(n)) for n in [s.own] * s.tasks + [s.shared]
            )
            parts["gates"] = nn.ModuleList(nn.Linear(width, n, bias=False) for n in sees)
            self.levels.append(parts)
        self.towers = nn.ModuleList(mlp(s.expert[-1], s.tower, out=True) for _ in range(s.tasks))

    def forward(self, x: Tensor) -> Tensor:
        inputs = [x] * (len(self.towers) + 1)
        for level in self.levels:
            outs = [
                [expert(own) for expert in experts]
                for experts, own in zip(level["experts"], inputs, strict=True)
            ]
            seen = [own + outs[-1] for own in outs[:-1]] + [sum(outs, [])]
            fused = []
            for gate, own, some in zip(level["gates"], inputs, seen, strict=False):
                weights = gate(own).softmax(dim=-1).unsqueeze(1)  # (B, 1, n)
                fused.append(torch.bmm(weights, torch.stack(some, dim=1)).squeeze(1))
            inputs = fused
        return torch.cat([tower(z) for tower, z in zip(self.towers, inputs, strict=True)], dim=1)  # (B, T)


class HoMEExpert(nn.Module):
    """Swish(BatchNorm(MLP))"""

    def __init__(self, in_width: int, widths: Sequence[int]) -> None:
        super().__init__()
        *hidden, _ = mlp(in_width, widths)  # without the last ReLU
        self.steps = nn.Sequential(*hidden, nn.BatchNorm1d(widths[-1]), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x)


class NaiveFeatureGate(nn.Module):
    def __init__(self, width: int, loras: int) -> None:
        super().__init__()
        rank = width // loras
        self.loras = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False), nn.Sigmoid()
            )
            for _ in range(loras)
        )
        self.gate = nn.Linear(width, loras, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(dim=1)
        return x * sum(2 * lora(x) * weights[:, i, None] for i, lora in enumerate(self.loras))


class NaiveHoME(nn.Module):
    """The same for HoME: a loop over its groups, over their experts, over the gates."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.category = [t % 2 for t in range(s.tasks)]
        self.counts = [[s.shared] * 3, [s.own] * s.tasks + [s.shared] * 3]
        self.sees = [[[0, 2], [1, 2], [0, 1, 2]], [[t, s.tasks + t % 2, s.tasks + 2] for t in range(s.tasks)]]
        self.levels = nn.ModuleList()
        for width, gate_width, counts, sees in zip(
            (s.width, s.expert[-1]), (s.width, 2 * s.expert[-1]), self.counts, self.sees, strict=True
        ):
            level = nn.ModuleDict()
            level["features"] = nn.ModuleList(NaiveFeatureGate(width, s.loras) for _ in counts)
            level["experts"] = nn.ModuleList(
                nn.ModuleList(HoMEExpert(width, s.expert) for _ in range(n)) for n in counts
            )
            level["gates"] = nn.ModuleList(
                nn.Linear(gate_width, sum(counts[m] for m in seen), bias=False) for seen in sees
            )
            level["self"] = nn.ModuleList(
                nn.Linear(gate_width, counts[m], bias=False) for m in range(len(sees))
            )
            self.levels.append(level)
        self.towers = nn.ModuleList(mlp(s.expert[-1], s.tower, out=True) for _ in range(s.tasks))

    def forward(self, x: Tensor) -> Tensor:
        z = self._level(0, [x] * 3, [x] * 3)
        both = [torch.cat([z[c], z[2]], dim=1) for c in self.category]
        h = self._level(1, [z[c] for c in self.category] + z, both)
        return torch.cat([tower(one) for tower, one in zip(self.towers, h, strict=True)], dim=1)  # (B, T)

    def _level(self, number: int, inputs: list[Tensor], given: list[Tensor]) -> list[Tensor]:
        level, made, outs = self.levels[number], [], []
        for gate, experts, x in zip(level["features"], level["experts"], inputs, strict=True):
            v = gate(x)
            outs.append([expert(v) for expert in experts])
        for g, (seen, x) in enumerate(zip(self.sees[number], given, strict=True)):
            out = bmm_of(level["gates"][g](x).softmax(dim=1), sum((outs[m] for m in seen), []))
            if outs[g]:
                logits = level["self"][g](x)
                weights = logits.softmax(dim=1) if len(outs[g]) > 1 else logits.sigmoid()
                out = out + bmm_of(weights, outs[g])
            made.append(out)
        return made


def bmm_of(weights: Tensor, outs: list[Tensor]) -> Tensor:
    return torch.bmm(weights.unsqueeze(1), torch.stack(outs, dim=1)).squeeze(1)


def ours(s: Sizes) -> tuple[nn.Module, bool]:
    if s.model == "home":
        groups, counts = [t % 2 for t in range(s.tasks)], [s.shared, s.shared, s.shared, s.shared, s.own]
        return HoME(s.width, s.tasks, groups, *counts, [s.expert] * 2, s.tower, s.loras), False
    if s.model == "ple":
        levels = [s.expert] * s.levels
        return PLE(s.width, s.tasks, s.shared, s.own, levels, s.tower), False
    return MMoE(s.width, s.tasks, experts=s.experts, expert=s.expert, tower=s.tower), False


def naive(s: Sizes) -> tuple[nn.Module, bool]:
    return {"mmoe": NaiveMMoE, "ple": NaivePLE, "home": NaiveHoME}[s.model](s), False


# --- published packages -----------------------------------------------------------------------------


def rechub(s: Sizes) -> tuple[nn.Module, bool]:
    from torch_rechub.basic.features import DenseFeature
    from torch_rechub.models.multi_task import MMOE, PLE

    kind, experts = (PLE, [s.levels, s.own, s.shared]) if s.model == "ple" else (MMOE, [s.experts])

    class Peer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = kind(
                [DenseFeature("x", s.width)],
                ["classification"] * s.tasks,
                *experts,
                {"dims": list(s.expert)},
                [{"dims": list(s.tower)} for _ in range(s.tasks)],
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.body({"x": x})

    return Peer(), True


def rechub_without_bn(s: Sizes) -> tuple[nn.Module, bool]:
    model, probabilities = rechub(s)
    for part in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        for i, step in enumerate(part):
            if isinstance(step, nn.BatchNorm1d | nn.Dropout):
                part[i] = nn.Identity()
    return model, probabilities


def deepctr(s: Sizes) -> tuple[nn.Module, bool]:
    import requests

    # it asks the registry for its latest version when imported
    get, requests.get = requests.get, lambda *a, **k: types.SimpleNamespace(status_code=404)
    try:
        from deepctr_torch.inputs import DenseFeat
        from deepctr_torch.models import MMOE, PLE
    finally:
        requests.get = get
    kind, experts = MMOE, {"num_experts": s.experts}
    if s.model == "ple":
        kind = PLE
        experts = {"shared_expert_num": s.shared, "specific_expert_num": s.own, "num_levels": s.levels}
    model = kind(
        [DenseFeat("x", s.width)],
        **experts,
        expert_dnn_hidden_units=s.expert,
        gate_dnn_hidden_units=(),
        tower_dnn_hidden_units=s.tower,
        task_types=["binary"] * s.tasks,
        task_names=[f"task_{t}" for t in range(s.tasks)],
    )
    return model, True


def libmtl(s: Sizes) -> tuple[nn.Module, bool]:
    # the package's __init__ wants an old torchvision for its image models; its MMoE does not
    if "LibMTL" not in sys.modules:
        found = importlib.util.find_spec("LibMTL")
        if found is None:
            raise ModuleNotFoundError("No module named 'LibMTL'")
        package = types.ModuleType("LibMTL")
        package.__path__ = list(found.submodule_search_locations or ())
        sys.modules["LibMTL"] = package
    architecture = importlib.import_module("LibMTL.architecture").MMoE
    tasks = [f"task_{t}" for t in range(s.tasks)]

    class Peer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            towers = nn.ModuleDict({task: mlp(s.expert[-1], s.tower, out=True) for task in tasks})
            self.body = architecture(
                tasks,
                lambda: mlp(s.width, s.expert),
                towers,
                rep_grad=False,
                multi_input=False,
                device=torch.device("cpu"),
                img_size=[s.width],
                num_experts=[s.experts],
            )
            self.body.decoders = towers

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat(list(self.body(x).values()), dim=1)

    return Peer(), False


PEERS = {
    "mmoe": {
        "torch-rechub": rechub,
        "torch-rechub, no BN": rechub_without_bn,
        "deepctr-torch": deepctr,
        "LibMTL": libmtl,
    },
    "ple": {"torch-rechub": rechub, "torch-rechub, no BN": rechub_without_bn, "deepctr-torch": deepctr},
    "home": {},  # no package of the registries has it
}
