"""A class with faulty submissions: each gets its own reason, and everybody around them their points."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from judge_cases import ROOT, hand_in, no_sandbox

from autograde_tests import __main__ as cli
from autograde_tests.judge import preprocessor
from autograde_tests.judge.course import table
from autograde_tests.judge.court import LINES, WIDTH, clean
from autograde_tests.judge.parts import parse
from mtlkit import layers

NAME = "00_start"
RIGHT = "\ndef rate(labels, observed):\n    return (labels * observed).sum(dim=0) / observed.sum(dim=0)\n"
LOOP = "while True:\n    pass"
SWALLOW = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"


# --- answers that break: what each costs, and what is said -------------------------------------------------

BREAK = {  # the body of the answer to 0.1 -> what its student reads
    "an endless loop": (LOOP, "an endless loop?"),
    "a loop that swallows interrupts": (SWALLOW, "an endless loop?"),
    "a long sleep": ("import time\ntime.sleep(1000)", "an endless loop?"),
    "endless recursion": ("return rate(labels, observed)", "RecursionError"),
    "sys.exit": ("import sys\nsys.exit(1)", "SystemExit"),
    "exit()": ("raise SystemExit", "SystemExit"),
    "os._exit": ("import os\nos._exit(0)", "the answer ended Python (exit code 0)"),
    "a kill": ("import os\nos.kill(os.getpid(), 9)", "it was killed"),
    "a kill of its group": ("import os\nos.killpg(os.getpgid(0), 9)", ""),
    "a segmentation fault": ("import ctypes\nctypes.string_at(0)", "segmentation fault"),
    "an abort": ("import os\nos.abort()", "Python was aborted"),
    "ten gigabytes": (
        "return torch.ones(10 * 2**30, dtype=torch.uint8).sum() + labels",
        "stopped with an error",
    ),
    "a list that grows": ("x = []\nwhile True: x.append(torch.empty(2**28))", "stopped with an error"),
    "an interrupt": ("raise KeyboardInterrupt", ""),
    "input": ("return input('how many?')", "EOFError"),
    "closed output": ("import os\nos.close(1), os.close(2)\nreturn labels.mean(dim=0)", "It looks as if"),
    "a hundred megabytes in one line": ("print('x' * 10**8)\nreturn labels.mean(dim=0)", "It looks as if"),
    "stderr without end": (
        "import sys\nfor _ in range(10**4): print('!', file=sys.stderr)\nreturn 1",
        "shape",
    ),
    "an error of ten megabytes": ("raise ValueError('x' * 10**7)", "ValueError: xxx"),
    "an error without words": ("assert labels.sum() < 0", "AssertionError"),
    "an error whose words fail": (
        "class E(Exception):\n    def __str__(self): return 1 / 0\nraise E()",
        "",
    ),
    "a thread that fails": (
        "import threading\nthreading.Thread(target=lambda: 1 / 0).start()\nreturn labels.mean(dim=0)",
        "It looks as if",
    ),
    "the wrong device": ("return labels.to('cuda')", "stopped with an error"),
    "nothing": ("labels.sum()", "it returns None"),
    "a type for a result": ("return torch.Tensor", "it returns a"),
    "another random state": ("torch.manual_seed(1)\nreturn torch.rand(labels.shape[1])", ""),
}


FREE = {  # what must cost nothing
    "warnings": "import warnings\nwarnings.warn('slow')" + RIGHT,
    "stderr": "import sys\nprint('half way', file=sys.stderr)" + RIGHT,
    "a progress bar": "from tqdm import tqdm\nfor _ in tqdm(range(9)): pass" + RIGHT,
    "a magic": "%matplotlib inline\n!echo hello\n" + RIGHT,
    "display": "display(5)" + RIGHT,
    "a check of one's own": RIGHT + "check('0.1', rate)\nassert rate is not None",
    "a check below that fails": RIGHT + "import nothing_of_that_name",
    "tabs and carriage returns": RIGHT.replace("\n", "\r\n"),
    "printing much": "print('x' * 10**7)" + RIGHT,
    "a byte order mark": "\ufeff" + RIGHT,
    "another name for it": RIGHT.replace("rate", "share") + "rate = share",
}


# --- cells that moved --------------------------------------------------------------------------------------


def _merge(nb, cells):
    cells["answer_0_1"].source += "\n\n" + cells["answer_0_2"].source
    nb.cells.remove(cells["answer_0_2"])


def _split(nb, cells):
    at = nb.cells.index(cells["answer_0_1"])
    nb.cells.insert(at, nbformat.v4.new_code_cell("import math\nONE = math.cos(0)"))
    cells["answer_0_1"].source = RIGHT.replace("return", "return ONE *")


def _strip(nb, cells):
    for cell in nb.cells:
        cell.metadata = {}


def _strip_ids(nb, cells):
    _strip(nb, cells)
    for number, cell in enumerate(nb.cells):
        cell.id = f"cell-{number}"


def _copy(nb, cells):
    nb.cells.insert(0, nbformat.from_dict(cells["answer_0_1"] | {"id": "copy-1"}))
    cells["answer_0_1"].source = "def rate(labels, observed):\n    return labels.sum()"
    nb.cells.append(nbformat.from_dict(cells["answer_0_1"] | {"id": "copy-2", "source": RIGHT}))


def _older(nb, cells):
    for cell in nb.cells:
        del cell["id"]
    nb.nbformat_minor = 0


MOVED = {
    "the answer to the end": lambda nb, c: nb.cells.append(nb.cells.pop(nb.cells.index(c["answer_0_1"]))),
    "all cells the other way round": lambda nb, c: nb.cells.reverse(),
    "checks deleted": lambda nb, c: [nb.cells.remove(c[i]) for i in ("check_0_1", "check_0_2")],
    "everything else deleted": lambda nb, c: nb.update(cells=[c["answer_0_1"], c["answer_0_2"]]),
    "all cells copied": lambda nb, c: nb.cells.extend(map(nbformat.from_dict, list(nb.cells))),
    "an answer copied, the last one counts": _copy,
    "two answers in one cell": _merge,
    "an answer in two cells": _split,
    "metadata stripped": _strip,
    "metadata and ids stripped": _strip_ids,
    "the answer as raw text": lambda nb, c: c["answer_0_1"].update(cell_type="raw"),
    "the answer as markdown": lambda nb, c: c["answer_0_1"].update(cell_type="markdown"),
    "grade ids renamed": lambda nb, c: [c[i].metadata.nbgrader.update(grade_id="x") for i in c if "_0_" in i],
    "the same id for all": lambda nb, c: [cell.update(id="same") for cell in nb.cells],
    "metadata of Colab": lambda nb, c: nb.metadata.update(widgets={"state": {"x": 1}}, colab={"name": "x"}),
    "a thousand cells more": lambda nb, c: nb.cells.extend([nbformat.v4.new_code_cell("1 / 0")] * 1_000),
    "nbformat 4.0": _older,
}


# --- a class -----------------------------------------------------------------------------------------------

GOOD = json.dumps(hand_in()).encode()
FILES = {  # what lies in place of the notebook -> the reason
    "empty": (b"", "the file is empty"),
    "spaces": (b" \n ", "the file is empty"),
    "cut off": (GOOD[: len(GOOD) // 2], "its end is cut off"),
    "merge marks": (GOOD.replace(b'"cells"', b'\n<<<<<<< HEAD\n"cells"\n>>>>>>> theirs\n'), "conflict marks"),
    "utf-16": (GOOD.decode().encode("utf-16"), "not in UTF-8"),
    "latin-1": ("{\"cells\": [\"é\"]}".encode("latin-1"), "not in UTF-8"),
    "a picture": (b"\x89PNG\r\n\x1a\n\xff\xfe", "not in UTF-8"),
    "a web page": (b"<!DOCTYPE html><html></html>", "not valid JSON"),
    "a script": (b"def rate(): pass", "not valid JSON"),
    "a list": (b"[]", "it holds no cells"),
    "no cells": (b'{"nbformat": 4, "metadata": {}}', "it holds no cells"),
    "cells that are numbers": (b'{"nbformat": 4, "cells": [1, 2]}', "it holds no cells"),
    "nesting without end": (b'{"cells": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "not valid JSON"),
    "sixty megabytes": (b'{"cells": ["' + b"x" * 60 * 2**20 + b'"]}', "MB"),
}  # fmt: skip


def plant(folder: Path, data: bytes = GOOD) -> None:
    folder.mkdir(parents=True)
    (folder / f"{NAME}.ipynb").write_bytes(data)
    (folder / "timestamp.txt").write_text("2026-11-20 10:00:00 UTC")


def _renamed(folder: Path) -> None:
    (folder / f"{NAME}.ipynb").rename(folder / "My notebook (1).ipynb")


def _deeper(folder: Path) -> None:
    (folder / NAME).mkdir()
    (folder / f"{NAME}.ipynb").rename(folder / NAME / f"{NAME}.ipynb")


def _linked(folder: Path) -> None:
    (folder / f"{NAME}.ipynb").unlink()
    (folder / f"{NAME}.ipynb").symlink_to(folder.parents[1] / "good_1" / NAME / f"{NAME}.ipynb")


def _folder(folder: Path) -> None:
    (folder / f"{NAME}.ipynb").unlink()
    (folder / f"{NAME}.ipynb").mkdir()


RENAMED = f"Then rename it to submitted/folder: renamed/{NAME}/{NAME}.ipynb and run again."
FOLDERS = {  # what became of the folder -> the reason, and whether there are points
    "missing": (lambda f: (f / f"{NAME}.ipynb").unlink(), f"{NAME}.ipynb is missing.", False),
    "renamed": (_renamed, f"is it My notebook (1).ipynb? {RENAMED}", False),
    "deeper": (_deeper, f"is it {NAME}/{NAME}.ipynb?", False),
    "a link": (_linked, "is a link, not a notebook", False),
    "a folder": (_folder, "is missing", False),
    "no date": (lambda f: (f / "timestamp.txt").write_text("yesterday, honestly"), "holds no date", True),
    "an odd date": (lambda f: (f / "timestamp.txt").write_bytes(b"\xff\xfe"), "holds no date", True),
    "no timestamp": (lambda f: (f / "timestamp.txt").unlink(), "", True),
    "modules beside it": (lambda f: (f / "torch.py").write_text("raise SystemExit"), "", True),
    "large files beside it": (lambda f: (f / "model.bin").write_bytes(b"0" * 3 * 2**20), "", True),
    "links beside it": (lambda f: (f / "notes.txt").symlink_to("/etc/passwd"), "", True),
    "another notebook beside it": (lambda f: (f / "scratch.ipynb").write_text("{"), "", True),
}


def _moved(change: Callable) -> bytes:
    nb = hand_in()
    change(nb, {cell.id: cell for cell in nb.cells})
    return json.dumps(nb).encode()  # nbformat would refuse to write some of these


def _third() -> bytes:
    return nbformat.writes(nbformat.convert(hand_in(), 3), version=3).encode()


def new_course(root: Path, students: dict[str, bytes], settings: str = "") -> Path:
    """A course with 00_start released, and what students handed in."""
    text = (ROOT / "nbgrader_config.py").read_text()
    (root / "nbgrader_config.py").write_text(text + settings)
    shutil.copytree(ROOT / "solutions" / NAME, root / "solutions" / NAME)
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "nbgrader", "generate_assignment", NAME]
    subprocess.run(command, cwd=root, env=env, check=True, capture_output=True)
    for student, data in students.items():
        plant(root / "submitted" / student / NAME, data)
    return root


@pytest.fixture
def course(tmp_path_factory) -> Path:
    """A class with all of these faults, and good submissions between them."""
    students = {f"good {number}": GOOD for number in range(20)}
    students |= {f"file: {name}": data for name, (data, _) in FILES.items()}
    students |= {f"break: {name}": json.dumps(hand_in({"0.1": b})).encode() for name, (b, _) in BREAK.items()}
    free = {name: hand_in(cells={"answer_0_1": source}) for name, source in FREE.items()}
    students |= {f"free: {name}": json.dumps(nb).encode() for name, nb in free.items()}
    students |= {f"moved: {name}": _moved(change) for name, change in MOVED.items()}
    students |= {"moved: nbformat 3": _third()}
    root = new_course(tmp_path_factory.mktemp("course"), students)
    for name, (change, _, _) in FOLDERS.items():
        plant(root / "submitted" / f"folder: {name}" / NAME)
        change(root / "submitted" / f"folder: {name}" / NAME)
    return root


def run_class(course: Path, *more: str) -> tuple[int, dict[str, dict]]:
    """The exit status of the command, and the entries by student."""
    out = course / "entries.jsonl"
    options = ["--course", str(course), "--timeout", "4", "--json", str(out), *more]
    status = cli.main(["class", NAME, *options, *(["--unsandboxed"] if no_sandbox() else [])])
    return status, {entry["student"]: entry for entry in map(json.loads, out.read_text().splitlines())}


@pytest.fixture
def entries(course) -> dict[str, dict]:
    """What the one run of the class left, by student."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, found = run_class(course)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024  # MB
    assert status == 1 and grown < 1_000, f"the judge grew by {grown:.0f} MB"
    return found


def _an_answer_that_breaks_costs_its_points_and_says_why(entries, name):
    first, second = entries[f"break: {name}"]["exercises"]
    assert first["points"] == 0 and BREAK[name][1] in first["message"], first
    assert second["points"] == 5 and len(first["message"]) < 3_000


def _noise_and_moved_cells_cost_nothing(entries, name):
    assert (entries[name]["status"], entries[name]["points"]) == ("graded", 10), entries[name]


def _a_file_that_is_no_notebook_gets_its_reason(entries, name):
    entry = entries[f"file: {name}"]
    assert entry["status"] == "failed" and FILES[name][1] in entry["reason"], entry


def _a_folder_that_is_odd_gets_its_reason(entries, name):
    (_, reason, points), entry = FOLDERS[name], entries[f"folder: {name}"]
    wanted = ("graded", 10) if points else ("failed", 0)
    assert (entry["status"], entry["points"]) == wanted, entry
    assert reason in entry["reason"] and bool(reason) == bool(entry["reason"]), entry


def _everybody_else_has_all_points_and_the_gradebook_says_the_same(entries, course):
    assert len(entries) >= 100
    assert all(entries[f"good {number}"]["points"] == 10 for number in range(20))
    assert entries["moved: nbformat 3"]["points"] == 10
    assert all(len(e["reason"]) < 300 and "\n" not in e["reason"] for e in entries.values())
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        scores = {s.student.id: s.score for s in book.assignment_submissions(NAME)}
    assert scores == {s: e["points"] for s, e in entries.items() if e["status"] == "graded"}
    kept = {p.name for p in (course / "autograded").rglob("*") if p.is_file()}
    assert kept.isdisjoint({"torch.py", "model.bin", "notes.txt"})
    for path in (course / "autograded").rglob("*.ipynb"):
        nbformat.validate(nbformat.read(path, as_version=4))


def _the_table_names_everybody(entries):
    lines = table(entries.values()).splitlines()
    failed = [student for student, entry in entries.items() if entry["status"] == "failed"]
    assert len(lines) == len(entries) + 2
    assert lines[-1] == f"{len(entries) - len(failed)} graded, {len(failed)} failed"
    for line, (student, entry) in zip(lines[1:], entries.items(), strict=False):
        assert line.startswith(student) and line.endswith(entry["reason"] or "10")


def test_messages_are_short_and_plain():
    text = clean("a\x1b[31mb\x00\u202ec\n" * 100 + "x" * 10_000)
    assert len(text) <= LINES * (WIDTH + 5) and "\x1b" not in text and "\u202e" not in text
    assert len(clean("y" * 10_000)) < WIDTH + 10


def _only_what_changed_is_graded_again(course, entries):
    first = entries
    record = (course / "judged.jsonl").read_bytes()
    status, entries = run_class(course)
    assert status == 1 and entries == first
    assert (course / "judged.jsonl").read_bytes() == record  # nothing was asked again

    changed = json.dumps(hand_in({"0.1": "return labels.mean(dim=0)"})).encode()
    (course / "submitted" / "good 0" / NAME / f"{NAME}.ipynb").write_bytes(changed)
    shutil.rmtree(course / "autograded" / "good 1")
    _, entries = run_class(course)
    new = (course / "judged.jsonl").read_bytes()[len(record) :].splitlines()
    assert sorted(json.loads(line)["student"] for line in new) == ["good 0", "good 1"]
    assert (entries["good 0"]["points"], entries["good 1"]["points"]) == (5, 10)
    _, entries = run_class(course, "--student", "good 2", "--force")
    assert list(entries) == ["good 2"]
    assert json.loads((course / "judged.jsonl").read_text().splitlines()[-1])["student"] == "good 2"


def _a_course_that_cannot_be_graded_gets_one_sentence(course, tmp_path, capsys):
    def said(*argv: str) -> str:
        assert cli.main(["class", *argv]) == 2
        return capsys.readouterr().err

    assert "has no nbgrader_config.py" in said(NAME, "--course", str(tmp_path))
    assert "knows no assignment 07_none" in said("07_none", "--course", str(course))
    assert "nobody handed in nothing" in said(NAME, "--course", str(course), "--student", "nobody")
    import fcntl

    with open(course / "judged.jsonl", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "Another run is grading" in said(NAME, "--course", str(course))


def test_a_class_of_a_hundred_with_every_fault_is_graded_to_the_last_point(course, entries, tmp_path, capsys):
    """One test, so that the class is graded once however the tests are spread over processes."""
    for name in BREAK:
        _an_answer_that_breaks_costs_its_points_and_says_why(entries, name)
    for name in [f"free: {name}" for name in FREE] + [f"moved: {name}" for name in MOVED]:
        _noise_and_moved_cells_cost_nothing(entries, name)
    for name in FILES:
        _a_file_that_is_no_notebook_gets_its_reason(entries, name)
    for name in FOLDERS:
        _a_folder_that_is_odd_gets_its_reason(entries, name)
    _everybody_else_has_all_points_and_the_gradebook_says_the_same(entries, course)
    _the_table_names_everybody(entries)
    _only_what_changed_is_graded_again(course, entries)
    capsys.readouterr()
    _a_course_that_cannot_be_graded_gets_one_sentence(course, tmp_path, capsys)


# --- a run that is killed ----------------------------------------------------------------------------------

KILLS, STUDENTS = 20 if "MTLKIT_ALL_SEEDS" in os.environ else 5, 40


@pytest.mark.heavy
def test_kill_9_at_random_moments_neither_loses_nor_doubles_a_point(tmp_path):
    """The resumed class equals the uninterrupted one: gradebook, notebooks, and nothing left running."""
    answers = [None, "return labels.mean(dim=0)", "import time\ntime.sleep(0.1)\nreturn labels"]
    students = {
        f"student_{i:02}": json.dumps(hand_in({"0.1": answers[i % 3]} if i % 4 else {})).encode()
        for i in range(STUDENTS)
    }
    courses = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        courses.append(new_course(tmp_path / name, students))
        with open(courses[-1] / "judged.jsonl", "w") as file:
            file.write('{"seed": 5}\n')
    whole, killed = courses
    assert run_class(whole)[0] == 0
    moments, record = random.Random(1), killed / "judged.jsonl"
    stopped = 0
    for _ in range(KILLS):
        before = record.stat().st_size
        pid = os.fork()  # imports everything once
        if not pid:
            preprocessor._judges.clear()  # a worker of its own, known by its folder
            tempfile.tempdir = str(killed)
            os._exit(run_class(killed)[0])
        deadline = time.monotonic() + 60
        while record.stat().st_size == before and time.monotonic() < deadline:  # until the first is graded
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        os.kill(pid, signal.SIGKILL)
        stopped += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        with sqlite3.connect(killed / "gradebook.db") as db:
            assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    assert stopped >= KILLS / 2, f"only {stopped} runs were still at work when they were killed"
    status, entries = run_class(killed)
    assert status == 0 and {e["points"] for e in entries.values()} == {5, 10}
    assert _content(killed) == _content(whole)
    lines = [json.loads(line) for line in record.read_text().splitlines() if '"student"' in line]
    assert len(lines) < STUDENTS + 3 * KILLS  # what was graded is not graded again
    deadline = time.monotonic() + 30
    while _workers(killed) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _workers(killed)


def _workers(folder: Path) -> list[str]:
    """The processes of workers that were given a folder in this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"HOME={folder}/judge_".encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def _content(course: Path) -> tuple[dict, list]:
    from nbgrader.api import Gradebook

    notebooks = {
        str(p.relative_to(course)): p.read_bytes() for p in sorted((course / "autograded").rglob("*.ipynb"))
    }
    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        rows = [
            (s.student.id, g.name, g.auto_score, g.manual_score, g.needs_manual_grade)
            for s in book.assignment_submissions(NAME)
            for n in s.notebooks
            for g in n.grades
        ]
    return notebooks, sorted(rows)


def test_threads_that_parse_at_once_do_not_stop_each_other():
    """Objects whose end takes a while hand over to another thread in the midst of a parse."""

    class Slow:
        def __del__(self) -> None:
            time.sleep(0.0005)

    def parse_at(depth: int, source: str):
        rubbish = Slow()
        rubbish.itself = rubbish
        return parse_at(depth - 1, source) if depth else parse(source)

    source = Path(layers.__file__).read_text()
    before = gc.get_threshold()
    gc.set_threshold(300)
    try:
        with ThreadPoolExecutor(4) as pool:
            trees = list(pool.map(parse_at, [(7 * i) % 23 for i in range(24)], [source] * 24))
    finally:
        gc.set_threshold(*before)
    assert all(len(tree.body) == len(trees[0].body) for tree in trees)
