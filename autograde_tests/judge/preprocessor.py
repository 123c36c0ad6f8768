"""The judge inside nbgrader: for `nbgrader autograde`, and for the class run of course.py.

nbgrader_config.py names three classes in place of nbgrader's own. ``Rebuild`` takes the answers out of the
submission and puts them into the released notebook, ``Ask`` writes each verdict into its check, ``Save`` the
points into the gradebook. ``Recorder`` is nbgrader's autograde for verdicts that are known already.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import AssignLatePenalties, NbGraderPreprocessor, SaveAutoGrades
from traitlets.config import Config

from autograde_tests.judge import notebook
from autograde_tests.judge.court import Judge, Limits, NoWorker, Result

SIDE_FILE = 2 * 2**20  # bytes; a larger file beside a notebook stays where it is
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


class Recorder(Autograde):
    """nbgrader's autograde with the judging done: files, student, timestamp, points, late penalty."""

    def __init__(self, coursedir: CourseDirectory, config: Config, assignment: str) -> None:
        coursedir.assignment_id = assignment
        super().__init__(coursedir=coursedir, config=config)
        self.pre_convert_hook, self.force = None, True
        self._ready: dict[str, NotebookNode] = {}
        self._words = _Words()
        self.log = logging.getLogger("autograde_tests.course")
        self.log.handlers, self.log.propagate = [self._words], False

    def words(self) -> str:
        return self._words.last

    def has(self, entry: dict) -> bool:
        """Whether what an entry says is still there."""
        folder = Path(self.coursedir.root, self._format_dest(entry["assignment"], entry["student"]))
        return entry["status"] == "failed" or folder.is_dir()

    def record(self, student: str, nbs: dict[str, NotebookNode]) -> None:
        """Write the notebooks and their points. Raises ``NbGraderException``."""
        self.coursedir.student_id = student
        self._ready = nbs
        self.start()

    def init_assignment(self, assignment_id: str, student_id: str) -> None:
        folder = Path(self._format_source(assignment_id, student_id))
        odd = [p.name for p in folder.rglob("*") if p.is_symlink() or not _small(p)]
        ignore, self.coursedir.ignore = self.coursedir.ignore, [*self.coursedir.ignore, *odd]
        try:
            super().init_assignment(assignment_id, student_id)
        finally:
            self.coursedir.ignore = ignore

    def convert_single_notebook(self, notebook_filename: str) -> None:
        resources = self.init_single_notebook_resources(notebook_filename)
        nb = self._ready.get(resources["nbgrader"]["notebook"])
        if nb is None:  # another notebook in the same folder
            return
        self.write_single_notebook(nbformat.writes(nb), resources | {"output_extension": ".ipynb"})
        for step in (Save, AssignLatePenalties):
            step(parent=self).preprocess(nb, resources)


def _small(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and path.stat().st_size <= SIDE_FILE)


class _Words(logging.Handler):
    """The last error that nbgrader logged, in one line."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR and "There was an error processing" not in record.getMessage():
            self.last = record.getMessage().strip().split("\n")[-1]
