"""The simulated log of `mtlkit.data.short_video`: time, memory, rates, and what can be learned from it.

    python benchmarks/short_video.py [--rows 5000000] [--learn 250000] [--seeds 3]

1. Draws a large log in a fresh process (so that its peak memory is its own) and prints time, the size of the
   table, what the process took at most above that, and the drawn rates beside the stated ones.
2. Trains logistic regression (one-hot ids and dense features) and SharedBottom on a log of notebook size and
   prints their expected AUC (over all draws of the labels, see `metrics.expected_auc`) on the test days
   beside the Bayes AUC, and their share of it: (AUC - 0.5) / (Bayes AUC - 0.5). A seed is another log.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import numpy as np
import pandas as pd
import torch
from reporting import markdown, one_hot, spread
from sklearn.linear_model import LogisticRegression

from mtlkit import data, models, training
from mtlkit.data.short_video import TASKS

C = 0.03  # of logistic regression: 1 / the L2 penalty
SIZES = {"bottom": [128, 64], "tower": [16], "embedding": 8}
TRAINING = {
    "epochs": 4,
    "batch_size": 512,
    "lr": 4e-3,
    "weight_decay": 0.1,
    "schedule": "one_cycle",
    "patience": None,
}


def peak() -> float:
    """The most memory that this process held so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def draw(rows: int) -> dict:
    """Seconds, MB and rates of one log."""
    before, start, cpu = peak(), time.perf_counter(), time.process_time()
    table = data.short_video(rows)
    took = time.perf_counter() - start, time.process_time() - cpu, peak() - before
    columns = [table.ids, table.dense, table.split, table.users]
    columns += [*table.labels.values(), *table.probabilities.values()]
    size = sum(column.nbytes for column in columns) / 2**20
    means = {task: (float(y.mean()), table.probabilities[task].mean()) for task, y in table.labels.items()}
    return {"took": took, "size": size, "means": means}


def learned(rows: int, seed: int) -> dict[str, pd.DataFrame]:
    """Ceiling, logistic regression and SharedBottom on the test days of one log, as `training.ceiling`."""
    table = data.short_video(rows, seed=seed)
    train, test = table.part("train"), table.part("test")
    fields = range(len(table.fields))
    x, x_test = one_hot(train, fields), one_hot(test, fields)
    linear = {
        task: LogisticRegression(C=C, max_iter=300).fit(x, y).predict_proba(x_test)[:, 1]
        for task, y in train.labels.items()
    }
    net = models.Recommender(table, models.SharedBottom, seed=seed, **SIZES)
    training.fit(net, table, seed=seed, progress=False, **TRAINING)
    return {
        "ceiling": training.ceiling(test),
        "logistic regression": training.ceiling(test, pd.DataFrame(linear)),
        "SharedBottom": training.ceiling(test, training.predict(net, test)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--learn", type=int, default=250_000, help="rows of the logs that models learn from")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(draw, (options.rows,))
    wall, cpu, memory = found["took"]
    print(
        f"{options.rows:,} rows: {wall:.1f} s ({cpu:.1f} s of processor); the table has "
        f"{found['size']:,.0f} MB, the process took at most {memory - found['size']:,.0f} MB more\n"
    )
    rows = [
        [task, f"{t.rate:.3%}", f"{found['means'][task][0]:.3%}", f"{found['means'][task][1]:.3%}"]
        for task, t in TASKS.items()
    ]
    print(*markdown(["task", "stated rate", "drawn", "mean chance"], rows), sep="\n")

    runs = [learned(options.learn, seed) for seed in range(options.seeds)]
    print(f"\n{options.learn:,} rows, test days, mean +- sd over {options.seeds} logs")
    for metric in ("auc", "gauc"):
        print(f"\nexpected {metric.upper()} (share of what lies between a coin and the ceiling)\n")
        cells = []
        for task in TASKS:
            row = [task, spread([run["ceiling"].loc[task, metric] for run in runs], 4)]
            for name in ("logistic regression", "SharedBottom"):
                frames = [run[name].loc[task] for run in runs]
                share = np.mean([frame[f"{metric}_share"] for frame in frames])
                row.append(f"{spread([frame[metric] for frame in frames], 4)} ({share:.0%})")
            cells.append(row)
        print(*markdown(["task", "ceiling", "logistic regression", "SharedBottom"], cells), sep="\n")


if __name__ == "__main__":
    main()
