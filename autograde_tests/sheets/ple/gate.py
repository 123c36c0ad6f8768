"""Exercises 3.1, 3.2: who may see which expert, and a gate that keeps to it."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from autograde_tests.exercise import ONE_ROW_ONE_TASK, Draw, Exercise, Trial, some

# --- 3.1 the boolean matrix --------------------------------------------------------------------------------


def who_sees_whom(own, shared):
    rows, first = [], 0
    for n in own:
        row = torch.zeros(sum(own) + shared, dtype=torch.bool)
        row[first : first + n] = True  # the task's own
        row[sum(own) :] = True  # the shared ones
        rows.append(row)
        first += n
    return torch.stack(rows)  # (T, E)


def _owners(own, shared):
    """(E,) the module of each expert: its task, or T for a shared one."""
    return torch.arange(len(own) + 1).repeat_interleave(torch.tensor([*own, shared]))


def _rule(rule):
    """A matrix with ``rule(owner (1, E), task (T, 1), T)`` in its cells."""

    def answer(own, shared):
        return rule(_owners(own, shared)[None], torch.arange(len(own))[:, None], len(own))

    return answer


def _shared_first(own, shared):
    right = who_sees_whom(own, shared)
    return torch.cat([right[:, sum(own) :], right[:, : sum(own)]], 1)


def _equal_numbers(own, shared):
    return who_sees_whom([own[0]] * len(own), shared)


def _as_many_shared_as_own(own, shared):
    return who_sees_whom(own, own[0])


def _columns_are_modules(own, shared):
    return torch.cat([torch.eye(len(own)), torch.ones(len(own), 1)], 1).bool()


def _next_position(own, shared):
    right = who_sees_whom(own, shared)
    return torch.cat([right[:, : sum(own)].roll(1, dims=1), right[:, sum(own) :]], 1)


def _all_begin_at_0(own, shared):
    rows = [[column < n for column in range(sum(own))] + [True] * shared for n in own]
    return torch.tensor(rows)


def _begins(begin):
    """Every task has its n columns from ``begin(own, t)`` on, then the shared ones."""

    def answer(own, shared):
        rows = torch.zeros(len(own), sum(own) + shared, dtype=torch.bool)
        for t, n in enumerate(own):
            rows[t, begin(own, t) : begin(own, t) + n] = True
        rows[:, sum(own) :] = True
        return rows

    return answer


def _visible_draw(rng, T=None, shared=None):
    T = T or int(rng.integers(3, 5))
    own = [int(n) for n in rng.permutation([1, 2, 3, 4])[:T]]  # another number for every task
    return Draw({"own": own, "shared": int(rng.integers(5, 7)) if shared is None else shared})


VISIBLE = Exercise(
    id="3.1",
    title="who sees whom",
    how="function",
    reference=who_sees_whom,
    shape="(T, E)",
    example=Trial(
        "like owns two experts, click owns one, two are shared: five columns (worked by hand)",
        {"own": [2, 1], "shared": 2},
        want={"out": np.array([[1, 1, 0, 1, 1], [0, 0, 1, 1, 1]])},
    ),
    draw=_visible_draw,
    sizes={"random numbers of experts": {}, "one task": {"T": 1}, "no shared experts": {"shared": 0}},
    real_valued=False,
    mistakes={
        "every task sees every expert: that is MMoE. Whose experts may a task never see in CGC?": (
            _rule(lambda owner, task, T: torch.ones_like(owner == task))
        ),
        "a task sees its own experts only: these are separate networks. Where could tasks learn from each other?": (
            _rule(lambda owner, task, T: owner == task)
        ),
        "a task sees the shared experts only. What did it get experts of its own for?": (
            _rule(lambda owner, task, T: (owner == T).expand(T, -1))
        ),
        "True and False are swapped: a task sees the experts of the others. What does True mean here?": (
            _rule(lambda owner, task, T: (owner != task) & (owner != T))
        ),
        "a task sees all but its own experts. Whose experts are hidden from it?": (
            _rule(lambda owner, task, T: owner != task)
        ),
        "a task sees its own experts and those of the tasks before it. Whose experts are its own?": (
            _rule(lambda owner, task, T: (owner <= task) | (owner == T))
        ),
        "a task sees the experts of the next task. Where does the part of task t begin?": (
            _rule(lambda owner, task, T: (owner == (task + 1) % T) | (owner == T))
        ),
        "a task's part begins one expert too late. At which column does the part of task 0 begin?": _next_position,
        "the part of every task begins at column 0. How many experts stand before those of task t?": _all_begin_at_0,
        "the part of task t begins at column t. How many experts stand before those of task t?": (
            _begins(lambda own, t: t)
        ),
        "the part of task t begins at t times its own number of experts. Do all tasks before it have as many?": (
            _begins(lambda own, t: t * own[t])
        ),
        "the part of a task begins where it should end. When do you count on: before a row is filled, or after?": (
            _begins(lambda own, t: sum(own[: t + 1]))
        ),
        "the shared experts stand first. In which order does the text put the columns?": _shared_first,
        "all tasks have as many experts as the first one. What does the list `own` tell?": _equal_numbers,
        "there are as many shared experts as experts of the first task. Which argument tells how many are shared?": (
            _as_many_shared_as_own
        ),
        "there is one column per module, not one per expert. How many columns have three experts of one task?": (
            _columns_are_modules
        ),
        "the matrix is (E, T). What are the rows: gates or experts?": (
            lambda own, shared: who_sees_whom(own, shared).T
        ),
        "there is a row too many: one that sees all experts. How many gates has the last level?": (
            lambda own, shared: F.pad(who_sees_whom(own, shared), (0, 0, 0, 1), value=True)
        ),
        "`[-shared:]` picks the last columns, and for shared = 0 it picks all of them. What does a task see when "
        "nothing is shared?": lambda own, shared: (
            who_sees_whom(own, shared) if shared else torch.ones(len(own), sum(own)).bool()
        ),
        "the shared experts are missing from the columns. How many columns does the text count?": (
            lambda own, shared: who_sees_whom(own, 0)
        ),
        "these are the places where the matrix is True, not the matrix. Which shape does the text ask for?": (
            lambda own, shared: who_sees_whom(own, shared).nonzero()
        ),
    },
    also_right=[
        _rule(lambda owner, task, T: (owner == task) | (owner == T)),
        lambda own, shared: who_sees_whom(own, shared).float(),
        lambda own, shared: np.array(
            [
                [k in (t, len(own)) for k, n in enumerate([*own, shared]) for _ in range(n)]
                for t in range(len(own))
            ]
        ),
        lambda own, shared: torch.cat(
            [torch.block_diag(*(torch.ones(1, n) for n in own)), torch.ones(len(own), shared)], dim=1
        ).bool(),
    ],
)


# --- 3.2 the gate with a mask ------------------------------------------------------------------------------


def masked_gate(x, W, visible):
    logits = torch.einsum("bd,ted->bte", x, W)  # (B, T, E)
    return logits.masked_fill(~visible, -torch.inf).softmax(dim=2)


def _z(x, W):
    return torch.einsum("bd,ted->bte", x, W)


def _gate_loop(x, W, visible):
    out = x.new_zeros(len(x), *visible.shape)
    for t, seen in enumerate(visible):
        out[:, t, seen] = torch.softmax(x @ W[t, seen].T, dim=1)
    return out


def _gate_draw(rng, B=None, T=None):
    B, T = some(rng, B, T)
    own = rng.integers(1, 3, size=T)
    owner = np.repeat(np.arange(T + 1), [*own, 2])
    visible = (owner == np.arange(T)[:, None]) | (owner == T)
    if T == 1:  # something must be hidden from the one task, too
        visible = np.concatenate([visible, [[False]]], 1)
    D = int(rng.integers(8, 11))
    x, W = rng.normal(size=(B, D)), 0.5 * rng.normal(size=(*visible.shape, D))
    return Draw({"x": x.astype(np.float32), "W": W.astype(np.float32), "visible": visible})


MASKED_GATE = Exercise(
    id="3.2",
    title="gates that see some of the experts",
    how="function",
    reference=masked_gate,
    shape="(B, T, E)",
    grads=["x", "W"],
    example=Trial(
        "one user: like sees experts 0 and 2 and says 3/4, 1/4; click sees 1 and 2 and says 1/5, 4/5 (worked by hand)",
        {
            "x": np.array([[1, 0]], np.float32),
            "W": np.array([[[np.log(3), 0], [5, 1], [0, 2]], [[7, 0], [0, 3], [np.log(4), 0]]], np.float32),
            "visible": np.array([[True, False, True], [False, True, True]]),
        },
        grads=["x", "W"],
        want={"out": np.array([[[3 / 4, 0, 1 / 4], [0, 1 / 5, 4 / 5]]])},
    ),
    draw=_gate_draw,
    sizes=ONE_ROW_ONE_TASK,
    mistakes={
        "the mask is not used: every task sees all experts, as in MMoE. Which argument says who sees whom?": (
            lambda x, W, v: _z(x, W).softmax(2)
        ),
        "the softmax comes before the mask: the hidden weights are cut away and the rest is too small. What do the "
        "weights of a task sum to now?": lambda x, W, v: _z(x, W).softmax(2) * v,
        "the masked weights are scaled along the wrong axis: for each expert, those of the tasks sum to 1. Whose "
        "weights should?": lambda x, W, v: F.normalize(_z(x, W).softmax(2) * v, p=1, dim=1),
        "the logits of hidden experts are set to 0, by a product or by hand. What is exp(0): no weight?": (
            lambda x, W, v: (_z(x, W) * v).softmax(2)
        ),
        "the hidden logits are made a little smaller, not minus infinity. Is a small weight the same as none?": (
            lambda x, W, v: (_z(x, W) - (~v).to(x)).softmax(2)
        ),
        **{
            f"the hidden logits are set to {low}, which still leaves a weight. What is exp({low}): is it 0?": (
                lambda x, W, v, low=low: _z(x, W).masked_fill(~v, low).softmax(2)
            )
            for low in (-1, -5, -10)
        },
        **{
            f"{less} is taken off the hidden logits, which still leaves a weight. What is exp(-{less}): is it 0?": (
                lambda x, W, v, less=less: (_z(x, W) - less * (~v).to(x)).softmax(2)
            )
            for less in (5, 10)
        },
        "the mask is turned: the visible experts are hidden. What does True mean in `visible`?": (
            lambda x, W, v: _z(x, W).masked_fill(v, -torch.inf).softmax(2)
        ),
        "0 times infinity is NaN, and you multiplied the mask with infinity. Which function fills the chosen cells "
        "and leaves the others alone?": lambda x, W, v: (_z(x, W) + (~v).to(x) * -torch.inf).softmax(2),
        "the softmax runs over the batch (axis 0), where a hidden expert leaves no number above minus infinity. Whose "
        "weights have to sum to 1?": lambda x, W, v: _z(x, W).masked_fill(~v, -torch.inf).softmax(0),
        "the softmax runs over the tasks (axis 1). Which axis holds the experts?": (
            lambda x, W, v: _z(x, W).masked_fill(~v, -torch.inf).softmax(1)
        ),
        "one softmax runs over all tasks together. What should the weights of one task sum to?": (
            lambda x, W, v: _z(x, W).masked_fill(~v, -torch.inf).flatten(1).softmax(1).view(len(x), *v.shape)
        ),
        "the visible logits are returned as they are, without a softmax. Can a weight be below zero?": (
            lambda x, W, v: _z(x, W).masked_fill(~v, 0.0)
        ),
        "these are the masked logits: the softmax is missing. Can a share be minus infinity?": (
            lambda x, W, v: _z(x, W).masked_fill(~v, -torch.inf)
        ),
        "all tasks use the mask of the first task. Which row of `visible` belongs to task t?": (
            lambda x, W, v: masked_gate(x, W, v[:1].expand_as(v))
        ),
        "each weight goes through a sigmoid of its own. What do the weights of one task sum to then?": (
            lambda x, W, v: _z(x, W).sigmoid() * v
        ),
        "the visible experts get equal weights and the logits are not used. What should the gate look at?": (
            lambda x, W, v: v.to(x).div(v.sum(1, keepdim=True)).expand(len(x), -1, -1) + 0 * _z(x, W)
        ),
        "the softmax is applied twice; the second one gives weight to the hidden experts again. What is exp(0)?": (
            lambda x, W, v: masked_gate(x, W, v).softmax(2)
        ),
        "the logits are divided by sqrt(D). That is a habit from attention: does the text divide by anything?": (
            lambda x, W, v: masked_gate(x / x.shape[1] ** 0.5, W, v)
        ),
        "you return the logarithm of the weights. What is a share of 1/4: 0.25 or -1.39?": (
            lambda x, W, v: _z(x, W).masked_fill(~v, -torch.inf).log_softmax(2)
        ),
        "the gate is cut off from training (`detach`, `.data` or `no_grad`). How would it ever learn whom to ask?": (
            lambda x, W, v: masked_gate(x, W, v).detach()
        ),
        "the result is (B, E, T). In which order does the text name the axes?": (
            lambda x, W, v: masked_gate(x, W, v).transpose(1, 2)
        ),
        "all tasks use the gate matrix of the first task. Which axis of `W` counts the tasks?": (
            lambda x, W, v: masked_gate(x, W[:1].expand_as(W), v)
        ),
    },
    also_right=[
        _gate_loop,
        lambda x, W, v: (x @ W.flatten(0, 1).T).view(len(x), *v.shape).masked_fill(~v, -1e9).softmax(-1),
        lambda x, W, v: F.normalize(_z(x, W).softmax(2) * v, p=1, dim=2),
        lambda x, W, v: torch.where(v, _z(x, W).exp(), 0.0) / (_z(x, W).exp() * v).sum(2, keepdim=True),
        lambda x, W, v: masked_gate(x.double(), W.double(), v),
    ],
)
