"""Where tensors live: one rule for training, notebooks and checks."""

from __future__ import annotations

import ctypes
import os

import torch


def pick_device(name: str | None = None) -> torch.device:
    """The device that ``name``, else the environment variable MTLKIT_DEVICE, else "cpu" says.

    Raises ``RuntimeError`` when CUDA is asked for and this machine has none, ``ValueError`` for a name
    that torch does not know.
    """
    asked = name or os.environ.get("MTLKIT_DEVICE") or "cpu"
    origin = "device" if name else "MTLKIT_DEVICE"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise ValueError(f"{origin}={asked!r} is no torch device; use 'cpu' or 'cuda'.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"{origin}={asked!r}, but torch finds no CUDA device on this machine. Use 'cpu' instead."
        )
    return device


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, so that the next training step finds it again.

    glibc hands large blocks back to the system after each step, and the system clears their pages again in
    the next one; that costs up to a quarter of a step. Afterwards the process stays as large as it has
    been at its largest. Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: how much may lie free at the end of the heap
    mallopt(-4, 0)  # M_MMAP_MAX: no blocks outside of the heap
