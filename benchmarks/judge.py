"""Grading a class: the judge against plain `nbgrader autograde`, in turn, on the same two cores.

    python benchmarks/judge.py [--rounds 4] [--class-size 25] [--plain 3]

Each round grades ``--class-size`` new submissions of notebook 02 with the judge, and ``--plain`` with
nbgrader's own Execute in one process, then as many in each of two processes (there with the settings that
make it fastest). The submissions are the sample class's. Training runs and figures are skipped by all. The
time until a process is ready (imports, the judge's worker) is told apart and is in no other figure.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # tools/ is not installed

from tools import grade  # noqa: E402
from tools.sample_class import CLASS, submission  # noqa: E402

NAME = "02_mmoe"
# two endless loops would measure the time limit of each side
STUDENTS = [student for student in CLASS if student.id != "endless"]


def new_course(folder: Path) -> tuple:
    """A course with the assignment released: its master and its release."""
    grade.prepare(folder)
    grade.finish(folder, [grade.nbgrader(folder, "generate_assignment", NAME)])
    return tuple(
        nbformat.read(folder / step / NAME / f"{NAME}.ipynb", as_version=4)
        for step in ("solutions", "notebooks")
    )


def hand_in(folder: Path, pair: tuple, ids: list[str]) -> list[str]:
    for number, student in enumerate(ids):
        target = folder / "submitted" / student / NAME
        target.mkdir(parents=True)
        nbformat.write(submission(STUDENTS[number % len(STUDENTS)], *pair), target / f"{NAME}.ipynb")
    return ids


def plain(job: tuple[str, list[str], bool]) -> tuple[float, float, float]:
    """In a process of its own: seconds until it is ready, for the submissions, and of these on a core."""
    folder, students, tuned = job
    start = time.perf_counter()
    warnings.simplefilter("ignore")
    from nbgrader.converters import Autograde
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import PyFileConfigLoader

    logging.disable(logging.CRITICAL)
    config = PyFileConfigLoader("nbgrader_config.py", path=folder).load_config()
    del config["Autograde"]  # the judge
    if not tuned:
        del config.ExecutePreprocessor["shutdown_kernel"]
    config.CourseDirectory.update(root=folder, assignment_id=NAME)
    os.environ["OMP_NUM_THREADS"] = "1"
    ready, busy = time.perf_counter(), processor()
    course = CourseDirectory(config=config)
    for student in students:
        course.student_id = student
        with contextlib.redirect_stderr(io.StringIO()):
            Autograde(coursedir=course, config=config).start()
    return ready - start, time.perf_counter() - ready, processor() - busy


def processor(worker: int | None = None) -> float:
    """Seconds on a processor so far: this process, its finished children, a worker and all of its own."""
    own = os.times()
    seconds = own.user + own.system + own.children_user + own.children_system
    if worker:
        ticks = Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[11:15]
        seconds += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--class-size", type=int, default=25)
    parser.add_argument("--plain", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        compare(Path(temporary), args)


def compare(folder: Path, args: argparse.Namespace) -> None:
    """Grade in turn, print the table."""
    judged, others = folder / "judged", folder / "plain"
    pair = new_course(judged)
    shutil.copytree(judged, others)
    start = time.perf_counter()
    from autograde_tests.judge.course import Course, Work
    from autograde_tests.judge.court import Limits
    from autograde_tests.judge.preprocessor import shared_judge

    imports = time.perf_counter() - start
    course, limits = Course(judged), Limits()
    start = time.perf_counter()
    pid = shared_judge(limits, True, course.seed)._process.pid
    worker = time.perf_counter() - start
    each: list[float] = []
    rows: dict[str, list[float]] = {"judge": [], "plain": [], "plain, tuned, two processes": []}
    ready, busy = [], {name: [] for name in rows}
    spawn = multiprocessing.get_context("spawn")
    for turn in range(args.rounds):
        ids = hand_in(judged, pair, [f"r{turn}_{i:03}" for i in range(args.class_size)])
        start, before = time.perf_counter(), processor(pid)
        entries = Work(course, NAME, ids, limits, True).grade()
        rows["judge"].append((time.perf_counter() - start) / len(ids))
        busy["judge"].append((processor(pid) - before) / len(ids))
        assert all(entry["status"] == "graded" for entry in entries)
        each += [entry["seconds"] for entry in entries]
        for name, processes in (("plain", 1), ("plain, tuned, two processes", 2)):
            ids = [f"{'ab'[processes - 1]}{turn}_{i}" for i in range(processes * args.plain)]
            hand_in(others, pair, ids)
            jobs = [(str(others), ids[i::processes], processes == 2) for i in range(processes)]
            with spawn.Pool(processes) as pool:
                times = pool.map(plain, jobs)
            ready += [seconds for seconds, _, _ in times]
            rows[name].append(max(seconds for _, seconds, _ in times) / len(ids))
            busy[name].append(sum(seconds for _, _, seconds in times) / len(ids))
    print(
        f"notebook {NAME}, {args.rounds} rounds in turn; {args.rounds * args.class_size} submissions judged"
    )
    print(f"until ready: judge {imports:.1f} s of imports and {worker:.1f} s for its worker, once; ", end="")
    print(f"nbgrader {statistics.median(ready):.1f} s a process")
    print(f"\n{'':30}{'s per submission':>18}{'min - max':>16}{'judge is faster':>24}{'processor s':>14}")
    for name, values in rows.items():
        ratios = sorted(value / mine for value, mine in zip(values, rows["judge"], strict=True))
        print(
            f"{name:30}{statistics.median(values):18.2f}{min(values):9.2f} -{max(values):5.2f}"
            f"{statistics.median(ratios):10.1f}x ({ratios[0]:4.1f} - {ratios[-1]:4.1f})"
            f"{statistics.median(busy[name]):14.2f}"
        )
    each.sort()
    print(
        f"\none submission, from its bytes to its verdicts: median {statistics.median(each):.2f} s, ", end=""
    )
    print(f"90 % under {each[int(0.9 * len(each))]:.2f} s, largest {each[-1]:.2f} s")


if __name__ == "__main__":
    main()
