"""CGC, PLE and AdaTT: who may see what, where gradients reach, how the models contain each other.

Their outputs and gradients against plain loops, and what holds for every model, are in test_models.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from model_cases import CASES, D, T

from mtlkit import diagnosis
from mtlkit.models import CGC, PLE, AdaTT, MMoE, SingleTask, count_parameters
from mtlkit.models.cgc import own_and_shared


def reached(model, task, name):
    """Which experts the loss of ``task`` moves, by a name of Experts.   -> list of 0 and 1"""
    model.zero_grad()
    model(torch.randn(200, D))[:, task].square().sum().backward()
    weight = model.get_submodule(name).layers[0].weight
    return (weight.grad.abs().sum(dim=(1, 2)) > 0).int().tolist()


# --- who sees whom ----------------------------------------------------------------------------------


def test_a_task_sees_its_own_and_the_shared_experts_and_the_shared_gate_sees_all():
    wanted = [[1, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    assert own_and_shared([2, 0, 3, 1], 3, shared_gate=True).int().tolist() == wanted
    assert own_and_shared([2, 0, 3, 1], 3).int().tolist() == wanted[:3]
    assert own_and_shared([1, 2], 2).int().tolist() == [[1, 0, 0], [0, 1, 1]]  # no shared experts


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith(("CGC", "PLE", "AdaTT"))])
def test_gates_are_distributions_over_what_they_see(name):
    torch.manual_seed(0)
    model = CASES[name].make(D, T)
    found = diagnosis.gate_weights(model, 3 * torch.randn(50, D))
    assert len(found) == (len(model.levels) if hasattr(model, "levels") else 1)
    for gates, weights in found.items():
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
        hidden = model.get_submodule(gates).hidden
        assert (weights[:, hidden] == 0).all() and (weights[:, ~hidden] > 0).all()


def test_the_last_level_has_no_shared_gate_and_higher_gates_read_the_fused_outputs():
    torch.manual_seed(0)
    model, seen = CASES["PLE"].make(D, T), []
    for level in model.levels:
        level.gates.register_forward_hook(lambda module, given, out: seen.append(given[0]))
        level.register_forward_hook(lambda module, given, out: seen.append(out))
    x = torch.randn(7, D)
    model(x)
    assert [tuple(part.shape[1:]) for part in seen] == [(D,), (4, 5), (4, 5), (4, 7), (3, 7), (3, 5)]
    assert seen[0] is x
    torch.testing.assert_close(seen[2], seen[1], rtol=0, atol=0)
    torch.testing.assert_close(seen[4], seen[3][:, :T], rtol=0, atol=0)  # no gate for the shared module


# --- where gradients reach --------------------------------------------------------------------------


def test_cgc_keeps_a_tasks_loss_away_from_the_others_experts():
    torch.manual_seed(0)
    model = CGC(D, 3, shared_experts=2, task_experts=[1, 2, 1])
    assert reached(model, 0, "experts") == [1, 0, 0, 0, 1, 1]
    assert reached(model, 1, "experts") == [0, 1, 1, 0, 1, 1]


def test_two_levels_let_a_tasks_loss_into_the_others_experts_of_the_first_only():
    torch.manual_seed(0)
    model = PLE(D, 3, shared_experts=2, task_experts=[1, 2, 1], levels=[[16], [16]])
    for task, own in enumerate([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]):
        assert reached(model, task, "levels.1.experts") == [*own, 1, 1]
        assert reached(model, task, "levels.0.experts") == [1] * 6  # through the shared gate


def test_without_shared_experts_the_tasks_of_ple_never_meet():
    torch.manual_seed(0)
    model = PLE(D, 2, shared_experts=0, task_experts=2)
    for level in (0, 1):
        assert reached(model, 1, f"levels.{level}.experts") == [0, 0, 1, 1]


def test_every_task_of_adatt_reaches_every_expert():
    torch.manual_seed(0)
    model = AdaTT(D, 2, shared_experts=1, task_experts=2)
    for level in (0, 1):
        assert reached(model, 1, f"levels.{level}.experts") == [1] * 5


# --- how the models contain each other --------------------------------------------------------------


def test_ple_with_one_level_is_cgc():
    torch.manual_seed(0)
    sizes = {"shared_experts": 2, "task_experts": [1, 3, 0], "tower": [4]}
    one, stacked = CGC(D, 3, expert=[8, 5], **sizes), PLE(D, 3, levels=[[8, 5]], **sizes)
    stacked.load_state_dict(
        {n if n.startswith("towers") else f"levels.0.{n}": p for n, p in one.state_dict().items()}
    )
    x = torch.randn(20, D)
    torch.testing.assert_close(stacked(x), one(x), rtol=0, atol=0)


def test_cgc_without_task_experts_is_mmoe():
    torch.manual_seed(0)
    plain, gated = MMoE(D, 3, experts=4, expert=[8], tower=[4]), CGC(D, 3, 4, 0, [8], [4])
    gated.load_state_dict(plain.state_dict())
    x = torch.randn(20, D)
    torch.testing.assert_close(gated(x), plain(x))


def test_cgc_with_one_own_expert_each_and_nothing_shared_is_single_task():
    torch.manual_seed(0)
    plain, alone = SingleTask(D, 3, bottom=[8], tower=[4]), CGC(D, 3, 0, 1, [8], [4])
    state = {n.replace("bottoms.", "experts."): p for n, p in plain.state_dict().items()}
    alone.load_state_dict(state | {"gates.weight": torch.empty(0, D)})  # nothing to choose from
    x = torch.randn(20, D)
    torch.testing.assert_close(alone(x), plain(x))


def test_adatt_without_its_native_vectors_sees_all_like_mmoe():
    torch.manual_seed(0)
    plain, fused = MMoE(D, 2, experts=4, expert=[8], tower=[4]), AdaTT(D, 2, 0, 2, [[8]], [4])
    state = {n if n.startswith("towers") else f"levels.0.{n}": p for n, p in plain.state_dict().items()}
    fused.load_state_dict(state | {"levels.0.native": torch.zeros(4)})
    x = torch.randn(20, D)
    torch.testing.assert_close(fused(x), plain(x))


def test_the_native_vectors_start_like_the_authors_and_are_one_where_each_module_has_one_expert():
    torch.manual_seed(0)
    model = AdaTT(D, 2, shared_experts=3, task_experts=[400, 100], levels=[[2], [2]])
    first, last = (level.native.detach() for level in model.levels)
    assert len(first) == 503 and len(last) == 500  # the shared unit fuses nothing on the last level
    for vector, m in ((first[:400], 400), (first[400:500], 100), (last[:400], 400)):
        assert 0.9 / math.sqrt(m) < vector.abs().max() <= 1 / math.sqrt(m)
        assert vector.min() < 0 < vector.max()
    one_each = AdaTT(D, 2, shared_experts=1, task_experts=1)
    assert not any("native" in name for name in one_each.state_dict())
    assert (one_each.levels[0].native == 1).all()


# --- large batches ----------------------------------------------------------------------------------


# --- clear errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: CGC(D, 2, 1, [1, 1, 1]), "3 numbers for 2 tasks"),
        (lambda: PLE(D, 2, 0, [1, 0]), "Task 1 has no expert of its own"),
        (lambda: PLE(D, 2, -1, 1), "negative"),
        (lambda: PLE(D, 2, 1, [1, -1]), "negative"),
        (lambda: PLE(D, 2, levels=[]), "at least one level"),
        (lambda: AdaTT(D, 2, levels=[]), "at least one level"),
        (lambda: AdaTT(D, 2, 1, [1, 0]), "task 1 has no expert of its own"),
        (lambda: CGC(D, 2)(torch.zeros(4, D + 1)), r"\(4, 7\)"),
        (lambda: CGC(D, 2).experts(torch.zeros(4, 4, D)), r"\(4, 4, 6\), expected .*\(B, 3, 6\)"),
    ],
)
def test_errors_say_what_to_do(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_lists_of_the_caller_stay_as_they_were():
    own, levels = [1, 2, 1], [[4], [4]]
    PLE(D, 3, 1, own, levels)
    AdaTT(D, 3, 1, own, levels)
    assert own == [1, 2, 1] and levels == [[4], [4]]


# --- a registry peer --------------------------------------------------------------------------------


def test_ple_equals_torch_rechub():
    """The published package whose PLE has the paper's structure, without its batch norms and gate biases."""
    multi_task = pytest.importorskip("torch_rechub.models.multi_task", reason="torch-rechub is not installed")
    from torch_rechub.basic.features import DenseFeature

    torch.manual_seed(0)
    own, shared, widths = 2, 3, [8, 5]
    model = PLE(D, T, shared, own, [widths, widths], [4]).double()
    peer = multi_task.PLE(
        [DenseFeature("x", D)],
        ["classification"] * T,
        2,
        own,
        shared,
        {"dims": widths},
        [{"dims": [4]} for _ in range(T)],
    ).double()
    peer.embedding.forward = lambda given, *_, **__: given["x"]  # its own makes float32 of a dense feature
    for part in [m for m in peer.modules() if isinstance(m, torch.nn.Sequential)]:
        for i, step in enumerate(part):
            if isinstance(step, torch.nn.BatchNorm1d | torch.nn.Dropout):
                part[i] = torch.nn.Identity()

    def linears(mlp):
        return [step for step in mlp.modules() if isinstance(step, torch.nn.Linear)]

    pairs, silent = [], []  # (ours, index, theirs); biases of their gates
    for level, theirs in zip(model.levels, peer.cgc_layers, strict=True):
        for e, mlp in enumerate([*theirs.experts_specific, *theirs.experts_shared]):
            for layer, linear in zip(level.experts.layers, linears(mlp), strict=True):
                pairs += [(layer.weight, e, linear.weight), (layer.bias, e, linear.bias)]
        gates = [*theirs.gates_specific, *([theirs.gate_shared] if hasattr(theirs, "gate_shared") else [])]
        start = 0
        for (linear,) in map(linears, gates):
            rows = slice(start, start := start + len(linear.weight))
            pairs.append((level.gates.weight, rows, linear.weight))
            silent.append(linear.bias)
        assert start == len(level.gates.weight)
    for t, mlp in enumerate(peer.towers):
        hidden, out = linears(mlp)
        (layer,) = model.towers.hidden.layers
        pairs += [(layer.weight, t, hidden.weight), (layer.bias, t, hidden.bias)]
        pairs += [(model.towers.out.weight, t, out.weight), (model.towers.out.bias, t, out.bias)]
    with torch.no_grad():
        for ours, index, theirs in pairs:
            theirs.copy_(ours[index])
        for bias in silent:
            bias.zero_()
    assert sum(theirs.numel() for _, _, theirs in pairs) == count_parameters(model)

    x = torch.randn(30, D, dtype=torch.float64)
    ours, theirs = model(x).sigmoid(), peer({"x": x})  # theirs are probabilities
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    cotangent = torch.randn_like(ours)
    ours.backward(cotangent)
    theirs.backward(cotangent)
    for mine, index, other in pairs:
        torch.testing.assert_close(mine.grad[index], other.grad, rtol=1e-6, atol=1e-6)
