"""Models against the papers' equations written as plain loops, on the same random weights."""

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from mtlkit.data import relatedness
from mtlkit.data.table import Table
from mtlkit.models import Recommender, SharedBottom, SingleTask

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}


# --- oracles: one row of the table per model, loops over experts, gates and tasks -------------------


@dataclass
class Weights:
    """Copies of a model's parameters, read one expert at a time."""

    by_name: dict[str, torch.Tensor]

    def linear(self, name, index, x):
        """The layer at ``index`` of a stack of linear layers."""
        y = x @ self.by_name[f"{name}.weight"][index].T
        bias = self.by_name.get(f"{name}.bias")
        return y if bias is None else y + bias[index]

    def mlp(self, name, index, x, depth):
        """The expert at ``index``, ReLU after each of its layers."""
        for layer in range(depth):
            x = self.linear(f"{name}.layers.{layer}", index, x).clamp(min=0)
        return x

    def tower(self, index, z, depth):
        return self.linear("towers.out", index, self.mlp("towers.hidden", index, z, depth))[:, 0]


def shared_bottom(w, x):
    f = w.mlp("bottom", 0, x, 2)
    return [w.tower(t, f, 1) for t in range(3)]


def single_task(w, x):
    return [w.tower(t, w.mlp("bottoms", t, x, 2), 1) for t in range(3)]


@dataclass
class Case:
    make: object  # (in_width, tasks) -> model
    oracle: object  # (weights, x) -> logits of three tasks


D, T = 6, 3
CASES = {
    "SharedBottom": Case(lambda d, t: SharedBottom(d, t, bottom=[8, 5], tower=[4]), shared_bottom),
    "SingleTask": Case(lambda d, t: SingleTask(d, t, bottom=[8, 5], tower=[4]), single_task),
}


@pytest.fixture(params=CASES)
def case(request):
    torch.manual_seed(0)
    return CASES[request.param]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [1, 33])
def test_outputs_and_gradients_equal_the_plain_loop(case, rows, dtype):
    model = case.make(D, T).to(dtype).eval()
    x = torch.randn(rows, D, dtype=dtype, requires_grad=True)
    names = [name for name, _ in model.named_parameters()]
    copies = Weights({n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()})
    out, expected = model(x), torch.stack(case.oracle(copies, x), dim=1)
    assert out.shape == (rows, T)
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(out, expected, **near)
    cotangent = torch.randn_like(out) / rows
    got = torch.autograd.grad(out, [x, *model.parameters()], cotangent)
    wanted = torch.autograd.grad(expected, [x, *copies.by_name.values()], cotangent)
    for name, a, b in zip(["x", *names], got, wanted, strict=True):
        torch.testing.assert_close(a, b, **near, msg=lambda m, name=name: f"gradient of {name}: {m}")


# --- what holds for every model ---------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("rows", [1, 4])
def test_trains_on_any_batch_and_number_of_tasks(case, rows, tasks):
    model = case.make(D, tasks).train()
    out = model(torch.randn(rows, D))
    assert out.shape == (rows, tasks)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_no_parameter_entry_is_dead(case):
    model = case.make(D, T).train()
    alive = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in model.named_parameters()}
    for _ in range(30):  # a ReLU unit may be silent by chance of one draw, not of all
        model = case.make(D, T).train()
        model(torch.randn(128, D)).square().sum().backward()
        for name, parameter in model.named_parameters():
            alive[name] |= parameter.grad != 0
    assert all(seen.all() for seen in alive.values()), [n for n, seen in alive.items() if not seen.all()]


def test_rows_do_not_see_each_other(case):
    model = case.make(D, T).eval()
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    x = torch.randn(20, D)
    torch.testing.assert_close(model(x)[:7], model(x[:7]))


def test_state_dict_round_trip(case):
    model, other = case.make(D, T).eval(), case.make(D, T).eval()
    x = torch.randn(9, D)
    assert not torch.equal(model(x), other(x))
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)


def test_functional_call_and_vmap_over_models(case):
    crowd = [case.make(D, T).eval() for _ in range(3)]
    x = torch.randn(9, D)
    parameters, buffers = torch.func.stack_module_state(crowd)

    def one(parameters, buffers):
        return torch.func.functional_call(crowd[0], (parameters, buffers), (x,))

    stacked = torch.func.vmap(one)(parameters, buffers)
    torch.testing.assert_close(stacked, torch.stack([model(x) for model in crowd]))


def test_export_with_a_dynamic_batch(case):
    model, x = case.make(D, T).eval(), torch.randn(9, D)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.testing.assert_close(program.module()(x[:4]), model(x[:4]))


@pytest.mark.heavy
def test_compiles_without_a_graph_break(case):
    model, x = case.make(D, T).eval(), torch.randn(9, D)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()


def test_bfloat16_autocast_stays_close(case):
    model, x = case.make(D, T).eval(), torch.randn(64, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
    torch.testing.assert_close(out.float(), model(x), rtol=0.05, atol=0.05)


def test_a_model_learns(case):
    """Thirty steps of Adam more than halve the error on a batch it has seen."""
    model = case.make(D, T).train()
    x = torch.randn(64, D)
    y = x[:, :T].tanh()
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


@pytest.mark.parametrize("table", [small_table(), relatedness(0.5, rows=40, dim=6)], ids=["ids", "dense"])
def test_recommender_puts_an_encoder_in_front(case, table):
    class Model(nn.Module):  # the case's sizes as a class, as a user would pass one
        private_inputs = getattr(type(case.make(D, 2)), "private_inputs", False)

        def __new__(cls, in_width, tasks):
            return case.make(in_width, tasks)

    net = Recommender(table, Model, embedding=4, seed=1).eval()
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
