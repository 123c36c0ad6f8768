"""How good are the predictions of one task: AUC, GAUC, log loss, MSE, R2 and the MTL gain.

Every argument is a column of n rows: a numpy array, a pandas Series (rows are paired by position,
not by index) or a torch tensor on any device. A label of NaN is unobserved and its row is dropped
before anything else is looked at. No metric ever returns NaN: what has no value raises
`UndefinedMetric`, and broken input raises a plain `ValueError`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "GAUC",
    "UndefinedMetric",
    "auc",
    "expected_auc",
    "expected_gauc",
    "gauc",
    "log_loss",
    "mse",
    "mtl_gain",
    "r2",
]

_Columns = tuple[np.ndarray, np.ndarray, np.ndarray | None]


class UndefinedMetric(ValueError):
    """The input is sound, but the metric has no value on it (say, AUC without a positive)."""


@dataclass(frozen=True)
class GAUC:
    """What `gauc` returns; ``float(result)`` is its value.

    Rows count observed labels only. ``users`` and ``rows`` were kept; ``skipped_users`` and
    ``skipped_rows`` belong to users with one class, for whom AUC is undefined.
    """

    value: float
    users: int
    rows: int
    skipped_users: int
    skipped_rows: int

    def __float__(self) -> float:
        return self.value


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: P(a random positive scores above a random negative), ties 1/2.

    ``scores`` (n,): any real numbers, logits or probabilities, +-inf allowed; compared in their
    own precision. ``labels`` (n,): 0, 1 or NaN. Returns a float in [0, 1]. The pairs are counted in
    integers (Mann-Whitney U), so the result is the exact ratio rounded once, for n < 2**31.

    Raises UndefinedMetric when one class is missing; ValueError on other labels, on a NaN score of
    an observed row, and on shapes that differ or are not (n,).
    """
    scores, positive, _ = _binary(scores, labels)
    n, positives = len(positive), int(np.count_nonzero(positive))
    if positives in (0, n):
        absent = "negatives" if positives else "positives"
        raise UndefinedMetric(f"AUC is undefined: 0 {absent} among {n} observed labels.")
    half_wins, _, _ = _count_pairs(scores, positive, None)
    return int(half_wins[0]) / (2 * positives * (n - positives))


def auc_error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC from the finite draw of the rows; infinite when one class is missing.

    Hanley and McNeil, Radiology 1982; for ``auc`` 0.5 it is that of a coin (Mann-Whitney).
    """
    if not positives * negatives:
        return math.inf
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return math.sqrt(variance / (positives * negatives))


def gauc(scores: ArrayLike, labels: ArrayLike, users: ArrayLike) -> GAUC:
    """AUC within each user, averaged with the user's number of logs as weight.

    GAUC = sum_u w_u AUC_u, w_u = #logs_u / sum_i #logs_i (HoME, section 4). The paper does not say
    what happens to a user with one class. Here such users are skipped and counted, and the weights
    are renormalised over the users that are kept; logs are rows with an observed label.

    ``scores`` and ``labels`` as in `auc`; ``users`` (n,): numbers or strings. One sort for
    all users: time O(n log n), about 75 bytes of working memory per row, n < 2**31.

    Raises UndefinedMetric when every user has one class; ValueError as `auc`, and when the user
    of an observed row is missing (NaN, None).
    """
    scores, positive, users = _binary(scores, labels, users)
    if not len(positive):
        raise UndefinedMetric("GAUC is undefined: there are 0 observed labels.")
    half_wins, positives, negatives = _count_pairs(scores, positive, _user_codes(users))
    both = (positives > 0) & (negatives > 0)
    kept, total = int(np.count_nonzero(both)), len(both)
    if not kept:
        raise UndefinedMetric(f"GAUC is undefined: each of the {total} users has only one class.")
    half_wins, positives, negatives = half_wins[both], positives[both], negatives[both]
    logs = positives + negatives
    rows = int(logs.sum())
    # fsum rounds once, so that the result does not depend on the order of rows or users
    value = math.fsum(logs * (half_wins / (2 * positives * negatives))) / rows
    return GAUC(value, kept, rows, total - kept, len(positive) - rows)


def expected_auc(scores: ArrayLike, probabilities: ArrayLike) -> float:
    """The AUC of ``scores`` (n,) over all labels that ``probabilities`` (n,) may draw, independently.

    E[pairs won] / E[pairs], a tie 1/2: P(s_i > s_j) where the pair (i, j) counts p_i (1 - p_j). It is free of
    the labels' luck, which moves the AUC of a rare task on few rows more than any model does. With the
    probabilities as scores it is the most that scores can reach (the Bayes AUC). O(n log n).

    A probability of NaN marks a row without a label. Raises UndefinedMetric where no draw has both classes;
    ValueError on a probability outside [0, 1], on NaN scores and on shapes that differ or are not (n,).
    """
    wins, pairs, _, _ = _expected_pairs(scores, probabilities, None)
    if not pairs[0] > 0:
        raise UndefinedMetric("The expected AUC is undefined: no labels of these rows can have both classes.")
    return float(wins[0] / pairs[0])


def expected_gauc(scores: ArrayLike, probabilities: ArrayLike, users: ArrayLike) -> float:
    """The expected AUC within each user, weighted with the logs that `gauc` would count.

    A user's weight is its number of rows times the chance that its labels have both classes. Within a user
    the ratio of expectations stands for the expectation of the ratio; over users likewise. For 50 rows a
    user the mean of `gauc` over drawn labels agrees within about 0.001. Arguments and errors as
    `expected_auc` and `gauc`.
    """
    wins, pairs, logs, both = _expected_pairs(scores, probabilities, users)
    kept = (pairs > 0) & (both > 0)
    if not kept.any():
        raise UndefinedMetric("The expected GAUC is undefined: no user can have both classes.")
    return float(np.average(wins[kept] / pairs[kept], weights=(logs * both)[kept]))


def log_loss(probabilities: ArrayLike, labels: ArrayLike, eps: float = 1e-7) -> float:
    """Mean binary cross-entropy in nats per observed label.

    ``probabilities`` (n,) in [0, 1], clipped to [eps, 1 - eps] and computed in float64;
    ``labels`` (n,): 0, 1 or NaN. The default eps is about the precision of float32: a wrong
    prediction that a float32 sigmoid rounded to 0 or 1 costs 16.1 nats instead of infinity.

    Raises UndefinedMetric without observed labels; ValueError on a probability outside [0, 1],
    on other labels and on shapes that differ or are not (n,).
    """
    probabilities, positive, _ = _binary(probabilities, labels, name="probabilities")
    if not len(positive):
        raise UndefinedMetric("Log loss is undefined: there are 0 observed labels.")
    p = probabilities.astype(np.float64)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(
            f"probabilities must lie in [0, 1], got {p.min():g} to {p.max():g}: "
            "if these are logits, apply the sigmoid first."
        )
    p = p.clip(eps, 1 - eps)
    return -float(np.log(np.where(positive, p, 1 - p)).mean())


def mse(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Mean squared error in squared units of the labels, computed in float64.

    ``predictions`` and ``labels`` (n,), labels finite or NaN. Raises UndefinedMetric without
    observed labels; ValueError on NaN predictions, infinite labels and shapes that differ.
    """
    predictions, labels = _real(predictions, labels, "MSE")
    return float(np.square(predictions - labels).mean())


def r2(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Coefficient of determination, 1 - sum (y - f)^2 / sum (y - mean y)^2; no unit, at most 1.

    Arguments and errors as `mse`; raises UndefinedMetric also when all observed labels are equal.
    """
    predictions, labels = _real(predictions, labels, "R2")
    spread = float(labels.max()) - float(labels.min())
    if spread == 0:
        raise UndefinedMetric(f"R2 is undefined: the {len(labels)} observed labels are all {labels[0]:g}.")
    # in units of the spread neither sum of squares underflows to 0
    residual = np.square((predictions - labels) / spread).sum()
    return 1 - float(residual / np.square((labels - labels.mean()) / spread).sum())


def mtl_gain(metric_mtl: float | GAUC, metric_single: float | GAUC, higher_is_better: bool = True) -> float:
    """What sharing bought one task, in units of the metric; positive is better.

    M_MTL - M_single where higher is better (AUC), M_single - M_MTL where lower is better (MSE);
    the single-task model has the same structure and samples (PLE, Tang et al. 2020, Eq. 11).
    """
    gain = float(metric_mtl) - float(metric_single)
    return gain if higher_is_better else -gain


def _count_pairs(
    scores: np.ndarray, positive: np.ndarray, codes: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per user, in integers (U,): 2 x pairs won (a tie is worth 1), positives, negatives.

    One uint64 key per row holds user (31 bits), score (32 bits) and label (1 bit). Sorting bare
    integers is many times faster than any argsort, and equal scores of a user become one run.
    """
    key = _score_codes(scores).astype(np.uint64)
    if codes is not None:
        key |= codes.astype(np.uint64) << np.uint64(32)
    key <<= np.uint64(1)
    key |= positive
    key.sort()
    label = (key & np.uint64(1)).astype(np.int64)
    key >>= np.uint64(1)
    run = _run_starts(key)
    pos = np.add.reduceat(label, run)  # positives per run, a run being one user and one score
    neg = np.diff(run, append=len(key)) - pos
    below = np.cumsum(neg) - neg  # negatives in all earlier runs, those of earlier users included
    half_wins = pos * (2 * below + neg)  # their sum is at most n^2 / 2: no overflow in int64
    user = _run_starts(key[run] >> np.uint64(32))
    before_user = below[user]
    half_wins, pos, neg = (np.add.reduceat(x, user) for x in (half_wins, pos, neg))
    return half_wins - 2 * pos * before_user, pos, neg


def _expected_pairs(
    scores: Any, probabilities: Any, users: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per user (U,): expected pairs won and pairs, rows, P(both classes among the labels)."""
    scores, p, users = _observed(scores, probabilities, users, other="probabilities")
    p = p.astype(np.float64)
    if len(p) and not (p.min() >= 0 and p.max() <= 1):
        raise ValueError(f"probabilities must lie in [0, 1], got {p.min():g} to {p.max():g}.")
    if not len(p):
        raise UndefinedMetric("There are 0 rows.")
    codes = np.zeros(len(p), dtype=np.int64) if users is None else _user_codes(users)
    order = np.lexsort((scores, codes))
    scores, p, codes = scores[order], p[order], codes[order]
    run = np.flatnonzero(np.r_[True, (scores[1:] != scores[:-1]) | (codes[1:] != codes[:-1])])
    user = _run_starts(codes)
    of_user = _run_starts(codes[run])  # the first run of each user
    pos, neg = np.add.reduceat(p, run), np.add.reduceat(1 - p, run)
    below = np.cumsum(neg) - neg
    below -= np.repeat(below[of_user], np.diff(of_user, append=len(run)))
    itself = np.add.reduceat(p * (1 - p), user)  # a row makes no pair with itself
    wins = np.add.reduceat(pos * (below + neg / 2), of_user) - itself / 2
    pairs = np.add.reduceat(p, user) * np.add.reduceat(1 - p, user) - itself
    with np.errstate(divide="ignore"):  # a sure label
        one_class = [np.exp(np.add.reduceat(np.log(q), user)) for q in (p, 1 - p)]
    return wins, pairs, np.diff(user, append=len(p)), np.clip(1 - sum(one_class), 0, 1)


def _run_starts(x: np.ndarray) -> np.ndarray:
    """Positions in a sorted, non-empty array where a new value begins."""
    return np.concatenate([[0], np.flatnonzero(x[1:] != x[:-1]) + 1])


def _score_codes(scores: np.ndarray) -> np.ndarray:
    """Integers below 2**32 in the order of the scores; equal scores get equal codes."""
    if scores.dtype.kind == "f":
        with np.errstate(over="ignore", under="ignore"):
            narrow = scores.astype(np.float32)
        if scores.dtype.itemsize <= 4 or np.array_equal(narrow, scores):
            bits = narrow.view(np.uint32)
            bits[bits == 0x8000_0000] = 0  # -0.0 ties with 0.0
            # IEEE floats order as sign-magnitude integers: flip all bits of a negative one, else
            # only the sign. Not by arithmetic, which could flush subnormals to zero.
            return bits ^ np.where(bits >> 31, np.uint32(0xFFFF_FFFF), np.uint32(0x8000_0000))
    return np.unique(scores, return_inverse=True)[1]  # more than 32 bits: dense ranks


def _user_codes(users: np.ndarray) -> np.ndarray:
    """Integers below 2**31, one for each distinct user."""
    if users.dtype.kind in "biu":
        low, high = int(users.min()), int(users.max())
        if high - low < 2**31 and high < 2**63:  # the codes need not be dense
            return users.astype(np.int64) - low
    try:
        if not (users != users).any():
            return np.unique(users, return_inverse=True)[1]
    except TypeError:  # None or pandas.NA among strings
        pass
    raise ValueError("users must be ids of one type, none missing where the label is observed.")


def _column(x: Any, name: str) -> np.ndarray:
    """One argument as an array; all but users as bool, integers or floats."""
    if hasattr(x, "detach"):  # a torch tensor, without importing torch
        x = x.detach().cpu()
        x = x.float() if str(x.dtype) == "torch.bfloat16" else x
    kind = getattr(getattr(x, "dtype", None), "kind", "")
    if name == "users":
        if kind == "O" and hasattr(x, "factorize"):  # pandas hashes strings faster than we sort
            x = x.factorize()[0]
            x = np.where(x < 0, np.nan, x) if (x < 0).any() else x
        return np.asarray(x)
    try:
        if kind and not isinstance(x.dtype, np.dtype):  # a nullable pandas column
            return x.to_numpy(np.float64, na_value=np.nan)
        x = np.asarray(x)
        return x if x.dtype.kind in "biuf" else x.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be real numbers, got dtype {x.dtype}.") from None


def _observed(
    scores: Any, labels: Any, users: Any = None, name: str = "scores", other: str = "labels"
) -> _Columns:
    """The columns as arrays of one length, without the rows whose label is NaN."""
    given = {name: scores, other: labels} | ({} if users is None else {"users": users})
    columns = {key: _column(x, key) for key, x in given.items()}
    shapes = [x.shape for x in columns.values()]
    if len(shapes[0]) != 1 or len(set(shapes)) > 1:
        got = ", ".join(map(str, shapes))
        raise ValueError(f"{', '.join(columns)} must be columns of one length (n,), got {got}.")
    if columns[other].dtype.kind == "f" and (drop := np.isnan(columns[other])).any():
        columns = {key: x[~drop] for key, x in columns.items()}
    scores = columns[name]
    if scores.dtype.kind == "f" and (bad := np.isnan(scores)).any():
        raise ValueError(f"{name} are NaN in {np.count_nonzero(bad)} of {len(bad)} observed rows.")
    return scores, columns[other], columns.get("users")


def _binary(scores: Any, labels: Any, users: Any = None, name: str = "scores") -> _Columns:
    """As `_observed`, with the labels as booleans."""
    scores, labels, users = _observed(scores, labels, users, name)
    positive = labels == 1
    if (bad := ~positive & (labels != 0)).any():
        raise ValueError(f"labels must be 0, 1 or NaN (unobserved), got {labels[bad][0]}.")
    return scores, positive, users


def _real(predictions: Any, labels: Any, metric: str) -> tuple[np.ndarray, np.ndarray]:
    predictions, labels, _ = _observed(predictions, labels, name="predictions")
    if not len(labels):
        raise UndefinedMetric(f"{metric} is undefined: there are 0 observed labels.")
    if np.isinf(labels).any():
        raise ValueError("labels must be finite or NaN (unobserved), got an infinite one.")
    return predictions.astype(np.float64), labels.astype(np.float64)
