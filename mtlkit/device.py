"""Where tensors live: one rule for training, notebooks and checks."""

from __future__ import annotations

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
