"""One sheet of exercises per notebook; each reads like a table."""

from __future__ import annotations

from functools import cache

from autograde_tests.exercise import Exercise
from autograde_tests.sheets import capstone, home, mmoe, ple, shared_bottom, start

SHEETS = (start, shared_bottom, mmoe, ple, home, capstone)


@cache
def exercises() -> dict[str, Exercise]:
    """All exercises of the series by id, in the order of the notebooks."""
    found: dict[str, Exercise] = {}
    for sheet in SHEETS:
        for item in sheet.EXERCISES:
            if item.id in found:
                raise ValueError(f"Exercise {item.id} stands in two sheets.")
            found[item.id] = item
    return found


def exercise(exercise_id: str) -> Exercise:
    """The exercise with this id. Raises ``ValueError`` that lists the ids when there is none."""
    found = exercises().get(exercise_id)
    if found is None:
        raise ValueError(f"There is no exercise {exercise_id!r}; there are {', '.join(exercises())}.")
    return found
