"""Stacked runs are the lone runs: same data, start, learning rate, same weights to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlkit import data, training
from mtlkit.ensemble import fit_many
from mtlkit.models import L2Constrained, MMoE, OMoE, Recommender, SharedBottom, SingleTask

RATES = [1e-3, 1e-2, 1e-4]
MODELS = {
    "SharedBottom": (SharedBottom, {"bottom": [16], "tower": [8]}),
    "SingleTask": (SingleTask, {"bottom": [8], "tower": [4]}),
    "L2Constrained": (L2Constrained, {"bottom": [8], "tower": [4], "alpha": 0.1}),
    "OMoE": (OMoE, {"experts": 4, "expert": [8], "tower": [4]}),
    "MMoE": (MMoE, {"experts": 8, "expert": [16], "tower": [8]}),
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def _runs(name: str, tables):
    kind, sizes = MODELS[name]
    return [Recommender(table, kind, seed=seed, **sizes) for seed, table in enumerate(tables)]


@pytest.fixture(scope="module")
def tables():
    return [data.relatedness(0.5, rows=2500, dim=20, seed=seed) for seed in range(3)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk", [2, 25])
def test_each_run_equals_its_lone_counterpart_over_200_steps(name, chunk, tables):
    options = {"epochs": 5, "batch_size": 50, "weight_decay": 0.01, "progress": False}
    stacked = _runs(name, tables)
    history = fit_many(stacked, tables, lr=RATES, seeds=[5, 6, 7], chunk=chunk, **options)
    assert history["step"].max() == 200
    for run, lone in enumerate(_runs(name, tables)):
        alone = training.fit(lone, tables[run], lr=RATES[run], seed=5 + run, patience=None, **options)
        own = history[history["run"] == run]
        np.testing.assert_allclose(own["validation/loss"], alone["validation/loss"], rtol=2e-4)
        np.testing.assert_allclose(
            own["validation/loss/task_2"], alone["validation/loss/task_2"], rtol=2e-4, atol=1e-5
        )


def test_the_models_hold_their_last_weights_and_predict(tables):
    models = _runs("MMoE", tables)
    before = [model.state_dict()["body.gates.weight"].clone() for model in models]
    history = fit_many(models, tables, epochs=2, batch_size=100, progress=False)
    for run, model in enumerate(models):
        assert not torch.equal(before[run], model.state_dict()["body.gates.weight"])
        mse = training.evaluate(model, tables[run].part("validation"))["mse"].sum()
        last = history[(history["run"] == run) & (history["epoch"] == 2)]["validation/loss"].item()
        assert mse == pytest.approx(last, rel=1e-5)


@pytest.mark.heavy
def test_compiled_runs_are_the_same_runs(tables):
    options = {"epochs": 2, "batch_size": 50, "lr": RATES, "progress": False}
    eager = fit_many(_runs("MMoE", tables), tables, **options)
    compiled = fit_many(_runs("MMoE", tables), tables, compile=True, **options)
    np.testing.assert_allclose(eager["validation/loss"], compiled["validation/loss"], rtol=1e-3)


def test_runs_that_do_not_fit_on_top_of_each_other_are_refused(tables):
    models = _runs("MMoE", tables)
    with pytest.raises(ValueError, match="3 models, but 2 tables"):
        fit_many(models, tables[:2])
    with pytest.raises(ValueError, match="3 models, but 2 lr"):
        fit_many(models, tables, lr=[1e-3, 1e-2])
    shorter = [*tables[:2], data.relatedness(0.5, rows=1000, dim=20)]
    with pytest.raises(ValueError, match="splits have different lengths"):
        fit_many(models, shorter)
    other = Recommender(tables[0], MMoE, experts=3, expert=[16], tower=[8])
    with pytest.raises(ValueError, match="one class and size"):
        fit_many([models[0], models[1], other], tables)
