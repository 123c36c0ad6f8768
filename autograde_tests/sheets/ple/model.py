"""Exercise 3.3: CGC."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from autograde_tests.exercise import ONE_ROW_ONE_TASK, Draw, Exercise, Trial, some, wrong_towers


class CGC(nn.Module):
    def __init__(self, D, H, own, shared, T):
        super().__init__()
        self.own, self.shared, self.T = own, shared, T
        self.experts = nn.ModuleList(nn.Linear(D, H) for _ in range(T * own + shared))
        self.gates = nn.ModuleList(nn.Linear(D, own + shared, bias=False) for _ in range(T))
        self.towers = nn.ModuleList(nn.Linear(H, 1) for _ in range(T))

    def forward(self, x):
        h = torch.stack([torch.relu(expert(x)) for expert in self.experts], dim=1)  # (B, E, H)
        z = [torch.einsum("be,beh->bh", _w(self, x, t), _seen(self, h, t)) for t in range(self.T)]
        return torch.cat([tower(z[t]) for t, tower in enumerate(self.towers)], dim=1)  # (B, T)


def _h(self, x):
    return torch.stack([expert(x) for expert in self.experts], 1).relu()  # (B, E, H)


def _w(self, x, t):
    return self.gates[t](x).softmax(1)  # (B, own + shared)


def _seen(self, h, t):
    """S^k (Eq. 4): the task's own experts, then the shared ones."""
    return torch.cat([h[:, t * self.own : (t + 1) * self.own], h[:, self.T * self.own :]], 1)


def _y(self, z):
    return torch.cat([tower(z[:, t]) for t, tower in enumerate(self.towers)], 1)  # (B, T)


PARTS = {
    "experts": lambda D, H, own, shared, T: [nn.Linear(D, H) for _ in range(T * own + shared)],
    "gates": lambda D, H, own, shared, T: [nn.Linear(D, own + shared, bias=False) for _ in range(T)],
    "towers": lambda D, H, own, shared, T: [nn.Linear(H, 1) for _ in range(T)],
}


def _model(forward=None, **parts):
    """A CGC with another forward, or other parts: name -> function of the sizes."""

    def init(self, D, H, own, shared, T):
        nn.Module.__init__(self)
        self.own, self.shared, self.T = own, shared, T
        for name, build in PARTS.items():
            made = parts.get(name, build)(D, H, own, shared, T)
            setattr(self, name, made if name in parts else nn.ModuleList(made))

    return type("CGC", (CGC,), {"__init__": init} | ({"forward": forward} if forward else {}))


def _with(h=_h, w=_w, seen=_seen, mixed=None, towers=_y):
    """A CGC with other steps: h(self, x), w(self, x, t), seen(self, h, t), mixed(w, s), towers(self, z)."""
    mixed = mixed or (lambda weights, s: (weights[..., None] * s).sum(1))

    def forward(self, x):
        experts = h(self, x)
        z = [mixed(w(self, x, t), seen(self, experts, t)) for t in range(self.T)]
        return towers(self, torch.stack(z, 1))

    return _model(forward)


def _part(begin):
    """S^k with the own experts from column ``begin(self, t)`` on, then the shared ones."""

    def seen(self, h, t):
        columns = [c % h.shape[1] for c in range(begin(self, t), begin(self, t) + self.own)]
        return torch.cat([h[:, columns], h[:, self.T * self.own :]], 1)

    return _with(seen=seen)


def _shared_first_in_list(self, h, t):
    first = self.shared + t * self.own
    return torch.cat([h[:, first : first + self.own], h[:, : self.shared]], 1)


def _experts_before_gate(self, x):
    experts = _h(self, x)
    weights = [self.gates[t](experts.mean(1)).softmax(1) for t in range(self.T)]
    return _y(
        self,
        torch.stack([(weights[t][..., None] * _seen(self, experts, t)).sum(1) for t in range(self.T)], 1),
    )


def _same(name):
    def build(*sizes):
        layers = PARTS[name](*sizes)
        return nn.ModuleList(layers[:1] * len(layers))

    return _model(**{name: build})


def _layers(name, layer):
    """A CGC with other layers in one part: layer(D, H, own + shared)."""

    def build(D, H, own, shared, T):
        number = len(PARTS[name](D, H, own, shared, T))
        return nn.ModuleList(layer(D, H, own + shared) for _ in range(number))

    return _model(**{name: build})


def _masked(self, x):
    """All gates in one matrix (T, E) with a mask."""
    E, D = len(self.experts), x.shape[1]
    full, visible = x.new_zeros(self.T, E, D), torch.zeros(self.T, E, dtype=torch.bool, device=x.device)
    for t, gate in enumerate(self.gates):
        columns = [*range(t * self.own, (t + 1) * self.own), *range(self.T * self.own, E)]
        full[t, columns] = gate.weight
        visible[t, columns] = True
    w = torch.einsum("bd,ted->bte", x, full).masked_fill(~visible, -torch.inf).softmax(2)
    return _y(self, w @ _h(self, x))


def _wide(self, x):
    h = self.experts(x).relu().unflatten(1, (self.T * self.own + self.shared, -1))
    w = self.gates(x).unflatten(1, (self.T, self.own + self.shared)).softmax(2)
    z = torch.stack([torch.bmm(w[:, t : t + 1], _seen(self, h, t))[:, 0] for t in range(self.T)], 1)
    return _y(self, z)


def _cgc_draw(rng, B=None, T=None, own=None, shared=None, H=None):
    B, T = some(rng, B, T)
    own = int(rng.integers(2, 4)) if own is None else own
    shared = own + int(rng.integers(1, 3)) if shared is None else shared  # never as many as own
    D = int(rng.integers(8, 11))
    # mostly inputs as wide as outputs: then a wrong reader is a wrong number, not a crash
    build = {"D": D, "H": H or D, "own": own, "shared": shared, "T": T}
    return Draw({"x": (0.5 * rng.normal(size=(B, D))).astype(np.float32)}, build=build)


CGC_MODEL = Exercise(
    id="3.3",
    title="CGC",
    how="module",
    reference=CGC,
    shape="(B, T)",
    grads=["x"],
    example=Trial(
        "one user with x = (1, 2), an expert for like, one for click, one shared (worked by hand)",
        {"x": np.array([[1, 2]], np.float32)},
        grads=["x"],
        build={"D": 2, "H": 2, "own": 1, "shared": 1, "T": 2},
        state={
            "experts.0.weight": np.array([[1, 1], [1, -1]], np.float32),
            "experts.0.bias": np.array([0, 0], np.float32),
            "experts.1.weight": np.array([[0, 1], [3, 0]], np.float32),
            "experts.1.bias": np.array([0, -2], np.float32),
            "experts.2.weight": np.array([[1, 0], [0, 0]], np.float32),
            "experts.2.bias": np.array([0, 2], np.float32),
            "gates.0.weight": np.array([[0, 0], [0, 0]], np.float32),
            "gates.1.weight": np.array([[np.log(3), 0], [0, 0]], np.float32),
            "towers.0.weight": np.array([[2, 2]], np.float32),
            "towers.0.bias": np.array([1], np.float32),
            "towers.1.weight": np.array([[-4, 4]], np.float32),
            "towers.1.bias": np.array([0], np.float32),
        },
        want={"out": np.array([[7.0, -2.0]])},
    ),
    draw=_cgc_draw,
    sizes=ONE_ROW_ONE_TASK
    | {
        "no shared experts": {"shared": 0},
        "no experts of their own": {"own": 0, "shared": 3},
        "inputs wider than the experts": {"H": 5},
    },
    mistakes={
        # who sees whom
        "the shared experts come first in what a gate sees. In which order does the text list them?": _with(
            seen=lambda self, h, t: _seen(self, h, t).roll(self.shared, dims=1)
        ),
        "the shared experts stand first in `self.experts`. In which order does the text put them?": _with(
            seen=_shared_first_in_list
        ),
        "every task reads the own experts of task 0. Where does the part of task t begin?": (
            _part(lambda self, t: 0)
        ),
        "a task reads the experts of the next task. Where does the part of task t begin?": (
            _part(lambda self, t: (t + 1) % self.T * self.own)
        ),
        "the part of task t begins at column t. How many experts stand before those of task t?": (
            _part(lambda self, t: t)
        ),
        "the part of a task begins one expert too late. At which column does the part of task 0 begin?": (
            _part(lambda self, t: t * self.own + 1)
        ),
        "`[-shared:]` picks the last experts, and for shared = 0 it picks all of them. What does a task see when "
        "nothing is shared?": _with(
            seen=lambda self, h, t: torch.cat(
                [h[:, t * self.own : (t + 1) * self.own], h[:, -self.shared :]], 1
            )
        ),
        "there are as many shared experts as own ones. Which argument tells how many are shared?": _model(
            experts=lambda D, H, own, shared, T: nn.ModuleList(nn.Linear(D, H) for _ in range(T * own + own)),
            gates=lambda D, H, own, shared, T: nn.ModuleList(
                nn.Linear(D, own + own, bias=False) for _ in range(T)
            ),
        ),
        "each task has shared experts for itself alone. How many copies of a shared expert are there?": _model(
            experts=lambda D, H, own, shared, T: nn.ModuleList(
                nn.Linear(D, H) for _ in range(T * (own + shared))
            )
        ),
        "the gates see every expert: that is MMoE. How many experts may the gate of one task weigh?": _model(
            lambda self, x: _y(
                self, torch.stack([gate(x).softmax(1) for gate in self.gates], 1) @ _h(self, x)
            ),
            gates=lambda D, H, own, shared, T: nn.ModuleList(
                nn.Linear(D, T * own + shared, bias=False) for _ in range(T)
            ),
        ),
        "the own experts of a task are added without a gate, only the shared ones are weighed. Over which experts "
        "does the softmax of its gate run?": _with(
            mixed=lambda w, s: (
                s[:, : s.shape[1] // 2].sum(1)
                + (w[:, s.shape[1] // 2 :, None] * s[:, s.shape[1] // 2 :]).sum(1)
            )
        ),
        # sizes
        "an expert makes D numbers, not H. How wide is what an expert gives?": _layers(
            "experts", lambda D, H, seen: nn.Linear(D, D)
        ),
        "an expert reads H numbers, not D. What does an expert read: x or another expert?": _layers(
            "experts", lambda D, H, seen: nn.Linear(H, H)
        ),
        "D and H of the experts have changed places. Which of the two is the width of x?": _layers(
            "experts", lambda D, H, seen: nn.Linear(H, D)
        ),
        "a gate is made for H inputs, not for D. What does a gate read: x or the experts?": _layers(
            "gates", lambda D, H, seen: nn.Linear(H, seen, bias=False)
        ),
        "a tower is made for D inputs, not for H. What does a tower read: x or a mixture?": _layers(
            "towers", lambda D, H, seen: nn.Linear(D, 1)
        ),
        # gates
        "all tasks read the first gate. Which gate belongs to task t?": _with(
            w=lambda self, x, t: _w(self, x, 0)
        ),
        "all gates are one and the same object. How many layers does `[layer] * T` make?": _same("gates"),
        "the gates have a bias. What does W x have that W x + b has not: which of the two has the text?": _model(
            gates=lambda D, H, own, shared, T: nn.ModuleList(nn.Linear(D, own + shared) for _ in range(T))
        ),
        "the softmax is missing: the experts are weighed with logits. Can a share be below zero?": _with(
            w=lambda self, x, t: self.gates[t](x)
        ),
        "each weight goes through a sigmoid of its own. What do the weights of a task sum to then?": _with(
            w=lambda self, x, t: self.gates[t](x).sigmoid()
        ),
        "the softmax runs over the batch (axis 0). Whose weights have to sum to 1?": _with(
            w=lambda self, x, t: self.gates[t](x).softmax(0)
        ),
        "the own and the shared experts have a softmax each. What do the weights of a task sum to then?": _with(
            w=lambda self, x, t: torch.cat(
                [z.softmax(1) for z in self.gates[t](x).split([self.own, self.shared], 1)], 1
            )
        ),
        "the gates read what the experts say, not x. What is the input of a gate in the text?": (
            _model(_experts_before_gate)
        ),
        "the gates are not used: the experts that a task sees are averaged. What should the weights depend on?": (
            _with(mixed=lambda w, s: s.mean(1))
        ),
        "the gates are not used: the experts that a task sees are added up. What should the weights depend on?": (
            _with(mixed=lambda w, s: s.sum(1))
        ),
        "the gates are cut off from training (`detach`). How would they ever learn whom to ask?": _with(
            w=lambda self, x, t: _w(self, x, t).detach()
        ),
        # experts and towers
        "the ReLU of the experts is missing. What is a mixture of linear layers, seen as a whole?": _with(
            h=lambda self, x: torch.stack([expert(x) for expert in self.experts], 1)
        ),
        "the ReLU comes after the mixing. What does an expert do last?": _with(
            h=lambda self, x: torch.stack([expert(x) for expert in self.experts], 1),
            mixed=lambda w, s: (w[..., None] * s).sum(1).relu(),
        ),
        "the weighted experts are averaged and so too small. The weights sum to 1 already: what is left to divide "
        "by?": _with(mixed=lambda w, s: (w[..., None] * s).mean(1)),
        "the outputs of the experts are joined one below the other and then cut up: users and experts are mixed "
        "up. Which function puts tensors on a new axis?": _with(
            h=lambda self, x: _h(self, x).transpose(0, 1).reshape(len(x), len(self.experts), -1)
        ),
        "all experts are one and the same object. How many layers does `[layer] * E` make?": _same("experts"),
        "all towers are one and the same object. How many layers does `[layer] * T` make?": _same("towers"),
        **wrong_towers(lambda towers: _with(towers=towers), _y, "mixture"),
        "the towers read the mixtures in the reverse order. Which mixture belongs to tower t?": _with(
            towers=lambda self, z: _y(self, z.flip(1))
        ),
        "all towers read the mixture of the first task. Which mixture belongs to tower t?": _with(
            towers=lambda self, z: _y(self, z[:, :1].expand_as(z))
        ),
        "a sigmoid sits at the end. Which of the two do models of this series return: logits or probabilities?": (
            _with(towers=lambda self, z: _y(self, z).sigmoid())
        ),
        "`squeeze()` removes an axis of length one wherever it finds it. What is the shape for B = 1?": _with(
            towers=lambda self, z: _y(self, z).squeeze()
        ),
        "the result is (T, B). Along which axis do the towers stand side by side?": _with(
            towers=lambda self, z: _y(self, z).T
        ),
    },
    also_right=[
        _model(_masked),
        _model(
            _wide,
            experts=lambda D, H, own, shared, T: nn.Linear(D, (T * own + shared) * H),
            gates=lambda D, H, own, shared, T: nn.Linear(D, T * (own + shared), bias=False),
        ),
        _with(mixed=lambda w, s: torch.bmm(w[:, None].double(), s.double())[:, 0].to(s.dtype)),
        _with(
            seen=lambda self, h, t: (
                torch.cat(
                    [
                        torch.stack(h.unbind(1)[: self.T * self.own], 1)[
                            :, t * self.own : (t + 1) * self.own
                        ],
                        h[:, self.T * self.own :],
                    ],
                    1,
                )
                if self.own
                else h
            )
        ),
    ],
)
