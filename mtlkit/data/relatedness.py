"""Two regression tasks whose relatedness is a knob: the MMoE paper's synthetic data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtlkit.data.table import Table


def relatedness(
    cosine: float,
    *,
    rows: int = 10_000,
    dim: int = 100,
    scale: float = 1.0,
    waves: int = 10,
    alpha: Sequence[float] | None = None,
    beta: Sequence[float] | None = None,
    noise: float = 0.1,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> Table:
    """Draw the synthetic regression of Ma et al. (KDD 2018), section 3.2.

    With orthonormal u1, u2 of ``dim`` entries, p = ``cosine``, c = ``scale``, m = ``waves``::

        w1 = c u1,    w2 = c (p u1 + sqrt(1 - p^2) u2),    x ~ N(0, I)
        y_k = w_k.x + sum_i sin(alpha_i w_k.x + beta_i) + eps_k,    eps_k ~ N(0, noise^2)

    Both tasks share alpha and beta. The paper does not print c, m, alpha and beta; the defaults
    are the stand-ins of PLE (Tang et al., RecSys 2020): c = 1, m = 10, alpha, beta ~ N(0, 1).

    Parameters
    ----------
    cosine: cosine of the two weight vectors, in [-1, 1]: the paper's "task correlation". It is
        not the correlation of the labels, which is ``notes["label_correlation"]``.
    rows: number of rows N, of all splits together.
    dim: number of features D, at least 2.
    scale: length c of both weight vectors.
    waves: number of sines m; 0 leaves a linear regression.
    alpha, beta: (m,) frequencies and phases of the sines; drawn from ``seed`` where not given.
    noise: standard deviation of the label noise (the paper: variance 0.01).
    fractions: shares of train, validation and test, each at least 0, which sum to 1.
    seed: the same arguments and seed give the same bytes.

    Returns
    -------
    A table of tasks "task_1" and "task_2" (regression), ``dense`` (N, D) and no ids. ``notes``
    carries ``weight_cosine``, ``label_correlation`` (Pearson, over all rows), ``w1`` and ``w2``
    (D,), ``alpha`` and ``beta`` (m,), ``noise``.

    Raises ``ValueError`` with one sentence for arguments that make no data set.
    """
    _check(cosine, rows, dim, scale, waves, noise, fractions, seed)
    rng = np.random.default_rng(seed)
    # alpha and beta are drawn even where given: then giving them back changes nothing else.
    drawn = rng.standard_normal((2, waves))
    alpha = _wave_parameter("alpha", alpha, drawn[0])
    beta = _wave_parameter("beta", beta, drawn[1])

    u, _ = np.linalg.qr(rng.standard_normal((dim, 2)))  # (D, 2), orthonormal columns
    w1 = scale * u[:, 0]  # (D,)
    w2 = scale * (cosine * u[:, 0] + np.sqrt(1.0 - cosine**2) * u[:, 1])  # (D,)

    x = rng.standard_normal((rows, dim), dtype=np.float32)  # (N, D)
    labels = {}
    for task, w in (("task_1", w1), ("task_2", w2)):
        z = x @ w  # (N,)
        y = z + np.sin(z[:, None] * alpha + beta).sum(axis=1)
        labels[task] = (y + noise * rng.standard_normal(rows)).astype(np.float32)

    spread = min(y.std() for y in labels.values())
    pearson = np.corrcoef(labels["task_1"], labels["task_2"])[0, 1] if spread > 0 else np.nan
    return Table(
        ids=np.zeros((rows, 0), dtype=np.int32),
        dense=x,
        labels=labels,
        split=_splits(rows, fractions),
        dense_names=tuple(f"x{i}" for i in range(dim)),
        kinds=dict.fromkeys(labels, "regression"),
        notes={
            "weight_cosine": float(cosine),
            "label_correlation": float(pearson),
            "w1": w1,
            "w2": w2,
            "alpha": alpha,
            "beta": beta,
            "noise": float(noise),
        },
    )


def _check(
    cosine: float,
    rows: int,
    dim: int,
    scale: float,
    waves: int,
    noise: float,
    fractions: tuple[float, float, float],
    seed: int,
) -> None:
    whole = (("rows", rows, 1), ("dim", dim, 2), ("waves", waves, 0), ("seed", seed, 0))
    for name, value, least in whole:
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"relatedness: {name} must be a whole number >= {least}, got {value!r}.")
    if not -1.0 <= cosine <= 1.0:  # false for NaN too
        raise ValueError(f"relatedness: cosine must lie in [-1, 1], got {cosine!r}.")
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"relatedness: scale must be a positive number, got {scale!r}.")
    if not (np.isfinite(noise) and noise >= 0):
        raise ValueError(f"relatedness: noise must be a number >= 0, got {noise!r}.")
    good = len(fractions) == 3 and all(0 <= f <= 1 for f in fractions)
    if not good or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            "relatedness: fractions must be three shares (train, validation, test) that sum to 1, "
            f"got {fractions!r}."
        )


def _wave_parameter(name: str, given: Sequence[float] | None, drawn: np.ndarray) -> np.ndarray:
    """The given (m,) values as float64, or the drawn ones."""
    if given is None:
        return drawn
    values = np.asarray(given, dtype=np.float64)
    if values.shape != drawn.shape or not np.isfinite(values).all():
        raise ValueError(
            f"relatedness: {name} must be {len(drawn)} finite numbers, one for each wave; "
            f"got shape {values.shape}. Set waves={values.size} or leave {name} out."
        )
    return values


def _splits(rows: int, fractions: tuple[float, float, float]) -> np.ndarray:
    """(N,) int8 split index. Rows are independent draws, so consecutive blocks are random."""
    ends = np.rint(np.cumsum(fractions[:2]) * rows)
    return np.searchsorted(ends, np.arange(rows), side="right").astype(np.int8)
