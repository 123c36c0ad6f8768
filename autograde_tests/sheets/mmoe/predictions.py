"""Exercises 2.0, 2.6, 2.8: a quiz about notebook 01, and two predictions."""

from __future__ import annotations

from autograde_tests.exercise import prediction

QUIZ = prediction(
    "2.0",
    "three questions about notebook 01",
    "three questions, a letter each",
    {"missing label": "b", "like loss": "c", "conflict": "a"},
    {
        "missing label": {
            "a": "an unobserved label counts as a 0. A user who never saw the button: did she dislike it?",
            "c": "an unobserved label makes the loss NaN. Which number did you put into the gap before the loss?",
        },
        "like loss": {
            "a": "the like loss trains its own tower only. Through which layers does the like logit pass?",
            "b": "the like loss trains every tower. Does the like logit depend on the click tower?",
        },
        "conflict": {
            "b": "opposite gradients mean agreement. What does a step for the one task do to the loss of the other?",
            "c": "opposite gradients have nothing to do with each other. Which cosine has a right angle?",
        },
    },
)

SPECIAL_CASES = prediction(
    "2.6",
    "predict: four special cases",
    "four special cases of MMoE",
    {
        "MMoE with one expert is": "Shared-Bottom",
        "MMoE with equal gate matrices is": "OMoE",
        "with gate matrices of zeros a task reads": "the mean of the experts",
        "experts and gates that all start equal will": "stay equal",
    },
    {
        "MMoE with one expert is": {
            "OMoE": "one expert makes OMoE, a model that still has several experts to choose from. What is the softmax "
            "of a single number?",
            "Single-Task": "one expert makes Single-Task, where tasks share nothing. How many tasks read that expert?",
        },
        "MMoE with equal gate matrices is": {
            "Shared-Bottom": "equal gates make Shared-Bottom, which has no gate at all. Do the weights of the experts "
            "still change from user to user?",
            "Single-Task": "equal gates make Single-Task, where tasks share nothing. Do the tasks read different "
            "mixtures here, or the same one?",
        },
        "with gate matrices of zeros a task reads": {
            "nothing": "a gate of zeros closes all experts. What is softmax(0, 0, 0, 0)?",
            "the first expert": "a gate of zeros picks the first expert. What is softmax(0, 0, 0, 0)?",
        },
        "experts and gates that all start equal will": {
            "become different": "equal experts become different by training. Which gradient does expert 0 get, and "
            "which one expert 1?",
        },
    },
)

KNOB = prediction(
    "2.8",
    "predict: what will the knob do?",
    "three guesses about the figures below",
    {
        "highest loss at p = 0.5": "Shared-Bottom",
        "at p = 1 the losses of OMoE and MMoE are": "about equal",
        "from p = 0.5 to p = 1 the gates of the two tasks become": "more alike",
    },
    {
        "highest loss at p = 0.5": {
            "OMoE": "OMoE does worst at p = 0.5 in the first figure. Which of the three has no choice of experts at all?",
            "MMoE": "MMoE does worst at p = 0.5 in the first figure. Which of the three has no choice of experts at all?",
        },
        "at p = 1 the losses of OMoE and MMoE are": {
            "far apart": "a gate per task makes a large difference when both tasks are the same. What could the second "
            "gate learn that the first does not?",
        },
        "from p = 0.5 to p = 1 the gates of the two tasks become": {
            "less alike": "the gates drift apart while the tasks become the same. What does each task want from the "
            "experts at p = 1?",
            "neither": "the gates do not notice the knob. What does each task want from the experts at p = 1?",
        },
    },
)
