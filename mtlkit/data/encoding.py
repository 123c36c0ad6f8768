"""Lines of users, videos and the like become columns of a table; only training rows decide how."""

from __future__ import annotations

import numpy as np

_BLOCK = 4096


def encode(codes: np.ndarray, weight: np.ndarray, least: int) -> tuple[np.ndarray, list[int]]:
    """Ids (M, C) int32 from codes (M, C), and C sizes: 1, 2, ... for codes with enough training rows, else 0.

    ``weight`` (M,) tells how many training rows each line stands for; a code of -1 is missing.
    """
    ids, sizes = np.empty(codes.shape, dtype=np.int32), []
    for c in range(codes.shape[1]):
        kept = np.bincount(codes[:, c] + 1, weights=weight) >= least
        kept[0] = False
        ids[:, c] = np.where(kept, np.cumsum(kept), 0)[codes[:, c] + 1]
        sizes.append(int(kept.sum()) + 1)
    return ids, sizes


def scaled(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x (M, K) as float32: zero mean and unit variance over the training rows where known; 0 where missing.

    ``weight`` (M,) tells how many training rows each line stands for.
    """
    out = np.empty(x.shape, dtype=np.float32)
    for k, column in enumerate(x.T):
        known = ~np.isnan(column)
        rows = weight * known
        total = max(rows.sum(), 1)
        mean = rows @ np.where(known, column, 0.0) / total
        centred = np.where(known, column - mean, 0.0)
        sd = np.sqrt(rows @ centred**2 / total)
        # a constant column has the rounding of its mean as spread
        out[:, k] = centred / (sd if sd > 1e-9 else 1.0)
    return out


def picked(parts: dict[str, np.ndarray], columns: dict[str, np.ndarray]) -> np.ndarray:
    """(N, K) from parts: (M, k) lines for the values of the column of that name, or (N, k) without one."""
    (name, first), *others = parts.items()
    width = first.shape[1]
    # the lines of the first and widest part leave room for the others, so that it is copied once only
    wide = np.zeros((len(first), sum(part.shape[1] for part in parts.values())), dtype=first.dtype)
    wide[:, :width] = first
    out = np.empty((len(columns[name]), wide.shape[1]), dtype=first.dtype)
    # blocks stay in the processor's cache until all parts are in: one pass over memory, not five
    for begin in range(0, len(out), _BLOCK):
        rows = slice(begin, begin + _BLOCK)
        block, end = out[rows], width
        np.take(wide, columns[name][rows], axis=0, out=block, mode="clip")  # "raise" would buffer
        for other, part in others:
            index = columns[other][rows] if other in columns else rows
            for column in part.T if part.shape[1] == 1 else (part,):
                block[:, end : end + part.shape[1]] = column[index].reshape(len(block), -1)
            end += part.shape[1]
    return out
