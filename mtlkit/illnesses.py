"""The three illnesses of mixtures of experts that the HoME paper found: is this model ill, and by how much?

Wang et al., "HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at Kuaishou" (KDD 2025), its
introduction:
*collapse* (Fig. 2: all gates give nearly all weight to one expert, whose outputs are of another size),
*degradation* (Fig. 3: an expert meant for all tasks serves one) and *underfitting* (Fig. 4: a task leaves its
own experts aside).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from mtlkit.diagnosis import recorded
from mtlkit.layers import Experts, Gates, SelfGates
from mtlkit.models import HoME
from mtlkit.models.adatt import FusionLevel
from mtlkit.models.cgc import Level


class Thresholds(NamedTuple):
    """From where on a number is called an illness.

    The paper prints the first three: the collapsed gates of Fig. 2 give "mostly > 0.98" to one expert, more
    than 90 % of the outputs of its ReLU experts are 0, and the mean of the chosen expert is about 100 times
    smaller than that of the others. Fig. 3 and 4 have no numbers. ``monopoly``: how far the use of a shared
    expert has gone from equal shares of its tasks (0) to one task alone (1). ``neglect``: a task leaves its
    own experts aside if they have less than this share of its weight.
    """

    top: float = 0.98
    zeros: float = 0.9
    scale: float = 100.0
    monopoly: float = 0.5
    neglect: float = 0.1


class Finding(NamedTuple):
    """illness: "collapse", "zeros", "scale" (its two signs), "degradation" or "underfitting"."""

    illness: str
    level: int
    text: str


class Report(NamedTuple):
    """What ``examine`` found. Levels and experts count from 1; weights are means over the rows.

    gates: a row per (level, gate): sees and owns (how many experts), top_expert and top (its weight); own,
        shared and others (what its own, the shared and other experts get of the gate; they sum to 1); added
        (what a self gate, or AdaTT's vector, adds to the gate's own experts; to the shared ones for the
        shared gate). A category's expert is its tasks' own. Whose an expert is, the gates' masks say: of a
        HoME without its mask all experts are shared.
    experts: a row per (level, expert): owner (a task, a category or "shared") and owners (how many gates of
        tasks, or of categories, it is meant for), mean and variance of its outputs over rows and units, zeros
        (share of outputs that are exactly 0), rms (their size: the root of the mean square), main_user (the
        task or category that gives it most weight) and main_share (its share of what they all give).
    weights: (G, E) mean gate weights of each level, in order, as in ``plots.expert_use``.
    findings: what crosses a threshold, in words.
    """

    gates: pd.DataFrame
    experts: pd.DataFrame
    weights: list[pd.DataFrame]
    findings: list[Finding]

    def __str__(self) -> str:
        lines = [f"{f.illness} on level {f.level}: {f.text}" for f in self.findings]
        return "\n".join(lines) or "No illness crosses its threshold."


class _Part(NamedTuple):
    """One level of experts. owners: of each expert, the gates that it belongs to; () for all."""

    experts: Experts
    gates: Gates
    names: list[str]
    users: int  # the gates of tasks or categories; behind them stands the shared one, if any
    owners: list[tuple[int, ...]]
    owner_names: list[str]
    self_gates: SelfGates | None
    added: Tensor | None  # (G, E), what does not depend on the row


def examine(
    model: nn.Module, *inputs: Tensor, tasks: Sequence[str], thresholds: Thresholds | None = None
) -> Report:
    """Look for the three illnesses in a model with gates, a ``Recommender`` or a bare one.

    ``inputs`` are what the model reads (ids and dense features, or x); some thousand rows tell enough.
    ``tasks`` names the columns of its output. The model is examined in evaluation mode, nothing is trained.
    Collapse is said of a level where more than half of the gates that have a choice give the same expert more
    than ``thresholds.top``. Degradation asks for shared experts beside experts of a task or category;
    where all experts are shared (MMoE), one that serves one task is the idea, not an illness.

    Raises ``ValueError`` for a model without gates, or with another number of tasks.
    """
    limit = thresholds or Thresholds()
    parts = _parts(model, list(tasks))
    modules = {f"{kind}{i}": m for i, part in enumerate(parts) for kind, m in _modules(part)}
    found = recorded(model, modules, *inputs)

    gates, experts, weights, findings = [], [], [], []
    for i, part in enumerate(parts):
        given, outputs = found[f"gates{i}"], found[f"experts{i}"]  # (B, G, E), (B, E, H)
        added = torch.zeros_like(given[0]) if part.added is None else part.added.to(given)
        if part.self_gates is not None:
            added = added + found[f"self_gates{i}"].mean(dim=0)
        mean = given.mean(dim=0)  # (G, E)
        weights.append(pd.DataFrame(mean.cpu().numpy(), part.names, range(1, mean.shape[1] + 1)))
        gates += _gate_lines(i + 1, part, mean, added)
        experts += _expert_lines(i + 1, part, mean + added, outputs)
    report = Report(
        pd.DataFrame(gates).set_index(["level", "gate"]),
        pd.DataFrame(experts).set_index(["level", "expert"]),
        weights,
        findings,
    )
    for level in range(1, len(parts) + 1):
        findings += _collapse(level, report, limit)
        findings += _degradation(level, report, limit)
        findings += _underfitting(level, report, limit)
    return report


def _parts(model: nn.Module, tasks: list[str]) -> list[_Part]:
    homes = [part for part in model.modules() if isinstance(part, HoME)]
    found: list[_Part] = []
    for part in model.modules():
        experts, gates = getattr(part, "experts", None), getattr(part, "gates", None)
        if isinstance(gates, nn.ModuleList):  # ML-MMoE keeps the two apart
            pairs = list(zip(part.levels, gates, strict=True))
        else:
            pairs = [(experts, gates)] if isinstance(experts, Experts) and isinstance(gates, Gates) else []
        for number, (e, g) in enumerate(pairs, start=1):
            added = None
            if isinstance(part, FusionLevel):  # AdaTT's v_t
                added = torch.zeros(g.gates * g.experts).index_copy(0, part.place.cpu(), part.native.cpu())
                added = added.detach().view(g.gates, g.experts)
            named = [str(name) for name in homes[0].categories] if homes and not found else tasks
            names = _names(g.gates, named if number == len(pairs) else [])
            users = g.gates - (names[-1] == "shared")
            owners = _owners(part, e, g, users)
            called = [_owner_name(owner, names, homes) for owner in owners]
            self_gates = getattr(part, "self_gates", None)
            found.append(_Part(e, g, names, users, owners, called, self_gates, added))
    if not found:
        raise ValueError(f"{type(getattr(model, 'body', model)).__name__} has no gates to examine.")
    if found[-1].gates.gates not in (len(tasks), 1):  # OMoE has one gate for all
        raise ValueError(f"The model has {found[-1].gates.gates} tasks, but {len(tasks)} names are given.")
    return found


def _modules(part: _Part) -> list[tuple[str, nn.Module]]:
    several = [("gates", part.gates), ("experts", part.experts), ("self_gates", part.self_gates)]
    return [(kind, module) for kind, module in several if module is not None]


def _names(gates: int, owners: list[str]) -> list[str]:
    """What a level's gates are called: tasks or categories, the shared one, or readers on the next level."""
    if owners and gates in (len(owners), len(owners) + 1):
        return [*owners, "shared"][:gates]
    return ["all tasks"] if gates == 1 else [f"reader {r}" for r in range(1, gates + 1)]


def _owners(part: nn.Module, experts: Experts, gates: Gates, users: int) -> list[tuple[int, ...]]:
    """Of each expert the gates that it belongs to, () where it belongs to all."""
    if isinstance(part, Level):  # module by module; the one behind the tasks is the shared one
        return [(m,) if m < users else () for m, n in enumerate(experts.readers) for _ in range(n)]
    seen = (~gates.hidden[:users]).T  # (E, G)
    return [() if row.all() else tuple(row.nonzero().flatten().tolist()) for row in seen.cpu()]


def _owner_name(owner: tuple[int, ...], names: list[str], homes: list[HoME]) -> str:
    if len(owner) > 1 and homes:
        return str(homes[0].categories[homes[0].category[owner[0]]])
    return " + ".join(names[g] for g in owner) or "shared"


def _gate_lines(level: int, part: _Part, mean: Tensor, added: Tensor) -> list[dict]:
    lines = []
    own = torch.tensor([[g in owner for owner in part.owners] for g in range(len(part.names))])
    shared = torch.tensor([owner == () for owner in part.owners])
    for g, name in enumerate(part.names):
        row = mean[g].cpu()
        top = int(row.argmax())
        line = {"level": level, "gate": name, "sees": int((~part.gates.hidden[g]).sum())}
        line |= {"top_expert": top + 1, "top": row[top].item()}
        line |= {"own": row[own[g]].sum().item(), "shared": row[shared].sum().item()}
        line["others"] = row[~own[g] & ~shared].sum().item()
        line["added"] = added[g].abs().sum().item()
        lines.append(line | {"owns": int(own[g].sum())})
    return lines


def _expert_lines(level: int, part: _Part, use: Tensor, outputs: Tensor) -> list[dict]:
    lines = []
    for e, (owner, owners) in enumerate(zip(part.owner_names, part.owners, strict=True)):
        h, given = outputs[:, e].double(), use[: part.users, e].abs().cpu()
        line = {"level": level, "expert": e + 1, "owner": owner}
        line["owners"] = len(owners) or part.users
        line |= {"mean": h.mean().item(), "variance": h.var(correction=0).item()}
        line |= {"zeros": (h == 0).double().mean().item(), "rms": h.square().mean().sqrt().item()}
        line["main_user"] = part.names[int(given.argmax())]
        line["main_share"] = (given.max() / given.sum()).item()
        lines.append(line)
    return lines


def _collapse(level: int, report: Report, limit: Thresholds) -> list[Finding]:
    gates, experts = report.gates.loc[level], report.experts.loc[level]
    gates = gates[gates["sees"] > 1]
    found = []
    if len(gates):
        fallen = gates[gates["top"] > limit.top]
        same = fallen["top_expert"].value_counts()
        if len(same) and same.iloc[0] > len(gates) / 2:
            many = f"{same.iloc[0]} of {len(gates)} gates"
            text = f"{many} give expert {same.index[0]} more than {limit.top:.0%} of their weight."
            found.append(Finding("collapse", level, text))
    dull = experts.index[experts["zeros"] > limit.zeros]
    if len(dull):
        text = f"more than {limit.zeros:.0%} of the outputs of expert {_list(dull)} are 0."
        found.append(Finding("zeros", level, text))
    if len(experts) > 1:
        small, large = experts["rms"].idxmin(), experts["rms"].idxmax()
        ratio = experts["rms"][large] / max(experts["rms"][small], 1e-30)
        if ratio > limit.scale:
            how = f"{ratio:.0f} times" if ratio < 1e6 else "more than a million times"
            text = f"the outputs of expert {large} are {how} as large as those of expert {small}."
            found.append(Finding("scale", level, text))
    return found


def _degradation(level: int, report: Report, limit: Thresholds) -> list[Finding]:
    experts = report.experts.loc[level]
    if (experts["owner"] == "shared").all():
        return []
    several = experts[experts["owners"] > 1]
    equal = 1 / several["owners"]
    taken = several[several["main_share"] > equal + limit.monopoly * (1 - equal)]
    return [
        Finding(
            "degradation",
            level,
            f"{line['main_share']:.0%} of the use of expert {e} ({line['owner']}) is that of "
            f"{line['main_user']}.",
        )
        for e, line in taken.iterrows()
    ]


def _underfitting(level: int, report: Report, limit: Thresholds) -> list[Finding]:
    gates = report.gates.loc[level]
    gates = gates[(gates["owns"] > 0) & (gates["owns"] < gates["sees"])]
    weak = gates[gates["own"] + gates["added"] < limit.neglect]
    return [
        Finding("underfitting", level, f"{name} gives its own experts {line['own'] + line['added']:.1%}.")
        for name, line in weak.iterrows()
    ]


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
