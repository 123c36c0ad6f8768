"""`python -m autograde_tests NOTEBOOK [NOTEBOOK ...]`: your points, without nbgrader."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

TITLE = 40  # characters; what the check said needs the room


def main(argv: Sequence[str] | None = None) -> int:
    """Grade the notebooks; 0 when all could be graded, whatever their points."""
    parser = argparse.ArgumentParser(prog="python -m autograde_tests", description="Grade notebooks.")
    parser.add_argument("notebooks", nargs="+", metavar="NOTEBOOK")
    parser.add_argument("--timeout", type=_seconds, default=60, help="seconds for a cell (default: 60)")
    parser.add_argument("--json", metavar="FILE", help="write the results here as JSON; - for the terminal")
    args = parser.parse_args(argv)
    try:
        from autograde_tests.grade import CannotGrade, grade
    except ModuleNotFoundError as missing:
        print(f"Grading needs {missing.name}: run `pip install 'mtlkit[course]'`.", file=sys.stderr)
        return 1
    found, failed = [], False
    for name in args.notebooks:
        entry: dict = {"notebook": name}
        found.append(entry)
        try:
            results = grade(Path(name), args.timeout)
        except CannotGrade as why:
            failed = True
            entry["error"] = str(why)
            print(why, file=sys.stderr)
            continue
        entry["points"], entry["of"] = sum(r.points for r in results), sum(r.of for r in results)
        entry["exercises"] = [asdict(r) for r in results]
        if args.json != "-":
            print(table(entry))
    text = json.dumps(found, indent=1, ensure_ascii=False)
    if args.json == "-":
        print(text)
    elif args.json:
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    return 1 if failed else 0


def table(entry: dict) -> str:
    """The results of one notebook as lines for the terminal."""
    rows = [
        (textwrap.shorten(f"{e['id']} {e['title']}", TITLE, placeholder=" ..."), e)
        for e in entry["exercises"]
    ]
    wide = max(len(name) for name, _ in rows)
    room = max(40, shutil.get_terminal_size((110, 24)).columns - wide - 15)
    lines = [entry["notebook"], f"{'exercise':{wide}}  points   of  what the check said"]
    for name, e in rows:
        said = e["said"].removeprefix(f"{e['title']}: ").split("\n")
        said = said[:1] if e["passed"] else said
        first, *more = [part for line in said for part in textwrap.wrap(line, room)]
        lines.append(f"{name:{wide}}  {e['points']:6g} {e['of']:4g}  {first}")
        lines += [f"{'':{wide}}  {'':11}  {part}" for part in more]
    lines.append(f"{'total':{wide}}  {entry['points']:6g} {entry['of']:4g}\n")
    return "\n".join(lines)


def _seconds(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
