"""A stream gives every row once an epoch, well mixed, in bounded memory, and metrics of all rows."""

import itertools
import tomllib

import numpy as np
import pytest
import torch
from log_fixture import SCHEMA, log, write
from test_training import fit, one_sentence, weights

from mtlkit import stream as streams
from mtlkit import training
from mtlkit.data import DataError
from mtlkit.data.encoder import Encoder
from mtlkit.data.files import Log
from mtlkit.data.schema import Schema
from mtlkit.models import MMoE, Recommender, SharedBottom
from mtlkit.stream import Stream

TOML = Schema.of(tomllib.loads(SCHEMA))
SIZES = {"bottom": [8], "tower": [4]}


@pytest.fixture
def open_stream(tmp_path):
    def make(rows=3000, buffer=400, groups=100, frame=None):
        path = write(tmp_path, log(rows) if frame is None else frame, f"{groups}.parquet", groups)
        found = Log(path)
        return Stream(found, Encoder.fit(found, TOML), buffer)

    return make


def joined(batches):
    parts = list(batches)
    return [torch.cat([getattr(p, name) for p in parts]) for name in ("ids", "dense", "labels")]


def lines(columns):
    """Rows as sortable tuples; NaN becomes a number."""
    wide = torch.cat([part.double() for part in columns], dim=1).nan_to_num(-99)
    return wide[np.lexsort(wide.numpy().T)]


@pytest.mark.parametrize(
    ("buffer", "batch", "groups"), [(400, 64, 100), (10_000, 64, 100), (1, 7, 3000), (50, 64, 11)]
)
def test_every_training_row_comes_once_an_epoch(open_stream, buffer, batch, groups):
    stream = open_stream(buffer=buffer, groups=groups)
    train = stream.encoder.table(stream.log).part("train")
    expected = lines(
        [torch.from_numpy(train.ids), torch.from_numpy(train.dense), torch.from_numpy(train.label_matrix())]
    )
    for epoch in (1, 2):
        batches = list(stream.epoch(epoch, batch, seed=0))
        assert len(batches) == stream.steps(batch) == -(-len(train) // batch)
        assert {len(b) for b in batches[:-1]} == {batch}
        assert batches[0].ids.dtype == torch.int64
        assert torch.equal(lines(joined(batches)), expected)


def test_order_depends_on_seed_and_epoch_alone(open_stream):
    stream = open_stream()
    runs = {key: joined(stream.epoch(key[1], 64, key[0]))[1] for key in ((0, 1), (0, 2), (1, 1))}
    assert torch.equal(runs[0, 1], joined(stream.epoch(1, 64, 0))[1])
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(runs.values(), 2))


def test_rows_of_a_sorted_file_are_mixed(open_stream):
    """Age grows from the first row to the last; a batch must hold old and young."""
    frame = log(40_000).assign(age=lambda f: np.arange(len(f), dtype=float))
    stream = open_stream(buffer=4000, groups=200, frame=frame)
    age = joined(stream.epoch(1, 500, 0))[1][:, 0]
    means = torch.stack([part.mean() for part in age.split(500)[:-1]])
    assert means.std() < 0.4  # 0.04 if all rows were shuffled as one, 1 if none
    assert abs(np.corrcoef(age[1:], age[:-1])[0, 1]) < 0.25


def test_a_part_has_the_labels_and_figures_of_the_table(open_stream):
    stream = open_stream()
    table = stream.encoder.table(stream.log)
    model = Recommender(stream.encoder.frame(), SharedBottom, **SIZES)
    for name in ("validation", "test"):
        part, expected = stream.part(name), table.part(name)
        np.testing.assert_array_equal(part.labels.label_matrix(), expected.label_matrix())
        np.testing.assert_array_equal(part.labels.users, expected.users)
        np.testing.assert_allclose(
            training.predict(model, part, batch_size=37), training.predict(model, expected), rtol=1e-6
        )
        one, two = training.evaluate(model, part), training.evaluate(model, expected)
        np.testing.assert_allclose(one.astype(float), two.astype(float), rtol=1e-6)


def test_a_stream_trains_as_well_as_the_table(open_stream):
    stream = open_stream(rows=12_000, buffer=2000)
    table = stream.encoder.table(stream.log)
    results = []
    for source in (stream, table):
        model = Recommender(stream.encoder.frame(), MMoE, experts=2, expert=[16])
        history = fit(model, source, epochs=4, lr=1e-2, patience=None)
        results.append(training.evaluate(model, table.part("test")))
        assert history["step"].tolist() == [stream.steps(32) * e for e in range(1, 5)]
    assert results[0].loc["like", "auc"] > 0.8 and results[0].loc["minutes", "r2"] > 0.8
    np.testing.assert_allclose(results[0]["auc"][:2], results[1]["auc"][:2], atol=0.01)


def test_a_file_without_rows_among_others(tmp_path):
    frame = log()
    write(tmp_path, frame, "a.parquet")
    write(tmp_path, frame[:0], "b.parquet")
    stream = Stream(Log(tmp_path), Encoder.fit(Log(tmp_path), TOML))
    assert (
        stream.counts.sum() == len(frame)
        and len(joined(stream.epoch(1, 64, 0))[0]) == stream.counts[:, 0].sum()
    )


def test_a_stopped_stream_goes_on_to_the_same_end(open_stream, tmp_path):
    stream, file = open_stream(), tmp_path / "run.safetensors"
    options = {"epochs": 3, "checkpoint_steps": 5, "schedule": "one_cycle"}
    whole = Recommender(stream.encoder.frame(), SharedBottom, dropout=0.2, **SIZES)
    expected = fit(whole, stream, **options)

    class Broken(Stream):
        def epoch(self, number, *rest):
            for i, rows in enumerate(super().epoch(number, *rest)):
                if (number, i) == (2, 13):
                    raise KeyboardInterrupt
                yield rows

    model = Recommender(stream.encoder.frame(), SharedBottom, dropout=0.2, **SIZES)
    with pytest.raises(KeyboardInterrupt):
        fit(model, Broken(stream.log, stream.encoder, stream.buffer), checkpoint=file, **options)
    model = Recommender(stream.encoder.frame(), SharedBottom, dropout=0.2, **SIZES)
    history = fit(model, stream, checkpoint=file, **options)
    assert torch.equal(weights(model), weights(whole))
    assert history.drop(columns="seconds").equals(expected.drop(columns="seconds"))


def test_never_more_than_some_buffers_at_a_time(open_stream, monkeypatch):
    """Rows that were encoded and not yet given out, whatever the size of the log."""
    stream = open_stream(rows=30_000, buffer=1000, groups=250)
    read = given = most = 0
    encode = Encoder.encode

    def counted(self, batch, *rest):
        nonlocal read
        read += len(batch)
        return encode(self, batch, *rest)

    monkeypatch.setattr(Encoder, "encode", counted)
    for rows in stream.epoch(1, 50, 0):
        most = max(most, read - given)
        given += len(rows)
    assert given == stream.counts[:, 0].sum() and most < 4 * 1250


def test_errors_in_the_thread_reach_the_caller(open_stream, monkeypatch):
    stream = open_stream()
    monkeypatch.setattr(streams, "split_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(stream.epoch(1, 64, 0))


def test_what_it_refuses(open_stream, tmp_path):
    stream = open_stream()
    csv = Log(write(tmp_path, name="log.csv"))
    with pytest.raises(DataError, match="a CSV file cannot be streamed"):
        Stream(csv, stream.encoder)
    again = Stream(csv.as_parquet(tmp_path / "rows.parquet", TOML.columns()), Encoder.fit(csv, TOML))
    np.testing.assert_array_equal(again.counts.sum(axis=0), stream.counts.sum(axis=0))
    with pytest.raises(ValueError, match="buffer must be at least 1"):
        Stream(stream.log, stream.encoder, 0)
    other = Encoder.fit(stream.log, Schema.of(TOML.as_dict() | {"min_count": 45}))
    with pytest.raises(ValueError, match="are not those that the model was built for") as caught:
        fit(Recommender(other.frame(), SharedBottom, **SIZES), stream)
    one_sentence(caught)
