"""Stacked runs are the lone runs: same data, start, learning rate, same weights to rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mtlkit import data, replay, training
from mtlkit.ensemble import fit_many
from mtlkit.models import (
    CGC,
    PLE,
    AdaTT,
    CrossStitch,
    HoME,
    L2Constrained,
    MLMMoE,
    MMoE,
    OMoE,
    Recommender,
    SharedBottom,
    SingleTask,
    SNRTrans,
)
from mtlkit.replay import Replayed

RATES = [1e-3, 1e-2, 1e-4]
MODELS = {
    "SharedBottom": (SharedBottom, {"bottom": [16], "tower": [8]}),
    "SingleTask": (SingleTask, {"bottom": [8], "tower": [4]}),
    "L2Constrained": (L2Constrained, {"bottom": [8], "tower": [4], "alpha": 0.1}),
    "OMoE": (OMoE, {"experts": 4, "expert": [8], "tower": [4]}),
    "MMoE": (MMoE, {"experts": 8, "expert": [16], "tower": [8]}),
    "wide MMoE": (
        MMoE,
        {"experts": 4, "expert": [64, 32], "tower": [16]},
    ),  # other kernels than the small one
    "MLMMoE": (MLMMoE, {"experts": 4, "levels": [[8], [4]], "tower": [4]}),
    "CrossStitch": (CrossStitch, {"bottom": [8], "tower": [4]}),
    "CGC": (CGC, {"shared_experts": 1, "task_experts": [2, 1], "expert": [8], "tower": [4]}),
    "PLE": (PLE, {"levels": [[8], [4]], "tower": [4]}),
    "AdaTT": (AdaTT, {"levels": [[8], [4]], "tower": [4]}),
    "MMoE*": (MMoE, {"experts": 4, "expert": [16], "tower": [8], "expert_norm": True}),
    "HoME": (HoME, {"groups": [0, 1], "levels": [[8], [4]], "tower": [4]}),
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


def test_a_short_last_batch_is_a_step_of_its_own(tables):
    options = {
        "epochs": 2,
        "batch_size": 300,
        "lr": 1e-2,
        "progress": False,
    }  # 2000 rows: 6 steps and 200 rows
    history = fit_many(_runs("MMoE", tables), tables, seeds=[0, 0, 0], **options)
    assert history["step"].max() == 14
    alone = training.fit(_runs("MMoE", tables)[1], tables[1], patience=None, **options)
    own = history[history["run"] == 1]
    np.testing.assert_allclose(own["validation/loss"], alone["validation/loss"], rtol=1e-5)


def test_running_averages_are_those_of_the_lone_run_also_after_a_batch_of_one_row(tables):
    options = {"epochs": 3, "batch_size": 333, "lr": 1e-3, "progress": False}  # 2000 rows: 6 times 333, and 2
    options_of = {333: options, 1999: options | {"batch_size": 1999}}  # and one row, which moves no average
    for given in options_of.values():
        stacked, lone = _runs("HoME", tables), _runs("HoME", tables)[2]
        before = {name: value.clone() for name, value in lone.named_buffers() if "running" in name}
        fit_many(stacked, tables, seeds=[0, 0, 4], **given)
        training.fit(lone, tables[2], seed=4, patience=None, **given)
        for name, value in before.items():
            now = stacked[2].get_buffer(name)
            torch.testing.assert_close(now, lone.get_buffer(name), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(now, value) and now.shape == value.shape


@pytest.mark.parametrize(
    ("kind", "sizes"), [(MMoE, {"dropout": 0.5}), (SNRTrans, {})], ids=["dropout", "SNR"]
)
def test_what_is_drawn_is_drawn_anew_in_each_step(kind, sizes, tables, monkeypatch):
    """The step is recorded once: it must hold the drawing, not what was drawn."""
    models = [Recommender(table, kind, seed=0, **sizes) for table in tables[:1] * 2]
    states = []
    call = Replayed.__call__

    def spy(self, *tensors):
        if self.function.__name__ != "_run":
            return call(self, *tensors)
        before = tensors[0].clone(), [m.clone() for m in tensors[1:3]]
        for _ in range(3):  # the same step from the same place, three times
            tensors[0].copy_(before[0])
            for moment, old in zip(tensors[1:3], before[1], strict=True):
                moment.copy_(old)
            call(self, *tensors)
            states.append(tensors[0].clone())

    monkeypatch.setattr(Replayed, "__call__", spy)
    fit_many(models, tables[:1] * 2, epochs=1, batch_size=2000, seeds=[0, 0], progress=False)
    first, second, third = states[:3]
    assert not torch.equal(first, second) and not torch.equal(second, third)
    assert not torch.equal(first[0], first[1])  # nor do two runs share a drawing


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
def test_compiled_runs_are_the_same_runs_and_compiled_once(tables):
    # 2000 rows: 40 steps and 40 rows; 3 runs: a stack of two and one that is alone
    options = {"epochs": 2, "batch_size": 49, "lr": RATES, "chunk": 2, "progress": False}
    eager = fit_many(_runs("MMoE", tables), tables, **options)
    before = len(replay._COMPILED)
    for _ in range(2):
        compiled = fit_many(_runs("MMoE", tables), tables, compile=True, **options)
        np.testing.assert_allclose(eager["validation/loss"], compiled["validation/loss"], rtol=1e-3)
    assert len(replay._COMPILED) == before + 1


def test_runs_that_do_not_fit_on_top_of_each_other_are_refused(tables):
    models = _runs("MMoE", tables)
    with pytest.raises(ValueError, match="3 models, but 2 tables"):
        fit_many(models, tables[:2])
    with pytest.raises(ValueError, match="3 models, but 2 lr"):
        fit_many(models, tables, lr=[1e-3, 1e-2])
    shorter = [*tables[:2], data.relatedness(0.5, rows=1000, dim=20)]
    with pytest.raises(ValueError, match="splits have different lengths"):
        fit_many(models, shorter)


OTHERS = {  # the third run's model, its table, and what is said
    "size": (lambda t: Recommender(t, MMoE, experts=3), None, "differ in body.experts.experts .8 and 3."),
    "class": (lambda t: Recommender(t, OMoE), None, "differ in body .'MMoE' and 'OMoE'."),
    "option": (lambda t: Recommender(t, MMoE, dropout=0.5), None, "differ in dropout.p .0.0 and 0.5."),
    "frozen": (
        lambda t: Recommender(t, MMoE).requires_grad_(False),
        None,
        "has body.* frozen; use training.fit",
    ),
    "task": (None, lambda t: t.select(t.tasks[::-1]), "differ in tasks"),
    "kinds": (None, lambda t: replace(t, kinds=dict.fromkeys(t.tasks, "binary")), "differ in kinds"),
    "no label": (None, lambda t: without(t, 0), "has no observed label in the train split"),
    "another length": (None, lambda t: t.rows(np.arange(len(t)) > 9), "splits have different lengths"),
}


def without(table, split):
    """The table, and the first task has no label there."""
    task = table.tasks[0]
    y = np.where(table.split == split, np.nan, table.labels[task])
    return replace(table, labels={**table.labels, task: y})


@pytest.mark.parametrize("fault", OTHERS)
@pytest.mark.parametrize("chunk", [1, 50])
def test_only_weights_and_rows_may_differ(tables, fault, chunk):
    build, spoil, said = OTHERS[fault]
    third = spoil(tables[2]) if spoil else tables[2]
    models = [Recommender(t, MMoE) for t in tables[:2]] + [(build or (lambda t: Recommender(t, MMoE)))(third)]
    with pytest.raises(ValueError, match=said) as caught:
        fit_many(models, [*tables[:2], third], epochs=1, chunk=chunk, progress=False)
    assert "\n" not in str(caught.value)


def test_options_that_cannot_be(tables):
    models = [Recommender(t, MMoE) for t in tables]
    for options, said in (
        ({"epochs": 0}, "epochs must be a whole number"),
        ({"chunk": 0}, "chunk must be a whole number"),
        ({"lr": -1.0}, "lr must be a number of at least 0"),
        ({"lr": float("nan")}, "lr must be a number"),
    ):
        with pytest.raises(ValueError, match=said):
            fit_many(models, tables, **options)
    with pytest.raises(ValueError, match="one model stands for two runs"):
        fit_many(models[:1] * 2, tables[:2])
    with pytest.raises(ValueError, match="no models"):
        fit_many([], [])


def test_a_task_without_held_out_labels_has_no_loss_there(tables):
    bare = [without(t, 1) for t in tables[:2]]
    history = fit_many(
        [Recommender(t, MMoE) for t in bare], bare, epochs=1, lr=np.float32(1e-3), progress=False
    )
    alone = training.fit(Recommender(bare[0], MMoE), bare[0], epochs=1, seed=0, patience=None, progress=False)
    column = f"validation/loss/{bare[0].tasks[0]}"
    assert history[column].isna().all() and alone[column].isna().all()
    assert history["validation/loss"][0] == pytest.approx(alone["validation/loss"][0], rel=1e-5)
