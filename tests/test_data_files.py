"""The user's own files: CSV and Parquet say the same, training rows decide, bad input gets one sentence."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from log_fixture import SCHEMA, log, write

from mtlkit.data import DataError
from mtlkit.data.encoder import Encoder, read_table
from mtlkit.data.files import Log
from mtlkit.data.schema import Schema
from mtlkit.stream import all_rows

TOML = Schema.of(__import__("tomllib").loads(SCHEMA))


def equal(one, two):
    assert (one.fields, one.cardinalities, one.dense_names) == (
        two.fields,
        two.cardinalities,
        two.dense_names,
    )
    for name in ("ids", "split"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_allclose(one.dense, two.dense, atol=1e-6)
    np.testing.assert_array_equal(one.label_matrix(), two.label_matrix())


def test_the_table_is_what_pandas_makes_of_the_frame(tmp_path):
    frame = log()
    table = read_table(write(tmp_path, frame), tmp_path / "schema.toml")
    split = np.where(frame["day"] < "2024-05-08", 0, np.where(frame["day"] < "2024-05-10", 1, 2))
    np.testing.assert_array_equal(table.split, split)
    train = frame[split == 0]
    for f, name in enumerate(table.fields):
        known = sorted(train[name].dropna().unique())
        expected = frame[name].map({value: i + 1 for i, value in enumerate(known)}).fillna(0)
        np.testing.assert_array_equal(table.ids[:, f], expected)
        assert table.cardinalities[f] == len(known) + 1
    for k, x in enumerate((frame["age"], np.log1p(frame["seconds"]))):
        expected = ((x - x[split == 0].mean()) / x[split == 0].std(ddof=0)).fillna(0)
        np.testing.assert_allclose(table.dense[:, k], expected, atol=1e-5)
    for task in ("like", "share", "minutes"):
        np.testing.assert_array_equal(table.labels[task], frame[task].astype(np.float32))
    assert table.kinds == {"like": "binary", "share": "binary", "minutes": "regression"}
    assert table.categories["minutes"] == "watch"
    assert pd.Series(table.users).nunique() == frame["user"].nunique()


@pytest.mark.parametrize(
    "kind", ["csv", "folder", "dictionary", "row groups", "json", "timestamps", "numbers"]
)
def test_the_same_log_in_other_clothes(tmp_path, kind):
    frame = log()
    expected = read_table(write(tmp_path, frame), tmp_path / "schema.toml")
    other = tmp_path / "other"
    other.mkdir()
    schema = tmp_path / "schema.toml"
    if kind == "csv":
        path = write(other, frame, "log.csv")
    elif kind == "folder":
        for part in range(3):
            frame[part * 1000 : (part + 1) * 1000].to_parquet(other / f"part{part}.parquet")
        path = other
    elif kind == "dictionary":
        path = write(other, frame.astype({"city": "category", "tab": "category"}))
    elif kind == "row groups":
        path = write(other, frame, groups=7)
    elif kind == "json":
        schema = other / "schema.json"
        schema.write_text(json.dumps(TOML.as_dict()))
        path = write(other, frame)
    else:
        days = pd.to_datetime(frame["day"])
        days = (
            days + pd.Timedelta("23:59:00")
            if kind == "timestamps"
            else days.dt.strftime("%Y%m%d").astype(int)
        )
        path = write(other, frame.assign(day=days))
    found = read_table(path, schema)
    if kind == "csv":  # text sorts otherwise than numbers
        for f in range(3):
            pairs = np.unique(np.stack([found.ids[:, f], expected.ids[:, f]]), axis=1)
            assert pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))
        found = replace(found, ids=expected.ids)
    equal(found, expected)


def test_an_encoder_survives_the_disk_and_meets_new_values(tmp_path):
    path = write(tmp_path)
    encoder = Encoder.fit(Log(path), TOML)
    encoder.save(tmp_path / "encoder.parquet")
    again = Encoder.load(tmp_path / "encoder.parquet")
    assert again.schema == encoder.schema and again.scale == encoder.scale
    equal(again.table(Log(path)), encoder.table(Log(path)))
    new = pd.DataFrame({"user": [3, 999, 3], "tab": [1, 1, 77], "city": ["Rome", None, "Paris"]})
    new = new.assign(age=[35.0, np.nan, 35.0], seconds=1.0)
    part = all_rows(Log(write(tmp_path, new, "new.csv")), again)
    one, two = part.batches(2)
    assert (one.ids == 0).tolist() == [[False] * 3, [True, False, True]]
    assert (two.ids == 0).tolist() == [[False, True, True]] and one.dense[1, 0] == 0
    assert np.isnan(part.labels.label_matrix()).all() and part.labels.users.shape == (3,)


def test_rare_values_share_the_id_of_the_unknown(tmp_path):
    rare = Schema.of(TOML.as_dict() | {"min_count": 50})
    frame = log()
    train = frame[frame["day"] < "2024-05-08"]
    table = read_table(write(tmp_path, frame), rare)
    counts = train["user"].value_counts()
    known = counts.index[counts >= 50]
    assert 0 < len(known) < len(counts)
    np.testing.assert_array_equal(table.ids[:, 0] > 0, frame["user"].isin(known))


def test_a_random_split_depends_on_seed_and_row_alone(tmp_path):
    frame = log(20_000)
    splits = {}
    for groups, seed in ((500, 0), (333, 0), (500, 1)):
        rule = {"random": [0.7, 0.2, 0.1], "seed": seed}
        path = write(tmp_path, frame, f"{groups}.parquet", groups)
        splits[groups, seed] = read_table(path, Schema.of(TOML.as_dict() | {"split": rule})).split
    np.testing.assert_array_equal(splits[500, 0], splits[333, 0])
    assert np.mean(splits[500, 0] == splits[500, 1]) < 0.7
    np.testing.assert_allclose(np.bincount(splits[500, 0]) / 20_000, [0.7, 0.2, 0.1], atol=0.01)
    assert abs(np.corrcoef(splits[500, 0][1:], splits[500, 0][:-1])[0, 1]) < 0.03


def test_a_split_column(tmp_path):
    part = np.array(["train", "validation", "test"])[np.arange(3000) % 3]
    frame = log().assign(part=part)
    table = read_table(write(tmp_path, frame), Schema.of(TOML.as_dict() | {"split": {"column": "part"}}))
    np.testing.assert_array_equal(table.split, np.arange(3000) % 3)


def test_many_values_are_counted_in_bounded_memory(tmp_path, monkeypatch):
    frame = log(5000).assign(user=lambda f: np.arange(len(f)) % 2500)
    expected = read_table(write(tmp_path, frame), TOML)
    monkeypatch.setattr("mtlkit.data.encoder._COMPACT", 10)
    equal(read_table(write(tmp_path, frame, groups=100), TOML), expected)


BAD_SCHEMAS = {
    "unknown entry": ({"label": {}}, "unknown entry 'label'; there are labels, split, categorical"),
    "no labels": ({"labels": {}}, "no labels; give at least one"),
    "kind": ({"labels": {"like": "yes"}}, "'like' must be 'binary' or 'regression', got 'yes'"),
    "label as input": (
        {"labels": {"age": "regression"}, "categories": {}},
        "'age' as a label and as an input",
    ),
    "no inputs": ({"categorical": [], "dense": [], "log": []}, "no inputs"),
    "one name": ({"categorical": "user"}, "categorical must be a list of column names, got 'user'"),
    "twice": ({"categorical": ["tab", "tab"]}, "'tab' twice"),
    "log": ({"log": ["tab"]}, "log names 'tab', which is none of age, seconds"),
    "categories": ({"categories": {"follow": "x"}}, "categories names 'follow'"),
    "min_count": ({"min_count": 0}, "min_count must be a whole number"),
    "split": ({"split": {"day": "x"}}, "must be one of: column = "),
    "two splits": ({"split": {"column": "a", "random": [1, 0, 0]}}, "must be one of"),
    "date": (
        {"split": {"date": "day", "validation": "May", "test": "2024-05-10"}},
        "validation = its first day",
    ),
    "dates": ({"split": {"date": "day", "validation": "2024-05-10", "test": "2024-05-10"}}, "begin before"),
    "shares": ({"split": {"random": [0.5, 0.1, 0.1]}}, "three shares that sum to 1"),
    "seed": ({"split": {"random": [0.8, 0.1, 0.1], "seed": -1}}, "seed must be"),
}


@pytest.mark.parametrize("fault", BAD_SCHEMAS)
def test_bad_schemas_get_one_sentence(tmp_path, fault):
    parts, words = BAD_SCHEMAS[fault]
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(TOML.as_dict() | parts))
    with pytest.raises(DataError, match=words) as caught:
        Schema.read(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def set_to(**columns):
    return lambda frame: frame.assign(**columns)


BAD_LOGS = {
    "no column": (lambda f: f.drop(columns="tab"), "has no column 'tab'; it has day, user"),
    "words": (set_to(age="old"), "row 1.*: column 'age' must hold numbers, but holds 'old'"),
    "infinite": (set_to(age=np.inf), "row 1.*: column 'age' holds inf; leave it empty"),
    "label 2": (
        set_to(like=2.0),
        "row 1.*: label 'like' has the value 2; a binary label must be 0, 1 or empty",
    ),
    "no label": (set_to(like=np.nan), "task 'like' has no observed label in the train split"),
    "no user": (lambda f: f.assign(user=f["user"].where(f["user"] > 3)), "user column 'user' is empty"),
    "a day": (set_to(day="yesterday"), "date column 'day' has the value 'yesterday'; use YYYY-MM-DD"),
    "milliseconds": (set_to(day=1714521600000), "date column 'day' has the value '1714521600000'"),
    "no such day": (set_to(day="2024-05-39"), "date column 'day' has the value '2024-05-39'; use"),
    "empty split": (set_to(day="2024-05-01"), "the validation split is empty: 0 of 3000 rows"),
}


@pytest.mark.parametrize("kind", ["log.parquet", "log.csv"])
@pytest.mark.parametrize("fault", BAD_LOGS)
def test_bad_logs_get_one_sentence(tmp_path, fault, kind):
    spoil, words = BAD_LOGS[fault]
    with pytest.raises(DataError, match=words) as caught:
        read_table(write(tmp_path, spoil(log()), kind), TOML)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{tmp_path / kind}")


ONE_ROW = {
    "age": ("old", "column 'age' must hold numbers, but holds 'old'"),
    "seconds": (np.inf, "column 'seconds' holds inf; leave it empty"),
    "minutes": (1e300, "column 'minutes' holds 1e+300; leave it empty"),
    "like": (2, "label 'like' has the value 2; a binary label"),
    "user": (None, "the user column 'user' is empty; every row needs its user"),
    "day": ("2024-02-30", "the date column 'day' has the value '2024-02-30'; use"),
}


@pytest.mark.parametrize("kind", ["log.parquet", "log.csv", "logs"])
@pytest.mark.parametrize("column", ONE_ROW)
def test_the_row_of_a_wrong_value_is_named(tmp_path, column, kind):
    """The last day belongs to the test split: it is looked at before the training, too."""
    value, words = ONE_ROW[column]
    frame = log().sort_values("day", ignore_index=True).astype({column: object})
    frame.loc[2600, column] = value
    frame = frame.astype({column: str if column in ("age", "day") else float})
    if kind == "logs":  # row 601 of the second file
        (tmp_path / kind).mkdir()
        write(tmp_path / kind, frame[:2000], "a.parquet")
        write(tmp_path / kind, frame[2000:], "b.parquet", groups=250)
        where = f"{tmp_path / 'logs/b.parquet'}, row 601: "
    else:
        write(tmp_path, frame, kind, groups=700)
        where = f"{tmp_path / kind}, row 2601{' below the header' if kind == 'log.csv' else ''}: "
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / kind, TOML)
    assert str(caught.value).startswith(where + words)


@pytest.mark.parametrize(
    ("name", "content"), [("a.parquet", b"no"), ("a.csv", b""), ("b.csv", b"day,user\n1\n")]
)
def test_files_that_are_none_get_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_table(tmp_path / name, TOML)
    with pytest.raises(DataError, match="is no file; name a .csv or .parquet"):
        read_table(tmp_path / "missing.parquet", TOML)


def test_damage_inside_a_file_is_said_with_its_name(tmp_path):
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    content[300:3000] = bytes(2700)
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{path} cannot be read as Parquet") as caught:
        read_table(path, TOML)
    assert "\n" not in str(caught.value)
    lines = log(50).to_csv(index=False).splitlines()
    (tmp_path / "log.csv").write_text("\n".join([*lines[:20], "2024-05-01,3", *lines[20:]]))
    with pytest.raises(DataError, match=r"log.csv cannot be read as CSV \(.*Row #21"):
        read_table(tmp_path / "log.csv", TOML)


def test_two_columns_of_one_name(tmp_path):
    frame = log(50)
    frame.insert(3, "age", frame["age"] * 2, allow_duplicates=True)
    frame.to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(DataError, match="log.csv has two columns 'age'; rename one"):
        read_table(tmp_path / "log.csv", TOML)


def test_parts_of_a_folder_with_other_types(tmp_path):
    frame = log()
    write(tmp_path, frame[:2000], "a.parquet")
    pq.write_table(pa.Table.from_pandas(frame[2000:].astype({"tab": str})), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=f"^{tmp_path}: column 'tab' is int64 here and .*string there"):
        read_table(tmp_path, TOML)
