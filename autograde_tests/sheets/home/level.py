"""Exercise 4.7: one level of HoME from its four parts."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from autograde_tests.exercise import Draw, Exercise, Trial
from mtlkit.layers import Experts, FeatureGates, Gates, SelfGates, mix


class Level(nn.Module):
    def __init__(self, D, H, experts, visible, own):
        super().__init__()
        self.feature_gates = FeatureGates(D, len(experts))
        self.experts = Experts(D, experts, [H], norm=True)
        self.gates = Gates(D, len(visible), sum(experts), torch.tensor(visible))
        self.self_gates = SelfGates(D, torch.tensor(own))

    def forward(self, x, given):
        weights = self.gates(given) + self.self_gates(given)  # (B, G, E)
        return mix(weights, self.experts(self.feature_gates(x)))  # (B, G, H)


def _level(forward):
    return type("Level", (Level,), {"forward": forward})


def _with(
    v=lambda self, x, given: self.feature_gates(x),
    w=lambda self, x, given: self.gates(given),
    s=lambda self, x, given: self.self_gates(given),
    add=lambda w, s: w + s,
    end=lambda z: z,
):
    """A level with other inputs of the experts v, other gates w and self gates s, another sum of the two."""

    def forward(self, x, given):
        weights = add(w(self, x, given), s(self, x, given))
        return end(mix(weights, self.experts(v(self, x, given))))

    return _level(forward)


def _apart(self, x, given):
    h = self.experts(self.feature_gates(x))
    return torch.bmm(self.gates(given), h) + torch.einsum("bge,beh->bgh", self.self_gates(given), h)


def _by_hand(self, x, given):
    h = self.experts(x * self.feature_gates.factors(x))
    weights = torch.add(self.self_gates(given), self.gates(given))
    return (weights.unsqueeze(3) * h.unsqueeze(1)).sum(2)


def _draw(rng, B=None, M=None):
    B, M = B or int(rng.integers(12, 20)), M or int(rng.integers(2, 4))
    experts = [int(n) for n in rng.permutation([1, 2, 3])[:M]]
    D = 2 * int(rng.integers(3, 5))
    owner = np.repeat(np.arange(M), experts)
    own = owner == np.arange(M)[:, None]
    visible = own | (owner == M - 1)
    visible[-1] = True  # the last group is shared, its gate sees all
    build = {"D": D, "H": D, "experts": experts, "visible": visible.tolist(), "own": own.tolist()}
    inputs = {name: rng.normal(size=(B, M, D)).astype(np.float32) for name in ("x", "given")}
    return Draw(inputs, build=build)


LEVEL = Exercise(
    id="4.7",
    title="one level",
    how="module",
    reference=Level,
    shape="(B, G, H)",
    grads=["x", "given"],
    may_use=["mtlkit.layers."],
    example=Trial(
        "three users, one group of one expert, all gates' logits 0: its output weighs 1 + 1/2 (worked by hand)",
        {
            "x": np.array([[[1, 0]], [[2, 0]], [[3, 0]]], np.float32),
            "given": np.array([[[5, 5]], [[5, 5]], [[5, 5]]], np.float32),
        },
        grads=["x", "given"],
        build={"D": 2, "H": 1, "experts": [1], "visible": [[True]], "own": [[True]]},
        state={
            "feature_gates.down.weight": np.zeros((1, 2, 2), np.float32),
            "feature_gates.up.weight": np.zeros((2, 2, 1), np.float32),
            "feature_gates.gates.weight": np.zeros((2, 2), np.float32),
            "experts.layers.0.weight": np.array([[[1, 1]]], np.float32),
            "experts.norm.weight": np.array([[0]], np.float32),
            "experts.norm.bias": np.array([[2]], np.float32),
            "experts.norm.running_mean": np.zeros((1, 1), np.float32),
            "experts.norm.running_var": np.ones((1, 1), np.float32),
            "gates.weight": np.zeros((0, 2), np.float32),
            "self_gates.weight": np.zeros((1, 2), np.float32),
        },
        want={"out": np.full((3, 1, 1), 1.5 * 2 / (1 + np.exp(-2)))},
    ),
    draw=_draw,
    sizes={"random sizes": {}, "one group": {"M": 1}},
    real_valued=False,  # float64 and strides are the parts' own affair
    mistakes={
        # inputs
        "the experts read x as it is: the feature gates do nothing. What are they for?": _with(
            v=lambda self, x, given: x + 0 * self.feature_gates(x)
        ),
        "the experts read the factors of the feature gates, not x times the factors. What does a feature gate give?": (
            _with(v=lambda self, x, given: self.feature_gates.factors(x))
        ),
        "the feature gates are applied twice. How often does x meet its factors in the text?": _with(
            v=lambda self, x, given: self.feature_gates(self.feature_gates(x))
        ),
        "x is added to what the feature gates give. Is there such a shortcut in the text?": _with(
            v=lambda self, x, given: x + self.feature_gates(x)
        ),
        "x is multiplied with the feature gates' result, which has x in it already. What does `feature_gates(x)` give?": (
            _with(v=lambda self, x, given: x * self.feature_gates(x))
        ),
        "the feature gates read `given`, the input of the gates. Whose features do they weigh?": _with(
            v=lambda self, x, given: self.feature_gates(given)
        ),
        "x is multiplied with factors that were made from `given`. Whose features do they weigh?": _with(
            v=lambda self, x, given: x * self.feature_gates.factors(given)
        ),
        "the experts read `given`, without feature gates. Which input is theirs?": _with(
            v=lambda self, x, given: given
        ),
        # gates
        "the gates read x, the input of the experts. What is `given` for?": _with(
            w=lambda self, x, given: self.gates(x), s=lambda self, x, given: self.self_gates(x)
        ),
        "the gates read what the feature gates made. All gates read the raw input: which one is that here?": (
            _with(
                w=lambda self, x, given: self.gates(self.feature_gates(x)),
                s=lambda self, x, given: self.self_gates(self.feature_gates(x)),
            )
        ),
        "the gates read x, only the self gates read `given`. Which of them has another input in the text?": _with(
            w=lambda self, x, given: self.gates(x)
        ),
        "the self gates read x, the gates read `given`. Which of them has another input in the text?": _with(
            s=lambda self, x, given: self.self_gates(x)
        ),
        "the self gates read what the feature gates made. Which input do all gates read?": _with(
            s=lambda self, x, given: self.self_gates(self.feature_gates(x))
        ),
        # the sum
        "the self gates are missing. What is added to the mixture?": _with(add=lambda w, s: w + 0 * s),
        "the self gates stand in the place of the gates. What is added to what?": _with(
            add=lambda w, s: s + 0 * w
        ),
        "the weights of gates and self gates are multiplied. What is added to what?": _with(
            add=lambda w, s: w * s
        ),
        "the weights of gates and self gates are averaged. What is added to what?": _with(
            add=lambda w, s: (w + s) / 2
        ),
        "the sum of the weights is divided so that it is 1 again. What does the self gate give: a share of the mixture "
        "or something more?": _with(add=lambda w, s: (w + s) / (w + s).sum(2, keepdim=True)),
        "another softmax runs over the weights. Which of them are logits?": _with(
            add=lambda w, s: (w + s).softmax(2)
        ),
        "the gates are cut off from training (`detach`). How would they ever learn?": _with(
            add=lambda w, s: (w + s).detach()
        ),
        "a Swish stands behind the mixture, too. What do the experts end with?": _with(
            end=torch.nn.functional.silu
        ),
        "the experts are returned as they are, (B, E, H). Who mixes them?": _level(
            lambda self, x, given: (
                self.experts(self.feature_gates(x)) + 0 * (self.gates(given) + self.self_gates(given)).sum()
            )
        ),
        "the weights are returned, (B, G, E). What do they weigh?": _level(
            lambda self, x, given: (
                self.gates(given) + self.self_gates(given) + 0 * self.experts(self.feature_gates(x)).sum()
            )
        ),
    },
    also_right=[
        _level(_apart),
        _level(_by_hand),
        _with(add=lambda w, s: torch.stack([w, s]).sum(0)),
    ],
)
