"""Census-Income (KDD): the public benchmark of the MMoE and PLE papers.

UCI id 117, DOI 10.24432/C5N30T, CC BY 4.0.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtlkit.data.census_file import CATEGORICAL, LABELS, NUMERIC, parse
from mtlkit.data.fetch import (
    DataError,
    cache_folder,
    cached,
    download,
    find,
    local_folder,
    members,
    read_all,
    sha256,
)
from mtlkit.data.table import SPLITS, Table

TRAIN, TEST = "census-income.data", "census-income.test"
_URL = "https://archive.ics.uci.edu/static/public/117/census+income+kdd.zip"
# Of the decompressed text: archives get repacked, the text stays.
_SHA256 = {
    TRAIN: "3676a81db7d3528f3f8b9f3c699d0f0aa28db45e6e994fa0b8ed38327539ee86",
    TEST: "98402b1ab879573d0a7f38a699a40258080e25e33d3401e7bf9c96d3fa0fab8c",
}
_LAYOUT = "1"  # of a cache entry; another layout needs another number here
_OTHERWISE = (
    f", or put {TRAIN} and {TEST} (plain, .gz or .bz2) into a folder and give it as path= "
    "or in the environment variable MTLKIT_DATA"
)

# Amounts: mostly 0, else spread over decades; they become quantile buckets too.
_AMOUNTS = ("wage_per_hour", "capital_gains", "capital_losses", "stock_dividends")
_BUCKETS = 32
_LEAST_ROWS = 10  # training rows that must share a number before it gets an id of its own

_GROUPS = {1: ("income", "never_married"), 2: ("education", "never_married")}


def census_income(
    group: int | Sequence[str] = 1,
    *,
    keep_education: bool = False,
    path: str | Path | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
) -> Table:
    """Load Census-Income (KDD) with the two tasks of a group of the MMoE paper (section 6.2).

    The training file is the train split; the test file is halved at random into validation and
    test. Ids, buckets and scales are fitted on the training file alone. Education, marital
    status, income and the instance weight are no inputs in either group. (det_hh_fam_stat,
    tax_filer_stat and det_hh_summ stay, and nearly give marital status away: AUC about 0.99.)

    Parameters
    ----------
    group: 1 = income above 50,000 dollars + never married; 2 = education (associate degree or
        higher) + never married; or a tuple of tasks out of income, education, never_married.
    keep_education: a deviation from the paper: education becomes an input, as in torch-rechub and
        keras-mmoe, whose figures for income are comparable with this setting only. Not where
        education is a task.
    path: folder with census-income.data and .test, each plain, .gz or .bz2, or the folder that
        holds them in ``census-income/``. Without it: the folder that MTLKIT_DATA names, where
        it holds the files, else the official archive (downloaded once, checksum-verified).
    seed: of the random halving of the test file.
    cache: folder for the download and the parsed columns; else MTLKIT_CACHE, else the user's
        cache folder. An entry is keyed by the bytes of its sources.

    Returns
    -------
    A table of binary tasks. ``ids``: each categorical column ("?" and values unseen in training
    are 0), each numeric column's frequent values (``age_value``; 0 = rare) and the amounts'
    quantile buckets (``capital_gains_bucket``). ``dense``: the 7 numeric columns, log1p, then
    zero mean and unit variance over the training file. A "?" or an empty text in the education
    or marital column is a NaN label (unobserved). ``notes``: ``label_correlation`` (Pearson of
    the first two tasks over the training file), ``official`` (the official bytes?), ``source``.

    Raises
    ------
    ValueError: an unknown group, task or seed; education as both task and input.
    FileNotFoundError: a folder without the files.
    DataError (a ValueError): damaged files, wrong columns or values, or a download that failed.
    Warns with one sentence where local files are not the official ones.
    """
    tasks = _tasks(group)
    if keep_education and "education" in tasks:
        raise ValueError(
            "census_income: keep_education makes the column education an input, but education is a task "
            f"of group={group!r}; it cannot be both."
        )
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"census_income: seed must be a whole number >= 0, got {seed!r}.")
    folder = cache_folder(cache)
    files = _local_files(path)
    if files is None:
        key, source = sha256(repr((_LAYOUT, _SHA256)).encode()), _URL
        columns = cached(folder / f"census-{key[:32]}.npz", lambda: _columns(_official(folder)))
    else:
        found = [(name, file.suffix, sha256(file)) for name, file in files.items()]
        key, source = sha256(repr((_LAYOUT, found)).encode()), str(files[TRAIN].parent)
        columns = cached(folder / f"census-{key[:32]}.npz", lambda: _columns(read_all(files)))
    other = [name for name, digest in _SHA256.items() if str(columns[f"sha256 {name}"]) != digest]
    if other:
        warnings.warn(
            f"census_income: {' and '.join(other)} in {source} differ from the official files "
            "(sha256); the rows are used as they are.",
            stacklevel=2,
        )
    inputs = (*CATEGORICAL, "education") if keep_education else CATEGORICAL
    return _table(columns, tasks, inputs, seed, {"official": not other, "source": source})


def _tasks(group: int | Sequence[str]) -> tuple[str, ...]:
    if isinstance(group, int) and group in _GROUPS:
        return _GROUPS[group]
    named = isinstance(group, tuple | list) and group and all(task in LABELS for task in group)
    if not named or len(set(group)) != len(group):
        raise ValueError(
            f"census_income: group must be 1, 2 or a tuple of different tasks out of "
            f"{', '.join(LABELS)}; got {group!r}."
        )
    return tuple(group)


def _local_files(path: str | Path | None) -> dict[str, Path] | None:
    """The local train and test file, or None where the official archive is to be used."""
    found = local_folder("census_income", path, TRAIN)
    if found is None:
        return None
    folder, said = found
    lacks = [TRAIN, TEST]
    for place in (folder / "census-income", folder):
        files = {name: find(place, name) for name in (TRAIN, TEST)}
        missing = [name for name, file in files.items() if file is None]
        if not missing:
            return files
        lacks = min(lacks, missing, key=len)
    if path is None and len(lacks) == 2:  # a folder with other data sets only
        return None
    raise FileNotFoundError(
        f"census_income: {said} holds no {' and no '.join(lacks)} (plain, .gz or .bz2), nor does "
        "its subfolder census-income; copy the file there or name another folder."
    )


def _official(folder: Path) -> dict[str, bytes]:
    """The official files' texts. An archive that does not hold them is removed."""
    archive = download(_URL, folder / "downloads", otherwise=_OTHERWISE)
    try:
        texts = members(archive, _SHA256)
        for name, text in texts.items():
            if sha256(text) != _SHA256[name]:
                raise DataError(f"{archive.name} holds another {name} than the official (sha256).")
    except DataError as error:
        archive.unlink()
        raise DataError(
            f"census_income: {error} The download was removed: run it again{_OTHERWISE}."
        ) from error
    return texts


def _columns(texts: dict[str, bytes]) -> dict[str, np.ndarray]:
    """What the cache keeps: the parsed columns and the digest of each text."""
    digests = {f"sha256 {name}": np.array(sha256(text)) for name, text in texts.items()}
    return parse(texts) | digests


def _table(
    columns: dict[str, np.ndarray],
    tasks: tuple[str, ...],
    inputs: tuple[str, ...],
    seed: int,
    notes: dict[str, object],
) -> Table:
    """Encode the parsed columns. Everything that is fitted sees the first ``train`` rows only."""
    train, test = (int(n) for n in columns["rows"])
    if test < 2:
        raise DataError(
            f"census_income: {TEST} has {test} row, too few for a validation and a test split; "
            "give a file with more rows."
        )
    fields: dict[str, tuple[np.ndarray, int]] = {}  # name -> ids (N,), cardinality
    for column in inputs:
        fields[column] = _category_ids(columns[column], columns[f"{column} values"], train)
    for column in NUMERIC:
        fields[f"{column}_value"] = _value_ids(columns[column], train)
    for column in _AMOUNTS:
        fields[f"{column}_bucket"] = _bucket_ids(columns[column], train)

    dense = np.log1p(np.stack([columns[column] for column in NUMERIC], axis=1))  # (N, 7)
    spread = dense[:train].std(axis=0, dtype=np.float64)
    dense = (dense - dense[:train].mean(axis=0, dtype=np.float64)) / np.where(spread > 0, spread, 1)

    labels = {}
    for task in tasks:
        column, meaning = LABELS[task]
        by_code = [meaning[value] for value in columns[f"{column} values"].tolist()]
        labels[task] = np.array(by_code, dtype=np.float32)[columns[column]]

    split = np.zeros(train + test, dtype=np.int8)
    half = np.random.default_rng(seed).permutation(test) < test // 2
    split[train:] = np.where(half, SPLITS.index("validation"), SPLITS.index("test"))
    return Table(
        ids=np.stack([ids for ids, _ in fields.values()], axis=1).astype(np.int32),
        dense=dense.astype(np.float32),
        labels=labels,
        split=split,
        cardinalities=tuple(size for _, size in fields.values()),
        fields=tuple(fields),
        dense_names=NUMERIC,
        kinds=dict.fromkeys(tasks, "binary"),
        notes=notes | {"label_correlation": _correlation(labels, tasks, train)},
    )


def _category_ids(codes: np.ndarray, values: np.ndarray, train: int) -> tuple[np.ndarray, int]:
    """Ids 1, 2, ... for the values seen in training; 0 for others, "?" and empty texts."""
    seen = np.bincount(codes[:train], minlength=len(values)) > 0
    seen &= ~np.isin(values, ("?", ""))
    return np.where(seen, np.cumsum(seen), 0)[codes], int(seen.sum()) + 1


def _value_ids(x: np.ndarray, train: int) -> tuple[np.ndarray, int]:
    """Ids 1, 2, ... for the exact numbers that enough training rows share; 0 for the others."""
    values, counts = np.unique(x[:train], return_counts=True)
    values = values[counts >= _LEAST_ROWS]
    if not len(values):
        return np.zeros(len(x), dtype=np.int64), 1
    place = np.searchsorted(values, x).clip(max=len(values) - 1)
    return np.where(values[place] == x, place + 1, 0), len(values) + 1


def _bucket_ids(x: np.ndarray, train: int) -> tuple[np.ndarray, int]:
    """Id 1 for zero, then ids by the quantiles of the training file's positive amounts."""
    positive = x[:train][x[:train] > 0]
    inner = np.linspace(0, 1, _BUCKETS + 1)[1:-1]
    edges = np.unique(np.quantile(positive, inner)) if len(positive) else np.zeros(0)
    return np.where(x > 0, 2 + np.searchsorted(edges, x, side="right"), 1), len(edges) + 3


def _correlation(labels: dict[str, np.ndarray], tasks: tuple[str, ...], train: int) -> float:
    """Pearson of the first two tasks over the training rows where both were observed."""
    if len(tasks) < 2:
        return float("nan")
    pair = np.stack([labels[task][:train] for task in tasks[:2]]).astype(np.float64)
    pair = pair[:, ~np.isnan(pair).any(axis=0)]
    if pair.shape[1] < 2 or (pair.std(axis=1) == 0).any():
        return float("nan")
    return float(np.corrcoef(pair)[0, 1])
