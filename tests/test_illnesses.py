"""The three illnesses in models made ill by hand, and not in healthy ones."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from mtlkit import models, plots
from mtlkit.data import short_video
from mtlkit.illnesses import Thresholds, examine

TASKS = ["view", "click", "like"]


@pytest.fixture
def x():
    """Rows whose first feature is always 1, so that a gate's first weight is its bias."""
    torch.manual_seed(0)
    x = torch.randn(500, 6)
    x[:, 0] = 1
    return x


def prefer(gates, pairs, bias=20.0):
    """Let the gate of each pair (gate, expert) choose that expert, whatever the row."""
    with torch.no_grad():
        gates.weight.zero_()
        visible = (~gates.hidden).flatten().nonzero().flatten().tolist()
        for g, e in pairs:
            gates.weight[visible.index(g * gates.experts + e), 0] = bias


def kinds(report):
    return [(finding.illness, finding.level) for finding in report.findings]


def test_fresh_models_are_healthy(x):
    bodies = {
        models.MMoE: {"experts": 6},
        models.OMoE: {},
        models.MLMMoE: {},
        models.CGC: {},
        models.PLE: {},
        models.AdaTT: {},
        models.HoME: {"groups": ["watch", "act", "act"]},
    }
    for model, sizes in bodies.items():
        for norm in (False, True) if model in (models.MMoE, models.CGC, models.PLE) else (None,):
            torch.manual_seed(1)
            options = sizes if norm is None else {**sizes, "expert_norm": norm}
            report = examine(model(6, 3, **options), x, tasks=TASKS)
            assert not report.findings, (model, report.findings)
            assert str(report) == "No illness crosses its threshold."
            np.testing.assert_allclose(report.gates[["own", "shared", "others"]].sum(axis=1), 1, rtol=1e-5)


# --- collapse ---------------------------------------------------------------------------------------


def test_collapse_is_one_expert_for_most_gates(x):
    torch.manual_seed(0)
    model = models.MMoE(6, 3, experts=6)
    prefer(model.gates, [(0, 5), (1, 5)])
    report = examine(model, x, tasks=TASKS)
    assert kinds(report) == [("collapse", 1)]
    assert "2 of 3 gates give expert 6 more than 98% of their weight" in str(report)
    assert report.gates.loc[(1, "view"), "top_expert"] == 6
    assert report.gates.loc[(1, "view"), "top"] == pytest.approx(1, abs=1e-6)
    assert report.weights[0].loc["view", 6] == pytest.approx(1, abs=1e-6)

    prefer(model.gates, [(0, 0), (1, 1), (2, 2)])  # each its own choice: specialists
    assert not kinds(examine(model, x, tasks=TASKS))
    prefer(model.gates, [(0, 5)])  # one gate of three
    assert not kinds(examine(model, x, tasks=TASKS))
    prefer(model.gates, [(0, 5), (1, 5), (2, 5)], bias=3.0)  # 80 %, short of the paper's figure
    assert not kinds(examine(model, x, tasks=TASKS))
    assert kinds(examine(model, x, tasks=TASKS, thresholds=Thresholds(top=0.75))) == [("collapse", 1)]


def test_outputs_of_another_size_and_dead_outputs_are_named(x):
    torch.manual_seed(0)
    model = models.MMoE(6, 3, experts=4)
    layer = model.experts.layers[-1]
    with torch.no_grad():
        layer.weight[3] /= 300
        layer.bias[3] /= 300
    report = examine(model, x, tasks=TASKS)
    assert kinds(report) == [("scale", 1)] and "as large as those of expert 4" in str(report)
    out = model.experts(x)[:, 3]
    line = report.experts.loc[(1, 4)]
    assert line["mean"] == pytest.approx(out.mean().item(), rel=1e-5)
    assert line["variance"] == pytest.approx(out.var(correction=0).item(), rel=1e-4)
    assert line["zeros"] == pytest.approx((out == 0).float().mean().item())

    with torch.no_grad():
        layer.bias[0] -= 100.0
    report = examine(model, x, tasks=TASKS)
    assert kinds(report) == [("zeros", 1), ("scale", 1)]
    assert "90% of the outputs of expert 1 are 0" in str(report) and "more than a million" in str(report)


# --- degradation ------------------------------------------------------------------------------------


def test_a_shared_expert_that_serves_one_task_has_degraded(x):
    torch.manual_seed(0)
    model = models.CGC(6, 3, shared_experts=2, task_experts=1)  # experts: 3 own, 4 and 5 shared
    prefer(model.gates, [(0, 0), (1, 3), (2, 2)])
    report = examine(model, x, tasks=TASKS)
    degraded = [finding for finding in report.findings if finding.illness == "degradation"]
    assert len(degraded) == 1 and "expert 4 (shared) is that of click" in degraded[0].text
    assert report.experts.loc[(1, 4), "main_share"] == pytest.approx(1, abs=1e-6)
    assert report.experts.loc[(1, 1), "owner"] == "view" and report.experts.loc[(1, 1), "owners"] == 1

    prefer(model.gates, [(0, 3), (1, 3), (2, 3)])  # all share it
    assert ("degradation", 1) not in kinds(examine(model, x, tasks=TASKS))


def test_in_an_mmoe_an_expert_of_one_task_is_no_degradation(x):
    model = models.MMoE(6, 3, experts=3)
    prefer(model.gates, [(0, 0), (1, 1), (2, 2)])
    report = examine(model, x, tasks=TASKS)
    assert not report.findings and (report.experts["main_share"] > 0.99).all()


# --- underfitting -----------------------------------------------------------------------------------


def test_a_task_that_leaves_its_own_experts_aside_underfits(x):
    torch.manual_seed(0)
    model = models.CGC(6, 3, shared_experts=2, task_experts=1)
    prefer(model.gates, [(2, 3)])
    report = examine(model, x, tasks=TASKS)
    assert ("underfitting", 1) in kinds(report) and "like gives its own experts 0.0%" in str(report)
    assert "view" not in str(report)
    assert report.gates.loc[(1, "like"), "own"] == pytest.approx(0, abs=1e-6)
    assert report.gates.loc[(1, "view"), "own"] == pytest.approx(1 / 3, rel=1e-5)
    calm = examine(model, x, tasks=TASKS, thresholds=Thresholds(neglect=0.0, monopoly=1.0))
    assert not calm.findings


def test_what_is_added_to_the_own_experts_counts(x):
    torch.manual_seed(0)
    for self_gates, ill in ((True, False), (False, True)):
        model = models.HoME(6, 3, groups=["watch", "act", "act"], self_gates=self_gates)
        level = model.levels[1]
        assert examine(model, x, tasks=TASKS).experts.loc[2, "owner"].tolist() == [
            *TASKS,
            "view",  # a category of one task is that task's
            "act",
            "shared",
        ]
        with torch.no_grad():  # the gate of task "like" gives all to what everybody shares
            level.gates.weight.zero_()
        visible = (~level.gates.hidden).flatten().nonzero().flatten().tolist()
        both = torch.cat([torch.ones(1), torch.zeros(31)])
        level.register_forward_pre_hook(lambda _m, given, both=both: (given[0], given[1] * 0 + both))
        with torch.no_grad():
            level.gates.weight[visible.index(2 * level.gates.experts + 5), 0] = 30.0
        report = examine(model, x, tasks=TASKS)
        assert (("underfitting", 2) in kinds(report)) == ill
        assert report.gates.loc[(2, "like"), "own"] == pytest.approx(0, abs=1e-6)
        assert (report.gates.loc[(2, "like"), "added"] > 0.2) != ill


def test_adatts_vector_is_what_it_adds(x):
    torch.manual_seed(0)
    model = models.AdaTT(6, 3, shared_experts=2, task_experts=[1, 2, 1])
    report = examine(model, x, tasks=TASKS)
    assert report.experts.loc[2, "owner"].tolist() == ["view", "click", "click", "like", "shared", "shared"]
    native = model.levels[1].native
    assert report.gates.loc[(2, "click"), "added"] == pytest.approx(native[1:3].abs().sum().item(), rel=1e-5)
    shared = report.gates.loc[(1, "shared")]
    assert shared["owns"] == 0 and shared["shared"] > 0


# --- all models -------------------------------------------------------------------------------------


def test_categories_and_their_experts_have_names(x):
    torch.manual_seed(0)
    report = examine(models.HoME(6, 3, groups=["watch", "act", "act"]), x, tasks=TASKS)
    assert list(report.gates.loc[1].index) == ["watch", "act", "shared"]
    assert report.experts.loc[1, "owner"].tolist() == ["watch", "act", "shared"]
    no_mask = examine(models.HoME(6, 3, groups=["watch", "act", "act"], mask=False), x, tasks=TASKS)
    assert (no_mask.experts["owner"] == "shared").all()


def test_a_self_gate_adds_whatever_its_experts_are_called(x):
    for mask in (True, False):
        report = examine(models.HoME(6, 3, ["a", "b", "a"], mask=mask), x, tasks=TASKS)
        assert (report.gates["added"] > 0).all()  # the shared gate's, too


def test_the_readers_of_an_ml_mmoe_are_no_tasks(x):
    for experts in (3, 4, 5):
        report = examine(models.MLMMoE(6, 3, experts=experts), x, tasks=["one", "two", "three"])
        readers = [f"reader {r}" for r in range(1, experts + 1)]
        assert report.gates.loc[1].index.tolist() == readers
        assert report.gates.loc[2].index.tolist() == ["one", "two", "three"]


def test_a_recommender_is_examined_on_any_number_of_rows_and_stays_as_it_was():
    table = short_video(3000, users=50, videos=40)
    inputs = torch.from_numpy(table.ids).long(), torch.from_numpy(table.dense)
    model = models.Recommender(table, models.PLE, levels=[[128], [16]], expert_norm=False)
    model.train()
    report = examine(model, *inputs, tasks=table.tasks)  # a batch that leaves the cache
    assert model.training and len(report.experts) == 40
    half = [part[:1500] for part in inputs], [part[1500:] for part in inputs]
    means = [examine(model, *part, tasks=table.tasks).experts["mean"] for part in half]
    np.testing.assert_allclose(report.experts["mean"], sum(means) / 2, rtol=1e-5)
    assert not any(part._forward_hooks for part in model.modules())


def test_models_that_cannot_be_examined_are_refused(x):
    with pytest.raises(ValueError, match="SharedBottom has no gates to examine"):
        examine(models.SharedBottom(6, 3, bottom=[4]), x, tasks=TASKS)
    with pytest.raises(ValueError, match="has 3 tasks, but 2 names are given"):
        examine(models.MMoE(6, 3), x, tasks=TASKS[:2])


def test_the_paper_s_picture_of_the_outputs(x):
    torch.manual_seed(0)
    experts = examine(models.MMoE(6, 3, experts=4), x, tasks=TASKS).experts.loc[1]
    ax = plots.expert_outputs(experts)
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, [*experts["mean"], *experts["variance"]])
    assert "zeros" in ax.get_xticklabels()[0].get_text()
    plt.close("all")
