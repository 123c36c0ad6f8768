"""Grade a notebook without nbgrader: run it in a fresh kernel and read what its checks say."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from autograde_tests.sheets import exercises

RELEASES = Path(__file__).resolve().parents[1] / "notebooks"
SIDE_FILE = 2_000_000  # bytes; a file beside the notebook that is larger does not travel with it
QUIET = logging.getLogger("autograde_tests.kernel")  # nbclient's log repeats what the table says
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


class CannotGrade(Exception):
    """This file gets no points, not even zero; the message says why in one sentence."""


@dataclass(frozen=True)
class Result:
    """What became of one exercise. said: the check's message, or why there is none."""

    id: str
    title: str
    points: float
    of: float
    passed: bool
    said: str


def grade(path: Path, timeout: int = 60) -> list[Result]:
    """Run a notebook's cells, but no training runs and figures, and report on each of its exercises.

    timeout: seconds for a cell. The notebook and its folder stay as they are.
    Raises ``CannotGrade`` for what is not a notebook of this course.
    """
    nb = _read(path)
    release = _release(nb)
    cells = _restored(nb, release)
    with tempfile.TemporaryDirectory(prefix="grade_") as folder:
        for file in path.parent.iterdir():  # as in nbgrader_config.py, no module shadows a real one
            if file.is_file() and file.suffix not in (".py", ".pyc") and file.stat().st_size < SIDE_FILE:
                shutil.copy(file, folder)
        stopped = _run(cells, folder, timeout)
    ids = [c.metadata.nbgrader.grade_id for c in release.cells if _exercise(c, "check")]
    return [_result(grade_id, cells, stopped) for grade_id in dict.fromkeys(ids)]


def _read(path: Path) -> NotebookNode:
    if not path.is_file():
        raise CannotGrade(f"{path}: there is no such file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about cell ids, which grading does not need
            nb = nbformat.read(path, as_version=4)
            [_grade_id(cell) for cell in nb.cells]
    except Exception:  # nbformat fails in a dozen ways on what is not a notebook
        raise CannotGrade(f"{path}: not a notebook that can be read; save it again in JupyterLab.") from None
    if not any(_exercise(cell, "answer") or _exercise(cell, "check") for cell in nb.cells):
        raise CannotGrade(f"{path}: no exercise of this course is in it.")
    return nb


def _grade_id(cell: NotebookNode) -> str:
    info = cell.metadata.get("nbgrader")
    return str(info.get("grade_id", "")) if isinstance(info, dict) else ""


def _exercise(cell: NotebookNode, role: str) -> str:
    """The id of the exercise ("1.3") that this cell is the answer or the check of, or ""."""
    found = re.fullmatch(rf"{role}_(\d+)_(\w+)", _grade_id(cell))
    return f"{found[1]}.{found[2]}" if found else ""


def _release(nb: NotebookNode) -> NotebookNode:
    """What students of this notebook were given, if it lies beside the package; else the notebook itself."""
    ids = [_exercise(cell, "answer") or _exercise(cell, "check") for cell in nb.cells]
    number = next(filter(None, ids)).split(".")[0]
    found = sorted(RELEASES.glob(f"{int(number):02}_*/{int(number):02}_*.ipynb"))
    return nbformat.read(found[0], as_version=4) if found else nb


def _restored(nb: NotebookNode, release: NotebookNode) -> list[NotebookNode]:
    """The student's code cells, where edited checks and setups are as released and deleted ones are back."""
    given = {_grade_id(cell): cell for cell in release.cells if _grade_id(cell)}
    cells = []
    for cell in nb.cells:
        original = given.get(_grade_id(cell))
        if original is not None:  # the cell's type, if not its text, is the release's
            locked = original.metadata.nbgrader.get("locked")
            cell = original | {"source": original.source if locked else cell.source}
        cells.append(NotebookNode(cell))
    at = 0
    for grade_id, original in given.items():
        places = [i for i, cell in enumerate(cells) if _grade_id(cell) == grade_id]
        if not places and original.metadata.nbgrader.get("locked"):
            cells.insert(at, original)
            places = [at]
        at = places[-1] + 1 if places else at
    # new ones: copies would share ids, old outputs could be taken for new
    new = nbformat.v4.new_code_cell
    return [new(cell.source, metadata=cell.metadata) for cell in cells if cell.cell_type == "code"]


def _run(cells: Sequence[NotebookNode], folder: str, timeout: int) -> dict[int, str]:
    """Run the cells; say for each one that ended its kernel how. The others lose nothing by it.

    After such a cell a new kernel runs the cells above it once more, without it and without the checks.
    """
    stopped: dict[int, str] = {}
    done = 0  # the cells above are decided
    while done < len(cells):
        with _kernel(cells, folder, timeout) as client:
            for i, cell in enumerate(cells):
                if i in stopped or (i < done and _exercise(cell, "check")):
                    continue
                try:
                    client.execute_cell(cell, i)
                except CellTimeoutError:
                    stopped[i] = f"stopped after {timeout} s: an endless loop?"
                except DeadKernelError:
                    stopped[i] = "the kernel died"
                done = max(done, i + 1)
                if i in stopped:
                    break
    return stopped


@contextlib.contextmanager
def _kernel(cells: Sequence[NotebookNode], folder: str, timeout: int) -> Iterator[NotebookClient]:
    client = NotebookClient(
        nbformat.v4.new_notebook(cells=list(cells)),
        kernel_name="python3",  # this Python, whatever the student's notebook names
        timeout=timeout,
        allow_errors=True,
        skip_cells_with_tag="experiment",
        shutdown_kernel="immediate",
        record_timing=False,
        log=QUIET,
        resources={"metadata": {"path": folder}},
        extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
    )
    # tiny tensors: threads would only wait for each other
    with client.setup_kernel(env={"OMP_NUM_THREADS": "1"} | os.environ):
        # exit() in a cell would end the kernel a moment later, at the expense of the next cell
        client.execute_cell(nbformat.v4.new_code_cell("get_ipython().ask_exit = lambda: None"), 0)
        yield client


def _result(grade_id: str, cells: Sequence[NotebookNode], stopped: dict[int, str]) -> Result:
    at = max(i for i, cell in enumerate(cells) if _grade_id(cell) == grade_id)  # of copies the last counts
    check = cells[at]
    exercise_id = _exercise(check, "check")
    answers = [i for i, cell in enumerate(cells[:at]) if _exercise(cell, "answer") == exercise_id]
    error = _error(check)
    printed = "".join(o.text for o in check.outputs if o.output_type == "stream" and o.name == "stdout")
    green = printed.rpartition(f"[{exercise_id}] ✓ ")[2] if f"[{exercise_id}] ✓ " in printed else ""
    if not re.fullmatch(rf'check\("{re.escape(exercise_id)}", \w+\)', check.source):
        green, said = "", "this is not the check any more; take the cell from a fresh copy of the notebook"
    elif at in stopped:
        said = stopped[at].replace("died", "died in this check")
    elif error and error.ename == "CheckFailed":
        said = re.sub(r"^\[\S+\] \S+ ", "", error.evalue)
    elif answers and answers[-1] in stopped:
        said = stopped[answers[-1]].replace("died", "died before this check, in the answer")
    elif error:  # the check did not even start
        failed = _error(cells[answers[-1]]) if answers else None
        where, error = ("the answer", failed) if failed else ("this cell", error)
        words = re.sub(
            r"\(\d+\.py, (line \d+)\)", r"(\1)", error.evalue
        )  # the file is the kernel's, not hers
        said = f"{where} stopped with {error.ename}: {words}"
    else:
        said = green or "the check says nothing: is the name `check` used for something else?"
    passed = bool(green) and not error and at not in stopped
    points = check.metadata.nbgrader.get("points")
    of = float(points) if isinstance(points, int | float) else 0.0
    title = exercises()[exercise_id].title if exercise_id in exercises() else ""
    said = "\n".join(line.strip() for line in said.strip().split("\n"))
    return Result(exercise_id, title, of if passed else 0.0, of, passed, said)


def _error(cell: NotebookNode) -> NotebookNode | None:
    return next((output for output in cell.outputs if output.output_type == "error"), None)
