"""Who uses which expert: the weights found in a model, their means and entropies."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from mtlkit import diagnosis, models, plots
from mtlkit.data import relatedness


def test_gate_weights_are_those_that_the_model_used():
    torch.manual_seed(0)
    model, x = models.MMoE(6, tasks=3, experts=4, expert=[5]), torch.randn(7, 6)
    found = diagnosis.gate_weights(model, x)
    assert list(found) == ["gates"] and not found["gates"].requires_grad
    torch.testing.assert_close(found["gates"], model.gates(x).detach())
    assert not any(part._forward_hooks for part in model.modules())


def test_looking_at_gates_moves_no_average_and_keeps_every_mode():
    model = models.MMoE(6, 2, experts=3, expert_norm=True).train()
    model.towers.eval()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    diagnosis.gate_weights(model, torch.randn(50, 6))
    assert model.training and model.experts.training and not model.towers.training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_a_model_without_gates_has_none_and_a_failing_one_keeps_no_hook():
    assert diagnosis.gate_weights(models.SharedBottom(6, 2, bottom=[4]), torch.randn(3, 6)) == {}
    model = models.OMoE(6, tasks=2, experts=3, expert=[4])
    with pytest.raises(ValueError):
        diagnosis.gate_weights(model, torch.randn(3, 5))
    assert not any(part._forward_hooks for part in model.modules())


def test_expert_use_tells_equal_shares_from_taking_turns():
    weights = torch.tensor([[[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]]])
    use = diagnosis.expert_use(weights)
    torch.testing.assert_close(use.mean, torch.full((2, 2), 0.5))
    torch.testing.assert_close(use.sd, torch.tensor([[0.0, 0.0], [0.5, 0.5]]))
    torch.testing.assert_close(use.entropy, torch.tensor([math.log(2), 0.0]))
    assert (diagnosis.expert_use(weights[:1]).sd == 0).all()


# --- models whose experts belong to someone ---------------------------------------------------------


def test_gate_weights_come_level_by_level():
    x = torch.randn(7, 6)
    found = diagnosis.gate_weights(models.PLE(6, 2, shared_experts=1, task_experts=2), x)
    assert {name: tuple(w.shape) for name, w in found.items()} == {
        "levels.0.gates": (7, 3, 5),
        "levels.1.gates": (7, 2, 5),
    }
    assert list(diagnosis.gate_weights(models.CGC(6, 2), x)) == ["gates"]
    assert list(diagnosis.gate_weights(models.AdaTT(6, 2), x)) == ["levels.0.gates", "levels.1.gates"]


@pytest.mark.parametrize("model", [models.CGC, models.PLE, models.AdaTT])
def test_module_shares_are_sums_of_gate_weights(model):
    torch.manual_seed(0)
    net, x = model(6, 2, shared_experts=3, task_experts=[1, 2]), torch.randn(40, 6)
    table = diagnosis.module_shares(net, x, tasks=["like", "click"])
    np.testing.assert_allclose(table[["own", "shared", "others"]].sum(axis=1), 1, rtol=1e-6)
    for level, weights in enumerate(diagnosis.gate_weights(net, x).values(), start=1):
        click = table.loc[(level, "click")]
        assert click["own"] == pytest.approx(weights[:, 1, 1:3].sum(dim=1).mean().item(), rel=1e-5)
        assert click["shared"] == pytest.approx(weights[:, 1, 3:].sum(dim=1).mean().item(), rel=1e-5)
        sd = weights[:, 1, 3:].sum(dim=1).std(correction=0).item()
        assert click["shared_sd"] == pytest.approx(sd, rel=1e-4)
        assert click["others"] == pytest.approx(weights[:, 1, 0].mean().item(), abs=1e-6)
    if model is models.CGC:
        assert list(table.index) == [(1, "like"), (1, "click")]
    else:  # the shared gate stands on the first level only
        assert list(table.index)[:3] == [(1, "like"), (1, "click"), (1, "shared")] and len(table) == 5
        shared = table.loc[(1, "shared")]
        assert shared["shared"] == 0 < min(shared["own"], shared["others"])


def test_module_shares_look_into_a_recommender_and_refuse_experts_without_an_owner():
    table = relatedness(0.5, rows=40, dim=6)
    inputs = torch.from_numpy(table.ids).long(), torch.from_numpy(table.dense)
    net = models.Recommender(table, models.PLE, shared_experts=0)
    shares = diagnosis.module_shares(net, *inputs, tasks=table.tasks)
    assert (shares["own"] == 1).all() and len(shares) == 4  # nothing shared, so no shared gate either
    with pytest.raises(ValueError, match="MMoE belong to no task"):
        diagnosis.module_shares(models.MMoE(6, 2), torch.randn(3, 6), tasks=table.tasks)
    with pytest.raises(ValueError, match="has 2 tasks, but 1 names"):
        diagnosis.module_shares(net, *inputs, tasks=["like"])


# --- transfer and seesaw ----------------------------------------------------------------------------


@pytest.fixture
def runs():
    """Two models beside the baseline, three seeds; MMoE wins a task and loses one, PLE wins one."""
    gains = {
        ("MMoE", "like"): [0.019, 0.02, 0.021],
        ("MMoE", "click"): [-0.02, -0.02, -0.02],
        ("PLE", "like"): [0.04, 0.05, 0.06],
        ("PLE", "click"): [-0.01, 0.01, 0.01],
    }
    rows = []
    for seed, base in enumerate([0.70, 0.75, 0.72]):
        for task, level in (("like", base), ("click", base - 0.1)):
            rows.append({"model": "SingleTask", "seed": seed, "task": task, "auc": level})
            for model in ("MMoE", "PLE"):
                value = level + gains[model, task][seed]
                rows.append({"model": model, "seed": seed, "task": task, "auc": value})
    return pd.DataFrame(rows)


def test_transfer_pairs_the_seeds(runs):
    shuffled = runs.sample(frac=1, random_state=0)
    for frame in (runs, shuffled):
        line = diagnosis.transfer(frame).loc[("MMoE", "like")]
        assert line["gain"] == pytest.approx(0.02) and line["sd"] == pytest.approx(0.001)
        assert line["error"] == pytest.approx(0.001 / math.sqrt(3))
        assert line["ci95"] == pytest.approx(4.302653 * line["error"])  # t for 2 degrees of freedom
        assert (line["wins"], line["seeds"]) == (3, 3)
    lower = diagnosis.transfer(runs.rename(columns={"auc": "loss"}), "loss", higher_is_better=False)
    assert lower.loc[("MMoE", "like"), "gain"] == pytest.approx(-0.02)
    beside = diagnosis.transfer(runs, baseline="MMoE").loc[("SingleTask", "click")]
    assert beside["gain"] == pytest.approx(0.02)


def test_a_seesaw_wins_one_task_and_loses_another(runs):
    table = diagnosis.seesaw(diagnosis.transfer(runs))
    assert table.loc["MMoE"].tolist() == ["like", "click", True]
    assert table.loc["PLE"].tolist() == ["like", "", False]  # its click's interval holds 0


def test_one_seed_decides_nothing(runs):
    gains = diagnosis.transfer(runs[runs["seed"] == 0])
    assert gains["ci95"].isna().all() and not diagnosis.seesaw(gains)["seesaw"].any()


def test_runs_that_cannot_be_paired_are_refused(runs):
    with pytest.raises(ValueError, match="No runs of the baseline 'OMoE'; there are SingleTask, MMoE, PLE"):
        diagnosis.transfer(runs, baseline="OMoE")
    with pytest.raises(ValueError, match="'like'.*no auc of 'PLE'"):
        diagnosis.transfer(runs[~((runs["model"] == "PLE") & (runs["seed"] == 1))])
    with pytest.raises(ValueError, match="run of 'SingleTask' with seed 0 stands there twice"):
        diagnosis.transfer(pd.concat([runs, runs]))
    with pytest.raises(ValueError, match="no column 'gauc'; there are model, seed, task, auc"):
        diagnosis.transfer(runs, "gauc")
    with pytest.raises(ValueError, match="runs of 'SingleTask' only"):
        diagnosis.transfer(runs[runs["model"] == "SingleTask"])
    with pytest.raises(ValueError, match="Task 'like' has no run of the baseline"):
        diagnosis.transfer(runs[(runs["model"] != "SingleTask") | (runs["task"] != "like")])


# --- figures ----------------------------------------------------------------------------------------


def test_the_figures_show_the_numbers(runs):
    ax = plots.seesaw(diagnosis.transfer(runs))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["like", "click"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["MMoE", "PLE"]
    mean, sd = np.array([[0.7, 0.3], [0.2, 0.8]]), np.full((2, 2), 0.1)
    bars = plots.expert_bars(mean, sd, ["like", "click"], ["own", "shared"])
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], mean.T.ravel())
    plt.close("all")
