"""Exercise 4.3: HoME's experts, Swish(BatchNorm(MLP))."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from autograde_tests.exercise import Draw, Exercise, Trial

EPS = 1e-5


def experts(x, W, gamma, beta):
    z = torch.einsum("bd,ehd->beh", x, W)  # (B, E, H)
    mean, variance = z.mean(dim=0), z.var(dim=0, correction=0)  # (E, H)
    n = gamma * (z - mean) / (variance + EPS).sqrt() + beta
    return n * n.sigmoid()  # (B, E, H)


def _z(x, W):
    return torch.einsum("bd,ehd->beh", x, W)


def _norm(z, dims=(0,)):
    mean, variance = z.mean(dims, keepdim=True), z.var(dims, correction=0, keepdim=True)
    return (z - mean) / (variance + EPS).sqrt()


def _with(norm=_norm, scale=lambda n, gamma, beta: gamma * n + beta, end=F.silu):
    """The experts with another norm of z, another scale and shift, or another end."""
    return lambda x, W, gamma, beta: end(scale(norm(_z(x, W)), gamma, beta))


def _one_by_one(x, W, gamma, beta):
    outs = [
        F.silu(F.batch_norm(x @ w.T, None, None, g, b, training=True))
        for w, g, b in zip(W, gamma, beta, strict=True)
    ]
    return torch.stack(outs, 1)


def _one_module(x, W, gamma, beta):
    norm = nn.BatchNorm1d(gamma.numel(), affine=False).to(x)
    return F.silu(norm(_z(x, W).flatten(1)).view(len(x), *gamma.shape) * gamma + beta)


def _draw(rng, B=None, E=None, constant=False):
    B, E = B or int(rng.integers(12, 20)), E or int(rng.integers(2, 5))
    D, H = int(rng.integers(4, 7)), int(rng.integers(3, 6))
    H += H == E
    W = rng.normal(size=(E, H, D))
    if constant:  # a unit that says the same to everybody: its variance is 0
        W[rng.integers(E), rng.integers(H)] = 0
    return Draw(
        {
            "x": (0.5 + rng.normal(size=(B, D))).astype(np.float32),
            "W": W.astype(np.float32),
            "gamma": rng.uniform(0.5, 1.5, size=(E, H)).astype(np.float32),
            "beta": (0.7 * rng.normal(size=(E, H))).astype(np.float32),
        }
    )


def _swish(z):
    return z / (1 + np.exp(-z))


HOME_EXPERTS = Exercise(
    id="4.3",
    title="experts with a batch norm and Swish",
    how="function",
    reference=experts,
    shape="(B, E, H)",
    grads=["x", "W", "gamma", "beta"],
    example=Trial(
        "x = 1, 3, 3 and 1 for four users, an expert of weight 1 and one of weight -100 (worked by hand)",
        {
            "x": np.array([[1], [3], [3], [1]], np.float32),
            "W": np.array([[[1]], [[-100]]], np.float32),
            "gamma": np.array([[2], [1]], np.float32),
            "beta": np.array([[0], [1]], np.float32),
        },
        grads=["W", "gamma", "beta"],
        want={
            "out": _swish(
                np.array(
                    [
                        [[-2 / np.sqrt(1 + EPS)], [2]],
                        [[2 / np.sqrt(1 + EPS)], [0]],
                        [[2 / np.sqrt(1 + EPS)], [0]],
                        [[-2 / np.sqrt(1 + EPS)], [2]],
                    ]
                )
            )
        },
    ),
    draw=_draw,
    sizes={
        "random sizes": {},
        "more rows": {"B": 40},
        "one expert": {"E": 1},
        "a unit that is the same for every user": {"constant": True},
    },
    # torch 2.13's own batch_norm gives wrong gradients where gamma is not contiguous, and an answer may call it
    real_valued=False,
    mistakes={
        # the norm
        "there is no norm: gamma and beta are there, but no mean and no variance. What brings the experts to one "
        "size?": _with(norm=lambda z: z),
        "each user is normalised over the units of an expert: that is LayerNorm. Over which axis does BatchNorm take "
        "its mean?": _with(norm=lambda z: _norm(z, (2,))),
        "each user is normalised over experts and units together. Over which axis does BatchNorm take its mean?": (
            _with(norm=lambda z: _norm(z, (1, 2)))
        ),
        "the units of an expert share one mean and one variance. How many means has an expert with H units?": (
            _with(norm=lambda z: _norm(z, (0, 2)))
        ),
        "the experts share their means and variances: a large expert stays larger. How many means are there in all?": (
            _with(norm=lambda z: _norm(z, (0, 1)))
        ),
        "one mean and one variance serve all experts and units. How many means are there in all?": (
            _with(norm=lambda z: _norm(z, (0, 1, 2)))
        ),
        "each user is normalised over the experts. Whom do you compare with whom: experts or users?": (
            _with(norm=lambda z: _norm(z, (1,)))
        ),
        "the inputs are normalised, not what the linear layer gives. What is z in Eq. 4?": (
            lambda x, W, gamma, beta: F.silu(gamma * _z(_norm(x), W) + beta)
        ),
        "the variance divides by one less than the count. By which number does the text divide?": _with(
            norm=lambda z: (z - z.mean(0)) / (z.var(0) + EPS).sqrt()
        ),
        "you divide by the variance, not by its square root. Which of the two has the unit of z?": _with(
            norm=lambda z: (z - z.mean(0)) / (z.var(0, correction=0) + EPS)
        ),
        "eps is missing: a unit that says the same to everybody is 0 / 0. What stands under the root in Eq. 4?": _with(
            norm=lambda z: (z - z.mean(0)) / z.var(0, correction=0).sqrt()
        ),
        **{
            f"eps is {eps:g}. Which number does the text give for it?": _with(
                norm=lambda z, eps=eps: (z - z.mean(0)) / (z.var(0, correction=0) + eps).sqrt()
            )
            for eps in (1e-3, 1e-6, 1e-8, 1e-12)
        },
        "eps is added to the root of the variance. What stands under the root in Eq. 4?": _with(
            norm=lambda z: (z - z.mean(0)) / (z.var(0, correction=0).sqrt() + EPS)
        ),
        "eps is added to the standard deviation. What is it added to in Eq. 4?": _with(
            norm=lambda z: (z - z.mean(0)) / (z.std(0, correction=0) + EPS)
        ),
        "the mean is taken off, but nothing is divided. What brings the experts to one size?": _with(
            norm=lambda z: z - z.mean(0)
        ),
        "you divide by the standard deviation, but the mean stays. What is the mean of the outcome?": _with(
            norm=lambda z: z / (z.var(0, correction=0) + EPS).sqrt()
        ),
        "you divide by the root of the mean square, and the mean stays. What does a variance take off first?": _with(
            norm=lambda z: z / (z.square().mean(0) + EPS).sqrt()
        ),
        "mean and variance are cut off from training (`detach`, `no_grad`). How does a user's gradient know that she "
        "moved the mean?": _with(
            norm=lambda z: (z - z.mean(0).detach()) / (z.var(0, correction=0).detach() + EPS).sqrt()
        ),
        # gamma and beta
        "gamma and beta are not used. How could an expert get another scale, if it needs one?": _with(
            scale=lambda n, gamma, beta: n + 0 * (gamma + beta)
        ),
        "beta is added before gamma multiplies. In which order does Eq. 4 do it?": _with(
            scale=lambda n, gamma, beta: gamma * (n + beta)
        ),
        "gamma and beta have changed places. Which one multiplies?": _with(
            scale=lambda n, gamma, beta: beta * n + gamma
        ),
        "gamma and beta come after Swish. What is normalised to mean beta and deviation gamma: before or after?": (
            lambda x, W, gamma, beta: gamma * F.silu(_norm(_z(x, W))) + beta
        ),
        # the end
        "the ReLU is still at the end. How many outputs of a normalised expert would it silence?": _with(
            end=torch.relu
        ),
        "a ReLU comes before the norm. Where do MLP, norm and Swish stand in Eq. 5?": _with(
            norm=lambda z: _norm(z.relu())
        ),
        "Swish comes before the norm. Where do MLP, norm and Swish stand in Eq. 5?": _with(
            norm=lambda z: _norm(F.silu(z)), end=lambda n: n
        ),
        "there is no Swish at the end. What is a mixture of linear layers, seen as a whole?": _with(
            end=lambda n: n
        ),
        "this is the sigmoid alone. What does Swish multiply it with?": _with(end=torch.sigmoid),
        "the sigmoid multiplies z as it was before the norm. What is the u in u * sigmoid(u)?": (
            lambda x, W, gamma, beta: _z(x, W) * (gamma * _norm(_z(x, W)) + beta).sigmoid()
        ),
        "this is GELU, a cousin of Swish. What multiplies u in Swish?": _with(end=F.gelu),
        "a tanh stands at the end. What multiplies u in Swish?": _with(end=torch.tanh),
        "`view` or `reshape` turns (E, B, H) into (B, E, H): it keeps the order of the numbers and mixes up the users. "
        "Which function swaps two axes?": lambda x, W, gamma, beta: F.silu(
            gamma * _norm((x @ W.mT).reshape(len(x), *gamma.shape)) + beta
        ),
        "the result is (E, B, H). In which order does the text name the axes?": (
            lambda x, W, gamma, beta: experts(x, W, gamma, beta).transpose(0, 1)
        ),
        "all experts have the weights of the first one. Which axis of `W` counts the experts?": (
            lambda x, W, gamma, beta: experts(x, W[:1].expand_as(W), gamma, beta)
        ),
    },
    also_right=[
        _one_by_one,
        _one_module,
        lambda x, W, gamma, beta: experts(x.double(), W.double(), gamma.double(), beta.double()),
        _with(norm=lambda z: (z - z.mean(0)) / ((z - z.mean(0)).square().mean(0) + EPS) ** 0.5),
    ],
)
