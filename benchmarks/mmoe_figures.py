"""Figures 4 and 5 of the MMoE paper (Ma et al., KDD 2018): Shared-Bottom, OMoE and MMoE at equal budgets.

Synthetic regression, 100 features, cosine of the task weights 0.5, 0.9 and 1; 8 experts of 16 units, towers
of 8; Shared-Bottom 113 wide (the same number of weights). Every run has fresh data and fresh weights; runs of
different models and cosines share their seeds, so that they can be paired. Adam; for each model the learning
rate of the paper's grid with the lowest mean validation loss in a pilot (its seeds are not used again).
All runs of a cell are trained together (`mtlkit.ensemble.fit_many`). Figures 2 and 3: relatedness.py.

    python benchmarks/mmoe_figures.py --runs 200 --out build/mmoe_figures.csv --figure docs/mmoe_figures.png
    python benchmarks/mmoe_figures.py --vary --runs 50

`--vary` changes what the paper does not print, one at a time: the waves, the steps, the batch, the rows.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.stats import wilcoxon
from tqdm import tqdm

from mtlkit import data
from mtlkit.data import Table
from mtlkit.ensemble import fit_many
from mtlkit.models import MMoE, OMoE, Recommender, SharedBottom

Run = tuple[float, float, int]  # cosine, learning rate, seed
COSINES = (0.5, 0.9, 1.0)
MODELS = {
    "Shared-Bottom": (SharedBottom, {"bottom": [113], "tower": [8]}),
    "OMoE": (OMoE, {"experts": 8, "expert": [16], "tower": [8]}),
    "MMoE": (MMoE, {"experts": 8, "expert": [16], "tower": [8]}),
}
RATES = (1e-4, 1e-3, 1e-2)
BAD = 1.5  # a run is bad when its loss is this many times the median of its cell
STUCK = 0.9  # of the label's variance: the mean of the labels as the answer for all would reach 1
STACK = 15  # runs trained as one model; all stacks are of this size, since only the first one is compiled
ROWS, FRACTIONS = 12_800, (0.8, 0.2, 0)
STANDARD = {"epochs": 50, "rows": ROWS, "batch": 512, "waves": 10, "amplitude": 1.0, "fixed": False}
VARIATIONS = {
    "as above": {},
    "the same waves for all runs": {"fixed": True},
    "5 waves": {"waves": 5},
    "20 waves": {"waves": 20},
    "alpha and beta half as large": {"amplitude": 0.5},
    "batch 128": {"batch": 128, "epochs": 13},
    "2000 steps": {"epochs": 100},
    "250 steps": {"epochs": 13},
    "ten times the rows, 5 passes": {"rows": 10 * ROWS, "epochs": 5},
}


def table(cosine: float, seed: int, setting: dict) -> Table:
    drawn = np.random.default_rng([0 if setting["fixed"] else seed, 1])
    waves = drawn.standard_normal((2, setting["waves"])) * setting["amplitude"]
    options = {"waves": setting["waves"], "alpha": waves[0], "beta": waves[1], "fractions": FRACTIONS}
    return data.relatedness(cosine, rows=setting["rows"], seed=seed, **options)


def train(pool: Executor, plans: dict[str, list[Run]], setting: dict, compile: bool = False) -> pd.DataFrame:
    """The histories of each model's runs; ``loss`` is the held-out MSE over the label's variance."""
    most = max(STACK, 3 * STACK * ROWS // setting["rows"])  # 200 tables would fill the memory
    parts = [
        (name, runs[start : start + most], setting, compile)
        for name, runs in plans.items()
        for start in range(0, len(runs), most)
    ]
    histories = pool.map(train_part, *zip(*parts, strict=True))
    return pd.concat(tqdm(histories, total=len(parts), unit="part", leave=False), ignore_index=True)


def train_part(name: str, runs: list[Run], setting: dict, compile: bool) -> pd.DataFrame:
    kind, sizes = MODELS[name]
    tables = [table(cosine, seed, setting) for cosine, _, seed in runs]
    seeds, rates = [seed for *_, seed in runs], [lr for _, lr, _ in runs]
    models = [Recommender(t, kind, seed=seed, **sizes) for seed, t in zip(seeds, tables, strict=True)]
    sizing = {"epochs": setting["epochs"], "batch_size": setting["batch"], "compile": compile}
    history = fit_many(models, tables, lr=rates, seeds=seeds, chunk=STACK, progress=False, **sizing)
    variance = pd.Series([float(t.labels["task_1"].var()) for t in tables])
    history["loss"] = history["validation/loss/task_1"] / history["run"].map(variance)
    asked = pd.DataFrame(runs, columns=["cosine", "lr", "seed"])
    return history.join(asked, on="run")[["cosine", "lr", "seed", "step", "loss"]].assign(model=name)


def final(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["step"] == runs["step"].max()]


def choose_rates(pool: Executor, pilot: range, setting: dict, compile: bool) -> dict[str, float]:
    rates = {}
    print(f"pilot: mean loss over {len(pilot)} runs at cosine 0.5, 0.9, 1")
    plans = {name: list(itertools.product(COSINES, RATES, pilot)) for name in MODELS}
    tried = final(train(pool, plans, setting, compile))
    for name, own in tried.groupby("model", sort=False):
        means = own.groupby("lr")["loss"].mean()
        rates[name] = means.idxmin()
        print(f"  {name:13} " + ", ".join(f"lr {lr:g}: {loss:.4f}" for lr, loss in means.items()), flush=True)
    return rates


def run_cells(
    pool: Executor, rates: dict[str, float], runs: int, setting: dict, compile: bool
) -> pd.DataFrame:
    plans = {name: list(itertools.product(COSINES, [rates[name]], range(runs))) for name in MODELS}
    return train(pool, plans, setting, compile)


def last_losses(runs: pd.DataFrame) -> pd.DataFrame:
    """Final losses, a row per run, a column per model and cosine."""
    return final(runs).pivot(index="seed", columns=["model", "cosine"], values="loss")


def paired(last: pd.DataFrame, a: tuple[str, float], b: tuple[str, float]) -> str:
    """Mean and standard error; as a few runs that get stuck rule both, also the median and a rank test."""
    gap = last[a] - last[b]
    rank = wilcoxon(gap).pvalue
    return (
        f"mean {gap.mean():+.4f} +- {gap.sem():.4f}, median {gap.median():+.4f}, "
        f"above 0 in {(gap > 0).sum()} of {len(gap)}, Wilcoxon p = {rank:.2g}"
    )


def report(last: pd.DataFrame) -> None:
    table = last.agg(["mean", "std", "median", "min"]).T
    table["90 %"] = last.quantile(0.9)
    table["bad runs"] = (last > BAD * last.median()).mean()
    table["stuck runs"] = (last > STUCK).mean()
    print(table.round(4).to_string())
    print("\nclaim 1, related tasks are easier (loss at 0.5 minus loss at 1):")
    for name in MODELS:
        print(f"  {name:13} {paired(last, (name, 0.5), (name, 1.0))}")
    print("claim 2, low correlation hurts OMoE and hardly MMoE (OMoE minus MMoE):")
    for cosine in COSINES:
        print(f"  cosine {cosine:<6} {paired(last, ('OMoE', cosine), ('MMoE', cosine))}")
    print("  and the loss that OMoE adds from 1 to 0.5, minus what MMoE adds:")
    added = pd.DataFrame({(m, 0): last[m, 0.5] - last[m, 1.0] for m in ("OMoE", "MMoE")})
    print(f"  {'':14}{paired(added, ('OMoE', 0), ('MMoE', 0))}")
    print(
        "claim 3, Shared-Bottom spreads most (standard deviation over runs; in brackets: 95 % by bootstrap):"
    )
    for cosine in COSINES:
        spread = ", ".join(
            f"{name} {last[name, cosine].std():.4f} {bounds(last[name, cosine])}" for name in MODELS
        )
        print(f"  cosine {cosine:<6} {spread}")


def bounds(losses: pd.Series) -> str:
    """A 95 % bootstrap interval of the standard deviation."""
    drawn = np.random.default_rng(0).choice(losses.to_numpy(), (2000, len(losses)))
    low, high = np.quantile(drawn.std(axis=1, ddof=1), [0.025, 0.975])
    return f"[{low:.4f}, {high:.4f}]"


def draw(runs: pd.DataFrame, last: pd.DataFrame, path: Path) -> None:
    """Above, as Figure 4: mean loss over the steps. Below, as Figure 5: the runs' final losses."""
    figure, axes = plt.subplots(2, len(COSINES), figsize=(10, 6), sharey="row", layout="constrained")
    edges = np.linspace(0, last.quantile(0.99).max(), 40)
    for (above, below), cosine in zip(axes.T, COSINES, strict=True):
        for name in MODELS:
            own = runs[(runs["model"] == name) & (runs["cosine"] == cosine)]
            mean = own.groupby("step")["loss"].mean()
            above.plot(mean.index, mean, label=name)
            below.hist(last[name, cosine].clip(upper=edges[-1]), edges, histtype="step", label=name)
        above.set(title=f"cosine {cosine:g}", xlabel="step", yscale="log")
        below.set(xlabel="final loss of a run")
    axes[0, 0].set_ylabel("mean loss / variance of the label")
    axes[1, 0].set_ylabel("runs")
    axes[0, 0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def vary(pool: Executor, rates: dict[str, float], runs: int) -> None:
    """A line per variation: what each of the three claims is compared by."""
    lines = {}
    for title, change in VARIATIONS.items():
        last = last_losses(run_cells(pool, rates, runs, STANDARD | change, compile=False))
        line = {}
        for name in MODELS:
            gap = last[name, 0.5] - last[name, 1.0]
            line[f"{name}: 0.5 - 1"] = f"{gap.mean():+.4f} +- {gap.sem():.4f}"
        for cosine in (0.5, 1.0):
            gap = last["OMoE", cosine] - last["MMoE", cosine]
            line[f"OMoE - MMoE at {cosine:g}"] = f"{gap.mean():+.4f} +- {gap.sem():.4f}"
        line["sd at 0.5: SB / OMoE / MMoE"] = " / ".join(f"{last[name, 0.5].std():.3f}" for name in MODELS)
        lines[title] = line
        print(f"{title}: " + "; ".join(f"{key} {value}" for key, value in line.items()), flush=True)
    print(f"\n{runs} runs a cell; means and standard errors of paired differences")
    print(pd.DataFrame(lines).T.to_string())


def main() -> None:
    """Pilot, runs, table, and the paper's three claims."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--pilot", type=int, default=5, help="runs for each learning rate and cosine")
    parser.add_argument("--rates", type=float, nargs=3, help="instead of the pilot, one per model")
    parser.add_argument("--out", type=Path, help="CSV for all histories")
    parser.add_argument("--read", type=Path, help="report on such a CSV instead of running anything")
    parser.add_argument("--figure", type=Path, help="PNG for the figures")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--vary", action="store_true", help="the variations instead of the figures")
    options = parser.parse_args()
    start = time.perf_counter()
    if options.read:
        report(last_losses(pd.read_csv(options.read)))
        return
    # a process per core, with one thread each: threads that share such small products wait for each other
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, torch.set_num_threads, (1,)) as pool:
        if options.rates:
            rates = dict(zip(MODELS, options.rates, strict=True))
        else:
            pilot = range(10_000, 10_000 + options.pilot)
            rates = choose_rates(pool, pilot, STANDARD, not options.no_compile)
        if options.vary:
            vary(pool, rates, options.runs)
            return
        runs = run_cells(pool, rates, options.runs, STANDARD, not options.no_compile)
    last = last_losses(runs)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        runs.to_csv(options.out, index=False)
    if options.figure:
        draw(runs, last, options.figure)
    print(f"\nheld-out MSE / variance of task 1 after {runs['step'].max()} steps, {options.runs} runs a cell")
    report(last)
    print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
