"""``evaluate``, ``compare``, ``diagnose``, ``export`` and ``data``: what finished runs and data sets say."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd
import torch

from mtlkit import diagnosis, training
from mtlkit.cli import sources
from mtlkit.cli.run import Run
from mtlkit.device import pick_device
from mtlkit.illnesses import examine
from mtlkit.losses import task_losses

LOWER_IS_BETTER = ("mse", "log_loss")


def evaluate(args: argparse.Namespace) -> None:
    """Print the figures of a split of the run's own data, or of all rows of another file."""
    run = Run.finished(args.run)
    if args.predictions and Path(args.predictions).suffix not in (".csv", ".parquet"):
        raise ValueError(f"--predictions {args.predictions}: the name must end in .csv or .parquet.")
    model, device = run.model(), pick_device(args.device)
    if args.file:
        rows = sources.new_rows(run, args.file)
    else:
        opened = sources.Opened(run, run.config["data"])
        rows = opened.source(model.to(device), device).part(args.split)
    if args.predictions:
        guess = training.predict(model, rows, device=str(device))
        write = guess.to_csv if Path(args.predictions).suffix == ".csv" else guess.to_parquet
        write(args.predictions, index=False)
        print(f"{len(guess):,} predictions, in the order of the rows, are in {args.predictions}")
    if any((y == y).any() for y in rows.labels.labels.values()):
        found = training.evaluate(model, rows, device=str(device))
        print(found.to_string(float_format="{:.4f}".format))
    elif not args.predictions:
        raise ValueError(f"{args.file} has no labels to compare with; --predictions FILE writes predictions.")


def compare(args: argparse.Namespace) -> None:
    """Print mean and sd over seeds of each kind of run, and paired differences; draw both."""
    runs = [Run.finished(folder) for folder in args.runs]
    configs = [run.config for run in runs]
    for run, config in zip(runs, configs, strict=True):
        if config["data"] != configs[0]["data"]:
            raise ValueError(
                f"{run.folder} was trained on other data than {runs[0].folder}; compare runs of one."
            )
    labels = _labels(configs)
    frame = pd.concat(
        run.test().reset_index().assign(model=label, seed=config["training"]["seed"])
        for run, label, config in zip(runs, labels, configs, strict=True)
    )
    twice = frame[frame.duplicated(["model", "seed", "task"])]
    if len(twice):
        model, seed = twice.iloc[0][["model", "seed"]]
        raise ValueError(f"Two runs are {model} with seed {seed}; name each run once.")
    baseline = args.baseline or labels[0]
    if baseline not in labels:
        raise ValueError(f"--baseline {baseline!r} is none of {', '.join(dict.fromkeys(labels))}.")
    asked = args.metric or [m for m in ("auc", "gauc", "mse") if m in frame]
    gains = {}
    for metric in asked:
        if metric not in frame:
            there = frame.columns.drop(["model", "seed", "task"])
            raise ValueError(f"--metric {metric}: the runs have {', '.join(there)}.")
        some = frame.dropna(subset=[metric])
        print(f"\n{metric}, test: mean +- sd over seeds\n{_means(some, metric).to_string()}")
        if len(set(labels)) > 1:
            gains[metric] = _gains(some, metric, baseline)
            print(
                f"\n{metric} gained on {baseline}, paired by seed: mean +- 95 % interval (seeds with a gain)"
            )
            print(_written(gains[metric]).to_string())
    _draw_comparison(runs, labels, gains, baseline, args.figure)
    print(f"\nThe figure is in {args.figure}.")


def _labels(configs: Sequence[dict]) -> list[str]:
    """The model's name, and the settings in which runs of one model differ, apart from the seed."""
    flat = []
    for config in configs:
        parts = {
            name: value for part in ("sizes", "inputs", "training") for name, value in config[part].items()
        }
        flat.append({"model": config["model"]} | {n: v for n, v in parts.items() if n != "seed"})
    names = []
    for own in flat:
        same = [other for other in flat if other["model"] == own["model"]]
        differ = [n for n in own if any(other.get(n) != own[n] for other in same)]
        names.append(" ".join([own["model"], *(f"{n}={own[n]}" for n in differ)]))
    return names


def _means(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    by = frame.groupby(["model", "task"], sort=False)[metric]
    text = by.mean().map("{:.4f}".format) + by.std().map(lambda sd: "" if sd != sd else f" +- {sd:.4f}")
    table = text.unstack("task")[list(frame["task"].unique())]
    return table.assign(seeds=frame.groupby("model")["seed"].nunique())


def _gains(frame: pd.DataFrame, metric: str, baseline: str) -> pd.DataFrame:
    """Over the seeds that all models have."""
    seeds = set.intersection(*(set(part["seed"]) for _, part in frame.groupby("model")))
    if not seeds:
        raise ValueError(f"The models have no seed in common, so their {metric} cannot be paired.")
    common = frame[frame["seed"].isin(seeds)]
    return diagnosis.transfer(common, metric, baseline, higher_is_better=metric not in LOWER_IS_BETTER)


def _written(gains: pd.DataFrame) -> pd.DataFrame:
    text = gains.apply(
        lambda row: (
            f"{row['gain']:+.4f}"
            + (f" +- {row['ci95']:.4f}" if row["ci95"] == row["ci95"] else "")
            + f" ({row['wins']:.0f} of {row['seeds']:.0f})"
        ),
        axis=1,
    )
    return text.unstack("task")[list(gains.index.unique("task"))]


def _draw_comparison(
    runs: Sequence[Run], labels: Sequence[str], gains: dict[str, pd.DataFrame], baseline: str, file: str
) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mtlkit import plots

    figure, axes = plt.subplots(
        1 + len(gains), figsize=(7, 3.4 * (1 + len(gains))), layout="constrained", squeeze=False
    )
    histories = [run.history().assign(model=label) for run, label in zip(runs, labels, strict=True)]
    plots.loss_curves(pd.concat(histories), "model", "validation/loss", axes[0, 0])
    for ax, (metric, table) in zip(axes[1:, 0], gains.items(), strict=True):
        plots.seesaw(table, metric, ax)
        ax.set_ylabel(f"{metric} gained on {baseline}")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def diagnose(args: argparse.Namespace) -> None:
    """Print and draw what happens inside a trained model, on rows of its validation split."""
    run = Run.finished(args.run)
    model, config = run.model(), run.config
    rows = sources.Opened(run, config["data"]).some(model, "validation", args.rows)
    tasks, kinds = list(model.tasks), list(config["features"]["tasks"].values())
    folder = run.folder / "diagnosis"
    folder.mkdir(exist_ok=True)
    matplotlib.use("Agg")
    from mtlkit import plots

    def keep(name: str, what: str, table: pd.DataFrame, ax: object) -> None:
        print(f"\n{what}\n{table.to_string(float_format='{:.3f}'.format)}")
        run.save_text(folder / f"{name}.csv", table.to_csv())
        ax.figure.savefig(folder / f"{name}.png", dpi=110)

    below = [p for name, p in model.named_parameters() if "towers" not in name]
    cosines = diagnosis.gradient_cosine(task_losses(model(rows.ids, rows.dense), rows.labels, kinds), below)
    table = pd.DataFrame(cosines.numpy(), tasks, tasks)
    what = (
        f"Cosine of the tasks' gradients below the towers, {len(rows):,} validation rows (below 0: conflict)"
    )
    keep("gradient_cosine", what, table, plots.cosine_table(table.to_numpy(), tasks))
    try:
        report = examine(model, rows.ids, rows.dense, tasks=tasks)
    except ValueError as none:
        print(f"\n{none}")
    else:
        for level, weights in enumerate(report.weights, start=1):
            what = f"Mean weight of each expert (columns) at each gate (rows), level {level}"
            ax = plots.expert_use(weights.to_numpy(), list(weights.index))
            ax.set_xticks(range(weights.shape[1]), weights.columns)
            keep(f"gates_{level}", what, weights, ax)
            experts = report.experts.loc[level]
            keep(
                f"experts_{level}",
                f"Outputs of the experts, level {level}",
                experts,
                plots.expert_outputs(experts),
            )
        shares = report.gates.to_string(float_format="{:.3f}".format)
        print(f"\nShares of own, shared and other experts\n{shares}")
        run.save_text(folder / "shares.csv", report.gates.to_csv())
        print(f"\nIllnesses (HoME paper)\n{report}")
    print(f"\nTables and figures are in {folder}.")


def export(args: argparse.Namespace) -> None:
    """Write the trained model with torch.export, any number of rows, and compare it with the model."""
    run = Run.finished(args.run)
    model = run.model()
    inputs = _made_up(run, 256)
    rows = torch.export.Dim("rows", max=2**31)  # torch 2.6 refuses some models without a bound
    program = torch.export.export(model, inputs, dynamic_shapes=({0: rows}, {0: rows}))
    file = args.file or str(run.folder / "model.pt2")
    torch.export.save(program, file)
    again, worst = torch.export.load(file).module(), 0.0
    with torch.no_grad():
        for count in (256, 1000, 2):
            inputs = _made_up(run, count)
            worst = max(worst, (again(*inputs) - model(*inputs)).abs().max().item())
    if not worst < 1e-4:
        Path(file).unlink()
        raise ValueError(f"The exported model differs from the model by {worst:g}; {file} was removed.")
    print(f"{file}: model(ids, dense) -> logits, any number of rows")
    for name, columns in (("ids", run.config["features"]["fields"]), ("dense", model.dense_names)):
        print(f"{name}: {', '.join(columns) or 'none'}")
    print(f"logits: {', '.join(model.tasks)}")
    print(f"largest difference to the model on batches of 256, 1000 and 2 rows: {worst:.1e}")


def _made_up(run: Run, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    features = run.config["features"]
    random = torch.Generator().manual_seed(rows)
    ids = [torch.randint(size, (rows, 1), generator=random) for size in features["fields"].values()]
    ids = torch.cat([torch.zeros(rows, 0, dtype=torch.long), *ids], dim=1)
    return ids, torch.randn(rows, len(features["dense"]), generator=random)


def data(args: argparse.Namespace) -> None:
    """Load a data set, which downloads and checks it where it is not there, and say what it holds."""
    args.stream, args.buffer = False, None
    wanted = sources.asked(args)
    found = sources.table(wanted)
    print(found.summary().to_string(index=False, float_format="{:.4f}".format))
    sizes = dict(zip(found.fields, found.cardinalities, strict=True))
    print(
        f"\n{len(sizes)} categorical fields (ids): "
        + ", ".join(f"{n} ({size:,})" for n, size in sizes.items())
    )
    print(f"{len(found.dense_names)} dense features: " + ", ".join(found.dense_names))
    if found.users is not None:
        print(f"{len(pd.unique(found.users)):,} users")
    for name, value in found.notes.items():
        if isinstance(value, str | int | float | tuple):
            print(f"{name}: {value}")
