"""Exercise 3.8: what learning together gained, seed by seed."""

from __future__ import annotations

import numpy as np
import torch

from autograde_tests.exercise import Draw, Exercise, Trial


def gain(together, alone):
    difference = together - alone  # (S, T)
    return {
        "mean": difference.mean(dim=0),
        "error": difference.std(dim=0) / len(difference) ** 0.5,
    }


def _other(mean=None, error=None):
    """gain with another mean or another error, each a function of (together, alone)."""

    def answer(together, alone):
        right = gain(together, alone)
        return {
            "mean": mean(together, alone) if mean else right["mean"],
            "error": error(together, alone) if error else right["error"],
        }

    return answer


def _gain_loop(together, alone):
    S, T = together.shape
    mean, error = torch.zeros(T), torch.zeros(T)
    for t in range(T):
        d = [float(together[s, t] - alone[s, t]) for s in range(S)]
        mean[t] = sum(d) / S
        error[t] = (sum((v - mean[t]) ** 2 for v in d) / (S - 1) / S) ** 0.5
    return {"mean": mean, "error": error}


def _gain_draw(rng, S=None, T=None):
    S, T = S or int(rng.integers(5, 9)), T or int(rng.integers(2, 5))
    seeds = rng.normal(size=(S, 1))  # a hard seed is hard for both models
    values = [0.7 + 0.02 * (seeds + 0.5 * rng.normal(size=(S, T))) for _ in range(2)]
    return Draw(dict(zip(("together", "alone"), (v.astype(np.float32) for v in values), strict=True)))


GAIN = Exercise(
    id="3.8",
    title="the gain of learning together",
    how="function",
    reference=gain,
    example=Trial(
        "three seeds: like gains 0, 3 and 6 points, click loses 1 each time (worked by hand)",
        {
            "together": np.array([[70, 59], [80, 69], [66, 49]], np.float32),
            "alone": np.array([[70, 60], [77, 70], [60, 50]], np.float32),
        },
        want={"out['mean']": np.array([3.0, -1.0]), "out['error']": np.array([3**0.5, 0.0])},
    ),
    draw=_gain_draw,
    sizes={"random sizes": {}, "many seeds": {"S": 24}, "two seeds": {"S": 2}, "one task": {"T": 1}},
    mistakes={
        "the sign is turned: single-task minus multi-task. What does a gain above 0 mean?": _other(
            mean=lambda m, s: (s - m).mean(0)
        ),
        "the gain is a share of the single-task value. Which of the two does the text ask for: a difference or a ratio?": (
            _other(mean=lambda m, s: ((m - s) / s).mean(0))
        ),
        "the sign is lost (an absolute value). What would tell a loss from a gain?": _other(
            mean=lambda m, s: (m - s).abs().mean(0)
        ),
        "the best runs of both are compared. Who got the lucky seed?": _other(
            mean=lambda m, s: m.amax(0) - s.amax(0)
        ),
        "the medians are compared. What does the text ask for?": _other(
            mean=lambda m, s: (m - s).quantile(0.5, dim=0)
        ),
        "all tasks end in one number: a win and a loss cancel. Which axis has to stay?": _other(
            mean=lambda m, s: (m - s).mean()
        ),
        "the mean runs over the tasks, one number per seed. Which axis counts the seeds?": _other(
            mean=lambda m, s: (m - s).mean(1)
        ),
        "each seed keeps its own gain. Over which axis is there a mean still to take?": _other(
            mean=lambda m, s: m - s
        ),
        "the gains are added up over the seeds. Should more seeds mean more gain?": _other(
            mean=lambda m, s: (m - s).sum(0)
        ),
        "this is the standard deviation of one run's gain, not the error of the mean. What do more seeds do to the "
        "error of a mean?": _other(error=lambda m, s: (m - s).std(0)),
        "the error is divided by S, not by its square root. By how much do four times the seeds shrink an error?": (
            _other(error=lambda m, s: (m - s).std(0) / len(m))
        ),
        "the error is divided by the root of S - 1, and `std` has its minus 1 already. How many seeds are there?": (
            _other(error=lambda m, s: (m - s).std(0) / (len(m) - 1) ** 0.5)
        ),
        "the error is multiplied by the root of S. What do more seeds do to the error of a mean?": (
            _other(error=lambda m, s: (m - s).std(0) * len(m) ** 0.5)
        ),
        "the error is divided by the root of the number of tasks. Which axis counts the seeds?": (
            _other(error=lambda m, s: (m - s).std(0) / m.shape[1] ** 0.5)
        ),
        "this is 1.96 times the error, half of an interval. Which of the two does the text ask for: an error or an "
        "interval?": _other(error=lambda m, s: 1.96 * (m - s).std(0) / len(m) ** 0.5),
        "the standard deviation divides by S (correction 0). How many of the S differences are free once their mean "
        "is known?": _other(error=lambda m, s: (m - s).std(0, correction=0) / len(m) ** 0.5),
        "the two models are treated as if their seeds had nothing to do with each other. Which runs form a pair?": (
            _other(error=lambda m, s: ((m.var(0) + s.var(0)) / len(m)).sqrt())
        ),
        "this is the error of the multi-task values, not of the differences. Of which numbers do you want the "
        "error?": _other(error=lambda m, s: m.std(0) / len(m) ** 0.5),
        "this is the difference of the two errors. Of which numbers do you want the error?": _other(
            error=lambda m, s: (m.std(0) - s.std(0)) / len(m) ** 0.5
        ),
        "the square root is missing: a variance over S. Which unit has an error?": _other(
            error=lambda m, s: (m - s).var(0) / len(m)
        ),
    },
    also_right=[
        _gain_loop,
        _other(mean=lambda m, s: m.mean(0) - s.mean(0)),
        lambda m, s: {k: v.numpy() for k, v in gain(m.double().cpu(), s.double().cpu()).items()},
        _other(error=lambda m, s: ((m - s).var(0) / len(m)).sqrt()),
    ],
)
