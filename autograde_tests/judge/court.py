"""The judge: asks a worker, compares with the reference, decides. It runs no line that a student wrote."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from autograde_tests.exercise import Exercise, Trial
from autograde_tests.judge import wire
from autograde_tests.judge.notebook import Paper, Question
from autograde_tests.judge.parts import parts
from autograde_tests.probe import Reply
from autograde_tests.sheets import exercises
from autograde_tests.verdict import Known, Verdict, judge

ROOT = Path(__file__).resolve().parents[2]
START = 120.0  # seconds for a worker to load torch
TOGETHER = 3.0  # seconds for an exercise beside the others, before it gets its full time alone
HELPERS = 10  # cells of their own that an answer may build on
LINES, WIDTH = 20, 400  # of a message
FAILURES = ("", "blank", "crash", "type", "parts", "delegated", "slow")
_CPU = torch.device("cpu")


class NoWorker(Exception):
    """The worker could not be started, or is gone; no student's fault."""


class NeedsSandbox(NoWorker):
    """There is no sandbox on this system; the message says what is missing."""


@dataclass(frozen=True)
class Limits:
    """seconds: of an exercise, wall and CPU. total: of a notebook. memory: bytes on top of torch's."""

    seconds: float = 10.0
    total: float = 300.0
    memory: int = 2 * 2**30


@dataclass(frozen=True)
class Result:
    """What became of one exercise. message: what the check says, or why it could not; said: its words alone.

    failure: "" where it passed, else "wrong", "stopped" (by a limit, a crash) or a kind of ``Reply``.
    """

    id: str
    title: str
    points: float
    of: float
    passed: bool
    message: str
    mistake: str = ""
    failure: str = ""

    @property
    def said(self) -> str:
        words = re.sub(r"^\[\S+\] \S+ ", "", self.message)
        return "\n".join(line.strip() for line in words.split("\n"))


@dataclass
class Judge:
    """A worker process and the decisions about what it returns. Any number of threads may call ``grade``.

    sandbox: refuse to work where there is none. seed: of the random trials; by default nobody knows it.
    hidden: folders that no submission may see (the project's own are among them).
    """

    limits: Limits = field(default_factory=Limits)
    sandbox: bool = True
    seed: int = field(default_factory=lambda: secrets.randbits(32))
    hidden: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._lock, self._known = threading.Lock(), {}
        self._trials: dict[str, list[Trial]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="judge_")
        if not hasattr(os, "fork"):
            raise NeedsSandbox("the judge needs Linux or macOS (on Windows: WSL or Docker)")
        self._worker, theirs = socket.socketpair()
        packages = {str(ROOT / name) for name in ("autograde_tests", "mtlkit", "solutions", "notebooks")}
        hidden = "\0".join([*packages, *self.hidden]) if self.sandbox else ""
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            f"from autograde_tests.judge.worker import main; main({theirs.fileno()})"
        )
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-EP", "-c", code],
            pass_fds=[theirs.fileno()],
            env=_environment(self._folder.name),
            cwd=self._folder.name,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the judge
        )
        theirs.close()
        try:
            self._worker.settimeout(START)
            self._worker.sendall(struct.pack(">I", len(os.fsencode(hidden))) + os.fsencode(hidden))
            (size,) = struct.unpack(">I", self._exactly(4))
            missing = self._exactly(size).decode()
        except (OSError, struct.error):
            self._log.seek(0)
            words = self._log.read().decode(errors="replace").strip().split("\n")[-1]
            self.close()
            raise NoWorker(f"The worker did not start: {words}") from None
        if self.sandbox and missing:
            self.close()
            raise NeedsSandbox(missing)

    def _exactly(self, size: int) -> bytes:
        return self._worker.recv(size, socket.MSG_WAITALL) if size else b""

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and what is left of it."""
        self._worker.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def grade(self, paper: Paper) -> list[Result]:
        """Ask all exercises of a notebook. Raises ``NoWorker``.

        At first all answers run in one process, as in the notebook. One that does not pass there is asked
        again in a process of its own: what stands beside it can cost it nothing.
        """
        end = time.monotonic() + self.limits.total
        results = []
        with _Jail(self._send_jail) as jail:
            passed = self._together(jail, paper)
            for question in paper.questions:
                verdict, failure = passed.get(question.id), ""
                if verdict is None:
                    verdict, failure = self._decide(jail, paper, question, end)
                item = exercises().get(question.id)
                results.append(
                    Result(
                        question.id,
                        item.title if item else "",
                        question.points if verdict.passed else 0.0,
                        question.points,
                        verdict.passed,
                        clean("\n".join(verdict.lines)),
                        verdict.mistake,
                        "" if verdict.passed else failure,
                    )
                )
        return results

    def _together(self, jail: _Jail, paper: Paper) -> dict[str, Verdict]:
        """The answers that are right when run in the notebook's order, in a process per ``may_use``."""
        groups: dict[tuple[str, ...], list[Question]] = {}
        for question in paper.questions:
            if question.answer is not None and not question.wrong and question.id in exercises():
                groups.setdefault(tuple(exercises()[question.id].may_use), []).append(question)
        passed = {}
        for may_use, questions in groups.items():
            asks = [self._asking(question, [question.answer]) for question in questions]
            answers, _ = self._try(jail, paper, may_use, asks, min(TOGETHER, self.limits.seconds))
            for question, answer in zip(questions, answers, strict=False):
                replies, _ = _read(answer)
                verdict = self._judge(exercises()[question.id], replies) if replies else None
                if verdict and verdict.passed:
                    passed[question.id] = verdict
        return passed

    def _decide(self, jail: _Jail, paper: Paper, question: Question, end: float) -> tuple[Verdict, str]:
        """The verdict on an answer by itself, and the kind of its failure."""
        item = exercises().get(question.id)
        if question.wrong or item is None:
            return _stop(question, question.wrong or "there is no such exercise"), "stopped"
        if question.answer is None:
            verdict = judge(item, (), [Reply(failure="blank")], _CPU)
            if question.missing:
                why = f"      the notebook has no answer cell for {item.id}: take it from a fresh copy"
                verdict = replace(verdict, lines=(verdict.lines[0], why))
            return verdict, "blank"
        if time.monotonic() > end:
            return _stop(question, f"not run: the notebook took {self.limits.total:.0f} s"), "stopped"
        answer = self._ask(jail, paper, question, tuple(item.may_use))
        if isinstance(answer, str):
            return _stop(question, answer), "stopped"
        return self._judge(item, answer), next((r.failure for r in answer if r.failure), "wrong")

    def _judge(self, item: Exercise, replies: list[Reply]) -> Verdict:
        with self._lock:  # the references draw random numbers, and torch has one generator for all threads
            try:
                with torch.random.fork_rng(devices=[]):
                    known: Known = self._known.setdefault(item.id, {})
                    return judge(item, self._drawn(item), replies, _CPU, known)
            except Exception as error:  # arrays that no comparison was made for
                return Verdict(False, (f"[{item.id}] ✗ {item.title}", f"      not comparable: {error}"))

    def _drawn(self, item: Exercise) -> list[Trial]:
        if item.id not in self._trials:
            self._trials[item.id] = item.trials(self.seed)
        return self._trials[item.id]

    def _asking(self, question: Question, cells: list[str]) -> dict:
        item = exercises()[question.id]
        with self._lock:
            trials = [_question(trial) for trial in self._drawn(item)]
        plain = {"name": question.name, "how": item.how, "may_use": item.may_use}
        return plain | {"cells": cells, "trials": trials}

    def _ask(
        self, jail: _Jail, paper: Paper, question: Question, may_use: tuple[str, ...]
    ) -> list[Reply] | str:
        """The replies to the trials, or the reason why there are none.

        The answer runs alone at first. What it finds missing is looked up among the student's other cells.
        """
        cells = [question.answer]
        while True:
            asking = self._asking(question, cells)
            answers, why = self._try(jail, paper, may_use, [asking], self.limits.seconds)
            if not answers:
                return why
            replies, error = _read(answers[0])
            words = error or next((r.text for r in replies if r.failure == "crash"), "")
            missing = re.match(r"NameError: (?:name|.* variable) '(\w+)'", words)
            helper = paper.helper(missing[1], question.answer) if missing else None
            if helper is None or helper in cells or len(cells) > HELPERS:
                break
            cells = [helper, *cells]
        if replies:
            return replies
        if error:
            return f"the answer stopped with {error}"
        return f"there is no `{question.name}`: keep the name that the text gives"

    # --- talking to the worker --------------------------------------------------------------------------

    def _send_jail(self, theirs: socket.socket) -> None:
        try:
            with self._lock:
                socket.send_fds(self._worker, [b"J"], [theirs.fileno()])
        except OSError:
            raise NoWorker("The worker is gone.") from None

    def _try(
        self, jail: _Jail, paper: Paper, may_use: tuple[str, ...], asks: list[dict], seconds: float
    ) -> tuple[list[object], str]:
        """Put questions to a fresh process: its answers, and how it ended if some are missing."""
        job = {"setup": paper.setup, "parts": parts(may_use), "asks": asks, "seconds": seconds}
        ours, theirs = socket.socketpair()
        answers: list[object] = []
        word, late = b"K", False
        with ours:
            try:
                with theirs:
                    jail.fork(theirs)
                ours.settimeout(START)
                wire.send(ours, job | {"memory": self.limits.memory})
                for _ in asks:
                    answers.append(wire.receive(ours, seconds + 2))
            except TimeoutError:
                late = True
            except (wire.WireError, OSError):
                word = b"W"
        ending = jail.end(word)
        return answers, f"stopped after {seconds:.0f} seconds: an endless loop?" if late else ending


class _Jail:
    """A connection to the warden of a jail; where the warden is gone, a new jail takes its place."""

    def __init__(self, send: Callable[[socket.socket], None]) -> None:
        self._send = send
        self._new()

    def _new(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(START)
        with theirs:
            self._send(theirs)

    def __enter__(self) -> _Jail:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fork(self, theirs: socket.socket) -> None:
        """A pupil, who listens at this socket."""
        socket.send_fds(self._socket, [b"F"], [theirs.fileno()])

    def end(self, word: bytes) -> str:
        """End the pupil and all it started; how it ended, in words."""
        try:
            self._socket.sendall(word)
            (status,) = struct.unpack(">i", self._socket.recv(4, socket.MSG_WAITALL))
        except (OSError, struct.error):
            self._socket.close()
            self._new()
            return "stopped: it ended the process that watches over it"
        return _ending(status)


def _environment(folder: str) -> dict[str, str]:
    """What a worker knows of the judge's environment: nothing but how to find its libraries."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return (
        kept
        | threads
        | {"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "USER": "student"}
    )


def _question(trial: Trial) -> dict:
    """A trial without what is wanted."""
    plain = asdict(trial)
    return {k: plain[k] for k in ("inputs", "grads", "build", "state", "dtype", "strided")}


def _read(answer: object) -> tuple[list[Reply], str]:
    """The replies, or the error, that a process answered with; it may have answered anything."""
    try:
        return [_reply(reply) for reply in answer.get("replies", ())], str(answer.get("error", ""))
    except (KeyError, TypeError, AttributeError, ValueError):
        return [], "an answer to the judge that is none"


def _reply(plain: dict) -> Reply:
    arrays = {str(k): v for k, v in plain["arrays"].items() if isinstance(v, np.ndarray)}
    failure, text, changed = plain["failure"], plain["text"], plain["changed"]
    if failure not in FAILURES:
        raise ValueError(failure)
    return Reply(arrays, failure, str(text)[:2_000], tuple(str(name)[:100] for name in changed))


def _stop(question: Question, why: str) -> Verdict:
    title = exercises()[question.id].title if question.id in exercises() else "no exercise"
    why = why.replace("\n", "\n      ")
    return Verdict(False, (f"[{question.id}] ✗ {title}", f"      {why}"))


def _ending(status: int) -> str:
    """How a process ended that gave no answer, in words."""
    if status == -1:
        return "the answer closed its connection to the check"
    if os.WIFEXITED(status):
        return f"the answer ended Python (exit code {os.WEXITSTATUS(status)})"
    number = os.WTERMSIG(status)
    reason = {
        signal.SIGXCPU: "its CPU time was over: an endless loop?",
        signal.SIGKILL: "it was killed; did it need too much memory?",
        signal.SIGSEGV: "Python crashed (segmentation fault)",
        signal.SIGABRT: "Python was aborted",
        signal.SIGXFSZ: "it wrote too much into a file",
    }
    return f"stopped: {reason.get(number, f'it ended by signal {number}')}"


@cache
def _odd() -> re.Pattern:
    # control characters, and those that turn or hide text
    return re.compile(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
    )


def clean(text: str) -> str:
    """A message fit for terminals, pages and tables: short lines, few of them, no control codes."""
    lines = [
        line if len(line) <= WIDTH else line[:WIDTH] + " ..." for line in _odd().sub("", text).split("\n")
    ]
    return "\n".join(lines if len(lines) <= LINES else [*lines[:LINES], "..."])
