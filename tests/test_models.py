"""Models against the papers' equations written as plain loops, on the same random weights."""

import copy

import numpy as np
import pytest
import torch
from model_cases import CASES, TWO, D, E, T, Weights
from torch import nn

from mtlkit import layers
from mtlkit.data import relatedness
from mtlkit.data.table import Table
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
    SNRAver,
    SNRTrans,
    count_parameters,
    match_width,
    shared_bottom_width,
)
from mtlkit.models.snr import Connections

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}


@pytest.fixture(params=CASES)
def case(request):
    torch.manual_seed(0)
    return CASES[request.param]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [1, 33])
def test_outputs_and_gradients_equal_the_plain_loop(case, rows, dtype):
    model = case.make(D, case.tasks).to(dtype).eval()
    x = torch.randn(rows, D, dtype=dtype, requires_grad=True)
    names = [name for name, _ in model.named_parameters()]
    own = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    copies = Weights(own | dict(model.named_buffers()))
    out, expected = model(x), torch.stack(case.oracle(copies, x), dim=1)
    assert out.shape == (rows, case.tasks)
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(out, expected, **near)
    cotangent = torch.randn_like(out) / rows
    got = torch.autograd.grad(out, [x, *model.parameters()], cotangent)
    wanted = torch.autograd.grad(expected, [x, *own.values()], cotangent)
    for name, a, b in zip(["x", *names], got, wanted, strict=True):
        torch.testing.assert_close(a, b, **near, msg=lambda m, name=name: f"gradient of {name}: {m}")


# --- what holds for every model ---------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("rows", [1, 4])
def test_trains_on_any_batch_and_number_of_tasks(case, rows, tasks):
    if case.tasks == 2 != tasks:
        pytest.skip("this model is defined for two tasks")
    model = case.make(D, tasks).train()
    out = model(torch.randn(rows, D))
    assert out.shape == (rows, tasks)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_no_parameter_entry_is_dead(case):
    model = case.make(D, case.tasks).train()
    alive = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    for _ in range(30):  # a ReLU unit may be silent by chance of one draw, not of all
        model = case.make(D, case.tasks).train()
        model(torch.randn(128, D)).square().sum().backward()
        for name, parameter in model.named_parameters():
            alive[name] |= parameter.grad != 0
    assert all(seen.all() for seen in alive.values()), [n for n, seen in alive.items() if not seen.all()]


@pytest.mark.parametrize("name", CASES)
def test_rows_do_not_see_each_other(name):
    torch.manual_seed(0)
    model, x = CASES[name].make(D, CASES[name].tasks).eval(), torch.randn(20, D)
    torch.testing.assert_close(model(x)[:7], model(x[:7]))
    normed = any(isinstance(part, layers.ExpertNorm) for part in model.modules())
    assert normed == ("*" in name or "HoME" in name)  # then in training they do
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def test_state_dict_round_trip(case):
    model, other = case.make(D, case.tasks).eval(), case.make(D, case.tasks).eval()
    x = torch.randn(9, D)
    assert not torch.equal(model(x), other(x))
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)


def test_functional_call_and_vmap_over_models(case):
    crowd = [case.make(D, case.tasks).eval() for _ in range(3)]
    x = torch.randn(9, D)
    parameters, buffers = torch.func.stack_module_state(crowd)

    def one(parameters, buffers):
        return torch.func.functional_call(crowd[0], (parameters, buffers), (x,))

    stacked = torch.func.vmap(one)(parameters, buffers)
    torch.testing.assert_close(stacked, torch.stack([model(x) for model in crowd]))


def test_export_with_a_dynamic_batch(case):
    model, x = case.make(D, case.tasks).eval(), torch.randn(9, D)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("rows", max=2**31)},))
    torch.testing.assert_close(program.module()(x[:4]), model(x[:4]))


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["MMoE", "PLE, uneven", "AdaTT", "MMoE*", "HoME, uneven"])
def test_a_model_compiles_without_a_graph_break(name):
    model, x = CASES[name].make(D, T), torch.randn(9, D)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()


def test_bfloat16_autocast_stays_close(case):
    model, x = case.make(D, case.tasks).eval(), torch.randn(64, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
    torch.testing.assert_close(out.float(), model(x), rtol=0.05, atol=0.05)


def test_a_model_learns(case):
    """Thirty steps of Adam more than halve the error on a batch it has seen."""
    model = case.make(D, case.tasks).train()
    x = torch.randn(64, D)
    y = x[:, : case.tasks].tanh()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(60):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# --- Recommender ------------------------------------------------------------------------------------


def small_table() -> Table:
    rng = np.random.default_rng(0)
    n = 40
    return Table(
        ids=np.stack([rng.integers(0, k, n) for k in (5, 3)], axis=1).astype(np.int32),
        dense=rng.standard_normal((n, 2)).astype(np.float32),
        labels={t: (rng.random(n) < 0.5).astype(np.float32) for t in ("click", "like", "share")},
        split=np.zeros(n, dtype=np.int8),
        cardinalities=(5, 3),
        fields=("user", "item"),
        dense_names=("age", "length"),
        kinds=dict.fromkeys(("click", "like", "share"), "binary"),
    )


@pytest.mark.parametrize("kind", ["ids", "dense"])
def test_recommender_puts_an_encoder_in_front(case, kind):
    table = relatedness(0.5, rows=40, dim=6) if kind == "dense" else small_table()
    table = table.select(table.tasks[: case.tasks])

    def model(in_width, tasks):  # a class of this package with its sizes
        return case.make(in_width, tasks)

    model.private_inputs = getattr(case.make(D, case.tasks), "private_inputs", False)
    net = Recommender(table, model, embedding=4, seed=1).eval()
    ids, dense = torch.from_numpy(table.ids).long(), torch.from_numpy(table.dense)
    assert net.tasks == table.tasks
    assert net(ids, dense).shape == (40, len(table.tasks))
    torch.testing.assert_close(net(ids, dense), net.body(net.encoder(ids, dense)), rtol=0, atol=0)
    net(ids, dense).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_equal_seeds_give_equal_weights_and_leave_the_generator_alone():
    sizes = {"bottom": [8], "tower": [4]}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (Recommender(small_table(), SharedBottom, seed=s, **sizes).state_dict() for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_single_task_shares_nothing_not_even_an_embedding():
    net = Recommender(small_table(), SingleTask, bottom=[8], tower=[4], embedding=3)
    ids, dense = torch.from_numpy(small_table().ids).long(), torch.from_numpy(small_table().dense)
    net(ids, dense)[:, 1].sum().backward()
    touched = net.encoder.table.weight.grad.abs().sum(0) > 0  # copies side by side
    assert touched.tolist() == [False] * 3 + [True] * 3 + [False] * 3


# --- how the models are related ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["OMoE", "MMoE", "MMoE, gate MLP"])
def test_gate_rows_are_a_distribution(name):
    torch.manual_seed(0)
    model = CASES[name].make(D, T)
    x = 10 * torch.randn(50, D)
    weights = {}
    model.gates.register_forward_hook(lambda module, args, out: weights.update(all=out))
    model(x)
    assert weights["all"].shape == (50, 1 if name == "OMoE" else T, E)
    torch.testing.assert_close(weights["all"].sum(-1), torch.ones(weights["all"].shape[:2]))
    assert (weights["all"] >= 0).all()


def test_mmoe_with_tied_gates_is_omoe():
    torch.manual_seed(0)
    one, many = CASES["OMoE"].make(D, T), CASES["MMoE"].make(D, T)
    state = one.state_dict()
    state["gates.weight"] = state["gates.weight"].repeat(T, 1)
    many.load_state_dict(state)
    x = torch.randn(20, D)
    torch.testing.assert_close(many(x), one(x))
    with torch.no_grad():
        many.gates.weight[:E] += torch.randn(E, D)
    assert not torch.allclose(many(x)[:, 0], one(x)[:, 0])
    torch.testing.assert_close(many(x)[:, 1:], one(x)[:, 1:])


@pytest.mark.parametrize("model", [MMoE, OMoE])
def test_one_expert_is_shared_bottom(model):
    torch.manual_seed(0)
    plain, mixture = SharedBottom(D, T, TWO, [4]), model(D, T, experts=1, expert=TWO, tower=[4])
    state = {name.replace("bottom.", "experts."): p for name, p in plain.state_dict().items()}
    mixture.load_state_dict(state | {"gates.weight": torch.empty(0, D)})
    x = torch.randn(20, D)
    torch.testing.assert_close(mixture(x), plain(x))
    optimizer = torch.optim.Adam(mixture.parameters(), fused=True)  # the empty gate must not trip it
    mixture(x).sum().backward()
    optimizer.step()


def test_equal_gate_logits_average_the_experts():
    torch.manual_seed(0)
    model = CASES["MMoE"].make(D, T)
    nn.init.zeros_(model.gates.weight)
    x = torch.randn(20, D)
    mean = model.experts(x).mean(dim=1, keepdim=True)
    torch.testing.assert_close(model(x), model.towers(mean.expand(-1, T, -1)))


def test_ml_mmoe_with_one_level_is_mmoe():
    torch.manual_seed(0)
    plain, stacked = CASES["MMoE"].make(D, T), MLMMoE(D, T, experts=E, levels=[TWO], tower=[4])
    rename = {"experts.": "levels.0.", "gates.": "gates.0."}
    state = plain.state_dict()
    for old, new in rename.items():
        state = {(new + n[len(old) :] if n.startswith(old) else n): p for n, p in state.items()}
    stacked.load_state_dict(state)
    x = torch.randn(20, D)
    torch.testing.assert_close(stacked(x), plain(x))


def test_all_gates_of_ml_mmoe_read_the_raw_input():
    seen = []
    model = CASES["MLMMoE"].make(D, T)
    for gates in model.gates:
        gates.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    x = torch.randn(5, D)
    model(x)
    assert len(seen) == 3 and all(one is x for one in seen)


def test_cross_stitch_starts_near_the_identity_and_at_the_identity_is_single_task():
    torch.manual_seed(0)
    model = CrossStitch(D, T, bottom=TWO, tower=[4])
    for stitch in model.stitches:
        assert stitch.shape == (T, T)
        torch.testing.assert_close(stitch.diagonal(), torch.full((T,), 0.9))
        torch.testing.assert_close(stitch.sum(dim=1), torch.ones(T))
    alone, separate = CrossStitch(D, T, TWO, [4], own=1.0), SingleTask(D, T, TWO, [4])
    state = {n.replace("bottoms.layers.", "bottoms."): p for n, p in separate.state_dict().items()}
    state = {
        (
            n.replace(".weight", ".layers.0.weight").replace(".bias", ".layers.0.bias")
            if "bottoms" in n
            else n
        ): p
        for n, p in state.items()
    }
    alone.load_state_dict(state | {n: p for n, p in alone.state_dict().items() if "stitch" in n})
    x = torch.randn(20, D)
    torch.testing.assert_close(alone(x), separate(x))


# --- penalties --------------------------------------------------------------------------------------


def test_l2_penalty_is_the_squared_distance_of_the_two_networks():
    torch.manual_seed(0)
    model = L2Constrained(D, 2, bottom=TWO, tower=[4], alpha=0.3)
    distance = 0.0
    for parameter in model.parameters():  # bottoms, towers and output units
        distance += (parameter[0] - parameter[1]).square().sum().item()
    assert model.penalty().item() == pytest.approx(0.3 * distance, rel=1e-5)
    model.penalty().backward()
    assert all((p.grad[0] == -p.grad[1]).all() and (p.grad != 0).all() for p in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[1] = parameter[0]
    assert model.penalty().item() == 0
    assert (model(torch.randn(5, D)).diff(dim=1) == 0).all()  # one network for both


def test_recommender_passes_the_penalty_on():
    table = small_table().select(["click", "like"])
    held = Recommender(table, L2Constrained, bottom=[4])
    torch.testing.assert_close(held.penalty(), held.body.penalty())
    free = Recommender(table, SharedBottom, bottom=[4])
    assert free.penalty().shape == () and free.penalty().item() == 0


def test_hard_concrete_gates_are_sampled_in_training_and_fixed_in_evaluation():
    torch.manual_seed(0)
    part = Connections(3, 4, 5, transform=False, beta=0.7, gamma=-0.2, zeta=1.3)
    with torch.no_grad():
        part.log_alpha.copy_(torch.linspace(-3, 3, 12).view(3, 4))
    draws = torch.stack([part.train().code() for _ in range(20_000)]).detach()
    assert draws.min() == 0 and draws.max() == 1  # exact: closed and open
    assert len(draws[:, 1, 1].unique()) > 1000
    torch.testing.assert_close(
        (draws > 0).double().mean(0), part.open_probability().double(), atol=0.015, rtol=0
    )
    # a gate per connection: draws of two connections are independent
    correlation = torch.corrcoef(draws.flatten(1).T)
    assert (correlation - torch.eye(12)).abs().max() < 0.05
    expected = (part.log_alpha.sigmoid() * 1.5 - 0.2).clamp(0, 1)
    torch.testing.assert_close(part.eval().code(), expected)


@pytest.mark.parametrize("model", [SNRTrans, SNRAver])
def test_snr_trains_its_connections(model):
    torch.manual_seed(0)
    net = model(D, T, experts=E, levels=[[8], [5]], tower=[4], l0=0.5)
    names = {name for name, _ in net.named_parameters()}
    learned = {f"connections.{level}.{part}" for level in (0, 1) for part in ("log_alpha", "matrices")}
    assert learned & names == {n for n in learned if model is SNRTrans or "matrices" not in n}
    assert names == set(net.state_dict())  # the noise is no parameter, and everything learned is saved
    x = torch.randn(20, D)
    assert not torch.equal(net.train()(x), net.train()(x))
    assert torch.equal(net.eval()(x), net.eval()(x))
    count = sum(part.open_probability().sum() for part in net.connections)
    torch.testing.assert_close(net.penalty(), 0.5 * count)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(200):  # the penalty alone closes every connection
        optimizer.zero_grad()
        net.penalty().backward()
        optimizer.step()
    assert all((part.code() == 0).all() for part in net.connections)
    assert (net(x).std(dim=0) == 0).all()


def test_one_draw_of_the_connections_serves_the_whole_batch():
    torch.manual_seed(0)
    net = SNRAver(D, T, experts=E, levels=[[8], [5]], tower=[4]).train()
    x = torch.randn(1, D).expand(30, D)
    assert net(x).std(dim=0).max() < 1e-6


# --- sizes ------------------------------------------------------------------------------------------


def test_shared_bottom_width_reproduces_the_paper():
    assert shared_bottom_width(100, 2, experts=8, expert=[16], tower=[8]) == 113
    # 13056 = 100*16*8 + 16*8*2 weights of experts and towers, (100 + 8*2) for one unit
    assert round(13056 / 116) == 113
    assert shared_bottom_width(100, 2, experts=8, expert=[16]) == 128  # without towers: 8 * 16 units
    assert shared_bottom_width(50, 3, experts=4, expert=[20, 10], tower=[8, 6]) == round(
        (4 * (50 * 20 + 20 * 10) + 3 * (10 * 8 + 8 * 6) - 3 * 8 * 6) / (50 + 3 * 8)
    )


def test_count_parameters_counts_everything():
    # the MMoE paper's sizes with biases, gates and output units
    assert count_parameters(MMoE(100, 2, experts=8, expert=[16], tower=[8])) == (
        8 * (100 * 16 + 16) + 2 * 8 * 100 + 2 * (16 * 8 + 8) + 2 * (8 + 1)
    )


@pytest.mark.parametrize("name", CASES)
def test_match_width_brings_any_model_to_a_budget(name):
    budget = 20_000
    makers = {
        "SharedBottom": lambda w: SharedBottom(50, 2, [w], [8]),
        "SingleTask": lambda w: SingleTask(50, 2, [w], [8]),
        "L2Constrained": lambda w: L2Constrained(50, 2, [w], [8]),
        "CrossStitch": lambda w: CrossStitch(50, 2, [w], [8]),
        "OMoE": lambda w: OMoE(50, 2, expert=[w], tower=[8]),
        "MMoE": lambda w: MMoE(50, 2, expert=[w], tower=[8]),
        "MMoE, gate MLP": lambda w: MMoE(50, 2, expert=[w], tower=[8], gate_hidden=[16]),
        "MLMMoE": lambda w: MLMMoE(50, 2, levels=[[w], [w]], tower=[8]),
        "SNRAver": lambda w: SNRAver(50, 2, levels=[[w], [w]], tower=[8]),
        "SNRTrans": lambda w: SNRTrans(50, 2, experts=4, levels=[[w], [w]], tower=[8]),
        "CGC": lambda w: CGC(50, 2, expert=[w], tower=[8]),
        "CGC, uneven": lambda w: CGC(50, 2, 1, [1, 3], expert=[w], tower=[8]),
        "CGC, none shared": lambda w: CGC(50, 2, 0, 2, expert=[w], tower=[8]),
        "PLE": lambda w: PLE(50, 2, levels=[[w], [w]], tower=[8]),
        "PLE, uneven": lambda w: PLE(50, 2, 2, [0, 3], levels=[[w], [w]], tower=[8]),
        "PLE, none shared": lambda w: PLE(50, 2, 0, 2, levels=[[w], [w]], tower=[8]),
        "AdaTT": lambda w: AdaTT(50, 2, levels=[[w], [w]], tower=[8]),
        "AdaTT-sp": lambda w: AdaTT(50, 2, 0, levels=[[w], [w]], tower=[8]),
        "AdaTT-sp, one each": lambda w: AdaTT(50, 2, 0, 1, levels=[[w], [w]], tower=[8]),
        "MMoE*": lambda w: MMoE(50, 2, expert=[w], tower=[8], expert_norm=True),
        "CGC*": lambda w: CGC(50, 2, expert=[w], tower=[8], expert_norm=True),
        "PLE*": lambda w: PLE(50, 2, levels=[[w], [w]], tower=[8], expert_norm=True),
        "AdaTT*": lambda w: AdaTT(50, 2, levels=[[w], [w]], tower=[8], expert_norm=True),
        "HoME": lambda w: HoME(50, 2, [0, 1], levels=[[w], [w]], tower=[8], rank=2),
        "HoME, uneven": lambda w: HoME(50, 2, [0, 0], 2, 3, 1, 2, [0, 3], [[2 * w], [w]], [8], rank=2),
        "HoME, bare": lambda w: HoME(50, 2, [0, 1], levels=[[w], [w]], feature_gates=(False, False)),
    }
    width = match_width(makers[name], budget)
    sizes = [count_parameters(makers[name](w)) for w in (width - 1, width, width + 1)]
    assert sizes[1] == min(sizes, key=lambda size: abs(size - budget))
    assert abs(sizes[1] - budget) <= 0.05 * budget


def test_match_width_takes_no_memory_for_weights():
    assert match_width(lambda w: SharedBottom(1000, 2, [w, w]), 10**12) > 900_000


# --- clear errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: L2Constrained(D, 3, [4]), "two tasks, not 3"),
        (lambda: MMoE(D, 2, experts=0), "at least one"),
        (lambda: MMoE(D, 2, expert=[]), "at least one layer"),
        (lambda: MLMMoE(D, 2, levels=[]), "at least one level"),
        (lambda: SNRTrans(D, 2, levels=[]), "at least one level"),
        (lambda: SNRAver(D, 2, gamma=0.1), "gamma < 0"),
        (lambda: SharedBottom(D, 2, bottom=[]), "at least one layer"),
        (lambda: MMoE(D, 2)(torch.zeros(4, D + 1)), r"\(4, 7\)"),
        (lambda: match_width(lambda w: SharedBottom(10, 2, [w]), 5), "within 5%"),
        (lambda: match_width(lambda w: SharedBottom(10, 2, [8]), 5000), "does not grow"),
    ],
)
def test_errors_say_what_to_do(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# --- a registry peer --------------------------------------------------------------------------------


def test_mmoe_equals_deepctr_torch(monkeypatch):
    """The published package whose gates are linear and without batch norm (gate_dnn_hidden_units=())."""
    requests = pytest.importorskip("requests", reason="deepctr-torch is not installed")
    monkeypatch.setattr(requests, "get", lambda *a, **k: pytest.fail("no network"))  # it calls home on import
    peers = pytest.importorskip("deepctr_torch.models", reason="deepctr-torch is not installed")
    from deepctr_torch.inputs import DenseFeat

    torch.manual_seed(0)
    model = MMoE(D, T, experts=E, expert=TWO, tower=[4]).double()
    peer = peers.MMOE(
        [DenseFeat("x", D)],
        num_experts=E,
        expert_dnn_hidden_units=TWO,
        gate_dnn_hidden_units=(),
        tower_dnn_hidden_units=[4],
        task_types=["binary"] * T,
        task_names=list("abc"),
    ).double()

    pairs = []  # (ours, index, theirs)
    for experts, theirs in ((model.experts, peer.expert_dnn), (model.towers.hidden, peer.tower_dnn)):
        for e, dnn in enumerate(theirs):
            for layer, linear in zip(experts.layers, dnn.linears, strict=True):
                pairs += [(layer.weight, e, linear.weight), (layer.bias, e, linear.bias)]
    for t in range(T):
        pairs.append((model.gates.weight, slice(t * E, t * E + E), peer.gate_dnn_final_layer[t].weight))
        pairs.append((model.towers.out.weight, t, peer.tower_dnn_final_layer[t].weight))
        pairs.append((model.towers.out.bias, t, peer.out[t].bias))  # their output bias
    with torch.no_grad():
        for ours, index, theirs in pairs:
            theirs.copy_(ours[index])
    assert sum(theirs.numel() for _, _, theirs in pairs) == count_parameters(model)

    x = torch.randn(30, D, dtype=torch.float64)
    ours, theirs = model(x).sigmoid(), peer(x)  # theirs are probabilities
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    cotangent = torch.randn_like(ours)
    ours.backward(cotangent)
    theirs.backward(cotangent)
    for own, index, other in pairs:
        torch.testing.assert_close(own.grad[index], other.grad, rtol=1e-6, atol=1e-6)
