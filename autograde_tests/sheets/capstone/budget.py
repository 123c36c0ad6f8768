"""Exercise 5.2: the width whose parameters come nearest to a budget."""

from __future__ import annotations

import numpy as np
import torch

from autograde_tests.exercise import Draw, Exercise, Trial


def nearest_width(counts, budget):
    i = (counts - budget).abs().argmin()
    return {"width": int(i) + 1, "gap": float(counts[i] / budget - 1)}


def _at(choose, gap=lambda count, budget: count / budget - 1, offset=1):
    """nearest_width with another choice of the entry, another gap, or another count of widths."""

    def answer(counts, budget):
        i = min(max(int(choose(counts, budget)), 0), len(counts) - 1)
        return {"width": i + offset, "gap": float(gap(float(counts[i]), float(budget)))}

    return answer


def _nearest(counts, budget):
    return (counts - budget).abs().argmin()


def _loop(counts, budget):
    best = 1
    for width in range(2, len(counts) + 1):
        if abs(counts[width - 1] - budget) < abs(counts[best - 1] - budget):
            best = width
    return {"width": best, "gap": (counts[best - 1].item() - budget) / budget}


def _draw(rng, side=None, edge=0):
    """``side``: whether the nearest count lies below (-1) or above (1) the budget. ``edge``: outside of all."""
    widths = np.arange(1, int(rng.integers(12, 24)) + 1)
    counts = (rng.integers(3, 9) * widths**2 + rng.integers(40, 90) * widths + rng.integers(5, 30)).astype(
        float
    )
    i = int(rng.integers(4, len(widths) - 3))
    side = side or int(rng.choice([-1, 1]))
    step = counts[i] - counts[i - 1] if side > 0 else counts[i + 1] - counts[i]
    budget = counts[i] - side * step * rng.uniform(0.2, 0.4)
    budget = {-1: counts[0] * 0.8, 1: counts[-1] * 1.1}.get(edge, budget)
    return Draw({"counts": counts.astype(np.float32), "budget": float(np.float32(budget))})


NEAREST_WIDTH = Exercise(
    id="5.2",
    title="the width that fits the budget",
    how="function",
    reference=nearest_width,
    example=Trial(
        "counts 100, 200 and 400 for the widths 1, 2 and 3, budget 320: width 3, gap +0.25 (worked by hand)",
        {"counts": np.array([100, 200, 400], np.float32), "budget": 320.0},
        want={"out['width']": np.array(3), "out['gap']": np.array(0.25)},
    ),
    draw=_draw,
    sizes={
        "random counts": {},
        "the nearest is too small": {"side": -1},
        "the nearest is too large": {"side": 1},
        "a budget below all counts": {"edge": -1},
        "a budget above all counts": {"edge": 1},
    },
    real_valued=False,
    mistakes={
        "the position is given, not the width. Which width has the position 0?": _at(_nearest, offset=0),
        "the largest count that does not exceed the budget is taken. Can the next one be nearer?": _at(
            lambda c, b: (c <= b).sum() - 1
        ),
        "the first count that reaches the budget is taken. Can the one before be nearer?": _at(
            lambda c, b: (c < b).sum()
        ),
        "the gap has lost its sign. Is the network too large or too small?": _at(
            _nearest, lambda n, b: abs(n / b - 1)
        ),
        "the gap has the wrong sign. Which sign has a network that is too large?": _at(
            _nearest, lambda n, b: 1 - n / b
        ),
        "the gap is divided by the network's own count. Of what is it a share?": _at(
            _nearest, lambda n, b: (n - b) / n
        ),
        "the gap is a number of parameters. Of what is it a share?": _at(_nearest, lambda n, b: n - b),
        "the gap is in percent. Which number is a share of one half?": _at(
            _nearest, lambda n, b: 100 * (n / b - 1)
        ),
        "this is the ratio, not the gap. What is the gap of a network that fits exactly?": _at(
            _nearest, lambda n, b: n / b
        ),
        "the largest network of all is taken. What has the budget to say?": _at(lambda c, b: len(c) - 1),
        "the count farthest from the budget is taken. Which of min and max do you want?": _at(
            lambda c, b: (c - b).abs().argmax()
        ),
        "the smallest count is taken: far below the budget is a difference far below 0. What makes a distance of a "
        "difference?": _at(lambda c, b: (c - b).argmin()),
        "the count is given where the width should stand. What do you pass to the network?": (
            lambda counts, budget: (
                nearest_width(counts, budget) | {"width": float(counts[_nearest(counts, budget)])}
            )
        ),
    },
    also_right=[
        _loop,
        lambda counts, budget: {
            "gap": torch.tensor(nearest_width(counts, budget)["gap"]),
            "width": torch.argsort((counts / budget - 1).abs())[0] + 1,
        },
    ],
)
