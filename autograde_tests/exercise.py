"""What an exercise is: trials, a reference, and two lists that write the feedback and test the check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

Plain = Mapping[str, object]  # argument name -> numpy array, number, string or a list of those

ONE_ROW_ONE_TASK = {
    "random sizes": {},
    "more rows": {"B": 24, "T": 3},  # of two tasks, the next one and the one before are the same
    "a batch of one": {"B": 1},
    "one task": {"T": 1},
}


def some(rng: np.random.Generator, B: int | None, T: int | None) -> tuple[int, int]:
    """A batch size and a number of tasks: the given ones, else small random ones."""
    return B or int(rng.integers(5, 10)), T or int(rng.integers(2, 5))


@dataclass(frozen=True)
class Trial:
    """One question to an answer, as plain data: it can travel to another process.

    what: what is tried, in the student's words. inputs: arguments by name. grads: the arguments whose
    gradient is compared. build: constructor arguments, for a class. state: parameters to load, by name.
    want: hand-worked values by reply key ("out"), which then stand above the reference's.
    """

    what: str
    inputs: Plain
    grads: Sequence[str] = ()
    build: Plain | None = None
    state: Mapping[str, np.ndarray] | None = None
    want: Mapping[str, np.ndarray] = field(default_factory=dict)
    dtype: str = "float32"
    strided: bool = False


@dataclass(frozen=True)
class Draw:
    """The random part of a trial: what a sheet's ``draw(rng, **sizes)`` returns."""

    inputs: Plain
    build: Plain | None = None


@dataclass(frozen=True)
class Exercise:
    """An exercise of a notebook.

    how: the probe that asks the answer: "function", "module" or a scene of ``probe.PROBES``.
    reference: a right answer. mistakes: sentence -> wrong answer; the sentence ends "It looks as if ...",
    then asks a question. also_right: other right answers.
    shape: the letters of the result, say "(B, T)". example: the trial worked by hand.
    draw: random inputs for sizes. sizes: the named size variations. grads: arguments to differentiate by.
    may_use: names of mtlkit that an answer may call; everything else in mtlkit is delegation.
    rule: for an answer that is the student's own: takes what it returned, by name, and gives the sentence
    that says what is wrong (one of ``mistakes``; more lines may follow), or "". Nothing is compared then.
    seen: for such an answer, the line that a green check adds: what the rule took for what.
    """

    id: str
    title: str
    how: str
    reference: Callable
    mistakes: Mapping[str, Callable]
    also_right: Sequence[Callable]
    shape: str = ""
    example: Trial | None = None
    draw: Callable[..., Draw] | None = None
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: {"random sizes": {}})
    grads: Sequence[str] = ()
    may_use: Sequence[str] = ()
    rule: Callable[[Mapping[str, np.ndarray]], str] | None = None
    seen: Callable[[Mapping[str, np.ndarray]], str] | None = None
    real_valued: bool = True  # False where inputs are ids, users or answers: no float64 or strided variant

    def trials(self, seed: int = 0) -> list[Trial]:
        """The trials of one check: the worked example, then random ones that only ``seed`` decides."""
        # the exercise's own number keeps two exercises from sharing their draws
        rng = np.random.default_rng([seed, *(int(part) for part in self.id.split("."))])
        trials = [] if self.example is None else [self.example]
        if self.draw is None:
            return trials
        drawn = [self._random(what, rng, dict(sizes)) for what, sizes in self.sizes.items()]
        trials += drawn
        if self.real_valued:
            trials.append(replace(self._random("float64", rng, {}), dtype="float64"))
            trials.append(replace(self._random("inputs that are not contiguous", rng, {}), strided=True))
        return trials

    def _random(self, what: str, rng: np.random.Generator, sizes: Mapping[str, int]) -> Trial:
        drawn = self.draw(rng, **sizes)
        state = None
        if drawn.build is not None:
            names = self.reference(**drawn.build).state_dict()
            state = {
                name: rng.normal(scale=0.7, size=tuple(tensor.shape)).astype(np.float32)
                for name, tensor in names.items()
            }
        return Trial(what, drawn.inputs, self.grads, drawn.build, state)


def wrong_towers(model: Callable, towers: Callable, vector: str) -> dict[str, Callable]:
    """Mistakes of a model's last step, where tower t should read row t of z (B, T, H).

    towers(self, z) -> (B, T) is the right step; model(towers) is the answer that has it; vector: what a
    tower reads, in words.
    """
    ask = f"Which {vector} belongs to tower t?"
    return {
        f"each tower reads the {vector} of the next task. {ask}": model(
            lambda self, z: towers(self, z.roll(-1, dims=1))
        ),
        f"each tower reads the {vector} of the task before. {ask}": model(
            lambda self, z: towers(self, z.roll(1, dims=1))
        ),
        "the first tower answers for every task. Which tower belongs to task t?": model(
            lambda self, z: self.towers[0](z)[..., 0]
        ),
    }


def prediction(
    id: str,
    title: str,
    what: str,
    right: Mapping[str, object],
    asks: Mapping[str, Mapping[object, str]],
    at_once: int | None = None,
) -> Exercise:
    """An exercise that predicts one of several choices for each key; sets of wrong choices are named.

    asks: key -> {wrong choice: its sentence}; a set of them says them all. at_once: how many a named set has
    at most (default: any number).
    """
    mistakes = {}
    for picked in product(*([None, *wrong.items()] for wrong in asks.values())):
        chosen = {key: choice for key, choice in zip(asks, picked, strict=True) if choice is not None}
        if 0 < len(chosen) <= (at_once or len(asks)):
            changed = {key: value for key, (value, _) in chosen.items()}
            sentence = " And as if ".join(sentence for _, sentence in chosen.values())
            mistakes[sentence] = lambda changed=changed: {**right, **changed}
    return Exercise(
        id=id,
        title=title,
        how="function",
        reference=lambda: dict(right),
        example=Trial(what, {}),
        mistakes=mistakes,
        also_right=[lambda: dict(reversed(right.items()))],
        real_valued=False,
    )


def true_or_false(
    id: str, title: str, what: str, right: Mapping[str, bool], asks: Mapping[str, str]
) -> Exercise:
    """An exercise that predicts True or False for each key; one or two wrong ones are named.

    asks: key -> the sentence for the wrong value of this key.
    """
    sentences = {key: {not right[key]: asks[key]} for key in right}
    numbers = [lambda: {key: int(value) for key, value in reversed(right.items())}]
    return replace(prediction(id, title, what, right, sentences, at_once=2), also_right=numbers)
