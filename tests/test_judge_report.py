"""`python -m autograde_tests report`: what the page and the CSV say about a class."""

from __future__ import annotations

import csv
import json
import re

import pytest
from judge_cases import hand_in, no_sandbox
from test_judge_faults import NAME, new_course

from autograde_tests import __main__ as cli
from autograde_tests.judge.report import _kind, similar

SUM = "return (labels * observed).sum(dim=0) / len(labels)"
MINE = "total = labels * observed\nseen = observed.sum(dim=0)\nreturn total.sum(dim=0) / (seen + 0 * seen)"
HERS = MINE.replace("total", "summe").replace("seen", "gesehen")


@pytest.fixture
def course(tmp_path_factory):
    """Twelve students, one of whom handed in no notebook."""
    answers = [{}, {}, {"0.1": SUM}, {"0.1": SUM}, {"0.1": None, "0.2": None}, {"0.1": "return seen"}]
    answers += [{"0.1": MINE}, {"0.1": HERS}, {"0.1": "return <b>"}, {"0.2": "return {}"}, {}]
    students = {f"s{i:02}": json.dumps(hand_in(a)).encode() for i, a in enumerate(answers)}
    script = hand_in({"0.1": "raise ValueError('<script>alert(1)</script>')"})
    students |= {"=cmd()": json.dumps(script).encode()}
    root = new_course(tmp_path_factory.mktemp("course"), students | {"empty": b""})
    options = ["--course", str(root), "--timeout", "3", *(["--unsandboxed"] if no_sandbox() else [])]
    assert cli.main(["class", NAME, *options]) == 1
    assert cli.main(["report", NAME, "--course", str(root)]) == 0
    return root


def _the_page_counts_mistakes_crashes_and_reasons(course):
    page = (course / "report" / f"{NAME}.html").read_text()
    text = re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.S))
    words = " ".join(text.split())
    assert "13 handed in, 12 graded, 1 without points." in words
    assert "Of 10 points: median 5, mean 6.7, lowest 0, highest 10." in words
    assert re.search(r"0\.1 2 [a-z]", words), "a mistake that two made"
    assert "NameError: name &#x27;seen&#x27; is not defined" in page
    assert "empty 00_start.ipynb: the file is empty" in words
    assert "<script>alert" not in page and "A hint, not a proof" in words
    assert "0.1 s06, s07 the same tree" in words
    assert "@media print" in page


def _the_csv_has_a_row_for_each_student_and_exercise(course):
    with (course / "report" / f"{NAME}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 12 + 1
    by = {(row["student"], row["exercise"]): row for row in rows}
    assert by["s02", "0.1"]["mistake"] and by["s02", "0.1"]["ended"] == "wrong"
    assert by["s04", "0.1"]["ended"] == "blank" and by["s05", "0.1"]["ended"] == "crash"
    assert by["s08", "0.1"]["ended"] == "stopped" and by["s00", "0.1"]["ended"] == "right"
    none = by["empty", ""]
    assert none["status"] == "failed" and "the file is empty" in none["reason"] and none["points"] == ""
    assert {float(row["score"]) for row in rows if row["exercise"]} == {0, 5}
    assert ("'=cmd()", "0.1") in by  # a spreadsheet would run it


def _a_grade_that_was_changed_by_hand_counts(course):
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        book.find_grade("check_0_1", NAME, NAME, "s04").manual_score = 3
        book.db.commit()
    assert cli.main(["report", NAME, "--course", str(course), "--out", str(course / "again")]) == 0
    with (course / "again" / f"{NAME}.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["exercise"]]
    scores = {(r["student"], r["exercise"]): float(r["score"]) for r in rows}
    assert scores["s04", "0.1"] == 3


def test_the_columns_say_how_an_answer_ended():
    ended = {"slow": "stopped", "type": "form", "parts": "form", "delegated": "borrowed", "wrong": "wrong"}
    assert {kind: _kind({"passed": False, "failure": kind}) for kind in ended} == ended
    assert _kind({"passed": True, "failure": ""}) == "right"


def test_alike_is_rare_long_and_the_same_but_for_names():
    one = "def f(x, y):\n    'words'\n    a = x @ y  # a note\n    b = a.softmax(1)\n"
    one += "    return (a * b).sum(1) + a.mean(1)\n"
    two = re.sub(r"\ba\b", "left", one).replace("'words'", "'other words'")
    three = one.replace("softmax", "sigmoid")
    groups = similar({"1": {"ada": one, "bob": two, "cleo": three, "dan": one + "\n"}}, 30)
    assert groups == [("1", ["ada", "bob", "dan"], False)]
    assert similar({"1": {"ada": one, "bob": one}}, 30) == [("1", ["ada", "bob"], True)]
    assert similar({"1": {f"s{i}": one for i in range(20)}}, 30) == []  # so many found it by themselves
    assert similar({"1": {"ada": "def f(x): return x", "bob": "def f(x): return x"}}, 30) == []
    assert similar({"1": {"ada": "def f(:", "bob": "def f(:"}}, 30) == []


def test_a_report_says_how_it_went(course, capsys):
    """One test, so that the class is graded once however the tests are spread over processes."""
    _the_page_counts_mistakes_crashes_and_reasons(course)
    _the_csv_has_a_row_for_each_student_and_exercise(course)
    _a_grade_that_was_changed_by_hand_counts(course)
    (course / "autograded" / "s00" / NAME / f"{NAME}.ipynb").unlink()
    (course / "autograded" / "s00" / NAME / f"{NAME}.ipynb").write_text("{")
    assert cli.main(["report", NAME, "--course", str(course)]) == 0
    assert "s00/00_start/00_start.ipynb is damaged" in capsys.readouterr().err
    assert cli.main(["report", NAME, "01_none", "--course", str(course)]) == 2
    assert "Nothing of 01_none has been judged yet" in capsys.readouterr().err
