"""HoME: its equations in training and in evaluation, its ablations, who reaches whom; its parts.

The plain loops are in model_cases.py; what holds for every model is in test_models.py.
"""

from __future__ import annotations

import copy
import itertools

import matplotlib.pyplot as plt
import pytest
import torch
from model_cases import CASES, Weights, home, shaken
from torch import nn
from torch.nn import functional as F

from mtlkit import diagnosis, plots
from mtlkit.data import relatedness
from mtlkit.layers import ExpertNorm, Experts, FeatureGates, Gates, SelfGates
from mtlkit.models import CGC, PLE, AdaTT, HoME, MMoE, Recommender

D, H = 8, 4
FIVE = ["watch", "like", "watch", "like", "watch"]
ABLATIONS = {
    "full": {},
    "w/o fg2": {"feature_gates": (True, False)},
    "w/o fg1": {"feature_gates": (False, True)},
    "w/o fg": {"feature_gates": (False, False)},
    "w/o sg": {"self_gates": False},
    "w/o mask": {"mask": False},
    "w/o fg-sg": {"feature_gates": (False, False), "self_gates": False},
    "w/o fg-sg-mask": {"feature_gates": (False, False), "self_gates": False, "mask": False},
}
# meta (categories, shared) and second level (tasks, categories, shared); one and many experts, uneven
COUNTS = {
    "one of each": ([1, 1, 1], [1] * 8),
    "many": ([3, 3, 3], [2] * 8),
    "uneven": ([2, 0, 1], [0, 3, 1, 0, 2, 1, 0, 2]),
}


def small(counts="one of each", **options):
    meta, second = COUNTS[counts]
    sizes = {"meta_shared_experts": meta[-1], "meta_category_experts": meta[:-1]}
    sizes |= {"task_experts": second[:5], "category_experts": second[5:7], "shared_experts": second[7]}
    return shaken(HoME(D, 5, FIVE, levels=[[7, H], [5]], tower=[3], **sizes, **options)).double()


def oracle(counts, loras=2, feature_gates=(True, True), self_gates=True, mask=True):
    """Self gates are read off the weights: without them there are none."""
    of_level = [loras if gated else 0 for gated in feature_gates]
    return home([0, 1, 0, 1, 0], *COUNTS[counts], depths=(2, 1), loras=of_level, mask=mask)


def compare(model, plain, training, rows=33):
    """Outputs and all gradients of a model and of the loops over its weights."""
    model.train(training)
    x = torch.randn(rows, D, dtype=torch.float64, requires_grad=True)
    own = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    expected = torch.stack(plain(Weights(own | buffers, training), x), dim=1)
    out = model(x)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-10)
    cotangent = torch.randn_like(out)
    got = torch.autograd.grad(out, [x, *model.parameters()], cotangent)
    # a gate of one LoRA has a weight without entries, which the loops do not touch
    wanted = torch.autograd.grad(
        expected, [x, *own.values()], cotangent, allow_unused=True, materialize_grads=True
    )
    for name, a, b in zip(["x", *own], got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


# --- against the equations --------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("loras", [1, 2, 4])
@pytest.mark.parametrize("counts", COUNTS)
def test_equals_the_plain_loop(counts, loras, training):
    torch.manual_seed(0)
    compare(small(counts, loras=loras), oracle(counts, loras), training)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_equals_the_plain_loop(name, counts, training):
    torch.manual_seed(0)
    compare(small(counts, **ABLATIONS[name]), oracle(counts, **ABLATIONS[name]), training)


@pytest.mark.parametrize("rank", [1, 3, 20])
def test_a_rank_of_choice_equals_the_plain_loop_and_need_not_divide(rank):
    torch.manual_seed(0)
    compare(small(loras=3, rank=rank), oracle("one of each", 3), training=True)


def test_one_category_and_one_task_equal_the_plain_loop():
    torch.manual_seed(0)
    alone = {"meta_category_experts": 2, "category_experts": 0, "task_experts": 1, "levels": [[7, H], [5]]}
    model = shaken(HoME(D, 1, ["watch"], tower=[3], **alone)).double()
    compare(model, home([0], [2, 1], [1, 0, 1], depths=(2, 1)), training=True)


def test_running_averages_are_those_of_batchnorm1d():
    """Over 30 steps; each expert against a torch.nn.BatchNorm1d of its own."""
    torch.manual_seed(0)
    experts = Experts(D, 3, [6, 5], norm=True)
    peers = [nn.BatchNorm1d(5) for _ in range(3)]
    for step in range(30):
        x = torch.randn(2 + step, D) * (1 + step)
        hidden = F.relu(experts.layers[0](x))  # (E, B, 6)
        z = experts.layers[1](hidden)
        wanted = torch.stack([F.silu(peer(part)) for peer, part in zip(peers, z, strict=True)], dim=1)
        torch.testing.assert_close(experts(x), wanted)
    for e, peer in enumerate(peers):
        torch.testing.assert_close(experts.norm.running_mean[e], peer.running_mean)
        torch.testing.assert_close(experts.norm.running_var[e], peer.running_var)
    x = torch.randn(4, D)
    z = experts.layers[1](F.relu(experts.layers[0](x)))
    wanted = torch.stack([F.silu(peer.eval()(part)) for peer, part in zip(peers, z, strict=True)], dim=1)
    torch.testing.assert_close(experts.eval()(x), wanted)


# --- what an ablation changes, and what it leaves ---------------------------------------------------


def weights_without(state, *parts):
    return {name for name in state if not any(part in name for part in parts)}


def test_each_switch_takes_away_exactly_what_it_names():
    full = small("many").state_dict()
    removed = {
        "w/o fg2": ["levels.1.feature_gates"],
        "w/o fg": ["feature_gates"],
        "w/o sg": ["self_gates"],
        "w/o mask": [],
        "w/o fg-sg": ["feature_gates", "self_gates"],
        "w/o fg-sg-mask": ["feature_gates", "self_gates"],
    }
    for name, parts in removed.items():
        state = small("many", **ABLATIONS[name]).state_dict()
        assert set(state) == weights_without(full, *parts), name
        changed = {n for n in state if state[n].shape != full[n].shape}
        assert changed == ({"levels.0.gates.weight", "levels.1.gates.weight"} if "mask" in name else set())


@pytest.mark.parametrize("name", ["w/o fg2", "w/o fg1", "w/o fg"])
def test_without_feature_gates_is_with_feature_gates_that_are_1(name):
    torch.manual_seed(0)
    full, without = small(), small(**ABLATIONS[name])
    for level, kept in zip(full.levels, ABLATIONS[name]["feature_gates"], strict=True):
        if not kept:
            nn.init.zeros_(level.feature_gates.up.weight)
    without.load_state_dict({n: p for n, p in full.state_dict().items() if n in without.state_dict()})
    x = torch.randn(20, D, dtype=torch.float64)
    torch.testing.assert_close(without(x), full(x))


def test_without_self_gates_is_with_self_gates_that_give_nothing():
    torch.manual_seed(0)
    full, without = small("many"), small("many", self_gates=False)
    without.load_state_dict({n: p for n, p in full.state_dict().items() if "self_gates" not in n})
    for level in full.levels:
        level.self_gates.register_forward_hook(lambda part, given, out: torch.zeros_like(out))
    x = torch.randn(20, D, dtype=torch.float64)
    torch.testing.assert_close(without(x), full(x))


def test_the_mask_hides_other_categories_and_other_tasks():
    seen = diagnosis.gate_weights(small("many"), torch.randn(3, D, dtype=torch.float64))
    meta, task = ((seen[f"levels.{i}.gates"] > 0).all(dim=0).int() for i in (0, 1))
    assert meta.tolist() == [[1] * 3 + [0] * 3 + [1] * 3, [0] * 3 + [1] * 6, [1] * 9]
    for t, category in enumerate([0, 1, 0, 1, 0]):
        wanted = [i in (t, 5 + category, 7) for i in range(8) for _ in range(2)]
        assert task[t].bool().tolist() == wanted
    free = diagnosis.gate_weights(small("many", mask=False), torch.randn(3, D, dtype=torch.float64))
    assert (free["levels.0.gates"] > 0).all() and (free["levels.1.gates"] > 0).all()


@pytest.mark.parametrize("name", ABLATIONS)
def test_gates_are_distributions_and_a_self_gate_of_one_expert_lies_between_0_and_1(name):
    torch.manual_seed(0)
    model = small("uneven", **ABLATIONS[name])
    found = diagnosis.gate_weights(model, 3 * torch.randn(50, D, dtype=torch.float64))
    for gates, weights in found.items():
        if not gates.endswith("self_gates"):
            torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    if model.levels[0].self_gates is None:
        assert not any("self_gates" in gates for gates in found)
        return
    sums = found["levels.0.self_gates"].sum(-1)  # 2, 0 and 1 experts of their own
    torch.testing.assert_close(sums[:, 0], torch.ones_like(sums[:, 0]))
    assert (sums[:, 1] == 0).all() and ((sums[:, 2] > 0) & (sums[:, 2] < 1)).all()
    assert len(sums[:, 2].unique()) == 50


# --- where gradients reach --------------------------------------------------------------------------


def reached(model, task):
    """Which experts of each level the loss of ``task`` moves."""
    model.zero_grad()
    model(torch.randn(200, D, dtype=torch.float64))[:, task].square().sum().backward()
    return [(lv.experts.layers[0].weight.grad.abs().sum((1, 2)) > 0).int().tolist() for lv in model.levels]


def test_a_task_moves_its_own_its_categorys_and_the_shared_experts_of_level_2():
    torch.manual_seed(0)
    model = small()
    for t, category in enumerate([0, 1, 0, 1, 0]):
        first, second = reached(model, t)
        assert first == [1, 1, 1]  # through the shared gate, which sees all
        assert second == [int(e in (t, 5 + category, 7)) for e in range(8)]
    assert reached(small(mask=False), 1) == [[1] * 3, [1] * 8]


def test_level_1_experts_of_another_category_are_reached_through_the_shared_vector_alone():
    torch.manual_seed(0)
    model = small()
    model.levels[0].register_forward_hook(
        lambda part, given, out: torch.cat([out[:, :2], out[:, 2:].detach()], 1)
    )
    assert reached(model, 0)[0] == [1, 0, 1]
    assert reached(model, 1)[0] == [0, 1, 1]


def test_each_group_reads_its_own_vector_and_each_gate_the_raw_input():
    torch.manual_seed(0)
    model, given = small(), {}
    for name, part in model.named_modules():
        if isinstance(part, Gates | Experts | FeatureGates):
            part.register_forward_hook(lambda part, x, out, name=name: given.__setitem__(name, (x[0], out)))
    x = torch.randn(6, D, dtype=torch.float64)
    z = []
    model.levels[0].register_forward_hook(lambda part, x, out: z.append(out))
    model(x)
    (z,) = z
    for name in ("gates", "self_gates", "feature_gates", "feature_gates.gates"):
        assert given[f"levels.0.{name}"][0] is x
    both = torch.stack([torch.cat([z[:, c], z[:, 2]], dim=1) for c in (0, 1)], dim=1)  # of each category
    for name in ("gates", "self_gates"):
        assert torch.equal(given[f"levels.1.{name}"][0], both)
    own = torch.stack([z[:, m] for m in (0, 1, 0, 1, 0, 0, 1, 2)], dim=1)
    assert torch.equal(given["levels.1.feature_gates"][0], own)
    for level in (0, 1):
        assert given[f"levels.{level}.experts"][0] is given[f"levels.{level}.feature_gates"][1]


# --- the parts --------------------------------------------------------------------------------------


def test_feature_gates_start_at_the_identity_and_stay_between_0_and_2():
    torch.manual_seed(0)
    part, x = FeatureGates(D, 3, loras=2), 5 * torch.randn(40, D)
    torch.testing.assert_close(part(x), x.unsqueeze(1).expand(-1, 3, -1))
    nn.init.normal_(part.up.weight)
    factors = part.factors(x)
    assert factors.shape == (40, 3, D) and 0 <= factors.min() < 0.5 and 1.5 < factors.max() <= 2
    torch.testing.assert_close(part(x), x.unsqueeze(1) * factors)
    own = torch.randn(40, 3, D)
    alone = [part.factors(own[:, g])[:, g] for g in range(3)]
    torch.testing.assert_close(part.factors(own), torch.stack(alone, dim=1))


def test_feature_gates_of_rank_d_over_l_have_the_same_weights_for_every_l():
    sizes = {n: sum(p.numel() for p in FeatureGates(12, 2, n).parameters()) for n in (1, 2, 3, 4)}
    assert sizes == {n: 2 * (2 * 12 * 12 + (n * 12 if n > 1 else 0)) for n in sizes}
    few = FeatureGates(12, 2, loras=2, rank=1)
    assert sum(p.numel() for p in few.parameters()) == 2 * (2 * 2 * 12 + 2 * 12)


@pytest.mark.parametrize("kind", ["gates", "self gates"])
def test_gates_that_read_one_input_are_gates_with_copies_of_it(kind):
    torch.manual_seed(0)
    seen = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1]]) > 0
    reads = torch.tensor([1, 0, 0, 2])

    def make(reads):
        return Gates(D, 4, 4, seen, reads) if kind == "gates" else SelfGates(D, seen, reads)

    together, apart = make(reads), make(None)
    apart.load_state_dict(together.state_dict())
    x = torch.randn(9, 3, D, requires_grad=True)
    out, wanted = together(x), apart(x[:, reads])
    torch.testing.assert_close(out, wanted)
    cotangent = torch.randn_like(out)
    got = torch.autograd.grad(out, [x, together.weight], cotangent)
    torch.testing.assert_close(got, torch.autograd.grad(wanted, [x, apart.weight], cotangent))
    with pytest.raises(ValueError, match=r"expected .*\(B, 3, 8\)"):
        together(torch.zeros(9, 4, D))
    with pytest.raises(ValueError, match=r"\(9, 8\)"):
        together(torch.zeros(9, D))


def test_self_gates_by_hand():
    part = SelfGates(2, torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]))
    with torch.no_grad():
        part.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]))
    out = part(torch.tensor([[torch.tensor(3.0).log(), 0.0]]))  # logits log 3 and 0; 2 log 3
    wanted = [[0.75, 0.25, 0, 0], [0, 0, 0.9, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(out, torch.tensor([wanted]))


def test_one_training_row_takes_the_running_averages_and_leaves_them():
    torch.manual_seed(0)
    model = small()
    x = torch.randn(1, D, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    torch.testing.assert_close(model.train()(x), model.eval()(x), rtol=0, atol=0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.train()(torch.randn(2, D, dtype=torch.float64))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert moved == {f"levels.{i}.experts.norm.running_{part}" for i in (0, 1) for part in ("mean", "var")}


def test_experts_of_different_scales_are_brought_to_one():
    """What the norm is for: an expert a hundred times larger than another looks alike to the gate."""
    torch.manual_seed(0)
    plain, normed = Experts(D, 2, [16]), Experts(D, 2, [16], norm=True)
    for experts in (plain, normed):
        with torch.no_grad():
            experts.layers[0].weight[1] *= 100
    x = torch.randn(500, D)
    spread = {experts: experts(x).std(dim=(0, 2)) for experts in (plain, normed)}
    assert spread[plain][1] > 50 * spread[plain][0]
    assert 0.9 < spread[normed][1] / spread[normed][0] < 1.1
    assert (plain(x) == 0).float().mean() > 0.3 and (normed(x) == 0).float().mean() < 0.01  # Swish


@pytest.mark.parametrize(
    "star",
    [
        lambda norm: MMoE(D, 3, expert_norm=norm),
        lambda norm: CGC(D, 3, expert_norm=norm),
        lambda norm: PLE(D, 3, expert_norm=norm),
        lambda norm: AdaTT(D, 3, expert_norm=norm),
    ],
    ids=["MMoE*", "CGC*", "PLE*", "AdaTT*"],
)
def test_a_star_changes_the_experts_alone(star):
    plain, starred = star(False), star(True)
    extra = {name for name in starred.state_dict() if name not in plain.state_dict()}
    gone = {name for name in plain.state_dict() if name not in starred.state_dict()}
    norms = [name for name, part in starred.named_modules() if isinstance(part, ExpertNorm)]
    parts = ("weight", "bias", "running_mean", "running_var")
    assert norms and extra == {f"{norm}.{part}" for norm, part in itertools.product(norms, parts)}
    assert gone == {norm.replace(".norm", ".layers.0.bias") for norm in norms}  # the norm's does its work


def test_a_large_batch_has_one_mean(monkeypatch):
    """No path cuts a normalised batch, however large: outputs equal those of the plain loop."""
    torch.manual_seed(0)
    monkeypatch.setattr("mtlkit.layers.CACHE", 0)
    compare(small("many"), oracle("many"), training=True, rows=3000)
    for name in ("MMoE*", "PLE*"):
        model = CASES[name].make(D, 3).double().train()
        compare(model, CASES[name].oracle, training=True, rows=3000)


def test_moves_to_another_dtype_and_back_with_its_averages():
    torch.manual_seed(0)
    model, x = small().eval(), torch.randn(9, D, dtype=torch.float64)
    before = model(x)
    assert model.float()(x.float()).dtype == torch.float32
    torch.testing.assert_close(model.double()(x), before, rtol=1e-5, atol=1e-5)
    assert {b.dtype for n, b in model.named_buffers() if "running" in n} == {torch.float64}


# --- categories from a table; clear errors ----------------------------------------------------------


def test_a_recommender_takes_the_categories_of_its_table():
    table = relatedness(0.5, rows=40, dim=D)
    with pytest.raises(ValueError, match="'task_1' has no category"):
        Recommender(table, HoME)
    given = Recommender(table, HoME, groups=[0, 0])
    assert given.body.categories == (0,)
    labelled = type(table)(**{**vars(table), "categories": {"task_2": "like", "task_1": "watch"}})
    assert Recommender(labelled, HoME).body.categories == ("watch", "like")  # in the order of the tasks
    assert Recommender(labelled, HoME, groups="aa").body.categories == ("a",)
    Recommender(labelled, MMoE)  # takes no groups


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: HoME(D, 3, [0, 1]), "2 entries for 3 tasks"),
        (lambda: HoME(D, 2, [0, 1], levels=[[4]]), "two levels"),
        (lambda: HoME(D, 2, [0, 1], meta_category_experts=[1, 2, 3]), "has 3 numbers, expected 2"),
        (lambda: HoME(D, 2, [0, 1], task_experts=[1]), "task_experts=.* expected 2"),
        (lambda: HoME(D, 2, [0, 1], task_experts=-1), "negative"),
        (lambda: HoME(D, 2, [0, 1], shared_experts=0), "shared_experts >= 1"),
        (
            lambda: HoME(D, 2, ["a", "b"], meta_shared_experts=0, meta_category_experts=[1, 0]),
            "'b' sees no expert on level 1",
        ),
        (
            lambda: HoME(D, 2, ["a", "b"], category_experts=0, task_experts=[0, 1]),
            "'a' and its tasks have no expert on level 2",
        ),
        (lambda: HoME(D, 2, [0, 1], loras=3), "loras=3.* width 8.* divide the width"),
        (lambda: HoME(D, 2, [0, 1], loras=0), "at least 1"),
        (lambda: HoME(D, 2, [0, 1], rank=0), "rank of at least 1, such as rank=4"),
        (lambda: HoME(D, 2, [0, 1])(torch.zeros(4, D + 1)), r"\(4, 9\)"),
        (lambda: HoME(D, 2, [0, 1], feature_gates=(False, False))(torch.zeros(4, D + 1)), r"\(4, 9\)"),
    ],
)
def test_errors_say_what_to_do(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_lists_of_the_caller_stay_as_they_were():
    groups, own, levels = [0, 1, 0], [1, 0, 2], [[4], [4]]
    HoME(D, 3, groups, task_experts=own, levels=levels)
    assert groups == [0, 1, 0] and own == [1, 0, 2] and levels == [[4], [4]]


# --- the picture of the feature gates ---------------------------------------------------------------


def test_the_heat_map_labels_groups_and_fields_and_is_white_at_1():
    factors = torch.tensor([[1.0, 1.5, 0.8, 1.0], [0.4, 1.0, 1.0, 1.2]])
    ax = plots.feature_gates(factors, ["watch", "shared"], ["user", "user", "user", "length"])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["watch", "shared"]
    assert [(t.get_text(), t.get_position()[0]) for t in ax.get_xticklabels()] == [("user", 1), ("length", 3)]
    (image,) = ax.images
    assert image.get_clim() == pytest.approx((0.4, 1.6))  # as far down as up: the middle colour is 1
    torch.testing.assert_close(torch.as_tensor(image.get_array().filled()), factors)
    plt.close(ax.figure)
