"""Exercise 4.5: a feature gate."""

from __future__ import annotations

import numpy as np
import torch

from autograde_tests.exercise import Draw, Exercise, Trial


def feature_gate(x, down, up, W):
    factors = 2 * _logits(x, down, up).sigmoid()  # (B, L, D)
    weights = (x @ W.T).softmax(dim=1)  # (B, L)
    return x * torch.einsum("bl,bld->bd", weights, factors)  # (B, D)


def _logits(x, down, up):
    """x B A of each LoRA.   -> (B, L, D)"""
    return torch.einsum("bd,ldr,lrc->blc", x, down, up)


def _weights(x, W):
    return (x @ W.T).softmax(1)


def _mix(w, parts):
    return torch.einsum("bl,bld->bd", w, parts)


def _with(factor=lambda z: 2 * z.sigmoid(), weights=_weights, end=lambda x, m: x * m):
    """The gate with another factor of a logit, other weights, or another use of the mixture."""

    def answer(x, down, up, W):
        return end(x, _mix(weights(x, W), factor(_logits(x, down, up))))

    return answer


def _mixed_first(end):
    """The sigmoid comes after the mixture."""
    return lambda x, down, up, W: x * end(_mix(_weights(x, W), _logits(x, down, up)))


def _loop(x, down, up, W):
    w, total = torch.softmax(torch.einsum("bd,ld->bl", x, W), 1), 0
    for i in range(len(W)):
        total = total + w[:, i, None] * (2 / (1 + torch.exp(-(x @ (down[i] @ up[i])))))
    return x * total


def _reads_gated(x, down, up, W):
    first = 2 * _logits(x, down, up)[:, 0].sigmoid()
    return x * _mix(_weights(x * first, W), 2 * _logits(x, down, up).sigmoid())


def _draw(rng, B=None, L=None):
    B, L = B or int(rng.integers(5, 10)), L or int(rng.integers(2, 4))
    R, D = int(rng.integers(2, 4)), int(rng.integers(5, 8))
    shapes = {"x": (B, D), "down": (L, D, R), "up": (L, R, D), "W": (L, D)}
    return Draw({name: (0.8 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()})


FEATURE_GATE = Exercise(
    id="4.5",
    title="a feature gate",
    how="function",
    reference=feature_gate,
    shape="(B, D)",
    grads=["x", "down", "up", "W"],
    example=Trial(
        "one user with x = (1, 2), two LoRAs with factors (1, 1) and (1.5, 0.5), equal weights (worked by hand)",
        {
            "x": np.array([[1, 2]], np.float32),
            "down": np.array([[[1], [1]], [[1], [0]]], np.float32),
            "up": np.array([[[0, 0]], [[np.log(3), -np.log(3)]]], np.float32),
            "W": np.array([[0, 0], [0, 0]], np.float32),
        },
        grads=["x", "down", "up", "W"],
        want={"out": np.array([[1.25, 1.5]])},
    ),
    draw=_draw,
    sizes={"random sizes": {}, "more rows": {"B": 24}, "a batch of one": {"B": 1}, "one LoRA": {"L": 1}},
    mistakes={
        # the factor of one LoRA
        "the factor 2 is missing: features can only be damped. What is 2 sigmoid(0)?": _with(
            factor=lambda z: z.sigmoid()
        ),
        "the 2 stands inside the sigmoid: the factors end at 1, and features can only be damped. What is 2 sigmoid(0)?": (
            _with(factor=lambda z: (2 * z).sigmoid())
        ),
        "each factor is 1 + sigmoid: features can only be amplified. What is 2 sigmoid(0)?": _with(
            factor=lambda z: 1 + z.sigmoid()
        ),
        "each factor is 2 sigmoid - 1, so it can turn the sign of a feature. Between which numbers should it lie?": (
            _with(factor=lambda z: 2 * z.sigmoid() - 1)
        ),
        "each factor is 1 + tanh, which is twice as steep. Which function does the text have?": _with(
            factor=lambda z: 1 + z.tanh()
        ),
        "there is no sigmoid at all. Between which numbers should a factor lie?": _with(factor=lambda z: z),
        "a softmax runs over the features: their factors compete. Does one feature have to lose when another wins?": (
            _with(factor=lambda z: 2 * z.softmax(2))
        ),
        "a ReLU stands between the two matrices of a LoRA. What stands between B and A in the text?": (
            lambda x, down, up, W: (
                x
                * _mix(
                    _weights(x, W),
                    2
                    * torch.einsum("blr,lrc->blc", torch.einsum("bd,ldr->blr", x, down).relu(), up).sigmoid(),
                )
            )
        ),
        # the mixture
        "the sigmoid comes after the mixture: logits are mixed, not factors. Which of the two does the gate mix in the text?": (
            _mixed_first(lambda z: 2 * z.sigmoid())
        ),
        "the sigmoid comes after the mixture, and the factor 2 is missing. What does the gate mix in the text, and how large is each "
        "factor?": _mixed_first(lambda z: z.sigmoid()),
        "the LoRAs are averaged. Who decides about their weights?": _with(
            weights=lambda x, W: torch.full_like(x @ W.T, 1 / len(W)) + 0 * (x @ W.T)
        ),
        "the LoRAs are added up without weights. What do the weights of a mixture sum to?": _with(
            weights=lambda x, W: torch.ones_like(x @ W.T) + 0 * (x @ W.T)
        ),
        "the LoRAs are multiplied with each other. What does the text do with them?": (
            lambda x, down, up, W: x * (2 * _logits(x, down, up).sigmoid()).prod(1) + 0 * W.sum()
        ),
        "only the first LoRA counts: the others are left out, or have its matrices. Which axis counts the LoRAs?": (
            lambda x, down, up, W: x * 2 * _logits(x, down, up)[:, 0].sigmoid() + 0 * (W.sum() + up.sum())
        ),
        "the weights of the LoRAs come from a sigmoid each. What do they sum to then?": _with(
            weights=lambda x, W: (x @ W.T).sigmoid()
        ),
        "the weights of the LoRAs are logits: the softmax is missing. Can a share be below zero?": _with(
            weights=lambda x, W: x @ W.T
        ),
        "the softmax of the weights runs over the batch (axis 0). Whose weights have to sum to 1?": _with(
            weights=lambda x, W: (x @ W.T).softmax(0)
        ),
        "the weights are cut off from training (`detach`). How would the gate ever learn?": _with(
            weights=lambda x, W: _weights(x, W).detach()
        ),
        "the gate of the LoRAs reads the gated input. What does g read in the text: x or x'?": _reads_gated,
        "the mixture is divided by L once more. What do its weights sum to already?": (
            lambda x, down, up, W: feature_gate(x, down, up, W) / len(W)
        ),
        # what is done with it
        "the factors themselves are returned: nothing is multiplied with x. What do the experts want to read?": _with(
            end=lambda x, m: m
        ),
        "the factors themselves are returned, and the 2 is missing. What do the experts want to read, and what is "
        "2 sigmoid(0)?": _with(factor=lambda z: z.sigmoid(), end=lambda x, m: m),
        "the factors are added to x. What does the text do with x and its factors?": _with(
            end=lambda x, m: x + m
        ),
        "x is added once more: a residual. Is there one in the text?": _with(end=lambda x, m: x + x * m),
        "all features of a user get the same factor. How many factors has a user?": _with(
            end=lambda x, m: x * m.mean(1, keepdim=True)
        ),
        "x is cut off from training (`detach`) where it is multiplied. Which way does its gradient go?": _with(
            end=lambda x, m: x.detach() * m
        ),
        "the LoRAs are not mixed: (B, L, D) is returned. How many inputs does a group of experts read?": (
            lambda x, down, up, W: x[:, None] * 2 * _logits(x, down, up).sigmoid() + 0 * W.sum()
        ),
        "this is LoRA as language models have it: x + x B A. What is a LoRA in the text?": (
            lambda x, down, up, W: x + _mix(_weights(x, W), _logits(x, down, up))
        ),
    },
    also_right=[
        _loop,
        _with(factor=lambda z: 1 + (z / 2).tanh()),
        lambda x, down, up, W: (
            2 * (x[:, None] * _logits(x, down, up).sigmoid() * _weights(x, W)[..., None]).sum(1)
        ),
        lambda x, down, up, W: feature_gate(x.double(), down.double(), up.double(), W.double()),
    ],
)
