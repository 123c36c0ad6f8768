"""The judge inside nbgrader: for `nbgrader autograde`, and for the class run of course.py.

nbgrader_config.py names three classes in place of nbgrader's own. ``Rebuild`` takes the answers out of the
submission and puts them into the released notebook, ``Ask`` writes each verdict into its check, ``Save`` the
points into the gradebook. ``Recorder`` is nbgrader's autograde for verdicts that are known already.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import secrets
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import AssignLatePenalties, NbGraderPreprocessor, SaveAutoGrades
from sqlalchemy.exc import SQLAlchemyError
from traitlets.config import Config

from autograde_tests.judge import notebook
from autograde_tests.judge.book import cause, scores
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


def end_judges() -> None:
    """End the workers at once, and with them what they run."""
    with _lock:
        while _judges:
            _judges.popitem()[1].close()


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


class Folder(CourseDirectory):
    """A course whose broken timestamps do not stop it."""

    def get_existing_timestamp(self, dest_path: str) -> datetime | None:
        try:
            path = Path(dest_path, "timestamp.txt")
            return utils.parse_utc(path.read_text().strip()) if path.is_file() else None
        except (ValueError, OverflowError, OSError):
            return None

    def place(self, step: str, student: str, assignment: str) -> Path:
        """The folder of a student's assignment; step: submitted, autograded, ..."""
        return Path(self.root, self.format_path(getattr(self, f"{step}_directory"), student, assignment))


def release_of(config: Config, assignment: str, name: str) -> NotebookNode:
    """The released notebook that a submission answers. Raises ``Unreadable`` where there is none."""
    return notebook.load(Folder(config=config).place("release", ".", assignment) / f"{name}.ipynb")


def _stamp(config: Config, names: dict[str, str]) -> None:
    """What nbgrader wants when it releases feedback, for a submission that was put in by hand."""
    coursedir = Folder(config=config)
    handed_in, folder = (
        coursedir.place(step, names["student"], names["assignment"]) for step in ("submitted", "autograded")
    )
    stamp, secret = folder / "timestamp.txt", folder / "submission_secret.txt"
    if coursedir.get_existing_timestamp(str(folder)) is None:
        when = datetime.fromtimestamp((handed_in / f"{names['notebook']}.ipynb").stat().st_mtime, UTC)
        stamp.unlink(missing_ok=True)
        stamp.write_text(f"{when:%Y-%m-%d %H:%M:%S.%f %Z}")
    if not secret.is_file():
        secret.write_text(secrets.token_hex(64))


def put(nb: NotebookNode, results: Iterable[Result]) -> None:
    """Write the verdicts into the checks, as nbgrader reads points and formgrader shows text."""
    cells = {cell.id: cell for cell in nb.cells}
    for result in results:
        cell = cells[notebook.check_cell(result.id)]
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
        _stamp(self.config, names)
        return nb, resources


class Unrecorded(Exception):
    """The points could not be written: no fault of the submission. The message says why."""


class Recorder(Autograde):
    """nbgrader's autograde with the judging done: files, student, timestamp, points, late penalty.

    scores: what the gradebook said when this was made.
    """

    def __init__(self, coursedir: Folder, config: Config, assignment: str) -> None:
        coursedir.assignment_id = assignment
        super().__init__(coursedir=coursedir, config=config)
        self.pre_convert_hook, self.force = None, True
        self.scores = scores(coursedir, assignment)
        self._ready: dict[str, NotebookNode] = {}
        self._words = _Words()
        self.log = logging.getLogger("autograde_tests.course")
        self.log.handlers, self.log.propagate = [self._words], False

    def has(self, entry: dict) -> bool:
        """Whether what an entry says is still there, in autograded/ and in the gradebook."""
        known = self.scores.get(entry["student"], {})
        found = [(known.get(notebook.check_cell(r["id"])), r["points"]) for r in entry["exercises"]]
        same = all(score and math.isclose(score[0], points, rel_tol=1e-4) for score, points in found)
        folder = self.coursedir.place("autograded", entry["student"], entry["assignment"])
        return entry["status"] == "failed" or (same and folder.is_dir())

    def record(self, student: str, nbs: dict[str, NotebookNode]) -> None:
        """Write the notebooks and their points. Raises ``Unrecorded``."""
        self.coursedir.student_id = student
        self._ready, self._words.first = nbs, ""
        try:
            self.start()
        except (NbGraderException, SQLAlchemyError, OSError) as why:
            raise Unrecorded(self._words.first or cause(why)) from None

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
    """The first error that nbgrader logs, in one line: the exception that it met, else its own words."""

    first = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR and not self.first:
            self.first = cause(sys.exc_info()[1] or Exception(record.getMessage()))
