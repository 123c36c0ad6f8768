"""GAUC in one sort (mtlkit.metrics.gauc) against the usual pandas groupby + scikit-learn loop.

    python benchmarks/gauc.py [--rows 10000000] [--users 100000] [--sample-users 10000]

The loop is timed on the first ``--sample-users`` users and its time scaled by the number of rows;
``--sample-users 0`` runs it on all of them, unscaled. On the same users both must agree to 1e-12.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from mtlkit.metrics import gauc


def logs(rows: int, users: int, seed: int) -> pd.DataFrame:
    """Shuffled logs: log-normal activity per user, 10 % positives, informative float32 scores."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(size=users)
    user = rng.choice(users, size=rows, p=activity / activity.sum())
    label = (rng.random(rows, dtype=np.float32) < 0.1).astype(np.float32)
    score = rng.standard_normal(rows, dtype=np.float32) + label
    return pd.DataFrame({"user": user, "label": label, "score": 1 / (1 + np.exp(-score))})


def loop(frame: pd.DataFrame) -> tuple[float, int]:
    """The usual way: (GAUC, skipped users)."""
    total, rows, skipped = 0.0, 0, 0
    for _, part in frame.groupby("user"):
        if part["label"].nunique() < 2:
            skipped += 1
            continue
        total += len(part) * roc_auc_score(part["label"], part["score"])
        rows += len(part)
    return total / rows, skipped


def timed(call: Callable[[], object], repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--sample-users", type=int, default=10_000, help="0: all, nothing scaled")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    frame = logs(args.rows, args.users, args.seed)
    part = frame[frame.user < args.sample_users] if args.sample_users else frame
    scale = len(frame) / len(part)  # user ids are exchangeable: the first ones are a fair sample
    columns = [frame[name].to_numpy() for name in ("score", "label", "user")]
    wide = columns[0] * np.float64(1 + 1e-9)  # does not fit float32: the slower, exact route

    looped, skipped = loop(part)
    ours = gauc(part.score, part.label, part.user)
    if abs(ours.value - looped) > 1e-12 or ours.skipped_users != skipped:
        raise SystemExit(f"the two disagree: {ours} against {looped}, {skipped} users skipped")

    timings = {
        "mtlkit gauc, float32": timed(lambda: gauc(*columns), args.repeats),
        "mtlkit gauc, float64": timed(lambda: gauc(wide, *columns[1:]), args.repeats),
        "groupby + sklearn loop": [scale * t for t in timed(lambda: loop(part), args.repeats)],
    }
    slow = statistics.median(timings["groupby + sklearn loop"])
    how = "in full" if scale == 1 else f"on {len(part):,} rows, time x {scale:.2f}"
    print(f"{args.rows:,} rows, {args.users:,} users, seed {args.seed}, {args.repeats} repeats")
    print(f"loop run {how}: {part.user.nunique():,} users, {skipped:,} of them skipped")
    print(f"GAUC there: {ours.value:.15f}, loop differs by {abs(ours.value - looped):.1e}")
    print(f"\n{'':24}{'median s':>10}{'min s':>10}{'max s':>10}{'ratio':>8}")
    for name, seconds in timings.items():
        median = statistics.median(seconds)
        print(f"{name:24}{median:10.3f}{min(seconds):10.3f}{max(seconds):10.3f}{slow / median:8.1f}")


if __name__ == "__main__":
    main()
