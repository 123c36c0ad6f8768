"""mtlkit.metrics against scikit-learn, against pairs counted one by one, and at its edges."""

import sys
from subprocess import run

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as sk

from mtlkit import metrics
from mtlkit.metrics import GAUC, UndefinedMetric, auc, gauc, log_loss, mse, mtl_gain, r2

EXACT = dict(rel=1e-12, abs=1e-12)
NAN, INF = float("nan"), float("inf")


def draw(seed: int, dtype=np.float64, n: int | None = None, users: int = 12):
    """Scores with anything from no ties to only ties, labels with both classes, user ids."""
    rng = np.random.default_rng(seed)
    n = n or int(rng.integers(2, 200))
    scores = rng.normal(size=n) * 10.0 ** rng.integers(-3, 4)
    if levels := rng.integers(0, 6):
        scores = np.round(rng.normal(size=n) * levels) / 3  # thirds: not exact in float32
    labels = (rng.random(n) < rng.uniform(0.05, 0.95)).astype(dtype)
    labels[:2] = 0, 1
    return scores.astype(dtype), labels, rng.integers(0, users, n)


def pairs_auc(scores, labels) -> float:
    """The definition, pair by pair."""
    p, n = np.asarray(scores)[labels == 1], np.asarray(scores)[labels == 0]
    return float(((p[:, None] > n).sum() + 0.5 * (p[:, None] == n).sum()) / (len(p) * len(n)))


def loop_gauc(scores, labels, users) -> tuple[float, int, int, int, int]:
    """The usual loop over users."""
    total = kept = rows = skipped = 0
    for _, part in pd.DataFrame({"s": scores, "y": labels, "u": users}).groupby("u"):
        if part.y.nunique() == 2:
            total += len(part) * sk.roc_auc_score(part.y, part.s)
            kept, rows = kept + 1, rows + len(part)
        else:
            skipped += 1
    return total / rows, kept, rows, skipped, len(labels) - rows


def as_tuple(g: GAUC) -> tuple[float, int, int, int, int]:
    return g.value, g.users, g.rows, g.skipped_users, g.skipped_rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auc_equals_scikit_learn(dtype):
    for seed in range(200):
        scores, labels, _ = draw(seed, dtype)
        assert auc(scores, labels) == pytest.approx(sk.roc_auc_score(labels, scores), **EXACT)
        assert auc(scores, labels) == pytest.approx(pairs_auc(scores, labels), **EXACT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gauc_equals_the_loop_over_users(dtype):
    for seed in range(60):
        scores, labels, users = draw(seed, dtype, n=300, users=1 + seed)
        assert as_tuple(gauc(scores, labels, users)) == pytest.approx(
            loop_gauc(scores, labels, users), **EXACT
        )


def test_gauc_with_one_user_is_auc():
    for seed in range(50):
        scores, labels, _ = draw(seed)
        users = np.full(len(labels), 7)
        assert float(gauc(scores, labels, users)) == pytest.approx(auc(scores, labels), **EXACT)


def test_by_hand():
    # pairs (pos, neg): .8>.5, .8>.2, .5=.5, .5>.2 -> 3.5 of 4
    assert auc([0.8, 0.5, 0.5, 0.2], [1, 1, 0, 0]) == 0.875
    assert auc([3, 3, 3], [1, 0, 0]) == 0.5
    assert auc([2, 1], [1, 0]) == 1.0 and auc([1, 2], [1, 0]) == 0.0
    # user a: 4 logs, 0.875; b: 2 logs, 0.0; c: 3 logs, only negatives
    g = gauc(
        [0.8, 0.5, 0.5, 0.2, 0.1, 0.9, 0.3, 0.4, 0.5],
        [1, 1, 0, 0, 1, 0, 0, 0, 0],
        list("aaaabbccc"),
    )
    assert g == GAUC((4 * 0.875 + 2 * 0.0) / 6, users=2, rows=6, skipped_users=1, skipped_rows=3)
    assert float(g) == g.value
    assert log_loss([0.25, 0.25], [1, 0]) == pytest.approx((np.log(4) + np.log(4 / 3)) / 2)
    assert mse([1, 2, 4], [1, 0, NAN]) == 2.0
    assert r2([1, 2, 3, 9], [1, 2, 4.5, NAN]) == pytest.approx(1 - 2.25 / 6.5, **EXACT)
    assert mtl_gain(0.75, 0.5) == 0.25
    assert mtl_gain(0.75, 0.5, higher_is_better=False) == -0.25
    assert mtl_gain(g, 0.0) == g.value


def test_permutation_invariance_to_the_last_bit():
    scores, labels, users = draw(1, n=2000, users=100)
    one, all_users = auc(scores, labels), gauc(scores, labels, users)
    for seed in range(20):
        p = np.random.default_rng(seed).permutation(2000)
        assert auc(scores[p], labels[p]) == one
        assert gauc(scores[p], labels[p], users[p]) == all_users
        assert gauc(scores[p], labels[p], -users[p].astype(np.int8)) == all_users


def test_complement_and_monotone_maps():
    scores, labels, users = draw(3, n=500)
    assert auc(-scores, labels) == pytest.approx(1 - auc(scores, labels), **EXACT)
    assert auc(np.exp(scores / 100), labels) == auc(scores, labels)
    assert float(gauc(scores, 1 - labels, users)) == pytest.approx(
        1 - float(gauc(scores, labels, users)), **EXACT
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_awkward_scores(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    chain = np.array([-INF, np.finfo(dtype).min, -1, -tiny, 0, tiny, 1, INF], dtype)  # increasing
    assert auc(np.array([-0.0, 0.0], dtype), [1, 0]) == 0.5
    for low, high in zip(chain, chain[1:], strict=False):
        assert auc(np.array([low, high], dtype), [0, 1]) == 1.0
        assert auc(np.array([high, high], dtype), [0, 1]) == 0.5
        assert float(gauc(np.array([high, low], dtype), [0, 1], ["u", "u"])) == 0.0


def test_float64_scores_are_not_rounded_to_float32():
    assert auc([1.0, 1.0 + 1e-12], [0, 1]) == 1.0
    assert auc([1e-300, 1e-299], [0, 1]) == 1.0
    assert auc([1e299, 1e300], [0, 1]) == 1.0
    assert auc(np.array([2**62, 2**62 + 1]), [0, 1]) == 1.0


def test_float32_subnormals_survive_a_flushing_thread():
    tiny = np.array([0, 1, 2], np.uint32).view(np.float32)
    torch.set_flush_denormal(True)
    try:
        assert auc(tiny, [0, 1, 1]) == 1.0
    finally:
        torch.set_flush_denormal(False)


def test_kinds_of_input_agree():
    scores, labels, users = draw(5, np.float32, n=400, users=30)
    want = gauc(scores, labels, users)
    tensors = torch.tensor(scores, requires_grad=True), torch.tensor(labels), torch.tensor(users)
    assert gauc(*tensors) == want
    assert auc(tensors[0], labels) == auc(scores, labels)
    assert gauc(*(pd.Series(x, index=np.arange(400)[::-1]) for x in (scores, labels, users))) == want
    for kind in (bool, np.int8, np.uint8, np.int64, np.float16, object):
        assert gauc(scores, labels.astype(kind), users) == want
    assert gauc(scores, torch.tensor(labels).bool(), users) == want
    assert gauc(scores, pd.Series(labels).astype("Int64"), users) == want
    two = np.stack([scores, labels, users], axis=1)  # columns are strided views
    assert not two[:, 0].flags.c_contiguous
    assert gauc(two[:, 0], two[:, 1], two[:, 2]) == want
    assert gauc(scores[::-1], labels[::-1], users[::-1]) == want
    half = torch.tensor(scores).bfloat16()
    assert auc(half, labels) == auc(half.float(), labels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_on_a_gpu():
    columns = draw(5, np.float32, n=400)
    assert gauc(*(torch.tensor(x, device="cuda") for x in columns)) == gauc(*columns)


def test_kinds_of_user_ids_agree():
    scores, labels, users = draw(6, n=400, users=30)
    want = gauc(scores, labels, users)
    names = np.char.add("user ", users.astype(str))
    for ids in (
        names,
        names.astype(object),
        pd.Series(names),
        pd.Series(names).astype("category"),
        users.astype(np.uint8),
        (users - 128).astype(np.int8),  # a difference of int8 would overflow
        users - 1,  # -1 is an id like any other
        pd.Series(users - 1),
        pd.Series(users).astype("Int64"),
        users << 31,  # too wide to be packed as they are
        -(users << 31),
        users * (2**63 // 30) - 2**62,
        users.astype(np.uint64) + np.uint64(2**64 - 31),
        users / 7,
        pd.Timestamp("2026-01-01") + pd.to_timedelta(users, "h"),
    ):
        assert gauc(scores, labels, ids) == want


def test_unobserved_labels_are_dropped():
    scores, labels, users = draw(8, n=300, users=10)
    observed = np.random.default_rng(8).random(300) < 0.6
    masked = np.where(observed, labels, NAN)
    ids = np.where(observed, users, -1)  # this user has no observed row: it does not count
    broken = np.where(observed, scores, NAN)  # nobody needs the scores of unobserved rows
    assert auc(broken, masked) == auc(scores[observed], labels[observed])
    kept = gauc(scores[observed], labels[observed], users[observed])
    assert gauc(broken, masked, ids) == kept
    strings = pd.Series(users.astype(str)).where(observed)
    assert gauc(broken, masked, strings) == kept
    assert gauc(broken, masked, strings.to_numpy(object)) == kept
    nullable = pd.Series(np.where(observed, labels, None)).astype("boolean")
    assert gauc(broken, nullable, ids) == kept
    p = 1 / (1 + np.exp(-scores))
    assert log_loss(p, masked) == log_loss(p[observed], labels[observed])
    assert mse(broken, masked) == mse(scores[observed], labels[observed])
    assert r2(broken, masked) == r2(scores[observed], labels[observed])


def test_log_loss_mse_r2_equal_scikit_learn():
    for seed in range(100):
        scores, labels, _ = draw(seed)
        p = 0.001 + 0.998 / (1 + np.exp(-scores.clip(-30, 30)))
        assert log_loss(p, labels) == pytest.approx(sk.log_loss(labels, p, labels=[0, 1]), **EXACT)
        target = scores + np.random.default_rng(seed).normal(size=len(scores))
        assert mse(scores, target) == pytest.approx(sk.mean_squared_error(target, scores), **EXACT)
        assert r2(scores, target) == pytest.approx(sk.r2_score(target, scores), rel=1e-9, abs=1e-9)


def test_log_loss_clips():
    assert log_loss([0.0], [1]) == pytest.approx(-np.log(1e-7))
    assert log_loss(np.ones(1, np.float32), [0]) == pytest.approx(-np.log(1e-7))
    assert log_loss([0.0], [1], eps=1e-3) == pytest.approx(-np.log(1e-3))
    assert log_loss([1.0, 0.0], [1, 0]) == pytest.approx(1e-7, rel=1e-3)


def test_r2_of_tiny_numbers_and_of_a_constant_offset():
    assert r2([1e-200, 2e-200], [1e-200, 3e-200]) == pytest.approx(0.5)
    assert r2([0.3, 0.3], [0.1, 0.5]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (lambda: auc(np.ones(300), np.zeros(300)), "AUC is undefined: 0 positives among 300 obs"),
        (lambda: auc([1, 2, 3], [1, 1, NAN]), "AUC is undefined: 0 negatives among 2 observed"),
        (lambda: auc([], []), "AUC is undefined: 0 positives among 0 observed labels."),
        (lambda: auc([1, 2], [NAN, NAN]), "AUC is undefined: 0 positives among 0 observed"),
        (lambda: gauc([], [], []), "GAUC is undefined: there are 0 observed labels."),
        (lambda: gauc([1], [NAN], ["a"]), "GAUC is undefined: there are 0 observed labels."),
        (lambda: gauc([1, 2, 3], [0, 0, 1], [4, 4, 5]), "each of the 2 users has only one class"),
        (lambda: log_loss([], []), "Log loss is undefined: there are 0 observed labels."),
        (lambda: mse([1], [NAN]), "MSE is undefined: there are 0 observed labels."),
        (lambda: r2([], []), "R2 is undefined: there are 0 observed labels."),
        (lambda: r2([1, 2, 3], [0.1] * 3), "R2 is undefined: the 3 observed labels are all 0.1."),
        (lambda: r2([1], [2]), "R2 is undefined: the 1 observed labels are all 2."),
    ],
)
def test_undefined(metric, sentence):
    with pytest.raises(UndefinedMetric) as caught:
        metric()
    assert sentence in str(caught.value) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (lambda: auc([1, 2], [0, 2]), "labels must be 0, 1 or NaN (unobserved), got 2"),
        (lambda: auc([1, 2], [-1, 1]), "got -1"),
        (lambda: auc([1, 2], [0.5, 1]), "got 0.5"),
        (lambda: auc([1, 2], ["no", "yes"]), "labels must be real numbers"),
        (lambda: auc(["x", "y"], [0, 1]), "scores must be real numbers"),
        (lambda: auc(pd.Series(["x", "y"]), [0, 1]), "scores must be real numbers"),
        (lambda: auc([NAN, 2, NAN], [0, 1, NAN]), "scores are NaN in 1 of 2 observed rows."),
        (lambda: auc([1, 2, 3], [0, 1]), "scores, labels must be columns of one length (n,), got"),
        (lambda: auc(np.ones((2, 1)), np.ones((2, 1))), "got (2, 1), (2, 1)."),
        (lambda: auc(0.5, 1), "got (), ()."),
        (lambda: gauc([1, 2], [0, 1], [3]), "got (2,), (2,), (1,)."),
        (lambda: gauc([1, 2], [0, 1], [3, NAN]), "users must be ids of one type, none missing"),
        (lambda: gauc([1, 2], [0, 1], pd.Series(["a", None])), "users must be ids of one type"),
        (lambda: gauc([1, 2], [0, 1], np.array(["a", None])), "users must be ids of one type"),
        (lambda: gauc([1, 2], [0, 1], pd.Series([1, None], dtype="Int64")), "users must be ids"),
        (lambda: log_loss([0.5, 1.5], [0, 1]), "got 0.5 to 1.5: if these are logits"),
        (lambda: log_loss([0.5, NAN], [0, 1]), "probabilities are NaN in 1 of 2"),
        (lambda: log_loss([0.5], [3]), "labels must be 0, 1"),
        (lambda: mse([NAN], [1]), "predictions are NaN in 1 of 1"),
        (lambda: mse([1, 2], [1]), "predictions, labels must be columns"),
        (lambda: r2([1, 2], [1, INF]), "labels must be finite"),
    ],
)
def test_bad_input_gets_one_sentence(metric, sentence):
    with pytest.raises(ValueError) as caught:
        metric()
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert not isinstance(caught.value, UndefinedMetric)


def test_arguments_are_left_alone():
    columns = draw(9, np.float32)
    columns[0][:2] = -0.0
    before = [x.tobytes() for x in columns]
    gauc(*columns)
    assert [x.tobytes() for x in columns] == before


def test_counts_beyond_32_bits():
    n = 200_000  # 10^10 pairs
    scores = np.arange(n, dtype=np.float32)
    labels = scores >= n // 2
    users = np.where(np.arange(n) % 2, 2**31 - 1, 0)  # the widest span that is packed as it is
    assert auc(scores, labels) == 1.0 and auc(-scores, labels) == 0.0
    assert float(gauc(scores, labels, users)) == 1.0
    assert float(gauc(-scores, labels, users)) == 0.0
    assert float(gauc(scores, labels, users * 2)) == 1.0


def test_imports_numpy_only():
    code = f"""
import runpy, sys
runpy.run_path({metrics.__file__!r})
sys.exit(any(name in sys.modules for name in ("torch", "pandas", "mtlkit")))
"""
    assert run([sys.executable, "-c", code], check=False).returncode == 0


# --- expected figures -------------------------------------------------------------------------------


def pairs_by_hand(scores, p):
    """Expected pairs won and pairs: i positive, j negative, a tie worth 1/2."""
    won = total = 0.0
    for i in range(len(p)):
        for j in range(len(p)):
            if i != j:
                pair = p[i] * (1 - p[j])
                total += pair
                won += pair * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
    return won, total


@pytest.mark.parametrize("seed", range(5))
def test_expected_auc_counts_each_pair_with_its_chance(seed):
    rng = np.random.default_rng(seed)
    scores, p, users = rng.integers(5, size=40) / 4, rng.random(40), rng.integers(4, size=40)
    won, total = pairs_by_hand(scores, p)
    assert metrics.expected_auc(scores, p) == pytest.approx(won / total, rel=1e-12)
    value = weight = 0.0
    for user in range(4):
        q, s = p[users == user], scores[users == user]
        won, total = pairs_by_hand(s, q)
        w = len(q) * (1 - q.prod() - (1 - q).prod())
        value, weight = value + w * won / total, weight + w
    assert metrics.expected_gauc(scores, p, users) == pytest.approx(value / weight, rel=1e-12)


def test_expected_figures_of_sure_labels_are_the_plain_ones():
    rng = np.random.default_rng(0)
    scores, y, users = rng.normal(size=200).round(1), (rng.random(200) < 0.3) * 1.0, rng.integers(9, size=200)
    assert metrics.expected_auc(scores, y) == pytest.approx(metrics.auc(scores, y), rel=1e-12)
    plain = metrics.gauc(scores, y, users).value
    assert metrics.expected_gauc(scores, y, users) == pytest.approx(plain, rel=1e-12)


def test_expected_figures_say_what_is_wrong():
    for call in (metrics.expected_auc, lambda s, p: metrics.expected_gauc(s, p, np.zeros(len(p), int))):
        with pytest.raises(metrics.UndefinedMetric, match="both classes"):
            call([0.1, 0.2], [0.0, 0.0])
        with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
            call([0.1, 0.2], [0.5, 1.5])
        with pytest.raises(ValueError, match="scores are NaN"):
            call([0.1, np.nan], [0.5, 0.5])
        with pytest.raises(metrics.UndefinedMetric, match="0 rows"):
            call([0.1], [np.nan])


def test_the_error_of_an_auc_is_its_spread_over_draws_of_the_rows():
    r = np.random.default_rng(0)
    y = np.repeat([1.0, 0.0], [30, 70])
    for shift in (0.0, 1.0):
        drawn = [metrics.auc(r.standard_normal(100) + shift * y, y) for _ in range(2000)]
        assert metrics.auc_error(np.mean(drawn), 30, 70) == pytest.approx(np.std(drawn), rel=0.1)
    assert metrics.auc_error(0.5, 0, 5) == np.inf
