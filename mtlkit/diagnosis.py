"""What happens inside a trained model, as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from mtlkit.layers import Gates
from mtlkit.models.cgc import Level


def gradient_cosine(losses: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Cosine between the gradients of every pair of tasks on shared parameters.   (T,) -> (T, T)

    Below zero two tasks pull the shared part in opposite directions (a conflict), near zero they do not
    touch each other, near one they agree. A task without a gradient (no observed label in the batch) has
    NaN in its row and column. The graph of ``losses`` is kept, so a training step can follow.
    Source: the usual diagnosis of negative transfer, e.g. Yu et al., NeurIPS 2020, Definition 1.
    """
    shared = list(parameters)
    rows = []
    for loss in losses:
        grads = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        pairs = zip(shared, grads, strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs]))
    g = torch.stack(rows)  # (T, P)
    g = g / g.norm(dim=1, keepdim=True)  # 0 / 0 = NaN marks a task without a gradient
    return g @ g.T  # (T, T)


def gate_weights(model: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """The weights that each gate of ``model`` gives to its experts for these inputs.   -> name: (B, G, E)

    The names are those of ``model.named_modules()``: "gates" in an MMoE or a CGC, "levels.0.gates" and so on
    in a PLE or an AdaTT, all with "body." in front in a Recommender. A model without gates gives an empty
    dictionary. They are those of the evaluated model: nothing is trained, no average moves, the mode stays.
    """
    gates = {name: part for name, part in model.named_modules() if isinstance(part, Gates)}
    return recorded(model, gates, *inputs)


def recorded(model: nn.Module, parts: Mapping[str, nn.Module], *inputs: Tensor) -> dict[str, Tensor]:
    """What each of these parts of the evaluated ``model`` gives, by name.   -> name: (B, ...)"""
    found: dict[str, Tensor] = {}
    modes = [(part, part.training) for part in model.modules()]
    handles = [
        part.register_forward_hook(lambda _part, _given, out, name=name: found.__setitem__(name, out))
        for name, part in parts.items()
    ]
    try:
        with torch.no_grad():
            model.eval()(*inputs)
    finally:
        for part, mode in modes:
            part.training = mode
        for handle in handles:
            handle.remove()
    return found


class ExpertUse(NamedTuple):
    """mean and sd (G, E) of each expert's weight. entropy (G,): how undecided a gate is, in nats."""

    mean: Tensor
    sd: Tensor
    entropy: Tensor


def expert_use(weights: Tensor) -> ExpertUse:
    """Who uses which expert.   gate weights (B, G, E) -> mean (G, E), sd (G, E), entropy (G,)

    The entropy is that of one row, averaged over the rows: log E where a gate always takes equal shares,
    0 where it always picks one expert, whichever it is. The standard deviation is 0 for one row.
    Source of mean and sd: PLE paper (Tang et al., RecSys 2020) Fig. 8.
    """
    entropy = torch.special.entr(weights).sum(dim=2).mean(dim=0)
    return ExpertUse(weights.mean(dim=0), weights.std(dim=0, correction=0), entropy)


def module_shares(model: nn.Module, *inputs: Tensor, tasks: Sequence[str]) -> pd.DataFrame:
    """How much each gate of a CGC, PLE or AdaTT gives to its own, the shared and other tasks' experts.

    A row per level (from 1) and gate, named like its task or "shared": the mean over the rows of ``inputs``
    of own, shared and others, which sum to 1, and their standard deviations own_sd, shared_sd, others_sd.
    The shared gate's own experts are the shared ones. What AdaTT adds of a task's own experts is not
    counted: it does not depend on the row. Raises ``ValueError`` where the experts of ``model`` belong to no
    task, or to another number of tasks.
    """
    levels = {name: part for name, part in model.named_modules() if isinstance(part, Level)}
    if not levels:
        raise ValueError(f"The experts of {type(model).__name__} belong to no task.")
    found = gate_weights(model, *inputs)
    owners = [*levels.values()][-1].gates.gates  # on the last level, tasks alone
    if owners != len(tasks):
        raise ValueError(f"The model has {owners} tasks, but {len(tasks)} names are given.")
    lines = []
    for number, (name, level) in enumerate(levels.items(), start=1):
        parts = found[f"{name}.gates".lstrip(".")].split(level.experts.readers, dim=2)
        share = torch.stack([part.sum(dim=2) for part in parts], dim=2)  # (B, G, M)
        for g, gate in enumerate([*tasks, "shared"][: share.shape[1]]):
            own = share[:, g, g]
            shared = share[:, g, len(tasks) :].sum(dim=1) if g < len(tasks) else torch.zeros_like(own)
            line = {"level": number, "gate": gate}
            for kind, values in (("own", own), ("shared", shared), ("others", 1 - own - shared)):
                line |= {kind: values.mean().item(), f"{kind}_sd": values.std(correction=0).item()}
            lines.append(line)
    return pd.DataFrame(lines).set_index(["level", "gate"])


def transfer(
    runs: pd.DataFrame, metric: str = "auc", baseline: str = "SingleTask", higher_is_better: bool = True
) -> pd.DataFrame:
    """What learning together gained on each task, seed by seed, against a network per task.

    ``runs`` has the columns model, seed, task and ``metric``, a row per run and task. Gives a row per model
    and task: gain (the mean of the paired differences; above 0 is better), sd (of the differences), error
    (sd / sqrt(seeds)), ci95 (the 95 % interval is gain +- ci95, by Student's t; NaN for one seed), wins
    (seeds with a gain) and seeds. A gain below 0 is negative transfer; ``seesaw`` counts it where the
    interval does not hold 0.
    Source: MTL gain, PLE paper (Tang et al., RecSys 2020) Eq. 11.
    Raises ``ValueError`` without the baseline, another model or the metric, and where a run misses its pair
    or stands there twice.
    """
    if baseline not in set(runs["model"]):
        raise ValueError(
            f"No runs of the baseline {baseline!r}; there are {', '.join(runs['model'].unique())}."
        )
    if metric not in runs:
        raise ValueError(f"The runs have no column {metric!r}; there are {', '.join(runs)}.")
    if (twice := runs.duplicated(["model", "seed", "task"])).any():
        model, seed = runs[twice].iloc[0][["model", "seed"]]
        raise ValueError(f"The run of {model!r} with seed {seed} stands there twice.")
    if runs["model"].nunique() < 2:
        raise ValueError(f"There are runs of {baseline!r} only; nothing can be compared with them.")
    lines = []
    for task, part in runs.groupby("task", sort=False):
        if baseline not in set(part["model"]):
            raise ValueError(f"Task {task!r} has no run of the baseline {baseline!r}.")
        table = part.pivot(index="seed", columns="model", values=metric)[list(part["model"].unique())]
        if table.isna().to_numpy().any():
            model = table.columns[table.isna().any()][0]
            raise ValueError(f"Task {task!r}: a seed of another model has no {metric} of {model!r}.")
        for model in table.columns.drop(baseline):
            gain = (table[model] - table[baseline]) * (1 if higher_is_better else -1)
            line = {"model": model, "task": task, "gain": gain.mean(), "sd": gain.std(), "error": gain.sem()}
            ci95 = stdtrit(len(gain) - 1, 0.975) * line["error"] if len(gain) > 1 else float("nan")
            lines.append(line | {"ci95": ci95, "wins": (gain > 0).sum(), "seeds": len(gain)})
    return pd.DataFrame(lines).set_index(["model", "task"])


def seesaw(gains: pd.DataFrame) -> pd.DataFrame:
    """Which tasks a model wins and which it loses, each by more than the 95 % interval of its gain.

    ``gains`` as ``transfer`` gives it. A row per model: won and lost, names of tasks, and seesaw, whether
    there are both: the "seesaw phenomenon" of the PLE paper (Tang et al., RecSys 2020).
    """
    gains = gains.reset_index()
    tasks = gains["task"]
    clear = gains["gain"].abs() > gains["ci95"]
    table = {
        model: {
            "won": ", ".join(tasks[rows][clear[rows] & (gains["gain"][rows] > 0)]),
            "lost": ", ".join(tasks[rows][clear[rows] & (gains["gain"][rows] < 0)]),
        }
        for model, rows in gains.groupby("model", sort=False).groups.items()
    }
    frame = pd.DataFrame.from_dict(table, orient="index", columns=["won", "lost"])
    return frame.assign(seesaw=(frame["won"] != "") & (frame["lost"] != ""))
