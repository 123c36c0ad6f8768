"""Many runs at once: S models of one shape, each with its own data, start and learning rate, stacked.

A small model leaves a processor idle between its many small products. S of them stacked make the same
products S times as large, and one Python step moves all S runs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from tqdm import tqdm

from mtlkit.data.table import Kind, Table
from mtlkit.device import keep_freed_memory, pick_device
from mtlkit.losses import task_losses
from mtlkit.models import Recommender
from mtlkit.replay import Replayed
from mtlkit.rows import Rows, check_counts, check_observed

BETAS, EPS = (0.9, 0.999), 1e-8  # torch.optim.AdamW's own


def fit_many(
    models: Sequence[Recommender],
    tables: Sequence[Table],
    *,
    epochs: int = 20,
    batch_size: int = 1024,
    lr: float | Sequence[float] = 1e-3,
    weight_decay: float = 0.0,
    seeds: Sequence[int] | None = None,
    chunk: int | None = None,
    compile: bool = False,
    device: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train run s = (``models[s]``, ``tables[s]``, ``lr[s]``, ``seeds[s]``) for every s, all together.

    Each run is what ``training.fit(model, table, epochs=epochs, batch_size=batch_size, lr=lr[s],
    weight_decay=weight_decay, patience=None, seed=seeds[s])`` does, to rounding; rounding grows with the
    steps, as it does between two machines. The models hold their last weights afterwards (there is no early
    stopping). Dropout and sampled connections are drawn anew, so with them the runs are alike, not equal.

    Parameters
    ----------
    models, tables: S of each; models of one class and size, tables of one length and one split.
    lr: one learning rate, or one per run.
    seeds: of the shuffling; default 0, 1, ... S - 1.
    chunk: how many runs are stacked at a time; default 50, compiled 10. Too many fall out of the processor's
        cache, with too few the calls cost more than the products.
    compile: merge the operations of a step with TorchInductor (ten seconds at the start, then faster steps).

    Returns a row per run and epoch: run, epoch, step, validation/loss and validation/loss/<task>.

    A run whose loss is no longer finite has NaN there and does not stop the others.

    Raises ``ValueError`` where the runs do not fit on top of each other: models that differ in more than
    their weights, frozen weights, tables of different lengths; ``RuntimeError`` without the device.
    """
    runs = len(models)
    check_counts("fit_many", epochs=epochs, batch_size=batch_size, chunk=chunk)
    rates = [float(lr)] * runs if np.ndim(lr) == 0 else [float(value) for value in lr]
    if wrong := [rate for rate in rates if not 0 <= rate < math.inf]:
        raise ValueError(f"fit_many: lr must be a number of at least 0, got {wrong[0]}.")
    seeds = range(runs) if seeds is None else seeds
    for name, given in (("tables", tables), ("lr", rates), ("seeds", seeds)):
        if len(given) != runs:
            raise ValueError(f"fit_many: {runs} models, but {len(given)} {name}; give one per run.")
    _check_alike(models, tables)
    if chunk is None:
        chunk = 10 if compile else 50
    where = pick_device(device)
    keep_freed_memory()
    bar = tqdm(total=epochs * runs, disable=not progress, unit="epoch", leave=False)
    base = copy.deepcopy(_Losses(models[0], [tables[0].kinds[task] for task in tables[0].tasks]).to(where))
    step = _Step(base.train(), weight_decay, compile)
    frames = []
    with bar:
        for start in range(0, runs, chunk):
            part = slice(start, start + chunk)
            stack = _Stack(models[part], tables[part], rates[part], seeds[part], where)
            frame = stack.train(step, epochs, batch_size, bar)
            frames.append(frame.assign(run=frame["run"] + start))
    return pd.concat(frames, ignore_index=True)


def _check_alike(models: Sequence[Recommender], tables: Sequence[Table]) -> None:
    """All runs are computed by the first one's code: only weights and rows may differ."""
    if not models:
        raise ValueError("fit_many: no models; give at least one run.")
    if len({id(model) for model in models}) < len(models):
        raise ValueError("fit_many: one model stands for two runs; each run needs its own.")
    first = models[0].form()
    for s, (model, table) in enumerate(zip(models, tables, strict=True)):
        if frozen := [name for name, p in model.named_parameters() if not p.requires_grad]:
            raise ValueError(
                f"fit_many trains all weights, but run {s} has {frozen[0]} frozen; use training.fit."
            )
        form = first if model is models[0] else model.form()
        for place in {**first, **form}:
            if form.get(place) != first.get(place):
                raise ValueError(
                    f"fit_many: the models of runs 0 and {s} differ in {place or 'their class'} "
                    f"({first.get(place)!r} and {form.get(place)!r}); only the weights may differ."
                )
        check_observed(table)
    if len({tuple(np.bincount(table.split, minlength=2)[:2]) for table in tables}) > 1:
        raise ValueError(
            "fit_many: the train or validation splits have different lengths; runs cannot be stacked."
        )


class _Losses(nn.Module):
    """A model as its losses: rows (B, ...) -> the task losses (T,) and the model's penalty ()."""

    def __init__(self, model: Recommender, kinds: Sequence[Kind]) -> None:
        super().__init__()
        self.model, self.kinds = model, kinds

    def forward(self, ids: Tensor, dense: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return task_losses(self.model(ids, dense), labels, self.kinds), self.model.penalty()


class _Step:
    """One AdamW step of every run of a stack, the same for all stacks, and their losses on held-out rows.

    Arguments of ``run``: params, mean, square (S, P), of Adam; all rows of the runs, ids, dense and labels
    (S * N, ...); batch (S, B), which of them; rates, scale (S, 1), eps (); then the models' buffers, stacked.
    """

    def __init__(self, base: _Losses, weight_decay: float, compile: bool) -> None:
        self.base, self.evaluated, self.weight_decay = base, copy.deepcopy(base).eval(), weight_decay
        self.shapes = {name: p.shape for name, p in base.named_parameters()}
        self.buffers = [name for name, _ in base.named_buffers()]
        self.moving = [name for name in self.buffers if name in base.state_dict()]
        self.run = Replayed(self._run, compile)
        self.held_out_losses = Replayed(self._held_out_losses)

    def named(self, row: Tensor) -> dict[str, Tensor]:
        """One run's weights by name, as views.   (P,)"""
        parts = row.split([shape.numel() for shape in self.shapes.values()])
        return {n: part.view(shape) for (n, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def _losses(
        self, params: Tensor, buffers: dict[str, Tensor], rows: Sequence[Tensor], base: _Losses
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Of every run on its own rows (S, B, ...): task losses (S, T), penalties (S,), moved averages."""

        def one(params, buffers, *own):
            averages = {
                name: buffers[name].clone() for name in self.moving
            }  # a batch norm moves them in place
            losses, penalty = functional_call(base, (self.named(params), buffers | averages), own)
            return losses, penalty, averages

        return vmap(one, randomness="different")(params, buffers, *rows)

    def _held_out_losses(self, params, ids, dense, labels, *buffers) -> Tensor:
        named = dict(zip(self.buffers, buffers, strict=True))
        return self._losses(params, named, (ids, dense, labels), self.evaluated)[0]  # (S, T)

    def _run(self, params, mean, square, ids, dense, labels, batch, rates, scale, eps, *buffers) -> None:
        named = dict(zip(self.buffers, buffers, strict=True))
        ids, dense, labels = (
            part.index_select(0, batch.flatten()).unflatten(0, batch.shape) for part in (ids, dense, labels)
        )
        labels = labels.mT.contiguous().mT  # B last in memory, as the logits have it: whole vectors of rows

        # the runs share no weight, so the gradient of the sum of their losses keeps them apart
        def total(params: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            losses, penalties, averages = self._losses(params, named, (ids, dense, labels), self.base)
            return losses.sum() + penalties.sum(), averages

        grad, averages = torch.func.grad(total, has_aux=True)(params)
        for name, average in averages.items():
            named[name].copy_(average)
        mean.lerp_(grad, 1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
        update = mean / square.sqrt().add_(eps)
        if self.weight_decay:
            params.mul_(1 - rates * self.weight_decay)
        params.sub_(update.mul_(scale))


class _Stack:
    """The runs of one chunk: parameters (S, P), a row per run; their rows (S, N, ...); Adam's moments."""

    def __init__(self, models, tables, rates, seeds, where: torch.device) -> None:
        self.tables, self.seeds, self.tasks = tables, seeds, tables[0].tasks
        kinds = [tables[0].kinds[task] for task in self.tasks]
        self.models = [_Losses(model, kinds).to(where).train() for model in models]
        self.train_rows = self._rows("train", where)
        self.held_out = self._rows("validation", where)
        self.unseen = self.held_out[2].isnan().all(dim=1)  # (S, T): no such label, so no such loss
        params, self.buffers = stack_module_state(self.models)
        # all weights of a run in one row: Adam is then a few products over one tensor
        self.params = torch.cat([p.detach().flatten(1) for p in params.values()], dim=1)
        self.moments = [torch.zeros_like(self.params) for _ in BETAS]
        self.rates = torch.tensor(rates, device=where).unsqueeze(1)  # (S, 1)

    def _rows(self, split: str, where: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        parts = [
            Rows.of(table.part(split), model.model, where)
            for table, model in zip(self.tables, self.models, strict=True)
        ]
        return tuple(
            torch.stack([getattr(part, name) for part in parts]) for name in ("ids", "dense", "labels")
        )

    def train(self, step: _Step, epochs: int, batch_size: int, bar: tqdm) -> pd.DataFrame:
        """Train all runs and write their last weights back; a row per run and epoch."""
        shuffles = [torch.Generator().manual_seed(int(seed)) for seed in self.seeds]
        runs, rows = self.train_rows[2].shape[:2]
        first = rows * torch.arange(runs, device=self.rates.device).unsqueeze(1)
        flat = [part.flatten(0, 1) for part in self.train_rows]  # (S * N, ...)
        lines, count = [], 0
        for epoch in range(1, epochs + 1):
            order = torch.stack([torch.randperm(rows, generator=g) for g in shuffles]).to(first.device)
            for batch in (order + first).split(batch_size, dim=1):
                count += 1
                # Adam's bias corrections as tensors: a number would be recorded as it is in the first step
                scale = self.rates * (math.sqrt(1 - BETAS[1] ** count) / (1 - BETAS[0] ** count))
                eps = torch.tensor(EPS * math.sqrt(1 - BETAS[1] ** count), device=first.device)
                adam = (self.rates, scale, eps)
                step.run(self.params, *self.moments, *flat, batch, *adam, *self.buffers.values())
            lines += self._validate(step, epoch, count)
            bar.update(runs)
        for row, model in zip(self.params, self.models, strict=True):
            for name, value in step.named(row).items():
                model.get_parameter(name).data.copy_(value)
            model.eval()
        for name in step.moving:
            for row, model in zip(self.buffers[name], self.models, strict=True):
                model.get_buffer(name).copy_(row)
        return pd.DataFrame(lines)

    def _validate(self, step: _Step, epoch: int, count: int) -> list[dict[str, float]]:
        with torch.inference_mode():
            losses = step.held_out_losses(self.params, *self.held_out, *self.buffers.values())
        total = [sum(own) for own in losses.tolist()]
        losses = losses.masked_fill(self.unseen, math.nan).tolist()
        return [
            {"run": s, "epoch": epoch, "step": count, "validation/loss": total[s]}
            | {f"validation/loss/{task}": value for task, value in zip(self.tasks, own, strict=True)}
            for s, own in enumerate(losses)
        ]
