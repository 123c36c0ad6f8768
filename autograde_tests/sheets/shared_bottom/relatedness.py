"""Exercises 1.8, 1.9: the correlation knob."""

from __future__ import annotations

import numpy as np
import torch

from autograde_tests.exercise import Draw, Exercise, Trial, prediction

# --- 1.8 the correlation knob ------------------------------------------------------------------------------


def second_weights(u1, u2, p, c):
    return c * (p * u1 + (1 - p**2) ** 0.5 * u2)


def _knob_draw(rng, D=None, p=None):
    D = D or int(rng.integers(4, 8))
    basis = np.linalg.qr(rng.normal(size=(D, 2)))[0].astype(np.float32)
    p = float(rng.uniform(0.2, 0.8)) if p is None else p
    return Draw({"u1": basis[:, 0], "u2": basis[:, 1], "p": p, "c": float(rng.uniform(0.4, 0.9))})


KNOB = Exercise(
    id="1.8",
    title="the correlation knob",
    how="function",
    reference=second_weights,
    shape="(D,)",
    grads=["u1", "u2"],
    example=Trial(
        "u1 = (1, 0), u2 = (0, 1), p = 0.6, c = 0.5: w2 = 0.5 * (0.6, 0.8) (worked by hand)",
        {"u1": np.array([1, 0], np.float32), "u2": np.array([0, 1], np.float32), "p": 0.6, "c": 0.5},
        grads=["u1", "u2"],
        want={"out": np.array([0.3, 0.4])},
    ),
    draw=_knob_draw,
    sizes={"a random knob": {}, "p = 0": {"p": 0.0}, "p = 1": {"p": 1.0}, "a negative p": {"p": -0.5}},
    mistakes={
        "the second part is 1 - p. What is the length of (p, 1 - p), and what should it be?": (
            lambda u1, u2, p, c: c * (p * u1 + (1 - p) * u2)
        ),
        "the square root is missing. What is the length of (p, 1 - p^2)?": (
            lambda u1, u2, p, c: c * (p * u1 + (1 - p**2) * u2)
        ),
        "the square root became a half: Python reads `x ** 1/2` as (x ** 1) / 2. Where does the exponent need brackets?": (
            lambda u1, u2, p, c: c * (p * u1 + (1 - p**2) / 2 * u2)
        ),
        "p is not squared under the root. What do the squares of the two parts have to sum to?": (
            lambda u1, u2, p, c: (
                c * (p * u1 + (1 - p) ** 0.5 * u2) if p >= 0 else c * (p * u1 + (1 - p) ** 0.5 * u2)
            )
        ),
        "c multiplies only the first part. Which terms stand inside the bracket?": (
            lambda u1, u2, p, c: c * p * u1 + (1 - p**2) ** 0.5 * u2
        ),
        "c multiplies only the second part. Which terms stand inside the bracket?": (
            lambda u1, u2, p, c: p * u1 + c * (1 - p**2) ** 0.5 * u2
        ),
        "c is missing. How long is w1 = c u1, and how long should w2 be?": (
            lambda u1, u2, p, c: p * u1 + (1 - p**2) ** 0.5 * u2
        ),
        "u1 and u2 are swapped. With which of them should w2 have the cosine p?": (
            lambda u1, u2, p, c: c * (p * u2 + (1 - p**2) ** 0.5 * u1)
        ),
        "the second part is subtracted. What is the sign in front of u2?": (
            lambda u1, u2, p, c: c * (p * u1 - (1 - p**2) ** 0.5 * u2)
        ),
        "w2 is made of u1 alone. Where does the other direction come in?": lambda u1, u2, p, c: c * p * u1,
        "c is applied twice. How long is w1 = c u1?": (
            lambda u1, u2, p, c: c * c * (p * u1 + (1 - p**2) ** 0.5 * u2)
        ),
    },
    also_right=[
        lambda u1, u2, p, c: c * p * u1 + c * np.sqrt(1 - p**2) * u2,
        lambda u1, u2, p, c: c * (np.cos(np.arccos(p)) * u1 + np.sin(np.arccos(p)) * u2),
        lambda u1, u2, p, c: (
            torch.stack([u1, u2]).T.to(u1) @ torch.tensor([c * p, c * (1 - p**2) ** 0.5]).to(u1)
        ),
        lambda u1, u2, p, c: c * (p * u1 + torch.tensor(1 - p * p).sqrt().to(u1) * u2),
    ],
)


# --- 1.9 predict: where does sharing hurt? -----------------------------------------------------------------

WHERE_SHARING_HURTS = prediction(
    "1.9",
    "predict: where does sharing hurt?",
    "three guesses about the two figures below",
    {
        "highest final loss at p": 0.5,
        "lowest final loss at p": 1.0,
        "label correlation at p = 0.5 is": "below 0.5",
    },
    {
        "highest final loss at p": {
            0.9: "the hardest case is p = 0.9. Which of the three leaves the tasks least in common?",
            1.0: "the tasks are hardest to share where they are the same. What does one bottom have to serve at p = 1?",
        },
        "lowest final loss at p": {
            0.5: "the tasks are easiest to share where they have least in common. What does one bottom have to serve "
            "at p = 0.5?",
            0.9: "the easiest case is p = 0.9. At which p are the two tasks one task with two noises?",
        },
        "label correlation at p = 0.5 is": {
            "equal to 0.5": "the labels correlate as strongly as the weights. What do the sine waves do to two "
            "different inputs?",
            "above 0.5": "the labels correlate more strongly than the weights. What do the sine waves do to two "
            "different inputs?",
        },
    },
)
