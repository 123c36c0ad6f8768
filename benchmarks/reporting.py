"""What benchmarks share: runs that are kept, timing, inputs of a linear model, cells of a table."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from mtlkit import metrics
from mtlkit.data import Table


class Runs:
    """Runs, each done once: what the JSON lines of ``out`` hold is read instead."""

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self.done: dict[str, dict] = {}
        if out and out.exists():
            lines = (json.loads(line) for line in out.read_text().splitlines())
            self.done = {_key(line["asked"]): line for line in lines}

    def get(self, asked: dict, make: Callable[[], dict]) -> dict:
        """The line of the run ``asked``: what ``make`` returned, with ``asked`` and its seconds."""
        key = _key(asked)
        if key not in self.done:
            wall, cpu = time.perf_counter(), time.process_time()
            made = make()
            seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
            self.done[key] = {"asked": asked} | seconds | made
            if self.out:
                with self.out.open("a") as file:
                    file.write(json.dumps(self.done[key]) + "\n")
            print(".", end="", file=sys.stderr, flush=True)
        return self.done[key]


def _key(asked: dict) -> str:
    return json.dumps(asked, sort_keys=True)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def loading(title: str, times: dict[str, list[float]]) -> None:
    """Print the seconds by name, and their ratios to those of "read_csv", repetition by repetition."""
    print(f"\n{title}\n{'':14}{'median s':>10}{'min - max s':>18}{'x read_csv':>12}{'ratios':>16}")
    for name, values in times.items():
        ratios = [v / base for v, base in zip(values, times["read_csv"], strict=True)]
        print(
            f"{name:14}{statistics.median(values):10.2f}"
            f"{f'{min(values):.2f} - {max(values):.2f}':>18}"
            f"{statistics.median(ratios):12.2f}{f'{min(ratios):.2f} - {max(ratios):.2f}':>16}"
        )


def data_path(given: str | None, folder: str) -> str | None:
    """``given``; else ../shared/data where it holds ``folder`` and MTLKIT_DATA names no other place."""
    beside = Path(__file__).parents[2] / "shared/data"
    if given is None and not os.environ.get("MTLKIT_DATA") and (beside / folder).is_dir():
        return str(beside)
    return given


def one_hot(part: Table, kept: Sequence[int]) -> sparse.csr_matrix:
    """One-hot ids of the fields ``kept``, then the dense features.   -> (N, sum of their sizes + K)"""
    starts = np.cumsum([0, *(part.cardinalities[i] for i in kept)])
    columns = (part.ids[:, list(kept)] + starts[:-1]).ravel()
    rows = np.arange(len(part) + 1) * len(kept)
    hot = sparse.csr_matrix((np.ones(len(columns), np.float32), columns, rows), (len(part), starts[-1]))
    return sparse.hstack([hot, part.dense], format="csr")


def chance(y: np.ndarray, auc: float) -> float:
    """Standard error of an AUC from the finite draw of the rows (Hanley and McNeil, Radiology 1982)."""
    return metrics.auc_error(auc, int((y == 1).sum()), int((y == 0).sum()))


def spread(values: Sequence[float] | np.ndarray, digits: int = 5) -> str:
    """Mean +- sd; the mean alone for one run."""
    values = np.asarray(values)
    sd = f" +- {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{sd}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table."""
    for cells in (header, ["---"] * len(header), *rows):
        yield "| " + " | ".join(cells) + " |"


def run_sections(
    doc: str,
    bench: Callable[[str | None, Path | None], object],
    sections: Mapping[str, Callable[[object, int], Iterable[str]]],
    tune: Callable[[object, int], Iterable[str]],
    *,
    seeds: int,
    few: str | None = None,
) -> None:
    """The command line of a benchmark on KuaiRand: print the lines of the sections asked for, or the grid.

    bench: makes what keeps data and runs of a folder and a file. few: which sections take fewer seeds.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="folder of KuaiRand; else MTLKIT_DATA, ../shared/data, download")
    parser.add_argument("--seeds", type=int, default=seeds, help=few)
    parser.add_argument("--sections", nargs="+", default=list(sections), choices=sections)
    parser.add_argument("--out", type=Path, help="JSON lines; finished runs in it are not run again")
    parser.add_argument("--tune", action="store_true", help="print the validation grid and no test figure")
    options = parser.parse_args()

    torch.set_num_threads(1)  # small products: more threads only wait for each other on a busy machine
    kept = bench(data_path(options.path, "kuairand-pure"), options.out)
    for section in [tune] if options.tune else [sections[name] for name in options.sections]:
        for line in section(kept, options.seeds):
            print(line, flush=True)
