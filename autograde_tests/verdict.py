"""Decide about the arrays that a probe returned, and say it in words. Runs no code of a student."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autograde_tests.exercise import Exercise, Trial
from autograde_tests.probe import Reply, ask

STUB = "(`raise NotImplementedError()` is still reached; put your answer in its place)"
VALUES_ARE_RIGHT = "the values are right, but"
Known = dict[tuple[int, int], Reply]  # by id of the answer and of the trial


@dataclass(frozen=True)
class Verdict:
    """passed; lines: the message for the student; mistake: the named mistake's sentence, or ""."""

    passed: bool
    lines: tuple[str, ...]
    mistake: str = ""

    def __str__(self) -> str:
        return "\n".join(self.lines)


def judge(
    exercise: Exercise,
    trials: Sequence[Trial],
    replies: Sequence[Reply],
    device: torch.device,
    known: Known | None = None,
) -> Verdict:
    """Compare the replies with the reference's; on a mismatch look for the mistake with the same numbers.

    known: what the reference and the mistakes reply, kept by a caller with many answers to these trials.
    """
    known = {} if known is None else known

    def say(mark: str, what: str, *more: str) -> tuple[str, ...]:
        return (
            f"[{exercise.id}] {mark} {what}",
            *(f"      {line}" for text in more for line in text.split("\n")),
        )

    if replies and replies[0].failure == "blank":
        return Verdict(False, say("○", f"{exercise.title}: not attempted yet", STUB))
    expected = _replies(exercise, exercise.reference, trials, device, known)
    problems = [
        _difference(exercise, trial, replies[min(i, len(replies) - 1)], expected[i], device, known)
        for i, trial in enumerate(trials)
    ]
    wrong = [i for i, problem in enumerate(problems) if problem is not None]
    if wrong:
        # a worked example's plain numbers can hide a wrong value that another trial shows
        i = next((i for i in wrong if not problems[i].startswith(VALUES_ARE_RIGHT)), wrong[0])
        reply, problem = replies[min(i, len(replies) - 1)], problems[i]
        passed = [trial.what for trial in trials[: wrong[0]]]
        so_far = [f"right so far: {', '.join(passed)}"] if passed else []
        named, _, detail = problem.partition("\n")
        if named not in exercise.mistakes:
            named, detail = _mistake(exercise, trials, replies, expected, i, device, known), ""
        if named and reply.failure not in ("delegated", "slow"):
            own = [reply.text] if reply.failure == "crash" else []
            lines = [*own, f"It looks as if {named}", *detail.splitlines()]
        else:
            lines = [problem]
        return Verdict(False, say("✗", trials[i].what, *lines, *so_far), named)
    passed = [trial.what for trial in trials]
    checked = (
        "values and gradients" if any(k.startswith("grad") for e in expected for k in e.arrays) else "values"
    )
    right = "it is one" if exercise.rule else f"{checked} are right"
    seen = [exercise.seen(replies[0].arrays)] if exercise.seen else []
    return Verdict(True, say("✓", f"{exercise.title}: {right}", *seen, f"checked: {', '.join(passed)}"))


def _replies(
    exercise: Exercise, answer: object, trials: Sequence[Trial], device: torch.device, known: Known
) -> list[Reply]:
    new = [trial for trial in trials if (id(answer), id(trial)) not in known]
    if new:
        replies = ask(answer, exercise.how, new, device, may_use=("mtlkit.",))
        known |= {(id(answer), id(trial)): reply for trial, reply in zip(new, replies, strict=False)}
    return [known[id(answer), id(trial)] for trial in trials if (id(answer), id(trial)) in known]


def _mistake(
    exercise: Exercise,
    trials: Sequence[Trial],
    replies: Sequence[Reply],
    expected: Sequence[Reply],
    first: int,
    device: torch.device,
    known: Known,
) -> str:
    """The mistake with the same numbers in every trial; else the only one that fits two wrong ones.

    One trial alone does not tell, unless the answer stopped in all others: the plain numbers of a worked
    example fit several mistakes. Nor do two that do not tell (see ``_tells``), where there are others.
    """
    here = []
    tells = [_tells(trial, right) for trial, right in zip(trials, expected, strict=True)]
    for sentence, wrong in exercise.mistakes.items():
        at_first = _replies(exercise, wrong, trials[first : first + 1], device, known)[0]
        if not _same(replies[first], at_first, trials[first], device):
            continue
        theirs = _replies(exercise, wrong, trials, device, known)
        # an answer that is too slow ends the replies before the trials
        alike = [_same(a, b, t, device) for a, b, t in zip(replies, theirs, trials, strict=False)]
        if len(theirs) == len(replies) and all(alike):
            return sentence
        wrong_too = [not _same(a, b, t, device) for a, b, t in zip(theirs, expected, trials, strict=False)]
        stopped = all(a or reply.failure for a, reply in zip(alike, replies, strict=False))
        fits = [a and b for a, b in zip(alike, wrong_too, strict=False)]
        telling = sum(a and b for a, b in zip(fits, tells, strict=False))
        if stopped or (sum(fits) > 1 and telling >= min(2, sum(tells))):
            here.append(sentence)
    return here[0] if len(here) == 1 else ""


def _tells(trial: Trial, right: Reply) -> bool:
    """Whether the sizes can tell mistakes apart: with one user, task or expert many answers are the same."""
    build = list((trial.build or {}).values())
    results = [array for name, array in right.arrays.items() if not name.startswith("grad")]
    values = [*trial.inputs.values(), *build, *results]
    shapes = [v.shape if isinstance(v, np.ndarray) else (len(v),) for v in values if hasattr(v, "__len__")]
    return 1 not in [*build, *(size for shape in shapes for size in shape)]


def _difference(
    exercise: Exercise, trial: Trial, reply: Reply, right: Reply, device: torch.device, known: Known
) -> str | None:
    """What is wrong with a reply, in words; None where nothing is."""
    if reply.failure == "delegated":
        return (
            f"your answer calls {reply.text}: the finished part that this exercise asks you to write.\n"
            "Use torch, and what the exercise's text allows."
        )
    if reply.failure == "crash":
        if "leaf Variable that requires grad" in reply.text:
            return f"an input is changed in place by your code; work on a copy.\n{reply.text}"
        hint = "\nnumpy cuts the gradients off: use torch's functions." if "numpy()" in reply.text else ""
        if "[ModuleList]" in reply.text:
            hint = "\nA ModuleList is a list of layers: loop over it."
        elif trial.dtype != "float32" and re.search("dtype|Double|Float|double|float", reply.text):
            hint = f"\nThe inputs are {trial.dtype} here. Make new tensors like them: `x.new_zeros(...)`."
        return f"your code stopped with an error:\n{reply.text}{hint}"
    if reply.failure:
        return reply.text
    if reply.changed:
        return f"the input `{reply.changed[0]}` is changed by your code; work on a copy."
    if exercise.rule is not None:
        return exercise.rule(reply.arrays) or None
    want = {name: np.asarray(value) for name, value in trial.want.items()}
    for name, expected in (right.arrays | want).items():
        got = reply.arrays.get(name)
        label = "the result" if name == "out" else name.removeprefix("out")
        if got is None and name.startswith("grad"):
            what = name.replace("grad", "gradient", 1)
            return f"{VALUES_ARE_RIGHT} no {what} arrives: where does the graph end?"
        if got is None and any(key.startswith(f"{name}[") for key in reply.arrays):
            return (
                f"{label} has several parts; one tensor is expected. Of a list you can make one with "
                "torch.stack or torch.tensor; of `x.max(dim)` take `.values`."
            )
        if got is None and label[0] == "[" and label.count("[") == 2:
            return f"{label.rpartition('[')[0].strip('[]')} should have several entries, as a tuple or a list"
        if got is None:
            return (
                f"return a dictionary with the key {label.strip('[]')}"
                if label[0] == "["
                else f"{label} is missing"
            )
        if got.shape != expected.shape:
            letters = f" = {exercise.shape}" if name == "out" and exercise.shape and expected.ndim else ""
            entry = f"{label}: " if label[0] == "[" else ""
            return f"{entry}expected the shape {_shape(expected)}{letters}, got {_shape(got)}"
        if got.dtype.kind in "US" or expected.dtype.kind in "US":
            if expected.dtype.kind not in "US":
                kind = "True or False" if expected.dtype.kind == "b" else "a number"
                return f"{label} is a text; give {kind}."
            if not _same_text(got, expected):
                given = got.ravel()[:1].tolist()
                if given and not trial.inputs and not _is_a_choice(exercise, name, trial, got, device, known):
                    return f"{label}: {given[0]!r} is none of the answers in the text; write it as there."
                return f"{label}: {given[0]!r} is not it" if given else f"{label} is empty"
            continue
        wrong = ~np.isclose(
            got.astype(np.float64),
            expected.astype(np.float64),
            equal_nan=True,
            **tolerance(trial.dtype, device),
        )
        if wrong.any():
            return _first_wrong(label, got, expected, wrong, predicted=not trial.inputs)
    extra = [name for name in reply.arrays if name not in right.arrays]
    return f"{extra[0].removeprefix('out')} is not asked for" if extra else None


def _same_text(a: np.ndarray, b: np.ndarray) -> bool:
    """Capitals and spaces around a word do not count."""
    return a.shape == b.shape and all(
        str(x).strip().lower() == str(y).strip().lower() for x, y in zip(a.ravel(), b.ravel(), strict=True)
    )


def _is_a_choice(
    exercise: Exercise, name: str, trial: Trial, got: np.ndarray, device: torch.device, known: Known
) -> bool:
    """Whether a predicted text is one that the reference or a mistake gives."""
    answers = (exercise.reference, *exercise.mistakes.values())
    replies = [_replies(exercise, answer, [trial], device, known)[0] for answer in answers]
    return any(name in reply.arrays and _same_text(got, reply.arrays[name]) for reply in replies)


def _first_wrong(
    label: str, got: np.ndarray, expected: np.ndarray, wrong: np.ndarray, predicted: bool
) -> str:
    where = tuple(int(k) for k in np.argwhere(wrong)[0])
    if predicted and not where:  # the right one is for the student to find
        return f"{label} = {got[where]} is not it. Look again."
    at = f" at {list(where)}" if where else ""
    if label.startswith("grad"):
        label, at = f"{VALUES_ARE_RIGHT} the {label.replace('grad', 'gradient', 1)}", ""
    want = expected[where] + 0.0  # no -0
    if np.isnan(got[where]) and not np.isnan(want):
        return f"{label}{at} is NaN (not a number), expected {want:.4g}. Which step can make a NaN?"
    many = f" ({int(wrong.sum())} of {wrong.size} numbers differ)" if wrong.size > 1 else ""
    label += " is not" if label.startswith(VALUES_ARE_RIGHT) else ""
    # as many digits as tell the two apart
    digits = next((n for n in (4, 6) if f"{want:.{n}g}" != f"{got[where]:.{n}g}"), 9)
    return f"{label}{at}: expected {want:.{digits}g}, got {got[where]:.{digits}g}{many}"


def _same(a: Reply, b: Reply, trial: Trial, device: torch.device) -> bool:
    """Whether two replies are the same to rounding: the same failure, or the same arrays."""
    if a.failure or b.failure:
        return a.failure == b.failure and a.text.split("\n")[0] == b.text.split("\n")[0]
    if a.changed != b.changed or a.arrays.keys() != b.arrays.keys():
        return False
    for name, left in a.arrays.items():
        right = b.arrays[name]
        if left.shape != right.shape:
            return False
        if left.dtype.kind in "US" or right.dtype.kind in "US":
            if not _same_text(left, right):
                return False
        elif not np.allclose(
            left.astype(np.float64),
            right.astype(np.float64),
            equal_nan=True,
            **tolerance(trial.dtype, device),
        ):
            return False
    return True


def tolerance(dtype: str, device: torch.device) -> dict[str, float]:
    """rtol and atol: a right answer in another order of operations stays inside, a mistake falls outside."""
    if dtype == "float64":  # a constant that was float32 on the way is no mistake
        return {"rtol": 1e-5, "atol": 1e-6}
    return {"rtol": 1e-3, "atol": 1e-4} if device.type == "cuda" else {"rtol": 1e-4, "atol": 2e-5}


def _shape(array: np.ndarray) -> str:
    return str(tuple(array.shape)) if array.ndim else "() (a single number)"
