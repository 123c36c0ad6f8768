"""The models at small sizes, and each paper's equations written as plain loops over copied weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

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
    SharedBottom,
    SingleTask,
    SNRAver,
    SNRTrans,
)


@dataclass
class Weights:
    """Copies of a model's parameters and buffers, read one expert at a time."""

    by_name: dict[str, torch.Tensor]
    training: bool = False  # which mean and variance a batch norm takes

    def linear(self, name, index, x):
        """The layer at ``index`` of a stack of linear layers."""
        y = x @ self.by_name[f"{name}.weight"][index].T
        bias = self.by_name.get(f"{name}.bias")
        return y if bias is None else y + bias[index]

    def mlp(self, name, index, x, depth):
        """The expert at ``index``, ReLU after each of its layers; HoME's where it has a batch norm."""
        normed = f"{name}.norm.weight" in self.by_name
        for layer in range(depth):
            x = self.linear(f"{name}.layers.{layer}", index, x)
            if not normed or layer + 1 < depth:
                x = x.clamp(min=0)
        return self.swish_of_batch_norm(f"{name}.norm", index, x) if normed else x

    def swish_of_batch_norm(self, name, index, z):
        mean, variance = (self.by_name[f"{name}.running_{part}"][index] for part in ("mean", "var"))
        if self.training:
            mean = z.sum(dim=0) / len(z)
            variance = ((z - mean) ** 2).sum(dim=0) / len(z)
        z = (z - mean) / (variance + 1e-5) ** 0.5
        z = z * self.by_name[f"{name}.weight"][index] + self.by_name[f"{name}.bias"][index]
        return z / (1 + (-z).exp())

    def gate(self, name, index, x, experts):
        """Softmax over all experts of one gate, linear in x."""
        rows = self.by_name[f"{name}.weight"].reshape(-1, experts, x.shape[1])[index]
        scores = torch.stack([x @ row for row in rows], dim=1).exp()
        return scores / scores.sum(dim=1, keepdim=True)

    def gates_that_see(self, name, visible, inputs):
        """Softmax of each gate over the experts that it sees; the rows stand in the order of ``visible``."""
        start, out = 0, []
        for seen, x in zip(visible, inputs, strict=False):
            rows = self.by_name[f"{name}.weight"][start : start + len(seen)]
            start += len(seen) if len(seen) > 1 else 0
            scores = (
                torch.stack([x @ row for row in rows], dim=1).exp() if len(seen) > 1 else x[:, :1] * 0 + 1
            )
            out.append(scores / scores.sum(dim=1, keepdim=True))
        assert start == len(self.by_name[f"{name}.weight"])
        return out

    def tower(self, index, z):
        return self.linear("towers.out", index, self.mlp("towers.hidden", index, z, 1))[:, 0]


def weighted(weights, outs):
    """sum_i w_i f_i with weights (B, E) or (E,)"""
    total = 0
    for i, out in enumerate(outs):
        total = total + weights[..., i, None] * out
    return total


def shared_bottom(w, x):
    f = w.mlp("bottom", 0, x, 2)
    return [w.tower(t, f) for t in range(T)]


def single_task(w, x, tasks=3):
    return [w.tower(t, w.mlp("bottoms", t, x, 2)) for t in range(tasks)]


def omoe(w, x):
    outs = [w.mlp("experts", e, x, 2) for e in range(E)]
    f = weighted(w.gate("gates", 0, x, E), outs)
    return [w.tower(t, f) for t in range(T)]


def mmoe(w, x):
    outs = [w.mlp("experts", e, x, 2) for e in range(E)]
    return [w.tower(t, weighted(w.gate("gates", t, x, E), outs)) for t in range(T)]


def mmoe_with_hidden_gates(w, x):
    outs = [w.mlp("experts", e, x, 2) for e in range(E)]
    gates = [w.gate("gates", t, w.mlp("gate_hidden", t, x, 1), E) for t in range(T)]
    return [w.tower(t, weighted(gates[t], outs)) for t in range(T)]


def ml_mmoe(w, x):
    inputs = [x] * E
    for level, readers in ((0, E), (1, E), (2, T)):
        outs = [w.mlp(f"levels.{level}", e, inputs[e], 1 + (level == 1)) for e in range(E)]
        inputs = [weighted(w.gate(f"gates.{level}", r, x, E), outs) for r in range(readers)]
    return [w.tower(t, z) for t, z in enumerate(inputs)]


def cross_stitch(w, x):
    own = [x] * T
    for level in range(2):
        own = [w.mlp(f"bottoms.{level}", t, own[t], 1) for t in range(T)]
        own = [weighted(w.by_name[f"stitches.{level}"][t], own) for t in range(T)]
    return [w.tower(t, z) for t, z in enumerate(own)]


def snr(w, x):
    """Both forms, in evaluation."""
    inputs = [x] * E
    for level, readers in ((0, E), (1, T)):
        z = (w.by_name[f"connections.{level}.log_alpha"].sigmoid() * 1.2 - 0.1).clamp(0, 1)
        outs = [w.mlp(f"levels.{level}", e, inputs[e], 1) for e in range(E)]
        matrices = w.by_name.get(f"connections.{level}.matrices")  # (R, H, E, H), None: SNR-Aver
        inputs = []
        for r in range(readers):
            seen = outs if matrices is None else [u @ matrices[r, :, e].T for e, u in enumerate(outs)]
            inputs.append(weighted(z[r], seen))
    return [w.tower(t, z) for t, z in enumerate(inputs)]


def ple(own, shared, depths):
    """PLE with ``own[t]`` experts of task t and ``shared`` for all; ``depths`` layers per level. One: CGC."""

    def oracle(w, x):
        tasks, inputs = len(own), [x] * (len(own) + 1)
        counts = [*own, shared]
        starts = [sum(counts[:m]) for m in range(tasks + 1)]
        blocks = [list(range(start, start + n)) for start, n in zip(starts, counts, strict=True)]
        for level, depth in enumerate(depths):
            name = f"levels.{level}." if "levels.0.gates.weight" in w.by_name else ""
            outs = []
            for m, block in enumerate(blocks):
                outs += [w.mlp(f"{name}experts", e, inputs[m], depth) for e in block]
            visible = [blocks[t] + blocks[tasks] for t in range(tasks)]
            if shared and level + 1 < len(depths):
                visible.append([e for block in blocks for e in block])
            gates = w.gates_that_see(f"{name}gates", visible, inputs)
            inputs = [
                weighted(gate, [outs[e] for e in seen]) for gate, seen in zip(gates, visible, strict=True)
            ]
        return [w.tower(t, z) for t, z in enumerate(inputs)]

    return oracle


def adatt(own, shared, levels):
    def oracle(w, x):
        tasks, counts = len(own), [*own, *([shared] if shared else [])]
        everyone = list(range(sum(counts)))
        inputs = [x] * len(counts)
        for level in range(levels):
            units = len(counts) if level + 1 < levels else tasks
            outs = [
                w.mlp(f"levels.{level}.experts", sum(counts[:m]) + i, inputs[m], 1)
                for m, n in enumerate(counts)
                for i in range(n)
            ]
            gates = w.gates_that_see(f"levels.{level}.gates", [everyone] * units, inputs)
            native = w.by_name.get(f"levels.{level}.native", torch.ones(units, dtype=x.dtype))
            fused = []
            for m in range(units):
                start, end = sum(counts[:m]), sum(counts[: m + 1])
                fused.append(weighted(gates[m], outs) + weighted(native[start:end], outs[start:end]))
            inputs = fused
        return [w.tower(t, z) for t, z in enumerate(inputs)]

    return oracle


def home_level(w, name, counts, inputs, given, sees, own, depth, loras):
    """Groups of ``counts`` experts on ``inputs``; gate g reads ``given[g]``. -> what each makes"""
    outs, blocks = [], []
    for m, count in enumerate(counts):
        block = range(sum(counts[:m]), sum(counts[: m + 1]))
        blocks.append(list(block))
        v = inputs[m]
        if count and loras:
            v = v * feature_gate(w, f"{name}.feature_gates", sum(n > 0 for n in counts[:m]), v, loras)
        outs += [w.mlp(f"{name}.experts", e, v, depth) for e in block]
    visible = [[e for m in groups for e in blocks[m]] for groups in sees]
    visible = [sorted(seen) for seen in visible]
    made = []
    for gate, seen in zip(w.gates_that_see(f"{name}.gates", visible, given), visible, strict=True):
        made.append(weighted(gate, [outs[e] for e in seen]))
    rows = w.by_name.get(f"{name}.self_gates.weight")
    start = 0
    for g, m in enumerate(own):
        if rows is None or not counts[m]:
            continue
        scores = [given[g] @ row for row in rows[start : start + counts[m]]]
        start += counts[m]
        own_outs = [outs[e] for e in blocks[m]]
        if len(scores) == 1:
            made[g] = made[g] + own_outs[0] / (1 + (-scores[0]).exp())[:, None]
        else:
            total = sum(score.exp() for score in scores)
            for score, out in zip(scores, own_outs, strict=True):
                made[g] = made[g] + (score.exp() / total)[:, None] * out
    assert rows is None or start == len(rows)
    return made


def feature_gate(w, name, group, v, loras):
    down, up = w.by_name[f"{name}.down.weight"][group], w.by_name[f"{name}.up.weight"]
    rank = len(down) // loras
    scores = [v @ row for row in w.by_name[f"{name}.gates.weight"][group * loras : (group + 1) * loras]]
    scores = [score.exp() for score in scores] or [torch.ones_like(v[:, 0])]
    factor = 0
    for i in range(loras):
        low = v @ down[i * rank : (i + 1) * rank].T
        lora = 2 / (1 + (-(low @ up[group * loras + i].T)).exp())
        factor = factor + (scores[i] / sum(scores))[:, None] * lora
    return factor


def home(groups, meta, second, depths=(1, 1), loras=(2, 2), mask=True):
    """HoME: ``meta`` experts of the categories and of all, ``second`` of tasks, categories and all."""

    def oracle(w, x):
        c, t = max(groups) + 1, len(groups)
        sees = [[g, c] for g in range(c)] + [list(range(c + 1))]
        if not mask:
            sees = [list(range(c + 1))] * (c + 1)
        everyone = [x] * (c + 1)
        z = home_level(w, "levels.0", meta, everyone, everyone, sees, range(c + 1), depths[0], loras[0])
        inputs = [z[g] for g in groups] + z
        given = [torch.cat([z[g], z[c]], dim=1) for g in groups]
        sees = [[i, t + g, t + c] if mask else list(range(t + c + 1)) for i, g in enumerate(groups)]
        h = home_level(w, "levels.1", second, inputs, given, sees, range(t), depths[1], loras[1])
        return [w.tower(i, own) for i, own in enumerate(h)]

    return oracle


def shaken(model):
    """Random values for what starts at a constant: batch norms, their averages, the feature gates' A."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if ".norm." in name or ".up." in name:
            value.data.copy_(torch.rand_like(value) + 0.5 * (".bias" not in name and ".mean" not in name))
    return model


@dataclass
class Case:
    make: object  # (in_width, tasks) -> model
    oracle: object  # (weights, x) -> logits by task
    tasks: int = 3


def uneven(tasks, least=0):
    """A number of experts for each task: 2, 0, 1, 2, 0, ... and ``least`` more."""
    return [least + (2, 0, 1)[t % 3] for t in range(tasks)]


def two(tasks):
    """Two categories, uneven: 0, 1, 0, 0, 1, 0, ..."""
    return [int(t % 3 == 1) for t in range(tasks)]


def uneven_home(in_width, tasks, **options):
    one, few = min(tasks, 2), uneven(tasks)
    return HoME(
        in_width, tasks, two(tasks), 2, [0, 3][:one], 2, [1, 2][:one], few, [TWO, [7]], [4], rank=3, **options
    )


D, T, E = 6, 3, 4
TWO = [8, 5]
CASES = {
    "SharedBottom": Case(lambda d, t: SharedBottom(d, t, bottom=TWO, tower=[4]), shared_bottom),
    "SingleTask": Case(lambda d, t: SingleTask(d, t, bottom=TWO, tower=[4]), single_task),
    "L2Constrained": Case(
        lambda d, t: L2Constrained(d, t, bottom=TWO, tower=[4]), lambda w, x: single_task(w, x, 2), tasks=2
    ),
    "CrossStitch": Case(lambda d, t: CrossStitch(d, t, bottom=TWO, tower=[4]), cross_stitch),
    "OMoE": Case(lambda d, t: OMoE(d, t, experts=E, expert=TWO, tower=[4]), omoe),
    "MMoE": Case(lambda d, t: MMoE(d, t, experts=E, expert=TWO, tower=[4]), mmoe),
    "MMoE, gate MLP": Case(
        lambda d, t: MMoE(d, t, experts=E, expert=TWO, tower=[4], gate_hidden=[7]), mmoe_with_hidden_gates
    ),
    "MLMMoE": Case(lambda d, t: MLMMoE(d, t, experts=E, levels=[[8], [7, 6], [5]], tower=[4]), ml_mmoe),
    "SNRAver": Case(lambda d, t: SNRAver(d, t, experts=E, levels=[[8], [5]], tower=[4]), snr),
    "SNRTrans": Case(lambda d, t: SNRTrans(d, t, experts=E, levels=[[8], [5]], tower=[4]), snr),
    "CGC": Case(lambda d, t: CGC(d, t, 2, 1, TWO, [4]), ple([1] * T, 2, [2])),
    "CGC, uneven": Case(lambda d, t: CGC(d, t, 1, uneven(t), TWO, [4]), ple([2, 0, 1], 1, [2])),
    "CGC, none shared": Case(lambda d, t: CGC(d, t, 0, uneven(t, 1), TWO, [4]), ple([3, 1, 2], 0, [2])),
    "PLE": Case(lambda d, t: PLE(d, t, 2, 2, [TWO, [7], TWO], [4]), ple([2] * T, 2, [2, 1, 2])),
    "PLE, uneven": Case(lambda d, t: PLE(d, t, 3, uneven(t), [[8], TWO], [4]), ple([2, 0, 1], 3, [1, 2])),
    "PLE, none shared": Case(lambda d, t: PLE(d, t, 0, 2, [[8], [5]], [4]), ple([2] * T, 0, [1, 1])),
    "AdaTT": Case(lambda d, t: AdaTT(d, t, 2, uneven(t, 1), [[8], [5]], [4]), adatt([3, 1, 2], 2, 2)),
    "AdaTT-sp": Case(lambda d, t: AdaTT(d, t, 0, 2, [[8], [5], [6]], [4]), adatt([2] * T, 0, 3)),
    "AdaTT-sp, one each": Case(lambda d, t: AdaTT(d, t, 0, 1, [[8], [5]], [4]), adatt([1] * T, 0, 2)),
    "MMoE*": Case(lambda d, t: shaken(MMoE(d, t, E, TWO, [4], expert_norm=True)), mmoe),
    "CGC*": Case(lambda d, t: shaken(CGC(d, t, 2, 1, TWO, [4], expert_norm=True)), ple([1] * T, 2, [2])),
    "PLE*": Case(
        lambda d, t: shaken(PLE(d, t, 3, uneven(t), [[8], TWO], [4], expert_norm=True)),
        ple([2, 0, 1], 3, [1, 2]),
    ),
    "AdaTT*": Case(
        lambda d, t: shaken(AdaTT(d, t, 2, uneven(t, 1), [[8], [5]], [4], expert_norm=True)),
        adatt([3, 1, 2], 2, 2),
    ),
    "HoME": Case(
        lambda d, t: shaken(HoME(d, t, two(t), levels=[[8], [5]], tower=[4])),
        home([0, 1, 0], [1] * 3, [1] * 6),
    ),
    "HoME, uneven": Case(
        lambda d, t: shaken(uneven_home(d, t)),
        home([0, 1, 0], [0, 3, 2], [2, 0, 1, 1, 2, 2], (2, 1)),
    ),
    "HoME, bare": Case(
        lambda d, t: shaken(uneven_home(d, t, feature_gates=(False, False), self_gates=False, mask=False)),
        home([0, 1, 0], [0, 3, 2], [2, 0, 1, 1, 2, 2], (2, 1), (0, 0), mask=False),
    ),
}
