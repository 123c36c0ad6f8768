"""Exercises 4.1, 4.2: what experts give, and who uses them."""

from __future__ import annotations

import numpy as np
import torch

from autograde_tests.exercise import Draw, Exercise, Trial, some

# --- 4.1 the outputs of the experts ------------------------------------------------------------------------


def expert_outputs(h):
    return {
        "mean": h.mean(dim=(0, 2)),  # (E,)
        "variance": h.var(dim=(0, 2), correction=0),
        "zeros": (h == 0).to(h).mean(dim=(0, 2)),
    }


def _other(**rules):
    """expert_outputs with other rules: name -> function of h."""
    return lambda h: expert_outputs(h) | {name: rule(h) for name, rule in rules.items()}


def _over(*dims):
    """All three over these axes."""
    return lambda h: {
        "mean": h.mean(dim=dims),
        "variance": h.var(dim=dims, correction=0),
        "zeros": (h == 0).to(h).mean(dim=dims),
    }


def _loop(h):
    rows = [[float(v) for v in h[:, e].flatten()] for e in range(h.shape[1])]
    means = [sum(row) / len(row) for row in rows]
    return {
        "zeros": torch.tensor([row.count(0.0) / len(row) for row in rows]),
        "mean": torch.tensor(means),
        "variance": torch.tensor(
            [sum((v - m) ** 2 for v in row) / len(row) for m, row in zip(means, rows, strict=True)]
        ),
    }


def _outputs_draw(rng, B=None, E=None):
    B, E = some(rng, B, E)
    H = int(rng.integers(5, 9))
    scale, shift = rng.uniform(0.5, 2, size=(E, 1)), rng.uniform(0.5, 1, size=(E, 1))
    h = scale * rng.normal(size=(B, E, H)) + shift
    h[:, :, : H // 2] = np.maximum(h[:, :, : H // 2], 0)  # these units end in a ReLU
    h[:, :, 0] = 0  # a unit that is silent for everybody
    h[:, :, -1] = -np.abs(h[:, :, -1])
    return Draw({"h": h.astype(np.float32)})


EXPERT_OUTPUTS = Exercise(
    id="4.1",
    title="the outputs of each expert",
    how="function",
    reference=expert_outputs,
    example=Trial(
        "three users, two experts of two units: means 1 and 20, variances 1 and 50, half zeros and none (worked by hand)",
        {"h": np.array([[[0, 2], [10, 30]], [[0, 2], [15, 25]], [[0, 2], [25, 15]]], np.float32)},
        want={
            "out['mean']": np.array([1.0, 20.0]),
            "out['variance']": np.array([1.0, 50.0]),
            "out['zeros']": np.array([0.5, 0.0]),
        },
    ),
    draw=_outputs_draw,
    sizes={"random sizes": {}, "more rows": {"B": 24}, "one user": {"B": 1}, "one expert": {"E": 1}},
    mistakes={
        "the units stay apart: a number per expert and unit. How many numbers does one expert get?": _over(0),
        "the users stay apart: a number per user and expert. Which axes have to go?": _over(2),
        "all experts end in one number. Which axis counts the experts, and has to stay?": _over(0, 1, 2),
        "users and experts are put together: a number per unit. Which axis counts the experts?": _over(0, 1),
        "experts and units are put together: a number per user. Which axis counts the experts?": _over(1, 2),
        "this is a standard deviation, not a variance. What is the square of it?": _other(
            variance=lambda h: h.std((0, 2), correction=0)
        ),
        "the variance divides by one less than the count. What does the text ask for: the spread of these numbers, or "
        "an estimate from a sample?": _other(variance=lambda h: h.var((0, 2))),
        "the variance is that of each unit, averaged over the units. From which mean do the outputs differ?": _other(
            variance=lambda h: h.var(0, correction=0).mean(1)
        ),
        "the variance is that of each user's outputs, averaged over the users. From which mean do the outputs differ?": (
            _other(variance=lambda h: h.var(2, correction=0).mean(0))
        ),
        "the variance is a mean square: the mean was not taken off. From where does a variance measure?": _other(
            variance=lambda h: h.square().mean((0, 2))
        ),
        "the mean is that of the absolute values. What cancels in a mean?": _other(
            mean=lambda h: h.abs().mean((0, 2))
        ),
        "the mean is that of the outputs which are not zero. Do zeros count?": _other(
            mean=lambda h: h.sum((0, 2)) / (h != 0).sum((0, 2))
        ),
        "the zeros are counted, not given as a share. Of how many outputs?": _other(
            zeros=lambda h: (h == 0).sum((0, 2)).to(h)
        ),
        "the zeros are divided by the number of users. Of how many outputs should they be a share?": _other(
            zeros=lambda h: (h == 0).sum((0, 2)) / len(h)
        ),
        "an expert's zeros are divided by the number of all experts' outputs. How many outputs has one expert?": _other(
            zeros=lambda h: (h == 0).sum((0, 2)) / h.numel()
        ),
        "you count the outputs that are not zero. Which share says that an expert is silent?": _other(
            zeros=lambda h: (h != 0).to(h).mean((0, 2))
        ),
        "numbers below zero count as zeros, too. Is an expert with the output -3 silent?": _other(
            zeros=lambda h: (h <= 0).to(h).mean((0, 2))
        ),
        "a unit counts only if it is zero for every user. Which outputs are zero?": _other(
            zeros=lambda h: (h == 0).all(0).to(h).mean(1)
        ),
        "you give a share of users: those with a zero anywhere. What is counted: users or outputs?": _other(
            zeros=lambda h: (h == 0).any(2).to(h).mean(0)
        ),
    },
    also_right=[
        _loop,
        lambda h: {k: v.numpy() for k, v in expert_outputs(h.double().cpu()).items()},
        _other(variance=lambda h: h.square().mean((0, 2)) - h.mean((0, 2)) ** 2),
        lambda h: {
            k: torch.stack([v[0] for v in vs])
            for k, vs in {
                k: [expert_outputs(h[:, e : e + 1])[k] for e in range(h.shape[1])]
                for k in ("mean", "variance", "zeros")
            }.items()
        },
    ],
)


# --- 4.2 whose expert is it? -------------------------------------------------------------------------------


def main_share(weights):
    use = weights.mean(dim=0)  # (T, E)
    return use.amax(dim=0) / use.sum(dim=0)  # (E,)


def _weights_draw(rng, B=None, T=None):
    B, T = some(rng, B, T)
    E = T + int(rng.integers(2, 4))
    logits = 1.5 * rng.normal(size=(B, T, E)) + 1.5 * rng.normal(size=(T, E))
    weights = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    return Draw({"weights": weights.astype(np.float32)})


MAIN_SHARE = Exercise(
    id="4.2",
    title="how much of an expert's use is one task's",
    how="function",
    reference=main_share,
    shape="(E,)",
    example=Trial(
        "like and click, two users, three experts: shares 3/4, 1/2 and 0.65 (worked by hand)",
        {
            "weights": np.array(
                [[[0.5, 0.1, 0.4], [0.0, 0.2, 0.8]], [[0.4, 0.3, 0.3], [0.3, 0.2, 0.5]]], np.float32
            )
        },
        want={"out": np.array([0.75, 0.5, 0.65])},
    ),
    draw=_weights_draw,
    sizes={"random sizes": {}, "more rows": {"B": 24}, "a batch of one": {"B": 1}, "one task": {"T": 1}},
    mistakes={
        "this is the largest weight of each expert, not a share. Of what is it a share?": (
            lambda w: w.mean(0).amax(0)
        ),
        "a softmax makes the shares. The use is a number of weights already: what do shares have to sum to?": (
            lambda w: w.mean(0).softmax(0).amax(0)
        ),
        "the share is taken user by user and then averaged. Mean first, or share first?": (
            lambda w: (w / w.sum(1, keepdim=True)).mean(0).amax(0)
        ),
        "the largest share is looked for user by user and then averaged. Whose expert is it: one user's, or on the "
        "whole?": lambda w: (w / w.sum(1, keepdim=True)).amax(1).mean(0),
        "the largest weight is taken user by user before the mean. In which order does the text go?": (
            lambda w: w.amax(1).mean(0) / w.mean(0).sum(0)
        ),
        "this is the smallest share. Who uses the expert most?": (
            lambda w: w.mean(0).amin(0) / w.mean(0).sum(0)
        ),
        "this is the number of the task, not its share. What does the text ask for?": (
            lambda w: w.mean(0).argmax(0)
        ),
        "all shares are returned (T, E). Which one says that an expert belongs to one task?": (
            lambda w: w.mean(0) / w.mean(0).sum(0)
        ),
        "there is one number per task: the share of its favourite expert. Which axis counts the experts?": (
            lambda w: w.mean(0).amax(1)
        ),
        "you divide by the use of all experts together, which is the number of tasks. What would all tasks together give to this one expert?": (
            lambda w: w.mean(0).amax(0) / w.shape[1]
        ),
        "the largest use is divided by the use of the others. What is the whole?": (
            lambda w: w.mean(0).amax(0) / (w.mean(0).sum(0) - w.mean(0).amax(0))
        ),
    },
    also_right=[
        lambda w: (w.sum(0) / w.sum((0, 1))).max(0).values,
        lambda w: torch.stack([use.sum(0).amax() / use.sum() for use in w.unbind(2)]),
        lambda w: main_share(w.double()).numpy(force=True),
    ],
)
