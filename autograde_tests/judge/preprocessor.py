"""The judge inside `nbgrader autograde`: nbgrader_config.py names these classes in place of nbgrader's own.

Sanitizing: ``Rebuild`` takes the answers out of the submission and puts them into the released notebook.
Autograding: ``Ask`` writes each verdict into its check, ``Save`` the points into the gradebook.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor, SaveAutoGrades
from traitlets.config import Config

from autograde_tests.judge import notebook
from autograde_tests.judge.court import Judge, Limits, NoWorker, Result

_lock = threading.Lock()
_judges: dict[tuple, Judge] = {}


def shared_judge(limits: Limits, sandbox: bool, seed: int | None = None) -> Judge:
    """The judge of this process for these settings; it ends with the process. Raises ``NoWorker``."""
    with _lock:
        key = limits, sandbox, seed
        if key not in _judges:
            _judges[key] = Judge(limits, sandbox, **({} if seed is None else {"seed": seed}))
            atexit.register(_judges[key].close)
        return _judges[key]


def _own_judge() -> Judge:
    return shared_judge(Limits(), not os.environ.get("MTLKIT_UNSANDBOXED"))


def start(**_: object) -> None:
    """nbgrader's hook before a submission: ends the command where the judge cannot work."""
    try:
        _own_judge()
    except NoWorker as missing:
        raise SystemExit(
            f"The judge cannot work here: {missing}. See docs/instructor.md; MTLKIT_UNSANDBOXED=1 grades "
            "without a sandbox, with your rights."
        ) from None


def release_of(config: Config, assignment: str, name: str) -> NotebookNode:
    """The released notebook that a submission answers. Raises ``Unreadable`` where there is none."""
    coursedir = CourseDirectory(config=config)
    folder = coursedir.format_path(coursedir.release_directory, ".", assignment)
    path = Path(coursedir.root, folder, f"{name}.ipynb")
    if not path.is_file():
        raise notebook.Unreadable(f"{path} is missing: run `nbgrader generate_assignment {assignment}`.")
    return nbformat.read(path, as_version=4)


def put(nb: NotebookNode, results: Iterable[Result]) -> None:
    """Write the verdicts into the checks, as nbgrader reads points and formgrader shows text."""
    cells = {cell.id: cell for cell in nb.cells}
    for result in results:
        cell = cells[f"check_{result.id.replace('.', '_')}"]
        if result.passed:
            text = nbformat.v4.new_output("stream", name="stdout", text=result.message + "\n")
            points = nbformat.v4.new_output("execute_result", {"text/plain": f"{result.points:g}"})
            cell.outputs = [text, points]
        else:
            first, *rest = result.message.split("\n")
            lines = [f"\x1b[31m{first}\x1b[0m", *rest]
            said = {"ename": "CheckFailed", "evalue": result.message, "traceback": lines}
            cell.outputs = [nbformat.v4.new_output("error", **said)]


class Rebuild(NbGraderPreprocessor):
    """The released notebook with the answers of the submission."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        names = resources["nbgrader"]
        release = release_of(self.config, names["assignment"], names["notebook"])
        return notebook.rebuild(release, [notebook.tidy(cell) for cell in nb.cells]), resources


class Ask(NbGraderPreprocessor):
    """The verdicts on a rebuilt notebook."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        names = resources["nbgrader"]
        release = release_of(self.config, names["assignment"], names["notebook"])
        put(nb, _own_judge().grade(notebook.paper(nb, release)))
        return nb, resources


class Save(SaveAutoGrades):
    """nbgrader's own way to the gradebook, in one transaction: all points of a notebook or none."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        names = resources["nbgrader"]
        self.notebook_id, self.assignment_id = names["notebook"], names["assignment"]
        self.student_id = names["student"]
        with Gradebook(names["db_url"]) as self.gradebook:
            session = self.gradebook.db
            commit, session.commit = session.commit, session.flush  # nbgrader would commit cell by cell
            for index, cell in enumerate(nb.cells):
                self.preprocess_cell(cell, resources, index)
            commit()
        return nb, resources
