"""Grading over a Dask cluster and into PostgreSQL: the same gradebook as on one machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from judge_cases import hand_in, no_sandbox
from test_judge_faults import NAME, new_course

from autograde_tests import __main__ as cli

STUDENTS = 16


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A server of our own on the loopback: its address for SQLAlchemy, or "" where PostgreSQL is missing."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'mtlkit[cluster]')")
    programs = [shutil.which(name) for name in ("initdb", "postgres")]
    if not all(programs):
        yield ""
        return
    folder, port = tmp_path_factory.mktemp("postgres"), free_port()
    as_user = {}
    if os.geteuid() == 0:  # as root PostgreSQL does not start
        as_user = {"user": "nobody", "group": "nogroup", "cwd": "/"}
        shutil.chown(folder, "nobody")
        for above in (folder, *folder.parents[:3]):
            above.chmod(above.stat().st_mode | 0o011)
    data = str(folder / "data")
    make = [programs[0], "-D", data, "-U", "course", "-A", "trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(make, check=True, capture_output=True, **as_user)
    options = ["-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]
    server = subprocess.Popen([programs[1], "-D", data, *options], stderr=subprocess.DEVNULL, **as_user)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.1)
    yield f"postgresql+psycopg://course@127.0.0.1:{port}/postgres"
    server.send_signal(signal.SIGINT)
    server.wait(30)


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers, each in a folder of its own; its address and the workers."""
    pytest.importorskip("distributed", reason="Dask is not installed (pip install 'mtlkit[cluster]')")
    address, running = f"tcp://127.0.0.1:{free_port()}", []

    def start(program: str, name: str, *options: str) -> subprocess.Popen:
        (tmp_path / name).mkdir()
        command = [sys.executable, "-m", "distributed.cli." + program, *options]
        with open(tmp_path / name / "log.txt", "w") as log:
            process = subprocess.Popen(command, cwd=tmp_path / name, stdout=log, stderr=log)
        running.append(process)
        return process

    port = address.rsplit(":", 1)[1]
    start("dask_scheduler", "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
    common = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
    workers = [
        start("dask_worker", name, address, *common, "--local-directory", str(tmp_path / name))
        for name in ("one", "two")
    ]
    from distributed import Client

    with Client(address, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
    yield address, workers
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def students() -> dict[str, bytes]:
    answers = [{}, {"0.1": "return labels.mean(dim=0)"}, {"0.1": None}, {"0.2": "return {}"}]
    return {f"student_{i:02}": json.dumps(hand_in(answers[i % 4])).encode() for i in range(STUDENTS)}


def course_at(root: Path, students: dict[str, bytes], db_url: str = "") -> Path:
    root.mkdir()
    settings = f"\nc.CourseDirectory.db_url = {db_url!r}\n" if db_url else ""
    new_course(root, students, settings)
    (root / "judged.jsonl").write_text('{"seed": 7}\n')
    return root


def options(course: Path, *more: str) -> list[str]:
    return ["class", NAME, "--course", str(course), *more, *(["--unsandboxed"] if no_sandbox() else [])]


def rows(db_url: str) -> list:
    from nbgrader.api import Gradebook

    with Gradebook(db_url) as book:
        return sorted(
            (s.student.id, grade.name, grade.auto_score, grade.needs_manual_grade)
            for s in book.assignment_submissions(NAME)
            for notebook in s.notebooks
            for grade in notebook.grades
        )


@pytest.fixture(scope="module")
def alone(students, tmp_path_factory) -> list:
    """The gradebook of one machine and SQLite."""
    course = course_at(tmp_path_factory.mktemp("alone") / "course", students)
    assert cli.main(options(course)) == 0
    return rows(f"sqlite:///{course}/gradebook.db")


@pytest.mark.heavy
def test_two_machines_of_which_one_is_killed_give_the_same_gradebook(
    alone, students, cluster, postgres, tmp_path, capsys
):
    address, workers = cluster
    course = course_at(tmp_path / "course", students, postgres)
    record = course / "judged.jsonl"
    before = record.stat().st_size
    command = [sys.executable, "-m", "autograde_tests", *options(course, "--scheduler", address)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    few = 1 + STUDENTS // 4
    while record.read_bytes().count(b"\n") < few and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert record.stat().st_size > before and run.poll() is None, "it was over before a worker was killed"
    workers[0].kill()
    assert run.wait(120) == 0
    assert rows(postgres or f"sqlite:///{course}/gradebook.db") == alone
    judged = [json.loads(line) for line in record.read_text().splitlines()[1:]]
    assert len(judged) == STUDENTS
    assert not list(tmp_path.glob("one/*.ipynb")) and not list(tmp_path.glob("two/**/*.ipynb"))
    assert cli.main(["report", NAME, "--course", str(course)]) == 0
    if not postgres:
        pytest.skip("this held with SQLite; no PostgreSQL here: initdb and postgres are not on PATH")
    assert not (course / "gradebook.db").exists()


def test_a_scheduler_that_is_not_there_gets_one_sentence(students, tmp_path, capsys):
    pytest.importorskip("distributed")
    course = course_at(tmp_path / "course", dict(list(students.items())[:1]))
    assert cli.main(options(course, "--scheduler", f"tcp://127.0.0.1:{free_port()}")) == 2
    assert "No Dask scheduler answers at tcp://127.0.0.1" in capsys.readouterr().err
