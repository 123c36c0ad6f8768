"""Train, predict, evaluate: whole tables on the device, named tasks, no per-row Python."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from mtlkit import metrics
from mtlkit.data.table import Table
from mtlkit.device import keep_freed_memory, pick_device
from mtlkit.losses import TaskWeights, task_losses
from mtlkit.models import Recommender


@dataclass(frozen=True)
class Rows:
    """A table as tensors on one device: ids (N, F), dense (N, K), labels (N, T)."""

    ids: Tensor
    dense: Tensor
    labels: Tensor

    @classmethod
    def of(cls, table: Table, model: Recommender, device: torch.device) -> Rows:
        """Raises ``ValueError`` with one sentence where ``model`` cannot read the table."""
        _check(table, model)
        return cls(
            torch.from_numpy(np.ascontiguousarray(table.ids, dtype=np.int64)).to(device),
            torch.from_numpy(np.ascontiguousarray(table.dense, dtype=np.float32)).to(device),
            torch.from_numpy(table.label_matrix()).to(device),
        )

    def __len__(self) -> int:
        return len(self.labels)


def _check(table: Table, model: Recommender) -> None:
    if model.tasks != table.tasks:
        raise ValueError(
            f"The model was built for the tasks {', '.join(model.tasks)}, but the table has "
            f"{', '.join(table.tasks)}. Use table.select(model.tasks)."
        )
    if (model.cardinalities, model.dense_names) != (table.cardinalities, table.dense_names):
        raise ValueError(
            "The table's fields, their sizes or its dense features differ from those of the table that the "
            "model was built for. Encode both with the same training rows."
        )
    # on a GPU an id out of range would end the process without naming the field
    low, high = table.ids.min(axis=0, initial=0), table.ids.max(axis=0, initial=0)
    for field, a, b, size in zip(table.fields, low, high, table.cardinalities, strict=True):
        if a < 0 or b >= size:
            raise ValueError(f"Field {field!r} has the id {a if a < 0 else b}; ids must lie in [0, {size}).")
    finite = np.isfinite(table.dense)
    if not finite.all():
        column = int(finite.all(axis=0).argmin())
        raise ValueError(
            f"Dense feature {table.dense_names[column]!r} is NaN or infinite in "
            f"{(~finite[:, column]).sum()} of {len(table)} rows; fill or drop them."
        )
    for task, y in table.labels.items():
        binary = table.kinds[task] == "binary"
        wrong = ~(np.isnan(y) | ((y == 0) | (y == 1) if binary else np.isfinite(y)))
        if wrong.any():
            raise ValueError(
                f"Task {task!r} has the label {y[wrong][0]:g}; labels of a {table.kinds[task]} task must be "
                f"{'0, 1' if binary else 'finite'} or NaN (unobserved)."
            )


def fit(
    model: Recommender,
    table: Table,
    *,
    epochs: int = 20,
    batch_size: int = 1024,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    schedule: Literal["one_cycle"] | None = None,
    task_weights: Mapping[str, float] | TaskWeights | None = None,
    patience: int | None = 3,
    monitor: str = "loss",
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train on the table's train split with AdamW; keep the weights of the best validation epoch.

    The loss is the sum over tasks of ``losses.task_losses``, plus the model's ``penalty()`` where it has one
    (L2-Constrained, SNR). Equal seeds give equal weights on one device; torch's own generator is
    left as it was. The model stays on the device, in eval mode.
    The process keeps the memory that it frees (``device.keep_freed_memory``).

    Parameters
    ----------
    epochs, batch_size: passes over the train split (at most), rows per step.
    lr: learning rate; with a schedule its peak.
    weight_decay: decoupled (Loshchilov and Hutter, ICLR 2019): each step shrinks every weight by the factor
        1 - lr * weight_decay, apart from the gradient. With 0, AdamW is Adam.
    schedule: None keeps lr; "one_cycle" raises it from lr / 25 to lr over the first 30 % of all steps, then
        lowers it to almost 0 (``torch.optim.lr_scheduler.OneCycleLR``). It is planned for ``epochs``, so
        use it with few epochs and ``patience=None``.
    task_weights: factors of the tasks' losses by name, 1 for a task that is not named (PLE paper Eq. 8), or
        a ``losses.TaskWeights``, which changes them in training. They move the weights of the model only:
        every figure of the history is unweighted.
    patience: stop when ``monitor`` has not improved for so many epochs. None: never.
    monitor: a validation column of the history without its prefix: "loss" (sum over tasks), "loss/like" or
        "mse/rating" (lower is better), "auc/like" (higher is better).
    seed: of the shuffling and of dropout.
    device: "cpu" or "cuda"; None asks the environment variable MTLKIT_DEVICE, else "cpu".
    progress: whether to draw a progress bar on stderr.

    Returns
    -------
    The history, a row per epoch: epoch, step, seconds, train/loss/<task> (mean over the labels that were
    observed in the epoch, while the weights were moving), validation/loss, validation/loss/<task> and
    validation/auc/<task> or validation/mse/<task>, NaN where the validation split does not define them.
    ``history.attrs["best_epoch"]`` is the epoch whose weights the model has now. An interrupt
    (KeyboardInterrupt) loads the best finished epoch's weights, too, before it goes on.

    Raises
    ------
    ValueError: an empty split, a table that the model cannot read (tasks, fields, NaN in features, wrong
    labels), a task without a label in training, an option out of range, a ``monitor`` that is unknown or
    undefined. FloatingPointError: the loss is no longer finite. RuntimeError: no such device here.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("patience", patience)):
        if value is not None and value < 1:
            raise ValueError(f"fit: {name} must be at least 1, got {value!r}.")
    if schedule not in (None, "one_cycle"):
        raise ValueError(f"fit: schedule must be None or 'one_cycle', got {schedule!r}.")
    where = pick_device(device)
    keep_freed_memory()
    train, held_out = table.part("train"), table.part("validation")
    rows, held_out_rows = Rows.of(train, model, where), Rows.of(held_out, model, where)
    for task, y in train.labels.items():
        if np.isnan(y).all():
            raise ValueError(f"Task {task!r} has no observed label in the train split; drop it or fill it.")
    _check_monitor(monitor, held_out)
    kinds = [table.kinds[task] for task in table.tasks]
    weights = task_weights if isinstance(task_weights, TaskWeights) else TaskWeights(task_weights or {})
    weights.at(table.tasks, 0, 0)  # refuses a wrong name before the training
    model.to(where)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    steps = -(-len(rows) // batch_size)
    cycle = None
    if schedule:
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=epochs * steps)
    shuffle = torch.Generator().manual_seed(seed)
    observed = (~rows.labels.isnan()).sum(dim=0)  # (T,)
    history: list[dict[str, float]] = []
    best, best_epoch, best_state = float("inf"), 0, None
    bar = tqdm(total=epochs * steps, disable=not progress, unit="step", leave=False)
    start = time.perf_counter()
    try:
        with torch.random.fork_rng(), bar:
            torch.manual_seed(seed)  # dropout and sampled connections
            for epoch in range(1, epochs + 1):
                model.train()
                total = torch.zeros(len(kinds), device=where)
                order = torch.randperm(len(rows), generator=shuffle).to(where)
                for step, batch in enumerate(order.split(batch_size), start=(epoch - 1) * steps):
                    labels = rows.labels[batch]
                    losses = task_losses(model(rows.ids[batch], rows.dense[batch]), labels, kinds)
                    optimizer.zero_grad()
                    if weights.unit == "step" or step % steps == 0:
                        omega = losses.new_tensor(weights.at(table.tasks, epoch - 1, step))  # (T,)
                    # PLE paper Eq. 8: L = sum_k omega_k L_k
                    ((omega * losses).sum() + model.penalty()).backward()
                    optimizer.step()
                    if cycle:
                        cycle.step()
                    total += losses.detach() * (~labels.isnan()).sum(dim=0)
                    bar.update()
                mean = (total / observed).tolist()
                _check_finite(mean, table.tasks, epoch, lr)
                line = {"epoch": epoch, "step": epoch * steps, "seconds": time.perf_counter() - start}
                line |= {f"train/loss/{t}": v for t, v in zip(table.tasks, mean, strict=True)}
                logits = _logits(model, held_out_rows, max(batch_size, 8192))
                losses = task_losses(logits, held_out_rows.labels, kinds).tolist()
                _check_finite(losses, table.tasks, epoch, lr)
                line |= _validation_figures(held_out, logits, losses)
                history.append(line)
                value = line[f"validation/{monitor}"]
                bar.set_postfix_str(f"epoch {epoch}, validation {monitor} {value:.4f}")
                score = -value if monitor.startswith("auc/") else value
                if score < best:
                    best, best_epoch, best_state = score, epoch, copy.deepcopy(model.state_dict())
                elif patience is not None and epoch - best_epoch >= patience:
                    break
    finally:
        if best_state is not None:
            model.load_state_dict(best_state)
        model.eval()
    frame = pd.DataFrame(history)
    frame.attrs["best_epoch"] = best_epoch
    return frame


def _check_monitor(monitor: str, held_out: Table) -> None:
    """Refuse an unknown or undefined figure before the training, not after its first epoch."""
    figures = {"loss": held_out.tasks}  # figure -> the tasks that it needs
    for task in held_out.tasks:
        metric = "auc" if held_out.kinds[task] == "binary" else "mse"
        figures |= {f"loss/{task}": (task,), f"{metric}/{task}": (task,)}
    if monitor not in figures:
        raise ValueError(f"monitor={monitor!r} is not among the validation figures: {', '.join(figures)}.")
    values = [np.unique(y[~np.isnan(y)]) for y in (held_out.labels[task] for task in figures[monitor])]
    if max(map(len, values)) < (2 if monitor.startswith("auc/") else 1):
        raise ValueError(
            f"monitor={monitor!r} is undefined: its labels in the validation split are "
            f"{'all equal' if len(values[0]) else 'all unobserved'}. Monitor another figure."
        )


def _check_finite(losses: Sequence[float], tasks: Sequence[str], epoch: int, lr: float) -> None:
    finite = np.isfinite(losses)
    if not finite.all():
        raise FloatingPointError(
            f"The loss of task {tasks[int(finite.argmin())]!r} is no longer finite in epoch {epoch}: "
            f"lower lr (now {lr:g}) or scale the features and labels."
        )


def _logits(model: Recommender, rows: Rows, batch_size: int) -> Tensor:
    model.eval()
    with torch.inference_mode():
        parts = zip(rows.ids.split(batch_size), rows.dense.split(batch_size), strict=True)
        return torch.cat([model(ids, dense) for ids, dense in parts])  # (N, T)


def _validation_figures(table: Table, logits: Tensor, losses: Sequence[float]) -> dict[str, float]:
    """The history's validation columns; ``losses`` has 0 for a task without an observed label."""
    line = {"validation/loss": sum(losses)}
    for t, (task, y) in enumerate(table.labels.items()):
        line[f"validation/loss/{task}"] = float("nan") if np.isnan(y).all() else losses[t]
        if table.kinds[task] == "binary":
            try:
                line[f"validation/auc/{task}"] = metrics.auc(logits[:, t], y)
            except metrics.UndefinedMetric:
                line[f"validation/auc/{task}"] = float("nan")
        else:
            line[f"validation/mse/{task}"] = line[f"validation/loss/{task}"]
    return line


def predict(
    model: Recommender, table: Table, *, batch_size: int = 8192, device: str | None = None
) -> pd.DataFrame:
    """Predictions for every row of ``table``, a column per task: probabilities, or values of a regression.

    Raises ``ValueError`` where the model cannot read the table, ``RuntimeError`` without such a device.
    """
    where = pick_device(device)
    out = _logits(model.to(where), Rows.of(table, model, where), batch_size).cpu().numpy()  # (N, T)
    columns = {}
    for t, task in enumerate(table.tasks):
        # in float64 a confident probability keeps its rank: sigmoid(20) and sigmoid(21) stay apart
        wide = out[:, t].astype(np.float64)
        columns[task] = _expit(wide) if table.kinds[task] == "binary" else wide
    return pd.DataFrame(columns)


def _expit(logits: np.ndarray) -> np.ndarray:
    """The logistic function 1 / (1 + exp(-x)), without overflow for large negative logits."""
    return np.exp(-np.logaddexp(0.0, -logits))


def evaluate(
    model: Recommender, table: Table, *, batch_size: int = 8192, device: str | None = None
) -> pd.DataFrame:
    """Figures per task on all rows of ``table`` (give it one split: ``table.part("test")``).

    Columns: observed labels; for binary tasks positives, auc, log_loss, and gauc where the table has
    users; for regression tasks mse and r2. Where the table knows the true probabilities, auc_ceiling and
    gauc_ceiling stand beside them (``ceiling``). A figure that is undefined, say the AUC of a task without a
    positive label, is NaN, and a warning names the task and the reason.
    """
    guess = predict(model, table, batch_size=batch_size, device=device)
    lines = []
    for task in table.tasks:
        y, score = table.labels[task], guess[task].to_numpy()
        line: dict[str, float] = {"task": task, "observed": int((~np.isnan(y)).sum())}
        if table.kinds[task] == "binary":
            line["positives"] = int(np.nansum(y))
            figures = {"auc": lambda y=y, s=score: metrics.auc(s, y)}
            if table.users is not None:
                figures["gauc"] = lambda y=y, s=score: float(metrics.gauc(s, y, table.users))
            figures["log_loss"] = lambda y=y, s=score: metrics.log_loss(s, y)
        else:
            figures = {
                "mse": lambda y=y, s=score: metrics.mse(s, y),
                "r2": lambda y=y, s=score: metrics.r2(s, y),
            }
        for name, figure in figures.items():
            try:
                line[name] = figure()
            except metrics.UndefinedMetric as reason:
                line[name] = float("nan")
                warnings.warn(f"{name}/{task}: {reason}", stacklevel=2)
        if line.get("auc", 1.0) < 0.5:
            warnings.warn(
                f"auc/{task} is {line['auc']:.3f}, worse than a coin: is this column really {task!r}?",
                stacklevel=2,
            )
        lines.append(line)
    frame = pd.DataFrame(lines).set_index("task")
    return frame.join(ceiling(table).add_suffix("_ceiling")) if table.probabilities else frame


def ceiling(table: Table, predictions: pd.DataFrame | None = None) -> pd.DataFrame:
    """The most that any model can reach on these rows: AUC and GAUC of the true probabilities, per task.

    For a table that knows them (``data.short_video``). Columns auc and, where the table has users, gauc: the
    expected figures over all draws of the labels (``metrics.expected_auc``), NaN where undefined. With
    ``predictions`` as ``predict`` gives them, their figures stand there instead, free of the labels' luck,
    and auc_share and gauc_share: (figure - 0.5) / (ceiling - 0.5), the share of what can be known.

    Raises ``ValueError`` for a table without true probabilities.
    """
    if not table.probabilities:
        raise ValueError("This table does not know the true probabilities; data.short_video makes one.")
    lines = {}
    for task, p in table.probabilities.items():
        figures = {"auc": lambda s, p=p: metrics.expected_auc(s, p)}
        if table.users is not None:
            figures["gauc"] = lambda s, p=p: metrics.expected_gauc(s, p, table.users)
        line = lines[task] = {}
        for name, figure in figures.items():
            try:
                best = figure(p)
            except metrics.UndefinedMetric:
                best = float("nan")
            line[name] = best
            if predictions is not None and best == best:
                line[name] = figure(predictions[task])
                line[f"{name}_share"] = (line[name] - 0.5) / (best - 0.5)
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("task")
