"""Training from files larger than memory against training in memory: throughput and peak memory.

    python benchmarks/stream.py [--rows 20000000] [--compare 2000000] [--repeats 3] [--folder FOLDER]

Makes a log of a short-video app as Parquet files (row groups of 131,072 rows; files that are there are used
again), then trains MMoE for one epoch: on the first ``--compare`` rows in memory and streamed, in turn, for
the ratio of their rates; and on all rows streamed, for the peak. Each training is a process of its own. Its
peak is its largest resident size, libraries included (printed alone, too); its rate counts training rows per
second of ``fit``, validation included. The stream reads ahead in a second thread, so the processor seconds
are printed as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from reporting import markdown

from mtlkit import data, training
from mtlkit.data.encoder import Encoder
from mtlkit.data.files import Log
from mtlkit.data.schema import Schema
from mtlkit.models import MMoE, Recommender
from mtlkit.stream import Stream

TASKS = {"effective_view": "binary", "click": "binary", "like": "binary"}
PART, GROUP = 1_000_000, 131_072


def schema(table: data.Table) -> Schema:
    split = {"random": [0.96, 0.02, 0.02], "seed": 0}
    return Schema(TASKS, split, table.fields, table.dense_names, user="user_id")


def make(folder: Path, rows: int) -> None:
    """Files of a million rows; each is a world of its own, with its own users, videos and authors."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(-(-rows // PART)):
        file = folder / f"part{part:03}.parquet"
        if file.exists():
            continue
        size = min(PART, rows - part * PART)
        table = data.short_video(size, seed=part)
        columns = {name: table.ids[:, f] for f, name in enumerate(table.fields)}
        for name in ("user_id", "video_id", "author_id"):
            columns[name] = columns[name] + part * PART
        columns |= {name: table.dense[:, k] for k, name in enumerate(table.dense_names)}
        columns |= {task: table.labels[task].astype("int8") for task in TASKS}
        pq.write_table(pa.table(columns), file.with_suffix(".tmp"), row_group_size=GROUP)
        file.with_suffix(".tmp").rename(file)
        print(".", end="", file=sys.stderr, flush=True)


def train(folder: Path, how: str) -> dict[str, float]:
    """One epoch; what a process of its own reports."""
    torch.set_num_threads(1)
    libraries = peak()
    log = Log(folder)
    start = time.perf_counter()
    encoder = Encoder.fit(log, schema(data.short_video(1000)))
    fitted = time.perf_counter() - start
    source = Stream(log, encoder) if how == "stream" else encoder.table(log)
    model = Recommender(encoder.frame(), MMoE, experts=4, expert=[64, 32], tower=[16])
    cpu = time.process_time()
    history = training.fit(model, source, epochs=1, batch_size=4096, lr=2e-3, progress=False)
    cpu = time.process_time() - cpu
    rows = history["step"].iloc[-1] * 4096
    line = {"rows": int(rows), "seconds": history["seconds"].iloc[-1], "cpu": cpu, "encoder": fitted}
    line |= {"peak": peak(), "libraries": libraries, "vocabulary": sum(map(len, encoder.vocabulary.values()))}
    return line | {"auc": history["validation/auc/click"].iloc[-1]}


def peak() -> float:
    """MiB. Not ru_maxrss: a new process inherits that of the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measured(folder: Path, how: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--folder", str(folder), "--train", how]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def cells(name: str, line: dict[str, float]) -> list[str]:
    rate, cpu = line["rows"] / line["seconds"], line["rows"] / line["cpu"]
    sizes = [
        f"{line['rows']:,}",
        f"{rate:,.0f}",
        f"{cpu:,.0f}",
        f"{line['encoder']:.0f} s",
        f"{line['peak']:,.0f}",
    ]
    return [name, *sizes, f"{line['auc']:.4f}"]


def report(folder: Path, rows: int, some: int, repeats: int) -> None:
    make(folder / "all", rows)
    make(folder / "some", some)
    lines = {"in memory": [], "streamed": []}
    for _ in range(repeats):
        for name, how in (("in memory", "memory"), ("streamed", "stream")):
            lines[name].append(measured(folder / "some", how))
    table = [cells(name, min(several, key=lambda x: x["seconds"])) for name, several in lines.items()]
    table.append(cells("streamed", measured(folder / "all", "stream")))
    header = [
        "",
        "rows, in whole batches",
        "rows per second",
        "per processor second",
        "fitting the encoder",
        "peak MiB",
    ]
    print("\n".join(markdown([*header, "validation AUC of click"], table)))
    pairs = list(zip(lines["streamed"], lines["in memory"], strict=True))
    ratios = [a["rows"] / a["seconds"] / (b["rows"] / b["seconds"]) for a, b in pairs]
    print(f"\nstreamed / in memory, rows per second, each of {repeats} pairs: ", end="")
    print(", ".join(f"{ratio:.2f}" for ratio in ratios) + f"; median {statistics.median(ratios):.2f}")
    print(f"libraries alone: {lines['streamed'][0]['libraries']:,.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--compare", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps the files; else a temporary folder")
    parser.add_argument("--train", choices=["stream", "memory"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        print(json.dumps(train(options.folder, options.train)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        report(folder, options.rows, options.compare, options.repeats)


if __name__ == "__main__":
    main()
