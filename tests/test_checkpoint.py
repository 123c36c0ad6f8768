"""A run that stops anywhere goes on from its checkpoint to the same weights and the same history."""

import numpy as np
import pytest
import torch
from test_training import SIZES, Stop, fit, make_table, weights

from mtlkit.checkpoint import read, write
from mtlkit.losses import TaskWeights
from mtlkit.models import HoME, MMoE, Recommender, SharedBottom, SNRTrans

STEPS = 4  # of an epoch: 120 training rows, 32 at a time


@pytest.fixture
def table():
    return make_table()


class StopSNR(Stop):
    """With a penalty, and connections that are drawn anew in every step."""

    def __init__(self, in_width, tasks, after):
        super().__init__(in_width, tasks, after)
        self.body = SNRTrans(in_width, tasks, experts=2, levels=[[4]])

    def penalty(self):
        return self.body.penalty()


class StopNorm(Stop):
    """With batch norms, whose running averages move in training."""

    def __init__(self, in_width, tasks, after):
        super().__init__(in_width, tasks, after)
        self.body = MMoE(in_width, tasks, experts=2, expert=[4], expert_norm=True)


RUNS = {
    "plain": (Stop, {}),
    "one cycle": (Stop, {"schedule": "one_cycle", "weight_decay": 0.1, "patience": None}),
    "weights of the epoch": (Stop, {"task_weights": TaskWeights({"like": 2.0}, {"share": 0.5})}),
    "weights of the step": (Stop, {"task_weights": TaskWeights(ratio={"like": 0.9}, unit="step")}),
    "sampled connections": (StopSNR, {}),
    "batch norm": (StopNorm, {}),
    "early stop": (Stop, {"lr": 0.5, "patience": 2, "monitor": "auc/like"}),
}


@pytest.mark.parametrize("after", [0, 2, STEPS, STEPS + 3, 3 * STEPS + 1])
@pytest.mark.parametrize("run", RUNS)
def test_a_stopped_run_goes_on_to_the_same_end(table, tmp_path, run, after):
    kind, options = RUNS[run]
    options = {"epochs": 5, "seed": 3, "checkpoint_steps": 2} | options
    whole = Recommender(table, kind, dropout=0.3, after=10**9)
    expected = fit(whole, table, **options)
    after = min(after, STEPS * len(expected) - 1)
    file = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(Recommender(table, kind, dropout=0.3, after=after), table, checkpoint=file, **options)
    torch.manual_seed(99)  # neither the starting weights nor torch's own generator matter
    again = Recommender(table, kind, dropout=0.3, seed=7, after=10**9)
    if not file.exists():
        assert after < 2
        again = Recommender(table, kind, dropout=0.3, after=10**9)
    steps = again.body._left
    history = fit(again, table, checkpoint=file, **options)
    assert steps - again.body._left == STEPS * len(history) - after // 2 * 2  # only the rest was done
    assert torch.equal(weights(whole), weights(again))
    for one, two in zip(whole.buffers(), again.buffers(), strict=True):
        assert torch.equal(one, two)
    assert history.drop(columns="seconds").equals(expected.drop(columns="seconds"))
    assert history["seconds"].is_monotonic_increasing
    assert history.attrs == expected.attrs


def test_a_finished_run_is_not_trained_again(table, tmp_path):
    file = tmp_path / "run.safetensors"
    model = Recommender(table, HoME, groups=["a", "b", "a"])
    history = fit(model, table, checkpoint=file)
    again = Recommender(table, HoME, groups=["a", "b", "a"], seed=5)
    assert fit(again, table, checkpoint=file).equals(history)
    assert torch.equal(weights(model), weights(again))


def test_a_checkpoint_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    write(file, {"x": torch.ones(3)}, {"n": 1})
    before = file.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write(file, {"x": torch.zeros(3)}, {"n": 2})
    assert file.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    tensors, facts = read(file)
    assert tensors["x"].tolist() == [1, 1, 1] and facts == {"n": 1}


@pytest.mark.parametrize("changes", [{"lr": 0.1}, {"batch_size": 16}, {"task_weights": {"like": 3.0}}])
def test_a_checkpoint_of_other_settings_is_refused(table, tmp_path, changes):
    file = tmp_path / "run.safetensors"
    fit(Recommender(table, SharedBottom, **SIZES), table, checkpoint=file)
    model = Recommender(table, SharedBottom, **SIZES)
    before = weights(model)
    with pytest.raises(ValueError, match="belongs to a run with .*; continue with the same settings"):
        fit(model, table, checkpoint=file, **changes)
    assert torch.equal(before, weights(model))


def test_a_checkpoint_of_another_model_or_other_data_is_refused(table, tmp_path):
    file = tmp_path / "run.safetensors"
    fit(Recommender(table, SharedBottom, **SIZES), table, checkpoint=file)
    others = {
        "another model": (Recommender(table, SharedBottom, **SIZES, dropout=0.1), table),
        "another model.*": (Recommender(table, MMoE), table),
        "other data": (Recommender(table, SharedBottom, **SIZES), make_table(seed=1)),
    }
    for what, (model, rows) in others.items():
        with pytest.raises(
            ValueError, match=f"belongs to a run with {what}; continue with the same"
        ) as caught:
            fit(model, rows, checkpoint=file)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_takes_numpys_numbers_and_needs_a_folder(table, tmp_path):
    file, options = tmp_path / "run.safetensors", {"seed": np.int64(3), "lr": np.float32(0.01)}
    one = fit(
        Recommender(table, SharedBottom, **SIZES), table, epochs=np.int64(2), checkpoint=file, **options
    )
    again = fit(Recommender(table, SharedBottom, **SIZES), table, epochs=2, checkpoint=file, **options)
    assert one.equals(again)
    for wrong in (tmp_path, tmp_path / "none/run.safetensors"):
        with pytest.raises(ValueError, match="cannot be written: give a file in a folder that exists"):
            fit(Recommender(table, SharedBottom, **SIZES), table, checkpoint=wrong)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_damaged_checkpoint_gets_one_sentence(table, tmp_path, keep):
    file = tmp_path / "run.safetensors"
    fit(Recommender(table, SharedBottom, **SIZES), table, checkpoint=file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="run.safetensors is damaged or was not .* Remove it"):
        fit(Recommender(table, SharedBottom, **SIZES), table, checkpoint=file)
