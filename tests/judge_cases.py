"""What the tests of the judge share: submissions to 00_start and 02_mmoe, and a judge for all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # tools/ is not installed

from autograde_tests.judge import notebook  # noqa: E402
from autograde_tests.judge.court import Judge, Limits, NeedsSandbox, Result  # noqa: E402
from tools.sample_class import Student, submission  # noqa: E402


@cache
def no_sandbox() -> str:
    """Why this machine has no sandbox, or ""."""
    try:
        Judge().close()
    except NeedsSandbox as missing:
        return str(missing) or "unknown"
    return ""


@cache
def pair(name: str = "00_start") -> tuple[NotebookNode, NotebookNode]:
    """The master and the release of a notebook."""
    return tuple(
        nbformat.read(ROOT / folder / name / f"{name}.ipynb", as_version=4)
        for folder in ("solutions", "notebooks")
    )


def hand_in(
    answers: Mapping[str, str | None] | None = None,
    cells: Mapping[str, str | None] | None = None,
    above: Sequence[str] = (),
    below: Sequence[str] = (),
    edit: Callable[[NotebookNode], None] = lambda nb: None,
    name: str = "00_start",
) -> NotebookNode:
    """What a student hands in, right but for ``answers``; a cell's text is by its id, None deletes it."""
    nb = submission(Student("", "", answers or {}), *pair(name))
    for cell in nb.cells:
        cell.source = (cells or {}).get(cell.id, cell.source) or "to delete"
    nb.cells = [cell for cell in nb.cells if cell.source != "to delete"]
    new = nbformat.v4.new_code_cell
    nb.cells = [*map(new, above), *nb.cells, *map(new, below)]
    edit(nb)
    return nb


def graded(judge: Judge, nb: NotebookNode | bytes, name: str = "00_start") -> dict[str, Result]:
    """The results by exercise."""
    data = nb if isinstance(nb, bytes) else nbformat.writes(nb).encode()
    release = pair(name)[1]
    paper = notebook.paper(notebook.rebuild(release, notebook.read(data)), release)
    return {result.id: result for result in judge.grade(paper)}


def open_judge(seconds: float = 3.0, **more) -> Judge:
    """A judge in a sandbox, or, where there is none, without."""
    return Judge(Limits(seconds=seconds), sandbox=not no_sandbox(), **more)
