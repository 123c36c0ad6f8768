"""Exercises 4.8, 4.9: whom a task's loss reaches in HoME, and HoME itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from autograde_tests.exercise import Draw, Exercise, Trial, true_or_false, wrong_towers
from mtlkit.models.home import two_levels

# --- 4.8 what does the loss of A train? --------------------------------------------------------------------

RIGHT = {
    "level 2: B's own experts": False,
    "level 2: the experts of A's category": True,
    "level 2: the experts of C's category": False,
    "level 2: the shared experts": True,
    "level 1: the experts of C's category": True,
    "level 1: the gate of C's category": False,
    "level 1: the self gate of C's category": False,
    "level 1: the feature gate of C's category": True,
}
ASKS = {
    "level 2: B's own experts": "A's loss trains B's own experts. Who may see them on level 2?",
    "level 2: the experts of A's category": (
        "A's loss leaves the experts of its category alone. Which three kinds of experts does A's gate see?"
    ),
    "level 2: the experts of C's category": (
        "A's loss trains the experts of C's category on level 2. Which three kinds of experts does A's gate see?"
    ),
    "level 2: the shared experts": (
        "A's loss leaves the shared experts of level 2 alone. Which three kinds of experts does A's gate see?"
    ),
    "level 1: the experts of C's category": (
        "A's loss never reaches the experts of C's category. What does the shared gate of level 1 see, and who reads "
        "what it makes?"
    ),
    "level 1: the gate of C's category": (
        "A's loss trains the gate of C's category. Who reads the vector that it makes?"
    ),
    "level 1: the self gate of C's category": (
        "A's loss trains the self gate of C's category. To which vector is its part added, and who reads that one?"
    ),
    "level 1: the feature gate of C's category": (
        "A's loss never reaches the feature gate of C's category. Which experts read through it, and does A's loss "
        "reach those?"
    ),
}


WHO_IS_TRAINED = true_or_false(
    "4.8",
    "predict: what does the loss of task A train?",
    "eight groups of parameters, True where A's loss sends a gradient",
    RIGHT,
    ASKS,
)


# --- 4.9 HoME ----------------------------------------------------------------------------------------------


class HoME(nn.Module):
    def __init__(self, D, H, groups):
        super().__init__()
        self.meta, self.task = two_levels(D, groups, [[H], [H]])
        self.towers = nn.ModuleList(nn.Linear(H, 1) for _ in groups)
        self.groups, self.C = groups, max(groups) + 1

    def forward(self, x):
        z = self.meta(x, x)  # (B, C + 1, H)
        own = [z[:, c] for c in self.groups] + [z[:, c] for c in range(self.C)] + [z[:, -1]]
        both = [torch.cat([z[:, c], z[:, -1]], dim=1) for c in range(self.C)]
        h = self.task(torch.stack(own, dim=1), torch.stack(both, dim=1))  # (B, T, H)
        return torch.cat([tower(h[:, t]) for t, tower in enumerate(self.towers)], dim=1)  # (B, T)


def _reads(self):
    """Which vector of level 1 each group of experts of level 2 reads."""
    return [*self.groups, *range(self.C), self.C]


def _both(z):
    """The input of the gates of level 2, (B, C, 2H)."""
    return torch.cat([z[:, :-1], z[:, -1:].expand_as(z[:, :-1])], 2)


def _y(self, h):
    return torch.cat([tower(h[:, t]) for t, tower in enumerate(self.towers)], 1)


def _home(forward):
    return type("HoME", (HoME,), {"forward": forward})


def _with(
    z=lambda self, x: self.meta(x, x),
    reads=lambda self, z, x: z[:, _reads(self)],
    both=lambda self, z, x: _both(z),
    h=lambda self, h: h,
    end=lambda y: y,
):
    """HoME with another step: z of level 1, what its experts and gates read on level 2, its outputs, its end."""

    def forward(self, x):
        made = z(self, x)
        return end(_y(self, h(self, self.task(reads(self, made, x), both(self, made, x)))))

    return _home(forward)


def _next(self, c):
    """The next category, or the shared vector for the last one."""
    return (c + 1) % (self.C + 1)


def _draw(rng, B=None, T=None):
    B, T = B or int(rng.integers(14, 20)), T or int(rng.integers(4, 6))
    # three categories: with two, a wrong order of the vectors can be another wrong order
    groups = [1, 0, 2, *(int(c) for c in rng.integers(0, 3, size=max(T - 3, 0)))][:T]
    groups = groups if T > 1 else [0]
    D = 2 * int(rng.integers(3, 5))  # D = H: a part that reads x is a wrong number, not a crash
    return Draw({"x": rng.normal(size=(B, D)).astype(np.float32)}, build={"D": D, "H": D, "groups": groups})


HOME_MODEL = Exercise(
    id="4.9",
    title="HoME",
    how="module",
    reference=HoME,
    shape="(B, T)",
    grads=["x"],
    may_use=["mtlkit.models.home.two_levels", "mtlkit.models.home.HoMELevel", "mtlkit.layers."],
    example=Trial(
        "three users, tasks long_view, complete_view, like; every expert gives the same number (worked by hand)",
        {"x": np.array([[1, 0], [2, 0], [3, 0]], np.float32)},
        grads=["x"],
        build={"D": 2, "H": 2, "groups": [0, 0, 1]},
        state={
            name: np.zeros(shape, np.float32) if "running_var" not in name else np.ones(shape, np.float32)
            for name, shape in {
                "meta.feature_gates.down.weight": (3, 2, 2),
                "meta.feature_gates.up.weight": (6, 2, 1),
                "meta.feature_gates.gates.weight": (6, 2),
                "meta.experts.layers.0.weight": (3, 2, 2),
                "meta.experts.norm.running_mean": (3, 2),
                "meta.experts.norm.running_var": (3, 2),
                "meta.gates.weight": (7, 2),
                "meta.self_gates.weight": (3, 2),
                "task.feature_gates.down.weight": (6, 2, 2),
                "task.feature_gates.up.weight": (12, 2, 1),
                "task.feature_gates.gates.weight": (12, 2),
                "task.experts.layers.0.weight": (6, 2, 2),
                "task.experts.norm.running_mean": (6, 2),
                "task.experts.norm.running_var": (6, 2),
                "task.gates.weight": (9, 4),
                "task.self_gates.weight": (3, 4),
            }.items()
        }
        | {
            "meta.experts.norm.weight": np.zeros((3, 2), np.float32),
            "meta.experts.norm.bias": np.ones((3, 2), np.float32),
            "task.experts.norm.weight": np.zeros((6, 2), np.float32),
            "task.experts.norm.bias": np.full((6, 2), 2, np.float32),
        }
        | {f"towers.{t}.weight": np.array([[t + 1, 0]], np.float32) for t in range(3)}
        | {f"towers.{t}.bias": np.array([-t], np.float32) for t in range(3)},
        want={"out": np.tile(1.5 * 2 / (1 + np.exp(-2)) * np.array([1, 2, 3]) - np.arange(3), (3, 1))},
    ),
    draw=_draw,
    sizes={"random sizes": {}, "two tasks": {"T": 2}, "one task": {"T": 1}},
    real_valued=False,  # two levels are slow to build; float64 and strides are the parts' own affair
    mistakes={
        # what the experts of level 2 read
        "all experts of level 2 read x again. What did level 1 make?": _with(
            reads=lambda self, z, x: x[:, None].expand(-1, len(_reads(self)), -1)
        ),
        "all experts of level 2 read the shared vector. Whose vector does a task's own expert read?": _with(
            reads=lambda self, z, x: z[:, -1:].expand(-1, len(_reads(self)), -1)
        ),
        "all experts of level 2 read the first category's vector. Whose vector does a task's own expert read?": _with(
            reads=lambda self, z, x: z[:, :1].expand(-1, len(_reads(self)), -1)
        ),
        "all experts of level 2 read the mean of the vectors. Has each group an input of its own?": _with(
            reads=lambda self, z, x: z.mean(1, keepdim=True).expand(-1, len(_reads(self)), -1)
        ),
        "a task's own experts read the shared vector. Which vector is made for its category?": _with(
            reads=lambda self, z, x: z[:, [self.C] * len(self.groups) + _reads(self)[len(self.groups) :]]
        ),
        "a category's experts read the shared vector. Which vector is made for the category?": _with(
            reads=lambda self, z, x: z[:, [*self.groups, *[self.C] * self.C, self.C]]
        ),
        "the shared experts read the first category's vector. Which vector has seen all experts of level 1?": _with(
            reads=lambda self, z, x: z[:, [*self.groups, *range(self.C), 0]]
        ),
        "the shared experts read the mean of all vectors. Which vector has seen all experts of level 1?": _with(
            reads=lambda self, z, x: torch.cat([z[:, _reads(self)[:-1]], z.mean(1, keepdim=True)], 1)
        ),
        "a task's own experts read the vector of the category that has the number of the task. What does `groups` "
        "tell?": _with(
            reads=lambda self, z, x: z[
                :, [t % self.C for t in range(len(self.groups))] + _reads(self)[len(self.groups) :]
            ]
        ),
        "a task's own experts read the vector behind that of its category. Which row of z is it?": _with(
            reads=lambda self, z, x: z[
                :, [_next(self, c) for c in self.groups] + _reads(self)[len(self.groups) :]
            ]
        ),
        "the shared vector is given first. In which order do the groups of experts of level 2 stand?": _with(
            reads=lambda self, z, x: z[:, _reads(self)].roll(1, dims=1)
        ),
        "the vectors of the categories come before those of the tasks. In which order do the groups of experts stand?": (
            _with(reads=lambda self, z, x: z[:, [*range(self.C), *self.groups, self.C]])
        ),
        "the experts of level 2 get their vectors in the reverse order. In which order do the groups stand?": _with(
            reads=lambda self, z, x: z[:, _reads(self)].flip(1)
        ),
        "x is added to the vectors of level 1. Is there such a shortcut in the text?": _with(
            z=lambda self, x: self.meta(x, x) + x[:, None]
        ),
        "level 1 is cut off from training (`detach`). What would its experts learn?": _with(
            z=lambda self, x: self.meta(x, x).detach()
        ),
        "a softmax lies between the levels. What stands between them in the text?": _with(
            z=lambda self, x: self.meta(x, x).softmax(2)
        ),
        "the features for level 1 are gated twice: before it, and in it. What does `self.meta` do with x?": _with(
            z=lambda self, x: self.meta(self.meta.feature_gates(x), x)
        ),
        # what the gates read
        "the gates of level 1 read what the feature gates made. Which input do all gates read?": _with(
            z=lambda self, x: self.meta(x, self.meta.feature_gates(x))
        ),
        "the gates of level 2 read x. Which two vectors stand side by side in the text?": _with(
            both=lambda self, z, x: torch.cat([x, x], 1)[:, None].expand(-1, self.C, -1)
        ),
        "the gates of level 2 read the shared vector first. Which of the two stands first in the text?": _with(
            both=lambda self, z, x: torch.cat([z[:, -1:].expand_as(z[:, :-1]), z[:, :-1]], 2)
        ),
        "the gates of level 2 read the category's vector twice. Which two vectors stand side by side in the text?": _with(
            both=lambda self, z, x: torch.cat([z[:, :-1], z[:, :-1]], 2)
        ),
        "the gates of level 2 read the shared vector twice. Which two vectors stand side by side in the text?": _with(
            both=lambda self, z, x: torch.cat([z[:, -1:], z[:, -1:]], 2).expand(-1, self.C, -1)
        ),
        "the gates of level 2 read the vector of another category. Whose gates are they?": _with(
            both=lambda self, z, x: torch.cat(
                [z[:, [_next(self, c) for c in range(self.C)]], z[:, -1:].expand_as(z[:, :-1])], 2
            )
        ),
        "the gates of level 2 are cut off from training (`detach`). What would level 1 learn from them?": _with(
            both=lambda self, z, x: _both(z).detach()
        ),
        # towers
        "the towers read level 1: level 2 does nothing. Which level is the last one?": _home(
            lambda self, x: _y(self, self.meta(x, x)[:, self.groups])
        ),
        **wrong_towers(
            lambda towers: _home(
                lambda self, x: towers(
                    self, self.task(self.meta(x, x)[:, _reads(self)], _both(self.meta(x, x)))
                )
            ),
            _y,
            "row",
        ),
        "the towers read the rows in the reverse order. Which row belongs to tower t?": _with(
            h=lambda self, h: h.flip(1)
        ),
        "all towers read the first task's row. Which row belongs to tower t?": _with(
            h=lambda self, h: h[:, :1].expand_as(h)
        ),
        "x is added before the towers. Is there such a shortcut in the text?": _home(
            lambda self, x: _y(
                self,
                self.task(self.meta(x, x)[:, _reads(self)], _both(self.meta(x, x))) + x[:, None],
            )
        ),
        "a sigmoid sits at the end. Which of the two do models of this series return: logits or probabilities?": (
            _with(end=lambda y: y.sigmoid())
        ),
        "the result is (T, B). Along which axis do the towers stand side by side?": _with(end=lambda y: y.T),
    },
    also_right=[
        _with(),
        _home(
            lambda self, x: torch.stack(
                [
                    tower(row)[:, 0]
                    for tower, row in zip(
                        self.towers,
                        self.task(
                            self.meta(x, x)[:, _reads(self)],
                            _both(self.meta(x[:, None].expand(-1, self.C + 1, -1), x)),
                        ).unbind(1),
                        strict=True,
                    )
                ],
                1,
            )
        ),
    ],
)
