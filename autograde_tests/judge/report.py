"""How an assignment went, on one page: points, named mistakes, crashes, and answers that look alike."""

from __future__ import annotations

import argparse
import ast
import csv
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from autograde_tests.judge.book import CourseError, scores
from autograde_tests.judge.course import Course, told
from autograde_tests.judge.notebook import Unreadable, check_cell, read

COLUMNS = (
    "student",
    "status",
    "reason",
    "exercise",
    "title",
    "of",
    "points",
    "score",
    "ended",
    "mistake",
    "message",
)
TOP = 5  # mistakes and errors that the page names for an exercise
COMMON = 0.2  # an answer that so large a share of a class has is simply the way to write it
SMALL = 25  # nodes of a syntax tree; what is smaller has few other ways
KINDS = (
    "right",
    "wrong",
    "form",
    "borrowed",
    "crash",
    "stopped",
    "blank",
)  # how an answer ended: the columns
ENDED = {
    "type": "form",
    "parts": "form",
    "delegated": "borrowed",
    "slow": "stopped",
}  # where the judge says more
LEGEND = "form: not the type or the parts that the text asks for; borrowed: it calls the finished part."
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .6em 0 1.6em; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .25em .7em .25em 0; border-bottom: 1px solid #ddd }
td.n, th.n { text-align: right; white-space: nowrap }
.bar { background: #e8e8e8; width: 8em; height: .8em }
.bar i { display: block; background: #0072b2; height: 100% }
.hint { border-left: 4px solid #d55e00; padding-left: .8em } pre { margin: 0; white-space: pre-wrap }
@media print { body { max-width: none; margin: 0; font-size: 11px } h2 { break-after: avoid }
  tr { break-inside: avoid } .bar, .bar i { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What one may type after `report`."""
    parser.description = "Write a page and a CSV about each assignment, from the gradebook and the verdicts."
    parser.add_argument("assignments", nargs="+", metavar="ASSIGNMENT")
    parser.add_argument("--course", type=Path, default=Path(), help="the folder with nbgrader_config.py")
    parser.add_argument("--out", type=Path, help="folder of the files (default: report/ of the course)")


def run(args: argparse.Namespace) -> int:
    """0 when every assignment has its two files."""
    try:
        course = Course(args.course.resolve())
        judged = {name: _judged(course, name) for name in args.assignments}
        folder = args.out or course.root / "report"
        folder.mkdir(parents=True, exist_ok=True)
        for name, (entries, rows) in judged.items():
            with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)
            text = page(name, entries, rows, similar(_answers(course, name, entries), len(entries)))
            (folder / f"{name}.html").write_text(text, encoding="utf-8")
            print(f"{folder / name}.html and .csv: {len(entries)} submissions")
    except CourseError as why:
        print(why, file=sys.stderr)
        return 2
    return 0


def _cell(value: object) -> object:
    """For a spreadsheet: text that it would take for a formula is quoted."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def _judged(course: Course, name: str) -> tuple[dict[str, dict], list[dict]]:
    """The entries of an assignment, and the rows of its CSV. Raises ``CourseError`` where there are none."""
    entries, hint = course.latest(name), f"run `python -m autograde_tests class {name}`"
    if not entries:
        raise CourseError(f"Nothing of {name} has been judged yet: {hint}.")
    known = scores(course.coursedir, name)
    lost = [s for s, entry in entries.items() if entry["status"] == "graded" and s not in known]
    if lost and not known:
        raise CourseError(f"The gradebook has no points for {name}: {hint}, which records them again.")
    if lost:
        print(f"The gradebook lacks {', '.join(lost)}, so the judge's points stand: {hint}.", file=sys.stderr)
    entries = {student: told(entry, known) for student, entry in sorted(entries.items())}
    return entries, [row for s, entry in entries.items() for row in _rows(entry, known.get(s, {}))]


def _rows(entry: dict, known: dict[str, tuple[float, float]]) -> Iterable[dict]:
    """A row per exercise, or one with the reason. score: the gradebook's, which a grader may have changed."""
    who = {name: entry[name] for name in ("student", "status", "reason")}
    for result in entry["exercises"]:
        _, score = known.get(check_cell(result["id"]), (0.0, result["points"]))
        same = {name: result[name] for name in ("title", "of", "points", "mistake", "message")}
        yield who | same | {"exercise": result["id"], "score": score, "ended": _kind(result)}
    if not entry["exercises"]:
        yield who


def _kind(result: dict) -> str:
    if result["passed"]:
        return "right"
    failure = ENDED.get(result["failure"], result["failure"])
    return failure if failure in KINDS else "wrong"


def _answers(course: Course, name: str, entries: dict[str, dict]) -> dict[str, dict[str, str]]:
    """The text of each answer, by exercise and student; blank ones are left out."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for student, entry in entries.items():
        blank = {r["id"] for r in entry["exercises"] if r["failure"] == "blank"}
        folder = course.coursedir.place("autograded", student, name)
        for path in folder.glob("*.ipynb") if entry["status"] == "graded" else ():
            try:
                cells = read(path.read_bytes())
            except (Unreadable, OSError):
                hint = f"`python -m autograde_tests class {name} --student {student} --force` makes it again"
                print(f"{path} is damaged and not compared with others: {hint}.", file=sys.stderr)
                continue
            for cell in cells:
                exercise = cell.id.removeprefix("answer_").replace("_", ".")
                if cell.id.startswith("answer_") and cell.kind == "code" and exercise not in blank:
                    found[exercise][student] = cell.source
    return found


def similar(answers: dict[str, dict[str, str]], students: int) -> list[tuple[str, list[str], bool]]:
    """Groups of students whose answers have one syntax tree once names are replaced: a hint, no proof.

    answers: exercise -> student -> text. Returns (exercise, students, whether even the texts are equal).
    Short answers and those that many of the ``students`` have are left out.
    """
    groups = []
    for exercise, texts in answers.items():
        alike: dict[str, list[str]] = defaultdict(list)
        for student, text in sorted(texts.items()):
            tree = _shape(text)
            if tree:
                alike[tree].append(student)
        for members in alike.values():
            if 2 <= len(members) <= max(3, COMMON * students):
                groups.append((exercise, members, len({texts[m].strip() for m in members}) == 1))
    return groups


def _shape(text: str) -> str:
    """The syntax tree of an answer without its names, words and comments; "" where it says nothing."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    nodes = list(ast.walk(tree))
    if len(nodes) < SMALL:
        return ""
    names: dict[str, str] = {}
    for node in nodes:
        for field in ("name", "id", "arg"):
            if isinstance(getattr(node, field, None), str):
                setattr(node, field, names.setdefault(getattr(node, field), f"n{len(names)}"))
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [statement for statement in body if not _is_text(statement)]
    try:
        return ast.dump(tree)
    except RecursionError:
        return ""


def _is_text(statement: ast.AST) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def page(name: str, entries: dict[str, dict], rows: list[dict], groups: Sequence[tuple]) -> str:
    """The page as HTML that needs nothing else."""
    graded = {student: entry for student, entry in entries.items() if entry["status"] == "graded"}
    totals: Counter = Counter(dict.fromkeys(graded, 0.0))
    rows = [row for row in rows if "exercise" in row]
    for row in rows:
        totals[row["student"]] += row["score"]
    of = max((entry["of"] for entry in graded.values()), default=0.0)
    parts = [f"<h1>{escape(name)}</h1>", f"<p>{_summary(entries, totals, of)}</p>"]
    by_exercise: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        by_exercise[row["exercise"]].append(row)
    heads = ["exercise", "", "#mean", "#of", *(f"#{kind}" for kind in KINDS)]
    parts += ["<h2>Exercises</h2>", _table(heads, (_line(i, found) for i, found in by_exercise.items()))]
    parts.append(f"<p>{LEGEND}</p>")
    parts.append("<h2>Named mistakes</h2>")
    mistakes = [
        [i, f"#{count}", escape(sentence)]
        for i, found in by_exercise.items()
        for sentence, count in Counter(r["mistake"] for r in found if r["mistake"]).most_common(TOP)
    ]
    parts.append(_table(["exercise", "#students", "It looks as if ..."], mistakes))
    parts.append("<h2>Crashed or stopped</h2>")
    crashes = [
        [i, f"#{count}", f"<pre>{escape(text)}</pre>"]
        for i, found in by_exercise.items()
        for text, count in Counter(
            _words(r["message"]) for r in found if r["ended"] in ("crash", "stopped")
        ).most_common(TOP)
    ]
    parts.append(_table(["exercise", "#students", "what was said"], crashes))
    failed = [[escape(s), escape(e["reason"])] for s, e in sorted(entries.items()) if s not in graded]
    parts += ["<h2>Without points</h2>", _table(["student", "reason"], failed)]
    parts.append("<h2>Answers that look alike</h2>")
    parts.append(
        '<p class="hint">A hint, not a proof: after renaming, these answers have the same syntax tree, and '
        "few others of the class have it. Short answers are left out. Talk before you conclude.</p>"
    )
    alike = [
        [i, escape(", ".join(members)), "the same text" if same else "the same tree"]
        for i, members, same in groups
    ]
    parts.append(_table(["exercise", "students", ""], alike))
    students = [[escape(s), f"#{totals[s]:g}", f"#{of:g}", _bar(totals[s], of)] for s in sorted(graded)]
    parts += ["<h2>Students</h2>", _table(["student", "#points", "#of", ""], students)]
    head = f'<meta charset="utf-8"><title>{escape(name)}</title><style>{STYLE}</style>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _summary(entries: dict[str, dict], totals: dict[str, float], of: float) -> str:
    text = f"{len(entries)} handed in, {len(totals)} graded, {len(entries) - len(totals)} without points."
    if totals:
        middle, mean = statistics.median(totals.values()), statistics.fmean(totals.values())
        text += f" Of {of:g} points: median {middle:g}, mean {mean:.1f}, lowest {min(totals.values()):g},"
        text += f" highest {max(totals.values()):g}."
    return text


def _line(exercise: str, found: list[dict]) -> list[str]:
    ended = Counter(row["ended"] for row in found)
    mean, of = statistics.fmean(row["score"] for row in found), found[0]["of"]
    counts = [f"#{ended[kind] or ''}" for kind in KINDS]
    return [f"{exercise} {escape(found[0]['title'])}", _bar(mean, of), f"#{mean:.1f}", f"#{of:g}", *counts]


def _words(message: str) -> str:
    """An error without the line that names the trial: equal errors count together."""
    return "\n".join(line.strip() for line in message.split("\n")[1:3])


def _bar(value: float, of: float) -> str:
    return f'<div class="bar"><i style="width:{100 * value / of if of else 0:.0f}%"></i></div>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already; one that begins with # is a number, and stands to the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        made = (f'<{tag} class="n">{c[1:]}</{tag}>' if c[:1] == "#" else f"<{tag}>{c}</{tag}>" for c in cells)
        return f"<tr>{''.join(made)}</tr>"

    body = [line(row, "td") for row in rows]
    return "\n".join(["<table>", line(heads, "th"), *body, "</table>"]) if body else "<p>None.</p>"
