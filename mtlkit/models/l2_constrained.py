"""L2-Constrained: two networks held together by a penalty (Duong et al., ACL 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mtlkit.models.single_task import SingleTask


class L2Constrained(SingleTask):
    """A network for each of two tasks, their weights pulled together.   x (B, D) -> logits (B, 2)

    Duong et al., "Low Resource Dependency Parsing" (ACL 2015), as the MMoE paper (KDD 2018, section 6.1)
    uses it. Nothing is shared in the forward pass; add ``penalty()`` to the loss. ``alpha`` is its
    strength: 0 is Single-Task, infinity is one network. Both tasks read the same embeddings.
    Raises ``ValueError`` unless there are two tasks: the penalty is defined for a pair.
    """

    private_inputs = False

    def __init__(
        self,
        in_width: int,
        tasks: int,
        bottom: Sequence[int],
        tower: Sequence[int] = (),
        alpha: float = 1e-3,
    ) -> None:
        if tasks != 2:
            raise ValueError(f"L2-Constrained is defined for two tasks, not {tasks}.")
        super().__init__(in_width, tasks, bottom, tower)
        self.alpha = alpha

    def penalty(self) -> Tensor:
        """What to add to the loss (a scalar)."""
        # MMoE paper, section 6.1: alpha ||theta_1 - theta_2||^2; dimension 0 of every parameter is the task
        return self.alpha * sum(p.diff(dim=0).square().sum() for p in self.parameters())
