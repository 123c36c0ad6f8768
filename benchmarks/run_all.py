"""Run every command that docs/results.md prints, one after the other: what `make bench` does.

    python benchmarks/run_all.py [--list] [--only census ...]

docs/results.md is the list: its indented lines that start with "python benchmarks/". What a command prints
goes to build/bench/, into a file named after it, and to the screen. A command whose file is complete is not
run again, so an interrupted run goes on with the same command; delete the file to run it anew. Scripts that
keep their runs one by one (``--out``) go on in the middle, too. All of it takes many hours.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build/bench"
KEEPS_RUNS = {"census", "home", "kuairand"}  # their --out is a file of finished runs


def commands(page: str) -> list[list[str]]:
    """The arguments of each command, from the script's name on, in the order of the page."""
    found = re.findall(r"^    python benchmarks/([^#\n]+?) *(?:#.*)?$", page, flags=re.MULTILINE)
    return [line.split() for line in dict.fromkeys(found)]


def name_of(command: list[str]) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", " ".join(command).replace(".py", "")).strip("_")[:150]


def run(command: list[str]) -> bool:
    """Whether it succeeded; what it printed is then kept under its name."""
    target = OUT / f"{name_of(command)}.txt"
    script = command[0].removesuffix(".py")
    kept = ["--out", str(OUT / f"{script}.jsonl")] if script in KEEPS_RUNS else []
    half = target.with_suffix(".part")
    with half.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-u", f"benchmarks/{command[0]}", *command[1:], *kept],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
    if process.wait() == 0:
        half.rename(target)
    return process.returncode == 0


def main() -> int:
    """Run what is not done yet; 1 when a command failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the commands and which are done")
    parser.add_argument("--only", nargs="+", metavar="SCRIPT", help="commands of these scripts: census, step")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    plan = commands((ROOT / "docs/results.md").read_text())
    scripts = {command[0].removesuffix(".py") for command in plan}
    if unknown := set(options.only or ()) - scripts:
        parser.error(f"docs/results.md has no command of {sorted(unknown)[0]!r}, only of {sorted(scripts)}")
    failed = []
    for command in plan:
        if options.only and command[0].removesuffix(".py") not in options.only:
            continue
        done = (OUT / f"{name_of(command)}.txt").exists()
        print(f"== {' '.join(command)}{' (done)' if done else ''}", flush=True)
        if done or options.list:
            continue
        start = time.perf_counter()
        if run(command):
            print(f"== {time.perf_counter() - start:.0f} s, in build/bench/{name_of(command)}.txt")
        else:
            failed.append(" ".join(command))
    for command in failed:
        print(f"failed: {command}; the message stands above. Run it again after mending.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
