"""What lies around the submissions: the gradebook, the record, folders in wrong places, Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from judge_cases import ROOT, hand_in, no_sandbox
from test_judge_faults import GOOD, LOOP, NAME, plant, run_class

from autograde_tests import __main__ as cli

WRONG = json.dumps(hand_in({"0.1": "return labels.mean(dim=0)"})).encode()
BUSY = "\nc.CourseDirectory.db_url = c.CourseDirectory.db_url.replace('=120', '=1')\n"


@pytest.fixture
def small(tmp_path) -> Path:
    """A clone of the project with two submissions, put in by hand: nbgrader has not been called yet."""
    (tmp_path / "nbgrader_config.py").write_text((ROOT / "nbgrader_config.py").read_text() + BUSY)
    (tmp_path / "judged.jsonl").write_text('{"seed": 5}\n')  # one for all: a worker takes seconds to start
    for folder in ("solutions", "notebooks"):
        shutil.copytree(ROOT / folder / NAME, tmp_path / folder / NAME)
    for student, data in {"carl": WRONG, "ida": GOOD}.items():
        plant(tmp_path / "submitted" / student / NAME, data)
        (tmp_path / "submitted" / student / NAME / "timestamp.txt").unlink()
    return tmp_path


def _scores(course: Path) -> dict[str, float]:
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        return {s.student.id: s.score for s in book.assignment_submissions(NAME)}


def test_a_lost_gradebook_is_filled_again_and_makes_no_report_of_zeros(small, capsys):
    (small / "notebooks" / NAME / "draft.ipynb").write_bytes(GOOD)  # is no part of the assignment
    assert run_class(small)[0] == 0 and _scores(small) == {"carl": 5, "ida": 10}
    (small / "gradebook.db").unlink()
    assert cli.main(["report", NAME, "--course", str(small)]) == 2
    assert f"run `python -m autograde_tests class {NAME}`" in capsys.readouterr().err
    assert not (small / "gradebook.db").exists() and not (small / "report").exists()
    assert run_class(small)[0] == 0 and _scores(small) == {"carl": 5, "ida": 10}


def test_a_fault_of_the_system_is_named_and_tried_again(small):
    assert run_class(small)[0] == 0
    (small / "submitted" / "ida" / NAME / f"{NAME}.ipynb").write_bytes(WRONG)
    with sqlite3.connect(small / "gradebook.db", isolation_level=None) as db:
        db.execute("begin immediate")
        status, entries = run_class(small)
    db.close()
    assert status == 1 and entries["carl"]["points"] == 5
    assert "database is locked" in entries["ida"]["reason"] and "tries again" in entries["ida"]["reason"]
    assert run_class(small)[0] == 0 and _scores(small) == {"carl": 5, "ida": 5}
    shutil.rmtree(small / "autograded")
    (small / "autograded").touch()
    status, entries = run_class(small)
    assert status == 1 and all("Not a directory" in entry["reason"] for entry in entries.values())
    (small / "autograded").unlink()
    assert run_class(small)[0] == 0


def test_a_broken_file_after_a_good_one_leaves_the_points_and_says_so(small):
    assert run_class(small)[0] == 0
    (small / "submitted" / "ida" / NAME / f"{NAME}.ipynb").write_bytes(b"")
    for _ in range(2):
        status, entries = run_class(small)
        assert status == 1 and "The points of the earlier submission stay." in entries["ida"]["reason"]
    assert _scores(small)["ida"] == 10
    assert cli.main(["report", NAME, "--course", str(small)]) == 0
    page = (small / "report" / f"{NAME}.html").read_text()
    assert "The points of the earlier submission stay." in page
    rows = (small / "report" / f"{NAME}.csv").read_text().splitlines()
    assert [row for row in rows if row.startswith("ida,failed,00_start.ipynb: the file is empty")]


def test_submissions_in_wrong_places_are_named(small, capsys):
    for place in ("zoe/00-start", f"{NAME}/paul", "ida/.ipynb_checkpoints"):
        (small / "submitted" / place).mkdir(parents=True)
    (small / "submitted" / f"{NAME}.ipynb").write_bytes(GOOD)
    assert run_class(small)[0] == 1
    said = capsys.readouterr().err
    assert f"submitted/{NAME}/paul, submitted/{NAME}.ipynb, submitted/zoe/00-start." in said
    assert f"A submission is {small}/submitted/STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb." in said
    shutil.rmtree(small / "submitted")
    assert run_class(small)[0] == 1 and f"Nobody handed in {NAME}." in capsys.readouterr().err


@pytest.mark.heavy
def test_feedback_on_what_was_put_in_by_hand_can_be_released_and_follows_the_submission(small):
    assert run_class(small)[0] == 0
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    (small / "exchange").mkdir()

    def nbgrader(*words: str) -> None:
        command = [sys.executable, "-m", "nbgrader", *words, NAME, f"--Exchange.root={small / 'exchange'}"]
        done = subprocess.run(command, cwd=small, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    page = small / "feedback" / "ida" / NAME / f"{NAME}.html"
    nbgrader("generate_feedback")
    nbgrader("release_feedback")
    assert len(list(small.glob("exchange/*/feedback/*.html"))) == 2
    assert "the observed flags are ignored" not in page.read_text()
    (small / "submitted" / "ida" / NAME / f"{NAME}.ipynb").write_bytes(WRONG)
    assert run_class(small)[0] == 0
    nbgrader("generate_feedback")
    assert "the observed flags are ignored" in page.read_text()


def _instead(path: Path, text: str | None) -> None:
    path.unlink(missing_ok=True)
    path.mkdir() if text is None else path.write_text(text)


BROKEN = {  # what is in place of a file (None: a folder) -> what `class` says, and whether `report` needs it
    ("gradebook.db", "no database" * 99): ("file is not a database", True),
    ("gradebook.db", None): ("unable to open database file", True),
    ("judged.jsonl", None): ("judged.jsonl: Is a directory", True),
    ("nbgrader_config.py", "c = ("): ("nbgrader_config.py does not run: SyntaxError", True),
    ("nbgrader_config.py", "c.Fly = 1 / 0"): ("nbgrader_config.py does not run: ", True),
    (f"notebooks/{NAME}/{NAME}.ipynb", "{"): ("is damaged: run `nbgrader generate_assignment", False),
}


def test_a_broken_course_gets_one_sentence(small, capsys):
    assert run_class(small)[0] == 0
    for (name, text), (words, for_report) in BROKEN.items():
        before = (small / name).read_bytes()
        _instead(small / name, text)
        for command in ("class", "report") if for_report else ("class",):
            capsys.readouterr()
            assert cli.main([command, NAME, "--course", str(small)]) == 2
            said = capsys.readouterr().err
            assert words in said and said.count("\n") == 1, said
        shutil.rmtree(small / name) if text is None else (small / name).unlink()
        (small / name).write_bytes(before)
    none = ["07_none", "--course", str(small)]
    assert cli.main(["class", NAME, *none, "--force"]) == 2  # asked before the first is graded
    assert "knows no assignment 07_none" in capsys.readouterr().err
    assert (small / "judged.jsonl").read_bytes().count(b"student") == 2


def test_broken_lines_of_the_record_cost_another_look_and_nothing_else(small, capsys):
    assert run_class(small)[0] == 0
    lines = (small / "judged.jsonl").read_bytes().splitlines()
    kept = [line for line in lines if b'"carl"' in line or b"seed" in line]
    other = [
        b"\xff\xfe",
        b"[1]",
        b"[" * 100_000,
        b'{"assignment": "00_start", "student": "ida"}',
        b'{"seed": "x"}',
    ]
    (small / "judged.jsonl").write_bytes(b"\n".join(kept + other))
    capsys.readouterr()
    assert cli.main(["report", NAME, "--course", str(small)]) == 0
    assert "5 of 7 lines hold no verdict" in capsys.readouterr().err
    status, entries = run_class(small)
    assert (status, entries["ida"]["points"], entries["carl"]["points"]) == (0, 10, 5)
    new = (small / "judged.jsonl").read_bytes().splitlines()[7:]
    assert [json.loads(line)["student"] for line in new] == ["ida"]


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_waits_for_what_is_in_progress_and_a_second_one_does_not(small, presses):
    for number in range(4):
        plant(small / "submitted" / f"slow {number}" / NAME, json.dumps(hand_in({"0.1": LOOP})).encode())
    (small / "submitted" / "carl" / NAME / f"{NAME}.ipynb").unlink()  # its reason says that the run has begun
    command = [sys.executable, "-m", "autograde_tests", "class", NAME, "--course", str(small), "--jobs", "1"]
    command += ["--timeout", "8", *(["--unsandboxed"] if no_sandbox() else [])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as run:
        record, deadline = small / "judged.jsonl", time.monotonic() + 90
        while b'"ida"' not in record.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)  # the first slow one is in progress
        for _ in range(presses):
            run.send_signal(signal.SIGINT)
            pressed = time.monotonic()
            time.sleep(1)
        said = run.communicate()[1]
    assert run.returncode == 130 and "press again to stop now" in said and "Traceback" not in said
    assert "What is graded stays" in said and record.read_bytes().count(b'"slow ') == 2 - presses
    assert presses == 1 or time.monotonic() - pressed < 5


@pytest.mark.skipif(bool(no_sandbox()), reason="no sandbox")
def test_an_environment_behind_a_link_has_its_sandbox():
    code = "import sys; from autograde_tests.judge.court import Judge; Judge().close(); print(sys.prefix)"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # the sandbox has a /tmp of its own
        venv = Path(folder) / "venv"
        venv.symlink_to(sys.prefix)
        command = [venv / "bin" / "python", "-c", code]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{venv}\n", done.stderr
