"""``python -m mtlkit``: train, evaluate, compare, diagnose, export, data."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

PARTS = ("pyarrow", "safetensors")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it did what was asked, 1 after one sentence about what went wrong."""
    args = arguments(argv)
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _say(f"Note: {message}")
            _command(args.command)(args)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on with a run from its last checkpoint.", file=sys.stderr)
        return 130
    except ModuleNotFoundError as missing:
        if args.traceback or missing.name.split(".")[0] not in PARTS:
            raise
        print(f"This needs {missing.name.split('.')[0]}: run `pip install 'mtlkit[cli]'`.", file=sys.stderr)
        return 1
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        if args.traceback:
            raise
        _say(error)
        return 1
    return 0


def _say(what: object) -> None:
    """Under torchrun all processes have the same to say: one does."""
    if os.environ.get("RANK", "0") == "0":
        print(what, file=sys.stderr)


def _command(name: str):
    """Its function; what it needs is imported for it alone."""
    if name == "train":
        from mtlkit.cli.train import train

        return train
    from mtlkit.cli import report

    return getattr(report, name)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mtlkit", description="Train and study multi-task models from the command line."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        found.add_argument("--threads", type=_count, help="threads of torch; small models are fastest with 1")
        found.add_argument("--traceback", action="store_true", help="show where an error came from")
        return found

    def describe_data(found: argparse.ArgumentParser) -> None:
        found.add_argument(
            "--data-set", nargs="*", default=[], metavar="NAME=VALUE", help="its arguments, rows=20000"
        )
        found.add_argument("--schema", help="TOML or JSON file that says what the columns of a file are")
        found.add_argument("--tasks", nargs="+", metavar="TASK", help="these only, in this order")

    names = (
        "census, kuairand, short_video, relatedness; or a .csv or .parquet file, or a folder of the latter"
    )
    device = {"help": "cpu or cuda; else MTLKIT_DEVICE, else cpu"}

    train = command(
        "train", "Train a model and write a run folder; the same call goes on with a stopped run."
    )
    train.add_argument("--model", required=True, help="such as SharedBottom, MMoE, PLE or HoME")
    train.add_argument("--data", required=True, help=names)
    train.add_argument("--out", required=True, metavar="RUN", help="the run folder")
    train.add_argument("--overwrite", action="store_true", help="remove the run that is in the folder")
    train.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="sizes: experts=8 expert=64,32 levels=64/32",
    )
    describe_data(train)
    train.add_argument(
        "--stream", action="store_true", help="do not load the file: for logs larger than memory"
    )
    train.add_argument("--buffer", type=_count, default=1 << 19, help="rows that a stream shuffles at a time")
    train.add_argument("--embedding", type=_count, default=8, help="width of a field's embedding")
    train.add_argument("--dropout", type=float, default=0.0, help="of the inputs")
    train.add_argument("--epochs", type=int, default=20, help="at most")
    train.add_argument(
        "--batch-size", type=int, default=1024, help="rows of a step, of all processes together"
    )
    train.add_argument("--lr", type=float, default=1e-3, help="learning rate; with a schedule its peak")
    train.add_argument("--weight-decay", type=float, default=0.0, help="of AdamW")
    train.add_argument("--schedule", choices=["one_cycle"], help="of the learning rate")
    train.add_argument(
        "--task-weights", nargs="*", default=[], metavar="TASK=WEIGHT", help="1 for the others"
    )
    train.add_argument("--patience", type=_count_or_never, default=3, help="epochs without a gain, or never")
    train.add_argument(
        "--monitor", default="loss", help="validation figure that decides: loss, auc/TASK, ..."
    )
    train.add_argument("--seed", type=int, default=0, help="of starting weights, shuffling and dropout")
    train.add_argument("--device", **device)
    train.add_argument("--checkpoint-steps", type=int, help="steps between checkpoints, besides one an epoch")
    train.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")

    evaluate = command("evaluate", "Figures of a trained model, on its own data or on another file.")
    evaluate.add_argument("run", metavar="RUN")
    evaluate.add_argument(
        "--data", dest="file", help="a file with the columns of the run's own; all rows count"
    )
    evaluate.add_argument(
        "--split", choices=["train", "validation", "test"], default="test", help="of its own data"
    )
    evaluate.add_argument("--predictions", metavar="FILE", help="write them here, .csv or .parquet")
    evaluate.add_argument("--device", **device)

    compare = command("compare", "Mean and sd over seeds, and paired differences, of finished runs.")
    compare.add_argument("runs", nargs="+", metavar="RUN")
    compare.add_argument("--baseline", help="whom the others are compared with; else the first run's model")
    compare.add_argument(
        "--metric", nargs="+", help="auc, gauc, log_loss, mse or r2; else those that are there"
    )
    compare.add_argument("--figure", default="comparison.png", metavar="FILE", help="where to draw it")

    diagnose = command("diagnose", "Expert use, gradient cosines and illnesses of a trained model.")
    diagnose.add_argument("run", metavar="RUN")
    diagnose.add_argument("--rows", type=_count, default=8192, help="how many validation rows to look at")

    export = command("export", "Write a trained model with torch.export and check it against the model.")
    export.add_argument("run", metavar="RUN")
    export.add_argument("--file", help="else RUN/model.pt2")

    data = command(
        "data", "Load a data set, downloading and checking it where needed, and say what it holds."
    )
    data.add_argument("data", metavar="NAME|FILE", help=names)
    describe_data(data)
    return parser.parse_args(argv)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _count_or_never(text: str) -> int | None:
    if text == "never":
        return None
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of epochs nor 'never'")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
