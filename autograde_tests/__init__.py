"""Checks for the exercises of the series: ``check("1.1", masked_bce)``."""

from __future__ import annotations

import os

import torch

from autograde_tests.probe import ask
from autograde_tests.verdict import Verdict
from autograde_tests.verdict import judge as decide
from mtlkit.device import pick_device

__all__ = ["CheckFailed", "check", "verdict"]


class CheckFailed(AssertionError):
    """A red check. Notebooks show its message alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        red, plain = "\x1b[31m", "\x1b[0m"
        first, *rest = str(self).split("\n")
        return [f"{red}{first}{plain}", *rest]


def verdict(exercise_id: str, answer: object, *, seed: int | None = None) -> Verdict:
    """Try an answer on the exercise's trials and judge it.

    ``seed`` decides the random trials (default: the environment variable MTLKIT_SEED, else 0). The trials
    run on the device that MTLKIT_DEVICE names ("cpu" by default, or "cuda").
    Raises ``ValueError`` for an unknown exercise, ``RuntimeError`` where CUDA is asked for and missing.
    """
    from autograde_tests.sheets import exercise  # late: the judge's workers hold no references

    asked, device = exercise(exercise_id), pick_device()
    if seed is None:
        seed = int(os.environ.get("MTLKIT_SEED", "0"))
    with torch.random.fork_rng():  # the notebook's own random numbers go on as if no check had run
        trials = asked.trials(seed)
        return decide(asked, trials, ask(answer, asked.how, trials, device, asked.may_use), device)


def check(exercise_id: str, answer: object) -> None:
    """Print a green line for a right answer; raise ``CheckFailed`` with one message for any other."""
    result = verdict(exercise_id, answer)
    if not result.passed:
        raise CheckFailed(str(result))
    print(result)
