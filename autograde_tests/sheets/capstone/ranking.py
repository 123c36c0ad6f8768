"""Exercises 5.4 and 5.5: one score from several predictions, and what a user finds at the top."""

from __future__ import annotations

import numpy as np
import torch

from autograde_tests.exercise import Draw, Exercise, Trial


def score(predictions, powers):
    return predictions.pow(powers).prod(dim=1)


def _score_loop(predictions, powers):
    total = torch.ones_like(predictions[:, 0])
    for t, power in enumerate(powers.tolist()):
        total = total * predictions[:, t] ** power
    return total


def _score_draw(rng, N=None, T=None):
    N, T = N or int(rng.integers(5, 10)), T or int(rng.integers(2, 5))
    return Draw(
        {
            "predictions": rng.uniform(0.1, 0.9, size=(N, T)).astype(np.float32),
            "powers": rng.uniform(0.3, 2.5, size=T).astype(np.float32),
        }
    )


SCORE = Exercise(
    id="5.4",
    title="one score from several predictions",
    how="function",
    reference=score,
    shape="(N,)",
    example=Trial(
        "two videos, powers 2 and 1: ½² · ½ = 0.125 and 1² · ¼ = 0.25 (worked by hand)",
        {
            "predictions": np.array([[0.5, 0.5], [1.0, 0.25]], np.float32),
            "powers": np.array([2.0, 1.0], np.float32),
        },
        grads=["predictions"],
        want={"out": np.array([0.125, 0.25])},
    ),
    draw=_score_draw,
    sizes={"random sizes": {}, "one video": {"N": 1}, "one task": {"T": 1}},
    grads=["predictions"],
    mistakes={
        "this is the weighted sum. What does Eq. 1 do with the predictions of two tasks?": (
            lambda p, w: (p * w).sum(1)
        ),
        "the predictions are multiplied by their numbers, not raised to them. Does such a number change any order?": (
            lambda p, w: (p * w).prod(1)
        ),
        "the powers are added, not multiplied. What does Eq. 1 do with the tasks?": lambda p, w: p.pow(w).sum(
            1
        ),
        "base and exponent have changed places. Which of the two is the prediction?": lambda p, w: w.pow(
            p
        ).prod(1),
        "the powers are not used. Which task counts more?": lambda p, w: p.prod(1),
        "this is the logarithm of the score. It ranks alike, but what is asked for?": (
            lambda p, w: (p.log() * w).sum(1)
        ),
        "the powers are scaled to sum to 1 first. Does Eq. 1 ask for that?": (
            lambda p, w: p.pow(w / w.sum()).prod(1)
        ),
        "a root is taken at the end, one over the number of tasks. Does Eq. 1 ask for a mean?": (
            lambda p, w: p.pow(w).prod(1).pow(1 / len(w))
        ),
        "a second sigmoid makes probabilities out of probabilities. What are the predictions already?": (
            lambda p, w: p.sigmoid().pow(w).prod(1)
        ),
        "the product runs over the videos. Which axis counts the tasks?": lambda p, w: p.pow(w).prod(0),
        "everything ends in one number. Which axis has to stay?": lambda p, w: p.pow(w).prod(),
        "the scores of all videos are scaled to sum to 1. What has one video to do with the others?": (
            lambda p, w: score(p, w) / score(p, w).sum()
        ),
        "the graph is cut by `.detach()`, `.item()` or `.numpy()`. Which of them do you need?": (
            lambda p, w: score(p.detach(), w)
        ),
    },
    also_right=[
        _score_loop,
        lambda p, w: (p.log() * w).sum(1).exp(),
        lambda p, w: torch.exp(torch.log(p) @ w),
    ],
)


def top_rates(scores, users, labels, k):
    rates = []
    for user in users.unique():
        mine = users == user
        best = scores[mine].argsort(descending=True)[:k]
        rates.append(labels[mine][best].mean(dim=0))
    return torch.stack(rates).mean(dim=0)


def _top(
    take=lambda s, y, k: s.argsort(descending=True)[:k],
    rate=lambda y, k: y.mean(0),
    mean=lambda r, n: r.mean(0),
):
    """top_rates with other rows of a user, another rate of these, or another mean over the users."""

    def answer(scores, users, labels, k):
        rates, sizes = [], []
        for user in users.unique():
            mine = users == user
            rows = take(scores[mine], labels[mine], k)
            rates.append(rate(labels[mine][rows], k))
            sizes.append(len(rows))
        return mean(torch.stack(rates), torch.tensor(sizes).to(labels))

    return answer


def _sorted_blocks(scores, users, labels, k):
    order = np.lexsort((-scores.numpy(), users.numpy()))
    by_user, first = np.unique(users.numpy()[order], return_index=True)
    place = np.arange(len(order)) - np.repeat(first, np.diff([*first, len(order)]))
    kept = order[place < k]
    total = [labels.numpy()[kept[users.numpy()[kept] == user]].mean(0) for user in by_user]
    return np.mean(total, axis=0)


def _top_draw(rng, U=None, T=None, k=None):
    U, T, k = U or int(rng.integers(4, 7)), T or int(rng.integers(2, 4)), k or int(rng.integers(2, 4))
    # one user has fewer rows than k, the others clearly more
    sizes = np.array([max(k - 1, 1), *rng.integers(k + 2, k + 7, size=U - 1)])
    users = rng.permutation(np.repeat(rng.permutation(50)[:U], sizes))
    N = len(users)
    labels = rng.random((N, T))  # any numbers: a mean of zeros and ones could agree by chance
    return Draw(
        {
            "scores": rng.permutation(N).astype(np.float32) + rng.random(N).astype(np.float32) / 2,
            "users": users,
            "labels": labels.astype(np.float32),
            "k": k,
        }
    )


TOP_K = Exercise(
    id="5.5",
    title="what users find at the top",
    how="function",
    reference=top_rates,
    shape="(T,)",
    example=Trial(
        "two users, k = 2: the top of user 7 has the rates 1 and ½, user 3 has one video: 0 and 1 (worked by hand)",
        {
            "scores": np.array([0.9, 0.2, 0.5, 0.4], np.float32),
            "users": np.array([7, 7, 3, 7]),
            "labels": np.array([[1, 0], [0, 0], [0, 1], [1, 1]], np.float32),
            "k": 2,
        },
        want={"out": np.array([0.5, 0.75])},
    ),
    draw=_top_draw,
    sizes={
        "random users": {},
        "many users": {"U": 12},
        "the best video alone": {"k": 1},
        "one task": {"T": 1},
    },
    real_valued=False,
    mistakes={
        "the k best rows of the whole log are taken. Who chooses among whose videos?": (
            lambda s, u, y, k: y[s.argsort(descending=True)[:k]].mean(0)
        ),
        "all rows count, and k is not used. Which rows does a user see at the top?": lambda s, u, y, k: (
            y.mean(0)
        ),
        "the lowest scores are taken. Which end of the order is the top?": _top(
            lambda s, y, k: s.argsort()[:k]
        ),
        "the first k rows of each user are taken as they come. What are the scores for?": _top(
            lambda s, y, k: torch.arange(min(k, len(s)))
        ),
        "only the row at place k counts. Which rows lie above it?": _top(
            lambda s, y, k: s.argsort(descending=True)[:k][-1:]
        ),
        "the top has one row too many. How many rows has `[: k + 1]`?": _top(
            lambda s, y, k: s.argsort(descending=True)[: k + 1]
        ),
        "the top has three rows, whatever k is. Which argument tells how many?": _top(
            lambda s, y, k: s.argsort(descending=True)[:3]
        ),
        "the rows are ordered by their labels. What does the app know before the user has seen the video?": _top(
            lambda s, y, k: y[:, 0].argsort(descending=True)[:k]
        ),
        "`argsort` gives places, and they are taken from the whole log, not from the user's rows. Of which tensor are "
        "they the places?": lambda s, u, y, k: torch.stack(
            [y[s[u == user].argsort(descending=True)[:k]].mean(0) for user in u.unique()]
        ).mean(0),
        "the labels are added up, not averaged. Should a longer top have a higher rate?": _top(
            rate=lambda y, k: y.sum(0)
        ),
        "every user is divided by k, also one with fewer videos. How many rows has the top of such a user?": _top(
            rate=lambda y, k: y.sum(0) / k
        ),
        "every row weighs the same, not every user. Who counts more then?": _top(
            mean=lambda r, n: (r * n[:, None]).sum(0) / n.sum()
        ),
        "users with fewer than k videos are left out. What does the text say about them?": _top(
            mean=lambda r, n: r[n == n.max()].mean(0)
        ),
        "the rates of the users are added up. What is the mean over users?": _top(mean=lambda r, n: r.sum(0)),
        "each user keeps a row of her own. Over which axis is there a mean still to take?": _top(
            mean=lambda r, n: r
        ),
        "the tasks end in one number. Which axis has to stay?": _top(mean=lambda r, n: r.mean()),
    },
    also_right=[
        _sorted_blocks,
        lambda s, u, y, k: torch.stack(
            [
                y[u == user][s[u == user].topk(min(k, int((u == user).sum()))).indices].mean(0)
                for user in u.unique()
            ]
        ).mean(0),
    ],
)
