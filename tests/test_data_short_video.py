"""The simulated log of a short-video app: rates, ceilings, conflicts, what the inputs may know."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mtlkit import metrics, training
from mtlkit.data import short_video
from mtlkit.data.short_video import INTERACTION, TASKS, WATCH
from mtlkit.models import Recommender, SharedBottom


@pytest.fixture(scope="module")
def table():
    return short_video(400_000, seed=1)


def test_shapes_splits_and_names(table):
    assert table.ids.shape == (400_000, 7) and table.ids.dtype == np.int32
    assert table.dense.dtype == np.float32 and np.isfinite(table.dense).all()
    assert (table.ids >= 0).all() and (table.ids.max(axis=0) < table.cardinalities).all()
    assert table.tasks == tuple(TASKS) and set(table.kinds.values()) == {"binary"}
    assert [task for task, c in table.categories.items() if c == WATCH] == list(TASKS)[:3]
    assert sorted(table.categories.values()).count(INTERACTION) == 6
    np.testing.assert_allclose(np.bincount(table.split) / len(table), [9 / 14, 2 / 14, 3 / 14], atol=1e-4)
    assert (np.diff(table.split) >= 0).all()  # days in their order


@pytest.mark.parametrize("seed", [0, 3])
def test_rates_are_those_stated(table, seed):
    chances = short_video(200_000, seed=seed).probabilities
    for task, parts in TASKS.items():
        assert chances[task].mean() == pytest.approx(parts.rate, rel=0.05)
        p, y = table.probabilities[task].astype(float), table.labels[task]
        assert y.mean() == pytest.approx(parts.rate, rel=0.1)
        z = (y - p).sum() / np.sqrt((p * (1 - p)).sum())  # the labels are draws of the chances
        assert abs(z) < 4


def test_rates_spread_as_far_as_the_paper_says():
    rates = [task.rate for task in TASKS.values()]
    assert max(rates) > 0.4 and min(rates) < 0.001
    interaction = [t.rate for t in TASKS.values() if t.category == INTERACTION]
    assert max(interaction) / min(interaction) > 100


def test_labels_agree_with_the_chances_at_every_height(table):
    for task, p in table.probabilities.items():
        groups = np.digitize(p, np.quantile(p, [0.25, 0.5, 0.75, 0.95]))
        for g in range(5):
            here = groups == g
            q = p[here].astype(float)
            z = (table.labels[task][here] - q).sum() / np.sqrt((q * (1 - q)).sum())
            assert abs(z) < 4.5, (task, g)


def test_a_long_view_is_an_effective_view(table):
    effective, long = table.labels["effective_view"], table.labels["long_view"]
    assert effective[long == 1].mean() > 0.95  # KuaiRand: 0.9965


def test_same_seed_same_bytes_and_other_seed_other_bytes():
    one, two, other = (short_video(70_000, seed=s) for s in (4, 4, 5))
    for part in (lambda t: t.ids, lambda t: t.dense, lambda t: t.labels["like"], lambda t: t.users):
        assert part(one).tobytes() == part(two).tobytes() != part(other).tobytes()
    assert one.probabilities["like"].tobytes() == two.probabilities["like"].tobytes()


def test_bayes_auc_agrees_with_a_direct_estimate(table):
    """The ceiling comes from the chances alone; here it is counted on labels drawn from them."""
    part = table.part("test").rows(np.arange(0, 84_000, 3))
    best = training.ceiling(part)
    rng = np.random.default_rng(0)
    for task in ("effective_view", "click", "like", "follow"):
        p = part.probabilities[task]
        draws = [rng.random(len(p)) < p for _ in range(40)]
        for name, values in (
            ("auc", [metrics.auc(p, y) for y in draws]),
            ("gauc", [metrics.gauc(p, y, part.users).value for y in draws]),
        ):
            error = np.std(values) / np.sqrt(len(values))
            # a ratio of means is not quite the mean of ratios: matters within a user of few rows
            assert best.loc[task, name] == pytest.approx(np.mean(values), abs=4 * error + 0.002), (task, name)
        assert 0.75 < best.loc[task, "auc"] < 0.9


def test_nothing_beats_the_ceiling_and_a_network_comes_near(table):
    small = short_video(100_000, seed=2)
    net = Recommender(small, SharedBottom, bottom=[32], tower=[8], seed=0)
    training.fit(net, small, epochs=3, batch_size=256, lr=4e-3, weight_decay=0.1, progress=False)
    part = small.part("test")
    figures = training.evaluate(net, part)
    np.testing.assert_allclose(figures["auc_ceiling"], training.ceiling(part)["auc"])
    found = training.ceiling(part, training.predict(net, part))
    assert (found["auc_share"] < 1).all() and (found["auc_share"] > 0.4).all()
    assert (found.loc[["effective_view", "long_view", "click"], "auc_share"] > 0.75).all()
    worse = small.probabilities["like"] + np.random.default_rng(0).normal(size=len(small)) * 0.01
    assert metrics.expected_auc(worse, small.probabilities["like"]) < training.ceiling(small)["auc"]["like"]


def weight_of(table, name, task):
    part = table.part("train").rows(np.arange(0, 250_000, 5))
    fit = LogisticRegression(C=1.0).fit(part.dense, part.labels[task])
    return fit.coef_[0][part.dense_names.index(name)]


def test_the_categories_pull_apart_and_without_conflict_they_do_not(table):
    # bait: more clicks, fewer long views
    assert (
        weight_of(table, "title_score", "click") > 0.2 and weight_of(table, "title_score", "long_view") < -0.2
    )
    calm = short_video(400_000, seed=1, conflict=0.0)
    assert abs(weight_of(calm, "title_score", "click")) < 0.05
    assert abs(weight_of(calm, "title_score", "long_view")) < 0.05


def log_odds(table, task):
    p = table.probabilities[task].astype(float)
    return np.log(p / (1 - p))


def test_shared_says_how_much_of_the_interest_is_common():
    found = []
    for shared in (0.0, 0.5, 1.0):
        t = short_video(100_000, shared=shared, conflict=0.0)
        found.append(np.corrcoef(log_odds(t, "long_view"), log_odds(t, "follow"))[0, 1])
    assert found[0] + 0.15 < found[1] < found[2] - 0.15


def test_revealed_says_how_much_the_inputs_tell():
    calm, blind = (short_video(50_000, revealed=r) for r in (1.0, 0.0))
    assert calm.probabilities["like"].tobytes() == blind.probabilities["like"].tobytes()
    quality = calm.dense_names.index("past_score")
    assert np.corrcoef(calm.dense[:, quality], log_odds(calm, "follow"))[0, 1] > 0.15
    assert abs(np.corrcoef(blind.dense[:, quality], log_odds(blind, "follow"))[0, 1]) < 0.1


def test_no_input_knows_an_outcome(table):
    """Given the true chance, no input tells more about the label, and neither do its square or its id."""
    columns = np.hstack([table.dense, table.dense**2])
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    for task in ("effective_view", "click", "like"):
        p = table.probabilities[task].astype(float)
        residual = (table.labels[task] - p) / np.sqrt(p * (1 - p))
        z = residual @ columns / np.sqrt(len(residual))
        assert abs(z).max() < 5.5, task
        by_user = np.bincount(table.users, residual) / np.sqrt(np.maximum(np.bincount(table.users), 1))
        assert np.mean(by_user[np.bincount(table.users) > 20] ** 2) == pytest.approx(1, abs=0.1)


def test_encoders_see_training_only(table):
    train = table.split == 0
    np.testing.assert_allclose(table.dense[train].mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(table.dense[train].std(axis=0), 1, atol=1e-3)
    for f in range(table.ids.shape[1]):  # id 0 stands for what training never saw
        assert set(np.unique(table.ids[train, f])) == set(range(1, table.cardinalities[f]))
    new = table.ids[~train, table.fields.index("video_id")] == 0
    assert 0.02 < new.mean() < 0.3


def test_raw_counts_are_heavy_tailed_and_the_rest_stays(table):
    raw = short_video(400_000, seed=1, raw_counts=True)
    assert raw.labels["click"].tobytes() == table.labels["click"].tobytes()
    fans = raw.dense[:, raw.dense_names.index("fans")]
    assert fans.max() > 100 * fans.mean() > 1000 and (fans == np.rint(fans)).all() and fans.min() >= 0
    taste = raw.dense_names.index("taste_0")
    np.testing.assert_array_equal(raw.dense[:, taste], table.dense[:, taste])


def test_parts_carry_their_chances(table):
    part = table.part("validation").select(["like", "click"])
    assert list(part.probabilities) == ["like", "click"]
    np.testing.assert_array_equal(part.probabilities["like"], table.probabilities["like"][table.split == 1])


def test_tiny_logs_and_empty_splits_are_no_crash():
    tiny = short_video(3, users=2, videos=2, days=(1, 0, 0))
    assert len(tiny) == 3 and set(tiny.split) == {0}
    with pytest.raises(ValueError, match="test split is empty"):
        tiny.part("test")
    assert training.ceiling(tiny)["gauc"].shape == (9,)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"rows": 0}, "rows"),
        ({"rows": 10.5}, "rows"),
        ({"users": 1}, "users"),
        ({"videos": True}, "videos"),
        ({"days": (1, 2)}, "days"),
        ({"days": (0, 0, 0)}, "days"),
        ({"days": (1, -1, 1)}, "days"),
        ({"shared": 1.5}, "shared"),
        ({"revealed": float("nan")}, "revealed"),
        ({"conflict": -1.0}, "conflict"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, word):
    with pytest.raises(ValueError, match=f"^short_video: {word} must [^\n]*$"):
        short_video(**{"rows": 100, **arguments})


def test_a_table_without_chances_has_no_ceiling(table):
    from mtlkit.data import relatedness

    with pytest.raises(ValueError, match="does not know the true probabilities"):
        training.ceiling(relatedness(0.5, rows=10))
