"""A made log of a short-video app: two groups of tasks, rates from 44 % to 0.1 %, the true chances known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mtlkit.data.encoding import encode, picked, scaled
from mtlkit.data.table import Table

WATCH, INTERACTION = "watch", "interaction"


class Task(NamedTuple):
    """A task's category, positive rate, and what its log-odds take of each cause (causes have sd 1)."""

    category: str
    rate: float
    interest: float
    quality: float
    habit: float
    patience: float
    length: float
    bait: float
    dispute: float
    own: float = 0.25


# Fixed before any mixture of experts was trained on it, and not changed for any. The number of tastes and
# how much the inputs reveal were set with SharedBottom and logistic regression alone, so that a network
# reaches most of the ceiling on 250,000 rows and a linear model does not.
# Rates: KuaiRand-Pure, standard log of 2022-04-25 to 05-08; effective_view is its is_click (a play of 7 s or
# to the end), complete_view its share of rows with play_time_ms >= duration_ms. Click is 100 times as
# frequent as a task of 0.1 %: the spread that the HoME paper (Wang et al., KDD 2025) states for its tasks.
# Causes: an interest in the video, most of the log-odds, is in part common to both categories (argument
# ``shared``). Where the categories pull apart (argument ``conflict``): bait, a title that promises more than
# the video holds, brings clicks and ends views; a video in dispute brings comments and costs likes.
# The sizes make Bayes AUCs of about 0.79 (watch) to 0.86: a little above what logistic regression reaches on
# KuaiRand (0.73 for click and long view, 0.79 for like, 0.84 for follow).
TASKS = {
    #                      category     rate     interest qual. habit pat.  length bait  dispute
    "effective_view": Task(WATCH, 0.442, 0.8, 0.25, 0.5, 0.3, 0.0, -0.5, 0.0),
    "long_view": Task(WATCH, 0.311, 0.8, 0.30, 0.5, 0.4, 0.2, -0.7, 0.0),
    "complete_view": Task(WATCH, 0.139, 0.8, 0.30, 0.4, 0.4, -0.7, -0.5, 0.0),
    "click": Task(INTERACTION, 0.1, 0.7, 0.10, 0.5, 0.0, 0.1, 0.7, 0.2),
    "profile_enter": Task(INTERACTION, 0.0185, 0.8, 0.20, 0.7, 0.0, 0.0, 0.2, 0.0),
    "like": Task(INTERACTION, 0.0172, 0.8, 0.40, 0.8, 0.1, 0.0, -0.2, -0.4),
    "comment": Task(INTERACTION, 0.0025, 0.7, 0.20, 0.9, 0.1, 0.1, 0.1, 0.7),
    "follow": Task(INTERACTION, 0.0013, 0.9, 0.50, 0.8, 0.0, 0.0, -0.4, -0.3),
    "forward": Task(INTERACTION, 0.00085, 0.7, 0.50, 0.8, 0.0, -0.1, -0.1, 0.3),
}
# KuaiRand's tabs 1, 0, 4, 6, 2 and all others: share of the rows, rate of is_click and of is_like
_TABS = np.array(
    [
        (0.758, 0.498, 0.0190),
        (0.087, 0.084, 0.0040),
        (0.061, 0.596, 0.0185),
        (0.050, 0.149, 0.0077),
        (0.030, 0.485, 0.0163),
        (0.014, 0.200, 0.0060),
    ]
)
# Median and sd of the logarithm, as in KuaiRand's log and user file; below: the longest tail of each
_COUNTS = {
    "past_views": (300.0, 0.94),
    "following": (155.0, 1.41),
    "fans": (48.0, 2.28),
    "duration_s": (72.0, 1.09),
    "past_plays": (3000.0, 1.54),
    "author_fans": (5000.0, 2.28),
}
_TOPICS = 24
_TASTES = 2  # per kind of interest: common, watch, interaction
_BLOCK = 2**16


def short_video(
    rows: int = 250_000,
    *,
    users: int | None = None,
    videos: int | None = None,
    days: tuple[int, int, int] = (9, 2, 3),
    shared: float = 0.5,
    conflict: float = 1.0,
    revealed: float = 0.95,
    raw_counts: bool = False,
    seed: int = 0,
) -> Table:
    """Draw the log of a short-video app with the tasks of ``TASKS``, and the true chance of every label.

    The log-odds of task t for user u, video v, in tab c::

        a_t (sqrt(shared) <u, v>_common + sqrt(1 - shared) <u, v>_category(t)) / sqrt(2)
          + quality + length + habit of the user in the category + patience(u) length(v)
          + conflict (bait(v) trust(u) + dispute(v)) + own taste of t + tab + b_t

    with the weights of ``TASKS``; <u, v> multiplies two latent tastes of the user with two contents of
    the video, both standard normal; b_t is set so that the mean chance is the task's rate. The labels of the
    watch category are drawn with one random number per row, as one playing time decides them all: nearly
    every long view is an effective view. Those of the interaction category are drawn independently.

    Inputs are what an app knows before a row: ids of user, video, author, topic, tab and hour, the user's
    activity in four classes; noisy measures of tastes, habits, contents, bait, dispute and quality (user
    statistics and descriptors); counts. The trust of a user, patience, tasks' own tastes and effects of one
    video are in the ids alone. 30 % of the videos come out during the log, at most half of those in training.
    Videos are drawn by popularity, not by a recommender: there is no selection bias in this log.

    Parameters
    ----------
    rows: number of rows N, in the order of time, equally many a day.
    users, videos: how many there are; rows / 50 and rows / 190 unless given (as in KuaiRand-Pure).
    days: how many days training, validation and test last.
    shared: share of the interest that both categories have in common, in [0, 1].
    conflict: factor of the causes that pull tasks apart; 0 removes them.
    revealed: correlation of each measure with what it measures, in [0, 1].
    raw_counts: give counts and durations as they are, heavy-tailed and without scale, instead of their scaled
        logarithms: what happens to experts that must digest these?
    seed: the same arguments and seed give the same bytes.

    Returns
    -------
    A table of nine binary tasks, with ``users``, ``categories`` and ``probabilities``;
    ``training.ceiling`` makes the best reachable AUC of these. ``notes`` carries the arguments shared,
    conflict and revealed. Memory: the table's, and a block's.

    Raises ``ValueError`` with one sentence for arguments that make no data set.
    """
    users, videos = (
        max(rows // 50, 2) if users is None else users,
        (max(rows // 190, 2) if videos is None else videos),
    )
    _check(rows, users, videos, days, shared, conflict, revealed, seed)
    rng = np.random.default_rng(seed)
    world = _World(rng, users, videos, sum(days), shared, conflict, revealed)
    tasks = list(TASKS)
    world.set_rates(rng)

    columns = {name: np.empty(rows, dtype=np.int32) for name in ("user", "video", "tab", "hour")}
    labels, chances = (np.empty((len(tasks), rows), dtype=np.float32) for _ in range(2))
    day = (np.arange(rows) * sum(days) // rows).astype(np.int16)
    for begin in range(0, rows, _BLOCK):
        block = slice(begin, begin + _BLOCK)
        seen = world.impressions(rng, day[block])
        for name, values in seen.items():
            columns[name][block] = values
        chances[:, block] = p = world.chances(seen)
        u = rng.random(p.shape, dtype=np.float32)
        u[world.watch] = u[0]  # one playing time
        labels[:, block] = u < p

    split = np.searchsorted(np.cumsum(days[:2]), day, side="right").astype(np.int8)
    ids, sizes, dense = world.encoded(columns, split == 0, raw_counts)
    return Table(
        ids=ids,
        dense=dense,
        labels=dict(zip(tasks, labels, strict=True)),
        split=split,
        cardinalities=sizes,
        fields=world.fields,
        dense_names=world.dense_names,
        kinds=dict.fromkeys(tasks, "binary"),
        users=columns["user"].astype(np.int64),
        categories={name: task.category for name, task in TASKS.items()},
        probabilities=dict(zip(tasks, chances, strict=True)),
        notes={"shared": float(shared), "conflict": float(conflict), "revealed": float(revealed)},
    )


class _World:
    """The users and videos of one log: what they are, and what is measured of it."""

    fields = ("user_id", "active_degree", "video_id", "author_id", "topic", "tab", "hour")

    def __init__(
        self,
        rng: np.random.Generator,
        users: int,
        videos: int,
        days: int,
        shared: float,
        conflict: float,
        revealed: float,
    ) -> None:
        causes = {name: np.array([getattr(t, name) for t in TASKS.values()]) for name in Task._fields[1:]}
        self.rates = causes["rate"]
        self.watch = np.array([t.category == WATCH for t in TASKS.values()])
        tasks, width = len(TASKS), 3 * _TASTES

        # users: tastes, habit of watching and of interacting, patience, trust in titles, tasks' own tastes
        tastes = _normal(rng, users, width)
        habits, patience = _normal(rng, users, 2), _normal(rng, users)
        activity = _normal(rng, users)
        own = _normal(rng, width, tasks)
        own /= np.linalg.norm(own, axis=0)
        self.tastes, self.patience = tastes, patience
        self.trust = 2 * rng.random(users, dtype=np.float32)
        self.user_part = causes["habit"] * habits[:, np.where(self.watch, 0, 1)]  # (U, T)
        self.user_part = (self.user_part + causes["own"] * _product(tastes, own)).astype(np.float32)

        # videos, in the order in which they come out: contents by topic, quality by author
        authors = max(videos // 3, 1)
        topic, author = rng.integers(_TOPICS, size=videos), rng.integers(authors, size=videos)
        contents = np.sqrt(0.5) * (_normal(rng, _TOPICS, width)[topic] + _normal(rng, videos, width))
        fame, authors_quality = _normal(rng, authors), _normal(rng, authors)
        quality = np.sqrt(0.5) * (authors_quality[author] + _normal(rng, videos))
        length, popular, dispute = _normal(rng, videos), _normal(rng, videos), _normal(rng, videos)
        bait = np.maximum(_normal(rng, videos) - 0.5, 0) / 0.4  # a third of the videos; sd about 1
        self.contents, self.length = contents.astype(np.float32), length
        self.bait = conflict * bait
        self.video_part = (
            np.outer(quality, causes["quality"])
            + np.outer(length, causes["length"])
            + np.outer(conflict * dispute, causes["dispute"])
            + causes["own"] * (_product(contents, own) + _normal(rng, videos, tasks))
        ).astype(np.float32)  # (V, T)

        # tabs: the measured rates as differences of log-odds to the first tab
        odds = _TABS[:, 1:] / (1 - _TABS[:, 1:])
        self.tab_part = np.log(odds / odds[0])[:, np.where(self.watch, 0, 1)].astype(np.float32)
        self.weights = {name: causes[name].astype(np.float32) for name in ("interest", "patience", "bait")}
        self.common, self.apart = np.float32(shared**0.5), np.float32((1 - shared) ** 0.5)
        self.intercepts = np.zeros((tasks, 1))

        # who is drawn how often; videos up to a day's end can be shown on it
        self.active = np.cumsum(np.exp(_COUNTS["past_views"][1] * activity.astype(np.float64)))
        self.popular = np.cumsum(np.exp(_COUNTS["past_plays"][1] * popular.astype(np.float64)))
        old = -(-7 * videos // 10)
        self.out_by_day = old + (videos - old) * (np.arange(days) + 1) // days

        def measured(x: np.ndarray) -> np.ndarray:
            """Columns that correlate with x by ``revealed``."""
            x = x.reshape(len(x), -1)
            return revealed * x + (1 - revealed**2) ** 0.5 * _normal(rng, *x.shape)

        bait_sd = max(float(bait.std()), 1e-6)
        dense = {
            "user": {
                **_named("taste", measured(tastes)),
                **_named("habit", measured(habits)),
                "past_views": activity,
                "following": _normal(rng, users),
                "fans": _normal(rng, users),
            },
            "video": {
                **_named("content", measured(contents)),
                "past_score": measured(quality)[:, 0],
                "title_score": measured((bait - bait.mean()) / bait_sd)[:, 0],
                "dispute_score": measured(dispute)[:, 0],
                "duration_s": length,
                "past_plays": popular,
                "author_fans": fame[author],
            },
        }
        self.dense = {name: _in_units(parts) for name, parts in dense.items()}
        self.dense_names = tuple(name for parts in dense.values() for name in parts)
        quartile = np.searchsorted(np.quantile(activity, [0.25, 0.5, 0.75]), activity)
        self.codes = {
            "user": np.stack([np.arange(users), quartile], axis=1),
            "video": np.stack([np.arange(videos), author, topic], axis=1),
            "tab": np.arange(len(_TABS))[:, None],
            "hour": np.arange(24)[:, None],
        }

    def impressions(self, rng: np.random.Generator, day: np.ndarray) -> dict[str, np.ndarray]:
        """Who sees what, where and when, on the given days (n,)."""
        n = len(day)
        ends = self.popular[self.out_by_day - 1][day]
        share = np.cumsum(_TABS[:, 0])
        return {
            "user": np.searchsorted(self.active, rng.random(n) * self.active[-1], side="right"),
            "video": np.searchsorted(self.popular, rng.random(n) * ends, side="right"),
            "tab": np.searchsorted(share, rng.random(n) * share[-1], side="right"),
            "hour": rng.integers(24, size=n),
        }

    def log_odds(self, seen: dict[str, np.ndarray]) -> np.ndarray:
        """All causes of a row but the intercept.   -> (T, n)"""
        u, v = seen["user"], seen["video"]
        pairs = (self.tastes[u] * self.contents[v]).reshape(len(u), 3, _TASTES)
        common, watch, act = pairs.sum(axis=2).T / np.float32(_TASTES**0.5)  # each (n,), sd 1
        found = (self.user_part[u] + self.video_part[v] + self.tab_part[seen["tab"]]).T  # (T, n)
        causes = {
            "patience": self.patience[u] * self.length[v],
            "bait": self.bait[v] * self.trust[u],
        }
        for t, line in enumerate(found):
            interest = self.common * common + self.apart * (watch if self.watch[t] else act)
            line += self.weights["interest"][t] * interest
            for name, cause in causes.items():
                line += self.weights[name][t] * cause
        return found

    def chances(self, seen: dict[str, np.ndarray]) -> np.ndarray:
        """True probabilities of the labels.   -> (T, n)"""
        return _expit(self.log_odds(seen) + self.intercepts.astype(np.float32))

    def set_rates(self, rng: np.random.Generator) -> None:
        """Choose the intercepts on rows of their own, so that the mean chance of each task is its rate."""
        day = np.arange(_BLOCK) * len(self.out_by_day) // _BLOCK
        odds = self.log_odds(self.impressions(rng, day)).astype(np.float64)
        low, high = np.full(odds.shape[0], -30.0), np.full(odds.shape[0], 30.0)
        for _ in range(30):  # to 1e-7
            middle = (low + high) / 2
            above = _expit(odds + middle[:, None]).mean(axis=1) > self.rates
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        self.intercepts = ((low + high) / 2)[:, None]

    def encoded(
        self, columns: dict[str, np.ndarray], train: np.ndarray, raw_counts: bool
    ) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
        """ids (N, F) with 0 for what training never saw, F sizes, dense (N, K)."""
        weight = {name: np.bincount(columns[name][train], minlength=len(c)) for name, c in self.codes.items()}
        coded = {name: encode(lines, weight[name], 1) for name, lines in self.codes.items()}
        dense = {}
        for name, (x, is_count) in self.dense.items():
            lines = scaled(np.where(is_count, np.log1p(np.maximum(x, 0)), x), weight[name])
            dense[name] = np.where(is_count, x, lines).astype(np.float32) if raw_counts else lines
        sizes = tuple(size for _, several in coded.values() for size in several)
        return picked({name: ids for name, (ids, _) in coded.items()}, columns), sizes, picked(dense, columns)


def _in_units(parts: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(M, K) columns, counts in their units and whole, and which of the K are counts."""
    x = np.stack(list(parts.values()), axis=1).astype(np.float64)
    is_count = np.array([name in _COUNTS for name in parts])
    for k, name in enumerate(parts):
        if is_count[k]:
            median, sd = _COUNTS[name]
            x[:, k] = np.rint(median * np.exp(sd * x[:, k]))
    return x, is_count


def _named(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{name}_{k}": column for k, column in enumerate(x.T)}


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def _product(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """x @ weights in one fixed order of sums, whatever the number of threads."""
    return sum(x[:, k : k + 1] * weights[k] for k in range(x.shape[1]))


def _expit(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _check(
    rows: int,
    users: int,
    videos: int,
    days: tuple[int, int, int],
    shared: float,
    conflict: float,
    revealed: float,
    seed: int,
) -> None:
    whole = (("rows", rows, 1), ("users", users, 2), ("videos", videos, 2), ("seed", seed, 0))
    for name, value, least in whole:
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"short_video: {name} must be a whole number >= {least}, got {value!r}.")
    good = isinstance(days, tuple | list) and len(days) == 3
    if not good or not all(isinstance(d, int | np.integer) and d >= 0 for d in days) or not sum(days):
        raise ValueError(
            "short_video: days must be three whole numbers (train, validation, test) such as (9, 2, 3), "
            f"got {days!r}."
        )
    for name, value in (("shared", shared), ("revealed", revealed)):
        if not 0 <= value <= 1:  # false for NaN too
            raise ValueError(f"short_video: {name} must lie in [0, 1], got {value!r}.")
    if not 0 <= conflict < np.inf:
        raise ValueError(f"short_video: conflict must be a number >= 0, got {conflict!r}.")
