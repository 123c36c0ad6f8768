"""A training run on the disk: whole or not there, and a killed run goes on from it to the same result."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from mtlkit.parallel import first_does, gather, place

_FACTS = "mtlkit"  # the one entry of a file's metadata


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Tensors and JSON facts as one safetensors file, written beside ``path`` and then renamed."""
    from safetensors.torch import save_file

    # a file of its own for each tensor's memory: views of one another would be refused
    own = {name: x.detach().to("cpu", copy=True).contiguous() for name, x in tensors.items()}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(own, temporary, metadata={_FACTS: _text(facts)})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """What ``write`` wrote. Raises ``ValueError`` with one sentence for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = (file.metadata() or {})[_FACTS]
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(facts)
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or was not written by mtlkit ({type(error).__name__})."
        ) from error


def _text(facts: Mapping[str, object]) -> str:
    return json.dumps(facts, default=lambda number: number.item())  # numpy's numbers as Python's


class Checkpoint:
    """Keeps weights, the best weights, AdamW's state, the schedule and random states in one file.

    ``settings`` say what the run is; a file of other settings is refused. With several processes, process 0
    writes, and all must see the file. ``every``: steps between two writes, besides one after each epoch.
    """

    def __init__(self, path: str | Path, every: int | None, settings: dict) -> None:
        import safetensors.torch  # noqa: F401  where it is missing, say so before the training

        self.path, self.every = Path(path), every
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise ValueError(f"The checkpoint {path} cannot be written: give a file in a folder that exists.")
        self.settings = json.loads(_text(settings | {"processes": place()[1]}))  # tuples as lists

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        cycle: torch.optim.lr_scheduler.LRScheduler | None,
        best: Mapping[str, Tensor] | None,
        sums: Mapping[str, Tensor],
        facts: dict,
    ) -> None:
        """All processes call it: their ``sums`` and random states differ, all else is equal."""
        where = next(iter(sums.values())).device
        random = {"cpu": torch.get_rng_state()}
        if where.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(where)
        own = {f"own.{name}": gather(x.unsqueeze(0)) for name, x in sums.items()}
        own |= {f"random.{name}": gather(x.unsqueeze(0).to(where)) for name, x in random.items()}
        tensors = {f"model.{name}": x for name, x in model.state_dict().items()} | own
        tensors |= {f"best.{name}": x for name, x in (best or {}).items()}
        states = optimizer.state_dict()
        for number, state in states["state"].items():
            tensors |= {f"optimizer.{number}.{name}": x for name, x in state.items()}
        facts = {"settings": self.settings, "groups": states["param_groups"], "run": facts}
        facts["cycle"] = cycle.state_dict() if cycle else None
        first_does(lambda: write(self.path, tensors, facts))  # a full disk stops all

    def load(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        cycle: torch.optim.lr_scheduler.LRScheduler | None,
        sums: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor] | None, dict] | None:
        """Put everything back where ``save`` took it from; the best weights and the facts. None: no file."""
        if not self.path.exists():
            return None
        try:
            tensors, facts = read(self.path)
        except ValueError as error:
            raise ValueError(f"{error} Remove it to start from the beginning.") from error
        for name, value in self.settings.items():
            if facts["settings"].get(name) != value and name in ("model", "data"):
                other = "another model" if name == "model" else "other data"
                raise ValueError(
                    f"{self.path} belongs to a run with {other}; continue with the same, or remove the file."
                )
            if facts["settings"].get(name) != value:
                raise ValueError(
                    f"{self.path} belongs to a run with {name}={facts['settings'].get(name)!r}, this one has "
                    f"{value!r}; continue with the same settings, or remove the file."
                )
        parts: dict[str, dict[str, Tensor]] = {}
        for name, x in tensors.items():
            kind, rest = name.split(".", 1)
            parts.setdefault(kind, {})[rest] = x
        model.load_state_dict(parts["model"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, x in parts.get("optimizer", {}).items():
            number, field = name.split(".")
            state.setdefault(int(number), {})[field] = x
        groups = [group | {"betas": tuple(group["betas"])} for group in facts["groups"]]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        if cycle:
            cycle.load_state_dict(facts["cycle"])
        rank = place()[0]
        for name, x in sums.items():
            x.copy_(parts["own"][name][rank])
        # torch 2.13 crashes on a state that is a view into a larger tensor
        random = {name: x[rank].clone() for name, x in parts["random"].items()}
        torch.set_rng_state(random["cpu"])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"])
        return parts.get("best"), facts["run"]
