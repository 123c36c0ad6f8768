"""Exercise 4.6: a self gate."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from autograde_tests.exercise import Draw, Exercise, Trial


def self_gate(x, W, experts, mixture):
    logits = x @ W.T  # (B, K)
    weights = logits.sigmoid() if len(W) == 1 else logits.softmax(dim=1)
    return mixture + torch.einsum("bk,bkh->bh", weights, experts)  # (B, H)


def _weights(logits):
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def _own(weights, experts):
    return (weights[..., None] * experts).sum(1)


def _with(logits=lambda x, W, h, m: x @ W.T, weights=_weights, end=lambda m, s: m + s):
    """The self gate with other logits, other weights of them, or another end (mixture, own) -> result."""
    return lambda x, W, h, m: end(m, _own(weights(logits(x, W, h, m)), h))


def _loop(x, W, experts, mixture):
    rows = []
    for b in range(len(x)):
        z = torch.stack([(x[b] * w).sum() for w in W])
        share = 1 / (1 + torch.exp(-z)) if len(z) == 1 else torch.exp(z) / torch.exp(z).sum()
        rows.append(mixture[b] + share @ experts[b])
    return torch.stack(rows)


def _draw(rng, B=None, K=None):
    B, K = B or int(rng.integers(5, 10)), K or int(rng.integers(2, 5))
    D = int(rng.integers(6, 9))  # D = H: a gate that reads something else is a wrong number, not a crash
    shapes = {"x": (B, D), "W": (K, D), "experts": (B, K, D), "mixture": (B, D)}
    return Draw({name: (0.7 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()})


SELF_GATE = Exercise(
    id="4.6",
    title="a self gate",
    how="function",
    reference=self_gate,
    shape="(B, H)",
    grads=["x", "W", "experts", "mixture"],
    example=Trial(
        "one user, one own expert that says (4, 8), the self gate gives it 3/4, the mixture is (1, 1) (worked by hand)",
        {
            "x": np.array([[1, 0]], np.float32),
            "W": np.array([[np.log(3), 5]], np.float32),
            "experts": np.array([[[4, 8]]], np.float32),
            "mixture": np.array([[1, 1]], np.float32),
        },
        grads=["x", "W", "experts", "mixture"],
        want={"out": np.array([[4.0, 7.0]])},
    ),
    draw=_draw,
    sizes={
        "several own experts": {},
        "one own expert": {"K": 1},
        "more rows": {"B": 24},
        "a batch of one": {"B": 1},
    },
    mistakes={
        # what is done with it
        "the mixture is missing: the own experts stand in its place. What is the self gate's part added to?": _with(
            end=lambda m, s: s + 0 * m
        ),
        "nothing is added: the mixture comes out as it went in. Where do the own experts come in?": _with(
            end=lambda m, s: m + 0 * s
        ),
        "the own part multiplies the mixture. What does a residual do?": _with(end=lambda m, s: m * s),
        "mixture and own part are averaged. What does a residual do?": _with(end=lambda m, s: (m + s) / 2),
        "the own part is taken off the mixture. What does a residual do?": _with(end=lambda m, s: m - s),
        "the mixture is added twice. How often does it come in?": _with(end=lambda m, s: 2 * m + s),
        "the own part is added twice. How often does it come in?": _with(end=lambda m, s: m + 2 * s),
        "the gate takes from the mixture what it gives to the own experts, as in a highway. What is the weight of the "
        "mixture in the text?": lambda x, W, h, m: (
            (1 - _weights(x @ W.T).mean(1, keepdim=True)) * m + _own(_weights(x @ W.T), h)
        ),
        # one or several
        "a softmax runs over a single expert. What is a softmax of one number?": _with(
            weights=lambda z: z.softmax(1)
        ),
        "several experts have a sigmoid each. When does the text take a softmax?": _with(
            weights=lambda z: z.sigmoid()
        ),
        "the number of users decides between sigmoid and softmax. The number of what should?": (
            lambda x, W, h, m: m + _own((x @ W.T).sigmoid() if len(h) == 1 else (x @ W.T).softmax(1), h)
        ),
        "sigmoid and softmax have changed places. Which one is for a single expert?": _with(
            weights=lambda z: z.softmax(1) if z.shape[1] == 1 else z.sigmoid()
        ),
        "the weights are logits: there is neither sigmoid nor softmax. Can a share be below zero?": _with(
            weights=lambda z: z
        ),
        "a single expert is weighed with its logit. What keeps its weight between 0 and 1?": _with(
            weights=lambda z: z if z.shape[1] == 1 else z.softmax(1)
        ),
        "a tanh makes the weight of a single expert. Between which numbers should it lie?": _with(
            weights=lambda z: z.tanh() if z.shape[1] == 1 else z.softmax(1)
        ),
        "the weight of a single expert is 2 sigmoid, as in the feature gate. What does Eq. 11 have?": _with(
            weights=lambda z: 2 * z.sigmoid() if z.shape[1] == 1 else z.softmax(1)
        ),
        "the softmax runs over the batch (axis 0). Whose weights have to sum to 1?": _with(
            weights=lambda z: z.sigmoid() if z.shape[1] == 1 else z.softmax(0)
        ),
        "the softmax is followed by a sigmoid. How many of the two does a self gate have?": _with(
            weights=lambda z: z.sigmoid() if z.shape[1] == 1 else z.softmax(1).sigmoid()
        ),
        "the own experts are averaged, without a gate. Which matrix weighs them?": _with(
            weights=lambda z: torch.full_like(z, 1 / z.shape[1]) + 0 * z
        ),
        "the own experts are added up, without a gate: a plain residual. Which matrix weighs them?": _with(
            weights=lambda z: torch.ones_like(z) + 0 * z
        ),
        "only the first own expert is added. How many are there?": (
            lambda x, W, h, m: m + _weights(x @ W.T)[:, :1] * h[:, 0]
        ),
        "the weighted experts are averaged and so too small. What do the weights sum to already?": (
            lambda x, W, h, m: m + (_weights(x @ W.T)[..., None] * h).mean(1)
        ),
        # what the gate reads
        "the self gate reads the mean of its experts' outputs. What is its input in Eq. 11?": _with(
            logits=lambda x, W, h, m: h.mean(1) @ W.T
        ),
        "each expert is weighed by its own output. What is the input of the self gate in Eq. 11?": _with(
            logits=lambda x, W, h, m: torch.einsum("bkh,kh->bk", h, W)
        ),
        "the self gate reads the mixture. What is its input in Eq. 11?": _with(
            logits=lambda x, W, h, m: m @ W.T
        ),
        "all experts use the first row of the matrix. Which row belongs to expert k?": _with(
            logits=lambda x, W, h, m: x @ W[:1].expand_as(W).T
        ),
        # training
        "the weights are cut off from training (`detach`). How would the self gate ever learn?": _with(
            weights=lambda z: _weights(z).detach()
        ),
        "the experts are cut off from training (`detach`). For whose gradient was the self gate made?": (
            lambda x, W, h, m: self_gate(x, W, h.detach(), m)
        ),
        "the own experts are not added up: (B, K, H) is returned. What does the next level read?": (
            lambda x, W, h, m: m[:, None] + _weights(x @ W.T)[..., None] * h
        ),
    },
    also_right=[
        _loop,
        lambda x, W, h, m: (
            m + _own(F.pad(x @ W.T, (0, 1)).softmax(1)[:, :-1], h)
            if len(W) == 1
            else m + torch.bmm(_weights(x @ W.T)[:, None], h)[:, 0]
        ),
        lambda x, W, h, m: self_gate(x.double(), W.double(), h.double(), m.double()),
    ],
)
