"""Weights of the task losses that change in training, and the scores that tasks are ranked by."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mtlkit import ranking, training
from mtlkit.data import relatedness
from mtlkit.losses import TaskWeights, task_losses
from mtlkit.models import Recommender, SharedBottom

SIZES = {"bottom": [8], "tower": [4]}
TASKS = ("task_1", "task_2")


@pytest.fixture
def table():
    return relatedness(0.5, rows=600, dim=5)


def fitted(table, task_weights, **options):
    """The model after training, and its history."""
    model = Recommender(table, SharedBottom, seed=1, **SIZES)
    options = {"epochs": 3, "batch_size": 50, "patience": None, "progress": False} | options
    history = training.fit(model, table, task_weights=task_weights, **options)
    return model, history


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- PLE paper Eq. 8-10 -----------------------------------------------------------------------------


def test_weights_follow_equation_10_by_epoch_or_by_step():
    by_epoch = TaskWeights({"a": 2.0, "b": 3.0}, {"a": 0.5})
    assert by_epoch.at(["a", "b", "c"], epoch=0, step=0) == [2.0, 3.0, 1.0]
    assert by_epoch.at(["a", "b", "c"], epoch=3, step=1000) == [0.25, 3.0, 1.0]
    by_step = TaskWeights({"b": 3.0}, {"a": 0.5, "b": 2.0}, unit="step")
    assert by_step.at(["a", "b"], epoch=1000, step=3) == [0.125, 24.0]


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_fit_weighs_the_losses_of_every_step(table, unit):
    model, _ = fitted(table, TaskWeights({"task_1": 2.0}, {"task_1": 0.7, "task_2": 1.1}, unit))
    plain = Recommender(table, SharedBottom, seed=1, **SIZES)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0)
    shuffle, train, t = torch.Generator().manual_seed(0), table.part("train"), 0
    for epoch in range(3):
        for batch in torch.randperm(len(train), generator=shuffle).split(50):
            part = train.rows(batch.numpy())
            logits = plain(torch.from_numpy(part.ids).long(), torch.from_numpy(part.dense))
            first, second = task_losses(logits, torch.from_numpy(part.label_matrix()), ["regression"] * 2)
            power = epoch if unit == "epoch" else t
            optimizer.zero_grad()
            (2 * 0.7**power * first + 1.1**power * second).backward()
            optimizer.step()
            t += 1
    torch.testing.assert_close(flat(model), flat(plain), rtol=1e-5, atol=1e-6)


def test_constant_weights_are_a_dictionary_and_none_is_one_for_all(table):
    (free, history), (ones, _) = fitted(table, None), fitted(table, {"task_1": 1.0})
    torch.testing.assert_close(flat(free), flat(ones), rtol=0, atol=0)
    only, weighted = fitted(table, {"task_2": 0.0})
    towers = only.body.towers.out.weight
    start = Recommender(table, SharedBottom, seed=1, **SIZES).body.towers.out.weight
    assert torch.equal(towers[1], start[1]) and not torch.equal(towers[0], start[0])
    # figures stay comparable: a weight of 0 does not hide the task's loss
    assert weighted["train/loss/task_2"].iloc[-1] > history["train/loss/task_2"].iloc[-1] > 0
    total = weighted["validation/loss/task_1"] + weighted["validation/loss/task_2"]
    np.testing.assert_allclose(weighted["validation/loss"], total, rtol=1e-6)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: TaskWeights({"a": -1.0}), "'a' cannot have the weight -1"),
        (lambda: TaskWeights({"a": float("nan")}), "weight nan"),
        (lambda: TaskWeights(ratio={"a": 0.0}), "ratio 0"),
        (lambda: TaskWeights(unit="batch"), "'epoch' or 'step'"),
        (lambda: TaskWeights({"b": 1.0}).at(["a"], 0, 0), "no task 'b'; the tasks are a"),
    ],
)
def test_wrong_weights_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_fit_refuses_an_unknown_task_before_it_trains(table):
    model = Recommender(table, SharedBottom, **SIZES)
    before = flat(model)
    with pytest.raises(ValueError, match="no task 'task_3'"):
        training.fit(model, table, task_weights={"task_3": 2.0}, progress=False)
    assert torch.equal(flat(model), before)


def test_kinds_and_shapes_that_do_not_fit_are_refused():
    logits = torch.zeros(4, 2)
    for kinds in ({"a": "binary", "b": "binary"}, "binary", ["Binary"] * 2, ["binary"]):
        with pytest.raises(ValueError, match="must name 'binary' or 'regression' for each of 2 tasks"):
            task_losses(logits, logits, kinds)
    for labels in (logits[:, :1], logits[:, 0], logits.T):
        with pytest.raises(ValueError, match=r"must both be \(B, T\)"):
            task_losses(logits, labels, ("binary", "regression"))


# --- PLE paper Eq. 1 --------------------------------------------------------------------------------

GUESS = pd.DataFrame({"view": [0.5, 0.8, 0.0], "share": [0.1, 0.01, 0.2], "length": [-1.0, 2.0, 3.0]})


def test_the_ranking_score_is_the_product_of_powers():
    score = ranking.weighted_product(GUESS, {"share": 0.5, "view": 2.0})
    np.testing.assert_allclose(score, [0.5**2 * 0.1**0.5, 0.8**2 * 0.01**0.5, 0.0])
    np.testing.assert_allclose(ranking.weighted_product(GUESS, {"view": 1.0}), GUESS["view"])


def test_the_plain_alternative_is_the_weighted_sum():
    score = ranking.weighted_sum(GUESS, {"length": -2.0, "view": 1.0})
    np.testing.assert_allclose(score, [2.5, -3.2, -6.0])


def test_product_and_sum_can_disagree():
    powers = {"view": 1.0, "share": 1.0}
    assert ranking.weighted_product(GUESS, powers).idxmax() == 0  # asks for both
    assert ranking.weighted_sum(GUESS, powers).idxmax() == 1  # the frequent task decides


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: ranking.weighted_sum(GUESS, {"like": 1.0}), "No predictions of task 'like'; there are view"),
        (lambda: ranking.weighted_product(GUESS, {}), "at least one task"),
        (lambda: ranking.weighted_product(GUESS, {"view": -1.0}), "'view' predicts 0, which has no power"),
        (lambda: ranking.weighted_sum(GUESS.replace(0.8, np.nan), {"view": 1.0}), "1 of 3 rows have a"),
        (lambda: ranking.weighted_product(GUESS.replace(0.8, np.nan), {"view": 1.0}), "cannot be ranked"),
        (lambda: ranking.weighted_sum(GUESS, {"view": float("inf")}), "finite"),
        (
            lambda: ranking.weighted_product(GUESS, {"view": 1, "length": 1}),
            "'length' predicts values",
        ),
    ],
)
def test_wrong_scores_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
