"""``train``: one run folder per call; the same call goes on with a run that was stopped."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
import pandas as pd
import torch
import torch.distributed as dist
from tqdm import tqdm

from mtlkit import training
from mtlkit.cli import options, sources
from mtlkit.cli.run import Run
from mtlkit.device import pick_device
from mtlkit.parallel import FirstStopped, first_does, place

# fit's arguments that the config keeps
_FIT = (
    "epochs",
    "batch_size",
    "lr",
    "weight_decay",
    "schedule",
    "task_weights",
    "patience",
    "monitor",
    "seed",
)


def train(args: argparse.Namespace) -> None:
    """Train, and fill the folder ``args.out``."""
    asked = {
        "model": args.model,
        "sizes": options.sizes(args.model, args.set),
        "inputs": {"embedding": args.embedding, "dropout": args.dropout},
        "data": sources.asked(args),
        "training": {name: getattr(args, name) for name in _FIT}
        | {"task_weights": options.parse(args.task_weights, "--task-weights")},
    }
    asked = json.loads(json.dumps(asked))  # as it will be read again
    run = Run(args.out)
    with processes(args.device) as device:
        first_does(lambda: run.claim(asked, args.overwrite))
        try:
            _train(run, asked, device, args)
        except Exception:
            if place()[0] == 0:
                run.release()
            raise


def _train(run: Run, asked: dict, device: torch.device, args: argparse.Namespace) -> None:
    """All but the claim of the folder, in each process."""
    opened = sources.Opened(run, asked["data"], args.progress)
    first_does(lambda: run.note_features(opened.frame))
    model = run.build().to(device)
    source = opened.source(model, device)
    history = training.fit(
        model,
        source,
        **asked["training"],
        device=str(device),
        progress=args.progress,
        checkpoint=run.checkpoint,
        checkpoint_steps=args.checkpoint_steps,
        each_epoch=lambda so_far: _report(run, so_far, args.monitor),
    )
    test = None
    if sources.has(source, "test"):
        test = training.evaluate(model, source.part("test"), device=str(device))
    if place()[0] == 0:
        curves(history, run)
        run.finish(model, history, test)
        print(f"best epoch {history.attrs['best_epoch']} of {len(history)}; the run is in {run.folder}")
        if test is not None:
            print(f"\ntest\n{test.to_string(float_format='{:.4f}'.format)}")


@contextmanager
def processes(device: str | None) -> Iterator[torch.device]:
    """The device of this process; under torchrun the processes are joined meanwhile."""
    where = pick_device(device)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield where
        return
    if where.type == "cuda":
        where = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(where)
    # DDP's hint on the layout of width-one gradients; nothing that a user could change
    warnings.filterwarnings("ignore", "Grad strides do not match")
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield where
    except Exception as error:
        # arguments are wrong in all processes, and the first one says it; this happened in one of the others
        if place()[0] and type(error) is not ValueError and not isinstance(error, FirstStopped):
            print(f"Process {place()[0]}: {error}", file=sys.stderr)
        raise
    finally:
        dist.destroy_process_group()


def _report(run: Run, history: pd.DataFrame, monitor: str) -> None:
    run.save_history(history)
    last = history.iloc[-1]
    names = [
        "validation/loss",
        f"validation/{monitor}",
        *(n for n in history if n.startswith("validation/auc")),
    ]
    figures = ", ".join(
        f"{name.removeprefix('validation/')} {last[name]:.4f}" for name in dict.fromkeys(names)
    )
    tqdm.write(f"epoch {last['epoch']:.0f}, validation: {figures}", file=sys.stdout)


def curves(history: pd.DataFrame, run: Run) -> None:
    """Draw training and validation loss of each task over the epochs."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mtlkit.plots import new_axes, style

    tasks = [name.removeprefix("train/loss/") for name in history if name.startswith("train/loss/")]
    ax = new_axes()
    for i, task in enumerate(tasks):
        look = style(i)
        ax.plot(history["epoch"], history[f"train/loss/{task}"], ":", color=look["color"])
        ax.plot(history["epoch"], history[f"validation/loss/{task}"], label=task, **look, markersize=4)
    ax.axvline(history.attrs["best_epoch"], color="0.8", zorder=0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("epoch (grey: the best one)")
    ax.set_ylabel("loss; dotted: training")
    ax.set_yscale("log")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.figure.savefig(run.folder / "learning_curves.png", dpi=110)
    plt.close(ax.figure)
