"""Get official files: download, resume, verify, unpack, and keep parsed columns in a cache.

Nothing here knows a data set. Every failure is one sentence in a ``DataError``.
"""

from __future__ import annotations

import bz2
import fnmatch
import gzip
import hashlib
import io
import os
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pooch
from tqdm import tqdm

_UNREADABLE = (EOFError, OSError, zlib.error, zipfile.BadZipFile, tarfile.TarError)
_SUFFIXES = {"": None, ".gz": gzip.decompress, ".bz2": bz2.decompress}
_COUNT = "number of arrays"  # in a cache entry; a damaged directory may lose some


class DataError(ValueError):
    """A data file is missing, damaged or not what it should be; the message says what to do."""


def cache_folder(given: str | Path | None = None) -> Path:
    """Where parsed data lie: ``given``, else MTLKIT_CACHE, else the user's cache folder."""
    return Path(given or os.environ.get("MTLKIT_CACHE") or pooch.os_cache("mtlkit")).expanduser()


def sha256(data: bytes | Path) -> str:
    """Hex digest of bytes in memory, or of a file as it lies on the disk."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with open(data, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_folder(caller: str, path: str | Path | None, holds: str) -> tuple[Path, str] | None:
    """The folder of ``path``, else of MTLKIT_DATA, and how to name it to the user; None without either.

    Raises ``FileNotFoundError`` in the name of ``caller`` where it is no folder; it should hold ``holds``.
    """
    given = path if path is not None else os.environ.get("MTLKIT_DATA")
    if not given:
        return None
    folder = Path(given).expanduser()
    said = f"{folder} ({'path' if path is not None else 'MTLKIT_DATA'})"
    if not folder.is_dir():
        raise FileNotFoundError(f"{caller}: {said} is no folder; name the one with {holds}.")
    return folder, said


def find(folder: Path, name: str) -> Path | None:
    """``folder/name`` as it lies there: plain, .gz or .bz2 (in this order), or None."""
    candidates = (folder / f"{name}{suffix}" for suffix in _SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def find_all(folder: Path, pattern: str) -> dict[str, Path]:
    """The files of ``folder`` that fit a shell pattern, each as ``find`` finds it, by their plain names."""
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    plain = (name.removesuffix(suffix) for name in there for suffix in _SUFFIXES)
    return {name: find(folder, name) for name in plain if fnmatch.fnmatchcase(name, pattern)}


def read(path: Path) -> bytes:
    """The decompressed bytes of a plain, .gz or .bz2 file."""
    unpack = _SUFFIXES.get(path.suffix)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    if not raw:
        raise DataError(f"{path} is empty (0 bytes); copy or download it again.")
    try:
        # bz2 raises ValueError where the data stop before the end of the stream
        return unpack(raw) if unpack else raw
    except (*_UNREADABLE, ValueError) as error:
        raise DataError(
            f"{path} is truncated or damaged ({_line(error)}); copy or download it again."
        ) from error


def read_all(files: Mapping[str, Path]) -> dict[str, bytes]:
    """The decompressed bytes of several files, by name."""
    return {name: read(file) for name, file in files.items()}


def _line(error: BaseException) -> str:
    """The first line of a library's message, for use inside a sentence."""
    return str(error).partition("\n")[0].rstrip(":.")


def members(archive: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The named members' bytes of a .zip or a (compressed) tar, which may hold one another.

    Members are found by their last path part: archives get repacked under other folders. A name may be a
    shell pattern ("log_*.csv"), which must meet one member at least.
    """
    wanted = tuple(names)
    found: dict[str, bytes] = {}
    try:
        with open(archive, "rb") as file:
            _collect(file, wanted, found)
    except _UNREADABLE as error:
        raise DataError(f"{archive.name} is truncated or damaged ({_line(error)}).") from error
    if missing := sorted(name for name in wanted if not fnmatch.filter(found, name)):
        raise DataError(f"{archive.name} holds no {' and no '.join(missing)}.")
    return found


def _collect(file: BinaryIO, wanted: tuple[str, ...], found: dict[str, bytes]) -> None:
    def visit(path: str, content: Callable[[], bytes]) -> None:
        name = path.rsplit("/", 1)[-1]
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted):
            found[name] = content()
        elif name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2")):
            _collect(io.BytesIO(content()), wanted, found)

    packed = file.read(2) == b"PK"
    file.seek(0)
    if packed:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                visit(info.filename, lambda info=info: archive.read(info))
    else:
        with tarfile.open(fileobj=file, mode="r:*") as archive:
            for entry in archive:
                if entry.isfile():
                    visit(entry.name, lambda entry=entry: archive.extractfile(entry).read())


def download(url: str, folder: Path, *, known_hash: str | None = None, otherwise: str = "") -> Path:
    """Download ``url`` into ``folder`` (progress bar, resumed, atomic), or find it there.

    ``known_hash`` is pooch's form ("md5:...", "sha256:..."); None leaves the check to the caller.
    ``otherwise`` (", or ...") ends the error's sentence: what to do without a network.
    """
    import requests  # it costs import time that most sessions never need

    name = url.rsplit("/", 1)[-1].replace("+", "-")
    level = pooch.get_logger().level
    pooch.get_logger().setLevel("WARNING")  # it prints hashes that mean nothing to a student
    try:
        path = pooch.retrieve(url, known_hash, name, folder, downloader=_Resume(folder, name))
    except requests.RequestException as error:
        answer = getattr(error, "response", None)
        reason = type(error).__name__ if answer is None else f"the server answered {answer.status_code}"
        raise DataError(
            f"{url} could not be downloaded ({reason}); check the network and run it again, which "
            f"continues where it stopped{otherwise}."
        ) from error
    except OSError as error:
        raise DataError(f"{folder} cannot keep the download of {url} ({error}).") from error
    except ValueError as error:  # pooch: the hash differs; it has removed the file
        raise DataError(
            f"{url} arrived with another checksum than {known_hash}; it was removed; run it again{otherwise}."
        ) from error
    finally:
        pooch.get_logger().setLevel(level)
    return Path(path)


class _Resume:
    """A pooch downloader that keeps ``name.part`` after a broken transfer and goes on from it."""

    def __init__(self, folder: Path, name: str):
        self.part = folder / f"{name}.part"

    def __call__(self, url: str, output: str, pooch: object, check_only: bool = False) -> None:
        import requests

        have = self.part.stat().st_size if self.part.exists() else 0
        # identity: the lengths below must count the bytes of the file, not of a coding
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
            if answer.status_code == 416 and have:  # nothing lies beyond our bytes: start afresh
                self.part.unlink()
                return self(url, output, pooch)
            answer.raise_for_status()
            if answer.status_code != 206:
                have = 0
            total = have + int(answer.headers.get("Content-Length", 0))
            bar = tqdm(
                desc=self.part.stem,
                initial=have,
                total=total if total > have else None,
                unit="B",
                unit_scale=True,
                file=sys.stderr,
            )
            with bar, open(self.part, "ab" if have else "wb") as file:
                for chunk in answer.iter_content(1 << 13):
                    file.write(chunk)
                    bar.update(len(chunk))
        size = self.part.stat().st_size
        if total > have and size != total:
            raise requests.ConnectionError(f"{size} of {total} bytes arrived")
        os.replace(self.part, output)


def cached(entry: Path, build: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of ``entry`` (.npz), or ``build()``'s, which are then kept there.

    The entry appears whole or not at all: it is written beside its place and then renamed.
    An entry that cannot be read (damaged, from an older layout) is built again.
    """
    if entry.exists():
        # Whatever is wrong with an entry, the sources are still there; a damaged .npz raises
        # nearly anything. np.load checks every array's CRC and never unpickles here.
        with suppress(Exception), np.load(entry, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
            if arrays.pop(_COUNT) == len(arrays):
                return arrays
    arrays = build()
    temporary = entry.with_name(f"{entry.name}.{os.getpid()}.tmp")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, **arrays, **{_COUNT: np.array(len(arrays))})
        os.replace(temporary, entry)
    except OSError as error:  # a full disk or a read-only folder costs speed, not the data
        warnings.warn(
            f"The parsed data could not be kept in {entry.parent} ({error.strerror}), so the next "
            "load parses again; set MTLKIT_CACHE to a writable folder.",
            stacklevel=4,
        )
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return arrays
