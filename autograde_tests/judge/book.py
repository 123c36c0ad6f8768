"""nbgrader's gradebook as the judge asks it: its assignments, its scores, and a sentence where it fails."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nbformat import NotebookNode
from nbgrader import utils
from nbgrader.api import Assignment as Known
from nbgrader.api import BaseCell, Grade, Gradebook, SubmittedAssignment, SubmittedNotebook
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import SaveCells
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError


class CourseError(Exception):
    """The course cannot be graded; the message says what to do."""


def cause(error: BaseException) -> str:
    """An error in one line, without what SQLAlchemy writes around the database's own words."""
    words = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
    return words or type(error).__name__


@contextmanager
def _sentences(coursedir: CourseDirectory) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as why:
        raise CourseError(
            f"The gradebook {_where(coursedir)} cannot be used: {cause(why)}. Another program may hold it; "
            "if it is damaged, put its last copy in place or move it away: `class` makes a new one."
        ) from None


def _where(coursedir: CourseDirectory) -> str:
    url = make_url(coursedir.db_url)
    return url.database if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


@contextmanager
def gradebook(coursedir: CourseDirectory) -> Iterator[Gradebook]:
    """The open gradebook; nbgrader makes one where there is none. Raises ``CourseError``."""
    with _sentences(coursedir), Gradebook(coursedir.db_url, coursedir.course_id) as book:
        yield book


def assignments(coursedir: CourseDirectory) -> dict[str, list[str]]:
    """The names of all assignments, each with those of its notebooks. Raises ``CourseError``."""
    with gradebook(coursedir) as book:
        return {found.name: [notebook.name for notebook in found.notebooks] for found in book.assignments}


def scores(coursedir: CourseDirectory, assignment: str) -> dict[str, dict[str, tuple[float, float]]]:
    """By student and check: the judge's points, and these with what a grader changed by hand.

    Nobody has any where there is no gradebook yet; none is made. Raises ``CourseError``.
    """
    found: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    url = make_url(coursedir.db_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database).exists():
        return found
    with gradebook(coursedir) as book:
        rows = book.db.query(SubmittedAssignment.student_id, BaseCell.name, Grade.auto_score, Grade.score)
        rows = rows.select_from(Grade).join(BaseCell, BaseCell.id == Grade.cell_id)
        rows = rows.join(SubmittedNotebook, SubmittedNotebook.id == Grade.notebook_id)
        rows = rows.join(SubmittedAssignment, SubmittedAssignment.id == SubmittedNotebook.assignment_id)
        rows = rows.join(Known, Known.id == SubmittedAssignment.assignment_id)
        for student, cell, points, score in rows.filter(Known.name == assignment):
            if points is not None:
                found[student][cell] = points, score
    return found


def register(coursedir: CourseDirectory, assignment: str, releases: dict[str, NotebookNode]) -> None:
    """Enter released notebooks that the gradebook lacks, as `nbgrader generate_assignment` does."""
    with gradebook(coursedir) as book:
        notebooks = next((a.notebooks for a in book.assignments if a.name == assignment), ())
        known = {notebook.name: {cell.name for cell in notebook.grade_cells} for notebook in notebooks}
        graded = {
            name: {cell.metadata.nbgrader.grade_id for cell in release.cells if utils.is_grade(cell)}
            for name, release in releases.items()
        }
        new = [name for name in releases if name not in known or not graded[name] <= known[name]]
        if new:
            book.update_or_create_assignment(assignment)
    with _sentences(coursedir):
        for name in new:
            names = {"notebook": name, "assignment": assignment, "db_url": coursedir.db_url}
            try:
                SaveCells().preprocess(releases[name], {"nbgrader": names})
            except RuntimeError as why:  # nbgrader adds no cells to what was handed in already
                raise CourseError(f"The release of {name} is not what was graded before: {why}.") from None
