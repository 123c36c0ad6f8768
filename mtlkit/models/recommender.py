"""A feature encoder in front of any model of the series."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mtlkit.data.table import Table
from mtlkit.layers import FeatureEncoder


class Recommender(nn.Module):
    """Encoder + model for the rows of a table.   ids (B, F), dense (B, K) -> logits (B, T)

    ``model`` is a class of this package (or any callable ``model(in_width, tasks, **sizes)`` that gives a
    module (B, D) -> (B, T)). Field sizes and the number of tasks come from ``table``; the task names are
    kept in ``tasks``, so that a label can never meet another task's logit. A model that groups the tasks
    (HoME) takes ``table.categories``, unless ``groups`` is given.
    Sizes that ``model`` does not take are a ``ValueError``.
    A table is only read where its tasks with their kinds, fields and dense features are those of ``table``.
    ``seed`` fixes the starting weights and leaves torch's own generator as it was.
    ``dropout`` is the share of the encoder's outputs that a training step sets to 0 (the others grow by
    1 / (1 - dropout)); it has no weights, and an evaluated model does not drop anything.

    >>> net = Recommender(table, SharedBottom, bottom=[64], tower=[16])    # doctest: +SKIP
    """

    def __init__(
        self,
        table: Table,
        model: Callable[..., nn.Module],
        *,
        embedding: int = 8,
        dropout: float = 0.0,
        seed: int = 0,
        **sizes,
    ) -> None:
        super().__init__()
        if isinstance(model, nn.Module):
            raise ValueError(
                f"Recommender: give the class {type(model).__name__} and its sizes, not a model."
            )
        if not (table.fields or table.dense_names):
            raise ValueError("Recommender: the table has neither fields nor dense features to read.")
        self.tasks, self.cardinalities, self.dense_names = table.tasks, table.cardinalities, table.dense_names
        self.fields, self.kinds = table.fields, {task: table.kinds[task] for task in table.tasks}
        self.dropout = nn.Dropout(dropout)
        # a model that shares nothing has its own embeddings per task, too
        copies = len(self.tasks) if getattr(model, "private_inputs", False) else None
        if getattr(model, "reads_categories", False) and "groups" not in sizes:
            sizes["groups"] = _categories(table)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = FeatureEncoder(table.cardinalities, table.dense.shape[1], embedding, copies)
            try:
                self.body = model(self.encoder.out_width, len(self.tasks), **sizes)
            except TypeError as error:  # such as a number where a list of widths is meant
                name = getattr(model, "__name__", "the model")
                raise ValueError(f"{name} cannot be built with these sizes: {error}.") from error

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        return self.body(self.dropout(self.encoder(ids, dense)))  # (B, T)

    def form(self) -> dict[str, object]:
        """All but the weights that makes two models compute alike, by place: classes, options, shapes."""
        found: dict[str, object] = {}
        for place, part in self.named_modules():
            found[place] = type(part).__qualname__
            for name, value in vars(part).items():
                if not name.startswith("_") and name != "training":
                    found[f"{place}.{name}".lstrip(".")] = getattr(value, "__qualname__", value)
        kept = self.state_dict()
        found |= {name: (*p.shape, p.requires_grad) for name, p in self.named_parameters()}
        return found | {name: b.tolist() for name, b in self.named_buffers() if name not in kept}

    def penalty(self) -> Tensor:
        """What training adds to the loss, a scalar: ``penalty()`` of the model, 0 where it has none."""
        if hasattr(self.body, "penalty"):
            return self.body.penalty()
        return next(self.parameters()).new_zeros(())


def _categories(table: Table) -> list[str]:
    """The category of each task."""
    without = [task for task in table.tasks if task not in table.categories]
    if without:
        raise ValueError(
            f"Task {without[0]!r} has no category in the table. Give it one in Table(categories=...), or all "
            f"{len(table.tasks)} tasks theirs: groups=[...]."
        )
    return [table.categories[task] for task in table.tasks]
