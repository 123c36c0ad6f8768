"""A small log of a made app as the user's own CSV or Parquet file, with its schema."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

SCHEMA = """
categorical = ["user", "tab", "city"]
dense = ["age", "seconds"]
log = ["seconds"]
user = "user"

[labels]
like = "binary"
share = "binary"
minutes = "regression"

[categories]
like = "interaction"
share = "interaction"
minutes = "watch"

[split]
date = "day"
validation = "2024-05-08"
test = "2024-05-10"
"""


def log(rows: int = 3000, seed: int = 0) -> pd.DataFrame:
    """Twelve days in order of time; ``like`` and ``minutes`` follow the inputs; some values are empty."""
    rng = np.random.default_rng(seed)
    user, tab = rng.integers(0, 40, rows), rng.integers(0, 5, rows)
    age = rng.normal(35, 10, rows).round(1)
    pull = (tab > 2) + (age - 35) / 10
    city = rng.choice(["Rome", "Oslo", "Bonn", "Ürümqi"], rows).astype(object)
    frame = pd.DataFrame(
        {
            "day": pd.date_range("2024-05-01", periods=12)[np.arange(rows) * 12 // rows].strftime("%Y-%m-%d"),
            "user": user,
            "tab": tab,
            "city": np.where(rng.random(rows) < 0.1, None, city),
            "age": np.where(rng.random(rows) < 0.1, np.nan, age),
            "seconds": rng.lognormal(3, 1, rows).round(2),
            "like": (pull + rng.standard_normal(rows) > 0.5).astype(float),
            "share": (rng.standard_normal(rows) - pull > 0).astype(float),
            "minutes": (pull + 0.3 * rng.standard_normal(rows)).round(4),
        }
    )
    frame.loc[rng.random(rows) < 0.2, "like"] = np.nan
    return frame


def write(
    folder: Path, frame: pd.DataFrame | None = None, name: str = "log.parquet", groups: int = 500
) -> Path:
    """The log as a file in ``folder``, beside schema.toml."""
    frame = log() if frame is None else frame
    (folder / "schema.toml").write_text(SCHEMA)
    path = folder / name
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False, row_group_size=groups)
    return path
