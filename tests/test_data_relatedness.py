"""The MMoE paper's synthetic regression: equations, measured correlations, clear errors."""

import numpy as np
import pytest

from mtlkit.data import relatedness


def test_shapes_tasks_and_splits():
    table = relatedness(0.5, rows=1000, dim=7, fractions=(0.7, 0.2, 0.1))
    assert table.tasks == ("task_1", "task_2")
    assert set(table.kinds.values()) == {"regression"}
    assert table.dense.shape == (1000, 7) and table.dense.dtype == np.float32
    assert table.ids.shape == (1000, 0) and table.users is None
    assert [len(table.part(name)) for name in ("train", "validation", "test")] == [700, 200, 100]


def test_labels_follow_the_equation():
    table = relatedness(0.3, rows=500, dim=11, scale=0.7, waves=4, noise=0.0, seed=3)
    notes = table.notes
    for task, w in (("task_1", notes["w1"]), ("task_2", notes["w2"])):
        z = table.dense.astype(float) @ w
        y = z.copy()
        for a, b in zip(notes["alpha"], notes["beta"], strict=True):
            y += np.sin(a * z + b)
        np.testing.assert_allclose(table.labels[task], y, atol=1e-5)


@pytest.mark.parametrize("cosine", [-1.0, -0.4, 0.0, 0.9, 1.0])
def test_weight_vectors_have_the_cosine_and_length(cosine):
    notes = relatedness(cosine, rows=10, dim=30, scale=1.7).notes
    w1, w2 = notes["w1"], notes["w2"]
    assert np.linalg.norm(w1) == pytest.approx(1.7) and np.linalg.norm(w2) == pytest.approx(1.7)
    assert w1 @ w2 / 1.7**2 == pytest.approx(cosine, abs=1e-12)
    assert notes["weight_cosine"] == cosine


def test_noise_is_independent_with_the_stated_spread():
    table = relatedness(1.0, rows=20_000, noise=0.1)  # same weights: labels differ by noise alone
    difference = table.labels["task_1"] - table.labels["task_2"]
    assert difference.std() == pytest.approx(0.1 * np.sqrt(2), rel=0.03)


@pytest.mark.parametrize(
    ("cosine", "few", "many"),
    [
        (0.0, 0.00, 0.000),
        (0.25, 0.15, 0.144),
        (0.5, 0.28, 0.330),
        (0.75, 0.57, 0.587),
        (0.9, 0.81, 0.799),
        (1.0, 0.99, 0.994),
    ],
)
def test_label_correlation_over_draws(cosine, few, many):
    """References measured apart from this code: means of 30 draws of rows in 100 dimensions, and
    of 1,500 draws of the pair (w1.x, w2.x) itself, a normal pair of correlation p. The tolerance
    is three standard errors of the difference of two means, at least the rounding."""
    found = [relatedness(cosine, rows=4000, dim=10, seed=s).notes["label_correlation"] for s in range(120)]
    for reference, draws in ((few, 30), (many, 1500)):
        tolerance = 3 * np.std(found) * np.sqrt(1 / len(found) + 1 / draws)
        assert np.mean(found) == pytest.approx(reference, abs=max(0.006, tolerance))


def test_noted_correlation_is_that_of_the_labels():
    table = relatedness(0.7, rows=300)
    expected = np.corrcoef(table.labels["task_1"], table.labels["task_2"])[0, 1]
    assert table.notes["label_correlation"] == pytest.approx(expected)


def test_same_seed_same_bytes_and_other_seed_other_bytes():
    one, two, other = (relatedness(0.5, rows=50, seed=s) for s in (4, 4, 5))
    assert one.dense.tobytes() == two.dense.tobytes() != other.dense.tobytes()
    assert one.labels["task_2"].tobytes() == two.labels["task_2"].tobytes()


def test_given_waves_are_used_and_change_nothing_else():
    drawn = relatedness(0.5, rows=50, waves=3, seed=1)
    given = relatedness(
        0.5, rows=50, waves=3, seed=1, alpha=drawn.notes["alpha"], beta=list(drawn.notes["beta"])
    )
    assert given.labels["task_1"].tobytes() == drawn.labels["task_1"].tobytes()
    other = relatedness(0.5, rows=50, waves=3, seed=1, alpha=[0, 0, 0])
    assert other.dense.tobytes() == drawn.dense.tobytes()
    assert not np.array_equal(other.labels["task_1"], drawn.labels["task_1"])


def test_constant_labels_are_no_warning():
    table = relatedness(0.5, rows=1)
    assert np.isnan(table.notes["label_correlation"])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"cosine": 1.2}, "cosine"),
        ({"cosine": float("nan")}, "cosine"),
        ({"rows": 0}, "rows"),
        ({"rows": 10.5}, "rows"),
        ({"dim": 1}, "dim"),
        ({"waves": -1}, "waves"),
        ({"seed": -1}, "seed"),
        ({"scale": 0.0}, "scale"),
        ({"noise": -0.1}, "noise"),
        ({"noise": float("inf")}, "noise"),
        ({"alpha": [1.0, 2.0]}, "alpha"),
        ({"beta": [float("nan")] * 10}, "beta"),
        ({"fractions": (0.5, 0.5, 0.5)}, "fractions"),
        ({"fractions": (1.0,)}, "fractions"),
        ({"fractions": (1.5, -0.5, 0.0)}, "fractions"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, word):
    with pytest.raises(ValueError, match=f"^relatedness: {word} must [^\n]*$"):
        relatedness(**{"cosine": 0.5, **arguments})
