"""Train, predict, evaluate: whole tables on the device, named tasks, no per-row Python."""

from __future__ import annotations

import copy
import hashlib
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from mtlkit import metrics
from mtlkit.checkpoint import Checkpoint
from mtlkit.data.table import Table
from mtlkit.device import keep_freed_memory, pick_device
from mtlkit.losses import TaskWeights, task_losses
from mtlkit.models import Recommender
from mtlkit.parallel import add_up, average_buffers, gather, place, together
from mtlkit.rows import Part, Rows, Source, TableSource, check_counts


@dataclass
class _Run:
    """What moves in training besides weights, optimizer and random states."""

    epoch: int = 1  # the one that is going on
    done: int = 0  # its steps so far
    ended: bool = False
    seconds: float = 0.0
    best: float = float("inf")
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    model: Recommender,
    table: Table | Source,
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
    checkpoint: str | Path | None = None,
    checkpoint_steps: int | None = None,
    each_epoch: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Train on the table's train split with AdamW; keep the weights of the best validation epoch.

    The loss is the sum over tasks of ``losses.task_losses``, plus the model's ``penalty()`` where it has one
    (L2-Constrained, SNR). Equal seeds give equal weights on one device; torch's own generator is
    left as it was. The model stays on the device, in eval mode.
    The process keeps the memory that it frees (``device.keep_freed_memory``).

    Where ``torch.distributed`` is initialised (torchrun), all processes call it alike and train one model
    data-parallel: ``batch_size`` counts the rows of all processes, a loss is the mean over all their
    observed labels, and every process returns the same history. Rounding apart, it is that of one process;
    only dropout draws by process. (HoME's batch norm is over the rows of all; a batch norm of your own
    model sees those of its process.)

    Parameters
    ----------
    table: a table, or another source of rows, say a ``stream.Stream`` of files larger than memory.
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
    checkpoint: a file (safetensors) that is written after each epoch. Where it exists, the run goes on from
        it, to the same weights and history as if it had not stopped. Needs the package safetensors.
    checkpoint_steps: writes it every so many steps, too.
    each_epoch: is given the history so far after each epoch (in the first process).

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
    undefined, a checkpoint of other settings. FloatingPointError: the loss is no longer finite.
    RuntimeError: no such device here.
    """
    counts = {"epochs": epochs, "batch_size": batch_size, "patience": patience}
    check_counts("fit", **counts, checkpoint_steps=checkpoint_steps)
    if not isinstance(table, Table) and not hasattr(table, "epoch"):
        raise ValueError(f"fit: a Table or a Stream is needed, got a {type(table).__name__}.")
    if schedule not in (None, "one_cycle"):
        raise ValueError(f"fit: schedule must be None or 'one_cycle', got {schedule!r}.")
    where, rank = pick_device(device), place()[0]
    lr, weight_decay, seed = float(lr), float(weight_decay), int(seed)  # numpy's numbers, too
    keep_freed_memory()
    source = TableSource(table, model, where) if isinstance(table, Table) else table
    source.check(model)
    held_out = source.part("validation")
    _check_monitor(monitor, held_out.labels)
    weights = task_weights if isinstance(task_weights, TaskWeights) else TaskWeights(task_weights or {})
    weights.at(source.tasks, 0, 0)  # refuses a wrong name before the training
    model.to(where)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    steps = source.steps(batch_size)
    cycle = None
    if schedule:
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=epochs * steps)
    keeper = None
    if checkpoint is not None:
        settings = counts | {"lr": lr, "weight_decay": weight_decay, "schedule": schedule, "seed": seed}
        settings |= {"weights": asdict(weights), "monitor": monitor, "steps": steps, "tasks": source.tasks}
        settings |= {"model": _digest(model.form()), "data": source.fingerprint()}
        keeper = Checkpoint(checkpoint, checkpoint_steps, settings)
    trainer = _Trainer(model, source, weights, optimizer, cycle, keeper)
    try:
        with torch.random.fork_rng():
            # dropout and sampled connections; each process drops other outputs
            torch.manual_seed(seed + rank if model.dropout.p else seed)
            run = trainer.begin()
            bar = tqdm(
                total=epochs * steps,
                initial=(run.epoch - 1) * steps + run.done,
                disable=not progress or rank > 0,
                unit="step",
                leave=False,
            )
            with bar:
                while not run.ended:
                    mean = trainer.epoch(batch_size, seed, bar)
                    line = {"epoch": run.epoch, "step": run.epoch * steps, "seconds": run.seconds}
                    _check_finite(mean, source.tasks, run.epoch, lr)
                    line |= {f"train/loss/{t}": v for t, v in zip(source.tasks, mean, strict=True)}
                    logits, losses = trainer.validate(held_out, max(batch_size, 8192))
                    _check_finite(losses, source.tasks, run.epoch, lr)
                    line |= _validation_figures(held_out.labels, logits, losses)
                    bar.set_postfix_str(
                        f"epoch {run.epoch}, validation {monitor} {line[f'validation/{monitor}']:.4f}"
                    )
                    trainer.end_epoch(line, monitor, epochs, patience)
                    if each_epoch and rank == 0:
                        each_epoch(pd.DataFrame(run.history))
    finally:
        if trainer.best is not None:
            model.load_state_dict(trainer.best)
        model.eval()
    frame = pd.DataFrame(run.history)
    frame.attrs["best_epoch"] = run.best_epoch
    return frame


class _Trainer:
    """One call of ``fit``: the model, all that moves beside it, and how far it is."""

    def __init__(
        self,
        model: Recommender,
        source: Source,
        weights: TaskWeights,
        optimizer: torch.optim.Optimizer,
        cycle: torch.optim.lr_scheduler.LRScheduler | None,
        keeper: Checkpoint | None,
    ) -> None:
        self.model, self.source, self.weights = model, source, weights
        self.optimizer, self.cycle, self.keeper = optimizer, cycle, keeper
        self.kinds = [source.kinds[task] for task in source.tasks]
        self.where, self.processes = next(model.parameters()).device, place()[1]
        self.run, self.best = _Run(), None  # the best weights
        # of the epoch: the losses of all observed labels, and how many there were
        self.sums = {
            "loss": torch.zeros(len(self.kinds), device=self.where),
            "seen": torch.zeros(len(self.kinds), device=self.where, dtype=torch.long),
        }

    def begin(self) -> _Run:
        """Go on from the checkpoint, where there is one."""
        moving = (self.model, self.optimizer, self.cycle)
        if self.keeper and (kept := self.keeper.load(*moving, self.sums)):
            self.best, self.run = kept[0], _Run(**kept[1])
        self.net, self.omega = together(self.model), None
        self.start = time.perf_counter() - self.run.seconds
        return self.run

    def keep(self) -> None:
        """Write the checkpoint."""
        self.run.seconds = time.perf_counter() - self.start
        moving = (self.model, self.optimizer, self.cycle)
        self.keeper.save(*moving, self.best, self.sums, asdict(self.run))

    def epoch(self, batch_size: int, seed: int, bar: tqdm) -> list[float]:
        """Train an epoch, or what is left of it.   -> mean loss of each task over its observed labels"""
        run, steps = self.run, self.source.steps(batch_size)
        self.model.train()
        for rows in islice(self.source.epoch(run.epoch, batch_size, seed), run.done, None):
            if self.weights.unit == "step" or self.omega is None or not run.done:
                now = self.weights.at(self.source.tasks, run.epoch - 1, (run.epoch - 1) * steps + run.done)
                self.omega = torch.tensor(now, device=self.where)  # (T,)
            self.step(rows.to(self.where))
            run.done += 1
            bar.update()
            if self.keeper and self.keeper.every and run.done % self.keeper.every == 0:
                self.keep()
        run.seconds = time.perf_counter() - self.start
        average_buffers(self.model)
        return (add_up(self.sums["loss"]) / add_up(self.sums["seen"])).tolist()

    def step(self, rows: Rows) -> None:
        """One step of the optimizer."""
        seen = (~rows.labels.isnan()).sum(dim=0)  # (T,)
        losses = task_losses(self.net(rows.ids, rows.dense), rows.labels, self.kinds)  # (T,)
        self.sums["loss"] += losses.detach() * seen
        self.sums["seen"] += seen
        if self.processes > 1:  # the mean over all processes' labels; DDP averages the gradients
            losses = losses * (seen * self.processes / add_up(seen.clone()).clamp(min=1))
        self.optimizer.zero_grad()
        # PLE paper Eq. 8: L = sum_k omega_k L_k
        ((self.omega * losses).sum() + self.model.penalty()).backward()
        self.optimizer.step()
        if self.cycle:
            self.cycle.step()

    def validate(self, held_out: Part, batch_size: int) -> tuple[Tensor, list[float]]:
        """Logits (N, T) of all processes' rows, and the loss of each task."""
        logits = gather(_logits(self.model, held_out.batches(batch_size), self.where))
        labels = torch.from_numpy(held_out.labels.label_matrix()).to(self.where)
        return logits, task_losses(logits, labels, self.kinds).tolist()

    def end_epoch(self, line: dict[str, float], monitor: str, epochs: int, patience: int | None) -> None:
        """Note its figures; keep the weights if they are the best; decide whether it was the last."""
        run, value = self.run, line[f"validation/{monitor}"]
        run.history.append(line)
        score = -value if monitor.startswith("auc/") else value
        if score < run.best:
            run.best, run.best_epoch = score, run.epoch
            self.best = copy.deepcopy(self.model.state_dict())
        late = patience is not None and run.epoch - run.best_epoch >= patience
        run.ended = late or run.epoch == epochs
        run.epoch, run.done = run.epoch + 1, 0
        for part in self.sums.values():
            part.zero_()
        if self.keeper:
            self.keep()


def _digest(form: Mapping[str, object]) -> str:
    return hashlib.sha256(repr(sorted(form.items())).encode()).hexdigest()[:16]


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


def _logits(model: Recommender, batches: Iterable[Rows], where: torch.device) -> Tensor:
    was_training = model.training
    model.eval()
    parts = [torch.zeros(0, len(model.tasks), device=where)]  # a process may have no rows
    try:
        with torch.inference_mode():
            for rows in batches:
                rows = rows.to(where)
                parts.append(model(rows.ids, rows.dense))
            return torch.cat(parts)  # (N, T)
    finally:
        model.train(was_training)


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
    model: Recommender, table: Table | Part, *, batch_size: int = 8192, device: str | None = None
) -> pd.DataFrame:
    """Predictions for every row of ``table``, a column per task: probabilities, or values of a regression.

    For a ``Part`` all processes call it, predict their share, and have the predictions of all rows.
    The model moves to the device and keeps its mode, training or evaluation.
    Raises ``ValueError`` where the model cannot read the table, ``RuntimeError`` without such a device.
    """
    check_counts("predict", batch_size=batch_size)
    where = pick_device(device)
    model.to(where)
    if isinstance(table, Part):
        table, logits = table.labels, gather(_logits(model, table.batches(batch_size), where))
    else:
        logits = _logits(model, Rows.of(table, model, where).split(batch_size), where)
    out = logits.cpu().numpy()  # (N, T)
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
    model: Recommender, table: Table | Part, *, batch_size: int = 8192, device: str | None = None
) -> pd.DataFrame:
    """Figures per task on all rows of ``table`` (give it one split: ``table.part("test")``).

    Columns: observed labels; for binary tasks positives, auc, log_loss, and gauc where the table has
    users; for regression tasks mse and r2. Where the table knows the true probabilities, auc_ceiling and
    gauc_ceiling stand beside them (``ceiling``). A figure that is undefined, say the AUC of a task without a
    positive label, is NaN, and a warning names the task and the reason.
    """
    guess = predict(model, table, batch_size=batch_size, device=device)
    table = table.labels if isinstance(table, Part) else table
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
        if line.get("auc", 1.0) < 0.5 - 3 * metrics.auc_error(
            0.5, line.get("positives", 0), line["observed"] - line.get("positives", 0)
        ):
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
