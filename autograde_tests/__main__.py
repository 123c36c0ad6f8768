"""Points without nbgrader, the class with it, and a page about the class.

python -m autograde_tests NOTEBOOK [NOTEBOOK ...]
python -m autograde_tests class ASSIGNMENT [ASSIGNMENT ...]
python -m autograde_tests report ASSIGNMENT [ASSIGNMENT ...]
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from autograde_tests.judge.options import NO_SANDBOX, count, new_file

TITLE = 40  # characters; what the check said needs the room
COMMANDS = ("class", "report")
INTERRUPTED = 130  # the exit status of what Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Grade or report; 0 when all could be graded, whatever their points."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return _command(argv)
    except KeyboardInterrupt:
        again = " What is graded stays; the same command goes on from here." if argv[:1] == ["class"] else ""
        print(f"Stopped.{again}", file=sys.stderr)
        return INTERRUPTED
    except OSError as why:  # a folder or file of the course's that cannot be read or written
        print(f"{why.filename or 'The output'}: {why.strerror or why}.", file=sys.stderr)
        return 2


def _command(argv: list[str]) -> int:
    command = argv[0] if argv and argv[0] in COMMANDS else ""
    parser = argparse.ArgumentParser(prog=f"python -m autograde_tests {command}".strip())
    if command != "report":
        parser.add_argument("--timeout", type=count, default=10, help="seconds for an exercise (default: 10)")
        parser.add_argument("--unsandboxed", action="store_true", help="grade where there is no sandbox")
    if command == "class":
        from autograde_tests.judge import course as command_module
    elif command == "report":
        from autograde_tests.judge import report as command_module
    else:
        command_module = sys.modules[__name__]
        meant = difflib.get_close_matches(argv[0], COMMANDS, 1) if argv and not Path(argv[0]).exists() else []
        if meant:
            parser.error(f"there is no file {argv[0]}; is it the command `{meant[0]}`?")
    command_module.arguments(parser)
    return command_module.run(parser.parse_args(argv[bool(command) :]))


def arguments(parser: argparse.ArgumentParser) -> None:
    """What one may type after the command; each command's module has such a function, and ``run``."""
    parser.description = "Grade notebooks. `class` grades what a class handed in, `report` shows how it went."
    parser.add_argument("notebooks", nargs="+", metavar="NOTEBOOK")
    words = "write the results here as JSON; - for the terminal"
    parser.add_argument("--json", type=new_file, metavar="FILE", help=words)


def run(args: argparse.Namespace) -> int:
    """Grade single notebooks, and print what each check says."""
    try:
        from autograde_tests.judge.court import Judge, Limits, NeedsSandbox, NoWorker
        from autograde_tests.judge.notebook import Unreadable
    except ModuleNotFoundError as missing:
        print(f"Grading needs {missing.name}: run `pip install -e '.[course]'`.", file=sys.stderr)
        return 1
    found, failed = [], False
    try:
        with Judge(Limits(seconds=args.timeout), sandbox=not args.unsandboxed) as judge:
            for name in args.notebooks:
                entry: dict = {"notebook": name}
                found.append(entry)
                try:
                    results = _grade(Path(name), judge)
                except Unreadable as why:
                    failed = True
                    entry["error"] = str(why)
                    print(why, file=sys.stderr)
                    continue
                entry["points"], entry["of"] = sum(r.points for r in results), sum(r.of for r in results)
                entry["exercises"] = [asdict(r) | {"said": r.said} for r in results]
                if args.json != "-":
                    print(table(entry))
    except NeedsSandbox as missing:
        print(NO_SANDBOX.format(missing), file=sys.stderr)
        return 1
    except NoWorker as why:
        print(why, file=sys.stderr)
        return 1
    text = json.dumps(found, indent=1, ensure_ascii=False)
    if args.json == "-":
        print(text)
    elif args.json:
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    return 1 if failed else 0


def _grade(path: Path, judge) -> list:
    import nbformat

    from autograde_tests.judge import notebook

    if path.is_dir():
        raise notebook.Unreadable(f"{path}: this is a folder; name a notebook in it.")
    if not path.is_file():
        raise notebook.Unreadable(f"{path}: there is no such file.")
    data = path.read_bytes()
    mine = notebook.read(data, str(path))
    release = notebook.find_release(mine, RELEASES)
    if release is None and any(cell.grade_id.startswith("check_") for cell in mine):
        release = nbformat.reads(data.decode("utf-8-sig"), as_version=4)  # installed without the notebooks
        paper = notebook.paper(release, nbformat.v4.new_notebook())
    elif release is not None:
        paper = notebook.paper(notebook.rebuild(release, mine), release)
    else:
        raise notebook.Unreadable(f"{path}: no exercise of this course is in it.")
    return judge.grade(paper)


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
        said = e["said"].removeprefix(f"{e['title']}: ").removeprefix(f"{e['title']}\n").split("\n")
        said = said[:1] if e["passed"] else said
        first, *more = [part for line in said for part in textwrap.wrap(line, room)]
        lines.append(f"{name:{wide}}  {e['points']:6g} {e['of']:4g}  {first}")
        lines += [f"{'':{wide}}  {'':11}  {part}" for part in more]
    lines.append(f"{'total':{wide}}  {entry['points']:6g} {entry['of']:4g}\n")
    return "\n".join(lines)


RELEASES = Path(__file__).resolve().parents[1] / "notebooks"

if __name__ == "__main__":
    status = main()
    if status == INTERRUPTED:  # a thread may still wait for what runs no more
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)
