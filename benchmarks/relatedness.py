"""Figures 2 and 3 of the MMoE paper (Ma et al., KDD 2018) with the package's generator.

Fig. 2: Pearson correlation of the labels over the cosine of the task weights.
Fig. 3: Shared-Bottom (bottom 16, tower 8, Adam's default learning rate) at cosine 0.5, 0.9 and 1:
the loss of task 1 on held-out rows over the training steps, averaged over runs with fresh data and weights.
The differences between cosines are paired by run (same seed).

    python benchmarks/relatedness.py --runs 20
"""

from __future__ import annotations

import argparse

import pandas as pd

from mtlkit import data, training
from mtlkit.models import Recommender, SharedBottom

COSINES = (0.5, 0.9, 1.0)


def label_correlations(cosines: list[float], trials: int, rows: int = 10_000) -> pd.DataFrame:
    """One row per cosine and trial: cosine, trial, label_correlation."""
    return pd.DataFrame(
        [
            (cosine, seed, data.relatedness(cosine, rows=rows, seed=seed).notes["label_correlation"])
            for cosine in cosines
            for seed in range(trials)
        ],
        columns=["cosine", "trial", "label_correlation"],
    )


def loss_curves(runs: int, epochs: int, rows: int = 12_500, batch_size: int = 100) -> pd.DataFrame:
    """One row per cosine, run and epoch: cosine, run, step, loss (held-out MSE of task 1)."""
    parts = []
    for run in range(runs):
        for cosine in COSINES:
            table = data.relatedness(cosine, rows=rows, seed=run)
            model = Recommender(table, SharedBottom, seed=run, bottom=[16], tower=[8])
            history = training.fit(
                model, table, epochs=epochs, batch_size=batch_size, patience=None, seed=run, progress=False
            )
            part = history[["step"]].assign(
                cosine=cosine, run=run, loss=history["validation/mse/task_1"], spread=table.labels["task_1"].var()
            )
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--trials", type=int, default=100, help="draws per cosine of Fig. 2")
    options = parser.parse_args()

    cosines = [-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 0.9, 1.0]
    figure_2 = label_correlations(cosines, options.trials)
    print(f"Fig. 2: label correlation, {options.trials} draws of 10,000 rows per cosine")
    print(figure_2.groupby("cosine")["label_correlation"].agg(["mean", "std"]).round(3).to_string())

    curves = loss_curves(options.runs, options.epochs)
    last = curves[curves["step"] == curves["step"].max()].pivot(index="run", columns="cosine", values="loss")
    print(f"\nFig. 3: held-out loss of Shared-Bottom after {curves['step'].max()} steps, {options.runs} runs")
    print(last.agg(["mean", "std", "median"]).T.round(3).to_string())
    for low, high in ((0.5, 0.9), (0.9, 1.0), (0.5, 1.0)):
        gap = last[low] - last[high]
        error = gap.std() / len(gap) ** 0.5
        print(
            f"loss at {low} minus loss at {high}: {gap.mean():+.3f} +- {error:.3f} (standard error, paired); "
            f"{low} is worse in {(gap > 0).sum()} of {len(gap)} runs"
        )


if __name__ == "__main__":
    main()
