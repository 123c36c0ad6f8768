"""Build the notebooks: `python -m tools.build [--check] [NN_topic ...]`.

solutions/NN_topic/NN_topic.py     the source: a jupytext percent script with answers
solutions/NN_topic/NN_topic.ipynb  the nbgrader master: the same cells, executed, with outputs
notebooks/NN_topic/                the release, written by nbgrader's own generate_assignment

Tags of a cell (`# %% tags=["check:1.1", "points:10"]`):

answer:1.1    code, the student's cell, with a `### BEGIN SOLUTION` .. `### END SOLUTION` region
check:1.1     code, locked, worth `points:N`; stands below its answer
essay:1.7     markdown, graded by hand, worth `points:N`; without a region it is blanked whole
setup         code that checks rely on (imports, data, rejoin cells): locked, restored when grading
experiment    code no check relies on (training runs, figures): not run when grading
figure:1_3_x  the first image of this cell is saved as img/1_3_x.png for a hint to show
"""

import argparse
import ast
import base64
import hashlib
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 30
MAX_RELEASE = 60_000  # bytes
LEAK_LENGTH = 20  # shorter solution lines ("return x") are too common to mean anything
RUN_SECONDS = 600  # per cell, for the authors' own training runs

# role: (cell type, nbgrader's flags)
ROLES = {
    "answer": ("code", {"grade": False, "solution": True, "locked": False}),
    "check": ("code", {"grade": True, "solution": False, "locked": True}),
    "essay": ("markdown", {"grade": True, "solution": True, "locked": False}),
    "setup": ("code", {"grade": False, "solution": False, "locked": True}),
    "experiment": ("code", {}),
}
# The tag's value: {n} is the number of the notebook.
TAGS = {
    **dict.fromkeys(("answer", "check", "essay"), r"{n}\.\d+[a-z]?"),
    **dict.fromkeys(("setup", "experiment"), ""),
    "figure": r"{n}_\d+[a-z]?_\w+",
    "points": r"[1-9]\d*",
}
KEPT = ("experiment", "figure:")  # the tags that the notebooks still carry
# Fixed, so that the machine that builds (its Python version, its kernel's title) leaves no trace.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}


class BuildError(Exception):
    """The source (or its run) breaks a rule; the message names the file, the cell and the cure."""


def read_source(script: Path) -> NotebookNode:
    """The master of one script, without outputs; raises BuildError where it breaks a rule."""
    text = script.read_text(encoding="utf-8")
    fmt = {"extension": ".py", "format_name": "percent", "comment_magics": False}
    cells = jupytext.reads(text, fmt).cells
    match = re.match(r"\d\d(?=_\w)", script.stem)
    _refuse(script.name, [(not match, "name the topic like 01_shared_bottom")])
    setups, seen, same = 0, {}, Counter()
    for line, cell in _line_numbers(text, cells):
        where = f"{script.name}, line {line} ({_title(cell)})"
        values = _read_tags(cell, int(match[0]), where)
        role = next((name for name in ROLES if name in values), "")
        _check_cell(cell, role, where)
        if role == "setup":
            setups += 1
            values["setup"] = str(setups)  # counted, not hashed: an edited setup cell keeps its id
        key = values.get(role, "")
        for name in (f"{k}:{v}" for k, v in values.items() if k != "points" and v):
            _refuse(where, [(name in seen, f"{name} was used at {seen.get(name)}; renumber one")])
            seen[name] = where
        orphan = role == "check" and f"answer:{key}" not in seen
        _refuse(where, [(orphan, f"no answer:{key} cell stands above this check; add one")])
        tags = ["raises-exception"] if role == "check" else []  # Run All goes on past a red check
        tags += [t for t in cell.metadata.get("tags", []) if t.startswith(KEPT)]
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
        if key:
            cell.id = f"{role}_{key.replace('.', '_')}"
            flags = {**ROLES[role][1], "grade_id": cell.id, "schema_version": 3, "task": False}
            if "points" in values:
                flags["points"] = int(values["points"])
            cell.metadata.nbgrader = NotebookNode(flags)
        else:  # from the content: a change elsewhere leaves this id alone
            digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
            same[digest] += 1
            cell.id = digest if same[digest] == 1 else f"{digest}-{same[digest]}"
    for name, where in seen.items():
        orphan = name.startswith("answer:") and name.replace("answer", "check") not in seen
        _refuse(where, [(orphan, f"no check cell follows {name}; add one")])
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    titles = re.findall(r"^# ", re.sub(r"^```.*?^```", "", prose, flags=re.S | re.M), re.M)
    _refuse(script.name, [(len(titles) != 1, f"has {len(titles)} titles (`# ...`); keep just one")])
    return nbformat.v4.new_notebook(cells=cells, metadata=NotebookNode(METADATA))


def _refuse(where: str, rules: list[tuple[object, str]]) -> None:
    """Raise for the first (broken, problem and cure) whose rule is broken."""
    for broken, problem in rules:
        if broken:
            raise BuildError(f"{where}: {problem}.")


def _title(cell: NotebookNode) -> str:
    return repr((cell.source.strip().splitlines() or ["empty cell"])[0][:50])


def _line_numbers(text: str, cells: list[NotebookNode]) -> Iterable[tuple[int, NotebookNode]]:
    """The script's line at which each cell begins: jupytext does not keep it."""
    lines, at = [line.rstrip() for line in text.splitlines()], 0
    for cell in cells:
        first = (cell.source.splitlines() or [""])[0].rstrip()
        found = (i for i in range(at, len(lines)) if first in (lines[i], lines[i][2:]))
        at = next(found, at)
        yield at + 1, cell
        at += max(1, len(cell.source.splitlines()))


def _read_tags(cell: NotebookNode, number: int, where: str) -> dict[str, str]:
    """The tags of a cell as {name: value}."""
    extra = set(cell.metadata) - {"tags", "lines_to_next_cell"}
    _refuse(where, [(extra, 'only [markdown] and tags=["..."] may follow `# %%`; drop the rest')])
    values = {}
    for tag in cell.metadata.get("tags", []):
        name, colon, value = tag.partition(":")
        pattern = TAGS.get(name, "(?!)").format(n=number)
        known = re.fullmatch(pattern, value) and bool(colon) == bool(pattern)
        usage = f"answer:{number}.1, check:{number}.1, essay:{number}.1, points:5, setup, "
        usage += f"experiment and figure:{number}_1_name"
        _refuse(where, [(not known or name in values, f"tag {tag!r} is not one of {usage}")])
        values[name] = value
    roles = [name for name in values if name in ROLES]
    wanted = ROLES[roles[0]][0] if roles else "code" if "figure" in values else cell.cell_type
    graded = "check" in values or "essay" in values
    rules = [
        (len(roles) > 1, f"is both {' and '.join(roles)}; split the cell or keep one tag"),
        (cell.cell_type != wanted, f"these tags need a {wanted} cell; change one of the two"),
        (graded and "points" not in values, 'is graded without points; add a "points:N" tag'),
        ("points" in values and not graded, "only checks and essays have points; drop the tag"),
    ]
    _refuse(where, rules)
    return values


def _check_cell(cell: NotebookNode, role: str, where: str) -> None:
    """The rules that a cell can break by its text."""
    lines = cell.source.splitlines()
    code, answer = cell.cell_type == "code", role == "answer"
    markers = re.findall(r"(BEGIN|END) SOLUTION", cell.source)
    at_margin = re.search(r"^\S.*BEGIN SOLUTION", cell.source, re.M)
    try:
        syntax = code and ast.parse(cell.source) and ""
    except SyntaxError as error:
        syntax = lines[min(error.lineno or 1, len(lines)) - 1].strip()
    alts = [] if code else re.findall(r"!\[(.*?)\][(\[]", cell.source, re.S)
    for image in [] if code else re.findall(r"<img\b[^>]*>", cell.source, re.S | re.I):
        alts += re.findall(r"\balt=[\"']([^\"']*)", image) or [""]
    rules = [
        (any(re.match(r"\s*#*\s*%%", x) for x in lines), "malformed cell marker; write `# %%`"),
        (markers and role not in ("answer", "essay"), "SOLUTION marker outside an answer; drop it"),
        (markers != ["BEGIN", "END"] * (len(markers) // 2), "pair each BEGIN with an END SOLUTION"),
        (answer and not markers, "has no ### BEGIN/END SOLUTION; mark what the student writes"),
        (answer and at_margin, "left blank this raises when run; put the region in a function"),
        (code and len(lines) > MAX_LINES, f"has {len(lines)} lines; {MAX_LINES} at most, split it"),
        (syntax, f"{syntax!r} is not plain Python (magics and shell lines are not); rewrite it"),
        (not all(a.strip() for a in alts), "image without alt text; say what to read from it"),
    ]
    _refuse(where, rules)


def execute(nb: NotebookNode, script: Path) -> None:
    """Run the master in its folder, keep its outputs, save its figures."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    resources = {"metadata": {"path": str(script.parent)}}
    options = {"timeout": RUN_SECONDS, "record_timing": False, "force_raise_errors": True}
    quiet = ["--IPKernelApp.log_level=ERROR"]  # no line about TCP on every build
    client = NotebookClient(nb, resources=resources, extra_arguments=quiet, **options)
    try:
        client.execute()
    except CellExecutionError:
        pass  # found again below, with its cell
    except (CellTimeoutError, DeadKernelError) as error:
        raise BuildError(f"{script.name}: the run stopped: {str(error).strip()}") from None
    nb.metadata = NotebookNode(METADATA)
    local = rf"<[^<>]* at 0x[0-9a-f]+|{re.escape(str(ROOT))}"
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            error = output.output_type == "error" and f"{output.ename}: {output.evalue}"
            stderr = output.get("name") == "stderr" and repr(output.text.strip()[:80])
            found = re.search(local, str(output))
            rules = [
                (error, f"fails with {error}"),
                (stderr, f"writes {stderr} to stderr; silence it or write to stdout"),
                (found, f"shows {found and found[0]!r}, new on each run or machine; remove it"),
            ]
            _refuse(f"{script.name} ({_title(cell)})", rules)
    for name, png in figures(nb, script).items():
        (script.parent / "img").mkdir(exist_ok=True)
        (script.parent / "img" / f"{name}.png").write_bytes(png)


def figures(nb: NotebookNode, script: Path) -> dict[str, bytes]:
    """The first image of each executed cell with a figure tag."""
    found = {}
    for cell in nb.cells:
        for name in (t[7:] for t in cell.metadata.get("tags", []) if t.startswith("figure:")):
            images = [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", ())]
            where = f"{script.name} ({_title(cell)})"
            _refuse(where, [(not images, f"figure:{name} shows no image; draw it or drop the tag")])
            found[name] = base64.b64decode(images[0])
    return found


def release(nb: NotebookNode, topic: str, solutions: Path) -> dict[Path, bytes]:
    """What nbgrader releases of a master, as {path in notebooks/topic: content}."""
    # Imported late: 2 to 3 seconds that a refused script need not wait for.
    from nbgrader.converters import GenerateAssignment
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import PyFileConfigLoader

    config = PyFileConfigLoader("nbgrader_config.py", path=str(ROOT)).load_config()
    config.GenerateAssignment.no_database = True  # these two are `--no-db`: no gradebook is made
    config.SaveCells.enabled = False
    # In a course of its own, so that a failure leaves the checkout as it was.
    with tempfile.TemporaryDirectory() as course:
        config.CourseDirectory.update(root=course, assignment_id=topic)
        source, out = Path(course, "solutions", topic), Path(course, "notebooks", topic)
        shutil.copytree(solutions / topic, source, ignore=shutil.ignore_patterns("*.ipynb"))
        nbformat.write(nb, source / f"{topic}.ipynb")
        GenerateAssignment(coursedir=CourseDirectory(config=config), config=config).start()
        files = {path: (out / path).read_bytes() for path in _files(out)}
    text = files[Path(f"{topic}.ipynb")]
    leaked = leaks(nb, nbformat.reads(text.decode(), as_version=4))
    links = {x for c in nb.cells for x in re.findall(r"!\[[^\]]*\]\((\S+?)\)", c.source)}
    lost = sorted(x for x in links if "://" not in x and Path(x) not in files)
    rules = [
        (len(text) > MAX_RELEASE, f"has {len(text)} bytes; {MAX_RELEASE} at most, shorten it"),
        (leaked, f"the release shows the solution's {leaked[:1]}; reword one of the two"),
        (lost, f"image {lost[:1]} does not exist; make it with a figure tag or correct the link"),
    ]
    _refuse(topic, rules)
    return files


def leaks(master: NotebookNode, released: NotebookNode) -> list[str]:
    """Solution lines of the master that the release shows and that no scaffold shows too."""
    secret, public = [], []
    for cell in master.cells:
        essay = cell.cell_type == "markdown" and "nbgrader" in cell.metadata
        inside = essay and "BEGIN SOLUTION" not in cell.source
        for line in cell.source.splitlines():
            if "BEGIN SOLUTION" in line or "END SOLUTION" in line:
                inside = "BEGIN SOLUTION" in line
            else:
                (secret if inside else public).append(line.strip())
    scaffold, shown = "\n".join(public), "\n".join(c.source for c in released.cells)
    return [s for s in secret if len(s) > LEAK_LENGTH and s in shown and s not in scaffold]


def stale(nb: NotebookNode, topic: str, root: Path) -> list[str]:
    """The committed files that do not follow from the fresh master `nb`; nothing is executed."""
    script = root / "solutions" / topic / f"{topic}.py"
    path, wanted = script.with_suffix(".ipynb"), {}
    if path.exists():
        master = nbformat.read(path, as_version=4)
        for name, png in figures(master, script).items():
            wanted[script.parent / "img" / f"{name}.png"] = png
        for cell in master.cells:
            if cell.cell_type == "code":
                cell.update(outputs=[], execution_count=None)
    found = [] if path.exists() and master == nb else [path]
    for name, content in release(nb, topic, root / "solutions").items():
        wanted[root / "notebooks" / topic / name] = content
    found += sorted(p for p, x in wanted.items() if not p.exists() or p.read_bytes() != x)
    cure = f"run `python -m tools.build {topic}`"
    return [f"{p.relative_to(root)} does not follow from {script.name}: {cure}." for p in found]


def _files(folder: Path) -> set[Path]:
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {p for p in paths if not any(x.startswith((".", "__pycache__")) for x in p.parts)}


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    """Build or check the topics named, or all of them; 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m tools.build", description="Build notebooks.")
    parser.add_argument("topics", nargs="*", metavar="NN_topic", help="default: all")
    parser.add_argument("--check", action="store_true", help="only say which files are stale")
    args = parser.parse_args(argv)
    solutions = root / "solutions"
    known = sorted(p.stem for p in solutions.glob("*/*.py") if p.stem == p.parent.name)
    if unknown := sorted(set(args.topics) - set(known)):
        parser.error(f"solutions/ has no {unknown[0]}; it has {', '.join(known)}")
    problems = []
    if not args.topics:
        made = {p.parent.name for p in root.glob("notebooks/*/*.ipynb")}
        problems += [f"notebooks/{t} has no script: remove it." for t in sorted(made - set(known))]
    for topic in args.topics or known:
        script, start = solutions / topic / f"{topic}.py", time.monotonic()
        try:
            nb = read_source(script)
            if args.check:
                problems += stale(nb, topic, root)
                continue
            execute(nb, script)
            files = release(nb, topic, solutions)
        except BuildError as error:
            problems.append(str(error))
            continue
        nbformat.write(nb, script.with_suffix(".ipynb"))
        for name, content in files.items():
            target = root / "notebooks" / topic / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        points = sum(c.metadata.get("nbgrader", {}).get("points", 0) for c in nb.cells)
        sizes = script.with_suffix(".ipynb").stat().st_size, len(files[Path(f"{topic}.ipynb")])
        print(
            f"{topic}: {len(nb.cells)} cells, {points} points, master {sizes[0] / 1000:.0f} kB, "
            f"release {sizes[1] / 1000:.0f} kB, {time.monotonic() - start:.0f} s"
        )
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
