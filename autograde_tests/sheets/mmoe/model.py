"""Exercise 2.4: MMoE."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from autograde_tests.exercise import ONE_ROW_ONE_TASK, Draw, Exercise, Trial, some, wrong_towers


class MMoE(nn.Module):
    def __init__(self, D, H, E, T):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(D, H) for _ in range(E))
        self.gates = nn.ModuleList(nn.Linear(D, E, bias=False) for _ in range(T))
        self.towers = nn.ModuleList(nn.Linear(H, 1) for _ in range(T))

    def forward(self, x):
        h = torch.stack([torch.relu(expert(x)) for expert in self.experts], dim=1)  # (B, E, H)
        w = torch.stack([gate(x).softmax(dim=1) for gate in self.gates], dim=1)  # (B, T, E)
        z = torch.bmm(w, h)  # (B, T, H)
        return torch.cat([tower(z[:, t]) for t, tower in enumerate(self.towers)], dim=1)


PARTS = {
    "experts": lambda D, H, E, T: [nn.Linear(D, H) for _ in range(E)],
    "gates": lambda D, H, E, T: [nn.Linear(D, E, bias=False) for _ in range(T)],
    "towers": lambda D, H, E, T: [nn.Linear(H, 1) for _ in range(T)],
}


def _model(forward=None, **parts):
    """An MMoE with another forward, or other parts: name -> function of the sizes."""

    def init(self, **sizes):
        nn.Module.__init__(self)
        self.E, self.H, self.T = sizes["E"], sizes["H"], sizes["T"]
        for name, build in PARTS.items():
            if name in parts:
                setattr(self, name, parts[name](**sizes))
            else:
                setattr(self, name, nn.ModuleList(build(**sizes)))

    return type("MMoE", (MMoE,), {"__init__": init} | ({"forward": forward} if forward else {}))


def _with(experts=None, weights=None, mixed=None, towers=None):
    """An MMoE with other steps: experts(self, x), weights(self, x), mixed(w, h), towers(self, z)."""

    def forward(self, x):
        h = (experts or _h)(self, x)
        z = (mixed or torch.bmm)((weights or _w)(self, x), h)
        return (towers or _y)(self, z)

    return _model(forward)


def _h(self, x):
    return torch.stack([expert(x) for expert in self.experts], 1).relu()  # (B, E, H)


def _g(self, x):
    return torch.stack([gate(x) for gate in self.gates], 1)  # (B, T, E) logits


def _w(self, x):
    return _g(self, x).softmax(-1)  # (B, T, E)


def _y(self, z):
    return torch.cat([tower(z[:, t]) for t, tower in enumerate(self.towers)], 1)  # (B, T)


def _gates_on_experts(self, x):
    h = _h(self, x)
    return _y(self, torch.bmm(_w(self, h.mean(1)), h))


def _in_place_of_z(read):
    """Every tower reads ``read(self, x)`` (B, H)."""
    return _model(lambda self, x: torch.cat([tower(read(self, x)) for tower in self.towers], 1))


def _plain_list(name):
    return _model(**{name: PARTS[name]})


def _same(name):
    def build(**sizes):
        layers = PARTS[name](**sizes)
        return nn.ModuleList(layers[:1] * len(layers))

    return _model(**{name: build})


def _hidden_gate(D, H, E, T):
    return nn.ModuleList(
        nn.Sequential(nn.Linear(D, E), nn.ReLU(), nn.Linear(E, E, bias=False)) for _ in range(T)
    )


def _cut_up(rows):
    """Rows (B, N, K), joined along the first axis, (N*B, K), and cut up as if they were (B, N, K)."""
    return rows.transpose(0, 1).reshape(rows.shape)


def _wide_forward(self, x):
    h = self.experts(x).relu().view(-1, self.E, self.H)
    w = self.gates(x).view(-1, self.T, self.E).softmax(2)
    rows = torch.stack([tower.weight[0] for tower in self.towers])
    return (torch.einsum("bte,beh->bth", w, h) * rows).sum(-1) + torch.cat([t.bias for t in self.towers])


def _loop(self, x):
    tasks = []
    for gate, tower in zip(self.gates, self.towers, strict=True):
        w, z = F.softmax(gate(x), dim=-1), 0
        for e, expert in enumerate(self.experts):
            z = z + w[:, e : e + 1] * F.relu(expert(x))
        tasks.append(tower(z)[:, 0])
    return torch.stack(tasks, dim=1)


def _model_draw(rng, B=None, T=None, E=None, square=False, wider=0):
    B, T = some(rng, B, T)
    E = T if square else E or int(rng.integers(5, 8))
    H = int(rng.integers(8, 11))
    # inputs as wide as outputs: a gate or a tower that reads the wrong thing is a wrong number, not a crash
    D = H + wider
    return Draw(
        {"x": (0.5 * rng.normal(size=(B, D))).astype(np.float32)}, build={"D": D, "H": H, "E": E, "T": T}
    )


MMOE = Exercise(
    id="2.4",
    title="MMoE",
    how="module",
    reference=MMoE,
    shape="(B, T)",
    grads=["x"],
    example=Trial(
        "one user with x = (1, 2), two experts, two tasks (worked by hand)",
        {"x": np.array([[1.0, 2.0]], np.float32)},
        grads=["x"],
        build={"D": 2, "H": 2, "E": 2, "T": 2},
        state={
            "experts.0.weight": np.array([[1, 1], [1, -1]], np.float32),
            "experts.0.bias": np.array([0, 0], np.float32),
            "experts.1.weight": np.array([[0, 1], [3, 0]], np.float32),
            "experts.1.bias": np.array([0, -2], np.float32),
            "gates.0.weight": np.array([[0, 0], [0, 0]], np.float32),
            "gates.1.weight": np.array([[0, 0], [np.log(3), 0]], np.float32),
            "towers.0.weight": np.array([[2, 4]], np.float32),
            "towers.0.bias": np.array([1], np.float32),
            "towers.1.weight": np.array([[-4, 4]], np.float32),
            "towers.1.bias": np.array([0], np.float32),
        },
        want={"out": np.array([[8.0, -6.0]])},
    ),
    draw=_model_draw,
    sizes=ONE_ROW_ONE_TASK
    | {
        "one expert": {"E": 1},
        "as many tasks as experts": {"square": True, "T": 3},
        "inputs wider than an expert": {"wider": 3},
    },
    mistakes={
        # gates
        "there is a single gate for all tasks: that is OMoE, the model with one gate. How many gates has MMoE?": (
            _model(
                lambda self, x: _y(
                    self, (self.gates(x).softmax(1)[:, None] @ _h(self, x)).repeat(1, self.T, 1)
                ),
                gates=lambda D, H, E, T: nn.Linear(D, E, bias=False),
            )
        ),
        "all tasks read the mixture of the first gate. Which gate, and so which mixture, belongs to task t?": _with(
            weights=lambda self, x: _w(self, x)[:, :1].repeat(1, self.T, 1)
        ),
        "all tasks read the mixture of the last gate. Does your loop keep what the gates before it said?": _with(
            weights=lambda self, x: _w(self, x)[:, -1:].repeat(1, self.T, 1)
        ),
        "the gates are stacked on the first axis: (T, B, E). Which axis does the batch have in this series?": _with(
            weights=lambda self, x: _w(self, x).transpose(0, 1)
        ),
        "the weights come out as (T, B, E). Which axis does the batch have in this series?": _with(
            weights=lambda self, x: _w(self, x).transpose(0, 1),
            mixed=lambda w, h: torch.einsum("bte,beh->bth", w, h),
        ),
        "all gates are one and the same object. How many layers does `[layer] * T` make?": _same("gates"),
        "the gates have a bias. What does W x have that W x + b has not: which one is Eq. 8?": _model(
            gates=lambda D, H, E, T: nn.ModuleList(nn.Linear(D, E) for _ in range(T))
        ),
        "the gates have a hidden layer. How many layers lie between x and the softmax in Eq. 8?": _model(
            gates=_hidden_gate
        ),
        "the gates read the experts' outputs and not x. Who should know first what a user is like?": _model(
            _gates_on_experts
        ),
        "the softmax of the gates is missing. What should the weights of one task sum to?": _with(weights=_g),
        "the softmax runs over the tasks. Whose weights have to sum to 1: those of one task, or those of one "
        "expert?": _with(weights=lambda self, x: _g(self, x).softmax(1)),
        "the softmax runs over the batch. Should a user's logits depend on who else is in the batch?": _with(
            weights=lambda self, x: _g(self, x).softmax(0)
        ),
        "a BatchNorm sits before the softmax. Should a user's logits depend on who else is in the batch?": _with(
            weights=lambda self, x: (
                F.batch_norm(_g(self, x).flatten(1), None, None, training=True)
                .view(len(x), self.T, -1)
                .softmax(2)
            )
        ),
        "the gates end in a sigmoid and not in a softmax. What do the weights of one task sum to then?": _with(
            weights=lambda self, x: _g(self, x).sigmoid()
        ),
        "there is a gate for each expert, and it weighs the tasks. Whose gate is it in MMoE, and what does it weigh?": (
            _model(gates=lambda D, H, E, T: nn.ModuleList(nn.Linear(D, T, bias=False) for _ in range(E)))
        ),
        "only the expert with the largest weight is used. What happens to the others' share?": _with(
            weights=lambda self, x: (_w(self, x) == _w(self, x).amax(2, keepdim=True)).to(x)
        ),
        "the gates' logits are divided by sqrt(E). That is a habit from attention: does Eq. 8 divide by anything?": (
            _with(weights=lambda self, x: (_g(self, x) / self.E**0.5).softmax(2))
        ),
        "a ReLU sits between gate and softmax. Can such a gate still turn an expert down?": _with(
            weights=lambda self, x: _g(self, x).relu().softmax(2)
        ),
        "the gates are detached. How would a task ever learn whom to ask?": _with(
            weights=lambda self, x: _w(self, x).detach()
        ),
        # experts
        "all experts are one and the same object. How many layers does `[layer] * E` make?": _same("experts"),
        "the ReLU of the experts is missing. What is left of the experts if everything in them is linear?": _with(
            experts=lambda self, x: torch.stack([expert(x) for expert in self.experts], 1)
        ),
        "the experts stand in a plain Python list, which torch does not look into. Which container registers "
        "layers?": _plain_list("experts"),
        "each task has E experts of its own. In MMoE, who do the experts belong to?": _model(
            experts=lambda D, H, E, T: nn.ModuleList(nn.Linear(D, H) for _ in range(T * E))
        ),
        "the outputs of the experts are joined one below the other and then cut up: users and experts are mixed "
        "up. Which function puts tensors on a new axis?": _with(experts=lambda self, x: _cut_up(_h(self, x))),
        "the outputs of the gates are joined one below the other and then cut up: users and tasks are mixed up. "
        "Which function puts tensors on a new axis?": _with(weights=lambda self, x: _cut_up(_w(self, x))),
        # mixture
        "the experts are averaged and the gates are not used. Where do the weights enter?": _in_place_of_z(
            lambda self, x: _h(self, x).mean(1)
        ),
        "the experts are added up and the gates are not used. Where do the weights enter?": _in_place_of_z(
            lambda self, x: _h(self, x).sum(1)
        ),
        "the weighted experts are averaged, so everything is E times too small. The weights sum to 1 already: what "
        "is left to divide by?": _with(mixed=lambda w, h: (w[..., None] * h[:, None]).mean(2)),
        "tasks and experts are swapped when you mix. Which axis of the weights must meet the expert axis?": _with(
            mixed=lambda w, h: w.transpose(1, 2) @ h
        ),
        "the weights meet the units and not the experts. Where do the weights need a new axis?": _with(
            mixed=lambda w, h: (w[:, :, None, :] * h[:, None]).sum(2)
        ),
        "the ReLU comes after the mixing. In Eq. 7, what is f_i: the expert with its ReLU, or without?": _with(
            experts=lambda self, x: torch.stack([expert(x) for expert in self.experts], 1),
            mixed=lambda w, h: torch.bmm(w, h).relu(),
        ),
        # towers
        **wrong_towers(lambda towers: _with(towers=towers), _y, "mixture"),
        "the towers read the mixtures in the reverse order. Which mixture belongs to tower t?": _with(
            towers=lambda self, z: _y(self, z.flip(1))
        ),
        "tower t reads expert t and not the mixture of task t. Which axis of your tensor counts the tasks?": _model(
            lambda self, x: _y(self, _h(self, x))
        ),
        "the towers read x. What are the experts for?": _in_place_of_z(lambda self, x: x),
        "all towers are one and the same object. How many layers does `[layer] * T` make?": _same("towers"),
        "the gates stand in a plain Python list, which torch does not look into. Which container registers "
        "layers?": _plain_list("gates"),
        "the towers stand in a plain Python list, which torch does not look into. Which container registers "
        "layers?": _plain_list("towers"),
        "a sigmoid sits at the end. Which of the two do models of this series return: logits or probabilities?": (
            _with(towers=lambda self, z: _y(self, z).sigmoid())
        ),
        "a softmax at the end makes the tasks compete. Can a user not like and click at once?": _with(
            towers=lambda self, z: _y(self, z).softmax(1)
        ),
        "a ReLU sits at the end, so no logit is below zero. What would a logit of -2 tell you?": _with(
            towers=lambda self, z: _y(self, z).relu()
        ),
        "`squeeze()` removes an axis of length one wherever it finds it: one user or one task loses its axis. What "
        "is the shape for B = 1?": _with(towers=lambda self, z: _y(self, z).squeeze()),
        "the result is (T, B). Along which axis do the towers stand side by side?": _with(
            towers=lambda self, z: _y(self, z).T
        ),
        "the outputs of the towers are stacked on a new axis and one axis is left over. Which shape has one tower's "
        "output?": _with(towers=lambda self, z: _y(self, z)[..., None]),
        # sizes
        "the sizes of an expert are swapped: H to D. How many numbers does it read, and how many does it give?": (
            _model(experts=lambda D, H, E, T: nn.ModuleList(nn.Linear(H, D) for _ in range(E)))
        ),
        "the gates have H inputs. How wide is the x that a gate reads?": _model(
            gates=lambda D, H, E, T: nn.ModuleList(nn.Linear(H, E, bias=False) for _ in range(T))
        ),
        "the towers have D inputs. How wide is a mixture of experts?": _model(
            towers=lambda D, H, E, T: nn.ModuleList(nn.Linear(D, 1) for _ in range(T))
        ),
    },
    also_right=[
        _model(
            _wide_forward,
            experts=lambda D, H, E, T: nn.Linear(D, E * H),
            gates=lambda D, H, E, T: nn.Linear(D, T * E, bias=False),
        ),
        _model(_loop),
        _with(mixed=lambda w, h: torch.einsum("bte,beh->bth", w.double(), h.double()).to(h.dtype)),
        _with(mixed=lambda w, h: torch.stack([(w[:, t, :, None] * h).sum(1) for t in range(w.shape[1])], 1)),
        _model(
            lambda self, x: _y(self, _w(self, x) @ torch.stack([expert(x) for expert in self.experts], 1)),
            experts=lambda D, H, E, T: nn.ModuleList(
                nn.Sequential(nn.Linear(D, H), nn.ReLU()) for _ in range(E)
            ),
        ),
    ],
)
