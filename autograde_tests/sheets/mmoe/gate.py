"""Exercises 2.1, 2.7: the gate, alone and for all tasks."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from autograde_tests.exercise import ONE_ROW_ONE_TASK, Draw, Exercise, Trial, some

# --- 2.1 one gate ------------------------------------------------------------------------------------------


def gate(x, W):
    return torch.softmax(x @ W.T, dim=1)


def _logits(x, W):
    return x @ W.T


def _gate_loop(x, W):
    rows = []
    for row in x:
        powers = torch.exp(torch.stack([(row * w).sum() for w in W]))
        rows.append(powers / powers.sum())
    return torch.stack(rows)


def _gate_draw(rng, B=None, E=None):
    B, E = B or int(rng.integers(4, 9)), E or int(rng.integers(3, 6))
    D = int(rng.integers(6, 9))  # more inputs than experts: a product the wrong way round cannot work
    return Draw(
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in (("x", (B, D)), ("W", (E, D)))}
    )


GATE = Exercise(
    id="2.1",
    title="the gate of one task",
    how="function",
    reference=gate,
    shape="(B, E)",
    grads=["x", "W"],
    example=Trial(
        "two users, three experts: logits 0, log 2, log 5 give weights 1/8, 2/8, 5/8 (worked by hand)",
        {
            "x": np.array([[1, 0], [0, 1]], np.float32),
            "W": np.array([[0, 0], [np.log(2), 0], [np.log(5), np.log(2)]], np.float32),
        },
        grads=["x", "W"],
        want={"out": np.array([[1 / 8, 2 / 8, 5 / 8], [1 / 4, 1 / 4, 2 / 4]])},
    ),
    draw=_gate_draw,
    sizes={"random sizes": {}, "more rows": {"B": 24}, "a batch of one": {"B": 1}, "one expert": {"E": 1}},
    mistakes={
        "the softmax runs over the batch (axis 0). Whose weights have to sum to 1: those of one user, or those of "
        "one expert?": lambda x, W: torch.softmax(_logits(x, W), dim=0),
        "one softmax runs over the whole table, so the weights of all users together sum to 1. "
        "What should each row sum to?": lambda x, W: _logits(x, W).flatten().softmax(0).view(len(x), -1),
        "these are the logits: the softmax is missing. Can a weight be below zero?": _logits,
        "each weight goes through a sigmoid of its own. What do the weights of one user sum to then?": (
            lambda x, W: torch.sigmoid(_logits(x, W))
        ),
        "the softmax is applied twice. How large can the largest weight still be after the second one?": (
            lambda x, W: gate(x, W).softmax(1)
        ),
        "you return the logarithm of the weights. What is a share of 1/4: 0.25 or -1.39?": (
            lambda x, W: torch.log_softmax(_logits(x, W), 1)
        ),
        "the logits are divided by sqrt(E). That is a habit from attention: does Eq. 8 divide by anything?": (
            lambda x, W: torch.softmax(_logits(x, W) / len(W) ** 0.5, 1)
        ),
        "the logits are divided by sqrt(D). That is a habit from attention: does Eq. 8 divide by anything?": (
            lambda x, W: torch.softmax(_logits(x, W) / x.shape[1] ** 0.5, 1)
        ),
        "a BatchNorm sits before the softmax. Should a user's weights depend on who else is in the batch?": (
            lambda x, W: F.batch_norm(_logits(x, W), None, None, training=True).softmax(1)
        ),
        "the logits are standardised over the batch by hand. Should a user's weights depend on who else is in the "
        "batch?": lambda x, W: ((_logits(x, W) - _logits(x, W).mean(0)) / _logits(x, W).std(0)).softmax(1),
        "each user's logits are standardised before the softmax. How sure can such a gate become?": (
            lambda x, W: F.layer_norm(_logits(x, W), [len(W)]).softmax(1)
        ),
        "the logits are divided by their sum, without exp. What happens when one of them is negative?": (
            lambda x, W: _logits(x, W) / _logits(x, W).sum(1, keepdim=True)
        ),
        "the exponentials are not divided by anything. What makes them shares of a whole?": (
            lambda x, W: _logits(x, W).exp()
        ),
        "a ReLU sits before the softmax. Can this gate still tell an expert with logit -3 from one with logit 0?": (
            lambda x, W: _logits(x, W).relu().softmax(1)
        ),
        "a ReLU stands where the softmax should be. What do the weights of one user sum to then?": (
            lambda x, W: _logits(x, W).relu()
        ),
        "the sums have lost their axis, so a row is not divided by its own sum. Which argument of `sum` keeps an axis?": (
            lambda x, W: _logits(x, W).exp() / _logits(x, W).exp().sum(1)
        ),
        "the logits come from a new random layer and `W` is not used. What did you get W for?": (
            lambda x, W: nn.Linear(x.shape[1], len(W), bias=False)(x).softmax(1)
        ),
        "the winner takes all: one expert has weight 1, the others 0. What does the word *soft* in softmax mean?": (
            lambda x, W: F.one_hot(_logits(x, W).argmax(1), len(W)).to(x)
        ),
        "the sign of the logits is turned. Which expert should get most: the one with the highest logit or with "
        "the lowest?": lambda x, W: torch.softmax(-_logits(x, W), 1),
        "you multiply x with W as it is. W has one row per expert: which axes must meet in the product?": (
            lambda x, W: torch.softmax(x @ W, 1)
        ),
        "the result is (E, B). Which letter comes first in this series?": (
            lambda x, W: torch.softmax(W @ x.T, 0).T.contiguous().T
        ),
        "the gate is cut off from training (`detach`, `.data` or `no_grad`). How would it ever learn whom to ask?": (
            lambda x, W: gate(x, W).detach()
        ),
    },
    also_right=[
        _gate_loop,
        lambda x, W: torch.log_softmax(F.linear(x, W), dim=-1).exp(),
        lambda x, W: torch.einsum("bd,ed->be", x, W).softmax(-1),
        lambda x, W: torch.softmax(x.double() @ W.double().T, dim=1),
        lambda x, W: torch.exp(x @ W.T) / torch.exp(x @ W.T).sum(1, keepdim=True),
    ],
)


# --- 2.7 the gate with a BatchNorm -------------------------------------------------------------------------


class TaskGates(nn.Module):
    def __init__(self, D, E, T):
        super().__init__()
        self.E, self.T = E, T
        self.gates = nn.Linear(D, T * E, bias=False)

    def forward(self, x):
        return self.gates(x).view(-1, self.T, self.E).softmax(dim=-1)


def _gates(forward=None, norm=None, bias=False):
    """TaskGates with another forward, a part ``norm(width)``, or biases."""

    def init(self, D, E, T):
        nn.Module.__init__(self)
        self.E, self.T = E, T
        self.gates = nn.Linear(D, T * E, bias=bias)
        if norm:
            self.norm = norm(T * E)

    body = {"__init__": init} | ({"forward": forward} if forward else {})
    return type("TaskGates", (TaskGates,), body)


def _z(self, x):
    return self.gates(x).view(-1, self.T, self.E)  # (B, T, E)


def _flat(self, z):
    return z.view(-1, self.T, self.E).softmax(dim=-1)


def _normed(self, x):
    return _flat(self, self.norm(self.gates(x)))


def _by_hand(self, x):
    z = self.gates(x)
    return _flat(self, (z - z.mean(0)) / z.std(0))


def _unless_alone(self, x):
    z = self.gates(x)
    return _flat(self, F.batch_norm(z, None, None, training=True) if len(x) > 1 else z)


def _task_by_task(self, x):
    rows = self.gates.weight.view(self.T, self.E, -1)
    return torch.stack([torch.softmax(x @ w.T, 1) for w in rows], dim=1)


def _gates_draw(rng, B=None, T=None):
    B, T = some(rng, B, T)
    D, E = int(rng.integers(3, 6)), int(rng.integers(5, 8))  # more experts than tasks
    return Draw({"x": rng.normal(size=(B, D)).astype(np.float32)}, build={"D": D, "E": E, "T": T})


MENDED_GATE = Exercise(
    id="2.7",
    title="gates that look at one user only",
    how="module",
    reference=TaskGates,
    shape="(B, T, E)",
    grads=["x"],
    example=Trial(
        "the user x = (1, 0) beside another one: her weights stay 1/4, 3/4 and 1/2, 1/2 (worked by hand)",
        {"x": np.array([[1, 0], [0, 1]], np.float32)},
        grads=["x"],
        build={"D": 2, "E": 2, "T": 2},
        state={
            "gates.weight": np.array([[0, np.log(4)], [np.log(3), 0], [0, 0], [0, np.log(9)]], np.float32)
        },
        want={"out": np.array([[[1 / 4, 3 / 4], [1 / 2, 1 / 2]], [[4 / 5, 1 / 5], [1 / 10, 9 / 10]]])},
    ),
    draw=_gates_draw,
    sizes=ONE_ROW_ONE_TASK,
    mistakes={
        "`self.norm` is still a part of the gates, with weights of its own. Which numbers does Eq. 8 need beside "
        "W?": _gates(_normed, nn.BatchNorm1d),
        "the BatchNorm has lost its weights and still keeps running means of the batches. Which numbers does Eq. 8 "
        "need beside W?": _gates(_normed, lambda width: nn.BatchNorm1d(width, affine=False)),
        "a BatchNorm without a memory is still in `forward`. Who decides a user's weights: she, or her batch?": (
            _gates(lambda self, x: _flat(self, F.batch_norm(self.gates(x), None, None, training=True)))
        ),
        "the mean and the spread over the batch are taken by hand now. Who decides a user's weights: she, or her "
        "batch?": _gates(_by_hand),
        "the normalisation is skipped for a batch of one and kept for the others. Does the user beside you change "
        "your weights?": _gates(_unless_alone),
        "the inputs are normalised over the batch instead of the logits. Does the user beside you change your "
        "weights?": _gates(lambda self, x: _z(self, F.batch_norm(x, None, None, training=True)).softmax(-1)),
        "each user's logits are standardised over the experts. The batch is out of it, but how sure can such a gate "
        "become?": _gates(lambda self, x: F.layer_norm(_z(self, x), [self.E]).softmax(-1)),
        "each user's logits are standardised over all tasks and experts together. Should the gate of click depend "
        "on the gate of like?": (
            _gates(lambda self, x: _flat(self, F.layer_norm(self.gates(x), [self.T * self.E])))
        ),
        "the softmax left together with the BatchNorm. What should the weights of one task sum to?": (
            _gates(_z)
        ),
        "the softmax runs over the tasks (axis 1). Which axis holds the experts?": (
            _gates(lambda self, x: _z(self, x).softmax(1))
        ),
        "the softmax runs over the batch (axis 0), so the batch is still in it. Which axis holds the experts?": (
            _gates(lambda self, x: _z(self, x).softmax(0))
        ),
        "one softmax runs over all tasks together. What should the weights of one task sum to?": (
            _gates(lambda self, x: self.gates(x).softmax(1).view(-1, self.T, self.E))
        ),
        "the axes are unpacked as (E, T). The first E outputs belong to task 0: which axis changes slowest?": (
            _gates(lambda self, x: self.gates(x).view(-1, self.E, self.T).transpose(1, 2).softmax(-1))
        ),
        "the result is (B, E, T). In which order does the text name the axes?": (
            _gates(lambda self, x: _z(self, x).softmax(2).transpose(1, 2))
        ),
        "the outputs are cut into (B, E, T) and stay so. Which letter does the text name last?": (
            _gates(lambda self, x: self.gates(x).view(-1, self.E, self.T).softmax(-1))
        ),
        "the outputs are cut up with T first, which mixes up the users. Which axis has the batch after the layer?": (
            _gates(lambda self, x: self.gates(x).view(self.T, -1, self.E).transpose(0, 1).softmax(-1))
        ),
        "the tasks have no axis of their own: (B, T*E). Which function cuts one axis into two?": (
            _gates(lambda self, x: _z(self, x).softmax(2).flatten(1))
        ),
        "`squeeze()` removes an axis of length one wherever it finds it. What is the shape for B = 1?": (
            _gates(lambda self, x: _z(self, x).softmax(2).squeeze())
        ),
        "the mean over the batch is still taken off. Who decides a user's weights: she, or her batch?": (
            _gates(lambda self, x: _flat(self, self.gates(x) - self.gates(x).mean(0)))
        ),
        "a ReLU sits where the BatchNorm was. Can such a gate still turn an expert down?": (
            _gates(lambda self, x: _z(self, x).relu().softmax(2))
        ),
        "you return the logarithm of the weights. What is a share of 1/4: 0.25 or -1.39?": (
            _gates(lambda self, x: _z(self, x).log_softmax(2))
        ),
        "the softmax became a sigmoid. What do the weights of one task sum to then?": (
            _gates(lambda self, x: _z(self, x).sigmoid())
        ),
        "the BatchNorm became a division by sqrt(E). Does Eq. 8 divide by anything?": (
            _gates(lambda self, x: (_z(self, x) / self.E**0.5).softmax(-1))
        ),
        "the gates have a bias now. What does W x have that W x + b has not: which one is Eq. 8?": (
            _gates(bias=True)
        ),
        "all tasks use the gate of the first one. Whose weights does row t of the result hold?": (
            _gates(lambda self, x: _z(self, x)[:, :1].softmax(-1).repeat(1, self.T, 1))
        ),
    },
    also_right=[
        _gates(_task_by_task),
        _gates(lambda self, x: torch.stack(self.gates(x).split(self.E, dim=1), 1).softmax(2)),
        _gates(lambda self, x: F.softmax(self.gates(x).double().reshape(len(x), self.T, self.E), dim=-1)),
        _gates(norm=lambda width: nn.Identity()),
    ],
)
