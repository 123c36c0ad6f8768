"""KuaiRand: split, encoding and history without leaks, clear errors for bad files, the real log."""

import hashlib
import importlib
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from census_fixture import entries, same, serve, write
from kuairand_fixture import LOG, USERS, VIDEOS, archive, log, text, texts, users, videos

from mtlkit.data import Table, fetch, kuairand
from mtlkit.data.fetch import DataError
from mtlkit.data.history import past
from mtlkit.data.kuairand_file import OUTCOMES

module = importlib.import_module("mtlkit.data.kuairand")  # the package's name is the function

REAL = next(
    (
        folder
        for folder in (os.environ.get("MTLKIT_DATA"), Path(__file__).parents[2] / "shared/data")
        if folder and fetch.find(Path(folder) / "kuairand-pure", LOG)
    ),
    None,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Each test has an empty cache of its own and no data folder."""
    monkeypatch.setenv("MTLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MTLKIT_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "made" / "KuaiRand-Pure" / "data", texts())


def load(tmp_path, rows, name="x", **options):
    changed = {key: options.pop(key) for key in ("users", "videos") if key in options}
    return kuairand(path=write(tmp_path / name, texts(rows, **changed)), **options)


def field(table, name):
    return table.ids[:, table.fields.index(name)]


def feature(table, name):
    return table.dense[:, table.dense_names.index(name)]


# --- where the files are -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gz", ".bz2"])
def test_plain_and_packed_files_give_the_same_table(folder, tmp_path, suffix):
    packed = write(tmp_path / "packed", texts(), suffix)
    assert same(kuairand(path=folder), kuairand(path=packed))


def test_folder_or_its_parents_or_the_environment(folder, monkeypatch):
    table = kuairand(path=folder)
    for named in (folder.parent, folder.parent.parent):
        assert same(table, kuairand(path=str(named)))
        monkeypatch.setenv("MTLKIT_DATA", str(named))
        assert same(table, kuairand())
    small = folder.parents[1] / "other" / "kuairand-pure"
    write(small, texts())
    assert same(table, kuairand(path=small.parent))


def test_every_standard_log_is_read_and_no_other_file(folder, tmp_path):
    early = [row | {"date": 20220421} for row in log(50, seed=5, days=(0, 1))]
    one = kuairand(path=folder)
    for name in ("log_random_4_22_to_5_08_pure.csv", "video_features_statistic_pure.csv"):
        (folder / name).write_text("not to be read")
    assert same(one, kuairand(path=folder))
    write(folder, {"log_standard_4_08_to_4_21_pure.csv": text(early)}, ".gz")
    two = kuairand(path=folder)
    assert len(two) == 450 and two.notes["days"] == (20220421, 20220508)
    assert len(two.part("train")) == len(one.part("train")) + 50
    for name in ("validation", "test"):
        assert np.array_equal(two.part(name).label_matrix(), one.part(name).label_matrix())


def test_overlapping_logs_are_refused(folder):
    write(folder, {"log_standard_4_22_to_5_08_pure.csv": text(log())})
    with pytest.raises(DataError, match="both hold rows of 20220425, .* keep one of them in the folder.$"):
        kuairand(path=folder)


def test_parts_of_one_log_may_share_days(tmp_path):
    rows = log()
    parts = {f"log_standard_4_22_to_5_08_27k_part{i + 1}.csv": text(rows[i::2]) for i in range(2)}
    files = {name.replace("pure", "27k"): data for name, data in texts().items() if name != LOG}
    assert len(kuairand(path=write(tmp_path / "x", files | parts), variant="27K")) == len(rows)


def test_missing_folder_and_missing_files_say_what_to_do(folder, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nowhere \(path\) is no folder; name the one with log_"):
        kuairand(path=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no log_standard_\*1k\*.csv and no user_.*copy"):
        kuairand(path=folder, variant="1K")
    (folder / VIDEOS).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"holds no video_features_basic_\*pure\*.csv .*copy the file"
    ):
        kuairand(path=folder)
    monkeypatch.setenv("MTLKIT_DATA", str(tmp_path / "typo"))
    with pytest.raises(FileNotFoundError, match=r"typo \(MTLKIT_DATA\) is no folder"):
        kuairand()
    write(folder, {VIDEOS: texts()[VIDEOS], "user_features_old_pure.csv": texts()[USERS]})
    with pytest.raises(DataError, match="holds user_features_old_pure.csv and user_.*; keep one of them.$"):
        kuairand(path=folder)


# --- arguments ---------------------------------------------------------------------------------


def test_tasks_and_their_categories(folder):
    table = kuairand(path=folder)
    assert table.tasks == ("is_click", "long_view", "is_like") and set(table.kinds.values()) == {"binary"}
    both = kuairand(("is_hate", "long_view"), path=folder)
    assert dict(both.categories) == {"is_hate": "interaction", "long_view": "watch"}
    assert dict(both.part("test").select(["is_hate"]).categories) == {"is_hate": "interaction"}
    every = kuairand(OUTCOMES, path=folder)
    for column, task in enumerate(OUTCOMES):
        assert every.labels[task].tolist() == [row[task] for row in log()], column


def test_a_category_needs_its_task():
    with pytest.raises(ValueError, match="categories names 'like', but the tasks are click"):
        parts = {"ids": np.zeros((1, 0)), "dense": np.zeros((1, 0)), "labels": {"click": np.ones(1)}}
        Table(**parts, split=np.zeros(1), kinds={"click": "binary"}, categories={"like": "watch"})


WRONG = {
    "tasks must be different names out of is_click, .*; got .'click'": {"tasks": ("click",)},
    "tasks must be different names": {"tasks": "is_click"},
    "tasks must be different names .* got ..is_like', 'is_like'": {"tasks": ("is_like", "is_like")},
    "variant must be one of Pure, 1K, 27K; got 'pure'": {"variant": "pure"},
    "min_count must be a whole number >= 1, got 0": {"min_count": 0},
    "history must be False, True, 'split' or 'row'; got 'day'": {"history": "day"},
    "dates must be the first days .* got .None, 'May'": {"dates": (None, "May", "2022-05-06")},
    "dates must be the first days": {"dates": ("2022-05-04", "2022-05-06")},
    "dates must grow": {"dates": (None, "2022-05-06", "2022-05-06")},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_wrong_arguments(folder, sentence):
    with pytest.raises(ValueError, match=f"^kuairand: {sentence}"):
        kuairand(path=folder, **WRONG[sentence])


# --- the split ---------------------------------------------------------------------------------


def test_split_by_date(folder):
    date = np.array([row["date"] for row in log()])
    assert np.array_equal(kuairand(path=folder).split, (date >= 20220504) + 1 * (date >= 20220506))
    table = kuairand(path=folder, dates=("2022-04-30", 20220502, "2022-05-03"))
    kept = date[date >= 20220430]
    assert np.array_equal(table.split, (kept >= 20220502) + 1 * (kept >= 20220503))


@pytest.mark.parametrize(
    ("days", "name"), [((9, 14), "train"), ((0, 9), "validation"), ((0, 11), "test")], ids=str
)
def test_empty_split(tmp_path, days, name):
    with pytest.raises(DataError, match=f"the {name} split is empty; the log in .* give other dates= or"):
        load(tmp_path, log(100, days=days))


# --- encoding ----------------------------------------------------------------------------------


def test_shapes_users_and_ranges(folder):
    table = kuairand(path=folder, history=True)
    assert len(table) == 400 and table.ids.dtype == np.int32 and table.dense.dtype == np.float32
    assert (table.ids >= 0).all() and (table.ids.max(axis=0) < table.cardinalities).all()
    assert table.users.tolist() == [row["user_id"] for row in log()]
    seen = table.part("train").dense.astype(float)
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-5)
    spread = seen.std(axis=0)
    assert np.isclose(spread, 1, atol=1e-4)[spread > 0.01].all() and np.isfinite(table.dense).all()


def test_outcomes_are_never_inputs(tmp_path):
    """Changing all outcomes changes no input; with the history, none of rows that came before."""
    rows = log()
    other = [row | {task: 1 - row[task] for task in OUTCOMES} for row in rows]
    for row in other:
        row |= {"play_time_ms": 7, "profile_stay_time": 8, "comment_stay_time": 9, "hourmin": 0}
    one, two = load(tmp_path, rows, "a"), load(tmp_path, other, "b")
    assert one.ids.tobytes() == two.ids.tobytes() and one.dense.tobytes() == two.dense.tobytes()
    assert not [n for n in one.fields + one.dense_names if re.search("is_click|long_view|play|stay|like", n)]


@pytest.mark.parametrize("history", [False, True])
def test_encoders_and_history_of_training_see_the_train_split_only(tmp_path, history):
    rows = log()
    other = [
        row | {"duration_ms": 999_999, "tab": 9, **dict.fromkeys(OUTCOMES, 1)}
        if row["date"] > 20220503
        else row
        for row in rows
    ]
    one, two = (load(tmp_path, r, n, history=history) for r, n in ((rows, "a"), (other, "b")))
    assert one.cardinalities == two.cardinalities and same(one.part("train"), two.part("train"))


def test_unknown_rare_and_missing_values(tmp_path):
    rows = log(300, days=(0, 9)) + log(60, seed=3, days=(9, 14))
    rows[0] |= {"user_id": 77, "video_id": 99, "tab": 8}  # of no user and no video in the files, and rare
    rows[-1] |= {"user_id": 78, "video_id": 98, "tab": 9, "duration_ms": ""}  # not in training at all
    one, two = (load(tmp_path, rows, n, min_count=m) for n, m in (("a", 1), ("b", 2)))
    last = one.ids[-1][[f != "hour" for f in one.fields]]
    assert (last == 0).all() and (one.dense[-1] == 0).all()
    for name in ("user_id", "video_id", "tab"):
        assert field(one, name)[0] > 0 and field(two, name)[0] == 0
    for name in ("author_id", "onehot_feat1", "tag"):
        assert field(one, name)[0] == 0
    assert (field(one, "onehot_feat4") == 0).all()  # empty in the whole file
    sizes = dict(zip(one.fields, one.cardinalities, strict=True))
    assert sizes["user_id"] == 22 and sizes["tab"] == 6 and sizes["onehot_feat4"] == 1


def test_join_tag_and_hour(folder):
    table, by_video = kuairand(path=folder), {row["video_id"]: row for row in videos()}
    by_user = {row["user_id"]: row for row in users()}
    columns = {
        "author_id": [by_video[row["video_id"]]["author_id"] for row in log()],
        "fans_user_num_range": [by_user[row["user_id"]]["fans_user_num_range"] for row in log()],
        "first_tag": [by_video[row["video_id"]]["tag"].split(",")[0] for row in log()],
        "hour": [row["hourmin"] // 100 for row in log()],
    }
    for name, expected in columns.items():
        pairs = set(zip(field(table, name).tolist(), expected, strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}), name
    assert (field(table, "first_tag") == 0).tolist() == [tag == "" for tag in columns["first_tag"]]
    fans = np.log1p([by_user[row["user_id"]]["fans_user_num"] for row in log()])
    train = table.split == 0
    expected = (fans - fans[train].mean()) / fans[train].std()
    np.testing.assert_allclose(feature(table, "fans_user_num"), expected, rtol=1e-4, atol=1e-5)


def test_duration_buckets_know_the_thresholds_of_the_labels(tmp_path):
    rows = log()
    for row, ms in zip(rows, (0, 1, 6_999, 7_000, 17_999, 18_000), strict=False):
        row |= {"duration_ms": ms, "date": 20220425}
    first = field(load(tmp_path, rows), "duration_bucket")[:6]
    assert first[0] < first[1] <= first[2] < first[3] <= first[4] < first[5]


# --- history -----------------------------------------------------------------------------------


def test_past_by_hand():
    entity, time = np.array([1, 0, 1, 1, 1]), np.array([20, 10, 20, 10, 30])
    count, sums = past(entity, time, np.array([[1, 0], [1, 1], [1, 0], [0, 1], [1, 1]]))
    assert count.tolist() == [1, 0, 1, 0, 3]  # the two rows at 20 do not see each other
    assert sums.tolist() == [[0, 1], [0, 0], [0, 1], [0, 0], [2, 1]]


@pytest.mark.parametrize("back", [False, True])
def test_past_is_the_loop(back):
    rng = np.random.default_rng(0)
    entity, time = rng.integers(5, size=200), rng.integers(40, size=200) + 1_650_000_000_000
    outcomes = rng.integers(2, size=(200, 3))
    asked = time - rng.integers(60, size=200) if back else time
    count, sums = past(entity, time, outcomes, asked if back else None)
    for i in range(200):
        before = (entity == entity[i]) & (time < asked[i])
        assert count[i] == before.sum() and sums[i].tolist() == outcomes[before].sum(axis=0).tolist()


def test_past_refuses_what_would_leak_or_overflow():
    one = np.ones(2, dtype=np.int64)
    with pytest.raises(ValueError, match="asked must not lie after time"):
        past(one, one, one[:, None], one + 1)
    with pytest.raises(OverflowError, match="number the entities from 0 on"):
        past(one * 2**40, np.array([0, 2**40]), one[:, None])
    with pytest.raises(ValueError, match="must have one length"):
        past(one, one, np.ones((3, 1), dtype=np.int64))
    with pytest.raises(ValueError, match="outcomes must be whole numbers, got float64"):
        past(one, one, np.full((2, 1), 0.5))
    assert past(one[:0], one[:0], np.zeros((0, 2), dtype=np.int64))[1].shape == (0, 2)


@pytest.mark.parametrize("history", ["split", "row"])
def test_history_is_that_of_earlier_rows(tmp_path, history):
    """Every feature against a loop over the rows; before train begins, rows count, too."""
    rows = log(300, users=6)
    table = load(tmp_path, rows, history=history, dates=("2022-04-27", "2022-05-04", "2022-05-06"))
    frame = pd.DataFrame(rows).assign(author=lambda f: f.video_id // 2)
    split = np.searchsorted([20220427, 20220504, 20220506], frame.date, side="right") - 1
    begin = [frame.time_ms[split == s].min() for s in range(3)]
    asked = frame.time_ms.copy()
    if history == "split":
        asked = np.minimum(asked, np.select([split < 2], [begin[1]], begin[2]))
    mean = frame.is_like[split == 0].mean()
    keys = {"user": ["user_id"], "user_tab": ["user_id", "tab"], "video": ["video_id"], "author": ["author"]}
    for name, columns in keys.items():
        expected = []
        for i, row in frame.iterrows():
            before = frame[(frame[columns] == row[columns]).all(axis=1) & (frame.time_ms < asked[i])]
            prior = 5 if "user" in name else 20
            share = (before.is_like.sum() + prior * mean) / (len(before) + prior)
            expected.append((np.log1p(len(before)), np.log(share / mean)))
        for x, feature_name in zip(
            np.array(expected).T, (f"past_{name}", f"past_{name}_is_like"), strict=True
        ):
            scaled = (x - x[split == 0].mean()) / x[split == 0].std()
            np.testing.assert_allclose(feature(table, feature_name), scaled[split >= 0], atol=1e-4)


def test_labels_of_a_split_do_not_reach_it_through_the_history(tmp_path):
    """ "split": test labels change no input at all. "row": they change those of later test rows."""
    rows = log(users=3)
    other = [row | dict.fromkeys(OUTCOMES, 1) if row["date"] > 20220505 else row for row in rows]
    one, two = (load(tmp_path, r, n, history="split") for r, n in ((rows, "a"), (other, "b")))
    assert one.dense.tobytes() == two.dense.tobytes()
    one, two = (load(tmp_path, r, n, history="row") for r, n in ((rows, "a"), (other, "b")))
    assert np.array_equal(one.dense[one.split < 2], two.dense[one.split < 2])
    assert not np.array_equal(one.dense, two.dense)


def test_copies_of_a_row_stay_and_do_not_see_each_other(tmp_path):
    rows = log(200)
    twice = [row for row in rows for _ in range(2)]
    table = load(tmp_path, twice, history="row")
    assert len(table) == 400 and np.array_equal(table.dense[::2], table.dense[1::2])


def test_a_task_without_a_positive_in_training(tmp_path):
    rows = [row | {"is_hate": int(row["date"] > 20220503)} for row in log()]
    assert np.isfinite(load(tmp_path, rows, tasks=("is_hate",), history="row").dense).all()


# --- bad files ---------------------------------------------------------------------------------


def with_log(line=None, **cell):
    """The made files with the log's fourth line changed."""
    lines = text(log()).split(b"\n")
    header, cells = lines[0].decode().split(","), lines[3].decode().split(",")
    for column, value in cell.items():
        cells[header.index(column)] = value
    lines[3] = ",".join(cells).encode() if line is None else line(lines[3])
    return texts() | {LOG: b"\n".join(lines)}


def without(name, column):
    return texts() | {name: texts()[name].replace(column.encode(), b"other", 1)}


WHOLE = "is not a whole number from 0 to"
FAULTS = {
    "text": (with_log(user_id="u7"), f"{LOG}, line 4, column user_id: 'u7' {WHOLE}"),
    "empty": (with_log(video_id=""), f"{LOG}, line 4, column video_id: '' {WHOLE}"),
    "negative": (with_log(time_ms="-5"), f"{LOG}, line 4, column time_ms: '-5' {WHOLE}"),
    "fraction": (with_log(tab="1.5"), f"{LOG}, line 4, column tab: '1.5' {WHOLE}"),
    "label": (with_log(is_like="2"), f"{LOG}, line 4, column is_like: '2' is not 0 or 1"),
    "no label": (with_log(long_view=""), f"{LOG}, line 4, column long_view: '' is not 0 or 1"),
    "date": (
        with_log(date="2022"),
        f"{LOG}, line 4, column date: '2022' is not a whole number from 20000101",
    ),
    "duration": (with_log(duration_ms="long"), f"{LOG}, line 4, column duration_ms: 'long' is not a number"),
    "infinite": (with_log(duration_ms="inf"), f"{LOG}, line 4, column duration_ms: 'inf' is not a number"),
    "short": (with_log(lambda t: t[:20]), rf"{LOG}, line 4 has \d+ columns instead of 19"),
    "long": (with_log(lambda t: t + b",1"), f"{LOG}, line 4 has 20 columns instead of 19"),
    "bytes": (with_log(lambda _: b"\xff"), f"{LOG}, line 4 is no UTF-8 text"),
    "header only": (texts() | {LOG: texts()[LOG].partition(b"\n")[0]}, f"{LOG} has no rows below its header"),
    "no header": (texts() | {LOG: b"1,2,3\n"}, f"{LOG}, line 1 lacks the column user_id"),
    "column": (without(LOG, "is_like"), f"{LOG}, line 1 lacks the column is_like"),
    "user column": (without(USERS, "onehot_feat3"), f"{USERS}, line 1 lacks the column onehot_feat3"),
    "video column": (without(VIDEOS, "tag"), f"{VIDEOS}, line 1 lacks the column tag"),
    "user number": (
        texts(users=[row | {"register_days": "new"} for row in users()]),
        f"{USERS}, line 2, column register_days: 'new' is not a number",
    ),
    "user id": (
        texts(users=[row | {"user_id": f"u{row['user_id']}"} for row in users()]),
        f"{USERS}, line 2, column user_id: 'u0' {WHOLE}",
    ),
    "cut users": (texts() | {USERS: texts()[USERS][:-30]}, rf"{USERS}, line 21 has \d+ columns"),
    "user twice": (texts(users=[*users(), users()[3]]), f"{USERS} has two lines for user_id 3; keep one"),
    "other users": (
        texts(users=[row | {"user_id": row["user_id"] + 500} for row in users()]),
        f"{USERS} has no line for any user_id of the log; take the file of the same data set",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_file_line_and_column(tmp_path, cache, fault):
    files, sentence = FAULTS[fault]
    with pytest.raises(DataError, match=f"^{sentence}") as caught:
        kuairand(path=write(tmp_path / "x", files))
    assert "\n" not in str(caught.value) and not entries(cache)


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"no archive", lambda d: b""])
def test_truncated_and_damaged_files(tmp_path, cache, damage):
    path = write(tmp_path / "x", texts(), ".gz")
    file = path / f"{LOG}.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=f"{re.escape(file.name)} is .*(damaged|empty).*again") as caught:
        kuairand(path=path)
    assert "\n" not in str(caught.value) and not entries(cache)


# --- the cache and the download ----------------------------------------------------------------


def test_second_load_does_not_parse_and_other_bytes_do(folder, cache, monkeypatch):
    first = kuairand(path=folder, history=True)
    assert len(entries(cache)) == 2
    with monkeypatch.context() as patch:
        for name in ("parse", "_history"):
            patch.setattr(module, name, lambda *_, **__: pytest.fail("done again"))
        assert same(first, kuairand(path=folder, history=True))
    changed = log()
    changed[0]["is_click"] = 1 - changed[0]["is_click"]
    stat = (folder / LOG).stat()
    write(folder, {LOG: text(changed)})
    os.utime(folder / LOG, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size and time
    second = kuairand(path=folder, history=True)
    assert second.labels["is_click"][0] != first.labels["is_click"][0]
    assert not same(first, second)


def test_damaged_entry_is_built_again(folder, cache):
    first = kuairand(path=folder)
    (entry,) = cache.glob("*.npz")
    whole = entry.read_bytes()
    for damaged in (whole[: len(whole) // 2], b""):
        entry.write_bytes(damaged)
        assert same(first, kuairand(path=folder)) and len(entry.read_bytes()) == len(whole)


@pytest.fixture
def official(monkeypatch):
    """A server with an archive that is the official one for this test."""
    with serve(archive(texts())) as server:
        url = server.url.replace("census+income+kdd.zip", "KuaiRand-{}.tar.gz")
        monkeypatch.setattr(module, "_URL", url)
        digest = hashlib.md5(server.body, usedforsecurity=False).hexdigest()
        monkeypatch.setitem(module._MD5, "Pure", digest)
        yield server


def test_download_then_no_network_needed(official, folder, cache):
    table = kuairand()
    assert same(table, kuairand(path=folder)) and table.notes["source"].endswith("KuaiRand-Pure.tar.gz")
    official.status = 500
    for entry in cache.glob("*.npz"):  # the archive is kept: a lost entry needs no network either
        entry.unlink()
    assert same(table, kuairand()) and len(official.requests) == 1


def test_wrong_checksum_is_removed(official, cache):
    official.body = archive(texts(log(seed=9)))
    with pytest.raises(DataError, match="another checksum than md5:.* run it again, or put log_") as caught:
        kuairand()
    assert "\n" not in str(caught.value) and entries(cache / "downloads") == []


def test_no_network(official):
    official.status = 503
    with pytest.raises(DataError, match="the server answered 503.*path=.*MTLKIT_DATA"):
        kuairand()


# --- the real log ------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.skipif(REAL is None, reason="no kuairand-pure under MTLKIT_DATA or ../shared/data")
def test_real_log():
    """Counts of the part that runs from 04-25 to 05-08; all of the official rows of these days."""
    table = kuairand(OUTCOMES, path=REAL, dates=("2022-04-25", "2022-05-04", "2022-05-06"), history=True)
    assert np.bincount(table.split).tolist() == [154_071, 30_990, 43_268]
    assert len(np.unique(table.users)) == 25_156
    rates = {
        "is_click": 0.4419,
        "long_view": 0.3108,
        "is_profile_enter": 0.01853,
        "is_like": 0.01715,
        "is_comment": 0.00254,
        "is_follow": 0.00133,
        "is_forward": 0.00085,
        "is_hate": 0.00083,
    }
    for task, rate in rates.items():
        assert table.labels[task].mean() == pytest.approx(rate, abs=6e-5 if rate > 0.1 else 6e-6), task
    assert np.corrcoef(table.labels["is_click"], table.labels["long_view"])[0, 1] == pytest.approx(
        0.75, abs=5e-3
    )
    assert np.isfinite(table.dense).all() and (table.ids.max(axis=0) < table.cardinalities).all()
    held = table.part("test")
    for name in ("user_id", "video_id"):  # new users and videos, but few
        assert 0 < (field(held, name) == 0).mean() < 0.1
    assert (field(held, "author_id")[field(held, "video_id") > 0] > 0).all()
