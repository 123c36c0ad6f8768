"""Exercises 3.5, 3.6: PLE of two levels, and what a task's loss trains in it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from autograde_tests.exercise import (
    ONE_ROW_ONE_TASK,
    Draw,
    Exercise,
    Trial,
    some,
    true_or_false,
    wrong_towers,
)
from mtlkit.layers import Towers, mix
from mtlkit.models.cgc import Level, own_and_shared

# --- 3.5 two levels ----------------------------------------------------------------------------------------


class PLE(nn.Module):
    def __init__(self, D, H, experts):
        super().__init__()
        T = len(experts) - 1
        self.first = Level(D, experts, [H], own_and_shared(experts, T, shared_gate=True))
        self.second = Level(H, experts, [H], own_and_shared(experts, T))
        self.towers = nn.ModuleList(nn.Linear(H, 1) for _ in range(T))

    def forward(self, x):
        g = self.first(x)  # (B, T + 1, H)
        g = self.second(g)  # (B, T, H)
        return torch.cat([tower(g[:, t]) for t, tower in enumerate(self.towers)], dim=1)


def _y(self, g):
    return torch.cat([tower(g[:, t]) for t, tower in enumerate(self.towers)], 1)  # (B, T)


PARTS = {
    "first": lambda D, H, e, T: Level(D, e, [H], own_and_shared(e, T, shared_gate=True)),
    "second": lambda D, H, e, T: Level(H, e, [H], own_and_shared(e, T)),
    "towers": lambda D, H, e, T: nn.ModuleList(nn.Linear(H, 1) for _ in range(T)),
}


def _ple(forward=None, **parts):
    """A PLE with another forward, or other parts: name -> function of the sizes."""

    def init(self, D, H, experts):
        nn.Module.__init__(self)
        for name, build in (PARTS | parts).items():
            setattr(self, name, build(D, H, experts, len(experts) - 1))

    return type("PLE", (PLE,), {"__init__": init} | ({"forward": forward} if forward else {}))


def _between(change):
    """The second level reads ``change(self, g, x)`` in place of g (B, T + 1, H)."""
    return _ple(lambda self, x: _y(self, self.second(change(self, self.first(x), x))))


def _after(change):
    return _ple(lambda self, x: change(self, _y(self, self.second(self.first(x)))))


def _swap(g):
    """Task k reads what task k + 1 made; the shared module keeps its own."""
    return torch.cat([g[:, :-1].roll(1, dims=1), g[:, -1:]], 1)


def _first(change):
    """A first level with another matrix: change(experts, T) -> visible."""
    return lambda D, H, e, T: Level(D, e, [H], change(e, T))


def _second(change):
    return lambda D, H, e, T: Level(H, e, [H], change(e, T))


def _all_experts(self, x):
    """(B, E, H) of the first level."""
    return self.first.experts(x)


def _with_mean(g):
    """The tasks' mixtures (B, T, H) with their mean as the input of the shared module."""
    return torch.cat([g, g.mean(1, keepdim=True)], 1)


def _ple_draw(rng, B=None, T=None, H=None):
    B, T = some(rng, B, T)
    experts = [*(int(n) for n in rng.permutation([1, 2, 3, 4])[:T]), int(rng.integers(2, 4))]
    D = int(rng.integers(8, 11))
    # mostly D = H: then a level that reads x is a wrong number, not a crash
    build = {"D": D, "H": H or D, "experts": experts}
    return Draw({"x": rng.normal(size=(B, D)).astype(np.float32)}, build=build)


PLE_MODEL = Exercise(
    id="3.5",
    title="PLE of two levels",
    how="module",
    reference=PLE,
    shape="(B, T)",
    grads=["x"],
    may_use=["mtlkit.models.cgc.Level", "mtlkit.models.cgc.own_and_shared", "mtlkit.layers."],
    example=Trial(
        "one user with x = 1, an expert per module and level: logits 6 and 10 (worked by hand)",
        {"x": np.array([[1]], np.float32)},
        grads=["x"],
        build={"D": 1, "H": 1, "experts": [1, 1, 1]},
        state={
            "first.experts.layers.0.weight": np.array([[[2]], [[4]], [[6]]], np.float32),
            "first.experts.layers.0.bias": np.zeros((3, 1), np.float32),
            "first.gates.weight": np.zeros((7, 1), np.float32),
            "second.experts.layers.0.weight": np.array([[[1]], [[1]], [[2]]], np.float32),
            "second.experts.layers.0.bias": np.zeros((3, 1), np.float32),
            "second.gates.weight": np.zeros((4, 1), np.float32),
            "towers.0.weight": np.array([[1]], np.float32),
            "towers.0.bias": np.array([0], np.float32),
            "towers.1.weight": np.array([[2]], np.float32),
            "towers.1.bias": np.array([-3], np.float32),
        },
        want={"out": np.array([[6.0, 10.0]])},
    ),
    draw=_ple_draw,
    sizes=ONE_ROW_ONE_TASK | {"inputs wider than the experts": {"H": 5}},
    mistakes={
        # the levels
        "the last level has a shared gate. Who would read what it gives?": _ple(
            lambda self, x: _y(self, self.second(self.first(x))),
            second=_second(lambda e, T: own_and_shared(e, T, shared_gate=True)),
        ),
        "the first level has no shared gate. What can the shared experts of the second level read?": _ple(
            lambda self, x: _y(self, self.second(_with_mean(self.first(x)))),
            first=_first(lambda e, T: own_and_shared(e, T)),
        ),
        "every gate of the first level sees every expert. Which matrix has the first level?": _ple(
            first=_first(lambda e, T: torch.ones(T + 1, sum(e)))
        ),
        "every gate of the second level sees every expert. Which matrix has the second level?": _ple(
            second=_second(lambda e, T: torch.ones(T, sum(e)))
        ),
        "the shared gate sees the shared experts only. What may the shared gate of the first level see?": _ple(
            first=_first(
                lambda e, T: torch.cat(
                    [own_and_shared(e, T), (torch.arange(sum(e)) >= sum(e[:-1]))[None]],
                )
            )
        ),
        "every module has as many experts as that of the first task. What does the list `experts` tell?": _ple(
            first=lambda D, H, e, T: PARTS["first"](D, H, e[:1] * len(e), T),
            second=lambda D, H, e, T: PARTS["second"](D, H, e[:1] * len(e), T),
        ),
        "both levels are one and the same object. How many sets of experts has a PLE of two levels?": _ple(
            lambda self, x: _y(self, self.second(self.first(x))[:, : len(self.towers)]),
            second=lambda D, H, e, T: None,
        ),
        # sizes
        "the second level has the input width of the first. How wide is what the first level gives?": _ple(
            second=lambda D, H, e, T: Level(D, e, [H], own_and_shared(e, T))
        ),
        "the first level is made for H inputs, not for D. How wide is x?": _ple(
            first=lambda D, H, e, T: Level(H, e, [H], own_and_shared(e, T, shared_gate=True))
        ),
        "the experts of the first level make D numbers, not H. Which width stands in the list of a `Level`?": _ple(
            first=lambda D, H, e, T: Level(D, e, [D], own_and_shared(e, T, shared_gate=True))
        ),
        "the experts of the second level make D numbers, not H. Which width stands in the list of a `Level`?": _ple(
            second=lambda D, H, e, T: Level(H, e, [D], own_and_shared(e, T))
        ),
        "a tower is made for D inputs, not for H. What does a tower read: x or a mixture?": _ple(
            towers=lambda D, H, e, T: nn.ModuleList(nn.Linear(D, 1) for _ in range(T))
        ),
        # what the second level reads
        "the second level reads x again. What did the first level make?": _between(lambda self, g, x: x),
        "the gates of the second level read x, only its experts read the level below. What does a gate of "
        "level 2 read in Eq. 6?": _ple(
            lambda self, x: _y(self, mix(self.second.weights(x), self.second.experts(self.first(x))))
        ),
        "the experts of the second level read x, only its gates read the level below. What is the input of an "
        "expert on level 2?": _ple(
            lambda self, x: _y(self, mix(self.second.weights(self.first(x)), self.second.experts(x)))
        ),
        "the second level reads the mean of the first level's experts. Which module reads what: has each its own "
        "input?": _between(lambda self, g, x: _all_experts(self, x).mean(1)),
        "the second level reads the sum of the first level's experts. Which module reads what: has each its own "
        "input?": _between(lambda self, g, x: _all_experts(self, x).sum(1)),
        "the second level reads the first level's experts as they are, without its gates. How many rows has "
        "(B, T+1, H)?": _between(lambda self, g, x: _all_experts(self, x)[:, : g.shape[1]]),
        "all modules of the second level read the shared mixture. Which row of g belongs to task k?": _between(
            lambda self, g, x: g[:, -1]
        ),
        "all modules of the second level read the first task's mixture. Which row of g belongs to task k?": (
            _between(lambda self, g, x: g[:, 0])
        ),
        "all modules of the second level read the mean of the mixtures. Has each module its own input?": (
            _between(lambda self, g, x: g.mean(1))
        ),
        "the shared module of the second level reads x. Which row of g is its own?": _between(
            lambda self, g, x: torch.cat([g[:, :-1], x[:, None]], 1)
        ),
        "the shared module of the second level reads the mean of the tasks' mixtures. What is the shared gate for?": (
            _between(lambda self, g, x: _with_mean(g[:, :-1]))
        ),
        "the shared mixture is put first, so every module reads the row of another one. In which order do the modules "
        "stand?": _between(lambda self, g, x: g.roll(1, dims=1)),
        "each task reads the mixture of its neighbour. Which row of g belongs to task k?": _between(
            lambda self, g, x: _swap(g)
        ),
        "x is added to the output of the first level. Is there such a shortcut in Eq. 6?": _between(
            lambda self, g, x: g + x[:, None]
        ),
        "a softmax lies between the levels. What stands between them in Eq. 6?": _between(
            lambda self, g, x: g.softmax(-1)
        ),
        "the first level is cut off from training (`detach`). What would its experts learn?": _between(
            lambda self, g, x: g.detach()
        ),
        # towers
        "the towers read the first level: the second one does nothing. Which level is the last one?": _ple(
            lambda self, x: _y(self, self.first(x))
        ),
        **wrong_towers(
            lambda towers: _ple(lambda self, x: towers(self, self.second(self.first(x)))), _y, "mixture"
        ),
        "the towers read the mixtures in the reverse order. Which row belongs to tower t?": _ple(
            lambda self, x: _y(self, self.second(self.first(x)).flip(1))
        ),
        "all towers read the mixture of the first task. Which row belongs to tower t?": _ple(
            lambda self, x: _y(self, self.second(self.first(x))[:, :1].expand(-1, len(self.towers), -1))
        ),
        "all towers are one and the same object. How many layers does `[layer] * T` make?": _ple(
            towers=lambda D, H, e, T: nn.ModuleList([nn.Linear(H, 1)] * T)
        ),
        "there is a tower for the shared module, too. How many tasks are there?": _ple(
            lambda self, x: _y(self, self.first(x)),
            towers=lambda D, H, e, T: nn.ModuleList(nn.Linear(H, 1) for _ in range(T + 1)),
        ),
        "a sigmoid sits at the end. Which of the two do models of this series return: logits or probabilities?": (
            _after(lambda self, y: y.sigmoid())
        ),
        "the result is (T, B). Along which axis do the towers stand side by side?": _after(
            lambda self, y: y.T
        ),
        "`squeeze()` removes an axis of length one wherever it finds it. What is the shape for B = 1?": _after(
            lambda self, y: y.squeeze()
        ),
    },
    also_right=[
        _ple(lambda self, x: self.towers(self.second(self.first(x))), towers=lambda D, H, e, T: Towers(H, T)),
        _ple(
            lambda self, x: _y(
                self,
                mix(
                    self.second.weights(self.first(x)[:, : len(self.towers)]),
                    self.second.experts(self.first(x)),
                ),
            )
        ),
        _ple(
            lambda self, x: _y(self, self.second(self.first(x[:, None].repeat(1, len(self.towers) + 1, 1))))
        ),
        _ple(
            lambda self, x: torch.stack(
                [t(z)[:, 0] for t, z in zip(self.towers, self.second(self.first(x)).unbind(1), strict=True)],
                1,
            )
        ),
    ],
)


# --- 3.6 what does the loss of A train? --------------------------------------------------------------------

RIGHT = {
    "one level: B's experts": False,
    "one level: the shared experts": True,
    "two levels: B's experts of level 1": True,
    "two levels: B's experts of level 2": False,
    "two levels: the shared gate of level 1": True,
    "two levels: B's gate of level 1": False,
    "two levels: B's tower": False,
}
ASKS = {
    "one level: B's experts": "A's loss trains B's experts with one level. Which experts does A's gate see?",
    "one level: the shared experts": (
        "A's loss leaves the shared experts alone. Which experts does A's gate see beside its own?"
    ),
    "two levels: B's experts of level 1": (
        "A's loss never reaches B's experts of level 1. Who reads them there beside B's gate, and who reads that?"
    ),
    "two levels: B's experts of level 2": (
        "A's loss trains B's experts of level 2. Which gate mixes them on the last level?"
    ),
    "two levels: the shared gate of level 1": (
        "A's loss does not train the shared gate of level 1. Who reads the shared experts of level 2?"
    ),
    "two levels: B's gate of level 1": (
        "A's loss trains B's gate of level 1. Which modules of level 2 read B's mixture?"
    ),
    "two levels: B's tower": "A's loss trains B's tower. Does the logit of A depend on it?",
}


WHO_IS_TRAINED = true_or_false(
    "3.6",
    "predict: what does the loss of task A train?",
    "seven groups of parameters, True where A's loss sends a gradient",
    RIGHT,
    ASKS,
)
