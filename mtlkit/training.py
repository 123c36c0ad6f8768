"""Train, predict, evaluate: whole tables on the device, named tasks, no per-row Python."""

from __future__ import annotations

import copy
import time
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mtlkit import metrics
from mtlkit.data.table import Table
from mtlkit.device import pick_device
from mtlkit.losses import task_losses
from mtlkit.models import Recommender


@dataclass(frozen=True)
class Rows:
    """A table as tensors on one device: ids (N, F), dense (N, K), labels (N, T)."""

    ids: Tensor
    dense: Tensor
    labels: Tensor

    @classmethod
    def of(cls, table: Table, device: torch.device) -> Rows:
        return cls(
            torch.from_numpy(np.ascontiguousarray(table.ids, dtype=np.int64)).to(device),
            torch.from_numpy(np.ascontiguousarray(table.dense, dtype=np.float32)).to(device),
            torch.from_numpy(table.label_matrix()).to(device),
        )

    def __len__(self) -> int:
        return len(self.labels)


def _same_tasks(model: Recommender, table: Table) -> None:
    if tuple(model.tasks) != table.tasks:
        raise ValueError(
            f"The model was built for the tasks {', '.join(model.tasks)}, but the table has "
            f"{', '.join(table.tasks)}. Use table.select(model.tasks)."
        )


def fit(
    model: Recommender,
    table: Table,
    *,
    epochs: int = 20,
    batch_size: int = 1024,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    patience: int | None = 3,
    monitor: str = "loss",
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train on the table's train split with Adam; keep the weights of the best validation epoch.

    The loss is the unweighted sum over tasks of ``losses.task_losses``. Stops when ``monitor`` has not
    improved for ``patience`` epochs (None: never) and loads the best epoch's weights back, also when you
    interrupt it. ``monitor`` is a validation column of the history without its prefix: "loss" (sum over
    tasks, lower is better), or "auc/like" and its kind (higher is better).
    Equal seeds give equal weights on one device; torch's own generator is left as it was.

    Returns the history, a row per epoch: epoch, step, seconds, train/loss/<task> (mean over the epoch),
    validation/loss, validation/loss/<task> and validation/auc/<task> or validation/mse/<task>;
    ``history.attrs["best_epoch"]`` is the epoch whose weights the model has now.

    Raises ``ValueError`` for an empty split, tasks that do not match, a task without a label in training
    or an unknown ``monitor``; ``FloatingPointError`` when the loss is no longer finite.
    """
    _same_tasks(model, table)
    where = pick_device(device)
    train = table.part("train")
    for task, y in train.labels.items():
        if np.isnan(y).all():
            raise ValueError(f"Task {task!r} has no observed label in the train split; drop it or fill it.")
    held_out = table.part("validation")
    rows, held_out_rows = Rows.of(train, where), Rows.of(held_out, where)
    kinds = [table.kinds[task] for task in table.tasks]
    model.to(where)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    shuffle = torch.Generator().manual_seed(seed)
    history: list[dict[str, float]] = []
    best, best_epoch, best_state = float("inf"), 0, None
    steps = -(-len(rows) // batch_size)
    bar = tqdm(total=epochs * steps, disable=not progress, unit="step", leave=False)
    start = time.perf_counter()
    try:
        with torch.random.fork_rng(), bar:
            torch.manual_seed(seed)  # dropout and sampled connections
            for epoch in range(1, epochs + 1):
                model.train()
                total = torch.zeros(len(kinds), device=where)
                order = torch.randperm(len(rows), generator=shuffle).to(where)
                for batch in order.split(batch_size):
                    losses = task_losses(model(rows.ids[batch], rows.dense[batch]), rows.labels[batch], kinds)
                    optimizer.zero_grad(set_to_none=True)
                    losses.sum().backward()
                    optimizer.step()
                    total += losses.detach() * len(batch)
                    bar.update()
                mean = (total / len(rows)).tolist()
                if not np.isfinite(mean).all():
                    broken = table.tasks[int(np.argmin(np.isfinite(mean)))]
                    raise FloatingPointError(
                        f"The loss of task {broken!r} is no longer finite in epoch {epoch}: "
                        f"lower lr (now {lr:g}) or check the features for inf and NaN."
                    )
                line = {"epoch": epoch, "step": epoch * steps, "seconds": time.perf_counter() - start}
                line |= {f"train/loss/{t}": v for t, v in zip(table.tasks, mean, strict=True)}
                line |= _validate(model, held_out, held_out_rows, max(batch_size, 8192))
                history.append(line)
                score = _score(line, monitor)
                bar.set_postfix_str(f"epoch {epoch}, validation {monitor} {abs(score):.4f}")
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


def _score(line: dict[str, float], monitor: str) -> float:
    """The monitored validation figure, turned so that lower is better."""
    key = f"validation/{monitor}"
    if key not in line:
        known = ", ".join(k.removeprefix("validation/") for k in line if k.startswith("validation/"))
        raise ValueError(f"monitor={monitor!r} is not among the validation figures: {known}.")
    return -line[key] if monitor.startswith("auc/") else line[key]


def _logits(model: Recommender, rows: Rows, batch_size: int) -> Tensor:
    model.eval()
    with torch.inference_mode():
        parts = zip(rows.ids.split(batch_size), rows.dense.split(batch_size), strict=True)
        return torch.cat([model(ids, dense) for ids, dense in parts])  # (N, T)


def _validate(model: Recommender, table: Table, rows: Rows, batch_size: int) -> dict[str, float]:
    logits = _logits(model, rows, batch_size)
    kinds = [table.kinds[task] for task in table.tasks]
    losses = task_losses(logits, rows.labels, kinds).tolist()
    line = {"validation/loss": sum(losses)}
    for t, (task, kind) in enumerate(zip(table.tasks, kinds, strict=True)):
        line[f"validation/loss/{task}"] = losses[t]
        if kind == "binary":
            try:
                line[f"validation/auc/{task}"] = metrics.auc(logits[:, t], table.labels[task])
            except metrics.UndefinedMetric:
                line[f"validation/auc/{task}"] = float("nan")
        else:
            line[f"validation/mse/{task}"] = losses[t]
    return line


def predict(
    model: Recommender, table: Table, *, batch_size: int = 8192, device: str | None = None
) -> pd.DataFrame:
    """Predictions for every row of ``table``, a column per task: probabilities, or values of a regression."""
    _same_tasks(model, table)
    where = pick_device(device)
    out = _logits(model.to(where), Rows.of(table, where), batch_size).cpu().numpy()  # (N, T)
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
    users; for regression tasks mse and r2. A figure that is undefined, say the AUC of a task without a
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
    return pd.DataFrame(lines).set_index("task")
