"""What test_parallel.py runs under torchrun, and in its own process: trains and evaluates, writes JSON.

torchrun --nproc_per_node 2 tests/parallel_worker.py FOLDER
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import torch
import torch.distributed as dist

from mtlkit import data, models, training
from mtlkit.data.encoder import Encoder
from mtlkit.data.files import Log
from mtlkit.data.schema import Schema
from mtlkit.parallel import place
from mtlkit.rows import TableSource
from mtlkit.stream import Stream

MODELS = {
    "SingleTask": {"bottom": [8]},
    "SharedBottom": {"bottom": [8], "tower": [4]},
    "OMoE": {"experts": 3, "expert": [8]},
    "MMoE": {"experts": 3, "expert": [8]},
    "MLMMoE": {},
    "L2Constrained": {"bottom": [8]},
    "CrossStitch": {"bottom": [8]},
    "SNRTrans": {"experts": 3, "levels": [[4]]},
    "CGC": {},
    "PLE": {},
    "AdaTT": {},
    "HoME": {"rank": 4},
}
CPU = torch.device("cpu")


def results(folder: Path) -> dict:
    """Histories and figures, by name. All processes call it."""
    torch.set_num_threads(1)
    found = {}
    table = data.short_video(4000, seed=1).select(("long_view", "click"))
    for name, sizes in MODELS.items():
        model = models.Recommender(table, getattr(models, name), **sizes)
        options = {"epochs": 2, "batch_size": 101, "lr": 1e-2, "progress": False}
        history = training.fit(model, table, **options).drop(columns="seconds")
        found[name] = history.to_dict("list")
    # one and the same model for all: its figures must be equal to the last bit
    model = models.Recommender(table, models.MMoE, seed=3)
    source = TableSource(table, model, CPU)
    found["figures"] = training.evaluate(model, source.part("test")).to_dict()
    log = Log(folder / "log.parquet")
    encoder = Encoder.fit(log, Schema.of(tomllib.loads((folder / "schema.toml").read_text())))
    stream = Stream(log, encoder, buffer=300)
    model = models.Recommender(encoder.frame(), models.MMoE, seed=3)
    found["stream figures"] = training.evaluate(model, stream.part("test")).to_dict()
    epoch = list(stream.epoch(1, 64, seed=0))
    counts = torch.tensor([sum(map(len, epoch)), len(epoch)])
    if place()[1] > 1:
        both = [torch.zeros_like(counts) for _ in range(2)]
        dist.all_gather(both, counts)
        found["rows and steps by process"] = torch.stack(both).tolist()
    found["stream rows"] = int(stream.counts[:, 0].sum())
    found["stream"] = training.fit(model, stream, epochs=3, batch_size=64, lr=1e-2, progress=False).to_dict(
        "list"
    )
    found["whole"], found["resumed"] = resumed(table, folder / f"{place()[1]}.safetensors")
    return found


def resumed(table: data.Table, file: Path) -> tuple[dict, dict]:
    """Histories of a run with dropout, and of one that stopped in its second epoch and went on."""
    options = {"epochs": 3, "batch_size": 101, "lr": 1e-2, "progress": False, "checkpoint_steps": 7}

    def run(**more: object) -> dict:
        model = models.Recommender(table, models.MMoE, dropout=0.2, experts=2, expert=[8])
        more and model.register_forward_pre_hook(more.pop("hook", lambda *_: None))
        return training.fit(model, table, **options, **more).drop(columns="seconds").to_dict("list")

    steps = 0

    def stop(model: torch.nn.Module, _: object) -> None:
        nonlocal steps
        steps += model.training
        if steps > 40:  # of 26 an epoch
            raise KeyboardInterrupt

    whole = run()
    try:
        run(checkpoint=file, hook=stop)
    except KeyboardInterrupt:
        pass
    return whole, run(checkpoint=file)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    made = results(Path(sys.argv[1]))
    if place()[0] == 0:
        (Path(sys.argv[1]) / "two.json").write_text(json.dumps(made))
    dist.destroy_process_group()
