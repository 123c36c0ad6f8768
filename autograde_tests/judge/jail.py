"""What a submission may see and use: namespaces where the system has them, limits everywhere.

``Jail`` takes three steps: ``shut_in`` and ``hide`` for the process that forks (no network, nothing but
Python to see), ``new_world`` and ``settle`` for each submission (its own process numbers, its own empty
/tmp), ``lower`` for each process that runs a student's code (limits, no privileges). Where the first step
is not taken, the limits alone hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
_NEWPID, _NEWNET = 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(platform.machine())  # glibc has no names for these two
_MOUNT_SETATTR = 442  # Linux 5.12, the same number on every machine
_DUMPABLE, _CAPBSET_DROP, _SUBREAPER, _NO_NEW_PRIVS = 4, 24, 36, 38
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_UIDS = range(64_000, 65_000)  # where root grades: users who own nothing, a new one for each jail
DISK, PROCESSES = 64 * 2**20, 64  # bytes in /tmp and in one file; processes and threads


class NoSandbox(Exception):
    """This system does not let a process be shut in; the message says what is missing."""


def _call(name: str, *arguments: object) -> int:
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    _call("mount", words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])


class Jail:
    """The three steps, and what they know: whether the sandbox stands, and as which user."""

    def __init__(self) -> None:
        self.shut = False
        self._root = hasattr(os, "geteuid") and os.geteuid() == 0
        self._proc = -1
        self._below_tmp: list[str] = []  # parts of Python there, which the empty /tmp must not cover
        self.turn = 0  # how many jails there were

    # --- once -------------------------------------------------------------------------------------------

    def shut_in(self) -> None:
        """Cut this process off from the network and from others, before a library starts threads.

        Raises ``NoSandbox``.
        """
        if not sys.platform.startswith("linux"):
            raise NoSandbox(f"{platform.system()} has no namespaces")
        if _PIVOT_ROOT is None:
            raise NoSandbox(f"the sandbox is not made for {platform.machine()} machines")
        spaces = _NEWNS | _NEWNET | _NEWIPC | _NEWUTS
        try:
            self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
            self._unshare(spaces)
        except OSError as error:
            raise NoSandbox(f"namespaces are not permitted here ({error.strerror or error})") from None
        with contextlib.suppress(OSError):  # short of memory, the system ends a submission first
            self._write("oom_score_adj", "1000")

    def _unshare(self, spaces: int) -> None:
        """New namespaces: as root directly, else (or where root may not) in a new user namespace."""
        if self._root:
            try:
                _call("unshare", spaces)
                return
            except PermissionError:
                self._root = False
        ids = os.getuid(), os.getgid()
        _call("unshare", spaces | _NEWUSER)
        self._write("setgroups", "deny")
        self._write("uid_map", f"{ids[0]} {ids[0]} 1")
        self._write("gid_map", f"{ids[1]} {ids[1]} 1")

    def _write(self, name: str, text: str) -> None:
        fd = os.open(f"self/{name}", os.O_WRONLY, dir_fd=self._proc)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def hide(self, hidden: Sequence[str]) -> None:
        """Leave a read-only view of Python's own folders. hidden: what to cover should it lie inside these.

        Raises ``NoSandbox``.
        """
        try:
            self._new_root(hidden)
        except OSError as error:
            raise NoSandbox(f"no read-only view of the system can be made here ({error})") from None
        self.shut = True

    def _new_root(self, hidden: Sequence[str]) -> None:
        shown = [*_SYSTEM, sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix]
        shown += [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        shown = [path for path in shown if os.path.exists(path)]
        shown += [os.path.realpath(path) for path in shown if not os.path.islink(path)]
        _mount("none", "/", None, _REC | _PRIVATE)
        # opened first: what lies below /tmp is out of reach once the new root stands there
        opened = {path: os.open(path, os.O_PATH) for path in {*shown, *_DEVICES, "/proc"}}
        top = "/tmp"
        _mount("tmpfs", top, "tmpfs", _NOSUID | _NODEV, "mode=755,size=1m")
        for path in ("/proc", "/tmp", *_DEVICES):
            self._place(top + path, os.path.isdir(path))
        state: dict[str, bool] = {}  # path -> shown or covered
        links: set[str] = set()
        covers = {os.path.realpath(path) for path in hidden} | set(hidden)
        for path in sorted({*shown, *covers}, key=lambda p: (p.count("/"), p)):
            above = next((str(p) for p in Path(path).parents if str(p) in state), None)
            visible = above is not None and state[above]
            if path in covers:
                if visible and os.path.isdir(top + path):
                    _mount("tmpfs", top + path, "tmpfs", _NOSUID | _NODEV, "mode=755,size=1m")
                state[path] = False
            elif not links.isdisjoint(map(str, Path(path).parents)):
                continue  # what the link leads to is shown by its real path
            elif os.path.islink(path):
                if not visible:
                    os.makedirs(os.path.dirname(top + path), exist_ok=True)
                    os.symlink(os.readlink(path), top + path)
                    links.add(path)
            elif not visible:
                self._place(top + path, os.path.isdir(f"/proc/self/fd/{opened[path]}"))
                _mount(f"/proc/self/fd/{opened[path]}", top + path, None, _BIND | _REC)
                state[path] = True
                self._below_tmp += [path] if path.startswith("/tmp/") else []
        read_only = struct.pack("QQQQ", _RDONLY | _NOSUID | _NODEV, 0, 0, 0)
        recursive = 0x8000
        _call("syscall", _MOUNT_SETATTR, -100, os.fsencode(top), recursive, read_only, len(read_only))
        for path in (*_DEVICES, "/proc"):
            _mount(f"/proc/self/fd/{opened[path]}", top + path, None, _BIND | _REC)
        for fd in opened.values():
            os.close(fd)
        os.chdir(top)
        _call("syscall", _PIVOT_ROOT, b".", b".")
        _call("umount2", b".", 2)  # the old system, for good
        os.chdir("/")

    @staticmethod
    def _place(path: str, folder: bool) -> None:
        """Something to mount on."""
        os.makedirs(path if folder else os.path.dirname(path), exist_ok=True)
        if not folder:
            Path(path).touch()

    # --- once per submission ----------------------------------------------------------------------------

    def new_world(self) -> None:
        """The next child of this process, and its children, are alone. It calls ``settle``."""
        if self.shut:
            self._unshare(_NEWPID | _NEWNS | _NEWIPC | _NEWNET)

    def settle(self) -> None:
        """In the first process of the new world: nobody looks into it, and what it starts ends with it."""
        if not self.shut:
            os.setsid()
            adopt()  # what a pupil leaves behind comes to this process, which ends it
            return
        _call("prctl", _DUMPABLE, 0, 0, 0, 0)
        os.close(self._proc)
        try:
            _mount("proc", "/proc", "proc", _RDONLY | _NOSUID | _NODEV | _NOEXEC)
        except OSError:  # where a container hides parts of it, there is none
            _mount("tmpfs", "/proc", "tmpfs", _RDONLY)
        self._empty_tmp()

    def _empty_tmp(self) -> None:
        opened = {path: os.open(path, os.O_PATH) for path in self._below_tmp}
        _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, f"mode=1777,size={DISK},nr_inodes=1000")
        for path, fd in opened.items():
            self._place(path, os.path.isdir(f"/proc/self/fd/{fd}"))
            with contextlib.suppress(OSError):  # without /proc: what is loaded already has to do
                _mount(f"/proc/self/fd/{fd}", path, None, _BIND | _REC)
            os.close(fd)

    def clear(self, child: int, patience: float = 0) -> int:
        """End the child and everything it started; empty /tmp. Returns the child's wait status.

        The status is -1 where the child did not end by itself, within ``patience`` seconds.
        """
        end, ended, status = time.monotonic() + patience, 0, -1
        while not ended:
            ended, found = os.waitpid(child, os.WNOHANG)
            status = found if ended else -1
            if time.monotonic() > end:
                break
            time.sleep(0.002)
        if self.shut:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # from the first process of a world: all others in it
        else:
            _kill_family(child)
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
            if not self.shut:
                _kill_family(child)
        if self.shut:
            _call("umount2", b"/tmp", 2)
            self._empty_tmp()
        return status

    # --- once per exercise ------------------------------------------------------------------------------

    def lower(self, seconds: float, memory: int) -> None:
        """Limits and no privileges, for the process that runs a student's code.

        seconds: of CPU time, per process. memory: bytes on top of what the process has already, per process.
        """
        import resource  # not on Windows

        def limit(name: str, value: int) -> None:
            with contextlib.suppress(ValueError, OSError, AttributeError):  # what the platform has not
                resource.setrlimit(getattr(resource, name), (value, value))

        used = 0
        with contextlib.suppress(OSError):
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit("RLIMIT_AS", memory + (used or 64 * 2**30))
        limit("RLIMIT_CPU", int(seconds) + 2)
        limit("RLIMIT_FSIZE", DISK)
        limit("RLIMIT_CORE", 0)
        limit("RLIMIT_NOFILE", 256)
        limit("RLIMIT_NPROC", PROCESSES + (0 if self.shut else _tasks()))
        os.umask(0o077)
        if not self.shut:
            os.setpgid(0, 0)
            return
        os.chdir("/tmp")
        for capability in range(64):
            with contextlib.suppress(OSError):
                _call("prctl", _CAPBSET_DROP, capability, 0, 0, 0)
        if self._root:
            uid = _UIDS[self.turn % len(_UIDS)]
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        none = struct.pack("IIIIII", 0, 0, 0, 0, 0, 0)
        _call("capset", struct.pack("Ii", 0x20080522, 0), none)
        _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)


def adopt() -> None:
    """Orphans among this process's descendants become its children (Linux), not the system's."""
    if sys.platform.startswith("linux"):
        _call("prctl", _SUBREAPER, 1, 0, 0, 0)


def _tasks() -> int:
    """Processes and threads of this user: the limit counts them too."""
    count = 0
    for entry in os.scandir("/proc") if os.path.isdir("/proc/self/task") else ():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                count += len(os.listdir(f"{entry.path}/task"))
    return count or 1000


def _kill_family(child: int) -> None:
    """Without a sandbox: the child's process group, and (Linux) all that descends from this process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    family, seen = _children(os.getpid()), set()
    while family:
        pid = family.pop()
        if pid not in seen:
            seen.add(pid)
            family += _children(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    try:
        return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
