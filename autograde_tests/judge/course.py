"""Grade what a class handed in: all cores, a bar, a table, and a record that the next run goes on from."""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path

import nbformat
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from tqdm import tqdm
from traitlets.config import Config, PyFileConfigLoader

from autograde_tests.judge import notebook
from autograde_tests.judge.court import ROOT, Limits, NeedsSandbox, NoWorker, Result
from autograde_tests.judge.preprocessor import Recorder, put, release_of, shared_judge
from autograde_tests.sheets import exercises

RECORD = "judged.jsonl"


class CourseError(Exception):
    """The course cannot be graded; the message says what to do."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What one may type after `class`."""
    parser.description = "Grade what a class handed in for assignments, into nbgrader's gradebook."
    parser.add_argument("assignments", nargs="+", metavar="ASSIGNMENT")
    parser.add_argument("--course", type=Path, default=Path(), help="the folder with nbgrader_config.py")
    parser.add_argument("--student", action="append", default=[], help="only this one; may be given again")
    parser.add_argument("--force", action="store_true", help="grade again what has not changed")
    parser.add_argument("--jobs", type=int, default=0, help="submissions at a time (default: one per core)")
    parser.add_argument("--scheduler", metavar="tcp://...", help="spread the work over this Dask cluster")
    parser.add_argument("--json", metavar="FILE", help="one line per submission into this file; - for stdout")


def run(args: argparse.Namespace) -> int:
    """0 when every submission has points, 1 when some have a reason instead, 2 when nothing works."""
    from autograde_tests.__main__ import NO_SANDBOX

    warnings.simplefilter("ignore")  # of nbgrader about SQLAlchemy, of Python about what students write
    try:
        course = Course(args.course.resolve())
        limits = Limits(seconds=args.timeout)
        entries: list[dict] = []
        with course.locked():
            for name in args.assignments:
                work = Work(course, name, args.student, limits, not args.unsandboxed)
                entries += work.grade(args.force, args.jobs, args.scheduler)
    except NeedsSandbox as missing:
        print(NO_SANDBOX.format(missing), file=sys.stderr)
        return 2
    except (CourseError, NoWorker, notebook.Unreadable) as why:
        print(why, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. What is graded stays; the same command goes on from here.", file=sys.stderr)
        return 130
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    if args.json == "-":
        print(lines, end="")
    else:
        print(table(entries))
        if args.json:
            Path(args.json).write_text(lines, encoding="utf-8")
    return int(any(entry["status"] == "failed" for entry in entries))


class Course:
    """A folder with nbgrader_config.py, its gradebook, and the record of what the judge said."""

    def __init__(self, root: Path) -> None:
        if not (root / "nbgrader_config.py").is_file():
            raise CourseError(f"{root} has no nbgrader_config.py; name the course's folder with --course.")
        self.root = root
        self.config: Config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
        self.config.CourseDirectory.root = str(root)
        self.coursedir = _Folder(config=self.config)
        self._path = root / RECORD

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One run at a time; the system frees the lock of a run that was killed."""
        import fcntl

        with open(self._path, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CourseError(f"Another run is grading {self.root} right now; wait for it.") from None
            yield

    def read(self) -> Iterator[dict]:
        """All lines of the record, oldest first. A last line that a kill cut off is no line."""
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else ():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def write(self, entry: dict) -> None:
        with open(self._path, "r+b" if self._path.exists() else "w+b") as file:
            size = file.seek(0, os.SEEK_END)
            torn = size and (file.seek(size - 1), file.read(1))[1] != b"\n"
            file.write((b"\n" if torn else b"") + json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def latest(self, assignment: str) -> dict[str, dict]:
        """The last entry of each student."""
        return {e["student"]: e for e in self.read() if e.get("assignment") == assignment}

    @cached_property
    def seed(self) -> int:
        """Of the random trials: the course's own, drawn once, so that no student knows it."""
        found = next((entry["seed"] for entry in self.read() if "seed" in entry), None)
        if found is None:
            found = secrets.randbits(32)
            self.write({"seed": found})
        return found


class _Folder(CourseDirectory):
    """A course whose broken timestamps do not stop it."""

    def get_existing_timestamp(self, dest_path: str):
        try:
            path = Path(dest_path, "timestamp.txt")
            return utils.parse_utc(path.read_text().strip()) if path.is_file() else None
        except (ValueError, OverflowError, OSError):
            return None


@dataclass(frozen=True)
class Submission:
    """What a student handed in for an assignment. files: the bytes by notebook, or the reason for none."""

    student: str
    key: str
    files: dict[str, bytes]
    reason: str = ""
    note: str = ""


class Work:
    """An assignment and who handed it in."""

    def __init__(self, course: Course, name: str, students: list[str], limits: Limits, sandbox: bool) -> None:
        self.course, self.name, self.limits, self.sandbox = course, name, limits, sandbox
        with Gradebook(course.coursedir.db_url, course.coursedir.course_id) as gradebook:
            known = {a.name: sorted(n.name for n in a.notebooks) for a in gradebook.assignments}
        if name not in known:
            raise CourseError(
                f"The gradebook knows no assignment {name}: run `nbgrader generate_assignment`."
            )
        self.releases = {n: release_of(course.config, name, n) for n in known[name]}
        for release in self.releases.values():
            for question in notebook.paper(release, release).questions:
                if question.wrong or question.id not in exercises():
                    raise CourseError(
                        f"{question.cell} of {name} is no check of an exercise that the judge knows; grade "
                        "this assignment with nbgrader's own Execute (docs/instructor.md)."
                    )
        pattern = course.coursedir.format_path(course.coursedir.submitted_directory, "*", name)
        folders = sorted(Path(path) for path in glob.glob(pattern, root_dir=course.root))
        self.folders = {path.parent.name: course.root / path for path in folders}
        if students:
            missing = sorted(set(students) - self.folders.keys())
            if missing:
                raise CourseError(f"{', '.join(missing)} handed in nothing for {name}.")
            self.folders = {student: self.folders[student] for student in students}

    @cached_property
    def _common(self) -> bytes:
        """A digest of what all submissions share: the release, the checks and what these build on."""
        digest = hashlib.sha256(f"{self.course.seed} {self.limits}".encode())
        for release in self.releases.values():
            digest.update(nbformat.writes(release).encode())
        digest.update(_checks().encode())
        return digest.digest()

    def _submission(self, student: str) -> Submission:
        folder, files, reason, note = self.folders[student], {}, "", ""
        digest = hashlib.sha256(self._common)
        for name in self.releases:
            path = folder / f"{name}.ipynb"
            if path.is_symlink():
                reason = f"{path.name} is a link, not a notebook."
            elif path.is_file() and path.stat().st_size > notebook.SIZE:
                reason = f"{path.name} has {path.stat().st_size / 2**20:.0f} MB; clear its outputs."
            elif path.is_file():
                files[name] = path.read_bytes()
            else:
                others = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.ipynb"))
                reason = f"{path.name} is missing" + (f"; is it {others[0]}?" if others else ".")
        stamp = folder / "timestamp.txt"
        if stamp.is_file() and self.course.coursedir.get_existing_timestamp(str(folder)) is None:
            note = "timestamp.txt holds no date: graded as if on time."
        for part in (*files.values(), reason.encode(), stamp.read_bytes() if stamp.is_file() else b""):
            digest.update(hashlib.sha256(part).digest())
        return Submission(student, digest.hexdigest(), {} if reason else files, reason, note)

    def grade(self, force: bool = False, jobs: int = 0, scheduler: str | None = None) -> list[dict]:
        """Grade who changed; the latest entry of everyone, in the order of their names."""
        done = self.course.latest(self.name)
        recorder = Recorder(self.course.coursedir, self.course.config, self.name)
        # how: everything an examination needs beside the submission, as plain data for other machines
        how = {
            "releases": {name: nbformat.writes(nb) for name, nb in self.releases.items()},
            "limits": asdict(self.limits),
            "sandbox": self.sandbox,
            "seed": self.course.seed,
            "checks": _checks(),
        }
        bar = tqdm(
            self.folders, desc=self.name, unit="submission", mininterval=0.5 if sys.stderr.isatty() else 10
        )
        with bar, _pool(jobs, scheduler) as (submit, room):
            running: dict[Future, Submission] = {}
            todo = iter(self.folders)
            left = True
            while left or running:
                while left and len(running) < room:
                    student = next(todo, None)
                    left = student is not None
                    if not left:
                        break
                    found = self._submission(student)
                    old = done.get(student)
                    if not force and old and old["key"] == found.key and recorder.has(old):
                        bar.update()
                    elif found.reason:
                        done[student] = self._note(found, {}, found.reason)
                        bar.update()
                    else:
                        running[submit(examine, found.files, how)] = found
                for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                    found = running.pop(future)
                    bar.set_postfix_str(found.student, refresh=False)
                    done[found.student] = self._finish(found, future.result(), recorder)
                    bar.update()
        return [done[student] for student in self.folders]

    def _finish(self, found: Submission, said: dict, recorder: Recorder) -> dict:
        if "reason" in said:
            return self._note(found, {}, said["reason"])
        nbs = {}
        for name, data in found.files.items():
            nbs[name] = notebook.rebuild(self.releases[name], notebook.read(data))
            put(nbs[name], [Result(**result) for result in said["notebooks"][name]])
        try:
            recorder.record(found.student, nbs)
        except NbGraderException as why:  # nbgrader's words are in its log
            return self._note(found, {}, f"nbgrader could not record it: {recorder.words() or why}")
        return self._note(found, said)

    def _note(self, found: Submission, said: dict, reason: str = "") -> dict:
        results = [result for notebook in said.get("notebooks", {}).values() for result in notebook]
        entry = {
            "assignment": self.name,
            "student": found.student,
            "key": found.key,
            "status": "failed" if reason else "graded",
            "reason": reason or found.note,
            "points": sum(r["points"] for r in results),
            "of": sum(r["of"] for r in results),
            "seconds": said.get("seconds", 0.0),  # of judging
            "exercises": results,
        }
        self.course.write(entry)
        return entry


@cache
def _checks() -> str:
    """A digest of the checks and of what they build on."""
    digest = hashlib.sha256()
    for package in ("autograde_tests", "mtlkit"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def examine(files: dict[str, bytes], how: dict) -> dict:
    """The results by notebook as plain data, or a reason. Runs in a thread here, or on a Dask worker."""
    if how["checks"] != _checks():
        raise NoWorker("A machine of the cluster has another version of mtlkit; install the same on all.")
    began = time.monotonic()
    judge = shared_judge(Limits(**how["limits"]), how["sandbox"], how["seed"])
    said: dict = {"notebooks": {}}
    for name, data in files.items():
        release = nbformat.reads(how["releases"][name], as_version=4)
        try:
            mine = notebook.read(data, f"{name}.ipynb")
        except notebook.Unreadable as why:
            return {"reason": str(why)}
        paper = notebook.paper(notebook.rebuild(release, mine), release)
        said["notebooks"][name] = [asdict(result) for result in judge.grade(paper)]
    return said | {"seconds": round(time.monotonic() - began, 3)}


@contextmanager
def _pool(jobs: int, scheduler: str | None) -> Iterator[tuple[Callable[..., Future], int]]:
    """How to submit work, and how much of it at a time: memory stays bounded."""
    if scheduler:
        from autograde_tests.judge.spread import cluster

        with cluster(scheduler) as found:
            yield found
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pool = ThreadPoolExecutor(jobs or cores)
    try:
        yield pool.submit, 2 * (jobs or cores)
    finally:
        pool.shutdown(cancel_futures=True)


def table(entries: Iterable[dict]) -> str:
    """Who has which points, and why some have none."""
    entries = list(entries)
    wide = max((len(e["student"]) for e in entries), default=7)
    lines = [f"{'student':{wide}}  {'assignment':18} points   of"]
    for e in entries:
        points = "failed     " if e["status"] == "failed" else f"{e['points']:6g} {e['of']:4g}"
        lines.append(f"{e['student']:{wide}}  {e['assignment']:18} {points}  {e['reason']}".rstrip())
    failed = sum(e["status"] == "failed" for e in entries)
    lines.append(f"{len(entries) - failed} graded, {failed} failed")
    return "\n".join(lines)
