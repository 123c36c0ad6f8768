"""Who uses which expert: the weights found in a model, their means and entropies."""

from __future__ import annotations

import math

import pytest
import torch

from mtlkit import diagnosis, models


def test_gate_weights_are_those_that_the_model_used():
    torch.manual_seed(0)
    model, x = models.MMoE(6, tasks=3, experts=4, expert=[5]), torch.randn(7, 6)
    found = diagnosis.gate_weights(model, x)
    assert list(found) == ["gates"] and not found["gates"].requires_grad
    torch.testing.assert_close(found["gates"], model.gates(x).detach())
    assert not any(part._forward_hooks for part in model.modules())


def test_a_model_without_gates_has_none_and_a_failing_one_keeps_no_hook():
    assert diagnosis.gate_weights(models.SharedBottom(6, 2, bottom=[4]), torch.randn(3, 6)) == {}
    model = models.OMoE(6, tasks=2, experts=3, expert=[4])
    with pytest.raises(ValueError):
        diagnosis.gate_weights(model, torch.randn(3, 5))
    assert not any(part._forward_hooks for part in model.modules())


def test_expert_use_tells_equal_shares_from_taking_turns():
    weights = torch.tensor([[[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]]])
    use = diagnosis.expert_use(weights)
    torch.testing.assert_close(use.mean, torch.full((2, 2), 0.5))
    torch.testing.assert_close(use.entropy, torch.tensor([math.log(2), 0.0]))
