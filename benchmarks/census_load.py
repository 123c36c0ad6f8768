"""How long loading Census-Income takes, against ``pandas.read_csv`` on the same files.

    python benchmarks/census_load.py [--path FOLDER] [--repeats 5]

Prints median, spread (min - max) and two ratios to ``pandas.read_csv``, which alone neither
verifies, encodes nor splits anything:
first load (unpack, verify, parse, check, encode, write the cache) must be <= 2 times as slow, and
a load from the warm cache must take < 2 s. The three are timed in turn within each repetition,
so that a slow moment of the machine meets all of them. Measured for the files as they lie in the
folder, and for both as .gz, the packing of the official archive.
"""

from __future__ import annotations

import argparse
import gzip
import os
import tempfile
from pathlib import Path

import pandas as pd
from reporting import loading, seconds

from mtlkit.data import census_income
from mtlkit.data.census import TEST, TRAIN
from mtlkit.data.fetch import find, read


def measure(folder: Path, repeats: int) -> dict[str, list[float]]:
    files = [find(folder, name) for name in (TRAIN, TEST)]
    times: dict[str, list[float]] = {"read_csv": [], "first load": [], "warm load": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:

            def load(cache: str = cache) -> object:
                return census_income(path=folder, cache=cache)

            def plain() -> object:
                options = {"header": None, "skipinitialspace": True, "keep_default_na": False}
                return [pd.read_csv(file, **options) for file in files]

            for name, call in (("read_csv", plain), ("first load", load), ("warm load", load)):
                times[name].append(seconds(call))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--path", default=os.environ.get("MTLKIT_DATA"))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if not options.path:
        parser.error("name the folder with the official files: --path FOLDER, or MTLKIT_DATA")
    folder = Path(options.path)
    folder = folder / "census-income" if (folder / "census-income").is_dir() else folder
    names = " and ".join(find(folder, name).name for name in (TRAIN, TEST))
    loading(f"{names}, {options.repeats} repetitions", measure(folder, options.repeats))
    with tempfile.TemporaryDirectory() as packed:
        for name in (TRAIN, TEST):
            (Path(packed) / f"{name}.gz").write_bytes(gzip.compress(read(find(folder, name)), 6))
        loading(f"both as .gz, {options.repeats} repetitions", measure(Path(packed), options.repeats))


if __name__ == "__main__":
    main()
