"""tools/build.py and nbgrader_config.py: what is refused, what is made, how nbgrader takes it."""

import re
import shutil
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from judge_cases import hand_in, no_sandbox

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # tools/ is not installed

from tools import build  # noqa: E402

TOPIC = "01_demo"
TITLE = """# %% [markdown]
# # Demo
#
# A line that goes [up](https://example.org).
"""
ANSWER = """# %% tags=["answer:1.1"]
def double(x):
    ### BEGIN SOLUTION
    doubled_for_the_demo = 2 * x
    return doubled_for_the_demo
    ### END SOLUTION


"""
CHECK = """# %% tags=["check:1.1", "points:10"]
assert double(2) == 4
"""
PAIR = ANSWER + CHECK
REST = """
# %% tags=["setup"]
import os

started = 1

# %% tags=["answer:1.2"]
def warn(x):
    ### BEGIN SOLUTION
    return x + 1
    ### END SOLUTION


# %% tags=["check:1.2", "points:5"]
assert warn(started) == 2

# %% tags=["experiment", "figure:1_2_line"]
import matplotlib.pyplot as plt

open(os.environ.get("TRACE", os.devnull), "a").write("an experiment ran")
plt.plot([0, 1]);

# %% [markdown]
# ![A line that goes up](img/1_2_line.png)

# %% [markdown] tags=["essay:1.3", "points:3"]
# Because the slope of that line is positive everywhere.

# %%
print("the end")
"""
DEMO = TITLE + PAIR + REST


def script_at(folder: Path, text: str, topic: str = TOPIC) -> Path:
    script = folder / "solutions" / topic / f"{topic}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(text)
    return script


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The root of a built course; do not write to it."""
    root = tmp_path_factory.mktemp("course")
    script_at(root, DEMO)
    assert build.main([], root) == 0
    return root


def read(root: Path, folder: str, topic: str = TOPIC):
    return nbformat.read(root / folder / topic / f"{topic}.ipynb", as_version=4)


def graded(nb) -> dict:
    cells = (c for c in nb.cells if "nbgrader" in c.metadata)
    return {c.metadata.nbgrader.grade_id: c for c in cells}


REFUSED = {
    "a duplicate id": (TITLE + PAIR + PAIR, "answer:1.1 was used at"),
    "an answer without a region": (
        TITLE + PAIR.replace("### BEGIN SOLUTION", "#").replace("### END SOLUTION", "#"),
        "has no ### BEGIN/END SOLUTION",
    ),
    "a region elsewhere": (
        TITLE + ANSWER.replace(' tags=["answer:1.1"]', ""),
        "SOLUTION marker outside",
    ),
    "a marker in prose": (
        TITLE + "# Write it below ### BEGIN SOLUTION\n" + PAIR,
        "SOLUTION marker outside",
    ),
    "an open region": (TITLE + PAIR.replace("### END SOLUTION", "#"), "pair each BEGIN"),
    "a region closed first": (
        TITLE + PAIR.replace("END", "MID").replace("BEGIN", "END").replace("MID", "BEGIN"),
        "pair each BEGIN",
    ),
    "a region that raises outside a check": (
        TITLE
        + '# %% tags=["answer:1.1"]\n### BEGIN SOLUTION\nx = 1\n### END SOLUTION\n\n'
        + CHECK.replace("double(2) == 4", "x"),
        "put the region in a function",
    ),
    "an answer without a check": (TITLE + ANSWER, "no check cell follows answer:1.1"),
    "a check without an answer": (TITLE + CHECK, "no answer:1.1 cell stands above"),
    "a check above its answer": (TITLE + CHECK + "\n" + ANSWER, "no answer:1.1 cell stands above"),
    "a check without points": (TITLE + PAIR.replace(', "points:10"', ""), 'add a "points:N"'),
    "points on an answer": (
        TITLE + PAIR.replace('"answer:1.1"', '"answer:1.1", "points:5"'),
        "only checks and essays have points",
    ),
    "no points at all": (TITLE + PAIR.replace("points:10", "points:0"), "'points:0' is not one of"),
    "an unknown tag": (TITLE + PAIR + '\n# %% tags=["seutp"]\n1\n', "'seutp' is not one of"),
    "a bare answer tag": (TITLE + PAIR.replace("answer:1.1", "answer"), "'answer' is not one of"),
    "a forgotten comma": (TITLE + PAIR.replace('", "points', '" "points'), "is not one of"),
    "an id of another notebook": (TITLE + PAIR.replace(":1.1", ":2.1"), "'answer:2.1' is not one"),
    "two roles": (TITLE + '# %% tags=["setup", "experiment"]\n1\n', "is both setup and experiment"),
    "a check in markdown": (
        TITLE + ANSWER + '# %% [markdown] tags=["check:1.1", "points:1"]\n# Right?\n',
        "need a code cell",
    ),
    "an essay in code": (
        TITLE + '# %% tags=["essay:1.1", "points:1"]\n1\n',
        "need a markdown cell",
    ),
    "a long cell": (TITLE + "# %%\n" + "x = 1\n" * 31, "has 31 lines; 30 at most"),
    "an image without alt text": (TITLE + "# ![](img/a.png)\n", "image without alt text"),
    "an html image without alt text": (TITLE + '# <img src="a.png">\n', "image without alt text"),
    "an html image with an empty one": (TITLE + '# <img alt="" src="a.png">\n', "without alt text"),
    "no title": ("# %% [markdown]\n# ## Demo\n", "has 0 titles"),
    "two titles": (TITLE + TITLE, "has 2 titles"),
    "a cell marker of three": (TITLE + "# %%\nx = 1\n# %%%\n", "malformed cell marker"),
    "a cell marker without a space": (
        TITLE + '# %%\n# %%tags=["setup"]\n',
        "malformed cell marker",
    ),
    "a misspelt cell type": (TITLE + "# %% [markdwn]\n# Text.\n", "only [markdown] and tags"),
    "a magic": (TITLE + "# %%\nx = 1\n%matplotlib inline\n", "'%matplotlib inline' is not plain"),
    "a shell line": (TITLE + "# %%\n!pip list\n", "'!pip list' is not plain Python"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case, tmp_path, capsys):
    text, sentence = REFUSED[case]
    assert build.main([], script_at(tmp_path, text).parents[2]) == 1
    said = capsys.readouterr().err.strip()
    assert sentence in said and said.startswith(f"{TOPIC}.py") and said.count("\n") == 0
    assert not list(tmp_path.rglob("*.ipynb"))


def test_a_refusal_names_the_line(tmp_path):
    text = DEMO + "\n# %%\nx = 1\n%time x\n"
    line = text.splitlines().index("%time x")  # the line above it, counted from 1
    with pytest.raises(build.BuildError, match=rf"line {line} \('x = 1'\)"):
        build.read_source(script_at(tmp_path, text))


def test_refuses_the_name_of_a_folder_without_a_number(tmp_path):
    with pytest.raises(build.BuildError, match="name the topic like 01_shared_bottom"):
        build.read_source(script_at(tmp_path, TITLE, "demo"))


def test_allows_what_only_looks_wrong(tmp_path):
    text = TITLE + '\n# ```python\n# # no title\n# ```\n# <img src="a.png" alt="A line">\n'
    text += '\n# %%\n# %timeit is a magic\nx = (7\n     % 4)\ny = """\n!ls\n"""\n' + PAIR
    build.read_source(script_at(tmp_path, text))


RUNS = {
    "an error": ("# %%\n1 / 0\n", "fails with ZeroDivisionError"),
    "a red check": (PAIR.replace("== 4", "== 5"), "fails with AssertionError"),
    "text on stderr": ("# %%\nimport warnings\nwarnings.warn('old')\n", "to stderr"),
    "an address": ("# %%\nobject()\n", "new on each run or machine"),
    "a path": (f"# %%\nprint({str(ROOT)!r})\n", "new on each run or machine"),
    "a figure without an image": ('# %% tags=["figure:1_1_x"]\n1\n', "figure:1_1_x shows no image"),
}


@pytest.mark.parametrize("case", RUNS)
def test_refuses_a_run_with(case, tmp_path):
    text, sentence = RUNS[case]
    script = script_at(tmp_path, TITLE + text)
    with pytest.raises(build.BuildError, match=sentence):
        build.execute(build.read_source(script), script)


RELEASES = {
    "a missing image": ("# ![A line](img/1_1_line.png)\n" + PAIR, "img/1_1_line.png'] does not"),
    "too much text": ("# " + "word " * 12_500 + "\n" + PAIR, "bytes; 60000 at most"),
}


@pytest.mark.parametrize("case", RELEASES)
def test_refuses_to_release(case, tmp_path):
    text, sentence = RELEASES[case]
    nb = build.read_source(script_at(tmp_path, TITLE + text))
    with pytest.raises(build.BuildError, match=re.escape(sentence)):
        build.release(nb, TOPIC, tmp_path / "solutions")


def test_refuses_to_release_answers_that_nbgrader_left_in(tmp_path, monkeypatch):
    from nbgrader.preprocessors import ClearSolutions

    monkeypatch.setattr(ClearSolutions, "preprocess_cell", lambda self, cell, res, _: (cell, res))
    nb = build.read_source(script_at(tmp_path, TITLE + PAIR))
    with pytest.raises(build.BuildError, match="shows the solution's .'doubled_for_the_demo = 2"):
        build.release(nb, TOPIC, tmp_path / "solutions")


def test_leaks_finds_lines_of_solutions_and_of_essays_only(demo):
    master, released = read(demo, "solutions"), read(demo, "notebooks")
    assert build.leaks(master, released) == []
    assert build.leaks(master, master) == [
        "doubled_for_the_demo = 2 * x",
        "return doubled_for_the_demo",
        "Because the slope of that line is positive everywhere.",
    ]
    master.cells[0].source += "\nhint: return doubled_for_the_demo"  # told in the open: no leak
    assert "return doubled_for_the_demo" not in build.leaks(master, master)


def test_master_and_release(demo):
    master, released = read(demo, "solutions"), read(demo, "notebooks")
    nbformat.validate(master)
    nbformat.validate(released)
    for nb in (master, released):
        flags = {
            name: (m.grade, m.solution, m.locked, m.get("points"))
            for name, m in ((k, c.metadata.nbgrader) for k, c in graded(nb).items())
        }
        assert flags == {
            "answer_1_1": (False, True, False, None),
            "check_1_1": (True, False, True, 10),
            "setup_1": (False, False, True, None),
            "answer_1_2": (False, True, False, None),
            "check_1_2": (True, False, True, 5),
            "essay_1_3": (True, True, False, 3),
        }
        assert all(c.id == name for name, c in graded(nb).items())
        assert nb.metadata == build.METADATA
        assert not any("lines_to_next_cell" in c.metadata for c in nb.cells)
        tags = [c.metadata.tags for c in nb.cells if "tags" in c.metadata]
        assert tags == [["raises-exception"]] * 2 + [["experiment", "figure:1_2_line"]]
    assert [c.id for c in master.cells] == [c.id for c in released.cells]
    assert any(c.get("outputs") for c in master.cells)
    assert not any(c.get("outputs") or c.get("execution_count") for c in released.cells)
    cells = graded(released)
    assert cells["answer_1_1"].source.split("\n")[1:] == [
        "    # YOUR CODE HERE",
        "    raise NotImplementedError()",
    ]
    assert cells["essay_1_3"].source == "YOUR ANSWER HERE"
    assert cells["check_1_1"].source == "assert double(2) == 4"
    assert cells["check_1_1"].metadata.editable is False
    assert cells["setup_1"].metadata.editable is False
    names = {p.name for p in (demo / "notebooks" / TOPIC).rglob("*") if p.is_file()}
    assert names == {f"{TOPIC}.ipynb", "1_2_line.png"}
    assert not list(demo.rglob("gradebook.db"))


def test_round_trip_through_jupytext(demo):
    master = read(demo, "solutions")
    again = jupytext.reads(jupytext.writes(master, "py:percent"), "py:percent")
    for old, new in zip(master.cells, again.cells, strict=True):
        new.metadata.pop("lines_to_next_cell", None)
        kept = ("cell_type", "source", "metadata")
        assert [old[k] for k in kept] == [new[k] for k in kept]


def test_rebuild_is_byte_identical(demo, tmp_path):
    script_at(tmp_path, DEMO)
    assert build.main([TOPIC], tmp_path) == 0
    assert build.main([TOPIC], tmp_path) == 0
    for path in (p for p in demo.rglob("*") if p.is_file()):
        assert (tmp_path / path.relative_to(demo)).read_bytes() == path.read_bytes(), path.name


def test_one_word_changes_one_id(tmp_path):
    before = build.read_source(script_at(tmp_path, DEMO))
    after = build.read_source(script_at(tmp_path, DEMO.replace("goes [up]", "goes [down]")))
    changed = [a.id != b.id for a, b in zip(before.cells, after.cells, strict=True)]
    assert changed == [True] + [False] * (len(changed) - 1)


def test_equal_cells_have_different_ids(tmp_path):
    nb = build.read_source(script_at(tmp_path, TITLE + "\n# %%\nx = 1\n\n# %%\nx = 1\n"))
    assert len({c.id for c in nb.cells}) == len(nb.cells)


SPOILED = {
    "a word of prose": lambda r: script_at(r, DEMO.replace("# A line", "# The line")),
    "a lost master": lambda r: (r / "solutions" / TOPIC / f"{TOPIC}.ipynb").unlink(),
    "a lost release": lambda r: (r / "notebooks" / TOPIC / f"{TOPIC}.ipynb").unlink(),
    "an edited release": lambda r: edit(r / "notebooks" / TOPIC / f"{TOPIC}.ipynb", "10", "99"),
    "an edited master": lambda r: edit(r / "solutions" / TOPIC / f"{TOPIC}.ipynb", "2 * x", "3"),
    "another figure": lambda r: (r / "solutions" / TOPIC / "img/1_2_line.png").write_bytes(b"x"),
    "a lost figure": lambda r: (r / "notebooks" / TOPIC / "img/1_2_line.png").unlink(),
    "a lost script": lambda r: shutil.rmtree(r / "solutions" / TOPIC),
}


def edit(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("case", SPOILED)
def test_check_is_red_after(case, demo, tmp_path, capsys, monkeypatch):
    root = tmp_path / "course"
    shutil.copytree(demo, root)
    SPOILED[case](root)
    monkeypatch.setattr(build, "execute", None)  # --check does not run anything
    assert build.main(["--check"], root) == 1
    said = capsys.readouterr().err
    assert TOPIC in said and ("python -m tools.build" in said or "remove it" in said)


def test_check_is_green_on_fresh_files_and_on_other_outputs(demo, tmp_path, capsys):
    root = tmp_path / "course"
    shutil.copytree(demo, root)
    edit(root / "solutions" / TOPIC / f"{TOPIC}.ipynb", '"the end\\n"', '"the very end\\n"')
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert build.main(["--check"], root) == 0
    assert capsys.readouterr().err == ""
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob("*")}


def test_an_unknown_topic_is_named(demo, capsys):
    with pytest.raises(SystemExit):
        build.main(["07_none"], demo)
    assert "no 07_none; it has 01_demo" in capsys.readouterr().err


# How nbgrader and nbclient take what was built


def run(nb, folder: Path):
    from nbclient import NotebookClient

    NotebookClient(nb, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return [c for c in nb.cells if any(o.output_type == "error" for o in c.get("outputs", []))]


def test_a_blank_notebook_runs_to_its_end(demo):
    nb = read(demo, "notebooks")
    assert [c.id for c in run(nb, demo)] == ["check_1_1", "check_1_2"]
    assert nb.cells[-1].outputs[0].text == "the end\n"


def nbgrader_config(root: Path):
    from traitlets.config import PyFileConfigLoader

    config = PyFileConfigLoader("nbgrader_config.py", path=str(ROOT)).load_config()
    config.CourseDirectory.update(root=str(root), db_url=f"sqlite:///{root}/gradebook.db")
    return config


def test_nbgrader_grades_with_our_settings(tmp_path, monkeypatch):
    """Right, blank, loud and half right, deleted check, shadowing file: the points that each deserves."""
    from nbgrader.api import Gradebook
    from nbgrader.apps import NbGraderAPI

    # nbgrader starts `alembic` by name
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    if no_sandbox():
        monkeypatch.setenv("MTLKIT_UNSANDBOXED", "1")
    root, topic = tmp_path / "course", "00_start"
    shutil.copytree(ROOT / "solutions" / topic, root / "solutions" / topic)
    config = nbgrader_config(root)
    api = NbGraderAPI(config=config)
    assert api.generate_assignment(topic)["success"]
    made, committed = (r / "notebooks" / topic / f"{topic}.ipynb" for r in (root, ROOT))
    assert made.read_bytes() == committed.read_bytes()  # with a gradebook as without
    assert not list((root / "notebooks").rglob("*.py"))

    loud = "import warnings; warnings.warn('x')\nreturn labels.mean(dim=0)"
    submissions = {
        "right": hand_in(),
        "blank": hand_in({"0.1": None, "0.2": None}),
        "half": hand_in({"0.1": loud}, {"setup_1": "import nothing", "check_0_1": "pass"}),
        "deleted": hand_in(cells={"check_0_2": None}),
    }
    for student, nb in submissions.items():
        folder = root / "submitted" / student / topic
        folder.mkdir(parents=True)
        (folder / "torch.py").write_text("raise SystemExit")
        nbformat.write(nb, folder / f"{topic}.ipynb")
        assert api.autograde(topic, student)["success"]
        assert not (root / "autograded" / student / topic / "torch.py").exists()
    with Gradebook(config.CourseDirectory.db_url) as book:
        scores = {s: book.find_submission(topic, s).score for s in submissions}
    assert scores == {"right": 10, "blank": 0, "half": 5, "deleted": 10}


def test_validate_says_red_for_a_blank_notebook_and_green_for_the_master(demo, monkeypatch):
    from nbgrader.validator import Validator

    monkeypatch.setenv("TRACE", str(demo / "trace"))
    validator = Validator(config=nbgrader_config(demo))
    blank = validator.validate(str(demo / "notebooks" / TOPIC / f"{TOPIC}.ipynb"))
    reasons = ["NotImplementedError"] * 2 + ["You did not provide a response."]
    for failed, reason in zip(blank["failed"], reasons, strict=True):
        assert reason in failed["raw_error"]
    right = validator.validate(str(demo / "solutions" / TOPIC / f"{TOPIC}.ipynb"))
    assert right == {}
    assert not (demo / "trace").exists()


def test_settings_reach_the_classes_that_use_them():
    from nbgrader.coursedir import CourseDirectory
    from nbgrader.preprocessors import Execute
    from traitlets.config import Config, PyFileConfigLoader

    config = PyFileConfigLoader("nbgrader_config.py", path=str(ROOT)).load_config()
    execute = Execute(config=config)
    assert (execute.timeout, execute.shutdown_kernel) == (60, "immediate")
    assert execute.skip_cells_with_tag == "experiment"
    config.merge(Config(ExecutePreprocessor={"timeout": 5}))  # as the command line does
    assert Execute(config=config).timeout == 5
    course = CourseDirectory(config=config)
    assert course.db_url == f"sqlite:///{ROOT}/gradebook.db?timeout=120"
    assert (course.source_directory, course.release_directory) == ("solutions", "notebooks")


# The notebooks of this course

TOPICS = sorted(p.stem for p in ROOT.glob("solutions/*/*.py") if p.stem == p.parent.name)


@pytest.mark.parametrize("topic", TOPICS)
def test_committed_notebooks_follow_from_their_script(topic, capsys):
    assert build.main(["--check", topic]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("topic", TOPICS)
def test_committed_release_is_clean(topic):
    path = ROOT / "notebooks" / topic / f"{topic}.ipynb"
    nb = read(ROOT, "notebooks", topic)
    assert build.leaks(read(ROOT, "solutions", topic), nb) == []
    assert path.stat().st_size <= 60_000
    assert not any(c.get("outputs") or c.get("execution_count") for c in nb.cells)
    assert str(ROOT) not in path.read_text()


@pytest.mark.parametrize("topic", TOPICS)
def test_committed_master_is_clean(topic):
    nb = read(ROOT, "solutions", topic)
    outputs = [o for c in nb.cells for o in c.get("outputs", [])]
    assert outputs
    assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in outputs)
    assert not any("execution" in c.metadata for c in nb.cells)
