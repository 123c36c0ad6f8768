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

from mtlkit.models import PLE, MMoE


@dataclass(frozen=True)
class Sizes:
    """An MMoE has ``experts`` networks; a PLE ``own`` for each task and ``shared``, on each level."""

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

    def __str__(self) -> str:
        experts = f"{self.experts} experts {list(self.expert)}"
        if self.model == "ple":
            experts = f"{self.levels} levels of {self.own} + {self.shared} experts {list(self.expert)}"
        return (
            f"{self.model}: B {self.batch}, D {self.width}, {experts}, "
            f"{self.tasks} tasks, towers {[*self.tower, 1]}"
        )

    def flops(self) -> float:
        """Of the matrix products of a step: forward, gradient of the inputs, gradient of the weights.

        A gate is counted with the experts that it sees.
        """
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


def ours(s: Sizes) -> tuple[nn.Module, bool]:
    if s.model == "ple":
        levels = [s.expert] * s.levels
        return PLE(s.width, s.tasks, s.shared, s.own, levels, s.tower), False
    return MMoE(s.width, s.tasks, experts=s.experts, expert=s.expert, tower=s.tower), False


def naive(s: Sizes) -> tuple[nn.Module, bool]:
    return (NaivePLE if s.model == "ple" else NaiveMMoE)(s), False


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
}
