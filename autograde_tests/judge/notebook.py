"""A submission against its master: the answers are found by id or by name, all else is the master's."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from autograde_tests.judge.parts import parse

SIZE = 50 * 2**20  # bytes of a notebook
SOURCE = 100_000  # characters of a cell; what is longer is cut
OWN_CELLS = 1_000  # cells that a student may add
KINDS, NOTE = ("code", "raw", "markdown"), "markdown"
MISSING = "missing_answer"  # metadata of an answer's cell that is the release's, for want of a student's


class Unreadable(Exception):
    """This file gets no points, not even zero; the message says why in one sentence."""


@dataclass(frozen=True)
class Cell:
    """What matters of a submission's cell."""

    kind: str
    id: str
    grade_id: str
    source: str


@dataclass(frozen=True)
class Question:
    """An exercise in a notebook: the check's cell, the object it names, and the answer's text.

    answer: None where it is as it was handed out. wrong: why this check cannot be asked, or "".
    missing: whether the submission has no cell for the answer.
    """

    id: str
    cell: str
    name: str
    points: float
    answer: str | None
    wrong: str = ""
    missing: bool = False


@dataclass(frozen=True)
class Paper:
    """What a notebook asks, and the code that may run: setup is the master's, own is the student's."""

    setup: tuple[str, ...]
    questions: tuple[Question, ...]
    own: tuple[str, ...]

    def helper(self, name: str, answer: str) -> str | None:
        """The student's cell that makes ``name``: the last one above the answer, else the first below."""
        at = self.own.index(answer) if answer in self.own else len(self.own)
        places = [*reversed(self.own[:at]), *self.own[at + 1 :]]
        return next((source for source in places if source != answer and name in _made(source)), None)


def check_cell(exercise: str) -> str:
    """The id of the cell that checks an exercise."""
    return f"check_{exercise.replace('.', '_')}"


def load(path: Path) -> NotebookNode:
    """A released notebook. Raises ``Unreadable`` where it is missing or damaged."""
    again = f"run `nbgrader generate_assignment {path.parent.name} --force`"
    if not path.is_file():
        raise Unreadable(f"{path} is missing: {again}.")
    try:
        return nbformat.read(path, as_version=4)
    except Exception:  # nbformat fails in a dozen ways on what is not a notebook
        raise Unreadable(f"{path} is damaged: {again}, or take it from a fresh copy.") from None


def read(data: bytes, name: str = "the notebook") -> list[Cell]:
    """The cells of a notebook of any version. Raises ``Unreadable`` with a reason for its student."""

    def refuse(why: str) -> None:
        raise Unreadable(f"{name}: {why}; save it again in JupyterLab and hand it in once more.")

    if len(data) > SIZE:
        refuse(f"{len(data) / 2**20:.0f} MB are too much ({SIZE / 2**20:.0f} at most): clear its outputs")
    if not data.strip():
        refuse("the file is empty")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        refuse("not a notebook that can be read: the text is not in UTF-8")
    if re.search(r"^(<{7}|>{7}) ", text, re.M):
        refuse("not a notebook that can be read: a merge left its conflict marks (<<<<<<<) in it")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        cut = text.lstrip().startswith("{") and not text.rstrip().endswith("}")
        why = "its end is cut off" if cut else "it is not valid JSON"
        refuse(f"not a notebook that can be read: {why}")
    try:
        new = raw if raw["nbformat"] == 4 else nbformat.convert(nbformat.from_dict(raw), 4)
        return [tidy(cell) for cell in new["cells"]]
    except Exception:  # nbformat fails in a dozen ways on what is not a notebook
        refuse("not a notebook that can be read: it holds no cells")


def tidy(cell: dict) -> Cell:
    """A cell with sound types; whatever is odd about the rest stays behind."""
    kind, source = cell["cell_type"], cell.get("source", cell.get("input", ""))
    source = "".join(map(str, source)) if isinstance(source, list) else str(source)
    source = (
        source.encode("utf-8", "replace").decode().lstrip("\ufeff")[:SOURCE]
    )  # half of a pair of surrogates
    metadata = cell.get("metadata")
    info = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    grade_id = info.get("grade_id") if isinstance(info, dict) else None
    return Cell(
        kind=kind if kind in KINDS else "raw",
        id=str(cell.get("id", "")),
        grade_id=grade_id if isinstance(grade_id, str) else "",
        source=source,
    )


def rebuild(release: NotebookNode, mine: list[Cell]) -> NotebookNode:
    """The released notebook with the student's answers, and her own cells where she put them.

    An answer is the last cell with its id that makes what the answer is to make (a copy, moved or of another
    type, counts too), else the last cell that makes it. Markdown of the student cannot carry HTML any more.
    """
    nb = deepcopy(release)
    by_id = {cell.id: cell for cell in nb.cells}
    by_source = {cell.source.strip(): cell.id for cell in reversed(nb.cells) if not _flag(cell, "solution")}
    known = [_known(cell, by_id, by_source) for cell in mine]
    used: set[int] = set()
    for cell in nb.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if not _flag(cell, "solution"):
            continue
        place = _answer(cell, mine, known)
        if place is None:
            cell.metadata[MISSING] = True
        else:
            used.add(place)
            text = mine[place].source
            unsafe = cell.cell_type == NOTE and text != cell.source
            cell.source = _no_html(text) if unsafe else text
    cells, at, free = {"": []}, "", 0
    for place, cell in enumerate(mine):
        original = by_id.get(known[place])
        edited = original is not None and cell.source != original.source
        scratch = edited and original.cell_type == "code" and not _flag(original, "locked")
        if original is not None:
            at = known[place]
        if original is not None and scratch and not _flag(original, "solution"):
            original.source = cell.source  # an experiment stays one: who grades by hand can read it
        elif (
            place not in used and (original is None or (scratch and cell.source.strip())) and free < OWN_CELLS
        ):
            free += 1
            make = nbformat.v4.new_markdown_cell if cell.kind == NOTE else nbformat.v4.new_code_cell
            text = _no_html(cell.source) if cell.kind == NOTE else cell.source
            cells.setdefault(at, []).append(make(text, id=f"own-{free}"))
    nb.cells = [*cells[""], *(c for cell in nb.cells for c in (cell, *cells.get(cell.id, ())))]
    return nb


def _flag(cell: NotebookNode, name: str) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get(name))


def _known(cell: Cell, by_id: dict[str, NotebookNode], by_source: dict[str, str]) -> str:
    """The id of the master's cell that this one is, or was; else ""."""
    for name in (cell.grade_id, cell.id):
        if name in by_id:
            return name
    return by_source.get(cell.source.strip(), "")


def _answer(cell: NotebookNode, mine: list[Cell], known: list[str]) -> int | None:
    """Where in the submission the answer for a master's cell stands."""
    names = _made(cell.source) if cell.cell_type == "code" else set()
    best, place = (), None
    for i, candidate in enumerate(mine):
        own = known[i] == cell.id
        makes = bool(names) and names <= _made(candidate.source)
        if own or (makes and not _other_answer(known[i], cell.id)):
            blank = candidate.source.strip() in ("", cell.source.strip())
            rank = (not blank, makes, own, i)
            best, place = max((best, place), (rank, i))
    return place


def _other_answer(known: str, wanted: str) -> bool:
    return False if not known else known != wanted and not known.startswith("answer_")


@lru_cache(maxsize=1_000)
def _made(source: str) -> set[str]:
    """The names that a cell makes; of one that is no Python those of its functions and classes."""
    try:
        tree = parse(re.sub(r"^([ \t]*)[%!].*$", r"\1pass", source, flags=re.M))
        return set(_names(tree.body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(re.findall(r"^(?:def|class)\s+(\w+)", source, re.M))


def _names(body: Iterable[ast.stmt]) -> Iterable[str]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield statement.name
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.split(".")[0] for alias in statement.names)
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id


def _no_html(text: str) -> str:
    """Markdown without tags and links: a page that shows it runs nothing of the student's."""
    return text.replace("<", "&lt;").replace("](", "]&#40;").replace("]:", "]&#58;")


def paper(nb: NotebookNode, release: NotebookNode) -> Paper:
    """What a rebuilt notebook asks and answers."""
    given = {cell.id: cell for cell in release.cells}
    questions, answers = [], {}
    missing = {cell.id[7:] for cell in nb.cells if cell.metadata.get(MISSING)}
    for cell in nb.cells:
        if cell.id.startswith("answer_"):
            blank = cell.id in given and cell.source.strip() in (given[cell.id].source.strip(), "")
            answers[cell.id[7:]] = None if blank else cell.source
        if cell.id.startswith("check_"):
            key = cell.id[6:]
            exercise_id = key.replace("_", ".")
            found = re.fullmatch(rf'check\("{re.escape(exercise_id)}", (\w+)\)', cell.source.strip())
            wrong = "" if found else "this is not the check any more: take the cell from a fresh copy"
            points = cell.metadata.get("nbgrader", {}).get("points")
            points = float(points) if isinstance(points, int | float) else 0.0
            name, answer = found[1] if found else "", answers.get(key)
            lacks = key in missing or key not in answers
            questions.append(Question(exercise_id, cell.id, name, points, answer, wrong, lacks))
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    setup = [c.source for c in code if _flag(c, "locked") and not _flag(c, "grade")]
    own = [
        c.source for c in code if not _flag(c, "locked") and "experiment" not in c.metadata.get("tags", [])
    ]
    return Paper(tuple(setup), tuple(questions), tuple(own))


def find_release(mine: list[Cell], folder: Path) -> NotebookNode | None:
    """The notebook in ``folder`` (notebooks/) that has most cells in common with this one."""
    best = (0, None)
    ids = {name for cell in mine for name in (cell.id, cell.grade_id) if name}
    sources = {cell.source.strip() for cell in mine}
    for path in sorted(folder.glob("*/*.ipynb")):
        nb = load(path)
        named = sum(bool(_flag(c, "grade") or _flag(c, "solution")) and c.id in ids for c in nb.cells)
        same = sum(len(c.source) > 40 and c.source.strip() in sources for c in nb.cells)
        best = max(best, (named or same, nb), key=lambda pair: pair[0])
    return best[1]
