"""Exercises 1.6, 1.7: AUC and GAUC."""

from __future__ import annotations

import numpy as np
import torch

from autograde_tests.exercise import Draw, Exercise, Trial

# --- 1.6 AUC -----------------------------------------------------------------------------------------------


def auc(scores, labels):
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative[None]).sum() + 0.5 * (positive[:, None] == negative[None]).sum()
    return wins / (len(positive) * len(negative))


def _pairs(s, y):
    return s[y == 1][:, None], s[y == 0][None]


def _rank_auc(s, y):
    ranks = torch.empty_like(s)
    for value in s.unique():
        ranks[s == value] = (s < value).sum() + ((s == value).sum() + 1) / 2
    p, n = (y == 1).sum(), (y == 0).sum()
    return (ranks[y == 1].sum() - p * (p + 1) / 2) / (p * n)


def _ordinal_auc(s, y):
    ranks = torch.empty(len(s))
    ranks[torch.sort(s, stable=True).indices.cpu()] = torch.arange(1, len(s) + 1, dtype=ranks.dtype)
    p, n = (y == 1).sum().item(), (y == 0).sum().item()
    return (ranks[(y == 1).cpu()].sum() - p * (p + 1) / 2) / (p * n)


def _without_ties(s, y):
    positive, negative = _pairs(s, y)
    won, lost = (positive > negative).sum(), (positive < negative).sum()
    return won / (won + lost)


def _trapezoid(s, y):
    points = [(0.0, 0.0)]
    for cut in s.unique().flip(0):
        points.append((((s >= cut) & (y == 0)).sum().item(), ((s >= cut) & (y == 1)).sum().item()))
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False))
    return area / points[-1][0] / points[-1][1]


def _average_precision(s, y):
    order = torch.argsort(s, descending=True, stable=True)
    hits = y[order]
    return (hits.cumsum(0) / torch.arange(1, len(s) + 1, device=s.device) * hits).sum() / hits.sum()


def _auc_draw(rng, B=None):
    B = B or int(rng.integers(9, 15))
    scores = rng.integers(-3, 4, B).astype(np.float32) / 4  # few values: many ties
    labels = (rng.random(B) < 0.4).astype(np.float32)
    scores[:5], labels[:5] = [0.5, 0.5, 0.75, -0.5, 0.5], [1, 0, 0, 1, 1]  # ties across classes, a wrong pair
    order = rng.permutation(B)
    return Draw({"scores": scores[order], "labels": labels[order]})


AUC = Exercise(
    id="1.6",
    title="AUC with ties",
    how="function",
    reference=auc,
    shape="()",
    example=Trial(
        "two positives, three negatives: 4 pairs won, 1 tied, 1 lost = 4.5 / 6 (worked by hand)",
        {
            "scores": np.array([0.9, 0.5, 0.5, 0.6, 0.1], np.float32),
            "labels": np.array([1, 1, 0, 0, 0], np.float32),
        },
        want={"out": np.array(0.75)},
    ),
    draw=_auc_draw,
    sizes={"random sizes": {}, "more rows": {"B": 60}, "few rows": {"B": 5}},
    mistakes={
        "a tie counts as lost. What is a coin flip between two equal scores worth?": (
            lambda s, y: (_pairs(s, y)[0] > _pairs(s, y)[1]).float().mean()
        ),
        "a tie counts as won. What is a coin flip between two equal scores worth?": (
            lambda s, y: (_pairs(s, y)[0] >= _pairs(s, y)[1]).float().mean()
        ),
        "the classes are swapped: a negative above a positive counts as won. Which one should stand above?": (
            lambda s, y: 1 - auc(s, y)
        ),
        "the won pairs are counted, not divided. How many pairs are there?": (
            lambda s, y: auc(s, y) * (y == 1).sum() * (y == 0).sum()
        ),
        "the won pairs are divided by all pairs of rows, also those of one class. Which pairs are compared?": (
            lambda s, y: auc(s, y) * (y == 1).sum() * (y == 0).sum() / len(y) ** 2
        ),
        "the labels are not used: every row is compared with every row, which always gives 1/2. "
        "Which pairs are compared?": lambda s, y: torch.tensor(0.5),
        "this is the accuracy at a threshold of 0.5. Does the AUC need a threshold?": (
            lambda s, y: ((s > 0.5) == (y == 1)).float().mean()
        ),
        "tied rows get different ranks, so the result depends on their order. Which rank should equal scores share?": (
            _ordinal_auc
        ),
        "this is the average precision. Does the AUC look at precision or at pairs?": _average_precision,
        "this is the share of positives above the mean score of the negatives. Is one mean enough to count pairs?": (
            lambda s, y: (s[y == 1] > s[y == 0].mean()).float().mean()
        ),
        "this is the difference of the two mean scores. Does the AUC change when all scores are doubled?": (
            lambda s, y: s[y == 1].mean() - s[y == 0].mean()
        ),
        "the AUC is stretched to -1 ... 1 (that is the Gini coefficient). What is the AUC of a coin?": (
            lambda s, y: 2 * auc(s, y) - 1
        ),
        "tied pairs are left out: won / (won + lost). How many pairs are there in all?": _without_ties,
        "the won pairs are divided by the number of rows. How many pairs do 3 positives and 4 negatives make?": (
            lambda s, y: auc(s, y) * (y == 1).sum() * (y == 0).sum() / len(y)
        ),
        "positives and negatives are compared one to one, without a new axis. With how many negatives does each "
        "positive make a pair?": lambda s, y: (s[y == 1] > s[y == 0]).float().mean(),
    },
    also_right=[
        _rank_auc,
        _trapezoid,
        lambda s, y: float(auc(s, y)),
        lambda s, y: ((torch.sign(_pairs(s, y)[0] - _pairs(s, y)[1]) + 1) / 2).mean(),
        lambda s, y: auc(s.double(), y.double()).item(),
    ],
)


# --- 1.7 GAUC ----------------------------------------------------------------------------------------------


def gauc(scores, labels, users):
    total, weight = 0.0, 0
    for user in users.unique():
        mine = users == user
        y = labels[mine]
        if 0 < y.sum() < len(y):
            total += len(y) * float(auc(scores[mine], y))
            weight += len(y)
    return total / weight


def _gauc_variant(weigh=len, one_class=None):
    """gauc with another weight per user, or with a value for users with one class."""

    def wrong(scores, labels, users):
        total = weight = 0.0
        for user in users.unique():
            mine = users == user
            s, y = scores[mine], labels[mine]
            kept = 0 < y.sum() < len(y)
            if not kept and one_class is None:
                continue
            total += float(weigh(y)) * (float(auc(s, y)) if kept else one_class)
            weight += float(weigh(y))
        return total / weight

    return wrong


def _kept(labels, users):
    """The rows of each user with both classes, as masks."""
    return [users == k for k in users.unique() if 0 < labels[users == k].sum() < (users == k).sum()]


def _last_weight(scores, labels, users):
    last = _kept(labels, users)[-1]
    return gauc(scores, labels, users) * sum(int(m.sum()) for m in _kept(labels, users)) / int(last.sum())


def _until_one_class(scores, labels, users):
    total = weight = 0.0
    for user in users.unique():
        mine = users == user
        y = labels[mine]
        if not 0 < y.sum() < len(y):
            break
        total += len(y) * float(auc(scores[mine], y))
        weight += len(y)
    return total / weight


def _gauc_draw(rng, U=None):
    U = U or int(rng.integers(4, 7))
    # two users with one class: 5, between the others' ids 0, 10, 20, ..., and the last one
    middle, last = 5, 10 * U
    users = np.concatenate([np.repeat(10 * np.arange(U), rng.integers(4, 9, U)), [middle] * 3, [last] * 2])
    scores = rng.integers(-4, 5, len(users)).astype(np.float32) / 4
    labels = (rng.random(len(users)) < 0.45).astype(np.float32)
    for u in range(U):
        labels[np.flatnonzero(users == 10 * u)[:2]] = 1, 0  # both classes
    first = np.flatnonzero(users == 0)
    labels[first[:4]], scores[first[:4]] = [1, 0, 0, 0], [0.5, -0.5, 0, 0.25]  # one perfect start
    labels[users == middle], labels[users == last] = 1, 0
    order = rng.permutation(len(users))
    return Draw({"scores": scores[order], "labels": labels[order], "users": users[order]})


GAUC = Exercise(
    id="1.7",
    title="GAUC: the AUC inside each user, weighted by rows",
    how="function",
    reference=gauc,
    shape="()",
    example=Trial(
        "user 1 has AUC 1 on 2 rows, user 2 has one class, user 3 has AUC 0 on 3 rows: (2*1 + 3*0) / 5 = 0.4",
        {
            "scores": np.array([0.9, 0.1, 0.5, 0.6, 0.8, 0.7, 0.2], np.float32),
            "labels": np.array([1, 0, 1, 1, 0, 0, 1], np.float32),
            "users": np.array([1, 1, 2, 2, 3, 3, 3]),
        },
        want={"out": np.array(0.4)},
    ),
    draw=_gauc_draw,
    sizes={"random sizes": {}, "more users": {"U": 12}, "one user with both classes": {"U": 1}},
    may_use=("mtlkit.metrics.auc", "mtlkit.metrics.UndefinedMetric"),
    mistakes={
        "every user weighs the same. Whose AUC is surer: that of 3 rows or of 300?": _gauc_variant(
            lambda y: 1
        ),
        "users with one class count with AUC 0.5. Is there a pair to compare for such a user?": _gauc_variant(
            one_class=0.5
        ),
        "users with one class are not left out: their AUC counts as 0, or their rows still stand in the divisor. "
        "Is there a pair to compare for such a user?": _gauc_variant(one_class=0.0),
        "users with one class count with AUC 1. Is there a pair to compare for such a user?": _gauc_variant(
            one_class=1.0
        ),
        "the weight is the number of negatives. Which number of the user does the text name?": _gauc_variant(
            lambda y: (y == 0).sum()
        ),
        "the weight is the number of positives. Which number of the user does the text name?": _gauc_variant(
            lambda y: (y == 1).sum()
        ),
        "the weight is the number of pairs. Which number of the user does the text name?": _gauc_variant(
            lambda y: (y == 1).sum() * (y == 0).sum()
        ),
        "this is the AUC over all rows: users are compared with each other. Which pairs does GAUC look at?": (
            lambda s, y, u: auc(s, y)
        ),
        "the AUCs are added up and not divided. What do the weights sum to?": (
            lambda s, y, u: (
                gauc(s, y, u)
                * sum((u == k).sum() for k in u.unique() if 0 < y[u == k].sum() < (u == k).sum())
            )
        ),
        "the AUCs are multiplied by their weights and divided by the number of users. What do the weights sum to?": (
            lambda s, y, u: (
                gauc(s, y, u)
                * sum((u == k).sum() for k in u.unique() if 0 < y[u == k].sum() < (u == k).sum())
                / len(u.unique())
            )
        ),
        "the loop ends (`break`) at the first user with one class. What should happen to the users after that one?": (
            _until_one_class
        ),
        "a user counts once per row: the loop runs over all rows. How often does each user stand in `users`?": (
            _gauc_variant(lambda y: len(y) ** 2)
        ),
        "only the last user's rows stand in the divisor: they are added after the loop. What do the weights sum to?": (
            _last_weight
        ),
    },
    also_right=[
        lambda s, y, u: torch.tensor(gauc(s, y, u)),
        lambda s, y, u: np.average(
            [float(_rank_auc(s[u == k], y[u == k])) for k in u.unique() if y[u == k].unique().numel() == 2],
            weights=[int((u == k).sum()) for k in u.unique() if y[u == k].unique().numel() == 2],
        ),
    ],
)
