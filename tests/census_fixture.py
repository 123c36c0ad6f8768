"""Rows in the official format of Census-Income, archives of them, and a small file server."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from mtlkit.data import Table
from mtlkit.data.census import TEST, TRAIN
from mtlkit.data.census_file import COLUMNS, LABELS

PACK = {"": lambda data: data, ".gz": gzip.compress, ".bz2": bz2.compress}


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Random rows, each {column: text}; every label value and every kind of input occurs."""
    rng = np.random.default_rng(seed)

    def amount() -> str:
        return str(rng.integers(1, 9999)) if rng.random() < 0.3 else "0"

    made = []
    for _ in range(count):
        row = {column: str(rng.choice(["Not in universe", "A b", "C & d"])) for column in COLUMNS}
        for _, (column, known) in LABELS.items():
            row[column] = str(rng.choice([value for value in known if value not in ("?", "")]))
        row |= {"age": str(rng.integers(0, 91)), "num_emp": str(rng.integers(0, 7))}
        row |= {"weeks_worked": str(rng.integers(0, 53)), "year": str(rng.choice(["94", "95"]))}
        for column in ("wage_per_hour", "capital_gains", "capital_losses", "stock_dividends"):
            row[column] = amount()
        row["instance_weight"] = f"{rng.random() * 2000:.2f}"
        row["hisp_origin"] = str(rng.choice(["NA", "All other", "Mexican (Mexicano)"]))
        row["citizenship"] = str(rng.choice(["Native", "Foreign born- Not a citizen of U S "]))
        row["state_prev_res"] = str(rng.choice(["?", "Utah", "Ohio"]))
        made.append(row)
    return made


def text(made: list[dict[str, str]]) -> bytes:
    return "".join(", ".join(row.values()) + "\n" for row in made).encode()


def texts(train: int = 300, test: int = 120) -> dict[str, bytes]:
    """{file name: text} of a made train and test file."""
    return {TRAIN: text(rows(train, 1)), TEST: text(rows(test, 2))}


def write(folder: Path, files: dict[str, bytes], suffix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / f"{name}{suffix}").write_bytes(PACK[suffix](data))
    return folder


def archive(files: dict[str, bytes]) -> bytes:
    """A zip that holds census.tar.gz that holds the files, as the official one."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as made:
        made.writestr("census.tar.gz", inner.getvalue())
        made.writestr("index.txt", "census")
    return outer.getvalue()


class Server:
    """What the server will do, and the Range header of each request that it has seen."""

    url = ""
    body = b""
    status = 200
    stop_after: int | None = None  # bytes sent before the connection breaks
    ranges = True  # whether Range requests are honoured
    tells_length = True

    def __init__(self) -> None:
        self.requests: list[str | None] = []


@contextlib.contextmanager
def serve(body: bytes):
    """A file server on this machine, for the length of a with block."""
    state = Server()
    state.body = body

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            state.requests.append(asked)
            start, status = 0, state.status
            if asked and state.ranges:
                start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
                if start >= len(state.body):
                    status = 416
            self.send_response(status)
            data = state.body[start:] if status in (200, 206) else b""
            if state.tells_length:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: state.stop_after])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/census+income+kdd.zip"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def same(one: Table, two: Table) -> bool:
    """Whether two tables of the same tasks are equal to the byte."""
    arrays = [(one.ids, two.ids), (one.dense, two.dense), (one.split, two.split)]
    arrays += [(one.labels[task], two.labels[task]) for task in one.tasks]
    return one.fields == two.fields and all(a.tobytes() == b.tobytes() for a, b in arrays)


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*")) if cache.exists() else []
