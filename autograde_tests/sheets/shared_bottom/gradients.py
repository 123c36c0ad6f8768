"""Exercises 1.4, 1.5: what the tasks do to the shared part."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from autograde_tests.exercise import ONE_ROW_ONE_TASK, Draw, Exercise, Trial, some, true_or_false

# --- 1.4 predict the gradient ------------------------------------------------------------------------------

GETS_GRADIENT = {
    "the bottom": True,
    "the like tower": True,
    "the click tower": False,
    "the embedding of a user in the batch": True,
    "the embedding of a user who is not in the batch": False,
    "the bottom, when no row of the batch has a like label": False,
}
ASKS = {
    "the bottom": "the bottom gets nothing from one task alone. Which layers does the like logit pass through?",
    "the like tower": "the like loss does not train its own tower. Where does the like logit come from?",
    "the click tower": "the click tower is trained by the like loss. Does the like logit depend on the click tower?",
    "the embedding of a user in the batch": (
        "the users in the batch get nothing. Is the embedding an input or a parameter?"
    ),
    "the embedding of a user who is not in the batch": (
        "users who are not in the batch are trained as well. Which rows of the table were read?"
    ),
    "the bottom, when no row of the batch has a like label": (
        "a batch without like labels still trains the bottom. What is the masked loss of such a batch?"
    ),
}

PREDICT_GRADIENT = true_or_false(
    "1.4",
    "predict: what does the loss of the task like train?",
    "six groups of parameters, True where the like loss sends a gradient",
    GETS_GRADIENT,
    ASKS,
)


# --- 1.5 cosine of task gradients --------------------------------------------------------------------------


def gradient_cosine(model, losses):
    flat = []
    for loss in losses:
        grads = torch.autograd.grad(loss, list(model.bottom.parameters()), retain_graph=True)
        flat.append(torch.cat([g.flatten() for g in grads]))
    g = torch.stack(flat)
    g = g / g.norm(dim=1, keepdim=True)
    return g @ g.T


def _flat(model, losses, params=None):
    params = list(model.bottom.parameters()) if params is None else params
    rows = []
    for loss in losses:
        grads = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for p, g in zip(params, grads, strict=True)
                ]
            )
        )
    return torch.stack(rows)


def _cosine(g):
    return F.cosine_similarity(g[:, None], g[None], dim=-1)


def _accumulated(model, losses):
    rows = []
    model.zero_grad()
    for loss in losses:
        loss.backward(retain_graph=True)
        rows.append(torch.cat([p.grad.flatten() for p in model.bottom.parameters()]))
    return _cosine(torch.stack(rows))


def _by_backward(model, losses):
    rows = []
    for loss in losses:
        model.zero_grad()
        loss.backward(retain_graph=True)
        rows.append(torch.cat([p.grad.flatten().clone() for p in model.bottom.parameters()]))
    return _cosine(torch.stack(rows))


def _without_retain(model, losses):
    return _cosine(
        torch.stack(
            [
                torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.bottom.parameters()))])
                for loss in losses
            ]
        )
    )


def _per_tensor(model, losses):
    return sum(_cosine(_flat(model, losses, [p])) for p in model.bottom.parameters()) / 2


def _cosine_draw(rng, B=None, T=None):
    B, T = some(rng, B, T)
    D, H = int(rng.integers(3, 6)), int(rng.integers(4, 7))
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    bottom, towers = normal(H, D + 1), normal(T, H + 1)
    bottom[:, -1] += 2.0  # most hidden units are active, so that no gradient is all zero
    return Draw({"bottom": bottom, "towers": towers, "x": normal(B, D), "labels": normal(B, T)})


COSINE = Exercise(
    id="1.5",
    title="the cosine between the tasks' gradients on the bottom",
    how="shared model",
    reference=gradient_cosine,
    shape="(T, T)",
    example=Trial(
        "one user, two tasks that pull the bottom in opposite directions: cosine -1 (worked by hand)",
        {
            "bottom": np.array([[1, 0, 0], [0, 1, 0]], np.float32),
            "towers": np.array([[1, 1, 0], [1, 1, 0]], np.float32),
            "x": np.array([[1, 2]], np.float32),
            "labels": np.array([[0, 7]], np.float32),
        },
        want={"out": np.array([[1.0, -1.0], [-1.0, 1.0]])},
    ),
    draw=_cosine_draw,
    sizes=ONE_ROW_ONE_TASK,
    mistakes={
        "the towers are in it as well. A tower gets a gradient from its own task only: what does that do to the cosine?": (
            lambda m, losses: _cosine(_flat(m, losses, list(m.parameters())))
        ),
        "the cosine is taken tensor by tensor and then averaged. How many vectors has a task on the whole bottom?": (
            _per_tensor
        ),
        "the sign is gone (an absolute value). What would tell a conflict from agreement?": (
            lambda m, losses: _cosine(_flat(m, losses)).abs()
        ),
        "the dot product is not divided by the lengths. What is the cosine of a vector with itself?": (
            lambda m, losses: _flat(m, losses) @ _flat(m, losses).T
        ),
        "gradients pile up: each backward adds to the one before. What has to happen between two tasks?": _accumulated,
        "only the weights of the bottom are in it. Which other parameters has a linear layer?": (
            lambda m, losses: _cosine(_flat(m, losses, [m.bottom.weight]))
        ),
        "only the biases of the bottom are in it. Which other parameters has a linear layer?": (
            lambda m, losses: _cosine(_flat(m, losses, [m.bottom.bias]))
        ),
        "you get one number for one pair of tasks. Which shape has the table of all pairs?": (
            lambda m, losses: _cosine(_flat(m, losses))[0, -1]
        ),
        "the dot product is divided by squared lengths. How many square roots does a length have?": (
            lambda m, losses: (
                _flat(m, losses)
                @ _flat(m, losses).T
                / (_flat(m, losses).square().sum(1)[:, None] * _flat(m, losses).square().sum(1)[None])
            )
        ),
        "the graph is gone after the first task: autograd frees it. Which argument of `grad` keeps it?": _without_retain,
        "the mean is taken off before the cosine, so this is a correlation. Where does the vector start?": (
            lambda m, losses: _cosine(_flat(m, losses) - _flat(m, losses).mean(1, keepdim=True))
        ),
        "you compare the towers' weights, not gradients. What does a loss send to the bottom?": (
            lambda m, losses: _cosine(torch.stack([t.weight.flatten() for t in m.towers]))
        ),
    },
    also_right=[
        _by_backward,
        lambda m, losses: _cosine(_flat(m, losses)),
        lambda m, losses: _cosine(_flat(m, losses).double()),
        lambda m, losses: torch.stack(
            [
                torch.stack([F.cosine_similarity(a, b, dim=0) for b in _flat(m, losses)])
                for a in _flat(m, losses)
            ]
        ),
        lambda m, losses: F.normalize(_flat(m, losses), dim=1) @ F.normalize(_flat(m, losses), dim=1).T,
    ],
)
