"""Several processes that train one model together: who am I, sums and rows over all of them.

``torchrun`` starts the processes and ``torch.distributed.init_process_group`` joins them. Without that
there is one process, and nothing here does anything.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mtlkit.layers import ExpertNorm


def place() -> tuple[int, int]:
    """This process's number, from 0, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share(rows: int) -> slice:
    """Which of ``rows`` rows are this process's: neighbouring rows, in the order of the processes."""
    rank, processes = place()
    return slice(rows * rank // processes, rows * (rank + 1) // processes)


def add_up(x: Tensor) -> Tensor:
    """``x``, which becomes the sum over all processes."""
    if place()[1] > 1:
        dist.all_reduce(x)
    return x


def gather(x: Tensor) -> Tensor:
    """All processes' rows in the order of the processes.   (N_r, ...) -> (N, ...)

    The processes may have different numbers of rows, also none.
    """
    processes = place()[1]
    if processes == 1:
        return x
    counts = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(processes)]
    dist.all_gather(counts, torch.tensor([len(x)], device=x.device))
    longest = int(max(counts))
    padded = torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])])
    parts = [torch.empty_like(padded) for _ in range(processes)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


class _SumOfAll(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of all their gradients."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return add_up(x.clone())

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return add_up(grad.clone())


class _SharedNorm(ExpertNorm):
    """An ``ExpertNorm`` whose batch are the rows of all processes; they may have different numbers."""

    def forward(self, z: Tensor) -> Tensor:
        shared = self.training and place()[1] > 1
        rows = int(add_up(torch.tensor(len(z), device=z.device))) if shared else 0
        if rows < 2:
            return super().forward(z)
        mean = _SumOfAll.apply(z.sum(dim=0)) / rows  # (E, H)
        centred = z - mean  # (B, E, H)
        variance = _SumOfAll.apply(centred.square().sum(dim=0)) / rows
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * rows / (rows - 1), self.momentum)
        return self.weight * centred * (variance + self.eps).rsqrt() + self.bias  # (B, E, H)


def together(model: nn.Module) -> nn.Module:
    """``model`` with gradients that are the mean over all processes (DDP); itself for one process.

    The batch norms of ``Experts`` see the rows of all processes, others those of their own process;
    ``average_buffers`` joins their running averages.
    """
    if place()[1] == 1:
        return model
    for module in model.modules():
        if type(module) is ExpertNorm:
            module.__class__ = _SharedNorm  # the same weights and averages
    with warnings.catch_warnings():  # its new name is not in all releases of torch that we support
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False)


def average_buffers(model: nn.Module) -> None:
    """Give all processes the mean of their running averages, so that they evaluate one model."""
    processes = place()[1]
    if processes > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                add_up(buffer).div_(processes)


class FirstStopped(RuntimeError):
    """Process 0 failed in ``first_does``, and says why itself."""


def first_does(action: Callable[[], object]) -> None:
    """Let process 0 do ``action()`` while the others wait; nobody goes on after its error.

    The others raise ``FirstStopped``.
    """
    rank, processes = place()
    error: Exception | None = None
    if rank == 0:
        try:
            action()
        except Exception as raised:
            error = raised
    if processes > 1:
        said = [None if error is None else f"{error}"]
        dist.broadcast_object_list(said)
        if rank and said[0] is not None:
            raise FirstStopped(f"Process 0 stopped: {said[0]}")
    if error is not None:
        raise error
