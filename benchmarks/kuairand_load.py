"""How long loading KuaiRand takes, against ``pandas.read_csv`` on the same files.

    python benchmarks/kuairand_load.py [--path FOLDER] [--rows 1436609] [--repeats 5]

Prints median, spread (min - max) and ratios to ``pandas.read_csv``, which alone neither checks, joins,
encodes nor splits anything: first load (read, parse, check, join, encode, write the cache), warm load (read
the cache, encode), and both with the history of users, videos and authors. They are timed in turn within
each repetition, so that a slow moment of the machine meets all of them. Measured for the files of the
folder, if one is given, and for made files in the official format with as many log rows, users and videos as
KuaiRand-Pure, cut into two log files as there.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from reporting import loading, seconds

from mtlkit.data import kuairand
from mtlkit.data.kuairand_file import OUTCOMES, USER_CATEGORIES, USER_NUMBERS

USERS, VIDEOS = 27_285, 7_583
RATES = dict(zip(OUTCOMES, (0.442, 0.311, 0.0171, 0.0013, 0.0025, 0.0009, 0.0185, 0.0008), strict=True))
FIRST_MS, DAYS = 1_649_347_200_000, 31  # 2022-04-08 00:00 UTC+8


def made_log(rows: int, seed: int) -> pd.DataFrame:
    """User-major and ordered by time inside a user, as the official log."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(size=USERS)
    user = np.sort(rng.choice(USERS, size=rows, p=activity / activity.sum()))
    ms = rng.integers(DAYS * 86_400_000, size=rows)
    ms = ms[np.lexsort((ms, user))]
    date = pd.Series(pd.date_range("2022-04-08", periods=DAYS).strftime("%Y%m%d").astype(int))
    outcome = {task: (rng.random(rows) < rate).astype(int) for task, rate in RATES.items()}
    video = rng.integers(VIDEOS, size=rows)
    columns = {
        "user_id": user,
        "video_id": video,
        "date": date[ms // 86_400_000].to_numpy(),
        "hourmin": ms % 86_400_000 // 3_600_000 * 100,
        "time_ms": FIRST_MS + ms,
    }
    for task in ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view"):
        columns[task] = outcome[task]
    columns |= {
        "play_time_ms": rng.integers(100_000, size=rows),
        "duration_ms": rng.lognormal(11, 1, size=VIDEOS).astype(int)[video],
        "profile_stay_time": 0,
        "comment_stay_time": 0,
        "is_profile_enter": outcome["is_profile_enter"],
        "is_rand": 0,
        "tab": rng.choice(15, size=rows, p=np.r_[0.09, 0.76, np.full(13, 0.15 / 13)]),
    }
    return pd.DataFrame(columns)


def made_files(folder: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    log = made_log(rows, seed=1)
    early = log["date"] < 20220422
    log[early].to_csv(folder / "log_standard_4_08_to_4_21_pure.csv", index=False)
    log[~early].to_csv(folder / "log_standard_4_22_to_5_08_pure.csv", index=False)
    users = {"user_id": np.arange(USERS)} | {c: rng.integers(1500, size=USERS) for c in USER_NUMBERS}
    users |= {c: rng.integers(50, size=USERS) for c in USER_CATEGORIES}
    pd.DataFrame(users).to_csv(folder / "user_features_pure.csv", index=False)
    videos = {
        "video_id": np.arange(VIDEOS),
        "author_id": rng.integers(6_500, size=VIDEOS),
        "video_type": "NORMAL",
        "upload_dt": "2022-04-10",
        "upload_type": rng.choice(["LongImport", "Web", "Kmovie"], size=VIDEOS),
        "visible_status": 0.0,
        "video_duration": rng.integers(200_000, size=VIDEOS).astype(float),
        "server_width": 720.0,
        "server_height": 1280.0,
        "music_id": 9_000_000_000 + np.arange(VIDEOS),
        "music_type": 9.0,
        "tag": rng.choice(["39", "39,68", "3", "9"], size=VIDEOS),
    }
    pd.DataFrame(videos).to_csv(folder / "video_features_basic_pure.csv", index=False)


def measure(folder: Path, repeats: int) -> dict[str, list[float]]:
    kinds = ("log_standard_*.csv*", "user_features_*.csv*", "video_features_basic_*.csv*")
    files = [file for kind in kinds for file in sorted(folder.glob(kind))]
    times: dict[str, list[float]] = {"read_csv": [], "first load": [], "warm load": []}
    times |= {"first history": [], "warm history": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:

            def load(history: bool = False, cache: str = cache) -> object:
                return kuairand(path=folder, cache=cache, history=history)

            calls = (
                lambda: [pd.read_csv(file) for file in files],
                load,
                load,
                *2 * [lambda: load(history=True)],
            )
            for name, call in zip(times, calls, strict=True):
                times[name].append(seconds(call))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--path", default=os.environ.get("MTLKIT_DATA"))
    parser.add_argument("--rows", type=int, default=1_436_609)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.path:
        folder = Path(options.path)
        folder = folder / "kuairand-pure" if (folder / "kuairand-pure").is_dir() else folder
        if any(folder.glob("log_standard_*")):
            names = ", ".join(file.name for file in sorted(folder.glob("log_standard_*")))
            loading(f"{names}, {options.repeats} repetitions", measure(folder, options.repeats))
    with tempfile.TemporaryDirectory() as folder:
        made_files(Path(folder), options.rows)
        loading(
            f"made log of {options.rows:,} rows, {options.repeats} repetitions",
            measure(Path(folder), options.repeats),
        )


if __name__ == "__main__":
    main()
