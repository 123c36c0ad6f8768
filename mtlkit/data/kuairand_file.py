"""The CSV files of KuaiRand: their columns, and a strict, fast parser that joins users and videos.

A log file has a row per impression; the user file and the video file have a row per user and per video.
Which columns become tasks or inputs is for the caller.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mtlkit.data.fetch import DataError

OUTCOMES = (
    "is_click",
    "long_view",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_profile_enter",
    "is_hate",
)
# Of the log's 19 columns, those that are read: play_time_ms and the stay times are outcomes, too, is_rand is
# 0 in a standard log, and hourmin is time_ms rounded to an hour.
LOG = ("user_id", "video_id", "date", "time_ms", "duration_ms", "tab", *OUTCOMES)
USER_CATEGORIES = tuple(
    """user_active_degree is_lowactive_period is_live_streamer is_video_author follow_user_num_range
    fans_user_num_range friend_user_num_range register_days_range""".split()
) + tuple(f"onehot_feat{i}" for i in range(18))
USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
VIDEO_CATEGORIES = (
    *"author_id music_id music_type video_type upload_type visible_status tag".split(),
    "first_tag",  # of the comma list in tag
)
VIDEO_NUMBERS = ("server_width", "server_height")

_HOUR_MS = 3_600_000
_UTC_PLUS = 8  # the app's users live by China's time
_LARGEST = 2**53
# the whole numbers that a cell may hold
_LIMITS = {
    "user_id": (0, _LARGEST),
    "video_id": (0, _LARGEST),
    "date": (20_000_101, 20_991_231),
    "time_ms": (0, _LARGEST),
    "tab": (0, 30_000),
} | dict.fromkeys(OUTCOMES, (0, 1))
# any number or nothing
_NUMBERS = ("duration_ms", *USER_NUMBERS, *VIDEO_NUMBERS)


def parse(
    logs: Mapping[str, bytes], users: Mapping[str, bytes], videos: Mapping[str, bytes]
) -> dict[str, np.ndarray]:
    """Parse the log files (their rows follow on), the user file and the video file, each {name: text}.

    Letters: N log rows, M different values.

    Returns a flat dict, fit for an .npz file. ``user``, ``video``, ``day`` and ``duration`` (N,) are
    places in the sorted ids ``users`` and ``videos``, dates ``days`` (YYYYMMDD) and milliseconds
    ``durations`` (-1 = unknown), each (M,). ``time_ms``, ``hour`` (UTC+8), ``tab`` and each of ``OUTCOMES``
    (0 or 1) are (N,). ``user categories`` and ``video categories`` are codes (M, columns of the tuples
    above), -1 = missing; ``user numbers`` and ``video numbers`` have NaN = missing.

    Raises ``DataError`` that names the file, and line and column of the first fault.
    """
    frames = {name: _log(name, text) for name, text in logs.items()}
    _refuse_overlaps(frames)
    log = {c: np.concatenate([frame[c].to_numpy() for frame in frames.values()]) for c in LOG}
    log["duration_ms"] = np.where(log["duration_ms"] >= 0, log["duration_ms"], -1).astype(np.int64)
    found = {}
    for name, column in (
        ("user", "user_id"),
        ("video", "video_id"),
        ("day", "date"),
        ("duration", "duration_ms"),
    ):
        found[f"{name}s"], place = np.unique(log[column], return_inverse=True)
        found[name] = place.astype(np.int32)
    for name, text, key, categories, numbers in (
        ("user", users, "user_id", USER_CATEGORIES, USER_NUMBERS),
        ("video", videos, "video_id", VIDEO_CATEGORIES, VIDEO_NUMBERS),
    ):
        frame = _features(text, key, [c for c in categories if c != "first_tag"], numbers, found[f"{name}s"])
        if "tag" in frame:
            frame["first_tag"] = frame["tag"].str.partition(",")[0].str.strip()
        codes = [pd.factorize(frame[c], sort=True)[0].astype(np.int32) for c in categories]
        found[f"{name} categories"] = np.stack(codes, axis=1)
        found[f"{name} numbers"] = frame[list(numbers)].to_numpy(np.float64)
    hour = (log["time_ms"] // _HOUR_MS + _UTC_PLUS) % 24
    found |= {"time_ms": log["time_ms"], "hour": hour.astype(np.uint8), "tab": log["tab"].astype(np.int16)}
    return found | {task: log[task].astype(np.uint8) for task in OUTCOMES}


def _log(name: str, text: bytes) -> pd.DataFrame:
    """One log file's columns. The fast path only notices a fault; ``_first_fault`` then finds it."""
    _check_header(name, text, LOG)
    try:
        frame = pd.read_csv(
            io.BytesIO(text),
            usecols=list(LOG),
            index_col=False,
            dtype=dict.fromkeys(LOG, np.int64) | {"duration_ms": np.float64},
        )
    except (ValueError, OverflowError) as error:  # ParserError and UnicodeDecodeError are ValueErrors, too
        raise DataError(_first_fault(name, text, LOG) or f"{name} cannot be parsed ({error}).") from error
    # pandas fills short lines and would cut long ones; the commas tell
    width = text.partition(b"\n")[0].count(b",")
    sound = text.count(b",") == (len(frame) + 1) * width and len(frame)
    sound = sound and not np.isinf(frame["duration_ms"]).any()
    for column, (low, high) in _LIMITS.items():
        sound = sound and frame[column].min() >= low and frame[column].max() <= high
    if not sound and (fault := _first_fault(name, text, LOG)):
        raise DataError(fault)
    return frame


def _refuse_overlaps(frames: Mapping[str, pd.DataFrame]) -> None:
    """Two files of the same days hold rows twice, except for the parts of 27K, which share days."""
    spans = sorted((f["date"].min(), f["date"].max(), n) for n, f in frames.items() if "_part" not in n)
    for (_, end, one), (begin, _, two) in zip(spans, spans[1:], strict=False):
        if begin <= end:
            raise DataError(
                f"{one} and {two} both hold rows of {begin}, so rows would count twice; keep one of them in "
                "the folder."
            )


def _features(
    texts: Mapping[str, bytes],
    key: str,
    categories: Sequence[str],
    numbers: Sequence[str],
    ids: np.ndarray,
) -> pd.DataFrame:
    """The rows of the file for ``ids``, in their order; an id that the file lacks has empty cells."""
    ((name, text),) = texts.items()
    columns = (key, *categories, *numbers)
    _check_header(name, text, columns)
    kinds = {key: np.int64} | dict.fromkeys(categories, "str") | dict.fromkeys(numbers, np.float64)
    try:
        frame = pd.read_csv(io.BytesIO(text), usecols=list(columns), index_col=False, dtype=kinds)
    except (ValueError, OverflowError) as error:
        raise DataError(_first_fault(name, text, columns) or f"{name} cannot be parsed ({error}).") from error
    width = text.partition(b"\n")[0].count(b",")
    quoted = sum(cell.count(b",") for cell in re.findall(rb'"[^"\n]*"', text))  # "[10,100)"
    sound = text.count(b",") - quoted == (len(frame) + 1) * width and np.isfinite(frame[key]).all()
    if (not sound or np.isinf(frame[list(numbers)].to_numpy()).any()) and (
        fault := _first_fault(name, text, columns)
    ):
        raise DataError(fault)
    frame = frame.set_index(key)
    if not frame.index.is_unique:
        twice = frame.index[frame.index.duplicated()][0]
        raise DataError(f"{name} has two lines for {key} {twice}; keep one of them.")
    if not frame.index.isin(ids).any():
        raise DataError(f"{name} has no line for any {key} of the log; take the file of the same data set.")
    return frame.reindex(ids)


def _check_header(name: str, text: bytes, columns: tuple[str, ...]) -> None:
    try:
        header = [cell.strip() for cell in text.partition(b"\n")[0].decode().split(",")]
    except UnicodeDecodeError:
        header = []
    missing = [column for column in columns if column not in header]
    if missing:
        raise DataError(
            f"{name}, line 1 lacks the column {missing[0]}; the first line must name the columns of the "
            "official file."
        )


def _first_fault(name: str, text: bytes, columns: tuple[str, ...]) -> str | None:
    """The sentence about the first line that breaks the format, or None."""
    try:
        lines = csv.reader(io.StringIO(text.decode(), newline=""))
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        return f"{name}, line {line} is no UTF-8 text; copy or download the file again."
    header = [cell.strip() for cell in next(lines)]
    places = {column: header.index(column) for column in columns if column in (*_LIMITS, *_NUMBERS)}
    count = 0
    for cells in lines:
        if not cells:
            continue
        count += 1
        where = f"{name}, line {lines.line_num}"
        if len(cells) != len(header):
            return (
                f"{where} has {len(cells)} columns instead of {len(header)}; the file is cut or "
                "damaged there: copy or download it again."
            )
        for column, place in places.items():
            cell = cells[place].strip()
            if column in _LIMITS:
                low, high = _LIMITS[column]
                if not re.fullmatch(r"-?\d+", cell) or not low <= int(cell) <= high:
                    wanted = "0 or 1" if high == 1 else f"a whole number from {low} to {high}"
                    return f"{where}, column {column}: {cell!r} is not {wanted}; correct or remove the line."
            elif cell and not _is_number(cell):
                return f"{where}, column {column}: {cell!r} is not a number; correct or remove the line."
    return None if count else f"{name} has no rows below its header; copy it again."


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False
