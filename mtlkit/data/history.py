"""What was known before each row of a log: counts and past outcomes of a user, a video, an author."""

from __future__ import annotations

import numpy as np


def past(
    entity: np.ndarray, time: np.ndarray, outcomes: np.ndarray, asked: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Count the rows of the same entity at strictly earlier times, and sum up their outcomes.

    Letters: N rows, K outcomes. Rows of one entity with equal times do not see each other, so neither does
    a row see its own outcome, nor a copy of the row that of the original.

    Parameters
    ----------
    entity: (N,) whole numbers >= 0, say a user's index. The rows need no order.
    time: (N,) whole numbers, say milliseconds.
    outcomes: (N, K) whole numbers, say 0 or 1.
    asked: (N,) an earlier time for each row to look back from; without it, the row's own.

    Returns
    -------
    count (N,) int64 and sums (N, K) int64.

    Raises ``ValueError`` for other lengths or types and where ``asked`` lies after a row's time, and
    ``OverflowError`` where entities times the span of the times do not fit into 63 bits.
    """
    if not len(entity) == len(time) == len(outcomes) == len(time if asked is None else asked):
        raise ValueError("past: entity, time, outcomes and asked must have one length.")
    if outcomes.dtype.kind not in "biu":
        raise ValueError(f"past: outcomes must be whole numbers, got {outcomes.dtype}.")
    if not len(time):
        return np.zeros(0, dtype=np.int64), np.zeros(outcomes.shape, dtype=np.int64)
    begin = int(time.min())
    span = int(time.max()) - begin + 1
    if (int(entity.max()) + 1) * span >= 2**63:
        raise OverflowError(
            f"past: entities up to {entity.max()} over a time of {span} do not fit into 63 bits; number the "
            "entities from 0 on or give coarser times."
        )
    # one number that sorts by entity, then by time; within an entity, its place counts the rows before
    first = entity.astype(np.int64) * span - begin
    key = first + time
    order = np.argsort(key)
    ordered = key[order]
    if asked is not None:
        if (asked > time).any():
            raise ValueError("past: asked must not lie after time, or a row would see its own outcome.")
        key = first + np.maximum(asked, begin)
    until = np.searchsorted(ordered, key[order])  # ordered questions: neighbours in memory
    since = np.searchsorted(ordered, (first + begin)[order])
    sums = np.zeros((len(key) + 1, outcomes.shape[1]), dtype=np.int64)
    np.cumsum(outcomes[order], axis=0, out=sums[1:])
    count, before = np.empty(len(key), dtype=np.int64), np.empty(outcomes.shape, dtype=np.int64)
    count[order] = until - since
    before[order] = sums[until] - sums[since]
    return count, before
