"""The worker: a process with torch loaded, which never held a reference, forks those that run answers.

judge -> nursery (``main``): a socket for a new jail. judge -> warden (the first process of a jail): a socket
for the next pupil, or the wish to end it. judge <-> pupil (runs the student's code): one job, an answer for
each exercise in it. What a pupil sends is arrays and words, which the judge weighs.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import importlib.machinery
import linecache
import os
import re
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from types import ModuleType

from autograde_tests.judge.jail import Jail, NoSandbox, adopt

TEXT = 2_000  # characters of an error that travel


def main(control: int) -> None:
    """Shut in, load, then open jails until the judge is gone."""
    jail, judge = Jail(), socket.socket(fileno=control)
    size = struct.unpack(">I", judge.recv(4))[0]  # no library yet: none may start a thread before
    hidden = [os.fsdecode(path) for path in judge.recv(size).split(b"\0") if path]
    missing = ""
    try:
        if hidden:
            jail.shut_in()
        _load()
        if hidden:
            jail.hide(hidden)
    except NoSandbox as reason:
        missing = str(reason)
    reply = missing.encode()
    judge.sendall(struct.pack(">I", len(reply)) + reply)
    adopt()
    while True:
        word, fds, *_ = socket.recv_fds(judge, 1, 1)
        if not word:
            return
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # wardens that are done
                pass
        jail.turn += 1
        _open_jail(jail, fds[0], judge)
        os.close(fds[0])


def _load() -> None:
    """What answers use and checks need; every fork has it for nothing."""
    import pandas  # noqa: F401
    import torch

    from autograde_tests import probe  # noqa: F401
    from autograde_tests.judge import wire  # noqa: F401

    x = torch.ones(2, 2, requires_grad=True)
    (x @ x).softmax(1).sum().backward()  # what torch sets up at its first use
    with torch.device("cpu"):  # likewise: it is imported when it is needed
        torch.nn.BatchNorm1d(2)(x)
    sys.meta_path.insert(0, FINDER)
    held = [n for n in sys.modules if n.startswith(("mtlkit.", "autograde_tests.sheets"))]
    if held != ["mtlkit.device"]:
        raise RuntimeError(f"the process that forks holds {held}")
    gc.collect()
    gc.freeze()  # forks share what the collector does not touch


def _open_jail(jail: Jail, fd: int, judge: socket.socket) -> None:
    """Fork the warden of one submission by way of a process that steps aside, so that its world is new."""
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return
    status = 1
    try:
        judge.close()
        jail.new_world()
        if os.fork():
            status = 0
        else:
            _guard(jail, socket.socket(fileno=fd))
    finally:
        os._exit(status)


def _guard(jail: Jail, judge: socket.socket) -> None:
    """The warden: one pupil after the other; nothing of one is left when the next begins."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a pupil cannot send it any other
    jail.settle()
    pupil = 0
    while True:
        word, fds, *_ = socket.recv_fds(judge, 1, 1)
        if word == b"F":  # fork
            pupil = os.fork()
            if not pupil:
                judge.close()
                _learn(jail, socket.socket(fileno=fds[0]))
            os.close(fds[0])
        elif word in (b"K", b"W"):  # kill; or it seems to have ended: see how
            status = jail.clear(pupil, patience=0.3 if word == b"W" else 0)
            judge.sendall(struct.pack(">i", status))
        else:  # the judge is done, or dead
            if pupil and not jail.shut:
                jail.clear(pupil)
            os._exit(0)


def _learn(jail: Jail, judge: socket.socket) -> None:
    """The pupil: receive a job, run the student's code with no privileges, answer, end."""
    from autograde_tests.judge import wire

    status = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        tempfile.tempdir = None
        job = wire.receive(judge)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        jail.lower(job["seconds"] * len(job["asks"]), job["memory"])
        for answer in _answers(job):
            wire.send(judge, answer)
        status = 0
    finally:
        os._exit(status)


# --- the pupil ---------------------------------------------------------------------------------------------


def _answers(job: dict) -> Iterator[dict]:
    """Run the cells and put the trials: {"replies": ...}, or {"error": text} where an answer did not run."""
    FINDER.parts = job["parts"]
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    main.display = lambda *_, **__: None  # as in a notebook
    stage = sys.modules["autograde_tests"]
    stage.check = stage.verdict = lambda *_, **__: None
    for number, source in enumerate(job["setup"]):
        with contextlib.suppress(Exception):  # a line about what is hidden
            _run(source, f"<setup {number}>", main)
    for ask in job["asks"]:
        yield _answer(ask, main, job["seconds"])


def _answer(ask: dict, main: ModuleType, seconds: float) -> dict:
    import torch

    from autograde_tests import probe

    end, error = time.monotonic() + seconds, ""
    with _alarm(seconds):
        for source in ask["cells"]:
            try:
                error = ""
                _run(source, f"<cell {len(linecache.cache)}>", main)
            except probe.Wrong as wrong:
                return {"replies": [_plain(probe.Reply(failure=wrong.failure, text=str(wrong)))]}
            except _Late:
                error = f"still ran after {seconds:.0f} seconds: an endless loop?"
                break
            except SyntaxError as wrong:
                line = (wrong.text or "").strip()
                error = f"SyntaxError: {wrong.msg}" + (f"\nin your line: {line}" if line else "")
            except BaseException as wrong:
                error = probe.own_line(wrong)
    if not hasattr(main, ask["name"]):
        return {"error": error[:TEXT]}
    probe.SECONDS = max(1.0, end - time.monotonic())
    trials = [probe.Trial("", **trial) for trial in ask["trials"]]
    answer = getattr(main, ask["name"])
    replies = probe.ask(answer, ask["how"], trials, torch.device("cpu"), ask["may_use"])
    return {"replies": [_plain(reply) for reply in replies]}


def _run(source: str, name: str, main: ModuleType) -> None:
    try:
        code = compile(source, name, "exec")
    except SyntaxError:  # lines for the notebook itself, as %matplotlib and !pip, say nothing here
        source = re.sub(r"^([ \t]*)[%!].*$", r"\1pass", source, flags=re.M)
        code = compile(source, name, "exec")
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    exec(code, vars(main))


def _plain(reply) -> dict:
    """A reply for the wire; arrays that are not plain numbers become a failure."""
    odd = [a.dtype for a in reply.arrays.values() if a.dtype.kind not in "biufU"]
    if odd:
        text = f"it returns numbers of the type {odd[0]}; real numbers are expected"
        return {"arrays": {}, "failure": "type", "text": text, "changed": []}
    arrays = {str(name)[:100]: value for name, value in reply.arrays.items()}
    return {
        "arrays": arrays,
        "failure": reply.failure,
        "text": reply.text[:TEXT],
        "changed": list(reply.changed),
    }


class _Late(BaseException):
    """A cell's time is over."""


@contextlib.contextmanager
def _alarm(seconds: float):
    def stop(*_):
        raise _Late

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# --- what answers find of mtlkit ---------------------------------------------------------------------------


class _Hidden:
    """Stands for a finished part of mtlkit, so that imports work. Any use of it is delegation."""

    def __init__(self, name: str) -> None:
        self.__dict__["name"] = name

    def __getattr__(self, part: str) -> _Hidden:
        if part.startswith("__"):
            raise AttributeError(part)
        return _Hidden(f"{self.name}.{part}")

    def __call__(self, *_: object, **__: object) -> None:
        from autograde_tests.probe import Wrong

        raise Wrong("delegated", self.name)

    __mro_entries__ = __enter__ = __iter__ = __getitem__ = __call__


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports of our packages: the parts that the job brings, and ``_Hidden`` for all others."""

    parts: dict[str, str] = {}  # module -> source

    def find_spec(self, name, path=None, target=None):
        if name.startswith(("mtlkit.", "autograde_tests.")):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if name in self.parts:
            exec(compile(self.parts[name], f"<{name}>", "exec"), vars(module))
            return

        def hidden(part: str) -> _Hidden:
            if part.startswith("__"):
                raise AttributeError(part)
            return _Hidden(f"{name}.{part}")

        module.__getattr__ = hidden


FINDER = _Finder()
