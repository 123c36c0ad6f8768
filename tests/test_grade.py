"""tools/grade.py: the grading loop on the sample class, and the same points by the other two ways in."""

from __future__ import annotations

import ast
import csv
import html
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from judge_cases import no_sandbox

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # tools/ is not installed

from autograde_tests.sheets import exercise, exercises  # noqa: E402
from tools import grade  # noqa: E402
from tools.sample_class import ALL, ASSIGNMENTS, CLASS, submission  # noqa: E402

AGREE = ("all_right", "blank", "gaps", "noisy", "deleted_check", "endless")


def unsandboxed() -> list[str]:
    return ["--unsandboxed"] if no_sandbox() else []


def read(folder: Path, name: str) -> nbformat.NotebookNode:
    return nbformat.read(folder / name / f"{name}.ipynb", as_version=4)


def test_the_class_is_large_and_misses_every_coding_exercise_in_a_named_way():
    assert len({student.id for student in CLASS}) == len(CLASS) >= 12
    topics = {str(int(name[:2])) for name in ASSIGNMENTS}
    assert set(ALL) == {i for i in exercises() if i.split(".")[0] in topics}
    assert all(set(student.lost) <= set(ALL) for student in CLASS)
    named = {i for student in CLASS if student.named for i in student.lost}
    assert named == set(ALL)


def test_what_students_write_is_python_but_for_the_open_brackets():
    for name in ASSIGNMENTS:
        master, release = read(ROOT / "solutions", name), read(ROOT / "notebooks", name)
        for student in CLASS:
            for cell in submission(student, master, release).cells:
                broken = student.id == "syntax" and cell.id.removeprefix("answer_").replace("_", ".")
                if cell.cell_type == "code" and broken not in student.lost:
                    ast.parse(cell.source)
                    assert "SOLUTION" not in cell.source


def test_a_folder_of_somebody_else_is_refused_and_an_own_one_starts_afresh(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert grade.main(["--folder", str(tmp_path)]) == 1
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert grade.main(["--folder", str(tmp_path / "thesis.txt")]) == 1

    course = tmp_path / "course"
    grade.prepare(course)
    (course / "gradebook.db").write_text("half written")  # what an interrupted run leaves
    (course / "submitted").mkdir()
    grade.prepare(course)
    assert sorted(p.name for p in course.iterdir()) == [grade.MARK, "nbgrader_config.py", "solutions"]


def test_a_command_that_fails_is_named_with_its_log(tmp_path):
    grade.prepare(tmp_path / "course")
    with pytest.raises(grade.GradingError, match=r"`nbgrader autograde 09_none` failed with 1; .*logs"):
        grade.finish(tmp_path / "course", [grade.nbgrader(tmp_path / "course", "autograde", "09_none")])


@pytest.mark.heavy
def test_the_class_is_graded_as_it_must_be_with_and_without_nbgrader(tmp_path, capsys, monkeypatch):
    """One test, so that the loop runs once however the tests are spread over processes."""
    course = tmp_path / "course"
    assert grade.main(["--folder", str(course), *unsandboxed()]) == 0, capsys.readouterr().err
    table = capsys.readouterr().out
    assert "≠" not in table and all(student.what in table for student in CLASS)

    with (course / "grades.csv").open(newline="") as file:
        scores = {(row["student_id"], row["assignment"]): float(row["score"]) for row in csv.DictReader(file)}
    assert scores.keys() == {(student.id, name) for student in CLASS for name in ASSIGNMENTS}
    assert scores["all_right", "01_shared_bottom"] == 100 and scores["blank", "01_shared_bottom"] == 0

    for name in ASSIGNMENTS:
        for student in CLASS:
            _look_at_feedback(course, student, name)
    _compare_with_command_line(course, scores)
    _compare_with_nbgrader(course)

    spoiled = replace(CLASS[0], lost=("1.3",))  # a grade that is not as expected does not go unseen
    monkeypatch.setattr(grade, "CLASS", [spoiled])
    assert grade.compare(course)[1] == ("all_right", "01_shared_bottom", 85, 100, ["1.3"])


def _look_at_feedback(course: Path, student, name: str) -> None:
    page = (course / "feedback" / student.id / name / f"{name}.html").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]*>", "", page))
    for file in ("verdict.py", "probe.py", "exercise.py", "sheets"):
        assert file not in text, f"{student.id}, {name}: the feedback shows our own traceback"
    mine = [i for i in student.lost if i.split(".")[0] == str(int(name[:2]))]
    for i in mine if student.named else ():
        said = [sentence for sentence in exercise(i).mistakes if sentence in text]
        assert said, f"{student.id}: the feedback on {i} names no mistake"
    if student.id == "blank":
        assert text.count("not attempted yet") >= len(mine)
        given, solved = (
            {line.strip() for cell in read(ROOT / folder, name).cells for line in cell.source.splitlines()}
            for folder in ("notebooks", "solutions")
        )
        shown = {line.strip() for line in text.splitlines()}
        assert not {line for line in (solved - given) & shown if len(line) > 20}, "the feedback shows answers"


def _compare_with_command_line(course: Path, scores: dict) -> None:
    name = "01_shared_bottom"
    files = [course / "submitted" / student / name / f"{name}.ipynb" for student in AGREE]
    command = [sys.executable, "-m", "autograde_tests", "--json", "-", *unsandboxed(), *map(str, files)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for entry in json.loads(done.stdout):
        student = Path(entry["notebook"]).parts[-3]
        assert entry["points"] == scores[student, name], f"{student}: {entry}"


def _compare_with_nbgrader(course: Path) -> None:
    """`nbgrader autograde` itself asks the same judge: same points, and no student stops it."""
    before = grade.compare(course)
    env = os.environ | ({"MTLKIT_UNSANDBOXED": "1"} if no_sandbox() else {})
    command = [sys.executable, "-m", "nbgrader", "autograde", "00_start", "--force"]
    done = subprocess.run(command, cwd=course, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert grade.compare(course) == before
    nb = nbformat.read(course / "autograded" / "blank" / "00_start" / "00_start.ipynb", as_version=4)
    (check,) = (cell for cell in nb.cells if cell.id == "check_0_1")
    assert "not attempted yet" in check.outputs[0].evalue
