"""`python -m autograde_tests`: bad input, dead kernels, endless loops, edited notebooks, table and JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # tools/ is not installed

from autograde_tests import grade as grading  # noqa: E402
from autograde_tests.__main__ import main  # noqa: E402
from tools.sample_class import Student, submission  # noqa: E402

WRONG = "return labels.mean(dim=0)"


@pytest.fixture
def write(tmp_path):
    """Save what a student hands in for 00_start; the text of a cell is by its id, None deletes it."""

    def save(answers=None, cells=None, above=(), below=(), name="mine.ipynb") -> Path:
        master, release = (
            nbformat.read(ROOT / folder / "00_start" / "00_start.ipynb", as_version=4)
            for folder in ("solutions", "notebooks")
        )
        nb = submission(Student("", "", answers or {}), master, release)
        for cell in nb.cells:
            cell.source = (cells or {}).get(cell.id, cell.source) or "to delete"
        nb.cells = [cell for cell in nb.cells if cell.source != "to delete"]
        new = nbformat.v4.new_code_cell
        nb.cells = [*map(new, above), *nb.cells, *map(new, below)]
        path = tmp_path / "work" / name
        path.parent.mkdir(exist_ok=True)
        nbformat.write(nb, path)
        return path

    return save


def points_and_words(path: Path, **options) -> dict[str, tuple[float, str]]:
    return {r.id: (r.points, r.said) for r in grading.grade(path, **options)}


BAD = {
    "text": ("print('hi')", "not a notebook that can be read"),
    "empty": ("", "not a notebook that can be read"),
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


@pytest.mark.parametrize("text, words", BAD.values(), ids=BAD)
def test_bad_input_gets_one_sentence(text, words, tmp_path, capsys):
    path = tmp_path / "bad.ipynb"
    path.write_text(text)
    assert main([str(path)]) == 1
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"{path}: ") and words in err and err.count("\n") == 1


def test_a_missing_file_a_folder_and_bytes_get_one_sentence(tmp_path, capsys):
    binary = tmp_path / "binary.ipynb"
    binary.write_bytes(b"\x89PNG\xff\x00")
    for path in (tmp_path / "none.ipynb", tmp_path, binary):
        assert main([str(path)]) == 1
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["--timeout", "0", "x"], ["--timeout", "soon", "x"], ["--points", "x"]])
def test_wrong_usage_ends_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2 and "usage:" in capsys.readouterr().err


def test_without_the_course_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "autograde_tests.grade")
    monkeypatch.setitem(sys.modules, "nbclient", None)
    assert main(["x.ipynb"]) == 1
    assert capsys.readouterr().err == "Grading needs nbclient: run `pip install 'mtlkit[course]'`.\n"


def test_the_table_and_the_json_say_the_same_and_nothing_beside_the_notebook_changes(write, capsys, tmp_path):
    path = write({"0.1": WRONG}, below=["open('left', 'w').write('x'); print(open('notes.txt').read())"])
    (path.parent / "notes.txt").write_text("read me")
    before, report = path.read_bytes(), tmp_path / "report.json"
    assert main([str(path), str(tmp_path / "none.ipynb"), "--json", str(report)]) == 1
    out, err = capsys.readouterr()
    assert "there is no such file" in err
    assert sorted(p.name for p in path.parent.iterdir()) == ["mine.ipynb", "notes.txt"]
    assert path.read_bytes() == before

    mine, missing = json.loads(report.read_text())
    assert missing["error"].endswith("there is no such file.")
    assert (mine["points"], mine["of"]) == (5, 10)
    wrong, right = mine["exercises"]
    assert (wrong["id"], wrong["points"], wrong["of"], wrong["passed"]) == ("0.1", 0, 5, False)
    assert "the observed flags are ignored" in wrong["said"]
    assert (right["id"], right["points"], right["passed"]) == ("0.2", 5, True)
    lines = out.splitlines()
    assert lines[0] == str(path) and lines[1].split()[:3] == ["exercise", "points", "of"]
    assert "the observed flags are ignored" in " ".join(out.split())
    assert any(line.startswith("0.2 the letters of the series") and " 5 " in line for line in lines)
    assert "total" in out and "     5   10" in out


def test_json_alone_goes_to_the_terminal_and_exit_0_means_graded(write, capsys):
    path = write({"0.1": None, "0.2": None})
    assert main([str(path), "--json", "-"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["points"] == 0
    assert all("not attempted yet" in e["said"] for e in entry["exercises"])


def test_a_kernel_that_dies_in_a_check_costs_that_exercise_only(write):
    found = points_and_words(write({"0.1": "import os\nos._exit(3)"}))
    assert found["0.1"] == (0, "the kernel died in this check")
    assert found["0.2"][0] == 5


def test_a_kernel_that_dies_in_an_answer_or_in_an_own_cell_costs_at_most_that_answer(write):
    path = write(above=["import os\nos.abort()"], cells={"answer_0_2": "import os\nos._exit(0)"})
    found = points_and_words(path)
    assert found["0.1"][0] == 5
    assert found["0.2"] == (0, "the kernel died before this check, in the answer")


def test_endless_loops_cost_their_time_and_their_exercise_even_if_they_swallow_interrupts(write):
    swallow = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    path = write({"0.1": swallow}, above=["while True:\n    print('x' * 1000)", "exit()"])
    found = points_and_words(path, timeout=8)
    assert found["0.1"] == (0, "stopped after 8 s: an endless loop?")
    assert found["0.2"][0] == 5


def test_deleted_edited_and_copied_cells_neither_break_nor_bend_a_grade(write):
    deleted = write({"0.2": "return {}"}, {"setup_1": None, "check_0_1": None, "check_0_2": "print('fine')"})
    nb = nbformat.read(deleted, as_version=4)
    (answer,) = (cell for cell in nb.cells if cell.id == "answer_0_1")
    (check,) = (cell for cell in nb.cells if cell.id == "check_0_2")
    answer.cell_type = "raw"
    nb.cells.insert(0, nbformat.from_dict(check | {"id": "copy_1"}))
    nb.cells.append(nbformat.from_dict(answer | {"id": "copy_2"}))
    nb.cells[1].metadata["nbgrader"] = "no dictionary"
    nbformat.write(nb, deleted)
    found = points_and_words(deleted)
    assert found["0.1"][0] == 5
    assert found["0.2"][0] == 0 and "return a dictionary" in found["0.2"][1]


def test_stderr_is_free_and_a_check_that_is_not_the_check_earns_nothing(write):
    noise = "import sys\nshout = lambda *_: print('careful', file=sys.stderr)\n"
    noise += "get_ipython().events.register('pre_run_cell', shout)"
    path = write(above=[noise], cells={"answer_0_2": "def shapes(): pass\ndef check(*_): pass"})
    found = points_and_words(path)
    assert found["0.1"][0] == 5
    assert found["0.2"] == (0, "the check says nothing: is the name `check` used for something else?")


def test_an_answer_that_does_not_run_is_named_and_not_its_check(write):
    found = points_and_words(write({"0.1": "return (labels", "0.2": None}, {"answer_0_2": None}))
    assert found["0.1"][1].startswith("the answer stopped with SyntaxError")
    assert ".py" not in found["0.1"][1]
    assert found["0.2"][1].startswith("this cell stopped with NameError")


def test_without_the_released_notebook_an_edited_check_is_reported(write, monkeypatch, tmp_path):
    monkeypatch.setattr(grading, "RELEASES", tmp_path / "none")
    found = points_and_words(write(cells={"check_0_1": "pass"}))
    assert found["0.1"][0] == 0 and found["0.1"][1].startswith("this is not the check any more")
    assert found["0.2"][0] == 5
