"""The grading loop, really run: `python -m tools.grade [--folder FOLDER] [--unsandboxed]`.

A fresh course folder gets the settings and the masters, nbgrader releases the notebooks (they must be those
that are committed), a sample class hands in, the judge grades, nbgrader writes feedback and exports a CSV.
Then every student's points are compared with what tools/sample_class.py says they must be.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from tqdm import tqdm

from tools.sample_class import ASSIGNMENTS, CLASS, submission

ROOT = Path(__file__).resolve().parents[1]
MARK = ".made-by-tools-grade"  # a folder without it is somebody's work


class GradingError(Exception):
    """The loop cannot go on; the message says where and what to do."""


def prepare(folder: Path) -> None:
    """An empty course with our settings and masters. Refuses a folder that it did not make."""
    if folder.exists() and not (folder / MARK).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GradingError(f"{folder} holds other files; name a new folder with --folder.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    shutil.copy(ROOT / "nbgrader_config.py", folder)
    for name in ASSIGNMENTS:
        if not (ROOT / "solutions" / name / f"{name}.ipynb").exists():
            raise GradingError(f"solutions/{name} has no notebook: run `python -m tools.build {name}`.")
        shutil.copytree(ROOT / "solutions" / name, folder / "solutions" / name)


def nbgrader(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start one nbgrader command in the course folder; what it prints goes to logs/."""
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # for alembic
    }
    log = folder / "logs" / f"{'_'.join(arguments[:2])}.txt".replace("--", "")
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as out:
        command = [sys.executable, "-m", "nbgrader", *arguments]
        return subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT)


def finish(folder: Path, processes: Sequence[subprocess.Popen], made: str = "", total: int = 0) -> None:
    """Wait for the commands; a bar counts the files ``made`` (a pattern). Raises where one fails."""
    often = 0.5 if sys.stderr.isatty() else 10  # seconds; a log file wants few lines
    try:
        with tqdm(total=total, desc=made.split("/")[0], mininterval=often, disable=not made) as bar:
            running = True
            while running:
                running = any(p.poll() is None for p in processes)  # asked first: the last count is complete
                bar.update(len(list(folder.glob(made))) - bar.n if made else 0)
                time.sleep(0.2 * running)
    finally:
        for p in processes:
            p.terminate()
    for p in processes:
        if p.wait() != 0:
            command = " ".join(p.args[2:])
            raise GradingError(f"`{command}` failed with {p.returncode}; its words are in {folder / 'logs'}.")


def released(folder: Path) -> list[str]:
    """The notebooks that differ from the committed ones; nbgrader has just made them."""
    for name in ASSIGNMENTS:
        finish(folder, [nbgrader(folder, "generate_assignment", name)])
    made = {p.relative_to(folder): p.read_bytes() for p in (folder / "notebooks").rglob("*") if p.is_file()}
    return [
        f"{path} is not what nbgrader makes of solutions/: run `python -m tools.build {path.parts[1]}`."
        for path, content in sorted(made.items())
        if not (ROOT / path).exists() or (ROOT / path).read_bytes() != content
    ]


def hand_in(folder: Path) -> None:
    """Put every student's notebooks into submitted/."""
    for name in ASSIGNMENTS:
        master = nbformat.read(folder / "solutions" / name / f"{name}.ipynb", as_version=4)
        release = nbformat.read(folder / "notebooks" / name / f"{name}.ipynb", as_version=4)
        for student in CLASS:
            target = folder / "submitted" / student.id / name
            target.mkdir(parents=True)
            nbformat.write(submission(student, master, release), target / f"{name}.ipynb")


def grade(folder: Path, options: Sequence[str] = ()) -> None:
    """The judge, feedback, CSV. Feedback is one process per assignment: nbgrader itself uses one core."""
    with (folder / "logs" / "class.txt").open("w") as out:
        command = [sys.executable, "-m", "autograde_tests", "class", *ASSIGNMENTS, *options]
        done = subprocess.run(command, cwd=folder, stdout=out)
    if done.returncode:
        raise GradingError(f"The class was not graded; the table is in {folder / 'logs' / 'class.txt'}.")
    count = len(ASSIGNMENTS) * len(CLASS)
    made = "feedback/*/*/*.html"
    finish(folder, [nbgrader(folder, "generate_feedback", name) for name in ASSIGNMENTS], made, count)
    finish(folder, [nbgrader(folder, "export", "--to", "grades.csv")])


def compare(folder: Path) -> list[tuple[str, str, float, float, list[str]]]:
    """For each student and assignment: expected points, those in the CSV, and the exercises that differ."""
    from nbgrader.api import Gradebook  # late: it takes two seconds

    with (folder / "grades.csv").open(newline="") as file:
        scores = {(row["student_id"], row["assignment"]): float(row["score"]) for row in csv.DictReader(file)}
    rows = []
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as gradebook:
        for student in CLASS:
            for name in ASSIGNMENTS:
                grades = gradebook.find_submission_notebook(name, name, student.id).grades
                grades = [g for g in grades if g.name.startswith("check_")]  # essays wait for a person
                grades = {g.name.removeprefix("check_").replace("_", "."): g for g in grades}
                want = {i: 0 if i in student.lost else g.max_score for i, g in grades.items()}
                wrong = [i for i, g in grades.items() if g.score != want[i] or g.needs_manual_grade]
                rows.append((student.id, name, sum(want.values()), scores[student.id, name], sorted(wrong)))
    return rows


def run(folder: Path, options: Sequence[str] = ()) -> list[str]:
    """The whole loop with its table; what is not as it should be."""
    start = time.monotonic()
    prepare(folder)
    print(f"{len(CLASS)} students, {len(ASSIGNMENTS)} assignments, in {folder}", flush=True)
    problems = released(folder)
    hand_in(folder)
    grade(folder, options)
    rows = compare(folder)
    print(f"\n{'expected = actual':18}" + "".join(f"{name:>19}" for name in ASSIGNMENTS))
    for student in CLASS:
        line = f"{student.id:18}"
        for _, name, want, got, wrong in (row for row in rows if row[0] == student.id):
            same = want == got and not wrong
            line += f"{want:12g} {'=' if same else '≠'} {got:<5g}"
            if not same:
                where = ", ".join(wrong)
                problems.append(f"{student.id}, {name}: expected {want:g}, got {got:g}; look at {where}.")
        print(f"{line}  {student.what}")
    print(f"\nCSV:      {folder / 'grades.csv'}")
    print(f"feedback: {folder / 'feedback'}/STUDENT/ASSIGNMENT/ASSIGNMENT.html")
    print(f"{len(rows)} notebooks graded in {time.monotonic() - start:.0f} s")
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every student has the points that the sample class states."""
    parser = argparse.ArgumentParser(prog="python -m tools.grade", description="Grade a sample class.")
    parser.add_argument("--folder", type=Path, default=ROOT / "grading", help="default: grading/")
    parser.add_argument("--unsandboxed", action="store_true", help="grade where there is no sandbox")
    args = parser.parse_args(argv)
    try:
        problems = run(args.folder.resolve(), ["--unsandboxed"] if args.unsandboxed else [])
    except GradingError as error:
        problems = [str(error)]
    except KeyboardInterrupt:
        problems = ["Stopped. The next run starts afresh."]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
