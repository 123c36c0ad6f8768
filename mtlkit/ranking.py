"""One score to rank by, from the predictions of several tasks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd


def weighted_product(predictions: pd.DataFrame, powers: Mapping[str, float]) -> pd.Series:
    """The product of the tasks' predictions, each to its power.   (N, T) -> (N,)

    ``predictions`` as ``training.predict`` gives them, a column per task; ``powers`` names those that count.
    A task with power 2 counts twice; with a power below 0 it lowers the score. The paper multiplies by a
    function of the video's length, too: it predicts the share of a video that is watched.
    Source: PLE paper (Tang et al., RecSys 2020) Eq. 1.
    Raises ``ValueError`` for an unknown task, a prediction of NaN, and where a prediction has no power.
    """
    chosen = _chosen(predictions, powers)
    if (chosen < 0).to_numpy().any():
        task = chosen.columns[(chosen < 0).any()][0]
        raise ValueError(f"Task {task!r} predicts values below 0; a product of powers needs 0 or more.")
    if zero := [task for task, power in powers.items() if power < 0 and (chosen[task] == 0).any()]:
        raise ValueError(f"Task {zero[0]!r} predicts 0, which has no power below 0; add a small number.")
    # Eq. 1: score = p_VTR^w_VTR * p_VCR^w_VCR * ... * p_CMR^w_CMR
    return chosen.pow(pd.Series(powers)).prod(axis=1)


def weighted_sum(predictions: pd.DataFrame, weights: Mapping[str, float]) -> pd.Series:
    """The weighted sum of the tasks' predictions.   (N, T) -> (N,)

    The plain alternative to ``weighted_product``: a rare task hardly moves it unless its weight is large,
    and one task can make up for another, where a product asks for all.
    Raises ``ValueError`` for an unknown task or a prediction of NaN.
    """
    return _chosen(predictions, weights).mul(pd.Series(weights)).sum(axis=1)


def _chosen(predictions: pd.DataFrame, numbers: Mapping[str, float]) -> pd.DataFrame:
    unknown = [task for task in numbers if task not in predictions]
    if unknown:
        raise ValueError(f"No predictions of task {unknown[0]!r}; there are {', '.join(predictions)}.")
    if not numbers or not np.isfinite(list(numbers.values())).all():
        raise ValueError(f"Name at least one task, each with a finite number, not {dict(numbers)}.")
    chosen = predictions[list(numbers)]
    if (empty := chosen.isna().any(axis=1)).any():
        raise ValueError(
            f"{empty.sum()} of {len(chosen)} rows have a prediction of NaN; they cannot be ranked."
        )
    return chosen
