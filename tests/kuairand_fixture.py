"""Small logs, users and videos in the official format of KuaiRand, and archives of them."""

from __future__ import annotations

import csv
import io
import tarfile

import numpy as np

from mtlkit.data.kuairand_file import OUTCOMES, USER_CATEGORIES, USER_NUMBERS

LOG, USERS, VIDEOS = (
    "log_standard_4_25_to_5_08_pure.csv",
    "user_features_pure.csv",
    "video_features_basic_pure.csv",
)
LOG_COLUMNS = (
    "user_id video_id date hourmin time_ms is_click is_like is_follow is_comment is_forward is_hate "
    "long_view play_time_ms duration_ms profile_stay_time comment_stay_time is_profile_enter is_rand tab"
).split()
VIDEO_COLUMNS = (
    "video_id author_id video_type upload_dt upload_type visible_status video_duration server_width "
    "server_height music_id music_type tag"
).split()
DAY_MS = 86_400_000
_FIRST_MS = 1_650_816_000_000  # 2022-04-25 00:00 UTC+8

Row = dict[str, object]


def log(count: int = 400, seed: int = 0, days: tuple[int, int] = (0, 14), users: int = 20) -> list[Row]:
    """Random rows of the days since 04-25, user-major and in the order of time, as in the official log."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ms = int(rng.integers(days[0] * DAY_MS, days[1] * DAY_MS))
        day = ms // DAY_MS
        row: Row = dict.fromkeys(LOG_COLUMNS, 0) | {
            "user_id": int(rng.integers(users)),
            "video_id": int(rng.integers(30)),
            "date": 20220425 + day if day < 6 else 20220501 + day - 6,
            "hourmin": ms % DAY_MS // 3_600_000 * 100,
            "time_ms": _FIRST_MS + ms,
            "play_time_ms": int(rng.integers(60_000)),
            "duration_ms": int(rng.integers(1, 200_000)),
            "tab": int(rng.integers(4)),
        }
        made.append(row | {task: int(rng.random() < 0.3) for task in OUTCOMES})
    return sorted(made, key=lambda row: (row["user_id"], row["time_ms"]))


def users(count: int = 20) -> list[Row]:
    rng = np.random.default_rng(1)
    return [
        {"user_id": i, "user_active_degree": str(rng.choice(["full_active", "low_active"]))}
        | {column: int(rng.integers(3)) for column in USER_CATEGORIES[1:]}
        | {"fans_user_num_range": str(rng.choice(["[10,100)", "[100,1k)"])), "onehot_feat4": ""}
        | {column: int(rng.integers(1000)) for column in USER_NUMBERS}
        for i in range(count)
    ]


def videos(count: int = 30) -> list[Row]:
    rng = np.random.default_rng(2)
    fixed = {"video_type": "NORMAL", "upload_type": "Web", "visible_status": 0.0, "music_type": 9.0}
    return [
        dict.fromkeys(VIDEO_COLUMNS, 1)
        | fixed
        | {"video_id": i, "author_id": i // 2, "music_id": 9_155_697_141 + i, "upload_dt": "2022-04-10"}
        | {"server_width": 720.0, "server_height": float(rng.choice([1280, 960]))}
        | {"tag": str(rng.choice(["39", "39,68", "2", ""]))}
        for i in range(count)
    ]


def text(rows: list[Row]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def texts(rows: list[Row] | None = None, **changed: list[Row]) -> dict[str, bytes]:
    """{file name: text} of a log (``log()`` without one) and its users and videos."""
    parts = {"users": users(), "videos": videos()} | changed
    return {LOG: text(rows or log()), USERS: text(parts["users"]), VIDEOS: text(parts["videos"])}


def archive(files: dict[str, bytes]) -> bytes:
    """A KuaiRand-Pure.tar.gz, with the two files that a loader must leave alone."""
    others = {"log_random_4_22_to_5_08_pure.csv": b"no,log", "video_features_statistic_pure.csv": b"leak"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in (files | others).items():
            entry = tarfile.TarInfo(f"KuaiRand-Pure/data/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()
