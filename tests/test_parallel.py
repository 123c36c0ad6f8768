"""Two processes train as one: the same curves on the same global batches, the same figures, no row twice."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from launch import torchrun
from log_fixture import log, write
from parallel_worker import MODELS, results
from torch import nn

from mtlkit.parallel import add_up, average_buffers, first_does, gather, place, share, together

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    write(folder, log(2000), groups=77)
    torchrun([HERE / "parallel_worker.py", folder], {"PYTHONPATH": str(HERE)})
    return results(folder), json.loads((folder / "two.json").read_text())


@pytest.mark.heavy
@pytest.mark.parametrize("name", MODELS)
def test_two_processes_give_the_curves_of_one(both, name):
    one, two = (found[name] for found in both)
    assert one.keys() == two.keys()
    for column in one:
        # rounding may swap two scores that are nearly equal: some pairs among 100,000
        bound = {"rtol": 0, "atol": 2e-4} if "auc" in column else {"rtol": 1e-5}
        np.testing.assert_allclose(two[column], one[column], err_msg=column, **bound)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["figures", "stream figures"])
def test_gathered_figures_equal_those_of_one_process(both, name):
    one, two = (found[name] for found in both)
    exact = {"auc", "gauc", "observed", "positives", "auc_ceiling", "gauc_ceiling"}
    for metric in one:
        for task in one[metric]:
            a, b = one[metric][task], two[metric][task]
            assert a == b or (a != a and b != b) or (metric not in exact and a == pytest.approx(b, rel=1e-6))


@pytest.mark.heavy
def test_each_row_of_a_stream_goes_to_one_process(both):
    one, two = both
    (rows, steps), (other_rows, other_steps) = two["rows and steps by process"]
    assert rows + other_rows == one["stream rows"] and steps == other_steps
    assert abs(rows - other_rows) <= 77  # a row group
    loss = two["stream"]["validation/loss"]
    assert loss[-1] < loss[0] and loss[-1] == pytest.approx(one["stream"]["validation/loss"][-1], rel=0.1)


@pytest.mark.heavy
def test_several_processes_go_on_to_the_same_end(both):
    for found in both:
        assert found["resumed"] == found["whole"]
    one, two = (found["whole"]["train/loss/click"] for found in both)
    assert one != two  # each process drops other inputs


def test_one_process_is_left_alone():
    x, model = torch.arange(6.0), nn.BatchNorm1d(2)
    assert place() == (0, 1) and share(6) == slice(0, 6)
    assert gather(x) is x and add_up(x) is x and together(model) is model
    average_buffers(model)
    assert model.running_var.tolist() == [1, 1]
    with pytest.raises(KeyError):
        first_does(lambda: {}["missing"])
