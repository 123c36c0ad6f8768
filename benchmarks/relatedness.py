"""What notebook 01 claims about the MMoE paper's synthetic tasks (Ma et al., KDD 2018, section 3.2).

    python benchmarks/relatedness.py [--runs 10] [--trials 100] [--bottoms 2 4 16]

1. Fig. 2: the correlation of the labels over the cosine of the task weights, a fresh draw each time.
2. Fig. 3: Shared-Bottom (tower 8, Adam's default learning rate, batch 100) at cosine 0.5, 0.9 and 1: the
   held-out loss of task 1 with a bottom of 2, 4 and 16 units (the paper's is 16). The waves (alpha, beta)
   are those of the notebook in all runs; a run draws its own weights, rows and starting weights, the same
   at each cosine, so that the differences between cosines are paired by run.
3. How much of that is the choice of our waves: other draws, and alpha not scaled by 2. (The paper prints
   neither its waves nor its number of rows and steps.)
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import torch

from mtlkit import data, training
from mtlkit.models import Recommender, SharedBottom

BOTTOMS = (2, 4, 16)
COSINES = (0.5, 0.9, 1.0)
PAIRS = ((0.5, 0.9), (0.9, 1.0), (0.5, 1.0))
NOTEBOOK_DRAW, NOTEBOOK_SCALE = 0, 2.0


def label_correlations(cosines: tuple[float, ...], trials: int, rows: int = 10_000) -> pd.DataFrame:
    """One row per cosine and trial: cosine, trial, label_correlation."""
    return pd.DataFrame(
        [
            (cosine, seed, data.relatedness(cosine, rows=rows, seed=seed).notes["label_correlation"])
            for cosine in cosines
            for seed in range(trials)
        ],
        columns=["cosine", "trial", "label_correlation"],
    )


def losses(draw: int, wave_scale: float, bottom: int, runs: int, epochs: int) -> pd.DataFrame:
    """Held-out MSE of task 1, a row per (run, step), a column per cosine. An epoch has 100 steps."""
    waves = np.random.default_rng(draw).normal(size=(2, 10)) * [[wave_scale], [1.0]]
    parts = []
    for run in range(runs):
        for cosine in COSINES:
            table = data.relatedness(cosine, rows=12_500, alpha=waves[0], beta=waves[1], seed=run)
            model = Recommender(table, SharedBottom, bottom=[bottom], tower=[8], seed=run)
            history = training.fit(
                model, table, epochs=epochs, batch_size=100, patience=None, seed=run, progress=False
            )
            loss = history["validation/mse/task_1"]
            parts.append(pd.DataFrame({"run": run, "step": history["step"], "cosine": cosine, "loss": loss}))
    return pd.concat(parts).pivot(index=["run", "step"], columns="cosine", values="loss")


def at_the_end(curves: pd.DataFrame) -> pd.DataFrame:
    """The loss after the last step: a row per run, a column per cosine."""
    return curves.xs(curves.index.get_level_values("step").max(), level="step")


def gap(last: pd.DataFrame, low: float, high: float) -> str:
    difference = last[low] - last[high]
    return f"{difference.mean():+.3f} +- {difference.sem():.3f}, {(difference > 0).sum():2} of {len(last)}"


def ordered(last: pd.DataFrame) -> str:
    return f"{((last[0.5] > last[0.9]) & (last[0.9] > last[1.0])).sum()} of {len(last)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10, help="paired runs of Fig. 3")
    parser.add_argument("--bottoms", type=int, nargs="+", default=BOTTOMS, help="units of the bottom")
    parser.add_argument("--epochs", type=int, default=12, help="of 100 steps")
    parser.add_argument("--trials", type=int, default=100, help="draws per cosine of Fig. 2")
    parser.add_argument("--sensitivity-runs", type=int, default=4, help="paired runs per row of part 3")
    options = parser.parse_args()
    torch.set_num_threads(1)  # tiny products: more threads only wait for each other

    figure_2 = label_correlations((-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 0.9, 1.0), options.trials)
    figure_2["below"] = figure_2["label_correlation"] < figure_2["cosine"]
    print(f"1. Label correlation: {options.trials} draws of 10,000 rows for each cosine, seeds 0, 1, ...")
    by_cosine = figure_2.groupby("cosine").agg(
        mean=("label_correlation", "mean"),
        sd=("label_correlation", "std"),
        lowest=("label_correlation", "min"),
        highest=("label_correlation", "max"),
        share_below_the_cosine=("below", "mean"),
    )
    print(by_cosine.round(2).to_string())

    print(f"\n2. Held-out loss of task 1, {options.runs} paired runs (seeds 0, 1, ...), the notebook's waves")
    for bottom in options.bottoms:
        curves = losses(NOTEBOOK_DRAW, NOTEBOOK_SCALE, bottom, options.runs, options.epochs)
        print(f"\nbottom {bottom}: mean over the runs, by step")
        middle = sorted({options.epochs // 4, options.epochs // 2, options.epochs} - {0})
        by_step = curves.groupby("step").mean()
        print(by_step.loc[[100 * epoch for epoch in middle]].round(3).to_string())
        last = at_the_end(curves)
        print("at the end, by run")
        print(last.round(2).to_string())
        print("sd over the runs at the end:", ", ".join(f"{c} {last[c].std():.3f}" for c in COSINES))
        for low, high in PAIRS:
            print(f"loss at {low} - loss at {high}: {gap(last, low, high)} runs above 0")
        print(f"ordered 0.5 > 0.9 > 1.0 in {ordered(last)} runs")

    print(
        f"\n3. Other waves: {options.sensitivity_runs} paired runs each; differences with their paired "
        "standard error and the runs above 0"
    )
    print(
        f"{'bottom':>6}{'scale of alpha':>16}{'draw':>6}{'loss at 0.5, 0.9, 1':>22}{'0.5 - 0.9':>26}"
        f"{'0.9 - 1':>26}{'0.5 - 1':>26}{'ordered':>10}"
    )
    for bottom in options.bottoms:
        for scale in (1.0, NOTEBOOK_SCALE):
            for draw in range(3):
                last = at_the_end(losses(draw, scale, bottom, options.sensitivity_runs, options.epochs))
                print(
                    f"{bottom:6}{scale:16g}{draw:6}{', '.join(f'{last[c].mean():.2f}' for c in COSINES):>22}"
                    + "".join(f"{gap(last, *pair):>26}" for pair in PAIRS)
                    + f"{ordered(last):>10}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
