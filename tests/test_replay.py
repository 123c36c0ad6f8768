"""A recorded function gives what the function gives, and one compiled graph is never taken for another."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

from mtlkit.replay import Replayed


def test_python_runs_once_per_shape_and_tensors_are_changed_in_place_once_per_call():
    calls = []

    def step(weight, x):
        calls.append(x.shape)
        weight.add_(vmap(torch.sum)(x))
        return weight * 2

    replayed, weight = Replayed(step), torch.zeros(3)
    for rows in (4, 4, 5, 4):
        given, before = torch.randn(3, rows), weight.clone()
        out = replayed(weight, given)
        torch.testing.assert_close(weight, before + given.sum(dim=1))
        torch.testing.assert_close(out, 2 * weight)
    assert calls == [(3, 4), (3, 5)]


@pytest.mark.heavy
def test_two_functions_that_differ_in_a_constant_are_compiled_each():
    def signs(first: bool):
        return lambda x: torch.where(torch.tensor([first, not first]), x, -x)

    x = torch.randn(3, 2)
    for first in (True, False):
        torch.testing.assert_close(Replayed(signs(first), compile=True)(x), signs(first)(x))
