"""Layers against plain per-expert, per-gate and per-tower loops of nn.Linear with the same weights."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtlkit import layers
from mtlkit.layers import Experts, FeatureEncoder, Gates, StackedLinear, Towers, mix

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}


# --- plain counterparts with copied weights ---------------------------------------------------------


def plain_linear(stack: StackedLinear, index: int) -> nn.Linear:
    """The layer at ``index`` of a stack as an nn.Linear of its own."""
    outer, inner = stack.weight.shape[1:]
    linear = nn.Linear(inner, outer, bias=stack.bias is not None, dtype=stack.weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(stack.weight[index])
        if stack.bias is not None:
            linear.bias.copy_(stack.bias[index])
    return linear


def linear_gradient(stack: StackedLinear, index: int) -> list[torch.Tensor]:
    """Gradients of one layer of a stack, in the shapes of nn.Linear: weight, bias."""
    return [parameter.grad[index] for parameter in stack.parameters()]


def plain_mlp(experts: Experts, index: int) -> nn.Sequential:
    """One expert as an nn.Sequential of Linear and ReLU."""
    steps = [m for layer in experts.layers for m in (plain_linear(layer, index), nn.ReLU())]
    return nn.Sequential(*steps)


def close(a, b, dtype, what):
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    torch.testing.assert_close(
        a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], msg=lambda m: f"{what}: {m}"
    )


def backward(module, *inputs):
    """Output, and the gradient of each input, of a module under a fixed random cotangent."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = module(*inputs)
    cotangent = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(9))
    out.backward(cotangent / out.numel() ** 0.5)
    return out.detach(), [x.grad for x in inputs]


SIZES = [  # B, D, experts, widths
    pytest.param(5, 7, 3, [6, 4], id="small"),
    pytest.param(1, 7, 3, [6, 4], id="one-row"),
    pytest.param(5, 7, 1, [6], id="one-expert"),
    pytest.param(64, 1, 2, [1, 8, 3], id="width-one"),
    pytest.param(300, 40, 8, [64, 32], id="teaching"),
]


# --- experts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("own_input", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("rows, width, n, widths", SIZES)
def test_experts_equal_a_loop_over_mlps(rows, width, n, widths, own_input, dtype):
    torch.manual_seed(0)
    experts = Experts(width, n, widths).to(dtype)
    loop = nn.ModuleList(plain_mlp(experts, e) for e in range(n))
    x = torch.randn(rows, n, width, dtype=dtype) if own_input else torch.randn(rows, width, dtype=dtype)

    def plain(x):
        own = x.unbind(1) if own_input else [x] * n
        return torch.stack([expert(own_x) for expert, own_x in zip(loop, own, strict=True)], dim=1)

    out, (dx,) = backward(experts, x)
    expected, (expected_dx,) = backward(plain, x)
    assert out.shape == (rows, n, widths[-1])
    close(out, expected, dtype, "output")
    close(dx, expected_dx, dtype, "gradient of x")
    for e in range(n):
        linears = [step for step in loop[e] if isinstance(step, nn.Linear)]
        for depth, (layer, linear) in enumerate(zip(experts.layers, linears, strict=True)):
            for got, parameter in zip(linear_gradient(layer, e), linear.parameters(), strict=True):
                close(got, parameter.grad, dtype, f"gradient of expert {e}, layer {depth}")


@pytest.mark.parametrize("own_input", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("width", [5, 12], ids=["one-by-one", "together"])
@pytest.mark.parametrize("activation", [F.relu, F.silu])
def test_a_large_batch_gives_the_same(width, own_input, activation, monkeypatch):
    experts = Experts(width, 3, [8, 4], activation).double()
    x = torch.randn(*((4500, 3) if own_input else (4500,)), width, dtype=torch.float64)

    def run():
        experts.zero_grad()
        out, (dx,) = backward(experts, x)
        return [out, dx, *(p.grad.clone() for p in experts.parameters())]

    whole = run()
    monkeypatch.setattr(layers, "CACHE", 0)
    for large, small in zip(run(), whole, strict=True):
        torch.testing.assert_close(large, small, rtol=1e-10, atol=1e-10)
    parameters = {name: p.detach()[None] for name, p in experts.named_parameters()}
    one = torch.func.vmap(lambda p: torch.func.functional_call(experts, p, (x,)))(parameters)
    torch.testing.assert_close(one[0], whole[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [1, 9, 2100])
@pytest.mark.parametrize("readers", [[2, 0, 1], [2, 2, 2], [3], [1, 1]])
@pytest.mark.parametrize("cache", [0, 2**20], ids=["large", "small"])
def test_several_experts_can_read_one_input(readers, rows, cache, monkeypatch):
    monkeypatch.setattr(layers, "CACHE", cache)
    torch.manual_seed(0)
    grouped, single = Experts(6, readers, [8, 4]).double(), Experts(6, sum(readers), [8, 4]).double()
    single.load_state_dict(grouped.state_dict())  # one layout of the weights
    x = torch.randn(rows, len(readers), 6, dtype=torch.float64)

    def apart(x):
        return single(torch.cat([x[:, m : m + 1].expand(-1, n, -1) for m, n in enumerate(readers)], dim=1))

    (out, (dx,)), (expected, (expected_dx,)) = backward(grouped, x), backward(apart, x)
    close(out, expected, torch.float64, "output")
    close(dx, expected_dx, torch.float64, "gradient of x")
    for (name, a), b in zip(grouped.named_parameters(), single.parameters(), strict=True):
        close(a.grad, b.grad, torch.float64, f"gradient of {name}")
    torch.testing.assert_close(grouped(x[:, 0]), single(x[:, 0]))


def test_experts_take_another_activation():
    experts = Experts(5, 2, [4], activation=F.silu)
    x = torch.randn(3, 5)
    expected = torch.stack([F.silu(plain_linear(experts.layers[0], e)(x)) for e in range(2)], dim=1)
    torch.testing.assert_close(experts(x), expected)


def test_experts_accept_inputs_that_are_not_contiguous():
    experts = Experts(6, 3, [4])
    shared, own = torch.randn(6, 8).T, torch.randn(3, 6, 8).permute(2, 0, 1)
    torch.testing.assert_close(experts(shared), experts(shared.contiguous()))
    torch.testing.assert_close(experts(own), experts(own.contiguous()))


def test_stacked_linear_without_bias_is_linear():
    torch.manual_seed(0)
    layer = StackedLinear(3, 5, 4, bias=False)
    x = torch.randn(3, 6, 5)
    torch.testing.assert_close(layer(2 * x), 2 * layer(x))
    for e in range(3):
        torch.testing.assert_close(layer(x)[e], plain_linear(layer, e)(x[e]))
        torch.testing.assert_close(layer(x[0])[e], plain_linear(layer, e)(x[0]))


def test_every_layer_of_a_stack_starts_like_nn_linear():
    torch.manual_seed(0)
    layer = StackedLinear(4, 100, 50)
    bound = 0.1  # 1 / sqrt(in), whatever n and out are
    for values in (layer.weight, layer.bias):
        assert values.abs().max() <= bound and values.abs().max() > 0.9 * bound
    first = layer.weight.detach().unbind(0)
    assert not any(torch.equal(first[0], other) for other in first[1:])  # identical experts never part


# --- gates and mix ----------------------------------------------------------------------------------

MASKS = [
    pytest.param(None, id="all"),
    pytest.param([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 1, 1]], id="cgc"),
    pytest.param([[0, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0]], id="one-seen, one-hidden-from-all"),
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("own_input", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("rows", [1, 50])
@pytest.mark.parametrize("visible", MASKS)
def test_gates_equal_a_loop_over_softmaxes(visible, rows, own_input, dtype):
    torch.manual_seed(0)
    gates = Gates(6, 3, 4, visible).to(dtype)
    seen = torch.ones(3, 4, dtype=torch.bool) if visible is None else torch.tensor(visible, dtype=torch.bool)
    x = torch.randn(rows, 3, 6, dtype=dtype) if own_input else torch.randn(rows, 6, dtype=dtype)
    loop, start = nn.ModuleList(), 0
    for row in seen:
        width = int(row.sum())
        loop.append(nn.Linear(6, width, bias=False, dtype=dtype))
        if width > 1:  # a lone expert has weight 1 whatever the gate says
            loop[-1].weight.data.copy_(gates.weight.detach()[start : start + width])
            start += width
    assert start == len(gates.weight)

    def plain(x):
        own = x.unbind(1) if own_input else [x] * 3
        out = []
        for gate, row, own_x in zip(loop, seen, own, strict=True):
            weights = own_x.new_zeros(rows, 4)
            weights[:, row] = gate(own_x).softmax(dim=-1)
            out.append(weights)
        return torch.stack(out, dim=1)

    out, (dx,) = backward(gates, x)
    expected, (expected_dx,) = backward(plain, x)
    close(out, expected, dtype, "weights")
    close(dx, expected_dx, dtype, "gradient of x")
    close(out.sum(-1), torch.ones(rows, 3, dtype=dtype), dtype, "sum over experts")
    assert (out[:, ~seen] == 0).all() and (out[:, seen] > 0).all()
    dense = torch.cat([gate.weight.grad for gate, row in zip(loop, seen, strict=True) if row.sum() > 1])
    close(gates.weight.grad, dense, dtype, "gradient of the gates")


def test_gates_have_parameters_for_visible_pairs_only():
    assert Gates(6, 2, 4).weight.shape == (8, 6)
    assert Gates(6, 2, 4, [[1, 1, 0, 0], [0, 1, 1, 1]]).weight.shape == (5, 6)
    assert Gates(6, 2, 1).weight.numel() == 0  # nothing to choose, nothing to learn
    torch.testing.assert_close(Gates(6, 2, 1)(torch.randn(3, 6)), torch.ones(3, 2, 1))
    assert [name for name, _ in Gates(6, 2, 4).named_parameters()] == ["weight"]  # linear, no bias


def test_gates_stay_finite_on_huge_inputs():
    out, (dx,) = backward(Gates(3, 2, 3, [[1, 1, 0], [0, 1, 1]]), torch.full((4, 3), 1e30))
    assert out.isfinite().all() and dx.isfinite().all()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [1, 9])
def test_mix_equals_a_loop(rows, dtype):
    torch.manual_seed(0)
    weights, outs = torch.randn(rows, 3, 4, dtype=dtype), torch.randn(rows, 4, 5, dtype=dtype)

    def plain(weights, outs):
        return torch.stack(
            [sum(weights[:, g, e, None] * outs[:, e] for e in range(4)) for g in range(3)], dim=1
        )

    got, expected = backward(mix, weights, outs), backward(plain, weights, outs)
    close(got[0], expected[0], dtype, "output")
    for what, a, b in zip(("weights", "experts"), got[1], expected[1], strict=True):
        close(a, b, dtype, f"gradient of the {what}")


# --- towers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "rows, tasks, widths", [(6, 3, []), (6, 3, [5]), (1, 3, [5, 4]), (6, 1, [5]), (1, 1, [])]
)
def test_towers_equal_a_loop_over_mlps(rows, tasks, widths, dtype):
    torch.manual_seed(0)
    towers = Towers(7, tasks, widths).to(dtype)
    loop = nn.ModuleList(
        nn.Sequential(*(plain_mlp(towers.hidden, t) if widths else []), plain_linear(towers.out, t))
        for t in range(tasks)
    )

    def plain(z):
        return torch.cat([tower(z_t) for tower, z_t in zip(loop, z.unbind(1), strict=True)], dim=1)

    z = torch.randn(rows, tasks, 7, dtype=dtype)
    out, (dz,) = backward(towers, z)
    expected, (expected_dz,) = backward(plain, z)
    assert out.shape == (rows, tasks)
    close(out, expected, dtype, "logits")
    close(dz, expected_dz, dtype, "gradient of z")
    for t in range(tasks):
        for got, parameter in zip(linear_gradient(towers.out, t), loop[t][-1].parameters(), strict=True):
            close(got, parameter.grad, dtype, f"gradient of tower {t}")


def test_a_task_moves_its_own_tower_only():
    towers = Towers(4, 3, [5])
    towers(torch.randn(8, 3, 4))[:, 1].sum().backward()
    for parameter in towers.parameters():
        moved = parameter.grad.flatten(1).abs().sum(1) > 0
        assert moved.tolist() == [False, True, False]


# --- feature encoder --------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [None, 1, 3])
@pytest.mark.parametrize("rows", [1, 6])
def test_encoder_equals_an_embedding_per_field(rows, copies):
    torch.manual_seed(0)
    sizes, width = (3, 10, 1), 4
    encoder = FeatureEncoder(sizes, dense_width=2, embedding=width, copies=copies)
    rows_of_field = encoder.table.weight.detach().split(sizes)
    ids = torch.stack([torch.randint(size, (rows,)) for size in sizes], dim=1)
    dense = torch.randn(rows, 2)
    readers = []
    for c in range(copies or 1):
        embedded = [
            F.embedding(ids[:, f], rows_of_field[f][:, c * width : (c + 1) * width]) for f in range(3)
        ]
        readers.append(torch.cat([*embedded, dense], dim=1))
    expected = readers[0] if copies is None else torch.stack(readers, dim=1)
    assert expected.shape[-1] == encoder.out_width == 14
    torch.testing.assert_close(encoder(ids, dense), expected, rtol=0, atol=0)


def test_encoder_without_fields_or_without_dense_features():
    dense = torch.randn(5, 3)
    no_ids, none = torch.zeros(5, 0, dtype=torch.long), torch.zeros(5, 0)
    torch.testing.assert_close(FeatureEncoder((), 3)(no_ids, dense), dense)
    assert FeatureEncoder((), 3, copies=2)(no_ids, dense).shape == (5, 2, 3)
    assert FeatureEncoder((4, 2), 0, embedding=3)(torch.zeros(5, 2, dtype=torch.long), none).shape == (5, 6)


def test_encoder_trains_only_the_rows_it_read():
    encoder = FeatureEncoder((3, 3), embedding=2)
    for ids, dense in (((5, 1), (5, 0)), ((5, 2), (5, 1)), ((5,), (5, 0))):
        with pytest.raises(ValueError, match=r"must be \(B, 2\) and \(B, 0\)"):
            encoder(torch.zeros(ids, dtype=torch.long), torch.zeros(dense))
    with pytest.raises(ValueError, match="takes tensors: torch.from_numpy"):
        encoder(np.zeros((5, 2), dtype=np.int64), np.zeros((5, 0)))
    encoder(torch.tensor([[0, 2]]), torch.zeros(1, 0)).sum().backward()
    touched = encoder.table.weight.grad.abs().sum(1) > 0
    assert touched.tolist() == [True, False, False, False, False, True]


# --- every layer is a plain module ------------------------------------------------------------------

MODULES = {
    "stacked": (lambda: StackedLinear(3, 4, 5), (4, 3), (2,)),
    "experts": (lambda: Experts(4, 3, [5, 6]), (4,), (1,)),
    "experts, own": (lambda: Experts(4, 3, [5, 6]), (3, 4), (1,)),
    "experts, two readers": (lambda: Experts(4, [2, 0, 1], [5, 6]), (3, 4), (1,)),
    "gates": (lambda: Gates(4, 2, 3, [[1, 0, 1], [1, 1, 1]]), (4,), (1,)),
    "gates, own": (lambda: Gates(4, 2, 3), (2, 4), (1,)),
    "towers": (lambda: Towers(4, 3, [5]), (3, 4), (1,)),
}


@pytest.fixture(params=[name for name in MODULES if name != "stacked"])
def layer_and_input(request):
    make, shape, _ = MODULES[request.param]
    torch.manual_seed(0)
    return make(), torch.randn(256, *shape), make


def test_no_parameter_entry_is_dead(layer_and_input):
    layer, x, make = layer_and_input
    alive = [torch.zeros(p.shape, dtype=torch.bool) for p in layer.parameters()]
    for _ in range(20):  # ReLU may silence a unit by chance of its start, not in every draw
        layer = make()
        backward(layer, x)
        for seen, parameter in zip(alive, layer.parameters(), strict=True):
            seen |= parameter.grad != 0
    assert all(seen.all() for seen in alive)


def test_state_dict_round_trip(layer_and_input):
    layer, x, make = layer_and_input
    other = make()
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(copy.deepcopy(layer.state_dict()))
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
    assert set(layer.state_dict()) == {name for name, _ in layer.named_parameters()}  # nothing but weights


def test_functional_call_and_vmap(layer_and_input):
    layer, x, make = layer_and_input
    out = torch.func.functional_call(layer, dict(layer.named_parameters()), (x,))
    torch.testing.assert_close(out, layer(x), rtol=0, atol=0)
    crowd = [make() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(crowd)
    stacked = torch.func.vmap(lambda p, b: torch.func.functional_call(layer, (p, b), (x,)))(
        parameters, buffers
    )
    torch.testing.assert_close(stacked, torch.stack([one(x) for one in crowd]))


def test_export_with_a_dynamic_batch(layer_and_input):
    layer, x, _ = layer_and_input
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.testing.assert_close(program.module()(x[:7]), layer(x[:7]))


# --- clear errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: Experts(4, 2, []), "at least one layer"),
        (lambda: Experts(4, 0, [3]), "at least one"),
        (lambda: Experts(4, [0, 0], [3]), "at least one"),
        (lambda: Experts(4, [2, 1], [3])(torch.zeros(5, 3, 4)), r"\(5, 3, 4\).*\(B, 4\) or \(B, 2, 4\)"),
        (lambda: Gates(4, 2, 3, [[1, 1, 1]]), r"\(1, 3\), expected \(gates, experts\) = \(2, 3\)"),
        (lambda: Gates(4, 2, 3, [[1, 1, 1], [0, 0, 0]]), "gate 1 sees no expert"),
        (lambda: Experts(4, 2, [3])(torch.zeros(5, 6)), r"\(5, 6\).*\(B, 4\) or \(B, 2, 4\)"),
        (lambda: Experts(4, 2, [3])(torch.zeros(5, 3, 4)), r"\(5, 3, 4\).*\(B, 4\) or \(B, 2, 4\)"),
        (lambda: Gates(4, 2, 3)(torch.zeros(5, 6)), r"\(5, 6\).*\(B, 4\) or \(B, 2, 4\)"),
        (lambda: Towers(4, 2, [3])(torch.zeros(5, 4)), r"\(5, 4\).*\(B, 2, 4\)"),
        (lambda: Towers(4, 2)(torch.zeros(5, 1, 4)), r"\(5, 1, 4\).*\(B, 2, 4\)"),
    ],
)
def test_errors_say_what_to_do(call, says):
    with pytest.raises(ValueError, match=says):
        call()
