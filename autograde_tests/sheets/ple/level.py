"""Exercise 3.4: one level of PLE, with the shared gate."""

from __future__ import annotations

import numpy as np
import torch

from autograde_tests.exercise import ONE_ROW_ONE_TASK, Draw, Exercise, Trial, some


def fuse(g, experts, W, visible):
    everything = torch.ones_like(visible[:1])
    logits = torch.einsum("bgd,ged->bge", g, W)  # (B, T + 1, E)
    weights = logits.masked_fill(~torch.cat([visible, everything]), -torch.inf).softmax(dim=2)
    return torch.bmm(weights, experts)  # (B, T + 1, H)


def _fused(g, experts, W, seen):
    weights = torch.einsum("bgd,ged->bge", g, W).masked_fill(~seen, -torch.inf).softmax(2)
    return weights @ experts


def _all(visible):
    """Who sees whom with the row of the shared gate."""
    return torch.cat([visible, torch.ones_like(visible[:1])])


def _shared(visible):
    """(E,) the shared experts: those that every task sees, the last ones."""
    return visible.all(0) & (torch.arange(visible.shape[1], device=visible.device) >= visible.shape[1] - 2)


def _last(rule):
    """fuse, with ``rule(g, experts, W, visible)`` (B, H) as what the shared gate gives."""

    def answer(g, experts, W, visible):
        return torch.cat([fuse(g, experts, W, visible)[:, :-1], rule(g, experts, W, visible)[:, None]], 1)

    return answer


def _row(W, g, experts, seen):
    """What one gate (E, D) with input g (B, D) makes of the experts that it sees."""
    w = (g @ W.T).masked_fill(~seen, -torch.inf).softmax(1)
    return (w[..., None] * experts).sum(1)


def _fuse_loop(g, experts, W, visible):
    rows = []
    for k, seen in enumerate(_all(visible)):
        w = torch.softmax(g[:, k] @ W[k, seen].T, dim=1)
        rows.append((w[:, :, None] * experts[:, seen]).sum(1))
    return torch.stack(rows, 1)


def _fuse_draw(rng, B=None, T=None):
    B, T = some(rng, B, T)
    own = rng.integers(1, 3, size=T)
    owner = np.repeat(np.arange(T + 1), [*own, 2])
    visible = (owner == np.arange(T)[:, None]) | (owner == T)
    D, E = int(rng.integers(9, 12)), len(owner)
    H = D if E != D else D + 1
    shapes = {"g": (B, T + 1, D), "experts": (B, E, H), "W": (T + 1, E, D)}
    drawn = {name: (0.6 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    return Draw(drawn | {"visible": visible})


FUSE = Exercise(
    id="3.4",
    title="one level with a shared gate",
    how="function",
    reference=fuse,
    shape="(B, T+1, H)",
    grads=["g", "experts", "W"],
    example=Trial(
        "one user, an expert for like (4), one for click (8), one shared (0): mixtures 2, 4 and 5 (worked by hand)",
        {
            "g": np.array([[[1, 1], [0, 1], [1, 0]]], np.float32),
            "experts": np.array([[[4], [8], [0]]], np.float32),
            "W": np.array([[[0, 0]] * 3, [[0, 0]] * 3, [[0, 0], [np.log(2), 0], [0, 0]]], np.float32),
            "visible": np.array([[True, False, True], [False, True, True]]),
        },
        grads=["g", "experts", "W"],
        want={"out": np.array([[[2.0], [4.0], [5.0]]])},
    ),
    draw=_fuse_draw,
    sizes=ONE_ROW_ONE_TASK,
    mistakes={
        "the shared gate is missing: there are T mixtures. What will the shared experts of the next level read?": (
            lambda g, h, W, v: _fused(g[:, :-1], h, W[:-1], v)
        ),
        "the shared gate sees the shared experts only. From which experts should it learn?": _last(
            lambda g, h, W, v: _row(W[-1], g[:, -1], h, _shared(v))
        ),
        "the shared gate sees the tasks' experts only, not the shared ones. Which experts are *all* experts?": _last(
            lambda g, h, W, v: _row(W[-1], g[:, -1], h, ~_shared(v))
        ),
        "the shared gate sees what the first task sees. Which experts may it see?": _last(
            lambda g, h, W, v: _row(W[-1], g[:, -1], h, v[0])
        ),
        "the shared module gets the mean of the tasks' mixtures. Who decides how much of each expert it gets?": _last(
            lambda g, h, W, v: fuse(g, h, W, v)[:, :-1].mean(1)
        ),
        "the shared module gets the mean of all experts. Which matrix belongs to its gate?": _last(
            lambda g, h, W, v: h.mean(1)
        ),
        "the shared module gets the sum of all experts. Which matrix belongs to its gate?": _last(
            lambda g, h, W, v: h.sum(1)
        ),
        "the shared module gets the mean of the shared experts, without a gate. Which matrix belongs to its gate?": (
            _last(lambda g, h, W, v: h[:, -2:].mean(1))
        ),
        "the shared gate reads the input of task 0. Which row of `g` belongs to the shared module?": _last(
            lambda g, h, W, v: _row(W[-1], g[:, 0], h, _all(v)[-1])
        ),
        "the shared gate reads the mean of all inputs. Which row of `g` belongs to the shared module?": _last(
            lambda g, h, W, v: _row(W[-1], g.mean(1), h, _all(v)[-1])
        ),
        "the shared gate uses the matrix of task 0. Which row of `W` is its own?": _last(
            lambda g, h, W, v: _row(W[0], g[:, -1], h, _all(v)[-1])
        ),
        "the mixture of the shared gate stands first. In which order do the modules stand?": (
            lambda g, h, W, v: fuse(g, h, W, v).roll(1, dims=1)
        ),
        "all gates read the input of the shared module. Which input has the gate of task k?": (
            lambda g, h, W, v: fuse(g[:, -1:].expand_as(g), h, W, v)
        ),
        "all gates read the input of task 0. Which input has the gate of task k?": (
            lambda g, h, W, v: fuse(g[:, :1].expand_as(g), h, W, v)
        ),
        "all gates read the mean of the inputs. Which input has the gate of task k?": (
            lambda g, h, W, v: fuse(g.mean(1, keepdim=True).expand_as(g), h, W, v)
        ),
        "every gate sees every expert. Which of the gates may?": (
            lambda g, h, W, v: _fused(g, h, W, torch.ones_like(_all(v)))
        ),
        "the mask is turned: a gate weighs the experts that it may not see. What does True mean in `visible`?": (
            lambda g, h, W, v: _fused(g, h, W, ~_all(v))
        ),
        "the softmax runs over the gates (axis 1). Which axis holds the experts?": (
            lambda g, h, W, v: (
                torch.einsum("bgd,ged->bge", g, W).masked_fill(~_all(v), -torch.inf).softmax(1) @ h
            )
        ),
        "the softmax comes before the mask. What do the weights of a task sum to now?": (
            lambda g, h, W, v: (torch.einsum("bgd,ged->bge", g, W).softmax(2) * _all(v)) @ h
        ),
        "the hidden logits are set to 0. What is exp(0): no weight?": (
            lambda g, h, W, v: (torch.einsum("bgd,ged->bge", g, W) * _all(v)).softmax(2) @ h
        ),
        "the softmax is missing. Can a share be below zero?": (
            lambda g, h, W, v: (torch.einsum("bgd,ged->bge", g, W) * _all(v)) @ h
        ),
        "the weighted experts are averaged and so too small. What do the weights sum to already?": (
            lambda g, h, W, v: fuse(g, h, W, v) / h.shape[1]
        ),
        "these are the weights of the gates, not the mixtures. What do they weigh?": (
            lambda g, h, W, v: (
                torch.einsum("bgd,ged->bge", g, W).masked_fill(~_all(v), -torch.inf).softmax(2) + 0 * h.sum()
            )
        ),
        "all experts are handed on: (B, E, H). How many modules read the next level's input?": (
            lambda g, h, W, v: h + 0 * (g.sum() + W.sum())
        ),
        "the shared gate is cut off from training (`detach`). How do task A's losses reach B's experts?": _last(
            lambda g, h, W, v: fuse(g, h, W, v)[:, -1].detach()
        ),
    },
    also_right=[
        _fuse_loop,
        lambda g, h, W, v: _fused(g, h, W, torch.nn.functional.pad(v, (0, 0, 0, 1), value=True)),
        lambda g, h, W, v: (
            (g.unsqueeze(2) * W).sum(3).masked_fill(~_all(v), -1e9).softmax(-1)[..., None] * h.unsqueeze(1)
        ).sum(2),
        lambda g, h, W, v: torch.cat(
            [_fused(g[:, :-1], h, W[:-1], v), _row(W[-1], g[:, -1], h, _all(v)[-1])[:, None]], 1
        ),
        lambda g, h, W, v: fuse(g.double(), h.double(), W.double(), v),
    ],
)
