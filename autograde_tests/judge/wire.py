"""Messages between judge and worker: plain trees with plain arrays, of bounded size. Never a pickle.

A message is 8 bytes of length, 4 bytes of header length, a header in JSON, and the bytes of the arrays. The
reader trusts nothing: numbers of bytes must fit, types of arrays must be plain numbers or flags.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time

import numpy as np

LIMIT = 32 * 2**20  # bytes of one message; a check's replies take a few thousand
_PLAIN = "biuf"  # flags, whole numbers, floats


class WireError(Exception):
    """The other side is gone, or what it sent is not a message."""


def send(sock: socket.socket, tree: object) -> None:
    """Send one message. Raises ``WireError`` where nobody listens, ``TypeError`` for what is not plain."""
    data = pack(tree)
    if len(data) > LIMIT:
        raise WireError(f"a message of {len(data):,} bytes; {LIMIT:,} at most")
    try:
        sock.sendall(struct.pack(">Q", len(data)) + data)
    except OSError as error:
        raise WireError(f"the other side does not listen: {error}") from None


def receive(sock: socket.socket, seconds: float | None = None) -> object:
    """The next message. Raises ``TimeoutError`` after ``seconds`` in all, ``WireError`` for no message."""
    end = None if seconds is None else time.monotonic() + seconds
    (size,) = struct.unpack(">Q", _exactly(sock, 8, end))
    if size > LIMIT:
        raise WireError(f"a message of {size:,} bytes; {LIMIT:,} at most")
    return unpack(_exactly(sock, size, end))


def _exactly(sock: socket.socket, size: int, end: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        if end is not None:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
        try:
            part = sock.recv(min(size - len(data), 2**20))
        except TimeoutError:
            raise
        except OSError as error:
            raise WireError(str(error)) from None
        if not part:
            raise WireError("it ended without an answer")
        data += part
    return bytes(data)


def pack(tree: object) -> bytes:
    """Dictionaries, lists, strings, numbers, None and numpy arrays as bytes."""
    arrays: list[np.ndarray] = []
    plain = _plain(tree, arrays)
    shapes = [[a.dtype.str, list(a.shape)] for a in arrays]
    header = json.dumps([plain, shapes]).encode()
    return b"".join([struct.pack(">I", len(header)), header, *(a.tobytes() for a in arrays)])


def _plain(value: object, arrays: list[np.ndarray]) -> object:
    if isinstance(value, np.ndarray | np.generic):
        value = np.asarray(value)
        if value.dtype.kind == "U":
            return {"#text": value.ravel().tolist(), "shape": list(value.shape)}
        if value.dtype.kind not in _PLAIN:
            raise TypeError(f"an array of type {value.dtype} is not plain numbers")
        arrays.append(value)
        return {"#": len(arrays) - 1}
    if isinstance(value, dict):
        return {str(key): _plain(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, arrays) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is not plain data")


def unpack(data: bytes) -> object:
    """The tree that ``pack`` made bytes of; raises ``WireError`` for any other bytes."""
    try:
        (size,) = struct.unpack_from(">I", data)
        plain, shapes = json.loads(data[4 : 4 + size])
        arrays, at = [], 4 + size
        for name, shape in shapes:
            dtype = np.dtype(str(name))
            if dtype.kind not in _PLAIN or not all(type(n) is int and n >= 0 for n in shape):
                raise ValueError(f"an array {name} {shape}")
            count = math.prod(shape)
            if count * dtype.itemsize > len(data) - at:
                raise ValueError("an array is longer than the message")
            arrays.append(np.frombuffer(data, dtype, count, at).reshape(shape))
            at += count * dtype.itemsize
        return _tree(plain, arrays)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, struct.error) as error:
        raise WireError(f"not a message: {error}") from None


def _tree(plain: object, arrays: list[np.ndarray]) -> object:
    if isinstance(plain, list):
        return [_tree(item, arrays) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if plain.keys() == {"#"} and type(plain["#"]) is int:
        return arrays[plain["#"]]
    if plain.keys() == {"#text", "shape"}:
        return np.array([str(text) for text in plain["#text"]], dtype=str).reshape(plain["shape"])
    return {key: _tree(item, arrays) for key, item in plain.items()}
