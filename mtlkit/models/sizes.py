"""Equal budgets: how large a model is, and how wide another must be to match it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars, biases and gates included."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def shared_bottom_width(
    in_width: int, tasks: int, experts: int, expert: Sequence[int], tower: Sequence[int] = ()
) -> int:
    """Width of the one-layer Shared-Bottom with the budget of an MMoE, counted as the MMoE paper does.

    Ma et al. (KDD 2018), section 5, counts the weights of experts (or bottom) and towers only: no gates,
    no biases, no output units. Its sizes give 100*16*8 + 16*8*2 = 13056 weights, so a width of 113:

    >>> shared_bottom_width(100, 2, experts=8, expert=[16], tower=[8])
    113

    ``match_width`` counts everything and takes any pair of models.
    """
    budget = experts * _weights([in_width, *expert]) + tasks * _weights([expert[-1], *tower])
    per_unit = in_width + tasks * sum(tower[:1])
    return round((budget - tasks * _weights(tower)) / per_unit)


def match_width(build: Callable[[int], nn.Module], budget: int, tolerance: float = 0.05) -> int:
    """The width w whose model ``build(w)`` comes nearest to ``budget`` parameters.

    >>> budget = count_parameters(MMoE(100, 2, experts=8, expert=[16], tower=[8]))    # doctest: +SKIP
    >>> match_width(lambda w: SharedBottom(100, 2, bottom=[w], tower=[8]), budget)    # doctest: +SKIP

    ``build`` must grow with w; it is called without memory for weights, so a large budget costs nothing.
    Raises ``ValueError`` when the nearest width is off by more than ``tolerance`` (a share of the budget).
    """

    def size(width: int) -> int:
        with torch.device("meta"):
            return count_parameters(build(width))

    low, high = 0, 1  # size(low) < budget <= size(high), 0 standing for no model at all
    while size(high) < budget:
        if high > budget:
            raise ValueError("match_width: build(w) does not grow with w.")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < budget else (low, middle)
    best = min((w for w in (low, high) if w > 0), key=lambda w: abs(size(w) - budget))
    if abs(size(best) - budget) > tolerance * budget:
        raise ValueError(
            f"No width matches {budget} parameters within {tolerance:.0%}: "
            f"width {best} has {size(best)}. Change the other sizes."
        )
    return best


def _weights(widths: Sequence[int]) -> int:
    return sum(a * b for a, b in pairwise(widths))
