"""KuaiRand: the log of a short-video app, with eight kinds of feedback on every impression.

Gao et al., CIKM 2022, DOI 10.1145/3511808.3557624, CC BY-SA 4.0.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np

from mtlkit.data.encoding import encode, picked, scaled
from mtlkit.data.fetch import (
    DataError,
    cache_folder,
    cached,
    download,
    find_all,
    local_folder,
    members,
    read_all,
    sha256,
)
from mtlkit.data.history import past
from mtlkit.data.kuairand_file import (
    OUTCOMES,
    USER_CATEGORIES,
    USER_NUMBERS,
    VIDEO_CATEGORIES,
    VIDEO_NUMBERS,
    parse,
)
from mtlkit.data.table import SPLITS, Table

_URL = "https://zenodo.org/records/10439422/files/KuaiRand-{}.tar.gz"
_MD5 = {
    "Pure": "0820331067a3784d9691136f772b35a7",
    "1K": "6b0b9c8222d67fcd4c676218edca3f1f",
    "27K": "3e3c799a24e2d23a4d2c757fbf9adf59",
}
_LAYOUT = "1"  # of a cache entry; another layout needs another number here
_KINDS = ("log_standard", "user_features", "video_features_basic")

# HoME's two groups of behaviours. In this log a click is a valid play (7 s, or all of a shorter video), which
# HoME calls effective view; so it is watching, and not the click that HoME counts as interaction.
CATEGORIES = {task: "watch" if task in ("is_click", "long_view") else "interaction" for task in OUTCOMES}

# A click asks for 7 s, a long view for 18 s (or all of a shorter video): both are edges of the buckets.
_LABEL_EDGES_MS = (7_000, 18_000)
_BUCKETS = 24
# history: rows of the past that the mean of all rows weighs as much as
_PRIOR_ROWS = {"user": 5.0, "user_tab": 5.0, "video": 20.0, "author": 20.0}


def kuairand(
    tasks: Sequence[str] = ("is_click", "long_view", "is_like"),
    *,
    variant: Literal["Pure", "1K", "27K"] = "Pure",
    dates: tuple[str | None, str, str] = (None, "2022-05-04", "2022-05-06"),
    history: bool | Literal["split", "row"] = False,
    min_count: int = 1,
    path: str | Path | None = None,
    cache: str | Path | None = None,
) -> Table:
    """Load KuaiRand's standard log (no random exposures), joined with its users and videos.

    Rows are split by their date. Ids, buckets and scales are fitted on the train split alone. No outcome is
    an input: neither a feedback column nor play_time_ms or a stay time, nor the video statistics, which are
    means over the whole month and so know the test days. Exact copies of a row stay, as in the official log.

    Parameters
    ----------
    tasks: out of is_click, long_view, is_like, is_follow, is_comment, is_forward, is_profile_enter, is_hate.
    variant: Pure (1.4 million rows), 1K (11.7 million; takes some 15 GB of memory) or 27K (322 million: give
        a folder with a few of its log files).
    dates: first day of train (None: of the log), of validation and of test, which goes on to the log's end.
    history: adds what was known before as dense features, see below: True or "split" = before the row and its
        split; "row" = before the row.
    min_count: values with fewer training rows share the id 0 with the values that training never saw.
    path: folder with log_standard_*.csv (any of them), user_features_*.csv and video_features_basic_*.csv,
        each plain, .gz or .bz2; or the folder above, be it of ``KuaiRand-Pure/data/`` or ``kuairand-pure/``.
        Without it: the folder that MTLKIT_DATA names, where it holds the files, else the official archive
        (downloaded once, md5-verified).
    cache: folder for the download and the parsed columns; else MTLKIT_CACHE, else the user's cache folder.
        An entry is keyed by place, size and times of its sources; each kind of history has its own.

    Returns
    -------
    A table of binary tasks with ``users`` and ``categories`` ("watch" or "interaction"). ``ids``: user,
    video, author and music, the categorical columns of both files, first tag, tab, hour of the day (UTC+8)
    and duration bucket. ``dense``: the numbers of both files and the duration as log1p, then zero mean and
    unit variance over the train split; a missing number is 0. (The day of the upload is no input: all videos
    of Pure are of the same three days, so their age only tells the date, and that of a test row is unseen.)
    ``notes``: ``source`` and ``days`` (the log's first and last date).

    With ``history``, for the row's user, user and tab together, video and author: log1p of the number of
    impressions at strictly earlier times, and for each task the log of their share of positives, smoothed
    towards the mean of the train split, over that mean (0 = nothing known). Rows with equal times do not see
    each other. Train rows look back from their own time, and so do all rows with "row": test rows then see
    the labels of earlier test rows, as in a system that learns of each outcome at once. With "split" the
    validation and test rows look back from the beginning of their split: none of its labels is an input.
    "row" gives the higher AUC, but mind its GAUC: among the rows of one user, a liked one has the smaller
    share of likes, since it counts in the share of the later rows and not in its own.

    Raises
    ------
    ValueError: an unknown task, variant or history, wrong dates or min_count. FileNotFoundError: a folder
    without the files. DataError (a ValueError): damaged files, missing columns, wrong values, an empty split,
    or a download that failed.
    """
    tasks = _tasks(tasks)
    if variant not in _MD5:
        raise ValueError(f"kuairand: variant must be one of {', '.join(_MD5)}; got {variant!r}.")
    if isinstance(min_count, bool) or not isinstance(min_count, int | np.integer) or min_count < 1:
        raise ValueError(f"kuairand: min_count must be a whole number >= 1, got {min_count!r}.")
    if history not in (False, True, "split", "row"):
        raise ValueError(f"kuairand: history must be False, True, 'split' or 'row'; got {history!r}.")
    starts = _starts(dates)
    folder = cache_folder(cache)
    files = _local_files(path, variant)
    if files is None:
        key, source = sha256(repr((_LAYOUT, _MD5[variant])).encode()), _URL.format(variant)
        entry = folder / f"kuairand-{key[:32]}.npz"
        columns = cached(entry, lambda: parse(*_official(variant, folder)))
    else:
        found = [_stamp(file) for kind in files for file in kind.values()]
        key, source = sha256(repr((_LAYOUT, found)).encode()), str(next(iter(files[0].values())).parent)
        entry = folder / f"kuairand-{key[:32]}.npz"
        columns = cached(entry, lambda: parse(*map(read_all, files)))
    days = columns["days"]
    split = (np.searchsorted(starts, days, side="right") - 1)[columns["day"]]  # -1: before train
    for index, name in enumerate(SPLITS):
        if not (split == index).any():
            begin = ", ".join(str(start or days[0]) for start in starts)
            raise DataError(
                f"kuairand: the {name} split is empty; the log in {source} runs from {days[0]} to "
                f"{days[-1]}, and the splits start on {begin}: give other dates= or more log files."
            )
    before = {}
    if history:
        made_for = sha256(repr((tasks, starts, history == "row", _PRIOR_ROWS)).encode())
        entry = entry.with_name(f"{entry.stem}-history-{made_for[:16]}.npz")
        before = cached(entry, lambda: _history(columns, tasks, split, streamed=history == "row"))
    return _table(columns, tasks, split, before, int(min_count), source)


def _tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    named = not isinstance(tasks, str) and len(tasks) and all(task in OUTCOMES for task in tasks)
    if not named or len(set(tasks)) != len(tasks):
        raise ValueError(
            f"kuairand: tasks must be different names out of {', '.join(OUTCOMES)}; got {tasks!r}."
        )
    return tuple(tasks)


def _starts(dates: tuple[str | None, str, str]) -> tuple[int, int, int]:
    """The first day of each split as YYYYMMDD; 0 = the log's first."""
    try:
        train, validation, test = (
            0 if d is None else int(f"{date.fromisoformat(str(d)):%Y%m%d}") for d in dates
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            "kuairand: dates must be the first days of train (or None), validation and test, such as "
            f"(None, '2022-05-04', '2022-05-06'); got {dates!r}."
        ) from error
    if not train < validation < test:
        raise ValueError(f"kuairand: dates must grow from train to validation to test; got {dates!r}.")
    return train, validation, test


def _local_files(path: str | Path | None, variant: str) -> list[dict[str, Path]] | None:
    """The local files of each of the three kinds by name, or None where the archive is to be used."""
    found = local_folder("kuairand", path, _pattern(0, variant))
    if found is None:
        return None
    folder, said = found
    best: list[dict[str, Path]] = [{}, {}, {}]
    for below in ("", f"KuaiRand-{variant}", f"kuairand-{variant.lower()}"):
        for place in (folder / below, folder / below / "data"):
            files = [find_all(place, _pattern(kind, variant)) for kind in range(3)]
            best = max(best, files, key=lambda f: sum(map(bool, f)))
    missing = [_pattern(kind, variant) for kind in range(3) if not best[kind]]
    if path is None and len(missing) == 3:  # a folder with other data sets only
        return None
    if missing:
        raise FileNotFoundError(
            f"kuairand: {said} holds no {' and no '.join(missing)} (plain, .gz or .bz2), nor does its "
            f"subfolder KuaiRand-{variant}/data; copy the file there or name another folder."
        )
    for several in best[1:]:
        if len(several) > 1:
            raise DataError(f"kuairand: {said} holds {' and '.join(several)}; keep one of them.")
    return best


def _pattern(kind: int, variant: str) -> str:
    return f"{_KINDS[kind]}_*{variant.lower()}*.csv"


def _stamp(file: Path) -> tuple[str, int, int, int]:
    """What tells a file from a changed one without reading it: no program can set the time of the change."""
    stat = file.stat()
    return str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _official(variant: str, folder: Path) -> list[dict[str, bytes]]:
    """The texts of each kind of file of the official archive, by name."""
    patterns = [_pattern(kind, variant) for kind in range(3)]
    archive = download(
        _URL.format(variant),
        folder / "downloads",
        known_hash=f"md5:{_MD5[variant]}",
        otherwise=f", or put {', '.join(patterns)} (plain, .gz or .bz2) into a folder and give it as path= "
        "or in the environment variable MTLKIT_DATA",
    )
    texts = members(archive, patterns)
    return [{name: texts[name] for name in sorted(fnmatch.filter(texts, pattern))} for pattern in patterns]


def _table(
    columns: dict[str, np.ndarray],
    tasks: tuple[str, ...],
    split: np.ndarray,
    history: dict[str, np.ndarray],
    min_count: int,
    source: str,
) -> Table:
    """Encode the parsed columns. Everything that is fitted sees the train split only."""
    train = split == 0

    # Everything is encoded once per user, video, duration, ...; the rows then pick their lines.
    numbers = {
        "user": columns["user numbers"],
        "video": columns["video numbers"],
        "duration": np.where(columns["durations"] < 0, np.nan, columns["durations"])[:, None],
    }
    codes = {
        name: np.arange(int(columns[name].max()) + 1)[:, None] for name in ("user", "video", "tab", "hour")
    }
    for name in ("user", "video"):
        codes[name] = np.hstack([codes[name], columns[f"{name} categories"]])
    weight = {name: np.bincount(columns[name][train], minlength=len(lines)) for name, lines in codes.items()}
    weight["duration"] = np.bincount(columns["duration"][train], minlength=len(columns["durations"]))
    codes["duration"] = _bucket(columns["durations"], weight["duration"])[:, None]
    encoded = {name: encode(lines, weight[name], min_count) for name, lines in codes.items()}
    dense = {name: scaled(np.log1p(np.maximum(x, 0)), weight[name]) for name, x in numbers.items()}
    dense |= {name: x[:, None] for name, x in history.items()}
    kept = slice(None) if (split >= 0).all() else split >= 0
    return Table(
        ids=picked({name: ids for name, (ids, _) in encoded.items()}, columns)[kept],
        dense=picked(dense, columns)[kept],
        labels={task: columns[task][kept].astype(np.float32) for task in tasks},
        split=split.astype(np.int8)[kept],
        cardinalities=tuple(size for _, sizes in encoded.values() for size in sizes),
        fields=("user_id", *USER_CATEGORIES, "video_id", *VIDEO_CATEGORIES, "tab", "hour", "duration_bucket"),
        dense_names=(*USER_NUMBERS, *VIDEO_NUMBERS, "duration_ms", *history),
        kinds=dict.fromkeys(tasks, "binary"),
        users=columns["users"][columns["user"]][kept],
        categories={task: CATEGORIES[task] for task in tasks},
        notes={"source": source, "days": (int(columns["days"][0]), int(columns["days"][-1]))},
    )


def _bucket(durations: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Codes (M,) by the quantiles of the training rows' durations; -1 = unknown, 0 = a duration of 0."""
    known = durations > 0
    until = np.cumsum(weight[known])  # training rows up to each duration
    inner = np.linspace(0, 1, _BUCKETS + 1)[1:-1]
    edges = durations[known][np.searchsorted(until, inner * until[-1])] if known.any() else []
    edges = np.unique([1, *_LABEL_EDGES_MS, *edges])
    return np.where(durations < 0, -1, np.searchsorted(edges, durations, side="right"))


def _history(
    columns: dict[str, np.ndarray], tasks: tuple[str, ...], split: np.ndarray, streamed: bool
) -> dict[str, np.ndarray]:
    """Name -> (N,): of each entity log1p of past rows, per task log of the smoothed share over the mean."""
    outcomes = np.stack([columns[task] for task in tasks], axis=1)  # (N, T)
    mean = np.maximum(outcomes[split == 0].mean(axis=0), 1e-6)  # a task may lack a positive in training
    time, asked = columns["time_ms"], None
    if not streamed:
        # dates turn up to an hour before midnight: a split's first row decides
        begin = [time[split == index].min() for index in range(len(SPLITS))]
        latest = np.array([begin[1], begin[1], begin[2], begin[1]])  # by split; -1 = before train
        asked = np.minimum(time, latest[split])
    author = columns["video categories"][:, VIDEO_CATEGORIES.index("author_id")]
    author = np.where(author < 0, author.max() + 1 + np.arange(len(author)), author)  # unknown: by video
    user, tab = columns["user"].astype(np.int64), columns["tab"]
    entities = {
        "user": user,
        "user_tab": user * (int(tab.max()) + 1) + tab,
        "video": columns["video"],
        "author": author[columns["video"]],
    }
    found = {}
    for name, entity in entities.items():
        count, sums = past(entity, time, outcomes, asked)
        prior = _PRIOR_ROWS[name]
        found[f"past_{name}"] = np.log1p(count, dtype=np.float32)
        for task, positives, average in zip(tasks, sums.T, mean, strict=True):
            share = (positives + prior * average) / (count + prior)
            found[f"past_{name}_{task}"] = np.log(share / average, dtype=np.float32)
    return {name: scaled(x[:, None], split == 0)[:, 0] for name, x in found.items()}
