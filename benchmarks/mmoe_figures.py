"""Figures 4 and 5 of the MMoE paper (Ma et al., KDD 2018): Shared-Bottom, OMoE and MMoE at equal budgets.

Synthetic regression, 100 features, cosine of the task weights 0.5, 0.9 and 1; 8 experts of 16 units, towers
of 8; Shared-Bottom 113 wide (the same number of weights). Every run has fresh data and fresh weights; runs of
different models and cosines share their seeds, so that they can be paired. Adam; for each model the learning
rate of the paper's grid with the lowest mean validation loss in a pilot (its seeds are not used again).
All runs of a cell are trained together (`mtlkit.ensemble.fit_many`).

    python benchmarks/mmoe_figures.py --runs 200 --out build/mmoe_figures.csv
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import pandas as pd
import torch

from mtlkit import data
from mtlkit.ensemble import fit_many
from mtlkit.models import MMoE, OMoE, Recommender, SharedBottom

COSINES = (0.5, 0.9, 1.0)
MODELS = {
    "Shared-Bottom": (SharedBottom, {"bottom": [113], "tower": [8]}),
    "OMoE": (OMoE, {"experts": 8, "expert": [16], "tower": [8]}),
    "MMoE": (MMoE, {"experts": 8, "expert": [16], "tower": [8]}),
}
RATES = (1e-4, 1e-3, 1e-2)
BAD = 1.5  # a run is bad when its loss is this many times the median of its cell


def cell(
    name: str, cosine: float, lr: float, seeds: range, epochs: int, rows: int, batch: int
) -> pd.DataFrame:
    """The histories of one model at one cosine; `loss` is the held-out MSE over the label's variance."""
    kind, sizes = MODELS[name]
    parts = []
    for start in range(seeds.start, seeds.stop, 25):  # 25 tables at a time: 200 would fill the memory
        some = range(start, min(start + 25, seeds.stop))
        tables = [data.relatedness(cosine, rows=rows, fractions=(0.8, 0.2, 0), seed=seed) for seed in some]
        models = [Recommender(t, kind, seed=seed, **sizes) for seed, t in zip(some, tables, strict=True)]
        history = fit_many(models, tables, epochs=epochs, batch_size=batch, lr=lr, seeds=some, progress=False)
        variance = pd.Series([float(t.labels["task_1"].var()) for t in tables])
        history["loss"] = history["validation/loss/task_1"] / history["run"].map(variance)
        parts.append(history.assign(run=history["run"] + start, model=name, cosine=cosine, lr=lr))
    columns = ["model", "cosine", "lr", "run", "step", "loss"]
    return pd.concat(parts, ignore_index=True)[columns]


def paired(last: pd.DataFrame, a: tuple[str, float], b: tuple[str, float]) -> str:
    gap = last[a] - last[b]
    error = gap.std() / len(gap) ** 0.5
    above = f"above 0 in {(gap > 0).sum()} of {len(gap)}"
    return f"{gap.mean():+.4f} +- {error:.4f} (standard error, paired), {above}"


def main() -> None:
    """Pilot, runs, table, and the paper's three claims."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--pilot", type=int, default=10, help="runs for each learning rate")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--rows", type=int, default=12_800, help="four fifths are for training")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--out", type=Path, help="CSV for all histories")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = (options.epochs, options.rows, options.batch)
    start = time.perf_counter()

    pilot = range(10_000, 10_000 + options.pilot)
    rates = {}
    print(f"pilot: mean loss over {options.pilot} runs at cosine 0.5, 0.9, 1")
    for name in MODELS:
        means = {}
        for lr in RATES:
            tried = pd.concat([cell(name, cosine, lr, pilot, *sizes) for cosine in COSINES])
            means[lr] = tried[tried["step"] == tried["step"].max()]["loss"].mean()
        rates[name] = min(means, key=means.get)
        print(f"  {name:13} " + ", ".join(f"lr {lr:g}: {loss:.4f}" for lr, loss in means.items()))

    cells = itertools.product(MODELS, COSINES)
    runs = pd.concat([cell(name, cosine, rates[name], range(options.runs), *sizes) for name, cosine in cells])
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        runs.to_csv(options.out, index=False)
    last = runs[runs["step"] == runs["step"].max()].pivot(
        index="run", columns=["model", "cosine"], values="loss"
    )
    table = last.agg(["mean", "std", "median", "min"]).T
    table["bad runs"] = (last > BAD * last.median()).mean()
    print(f"\nheld-out MSE / variance of task 1 after {runs['step'].max()} steps, {options.runs} runs a cell")
    print(table.round(4).to_string())
    print("\nclaim 1, related tasks are easier (loss at 0.5 minus loss at 1):")
    for name in MODELS:
        print(f"  {name:13} {paired(last, (name, 0.5), (name, 1.0))}")
    print("claim 2, low correlation hurts OMoE and hardly MMoE (OMoE minus MMoE):")
    for cosine in COSINES:
        print(f"  cosine {cosine:<6} {paired(last, ('OMoE', cosine), ('MMoE', cosine))}")
    print("claim 3, Shared-Bottom spreads most (standard deviation over runs):")
    for cosine in COSINES:
        spread = ", ".join(f"{name} {last[name, cosine].std():.4f}" for name in MODELS)
        print(f"  cosine {cosine:<6} {spread}")
    print(f"\n{time.perf_counter() - start:.0f} s in all, on a shared machine")


if __name__ == "__main__":
    main()
