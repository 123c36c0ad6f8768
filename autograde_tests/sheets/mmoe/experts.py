"""Exercises 2.2, 2.3: the bank of experts and their mixture."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from autograde_tests.exercise import ONE_ROW_ONE_TASK, Draw, Exercise, Trial, some

# --- 2.2 the bank of experts -------------------------------------------------------------------------------


class ExpertBank(nn.Module):
    def __init__(self, D, H, E):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(D, H) for _ in range(E))

    def forward(self, x):
        return torch.stack([torch.relu(expert(x)) for expert in self.experts], dim=1)


def _bank(forward=None, experts=None):
    """An ExpertBank with another forward, or other experts."""

    def init(self, D, H, E):
        nn.Module.__init__(self)
        self.E, self.H = E, H
        self.experts = experts(D, H, E) if experts else nn.ModuleList(nn.Linear(D, H) for _ in range(E))

    return type("ExpertBank", (ExpertBank,), {"__init__": init} | ({"forward": forward} if forward else {}))


def _each(self, x):
    """The outputs of the experts before their ReLU, E times (B, H)."""
    return [expert(x) for expert in self.experts]


def _chain(self, x):
    outputs = []
    for expert in self.experts:
        x = torch.relu(expert(x))
        outputs.append(x)
    return torch.stack(outputs, 1)


def _one_layer(D, H, E):
    return nn.Linear(D, E * H)


def _bank_draw(rng, B=None, E=None, square=False, wider=0):
    B, E = B or int(rng.integers(5, 10)), E or int(rng.integers(2, 5))
    H = E if square else int(rng.integers(5, 8))
    # inputs as wide as outputs: an expert that reads another expert is a wrong number, not a crash
    D = H + wider
    return Draw({"x": rng.normal(size=(B, D)).astype(np.float32)}, build={"D": D, "H": H, "E": E})


EXPERT_BANK = Exercise(
    id="2.2",
    title="a bank of experts",
    how="module",
    reference=ExpertBank,
    shape="(B, E, H)",
    grads=["x"],
    example=Trial(
        "one user with x = (1, 2): expert 0 gives (3, 0), expert 1 gives (2, 1) (worked by hand)",
        {"x": np.array([[1, 2]], np.float32)},
        grads=["x"],
        build={"D": 2, "H": 2, "E": 2},
        state={
            "experts.0.weight": np.array([[1, 1], [1, -1]], np.float32),
            "experts.0.bias": np.array([0, 0], np.float32),
            "experts.1.weight": np.array([[0, 1], [3, 0]], np.float32),
            "experts.1.bias": np.array([0, -2], np.float32),
        },
        want={"out": np.array([[[3, 0], [2, 1]]])},
    ),
    draw=_bank_draw,
    sizes={
        "random sizes": {},
        "more rows": {"B": 24},
        "a batch of one": {"B": 1},
        "one expert": {"E": 1},
        "as many experts as units": {"square": True, "E": 3},
        "inputs wider than an expert": {"wider": 3},
    },
    mistakes={
        "all experts are one and the same object. How many layers does `[layer] * E` make?": (
            _bank(experts=lambda D, H, E: nn.ModuleList([nn.Linear(D, H)] * E))
        ),
        "the experts stand in a plain Python list, which torch does not look into: they are never trained. "
        "Which container registers layers?": _bank(
            experts=lambda D, H, E: [nn.Linear(D, H) for _ in range(E)]
        ),
        "the ReLU is missing. What is a mixture of linear layers, seen as a whole?": (
            _bank(lambda self, x: torch.stack(_each(self, x), 1))
        ),
        "the ReLU comes before the layer, on the input. What does an expert do last?": (
            _bank(lambda self, x: torch.stack(_each(self, x.relu()), 1))
        ),
        "a sigmoid follows the layer and not a ReLU. Which one does the text ask for?": (
            _bank(lambda self, x: torch.stack(_each(self, x), 1).sigmoid())
        ),
        "a tanh follows the layer and not a ReLU. Which one does the text ask for?": (
            _bank(lambda self, x: torch.stack(_each(self, x), 1).tanh())
        ),
        "the outputs are stacked on the first axis: (E, B, H). Which axis does the batch have in this series?": (
            _bank(lambda self, x: torch.stack(_each(self, x), 0).relu())
        ),
        "the outputs are stacked on the last axis: (B, H, E). Where should the axis of the experts stand?": (
            _bank(lambda self, x: torch.stack(_each(self, x), 2).relu())
        ),
        "the outputs stand side by side on one axis: (B, E*H). Does `cat` make a new axis, or a longer one?": (
            _bank(lambda self, x: torch.cat(_each(self, x), 1).relu())
        ),
        "the outputs are joined one below the other: (E*B, H). Does `cat` make a new axis, or a longer one?": (
            _bank(lambda self, x: torch.cat(_each(self, x), 0).relu())
        ),
        "the experts are already added up. Who decides later how much of each a task gets?": (
            _bank(lambda self, x: sum(torch.relu(h) for h in _each(self, x)))
        ),
        "the experts are already averaged. Who decides later how much of each a task gets?": (
            _bank(lambda self, x: torch.stack(_each(self, x), 1).relu().mean(1))
        ),
        "each expert reads the output of the one before. What is the input of every expert?": _bank(_chain),
        "the first expert answers for all. Which expert should fill slot e?": (
            _bank(lambda self, x: self.experts[0](x).relu()[:, None].repeat(1, len(self.experts), 1))
        ),
        "the experts come in the reverse order. Which expert should fill slot 0?": (
            _bank(lambda self, x: torch.stack(_each(self, x)[::-1], 1).relu())
        ),
        "the experts have no bias. What does `nn.Linear` hold beside its weight?": (
            _bank(experts=lambda D, H, E: nn.ModuleList(nn.Linear(D, H, bias=False) for _ in range(E)))
        ),
        "there is one expert too many. How often does your loop run?": (
            _bank(experts=lambda D, H, E: nn.ModuleList(nn.Linear(D, H) for _ in range(E + 1)))
        ),
        "there are H layers of width E: the two sizes are swapped. How many experts are there, and how wide is each?": (
            _bank(experts=lambda D, H, E: nn.ModuleList(nn.Linear(D, E) for _ in range(H)))
        ),
        "`torch.tensor` was asked to join tensors; it makes new ones from plain numbers. Which function puts tensors "
        "on a new axis?": _bank(lambda self, x: torch.tensor([torch.relu(h) for h in _each(self, x)])),
        "the outputs are cut up as (H, E) and not as (E, H). In which order does one wide layer hold the experts?": (
            _bank(
                lambda self, x: self.experts(x).relu().view(-1, self.H, self.E).transpose(1, 2),
                _one_layer,
            )
        ),
        "`view` or `reshape` turns (E, B, H) into (B, E, H): it keeps the order of the numbers and mixes up the "
        "users. Which function swaps two axes?": (
            _bank(lambda self, x: torch.stack(_each(self, x), 0).relu().reshape(len(x), -1, self.H))
        ),
        "`squeeze()` removes an axis of length one wherever it finds it. What is the shape for B = 1?": (
            _bank(lambda self, x: torch.stack(_each(self, x), 1).relu().squeeze())
        ),
        "a softmax runs over the experts here. Is it the experts or the gate that decides about shares?": (
            _bank(lambda self, x: torch.stack(_each(self, x), 1).relu().softmax(1))
        ),
        "the experts learn nothing: their outputs are detached. Through which tensor do the tasks train them?": (
            _bank(lambda self, x: torch.stack(_each(self, x), 1).relu().detach())
        ),
        "the sizes of an expert are swapped: H to D. How many numbers does it read, and how many does it give?": (
            _bank(experts=lambda D, H, E: nn.ModuleList(nn.Linear(H, D) for _ in range(E)))
        ),
        "the experts have D outputs. How many numbers does an expert give?": (
            _bank(experts=lambda D, H, E: nn.ModuleList(nn.Linear(D, D) for _ in range(E)))
        ),
        "the experts have H inputs. How wide is x?": (
            _bank(experts=lambda D, H, E: nn.ModuleList(nn.Linear(H, H) for _ in range(E)))
        ),
    },
    also_right=[
        _bank(lambda self, x: self.experts(x).relu().view(-1, self.E, self.H), _one_layer),
        _bank(
            lambda self, x: F.relu(
                torch.einsum("bd,ehd->beh", x, torch.stack([e.weight for e in self.experts]))
                + torch.stack([e.bias for e in self.experts])
            )
        ),
        _bank(lambda self, x: torch.cat([torch.relu(h).unsqueeze(1) for h in _each(self, x)], dim=1)),
        _bank(lambda self, x: torch.stack(_each(self, x)).clamp(min=0).transpose(0, 1)),
        _bank(
            lambda self, x: torch.stack(_each(self, x), dim=-2),
            lambda D, H, E: nn.ModuleList(nn.Sequential(nn.Linear(D, H), nn.ReLU()) for _ in range(E)),
        ),
    ],
)


# --- 2.3 mix -----------------------------------------------------------------------------------------------


def mix(weights, experts):
    return torch.bmm(weights, experts)


def _mix_loop(weights, experts):
    tasks = []
    for t in range(weights.shape[1]):
        tasks.append(sum(weights[:, t, e, None] * experts[:, e] for e in range(experts.shape[1])))
    return torch.stack(tasks, dim=1)


def _mix_draw(rng, B=None, T=None, square=False):
    B, T = some(rng, B, T)
    E = T if square else int(rng.integers(5, 8))
    H = E if square else int(rng.integers(8, 11))
    logits = 1.5 * rng.normal(size=(B, T, E))
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return Draw(
        {"weights": weights.astype(np.float32), "experts": rng.normal(size=(B, E, H)).astype(np.float32)}
    )


MIX = Exercise(
    id="2.3",
    title="mix the experts for every task",
    how="function",
    reference=mix,
    shape="(B, T, H)",
    grads=["weights", "experts"],
    example=Trial(
        "one user, experts (1, 0), (0, 1), (1, 1): like takes half of the first two, click the last (worked by hand)",
        {
            "weights": np.array([[[0.5, 0.5, 0], [0, 0, 1]]], np.float32),
            "experts": np.array([[[1, 0], [0, 1], [1, 1]]], np.float32),
        },
        grads=["weights", "experts"],
        want={"out": np.array([[[0.5, 0.5], [1, 1]]])},
    ),
    draw=_mix_draw,
    sizes=ONE_ROW_ONE_TASK | {"as many tasks as experts and units": {"square": True, "T": 3}},
    mistakes={
        "the experts are averaged and the weights are not used. What does the gate change then?": (
            lambda w, h: h.mean(1, keepdim=True).expand(-1, w.shape[1], -1)
        ),
        "the experts are added up and the weights are not used. What does the gate change then?": (
            lambda w, h: h.sum(1, keepdim=True).expand(-1, w.shape[1], -1)
        ),
        "the weighted experts are averaged, so everything is E times too small. The weights sum to 1 already: what "
        "is left to divide by?": lambda w, h: (w[..., None] * h[:, None]).mean(2),
        "the weighted experts are not added up: there is an axis too many. Which letter is in both inputs, but not "
        "in the result?": lambda w, h: w[..., None] * h[:, None],
        "all tasks use the weights of the first task. Which axis of `weights` counts the tasks?": (
            lambda w, h: (w[:, :1] @ h).repeat(1, w.shape[1], 1)
        ),
        "all tasks use the same weights, the mean over the tasks. Is this MMoE, or the model with one gate?": (
            lambda w, h: (w.mean(1, keepdim=True) @ h).repeat(1, w.shape[1], 1)
        ),
        "the mixtures of the tasks are added up. Which axis has to stay in the result?": (
            lambda w, h: (w @ h).sum(1)
        ),
        "the mixtures of all users are added up. Does your einsum keep the letter b?": (
            lambda w, h: (w @ h).sum(0)
        ),
        "all users use the mean weights of the batch. Which axis of `weights` counts the users?": (
            lambda w, h: w.mean(0) @ h
        ),
        "the axes of tasks and experts are swapped in `weights`: expert e gives its share to the wrong task. Which "
        "axis of `weights` must meet the expert axis?": lambda w, h: w.transpose(1, 2) @ h,
        "`view` or `reshape` turns (B, E, H) into (B, H, E): it keeps the order of the numbers and mixes up experts "
        "and units. Which function swaps two axes?": (
            lambda w, h: (h.reshape(len(h), h.shape[2], -1) @ w.transpose(1, 2)).transpose(1, 2)
        ),
        "the mixtures are joined one below the other and then cut up: users and tasks are mixed up. Which function "
        "puts tensors on a new axis?": lambda w, h: (w @ h).transpose(0, 1).reshape(len(w), w.shape[1], -1),
        "the result is (B, H, T). In which order does the text name the axes?": (
            lambda w, h: (w @ h).transpose(1, 2)
        ),
        "the result is (T, B, H). In which order does the text name the axes?": (
            lambda w, h: (w @ h).transpose(0, 1)
        ),
        "a second softmax runs over the weights. What do the weights of one task sum to before it?": (
            lambda w, h: w.softmax(-1) @ h
        ),
        "only the expert with the largest weight is used. What happens to the others' share?": (
            lambda w, h: (w * (w == w.amax(-1, keepdim=True))) @ h
        ),
        "the weights are multiplied onto the experts entry by entry. Which letters stand one below the other in "
        "(B, T, E) and (B, E, H)?": lambda w, h: w * h,
        "experts times weights is the wrong way round. Which two axes meet in a matrix product?": (
            lambda w, h: h @ w
        ),
        "you sum over the units and keep the experts. Which letter is not in the result?": (
            lambda w, h: (w[..., None] * h[:, None]).sum(3)
        ),
        "only the last expert is left: each turn of your loop overwrites the one before. What should happen to the "
        "sum so far?": lambda w, h: w[:, :, -1:] * h[:, -1:],
        "the largest expert wins in each unit. How does a weighted sum differ from a maximum?": (
            lambda w, h: (w[..., None] * h[:, None]).amax(2)
        ),
        "the weights meet the units and not the experts: (B, E) is multiplied onto the last axis. Where does "
        "`weights` need a new axis?": lambda w, h: (w[:, :, None, :] * h[:, None]).sum(2),
        "a ReLU follows the sum. The experts have theirs already: what else does the text ask for?": (
            lambda w, h: (w @ h).relu()
        ),
        "`squeeze()` removes an axis of length one wherever it finds it: one user or one task loses its axis. What "
        "is the shape for B = 1?": lambda w, h: (w @ h).squeeze(),
        "the weights are detached, so the gates learn nothing. Through which tensor does a task train its gate?": (
            lambda w, h: w.detach() @ h
        ),
        "the experts are detached, so they learn nothing. Through which tensor do the tasks train them?": (
            lambda w, h: w @ h.detach()
        ),
    },
    also_right=[
        _mix_loop,
        lambda w, h: torch.einsum("bte,beh->bth", w, h),
        lambda w, h: (w.unsqueeze(-1) * h.unsqueeze(1)).sum(dim=2),
        lambda w, h: torch.stack([w[b] @ h[b] for b in range(len(w))]),
        lambda w, h: (w.double() @ h.double()).to(w.dtype),
    ],
)
