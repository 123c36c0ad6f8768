"""`python -m autograde_tests NOTEBOOK`: bad input, dying and endless answers, edited cells, table, JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import nbformat
import pytest
from judge_cases import ROOT, graded, hand_in, no_sandbox, open_judge

from autograde_tests import __main__ as cli
from autograde_tests.judge import court
from autograde_tests.verdict import STUB

WRONG = "return labels.mean(dim=0)"


def main(argv: list[str]) -> int:
    return cli.main([*argv, *(["--unsandboxed"] if no_sandbox() else [])])


@pytest.fixture(scope="module")
def judge():
    with open_judge() as judge:
        yield judge


def points_and_words(judge, nb) -> dict[str, tuple[float, str]]:
    return {i: (r.points, r.said) for i, r in graded(judge, nb).items()}


BAD = {
    "text": ("print('hi')", "not a notebook that can be read"),
    "empty": ("", "the file is empty"),
    "cut off": ('{"cells": [{"cell_type": "code"', "not a notebook that can be read"),
    "merge markers": ('{"cells": [\n<<<<<<< HEAD\n], "nbformat": 4}', "not a notebook that can be read"),
    "a list": ("[1, 2]", "not a notebook that can be read"),
    "another object": ('{"a": 1}', "not a notebook that can be read"),
    "cells that are none": (
        '{"cells": [3], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        "not a notebook that can be read",
    ),
    "no exercises": (nbformat.writes(nbformat.v4.new_notebook()), "no exercise of this course"),
}


def test_bad_input_gets_one_sentence_each(tmp_path, capsys):
    """One run for all: a worker takes seconds to start."""
    paths = {}
    for name, (text, words) in BAD.items():
        paths[tmp_path / f"{name}.ipynb"] = words
        (tmp_path / f"{name}.ipynb").write_text(text)
    (tmp_path / "binary.ipynb").write_bytes(b"\x89PNG\xff\x00")
    paths |= {tmp_path / "binary.ipynb": "not in UTF-8", tmp_path / "none.ipynb": "no such file"}
    paths |= {tmp_path: "this is a folder"}
    assert main([*map(str, paths)]) == 1
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == len(paths)
    for line, (path, words) in zip(err.splitlines(), paths.items(), strict=True):
        assert line.startswith(f"{path}: ") and words in line


USAGE = {
    "": "the following arguments are required",
    "--timeout 0 x": "'0' is not a whole number above 0",
    "--timeout soon x": "'soon' is not a whole number above 0",
    "--points x": "unrecognized arguments",
    "clas 00_start": "there is no file clas; is it the command `class`?",
    "class 00_start --jobs -3": "'-3' is not a whole number above 0",
    "class 00_start --json /none/of/it": "/none/of/it cannot be written",
    "x --json /": "/ cannot be written",
}


@pytest.mark.parametrize("line", USAGE)
def test_wrong_usage_ends_with_2(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "usage:" in said and USAGE[line] in said


def test_ctrl_c_and_a_damaged_release_get_a_sentence(monkeypatch, tmp_path, capsys):
    path = save(hand_in(), tmp_path)
    (tmp_path / "notebooks" / "00_start").mkdir(parents=True)
    (tmp_path / "notebooks" / "00_start" / "00_start.ipynb").write_text("{")
    monkeypatch.setattr(cli, "RELEASES", tmp_path / "notebooks")
    assert main([str(path)]) == 1
    assert "00_start.ipynb is damaged: run `nbgrader generate_assignment 00_start --force`" in (
        capsys.readouterr().err
    )

    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(court, "Judge", pressed)
    assert cli.main([str(path)]) == 130
    assert capsys.readouterr().err == "Stopped.\n"


def test_what_a_course_makes_in_the_clone_stays_out_of_git():
    made = [
        "judged.jsonl",
        "gradebook.db",
        "gradebook.db-journal",
        "report/x.csv",
        "grades.csv",
        "logs/x.txt",
    ]
    made += [f"{folder}/ida/00_start/x" for folder in ("submitted", "autograded", "feedback")] + [
        ".nbgrader.log"
    ]
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *made], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split() == made


def test_without_the_course_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "autograde_tests.judge.court")
    monkeypatch.delitem(sys.modules, "autograde_tests.judge.notebook")
    monkeypatch.setitem(sys.modules, "nbformat", None)
    assert cli.main(["x.ipynb"]) == 1
    assert capsys.readouterr().err == "Grading needs nbformat: run `pip install -e '.[course]'`.\n"


def test_without_a_sandbox_it_says_what_is_missing_and_asks(monkeypatch, capsys):
    def none(*_, **__):
        raise court.NeedsSandbox("Plan9 has no namespaces")

    monkeypatch.setattr(court, "Judge", none)
    assert cli.main(["x.ipynb"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("No sandbox here: Plan9 has no namespaces.") and "--unsandboxed" in said


def save(nb, folder, name="mine.ipynb"):
    path = folder / "work" / name
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nb, path)
    return path


def test_the_table_and_the_json_say_the_same_and_nothing_beside_the_notebook_changes(capsys, tmp_path):
    path = save(hand_in({"0.1": WRONG}, below=["open('left', 'w').write('x')"]), tmp_path)
    before, report = path.read_bytes(), tmp_path / "report.json"
    assert main([str(path), str(tmp_path / "none.ipynb"), "--json", str(report)]) == 1
    out, err = capsys.readouterr()
    assert "there is no such file" in err
    assert [p.name for p in path.parent.iterdir()] == ["mine.ipynb"]
    assert path.read_bytes() == before

    mine, missing = json.loads(report.read_text())
    assert missing["error"].endswith("there is no such file.")
    assert (mine["points"], mine["of"]) == (5, 10)
    wrong, right = mine["exercises"]
    assert (wrong["id"], wrong["points"], wrong["of"], wrong["passed"]) == ("0.1", 0, 5, False)
    assert "the observed flags are ignored" in wrong["said"]
    assert "the observed flags are ignored" in wrong["mistake"]
    assert (right["id"], right["points"], right["passed"]) == ("0.2", 5, True)
    lines = out.splitlines()
    assert lines[0] == str(path) and lines[1].split()[:3] == ["exercise", "points", "of"]
    assert "the observed flags are ignored" in " ".join(out.split())
    assert any(line.startswith("0.2 the letters of the series") and " 5 " in line for line in lines)
    assert "total" in out and "     5   10" in out


def test_json_alone_goes_to_the_terminal_and_exit_0_means_graded(capsys, tmp_path):
    path = save(hand_in({"0.1": None, "0.2": None}), tmp_path)
    assert main([str(path), "--json", "-"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["points"] == 0
    assert all("not attempted yet" in e["said"] for e in entry["exercises"])


def test_without_the_released_notebook_an_edited_check_is_reported(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli, "RELEASES", tmp_path / "none")
    path = save(hand_in(cells={"check_0_1": "pass"}), tmp_path)
    assert main([str(path), "--json", "-"]) == 0
    first, second = json.loads(capsys.readouterr().out)[0]["exercises"]
    assert first["points"] == 0 and "this is not the check any more" in first["said"]
    assert second["points"] == 5


def test_python_that_dies_in_an_answer_costs_that_exercise_only(judge):
    found = points_and_words(judge, hand_in({"0.1": "import os\nos._exit(3)"}))
    assert found["0.1"][0] == 0 and "the answer ended Python (exit code 3)" in found["0.1"][1]
    assert found["0.2"][0] == 5
    nb = hand_in(above=["import os\nos.abort()"], cells={"answer_0_2": "import os\nos._exit(0)"})
    found = points_and_words(judge, nb)
    assert found["0.1"][0] == 5
    assert found["0.2"][0] == 0 and "the answer ended Python (exit code 0)" in found["0.2"][1]


def test_endless_loops_cost_their_time_and_their_exercise_even_if_they_swallow_interrupts(judge):
    swallow = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    nb = hand_in({"0.1": swallow}, above=["while True:\n    print('x' * 1000)", "exit()"])
    found = points_and_words(judge, nb)
    assert found["0.1"][0] == 0 and "an endless loop?" in found["0.1"][1]
    assert found["0.2"][0] == 5


def test_deleted_edited_and_copied_cells_neither_break_nor_bend_a_grade(judge):
    nb = hand_in({"0.2": "return {}"}, {"setup_1": None, "check_0_1": None, "check_0_2": "print('fine')"})
    (answer,) = (cell for cell in nb.cells if cell.id == "answer_0_1")
    (check,) = (cell for cell in nb.cells if cell.id == "check_0_2")
    answer.cell_type = "raw"
    nb.cells.insert(0, nbformat.from_dict(check | {"id": "copy_1"}))
    nb.cells.append(nbformat.from_dict(answer | {"id": "copy_2"}))
    nb.cells[1].metadata["nbgrader"] = "no dictionary"
    found = points_and_words(judge, nb)
    assert found["0.1"][0] == 5
    assert found["0.2"][0] == 0 and "return a dictionary" in found["0.2"][1]


def test_an_answer_that_does_not_run_is_named_and_not_its_check(judge):
    found = points_and_words(judge, hand_in({"0.1": "return (labels", "0.2": None}, {"answer_0_2": None}))
    assert "the answer stopped with SyntaxError" in found["0.1"][1] and ".py" not in found["0.1"][1]
    lost = "the notebook has no answer cell for 0.2: take it from a fresh copy"
    assert found["0.2"] == (0, f"the letters of the series: not attempted yet\n{lost}")
    found = points_and_words(judge, hand_in({"0.1": None}))
    assert found["0.1"] == (0, f"the positive rate of each task: not attempted yet\n{STUB}")
    found = points_and_words(judge, hand_in(cells={"answer_0_2": "def shape(): pass\ndef check(*_): pass"}))
    assert found["0.1"][0] == 5
    assert "there is no `shapes`: keep the name" in found["0.2"][1]
