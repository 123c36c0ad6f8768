"""Exercise 2.5: who uses which expert."""

from __future__ import annotations

import numpy as np
import torch

from autograde_tests.exercise import ONE_ROW_ONE_TASK, Draw, Exercise, Trial, some


def expert_use(weights):
    mean = weights.mean(dim=0)  # (T, E)
    entropy = -torch.xlogy(weights, weights).sum(dim=2).mean(dim=0)  # (T,)
    return {"mean": mean, "entropy": entropy}


def _other(mean=None, entropy=None):
    """expert_use with another mean or another entropy."""

    def answer(w):
        right = expert_use(w)
        return {
            "mean": mean(w) if mean else right["mean"],
            "entropy": entropy(w) if entropy else right["entropy"],
        }

    return answer


def _h(w):
    return -torch.xlogy(w, w).sum(2)  # (B, T)


def _use_loop(w):
    mean, entropy = torch.zeros(w.shape[1:]), []
    for t in range(w.shape[1]):
        mean[t] = sum(w[b, t] for b in range(len(w))) / len(w)
        each = [-(row[row > 0] * row[row > 0].log()).sum() for row in w[:, t]]
        entropy.append(torch.stack(each).mean())
    return {"mean": mean, "entropy": torch.stack(entropy)}


def _use_draw(rng, B=None, T=None):
    B, T = some(rng, B, T)
    E = int(rng.integers(5, 8))
    powers = np.exp(1.5 * rng.normal(size=(B, T, E)))
    powers[0, :, 0] = 0  # a gate that is sure: 0 * log 0 is 0
    return Draw({"weights": (powers / powers.sum(-1, keepdims=True)).astype(np.float32)})


EXPERT_USE = Exercise(
    id="2.5",
    title="who uses which expert",
    how="function",
    reference=expert_use,
    example=Trial(
        "two users, two tasks: both use each expert half, but click is sure each time: entropies log 2 and 0 "
        "(worked by hand)",
        {"weights": np.array([[[0.5, 0.5], [1, 0]], [[0.5, 0.5], [0, 1]]], np.float32)},
        want={
            "out['mean']": np.array([[0.5, 0.5], [0.5, 0.5]]),
            "out['entropy']": np.array([np.log(2), 0]),
        },
    ),
    draw=_use_draw,
    sizes=ONE_ROW_ONE_TASK,
    mistakes={
        "0 times log 0 became NaN: log 0 is minus infinity. What is the limit of w log w at 0, and which cells need "
        "care?": _other(entropy=lambda w: -(w * w.log()).sum(2).mean(0)),
        "NaN was replaced after the sum, so a single weight of 0 makes a user's entropy 0. Which numbers should be "
        "replaced: the terms, or their sum?": _other(
            entropy=lambda w: -torch.nan_to_num((w * w.log()).sum(2)).mean(0)
        ),
        "the logarithm is that of 1 + w (log1p). What is the surprise of a share of 1 then?": _other(
            entropy=lambda w: -(w * w.log1p()).sum(2).mean(0)
        ),
        "the entropy is in bits (log2). Which logarithm does the text ask for?": _other(
            entropy=lambda w: _h(w).mean(0) / np.log(2)
        ),
        "the entropy has base 10. Which logarithm does the text ask for?": _other(
            entropy=lambda w: _h(w).mean(0) / np.log(10)
        ),
        "the minus sign of the entropy is missing. What is the sign of the logarithm of a share?": _other(
            entropy=lambda w: -_h(w).mean(0)
        ),
        "this is the entropy of the mean weights, not the mean of the users' entropies. What comes first: the mean, "
        "or the entropy of one user?": _other(entropy=lambda w: -torch.xlogy(w.mean(0), w.mean(0)).sum(1)),
        "the entropies are added up over the users. Should a larger batch have a larger entropy?": _other(
            entropy=lambda w: _h(w).sum(0)
        ),
        "the terms of the entropy are averaged over the experts and not added up. What is the entropy of two equal "
        "shares?": _other(entropy=lambda w: _h(w).mean(0) / w.shape[2]),
        "all tasks end in one entropy. Which axis has to stay?": _other(entropy=lambda w: _h(w).mean()),
        "the entropies are averaged over the tasks, one number per user. Which axis has to stay?": _other(
            entropy=lambda w: _h(w).mean(1)
        ),
        "each user keeps her own entropies: (B, T). Over which axis is there a mean still to take?": _other(
            entropy=_h
        ),
        "the entropy is divided by log E, so that it ends at 1. Does the text ask for that?": _other(
            entropy=lambda w: _h(w).mean(0) / np.log(w.shape[2])
        ),
        "the logarithm was not multiplied by the weight. What does each surprise -log w count with?": _other(
            entropy=lambda w: -(w.clamp(min=1e-8).log()).sum(2).mean(0)
        ),
        "you took the exponential of the entropy, a number of experts. Does the text ask for that?": _other(
            entropy=lambda w: _h(w).mean(0).exp()
        ),
        "this is one minus the sum of squares (Gini), another measure of spread. Where is the logarithm?": _other(
            entropy=lambda w: (1 - w.square().sum(2)).mean(0)
        ),
        "a second softmax runs over the weights before the entropy. What do they sum to already?": _other(
            entropy=lambda w: _h(w.softmax(2)).mean(0)
        ),
        "the entropy runs over the users (axis 0) and not over the experts. Which weights are the shares of one "
        "whole?": _other(entropy=lambda w: -torch.xlogy(w, w).sum(0).mean(1)),
        "the mean weights are (E, T). Which letter does the text name first?": _other(
            mean=lambda w: w.mean(0).T
        ),
        "the weights are averaged over the tasks. Which axis counts the users?": _other(
            mean=lambda w: w.mean(1)
        ),
        "the weights are averaged over users and tasks: (E,). Do you want to see who uses which expert?": _other(
            mean=lambda w: w.mean((0, 1))
        ),
        "the weights are averaged over the experts: (B, T). What is the mean of shares that sum to 1?": _other(
            mean=lambda w: w.mean(2)
        ),
        "the weights are added up over the users. Should a larger batch have larger weights?": _other(
            mean=lambda w: w.sum(0)
        ),
        "you count how often an expert is the first choice. What is the mean of weights (0.6, 0.4) and (0.6, 0.4)?": (
            _other(mean=lambda w: (w == w.amax(2, keepdim=True)).to(w.dtype).mean(0))
        ),
        "you took the median over the users. What does the text ask for?": _other(
            mean=lambda w: w.quantile(0.5, dim=0)
        ),
    },
    also_right=[
        _use_loop,
        _other(entropy=lambda w: torch.special.entr(w).sum(-1).mean(0)),
        _other(entropy=lambda w: -(w * w.clamp(min=1e-12).log()).sum(2).mean(0)),
        _other(entropy=lambda w: -(w * torch.where(w > 0, w, 1.0).log()).sum(2).mean(0)),
        _other(entropy=lambda w: -(w * (w + 1e-9).log()).sum(2).mean(0)),
        lambda w: {k: v.numpy() for k, v in expert_use(w.double().cpu()).items()},
        _other(entropy=lambda w: -torch.nan_to_num(w * w.log()).sum(2).mean(0)),
        _other(entropy=lambda w: torch.distributions.Categorical(probs=w).entropy().mean(0)),
    ],
)
