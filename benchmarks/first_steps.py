"""The README on an empty machine: every step in a fresh clone, with a fresh environment, timed.

    python benchmarks/first_steps.py [--tests] [--folder FOLDER]

What is committed is cloned. Then, as README says it: the environment is made, JupyterLab
opens on the first notebook (until its server answers), the sample class is graded, a model trains on a CSV
file with the README's own schema and scores new rows, and with --tests `make test` runs. The times are
those of this machine and its network; the size is that of the environment.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]


def readme(clone: Path, language: str, having: str) -> str:
    """The one block of the README in this language that has ``having`` in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", (clone / "README.md").read_text(), re.M | re.S)
    (found,) = [block for block in blocks if having in block]
    return found


def shell(clone: Path, command: str) -> None:
    """Run it as a user would, without this environment; raises with the end of what it printed."""
    done = subprocess.run(
        ["bash", "-ec", command], cwd=clone, env=environment(clone), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{command}\nended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")


def environment(clone: Path) -> dict[str, str]:
    here = Path(sys.prefix) / "bin"
    path = [part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != here]
    keep = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS")}
    return keep | {"PATH": os.pathsep.join(path), "MTLKIT_CACHE": str(clone / "build/cache")}


def lab(clone: Path) -> None:
    """`make lab`, until its server gives out the first notebook; then it is stopped."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = f"LAB_ARGS=--no-browser --port={port} --IdentityProvider.token=none"
    server = subprocess.Popen(
        ["make", "lab", arguments],
        cwd=clone,
        env=environment(clone),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    page = f"http://127.0.0.1:{port}/files/notebooks/00_start/00_start.ipynb?token=none"
    try:
        while True:
            if server.poll() is not None:
                raise SystemExit(f"make lab ended with {server.returncode} before its server answered")
            try:
                with urllib.request.urlopen(page, timeout=5) as answer:
                    assert b'"cells"' in answer.read()
                    return
            except OSError:
                time.sleep(0.1)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def own_log(clone: Path) -> None:
    """A CSV of 20,000 rows with the columns of the README's schema, the schema, and new rows."""
    rows, r = 20_000, np.random.default_rng(0)
    user = r.integers(0, 500, rows)
    frame = pd.DataFrame(
        {
            "user": user,
            "tab": r.choice(["home", "search", "friends"], rows),
            "city": user % 7,
            "age": 18 + user % 50,
            "seconds": r.lognormal(3, 1, rows),
            "like": (r.random(rows) < 0.05 + 0.3 * (user % 5 == 0)).astype(int),
            "minutes": r.lognormal(1, 1, rows),
            "day": pd.Timestamp("2024-05-01") + pd.to_timedelta(r.integers(0, 12, rows), unit="D"),
        }
    )
    frame.to_csv(clone / "log.csv", index=False)
    frame.tail(1000).to_csv(clone / "new.csv", index=False)
    (clone / "schema.toml").write_text(readme(clone, "toml", "[labels]"))


def train(clone: Path) -> None:
    shell(clone, "PATH=$PWD/.venv/bin:$PATH\n" + readme(clone, "bash", "--data log.csv"))
    assert len(pd.read_csv(clone / "scores.csv")) == 1000


def main() -> None:
    """Print a line per step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tests", action="store_true", help="`make test`, too (many minutes)")
    parser.add_argument("--folder", type=Path, help="where to clone to; must not exist; kept afterwards")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="first-steps-")) / "mtlkit"
    python = Path(sys.base_prefix) / "bin/python3"
    steps: dict[str, Callable[[Path], object]] = {
        "git clone": lambda _: subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True),
        "the environment (the first `make` of any kind)": lambda c: shell(
            c, f"make .venv/ready PYTHON={python}"
        ),
        "`make lab`, until the first notebook is there": lab,
        "`make grade`: the sample class": lambda c: shell(c, "make grade"),
        "a model on a CSV of one's own, and scores for new rows": train,
    }
    if options.tests:
        steps["`make test`"] = lambda c: shell(c, "make test")
    try:
        for name, step in steps.items():
            if step is train:
                own_log(folder)
            start = time.perf_counter()
            step(folder)
            print(f"{name:60}{time.perf_counter() - start:8.0f} s", flush=True)
        size = sum(path.lstat().st_size for path in (folder / ".venv").rglob("*"))
        print(f"the environment takes {size / 1e9:.1f} GB on disk")
    finally:
        if options.folder is None:
            shutil.rmtree(folder.parent, ignore_errors=True)


if __name__ == "__main__":
    main()
