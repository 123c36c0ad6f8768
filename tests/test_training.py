"""Losses against loops, and fit, predict, evaluate: what they keep, refuse and reproduce."""

import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mtlkit import metrics, training
from mtlkit.data import Table, relatedness
from mtlkit.losses import task_losses
from mtlkit.models import Recommender, SharedBottom, SingleTask

SIZES = {"bottom": [8], "tower": [4]}
NAN = float("nan")


def make_table(rows=240, seed=0, unobserved=0.3, users=False):
    """Two binary tasks and a regression that follow the inputs; half train, a quarter each held out."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, 5, rows), rng.integers(0, 3, rows)], axis=1).astype(np.int32)
    dense = rng.standard_normal((rows, 2)).astype(np.float32)
    pull = dense[:, 0] + (ids[:, 0] > 2)
    labels = {
        "like": (pull + rng.standard_normal(rows) > 0.5).astype(np.float32),
        "share": (pull - dense[:, 1] + rng.standard_normal(rows) > 1).astype(np.float32),
        "minutes": (2 * pull + 0.1 * rng.standard_normal(rows)).astype(np.float32),
    }
    for y in labels.values():
        y[rng.random(rows) < unobserved] = np.nan
    return Table(
        ids=ids,
        dense=dense,
        labels=labels,
        split=np.repeat([0, 1, 2], [rows // 2, rows // 4, rows - rows // 2 - rows // 4]).astype(np.int8),
        cardinalities=(5, 3),
        fields=("tab", "hour"),
        dense_names=("age", "length"),
        kinds={"like": "binary", "share": "binary", "minutes": "regression"},
        users=rng.integers(0, 12, rows) if users else None,
    )


@pytest.fixture
def table():
    return make_table()


@pytest.fixture
def model(table):
    return Recommender(table, SharedBottom, embedding=4, **SIZES)


def fit(model, table, **options):
    return training.fit(model, table, **({"epochs": 3, "batch_size": 32, "progress": False} | options))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def changed(table, task=None, **parts):
    """The table with other labels of one task, or with other parts."""
    if task:
        parts = {"labels": {**table.labels, task: np.asarray(parts["y"], dtype=np.float32)}}
    return replace(table, **parts)


# --- losses ---------------------------------------------------------------------------------------


def loop_losses(logits, labels, kinds):
    """task_losses, one label at a time."""
    losses = []
    for t, kind in enumerate(kinds):
        costs = []
        for z, y in zip(logits[:, t].tolist(), labels[:, t].tolist(), strict=True):
            if y == y:
                costs.append(np.logaddexp(0, z) - y * z if kind == "binary" else (z - y) ** 2)
        losses.append(sum(costs) / len(costs) if costs else 0.0)
    return losses


@pytest.mark.parametrize(
    "kinds",
    [
        ("binary",) * 3,
        ("regression",) * 3,
        ("binary", "regression", "binary"),
        ("regression", "binary", "binary"),
    ],
)
def test_losses_equal_the_loop_over_observed_labels(kinds):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 3, generator=rng, dtype=torch.float64)
    labels = (torch.rand(50, 3, generator=rng, dtype=torch.float64) < 0.5).double()
    labels[torch.rand(50, 3, generator=rng) < 0.4] = NAN
    torch.testing.assert_close(
        task_losses(logits, labels, kinds),
        torch.tensor(loop_losses(logits, labels, kinds)),
        check_dtype=False,
    )


def test_unobserved_labels_cost_nothing_and_give_no_gradient():
    logits = torch.zeros(4, 2, requires_grad=True)
    labels = torch.tensor([[1.0, NAN], [NAN, NAN], [0.0, NAN], [NAN, NAN]])
    losses = task_losses(logits, labels, ("binary", "regression"))
    losses.sum().backward()
    torch.testing.assert_close(losses.detach(), torch.tensor([np.log(2), 0.0], dtype=torch.float32))
    assert logits.grad.tolist() == [[-0.25, 0.0], [0.0, 0.0], [0.25, 0.0], [0.0, 0.0]]


def test_losses_stay_finite_for_extreme_logits():
    logits = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    loss = task_losses(logits, torch.tensor([[0.0], [1.0]]), ("binary",))
    loss.sum().backward()
    assert loss.item() == 1e4 and logits.grad.isfinite().all()


# --- fit: the history -----------------------------------------------------------------------------


def test_history_columns(model, table):
    history = fit(model, table)
    assert list(history) == [
        "epoch",
        "step",
        "seconds",
        *(f"train/loss/{task}" for task in table.tasks),
        "validation/loss",
        *("validation/loss/like", "validation/auc/like"),
        *("validation/loss/share", "validation/auc/share"),
        *("validation/loss/minutes", "validation/mse/minutes"),
    ]
    assert history["epoch"].tolist() == [1, 2, 3] and history["step"].tolist() == [4, 8, 12]
    assert history["seconds"].is_monotonic_increasing and np.isfinite(history).all(axis=None)


def test_validation_figures_are_those_of_evaluate(model, table):
    history = fit(model, table, patience=None)
    best = history.set_index("epoch").loc[history.attrs["best_epoch"]]
    result = training.evaluate(model, table.part("validation"))
    for task in ("like", "share"):
        assert best[f"validation/auc/{task}"] == pytest.approx(result.loc[task, "auc"], abs=1e-12)
        assert best[f"validation/loss/{task}"] == pytest.approx(result.loc[task, "log_loss"], rel=1e-5)
    assert best["validation/mse/minutes"] == pytest.approx(result.loc["minutes", "mse"], rel=1e-5)
    losses = [best[f"validation/loss/{task}"] for task in table.tasks]
    assert best["validation/loss"] == pytest.approx(sum(losses))


def test_train_loss_is_the_mean_over_observed_labels(table):
    """Also where most batches hold no label of a task."""
    sparse = np.full(len(table), NAN)
    sparse[[0, 1, 2, 119]] = [1, 0, 1, 1]
    table = changed(table, "share", y=sparse)
    model = Recommender(table, SharedBottom, **SIZES)
    before = training.predict(model, table.part("train"))
    history = fit(model, table, epochs=1, batch_size=7, lr=1e-12)
    for task in ("like", "share"):
        expected = metrics.log_loss(before[task], table.part("train").labels[task])
        assert history[f"train/loss/{task}"][0] == pytest.approx(expected, rel=1e-5)


def test_a_task_without_validation_labels_is_nan_there_and_does_not_stop_training(model, table):
    y = table.labels["minutes"].copy()
    y[table.split == 1] = NAN
    history = fit(model, changed(table, "minutes", y=y))
    assert history[["validation/loss/minutes", "validation/mse/minutes"]].isna().all(axis=None)
    pair = history["validation/loss/like"] + history["validation/loss/share"]
    np.testing.assert_allclose(history["validation/loss"], pair)


def test_training_learns_every_kind_of_task(table):
    big = make_table(4000)
    for kind in (SharedBottom, SingleTask):
        model = Recommender(big, kind, **SIZES)
        fit(model, big, epochs=15, lr=1e-2)
        result = training.evaluate(model, big.part("test"))
        assert (result["auc"].dropna() > 0.8).all() and result.loc["minutes", "r2"] > 0.9


# --- fit: which weights stay ----------------------------------------------------------------------


def overfit(table, **options):
    """A run whose validation loss gets worse again: 20 training rows, a large learning rate."""
    few = table.rows(np.r_[:20, np.flatnonzero(table.split > 0)])
    model = Recommender(few, SharedBottom, embedding=8, bottom=[64], tower=[32])
    return model, few, fit(model, few, lr=3e-2, **options)


def test_early_stopping_restores_the_best_epoch(table):
    model, few, history = overfit(table, epochs=60, patience=4)
    best = history.attrs["best_epoch"]
    assert best == history["epoch"][history["validation/loss"].idxmin()]
    assert len(history) == best + 4 < 60
    again, _, short = overfit(table, epochs=best, patience=None)
    assert torch.equal(weights(model), weights(again)) and short.attrs["best_epoch"] == best
    assert not model.training


def test_patience_none_runs_all_epochs_and_still_restores_the_best(table):
    model, few, history = overfit(table, epochs=30, patience=None)
    assert len(history) == 30 and history.attrs["best_epoch"] < 30
    loss = training.evaluate(model, few.part("validation"))["log_loss"][["like", "share"]].sum()
    best = history.set_index("epoch").loc[history.attrs["best_epoch"]]
    assert loss == pytest.approx(best["validation/loss/like"] + best["validation/loss/share"], rel=1e-4)


@pytest.mark.parametrize("monitor", ["loss", "loss/share", "mse/minutes", "auc/like"])
def test_monitor_decides_the_best_epoch(table, monitor):
    _, _, history = overfit(table, epochs=25, patience=None, monitor=monitor)
    column = history[f"validation/{monitor}"]
    best = column.idxmax() if monitor.startswith("auc") else column.idxmin()
    assert history.attrs["best_epoch"] == history["epoch"][best]


class Stop(nn.Module):
    """A body that raises after some training steps."""

    def __init__(self, in_width, tasks, after, error=KeyboardInterrupt):
        super().__init__()
        self.body, self._left, self.error = SharedBottom(in_width, tasks, **SIZES), after, error

    def forward(self, x):
        if self.training:
            self._left -= 1
            if self._left < 0:
                raise self.error
        return self.body(x)


def test_an_interrupt_leaves_the_best_finished_epoch(table):
    stopped = Recommender(table, Stop, after=4 * 2 + 3)  # two epochs of four steps, and a half
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, table, epochs=5)
    finished = Recommender(table, Stop, after=100)
    assert fit(finished, table, epochs=2).attrs["best_epoch"] == 2
    assert torch.equal(weights(stopped), weights(finished)) and not stopped.training


def test_an_interrupt_in_the_first_epoch_leaves_a_usable_model(table):
    model = Recommender(table, Stop, after=1)
    with pytest.raises(KeyboardInterrupt):
        fit(model, table)
    assert not model.training and np.isfinite(training.predict(model, table)).all(axis=None)


# --- fit: optimiser and schedule ------------------------------------------------------------------


def reference_fit(model, table, epochs, lr, weight_decay, cycle):
    """fit in its plainest form, with torch's own parts."""
    train, kinds = table.part("train"), [table.kinds[task] for task in table.tasks]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * 4) if cycle else None
    shuffle = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(train), generator=shuffle).split(32):
            part = train.rows(batch.numpy())
            logits = model(torch.from_numpy(part.ids).long(), torch.from_numpy(part.dense))
            loss = task_losses(logits, torch.from_numpy(part.label_matrix()), kinds).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if plan:
                plan.step()


@pytest.mark.parametrize(
    ("schedule", "decay"), [(None, 0.0), (None, 0.5), ("one_cycle", 0.0), ("one_cycle", 0.1)]
)
def test_fit_equals_the_plain_loop(table, schedule, decay):
    model, plain = (Recommender(table, SharedBottom, **SIZES) for _ in range(2))
    start = weights(model)
    options = {"lr": 3e-3, "weight_decay": decay}
    history = fit(model, table, epochs=2, schedule=schedule, patience=None, **options)
    assert history.attrs["best_epoch"] == 2
    reference_fit(plain, table, 2, cycle=schedule == "one_cycle", **options)
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-5, atol=1e-6)
    assert not torch.equal(start, weights(model))


@pytest.mark.parametrize(("epochs", "batch_size"), [(1, 120), (2, 120), (1, 60), (3, 7)])
def test_one_cycle_for_any_number_of_steps(model, table, epochs, batch_size):
    history = fit(model, table, epochs=epochs, batch_size=batch_size, schedule="one_cycle")
    assert len(history) == epochs and weights(model).isfinite().all()


def test_dropout_acts_in_training_only(table):
    model = Recommender(table, SharedBottom, dropout=0.5, **SIZES)
    plain = Recommender(table, SharedBottom, **SIZES)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(weights(model), weights(plain))
    ids, dense = torch.from_numpy(table.ids).long(), torch.from_numpy(table.dense)
    assert not torch.equal(model.train()(ids, dense), plain(ids, dense))
    assert torch.equal(model.eval()(ids, dense), plain.eval()(ids, dense))
    fit(model, table)
    assert training.predict(model, table).equals(training.predict(model, table))


# --- fit: seeds, progress, speed ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SharedBottom, SingleTask])
def test_seeds_reproduce_bit_for_bit(table, kind):
    def run(seed, elsewhere):
        torch.manual_seed(elsewhere)  # the state of torch's own generator must not matter
        model = Recommender(table, kind, dropout=0.3, seed=seed, **SIZES)
        history = fit(model, table, seed=seed, schedule="one_cycle")
        return weights(model), history.drop(columns="seconds")

    (one, first), (two, second), (other, _) = run(1, 0), run(1, 99), run(2, 0)
    assert torch.equal(one, two) and first.equals(second)
    assert not torch.equal(one, other)


def test_seed_of_fit_moves_shuffling_and_dropout_only(table):
    runs = []
    for seed in (0, 1):
        model = Recommender(table, SharedBottom, dropout=0.3, **SIZES)
        fit(model, table, seed=seed)
        runs.append(weights(model))
    assert not torch.equal(*runs)


def test_torchs_generator_is_left_alone(table):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = Recommender(table, SharedBottom, dropout=0.3, **SIZES)
    fit(model, table)
    training.evaluate(model, table.part("test"))
    assert torch.equal(before, torch.get_rng_state())


def test_progress_bar_on_and_off(model, table, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, table, progress=False)
        training.evaluate(model, table.part("test"))
    quiet = capsys.readouterr()
    assert quiet.err == quiet.out == ""
    fit(model, table, progress=True)
    loud = capsys.readouterr()
    assert "step" in loud.err and loud.out == ""


def test_no_per_row_python():
    """The number of Python calls depends on the number of batches, not of rows."""

    def calls(rows):
        table = make_table(rows, users=True)
        model = Recommender(table, SharedBottom, **SIZES)
        count = 0

        def hook(*_):
            nonlocal count
            count += 1

        sys.setprofile(hook)
        try:
            fit(model, table, epochs=1, batch_size=rows // 8)
            training.evaluate(model, table.part("test"))
        finally:
            sys.setprofile(None)
        return count

    calls(400)  # lazy imports
    assert calls(40_000) < 1.2 * calls(400)


# --- fit: what it refuses -------------------------------------------------------------------------


def one_sentence(caught):
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def set_dense(table, value):
    dense = table.dense.copy()
    dense[3, 1] = value
    return changed(table, dense=dense)


def set_id(table, value):
    ids = table.ids.copy()
    ids[3, 1] = value
    return changed(table, ids=ids)


BAD_TABLES = {
    "tasks": (lambda t: t.select(("share", "like", "minutes")), "built for the tasks like, share, minutes"),
    "fewer tasks": (lambda t: t.select(("like",)), "but the table has like. Use table.select"),
    "NaN feature": (lambda t: set_dense(t, NAN), "'length' is NaN or infinite in 1 of 120 rows"),
    "infinite feature": (lambda t: set_dense(t, np.inf), "'length' is NaN or infinite"),
    "large id": (lambda t: set_id(t, 3), r"Field 'hour' has the id 3; ids must lie in \[0, 3\)"),
    "negative id": (lambda t: set_id(t, -1), "Field 'hour' has the id -1"),
    "other fields": (
        lambda t: changed(t, cardinalities=(6, 3)),
        "cardinalities are not those that the model was built for \\(6 instead of 5\\)",
    ),
    "no labels": (
        lambda t: changed(t, "like", y=np.full(len(t), NAN)),
        "'like' has no observed label in the train",
    ),
    "no binary label": (
        lambda t: changed(t, "like", y=np.full(len(t), 2)),
        "'like' has the label 2; .* 0, 1 or NaN",
    ),
    "infinite label": (
        lambda t: changed(t, "minutes", y=np.full(len(t), np.inf)),
        "'minutes' has the label inf",
    ),
    "empty train": (lambda t: t.rows(t.split > 0), "The train split is empty"),
    "empty validation": (lambda t: t.rows(t.split != 1), "The validation split is empty"),
}


@pytest.mark.parametrize("fault", BAD_TABLES)
def test_bad_tables_get_one_sentence(model, table, fault):
    spoil, sentence = BAD_TABLES[fault]
    before = weights(model)
    with pytest.raises(ValueError, match=sentence) as caught:
        fit(model, spoil(table))
    one_sentence(caught)
    assert torch.equal(before, weights(model))


@pytest.mark.parametrize("fault", ["tasks", "NaN feature", "large id", "other fields"])
def test_predict_refuses_the_same_tables(model, table, fault):
    spoil, sentence = BAD_TABLES[fault]
    with pytest.raises(ValueError, match=sentence.replace("120", "240")):
        training.predict(model, spoil(table))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"patience": 0}, "patience must be a whole number"),
        ({"epochs": 1.5}, "epochs must be a whole number of at least 1, got 1.5"),
        ({"checkpoint_steps": True}, "checkpoint_steps must be a whole number"),
        ({"schedule": "cosine"}, "schedule must be None or 'one_cycle', got 'cosine'"),
        (
            {"monitor": "auc/follow"},
            "'auc/follow' is not among the validation figures: loss, loss/like, auc/like",
        ),
        ({"monitor": "auc/minutes"}, "is not among"),
    ],
)
def test_bad_options_get_one_sentence(model, table, options, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        fit(model, table, **options)
    one_sentence(caught)


@pytest.mark.parametrize(("value", "monitor"), [(0.0, "auc/like"), (NAN, "auc/like"), (NAN, "loss/like")])
def test_an_undefined_monitor_is_refused_before_training(model, table, value, monitor):
    y = table.labels["like"].copy()
    y[table.split == 1] = value
    before = weights(model)
    with pytest.raises(ValueError, match=f"monitor='{monitor}' is undefined.*validation") as caught:
        fit(model, changed(table, "like", y=y), monitor=monitor)
    one_sentence(caught)
    assert torch.equal(before, weights(model))


def test_an_exploding_loss_names_the_task(model, table):
    huge = table.labels["minutes"] * 1e30
    with pytest.raises(
        FloatingPointError, match="'minutes' is no longer finite in epoch 1: lower lr"
    ) as caught:
        fit(model, changed(table, "minutes", y=huge))
    one_sentence(caught)


class LateNaN(SharedBottom):
    """Trains well, and breaks when it is evaluated: what the last step of an epoch can do."""

    def forward(self, x):
        return super().forward(x) if self.training else super().forward(x) * NAN


def test_a_model_that_breaks_in_the_last_step_of_an_epoch(table):
    with pytest.raises(FloatingPointError, match="'like' is no longer finite in epoch 1"):
        fit(Recommender(table, LateNaN, **SIZES), table)


# --- predict and evaluate -------------------------------------------------------------------------


def test_predict_gives_probabilities_and_raw_values(model, table):
    out = training.predict(model, table, batch_size=7)
    assert list(out) == list(table.tasks) and len(out) == len(table)
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(table.ids).long(), torch.from_numpy(table.dense))
    expected = torch.cat([logits[:, :2].double().sigmoid(), logits[:, 2:].double()], dim=1)
    np.testing.assert_allclose(out.to_numpy(), expected, rtol=1e-5)
    assert len(training.predict(model, table.rows(np.zeros(0, dtype=int)))) == 0


def test_confident_probabilities_keep_their_rank():
    class Constant(nn.Module):
        def __init__(self, in_width, tasks):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return x[:, :1] * self.scale

    logits = np.array([[-1e4], [-90.0], [20.0], [25.0], [30.0]], dtype=np.float32)
    table = Table(
        ids=np.zeros((5, 0), dtype=np.int32),
        dense=logits,
        labels={"like": np.float32([0, 0, 0, 1, 1])},
        split=np.zeros(5, dtype=np.int8),
        dense_names=("z",),
        kinds={"like": "binary"},
    )
    out = training.predict(Recommender(table, Constant), table)["like"]
    assert out.is_monotonic_increasing and out.is_unique and out.between(0, 1).all()


def test_evaluate_equals_the_metrics(model):
    table = make_table(users=True)
    result = training.evaluate(model, table)
    out = training.predict(model, table)
    assert result.index.tolist() == list(table.tasks)
    for task in ("like", "share"):
        y = table.labels[task]
        assert result.loc[task, "observed"] == (~np.isnan(y)).sum()
        assert result.loc[task, "positives"] == np.nansum(y)
        assert result.loc[task, "auc"] == metrics.auc(out[task], y)
        assert result.loc[task, "gauc"] == metrics.gauc(out[task], y, table.users).value
        assert result.loc[task, "log_loss"] == metrics.log_loss(out[task], y)
    y = table.labels["minutes"]
    assert result.loc["minutes", "mse"] == metrics.mse(out["minutes"], y)
    assert result.loc["minutes", "r2"] == metrics.r2(out["minutes"], y)
    assert pd.isna(result.loc["minutes", "auc"])


def test_a_task_without_positives_is_nan_and_named(model):
    table = make_table(users=True)
    table = changed(table, "like", y=np.zeros(len(table)))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = training.evaluate(model, table)
    about_like = [str(w.message) for w in seen if "/like" in str(w.message)]
    assert about_like == [
        "auc/like: AUC is undefined: 0 positives among 240 observed labels.",
        "gauc/like: GAUC is undefined: each of the 12 users has only one class.",
    ]
    assert {w.filename for w in seen} == {__file__}
    assert pd.isna(result.loc["like", "auc"]) and pd.isna(result.loc["like", "gauc"])
    assert np.isfinite(result.loc["like", "log_loss"]) and np.isfinite(result.loc["share", "auc"])


def test_a_task_without_labels_is_nan_and_named(model, table):
    table = changed(table, "minutes", y=np.full(len(table), NAN))
    with (
        pytest.warns(UserWarning, match="mse/minutes: .*0 observed labels"),
        pytest.warns(UserWarning, match="r2/minutes"),
    ):
        result = training.evaluate(model, table)
    assert result.loc["minutes", "observed"] == 0 and pd.isna(result.loc["minutes", "mse"])


def test_an_auc_below_one_half_warns(table):
    table = make_table(2000)
    model = Recommender(table, SharedBottom, **SIZES)
    fit(model, table, lr=1e-2)
    swapped = changed(table, "like", y=1 - table.labels["like"])
    with pytest.warns(UserWarning, match="auc/like is 0.[0-4].*worse than a coin"):
        training.evaluate(model, swapped.part("test"))


def test_an_auc_below_one_half_by_chance_does_not_warn(table, model):
    """Labels by the toss of a coin: about half of the AUCs lie below one half."""
    below = 0
    for seed in range(6):
        coin = (np.random.default_rng(seed).random(len(table)) < 0.5).astype(np.float32)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*worse than a coin")
            below += training.evaluate(model, changed(table, "like", y=coin)).loc["like", "auc"] < 0.5
    assert below >= 1


# --- devices --------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_on_a_machine_without_one(model, table, monkeypatch):
    with pytest.raises(RuntimeError, match="device='cuda', but torch finds no CUDA device on this machine"):
        fit(model, table, device="cuda")
    monkeypatch.setenv("MTLKIT_DEVICE", "cuda")
    for call in (lambda: fit(model, table), lambda: training.predict(model, table)):
        with pytest.raises(
            RuntimeError, match="MTLKIT_DEVICE='cuda', but torch finds no CUDA device"
        ) as caught:
            call()
        one_sentence(caught)
    assert next(model.parameters()).device.type == "cpu"
    fit(model, table, device="cpu")  # an argument wins over the environment


def test_an_unknown_device(model, table):
    with pytest.raises(ValueError, match="device='gpu' is no torch device"):
        fit(model, table, device="gpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_cuda(table):
    results = {}
    for device in ("cpu", "cuda"):
        runs = []
        for _ in range(2):
            model = Recommender(table, SharedBottom, **SIZES)
            before = torch.get_rng_state()
            fit(model, table, epochs=2, device=device, schedule="one_cycle", weight_decay=0.1)
            assert next(model.parameters()).device.type == device
            assert torch.equal(before, torch.get_rng_state())
            runs.append(training.predict(model, table, device=device))
        results[device] = runs[0]
        np.testing.assert_allclose(*runs, rtol=1e-4)
    np.testing.assert_allclose(results["cpu"], results["cuda"], rtol=1e-2, atol=1e-3)


def test_relatedness_trains_with_its_defaults():
    table = relatedness(0.9, rows=2000, dim=10)
    model = Recommender(table, SharedBottom, bottom=[16], tower=[8])
    history = fit(model, table, epochs=5, lr=1e-2)
    assert history["validation/loss"].iloc[-1] < history["validation/loss"].iloc[0]
