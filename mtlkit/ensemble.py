"""Many runs at once: S models of one shape, each with its own data, start and learning rate, stacked.

A small model leaves a processor idle between its many small products. S of them stacked make the same
products S times as large, and one Python step moves all S runs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from tqdm import tqdm

from mtlkit.data.table import Kind, Table
from mtlkit.device import pick_device
from mtlkit.losses import task_losses
from mtlkit.models import Recommender
from mtlkit.training import Rows

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
    chunk: int = 25,
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
    chunk: how many runs are stacked at a time. Too many fall out of the processor's cache.
    compile: use ``torch.compile`` (about ten seconds at the start, then faster steps).

    Returns a row per run and epoch: run, epoch, step, validation/loss and validation/loss/<task>.

    Raises ``ValueError`` where the runs do not fit on top of each other, ``RuntimeError`` without the device.
    """
    runs = len(models)
    rates = [float(lr)] * runs if isinstance(lr, (int, float)) else [float(value) for value in lr]
    seeds = range(runs) if seeds is None else seeds
    for name, given in (("tables", tables), ("lr", rates), ("seeds", seeds)):
        if len(given) != runs:
            raise ValueError(f"fit_many: {runs} models, but {len(given)} {name}; give one per run.")
    where = pick_device(device)
    step = torch.compile(_step) if compile else _step
    frames = []
    bar = tqdm(total=epochs * runs, disable=not progress, unit="epoch", leave=False)
    with bar:
        for start in range(0, runs, chunk):
            part = slice(start, start + chunk)
            stack = _Stack(models[part], tables[part], rates[part], seeds[part], weight_decay, where)
            frame = stack.train(step, epochs, batch_size, bar)
            frames.append(frame.assign(run=frame["run"] + start))
    return pd.concat(frames, ignore_index=True)


class _Losses(nn.Module):
    """A model as its losses: rows (B, ...) -> the task losses (T,) and the model's penalty ()."""

    def __init__(self, model: Recommender, kinds: Sequence[Kind]) -> None:
        super().__init__()
        self.model, self.kinds = model, kinds

    def forward(self, ids: Tensor, dense: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return task_losses(self.model(ids, dense), labels, self.kinds), self.model.penalty()


class _Stack:
    """The runs of one chunk: parameters (S, ...), rows (S, N, ...), Adam's moments."""

    def __init__(self, models, tables, rates, seeds, weight_decay: float, where: torch.device) -> None:
        self.tables, self.seeds, self.tasks = tables, seeds, tables[0].tasks
        kinds = [tables[0].kinds[task] for task in self.tasks]
        self.models = [_Losses(model, kinds).to(where).train() for model in models]
        self.train_rows = self._rows("train", where)
        self.held_out = self._rows("validation", where)
        try:
            params, self.buffers = stack_module_state(self.models)
        except RuntimeError as error:
            raise ValueError(f"fit_many: the models are not of one class and size ({error}).") from None
        self.base = copy.deepcopy(self.models[0])
        self.names, self.params = list(params), [p.detach().requires_grad_() for p in params.values()]
        self.moments = [[torch.zeros_like(p) for p in self.params] for _ in BETAS]
        self.rates = torch.tensor(rates, device=where)
        self.weight_decay = weight_decay

    def _rows(self, split: str, where: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        parts = [
            Rows.of(table.part(split), model.model, where)
            for table, model in zip(self.tables, self.models, strict=True)
        ]
        if len({len(part) for part in parts}) > 1:
            raise ValueError(
                f"fit_many: the {split} splits have different lengths; the runs cannot be stacked."
            )
        return tuple(
            torch.stack([getattr(part, name) for part in parts]) for name in ("ids", "dense", "labels")
        )

    def train(self, step, epochs: int, batch_size: int, bar: tqdm) -> pd.DataFrame:
        """Train all runs and write their last weights back; a row per run and epoch."""
        shuffles = [torch.Generator().manual_seed(int(seed)) for seed in self.seeds]
        rows = self.train_rows[2].shape[1]
        lane = torch.arange(len(self.models), device=self.rates.device)[:, None]
        lines, count = [], 0
        for epoch in range(1, epochs + 1):
            order = torch.stack([torch.randperm(rows, generator=g) for g in shuffles]).to(lane.device)
            for batch in order.split(batch_size, dim=1):
                count += 1
                # Adam's bias corrections as tensors: a number that changes would compile anew each step
                scale = self.rates * (math.sqrt(1 - BETAS[1] ** count) / (1 - BETAS[0] ** count))
                eps = torch.tensor(EPS * math.sqrt(1 - BETAS[1] ** count), device=lane.device)
                step(self, tuple(part[lane, batch] for part in self.train_rows), scale, eps)
            lines += self._validate(epoch, count)
            bar.update(len(self.models))
        for name, stacked in zip(self.names, self.params, strict=True):
            for s, model in enumerate(self.models):
                model.get_parameter(name).data.copy_(stacked[s].detach())
        for model in self.models:
            model.eval()
        return pd.DataFrame(lines)

    def losses(self, rows: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Of every run on its own rows (S, B, ...): task losses (S, T) and penalties (S,)."""

        def one(params, buffers, *own):
            return functional_call(self.base, (params, buffers), own)

        params = dict(zip(self.names, self.params, strict=True))
        return vmap(one, randomness="different")(params, self.buffers, *rows)

    def _validate(self, epoch: int, step: int) -> list[dict[str, float]]:
        self.base.eval()
        with torch.inference_mode():
            losses = self.losses(self.held_out)[0].tolist()
        self.base.train()
        return [
            {"run": s, "epoch": epoch, "step": step, "validation/loss": sum(own)}
            | {f"validation/loss/{task}": value for task, value in zip(self.tasks, own, strict=True)}
            for s, own in enumerate(losses)
        ]


def _step(stack: _Stack, rows: tuple[Tensor, Tensor, Tensor], scale: Tensor, eps: Tensor) -> None:
    """One AdamW step of every run; the runs share no weight, so the sum of their losses keeps them apart."""
    losses, penalties = stack.losses(rows)
    grads = torch.autograd.grad(losses.sum() + penalties.sum(), stack.params)
    with torch.no_grad():
        mean, square = stack.moments
        torch._foreach_lerp_(mean, grads, 1 - BETAS[0])
        torch._foreach_mul_(square, BETAS[1])
        torch._foreach_addcmul_(square, grads, grads, 1 - BETAS[1])
        size = torch._foreach_sqrt(square)
        torch._foreach_add_(size, eps)
        update = torch._foreach_div(mean, size)
        for p, u in zip(stack.params, update, strict=True):
            own = scale.view(-1, *[1] * (p.dim() - 1))
            if stack.weight_decay:
                p.mul_(1 - stack.rates.view_as(own) * stack.weight_decay)
            p.sub_(own * u)
