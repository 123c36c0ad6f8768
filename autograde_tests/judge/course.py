"""Grade what a class handed in: all cores, a bar, a table, and a record that the next run goes on from."""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import secrets
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import nbformat
from tqdm import tqdm
from traitlets.config import Config, PyFileConfigLoader

from autograde_tests.judge import notebook
from autograde_tests.judge.book import CourseError, assignments, register
from autograde_tests.judge.court import ROOT, Limits, NeedsSandbox, NoWorker, Result
from autograde_tests.judge.options import NO_SANDBOX, count, new_file
from autograde_tests.judge.preprocessor import (
    Folder,
    Recorder,
    Unrecorded,
    end_judges,
    put,
    release_of,
    shared_judge,
)
from autograde_tests.sheets import exercises

RECORD = "judged.jsonl"
LISTED = 10  # folders that one sentence names
STAYS = " The points of the earlier submission stay."
STOPPING = b"\nStopping after the submissions in progress; press again to stop now.\n"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What one may type after `class`."""
    parser.description = "Grade what a class handed in for assignments, into nbgrader's gradebook."
    parser.add_argument("assignments", nargs="+", metavar="ASSIGNMENT")
    parser.add_argument("--course", type=Path, default=Path(), help="the folder with nbgrader_config.py")
    parser.add_argument("--student", action="append", default=[], help="only this one; may be given again")
    parser.add_argument("--force", action="store_true", help="grade again what has not changed")
    parser.add_argument("--jobs", type=count, default=0, help="submissions at a time (default: one per core)")
    parser.add_argument("--scheduler", metavar="tcp://...", help="spread the work over this Dask cluster")
    words = "one line per submission into this file; - for stdout"
    parser.add_argument("--json", type=new_file, metavar="FILE", help=words)


def run(args: argparse.Namespace) -> int:
    """0 when every submission has points, 1 when some have a reason instead, 2 when nothing works."""
    warnings.simplefilter("ignore")  # of nbgrader about SQLAlchemy, of Python about what students write
    try:
        course = Course(args.course.resolve())
        limits = Limits(seconds=args.timeout)
        entries: list[dict] = []
        with course.locked():
            works = [Work(course, n, args.student, limits, not args.unsandboxed) for n in args.assignments]
            for work in works:
                entries += work.grade(args.force, args.jobs, args.scheduler)
            odd = [f"Nobody handed in {work.name}." for work in works if not work.folders] + course.astray()
    except NeedsSandbox as missing:
        print(NO_SANDBOX.format(missing), file=sys.stderr)
        return 2
    except (CourseError, NoWorker, notebook.Unreadable) as why:
        print(why, file=sys.stderr)
        return 2
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    if args.json == "-":
        print(lines, end="")
    else:
        if entries:
            print(table(entries))
        if args.json:
            Path(args.json).write_text(lines, encoding="utf-8")
    if odd:
        place = course.coursedir.place("submitted", "STUDENT", "ASSIGNMENT")
        print(*odd, f"A submission is {place}/ASSIGNMENT.ipynb.", sep="\n", file=sys.stderr)
    return int(bool(odd) or any(entry["status"] == "failed" for entry in entries))


class Course:
    """A folder with nbgrader_config.py, its gradebook, and the record of what the judge said."""

    def __init__(self, root: Path) -> None:
        if not (root / "nbgrader_config.py").is_file():
            raise CourseError(f"{root} has no nbgrader_config.py; name the course's folder with --course.")
        self.root = root
        try:
            self.config: Config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
            self.config.CourseDirectory.root = str(root)
            self.coursedir = Folder(config=self.config)
        except Exception as why:  # it is a program
            words = f"{type(why).__name__}: {why}"
            raise CourseError(f"{root / 'nbgrader_config.py'} does not run: {words}.") from None
        self._path = root / RECORD
        self._warned = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One run at a time; the system frees the lock of a run that was killed."""
        import fcntl

        with open(self._path, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CourseError(f"Another run is grading {self.root} right now; wait for it.") from None
            yield

    def read(self) -> list[dict]:
        """All entries of the record, oldest first, without lines that a kill cut off or a hand broke."""
        lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
        lines = [line for line in lines if line.strip()]
        entries = [entry for entry in map(_entry, lines) if entry]
        broken = len(lines) - len(entries)
        if broken and not self._warned:
            self._warned = True
            print(
                f"{self._path}: {broken} of {len(lines)} lines hold no verdict and are passed over; `class` "
                "grades again whom they were about.",
                file=sys.stderr,
            )
        return entries

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

    def notebooks(self, assignment: str) -> set[str]:
        """The names of those that have a master and a release; another notebook there is somebody's draft."""
        folders = (self.coursedir.place(step, ".", assignment) for step in ("source", "release"))
        return set.intersection(*({path.stem for path in folder.glob("*.ipynb")} for folder in folders))

    def astray(self) -> list[str]:
        """A sentence about what lies in submitted/ where no submission is; none where all is in place."""
        known = assignments(self.coursedir)
        top = self.root / self.coursedir.submitted_directory
        odd = [
            path.relative_to(self.root).as_posix()
            for path in sorted([*top.glob("[!.]*.ipynb"), *top.glob("[!.]*/[!.]*")])
            if path.suffix == ".ipynb"
            or (path.is_dir() and path.name not in known and not self.notebooks(path.name))
        ]
        more = f" and {len(odd) - LISTED} more" if len(odd) > LISTED else ""
        return [f"Not graded, for no submission is there: {', '.join(odd[:LISTED])}{more}."] if odd else []

    @cached_property
    def seed(self) -> int:
        """Of the random trials: the course's own, drawn once, so that no student knows it."""
        found = next((entry["seed"] for entry in self.read() if "seed" in entry), None)
        if found is None:
            found = secrets.randbits(32)
            self.write({"seed": found})
        return found


def _entry(line: bytes) -> dict | None:
    """A line of the record, if it is one: the seed, or a verdict with all that belongs to it."""
    try:
        entry = json.loads(line)
        if isinstance(entry.get("seed"), int):
            return entry
        texts = [entry[name] for name in ("assignment", "student", "key", "status", "reason")]
        texts += [result[name] for result in entry["exercises"] for name in ("id", "title", "message")]
        numbers = [entry["points"], entry["of"]]
        numbers += [number for r in entry["exercises"] for number in (Result(**r).points, Result(**r).of)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    sound = all(isinstance(x, str) for x in texts) and all(isinstance(x, int | float) for x in numbers)
    return entry if sound else None


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
        names = course.notebooks(name).union(assignments(course.coursedir).get(name, ()))
        self.releases = {n: release_of(course.config, name, n) for n in sorted(names)}
        if not self.releases:
            place = course.coursedir.place("release", ".", name)
            hint = f"`nbgrader generate_assignment {name} --force` puts it there"
            raise CourseError(f"The course knows no assignment {name}: no notebook is in {place}; {hint}.")
        for release in self.releases.values():
            for question in notebook.paper(release, release).questions:
                if question.wrong or question.id not in exercises():
                    raise CourseError(
                        f"{question.cell} of {name} is no check of an exercise that the judge knows; grade "
                        "this assignment with nbgrader's own Execute (docs/instructor.md)."
                    )
        register(course.coursedir, name, self.releases)
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
                try:
                    files[name] = path.read_bytes()
                except OSError as why:
                    reason = f"{path.name} cannot be read: {why.strerror}."
            else:
                others = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.ipynb"))
                here = path.relative_to(self.course.root)
                rename = f"; is it {others[0]}? Then rename it to {here} and run again." if others else "."
                reason = f"{path.name} is missing{rename}"
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
        with bar, _pool(jobs, scheduler) as (submit, room), _patience() as stop:
            running: dict[Future, Submission] = {}
            todo = iter(self.folders)
            left = True
            while left or running:
                if stop.is_set():
                    left, running = False, {f: found for f, found in running.items() if not f.cancel()}
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
                for future in wait(running, 0.5, FIRST_COMPLETED).done:  # seconds, for Ctrl-C
                    found = running.pop(future)
                    bar.set_postfix_str(found.student, refresh=False)
                    done[found.student] = self._finish(found, future.result(), recorder)
                    bar.update()
            if stop.is_set():
                raise KeyboardInterrupt
        return [told(done[student], recorder.scores) for student in self.folders]

    def _finish(self, found: Submission, said: dict, recorder: Recorder) -> dict:
        if "reason" in said:
            return self._note(found, {}, said["reason"])
        nbs = {}
        for name, data in found.files.items():
            nbs[name] = notebook.rebuild(self.releases[name], notebook.read(data))
            put(nbs[name], [Result(**result) for result in said["notebooks"][name]])
        try:
            recorder.record(found.student, nbs)
        except Unrecorded as why:  # without a key: the next run tries again
            words = f"nbgrader could not record it ({why}); the same command tries again."
            return self._note(replace(found, key=""), {}, words)
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


def told(entry: dict, kept: Collection[str]) -> dict:
    """An entry as its teacher reads it. kept: the students who have points in the gradebook."""
    stays = STAYS if entry["status"] == "failed" and entry["student"] in kept else ""
    return entry | {"reason": entry["reason"] + stays}


@contextmanager
def _patience() -> Iterator[threading.Event]:
    """Set by Ctrl-C, which says what is awaited; a second Ctrl-C interrupts."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, STOPPING)  # print may be at work right now

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


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
    patient = True
    try:
        yield pool.submit, 2 * (jobs or cores)
    except KeyboardInterrupt:
        patient = False
        end_judges()
        raise
    finally:
        pool.shutdown(wait=patient, cancel_futures=True)


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
