"""What a ``Table`` takes, which model reads it, and one sentence for all else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_training import NAN, fit, make_table

from mtlkit import training
from mtlkit.models import MMoE, Recommender, SharedBottom

TABLE = make_table()


def same(one, two):
    np.testing.assert_array_equal(one.label_matrix(), two.label_matrix())
    np.testing.assert_array_equal(one.ids, two.ids)
    np.testing.assert_array_equal(one.dense, two.dense)
    np.testing.assert_array_equal(one.split, two.split)
    assert (one.ids.dtype, one.dense.dtype, one.split.dtype) == (np.int32, np.float32, np.int8)


@pytest.mark.parametrize(
    "kind",
    [
        np.ndarray.tolist,
        torch.from_numpy,
        lambda x: x.astype(np.float64),
        lambda x: x.astype(object),
        pd.DataFrame,
    ],
    ids=["list", "tensor", "float64", "object", "pandas"],
)
def test_other_kinds_of_columns_become_arrays(kind):
    def column(y):
        if kind is pd.DataFrame:  # the index of a Series, here backwards, means nothing
            return pd.Series(y, index=np.arange(len(y))[::-1])
        return kind(y)

    other = replace(
        TABLE,
        ids=kind(TABLE.ids),
        dense=kind(TABLE.dense),
        split=column(TABLE.split),
        labels={task: column(y) for task, y in TABLE.labels.items()},
        cardinalities=list(TABLE.cardinalities),
        fields=list(TABLE.fields),
    )
    same(other, TABLE)
    same(other.rows(np.arange(7)), TABLE.rows(np.arange(7)))
    assert (other.cardinalities, other.fields) == (TABLE.cardinalities, TABLE.fields)


def test_arrays_of_the_right_type_are_not_copied():
    again = replace(TABLE)
    assert again.ids is TABLE.ids and again.dense is TABLE.dense and again.split is TABLE.split
    assert again.labels["like"] is TABLE.labels["like"]


def like(y):
    return {"labels": {**TABLE.labels, "like": y}}


BAD = {
    "half an id": ({"ids": TABLE.ids + 0.5}, "ids must be whole numbers, got"),
    "no id": ({"ids": np.full(TABLE.ids.shape, NAN)}, "ids must be whole numbers, got nan"),
    "large id": ({"ids": TABLE.ids.astype(np.int64) + 2**40}, "ids must be whole numbers|ids must lie"),
    "one column": (
        {"ids": TABLE.ids[:, 0]},
        r"ids must be a matrix of numbers.* got int32 of shape \(240,\)",
    ),
    "text": ({"ids": TABLE.ids.astype(str)}, "ids must be a matrix of numbers"),
    "complex": ({"dense": TABLE.dense * 1j}, "dense must be a matrix of numbers.* got complex64"),
    "ragged": (
        {"dense": pd.DataFrame({"age": ["old"] * 240, "length": 1})},
        "dense must be a matrix of numbers",
    ),
    "a label as a column": (like(TABLE.labels["like"][:, None]), "label like must be numbers in one column"),
    "words": (like(np.array(["yes"] * 240)), "label like must be numbers in one column; got <U3"),
    "split": ({"split": np.where(TABLE.split == 2, 7, TABLE.split)}, "split has the value 7; 0 is train"),
    "split in words": ({"split": np.array(["train"] * 240)}, "split must be numbers in one column"),
    "length": (like(TABLE.labels["like"][:7]), "label like has 7 rows, but split has 240"),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_is_no_table_gets_one_sentence(fault):
    changes, said = BAD[fault]
    with pytest.raises(ValueError, match=said) as caught:
        replace(TABLE, **changes)
    assert "\n" not in str(caught.value)


def test_a_table_says_what_it_holds():
    said = "2 fields, 2 dense features; tasks like, share, minutes"
    assert repr(TABLE) == f"Table(240 rows (120 train, 60 validation, 60 test); {said})"
    assert TABLE == TABLE and TABLE != replace(TABLE) and {TABLE: 1}[TABLE] == 1
    with pytest.raises(ValueError, match="a task is named twice in like, like"):
        TABLE.select(("like", "like"))


def test_numbers_beyond_float32_are_infinite():
    dense = TABLE.dense.astype(np.float64)
    dense[3, 1] = 1e300
    assert replace(TABLE, dense=dense).dense[3, 1] == np.inf


def test_what_cannot_be_trained_or_read_gets_one_sentence():
    model, table = Recommender(TABLE, MMoE), TABLE
    with pytest.raises(ValueError, match="A MMoE cannot read a table; put it behind an encoder"):
        fit(MMoE(8, 3), table)
    with pytest.raises(ValueError, match="a Table or a Stream is needed, got a DataFrame"):
        fit(model, pd.DataFrame())
    with pytest.raises(ValueError, match="give the class MMoE and its sizes, not a model"):
        Recommender(table, MMoE(8, 3))
    with pytest.raises(ValueError, match="MMoE cannot be built with these sizes: .*int"):
        Recommender(table, MMoE, expert=16)
    with pytest.raises(ValueError, match="SharedBottom cannot be built with these sizes: .*'bottom'"):
        Recommender(table, SharedBottom)
    with pytest.raises(ValueError, match="neither fields nor dense features"):
        Recommender(
            replace(
                table,
                ids=table.ids[:, :0],
                dense=table.dense[:, :0],
                cardinalities=(),
                fields=(),
                dense_names=(),
            ),
            MMoE,
        )
    for size in (-1, 0, 2.5):
        with pytest.raises(ValueError, match="predict: batch_size must be a whole number"):
            training.predict(model, table, batch_size=size)


def test_a_model_reads_the_fields_that_it_was_built_for():
    model, table = Recommender(TABLE, MMoE), TABLE
    for name, other in {
        "fields": replace(table, fields=table.fields[::-1]),
        "dense_names": replace(table, dense_names=("other", *table.dense_names[1:])),
        "kinds": replace(table, kinds=dict.fromkeys(table.tasks, "regression")),
    }.items():
        with pytest.raises(
            ValueError, match=f"The table's {name} are not those that the model was built for"
        ):
            training.predict(model, other)


def test_prediction_keeps_the_mode():
    model = Recommender(TABLE, MMoE)
    for training_mode in (True, False):
        model.train(training_mode)
        training.evaluate(model, TABLE)
        assert model.training == training_mode
