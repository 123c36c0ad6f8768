"""Exercises 1.2, 1.3, 1.10: the encoder, the model and its towers."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from autograde_tests.exercise import ONE_ROW_ONE_TASK, Draw, Exercise, Trial, some

# --- 1.2 encode fields -------------------------------------------------------------------------------------


class FieldEncoder(nn.Module):
    def __init__(self, sizes, width):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes)

    def forward(self, ids, dense):
        rows = [table(ids[:, f]) for f, table in enumerate(self.tables)]
        return torch.cat([*rows, dense], dim=1)


def _encoder(forward, init=None):
    """A FieldEncoder with another forward, or other parts."""
    body = {"forward": forward} | ({"__init__": init} if init else {})
    return type("FieldEncoder", (FieldEncoder,), body)


def _rows(self, ids):
    return [table(ids[:, f]) for f, table in enumerate(self.tables)]


def _one_table(self, sizes, width):
    nn.Module.__init__(self)
    self.tables = nn.Embedding(sum(sizes), width)
    self.sizes = sizes


def _encoder_draw(rng, B=None, F_=None, K=None):
    B, fields, dense = (
        B or int(rng.integers(4, 9)),
        F_ or int(rng.integers(2, 5)),
        K or int(rng.integers(1, 4)),
    )
    size, width = int(rng.integers(5, 9)), int(rng.integers(2, 5))
    sizes = [size] * fields  # equal sizes: a look-up in the wrong table is a wrong number, not a crash
    return Draw(
        {"ids": rng.integers(0, size, (B, fields)), "dense": rng.normal(size=(B, dense)).astype(np.float32)},
        build={"sizes": sizes, "width": width},
    )


ENCODE = Exercise(
    id="1.2",
    title="encode fields and dense features as one row",
    how="module",
    reference=FieldEncoder,
    shape="(B, F*e + K)",
    grads=["dense"],
    example=Trial(
        "two users, two fields, one dense feature (worked by hand)",
        {"ids": np.array([[0, 1], [1, 1]]), "dense": np.array([[5.0], [6.0]], np.float32)},
        grads=["dense"],
        build={"sizes": [2, 2], "width": 2},
        state={
            "tables.0.weight": np.array([[1, 2], [3, 4]], np.float32),
            "tables.1.weight": np.array([[10, 20], [30, 40]], np.float32),
        },
        want={"out": np.array([[1, 2, 30, 40, 5], [3, 4, 30, 40, 6]])},
    ),
    draw=_encoder_draw,
    sizes={"random sizes": {}, "more rows": {"B": 20}, "a batch of one": {"B": 1}, "one field": {"F_": 1}},
    mistakes={
        "the embeddings of the fields are added up. What does the text ask you to do with them?": _encoder(
            lambda self, ids, dense: torch.cat([sum(_rows(self, ids)), dense], dim=1)
        ),
        "the embeddings are averaged over the fields. How wide should a row be?": _encoder(
            lambda self, ids, dense: torch.cat([torch.stack(_rows(self, ids)).mean(0), dense], dim=1)
        ),
        "every field is looked up in the first table. Which table belongs to field f?": _encoder(
            lambda self, ids, dense: torch.cat(
                [*(self.tables[0](ids[:, f]) for f in range(ids.shape[1])), dense], 1
            )
        ),
        "every table is asked with the ids of the first field. Which column belongs to table f?": _encoder(
            lambda self, ids, dense: torch.cat([*(table(ids[:, 0]) for table in self.tables), dense], dim=1)
        ),
        "the dense features come first. In which order does the text name the parts?": _encoder(
            lambda self, ids, dense: torch.cat([dense, *_rows(self, ids)], dim=1)
        ),
        "the dense features are missing. Which second input does forward get?": _encoder(
            lambda self, ids, dense: torch.cat(_rows(self, ids), dim=1)
        ),
        "the fields come in the reverse order. Which field is the first column of ids?": _encoder(
            lambda self, ids, dense: torch.cat([*_rows(self, ids)[::-1], dense], dim=1)
        ),
        "the numbers of the fields are interleaved: first number of each field, then the second. "
        "Along which axis do you stack before you flatten?": _encoder(
            lambda self, ids, dense: torch.cat([torch.stack(_rows(self, ids), -1).flatten(1), dense], dim=1)
        ),
        "the fields have an axis of their own. Which two axes become one?": _encoder(
            lambda self, ids, dense: torch.stack(_rows(self, ids), 1)
        ),
        "the tables get no gradient: `.data` or `.detach()` cuts them off. What should training change?": _encoder(
            lambda self, ids, dense: torch.cat([*(row.detach() for row in _rows(self, ids)), dense], dim=1)
        ),
        "the rows of the batch are joined one below the other (axis 0). Along which axis does a row get longer?": (
            _encoder(lambda self, ids, dense: torch.cat(_rows(self, ids), dim=0))
        ),
    },
    also_right=[
        _encoder(
            lambda self, ids, dense: torch.hstack(
                [F.embedding(ids[:, f], t.weight) for f, t in enumerate(self.tables)] + [dense]
            )
        ),
        _encoder(
            lambda self, ids, dense: torch.cat([torch.stack(_rows(self, ids), 1).flatten(1), dense], dim=-1)
        ),
        _encoder(
            lambda self, ids, dense: torch.cat(
                [
                    *(
                        F.one_hot(ids[:, f], t.num_embeddings).to(dense.dtype) @ t.weight
                        for f, t in enumerate(self.tables)
                    ),
                    dense,
                ],
                1,
            )
        ),
        _encoder(
            lambda self, ids, dense: torch.cat(
                [
                    self.tables(
                        ids + torch.tensor(np.cumsum([0, *self.sizes[:-1]]), device=ids.device)
                    ).flatten(1),
                    dense,
                ],
                1,
            ),
            _one_table,
        ),
    ],
    real_valued=True,
)


# --- 1.3 Shared-Bottom -------------------------------------------------------------------------------------


class SharedBottom(nn.Module):
    def __init__(self, D, H, T):
        super().__init__()
        self.bottom = nn.Linear(D, H)
        self.towers = nn.ModuleList(nn.Linear(H, 1) for _ in range(T))

    def forward(self, x):
        h = torch.relu(self.bottom(x))
        return torch.cat([tower(h) for tower in self.towers], dim=1)


def _model(forward=None, towers=None, bottom=None):
    """A SharedBottom with another forward, or other parts: functions of the sizes."""

    def init(self, D, H, T):
        nn.Module.__init__(self)
        self.bottom = bottom(D, H) if bottom else nn.Linear(D, H)
        self.towers = towers(D, H, T) if towers else nn.ModuleList(nn.Linear(H, 1) for _ in range(T))

    return type(
        "SharedBottom", (SharedBottom,), {"__init__": init} | ({"forward": forward} if forward else {})
    )


def _same_tower(D, H, T):
    return nn.ModuleList([nn.Linear(H, 1)] * T)


def _hidden(self, x):
    return torch.relu(self.bottom(x))


def _model_draw(rng, B=None, T=None, wider=0):
    B, T = some(rng, B, T)
    H = int(rng.integers(3, 7))
    # inputs as wide as outputs: towers that read x are a wrong number, not a crash
    D = H + wider
    return Draw({"x": rng.normal(size=(B, D)).astype(np.float32)}, build={"D": D, "H": H, "T": T})


SHARED_BOTTOM = Exercise(
    id="1.3",
    title="Shared-Bottom",
    how="module",
    reference=SharedBottom,
    shape="(B, T)",
    grads=["x"],
    example=Trial(
        "one user with x = (1, 2), two tasks (worked by hand)",
        {"x": np.array([[1.0, 2.0]], np.float32)},
        grads=["x"],
        build={"D": 2, "H": 2, "T": 2},
        state={
            "bottom.weight": np.array([[1, 1], [1, -1]], np.float32),
            "bottom.bias": np.array([0, 0.5], np.float32),
            "towers.0.weight": np.array([[2, 7]], np.float32),
            "towers.0.bias": np.array([1], np.float32),
            "towers.1.weight": np.array([[-1, 7]], np.float32),
            "towers.1.bias": np.array([0], np.float32),
        },
        want={"out": np.array([[7.0, -3.0]])},
    ),
    draw=_model_draw,
    sizes=ONE_ROW_ONE_TASK | {"inputs wider than the hidden layer": {"wider": 3}},
    mistakes={
        "all towers are one and the same object, so all tasks share their weights. "
        "How many layers does `[layer] * T` make?": _model(towers=_same_tower),
        "a sigmoid sits inside forward. Which of the two do models of this series return: logits or probabilities?": (
            _model(lambda self, x: torch.cat([t(_hidden(self, x)) for t in self.towers], 1).sigmoid())
        ),
        "`squeeze()` removes an axis of length one wherever it finds it: one row or one task loses its axis. "
        "What is the shape for B = 1?": _model(
            lambda self, x: torch.stack([t(_hidden(self, x)) for t in self.towers], 1).squeeze()
        ),
        "the ReLU after the bottom is missing. What makes the bottom more than a linear map?": _model(
            lambda self, x: torch.cat([t(self.bottom(x)) for t in self.towers], 1)
        ),
        "the towers read x and not the output of the bottom. What is shared then?": _model(
            lambda self, x: torch.cat([t(x) for t in self.towers], 1)
        ),
        "the logits go through a ReLU too, so none is below zero. Where does the ReLU belong?": _model(
            lambda self, x: torch.cat([t(_hidden(self, x)) for t in self.towers], 1).relu()
        ),
        "a softmax makes the tasks compete. Can a user not like and comment at once?": _model(
            lambda self, x: torch.cat([t(_hidden(self, x)) for t in self.towers], 1).softmax(1)
        ),
        "the outputs of the towers are stacked on a new axis and one axis is left over. Which shape has one tower's output?": (
            _model(lambda self, x: torch.stack([t(_hidden(self, x)) for t in self.towers], 1))
        ),
        "the result is (T, B). Along which axis do the towers stand side by side?": _model(
            lambda self, x: torch.cat([t(_hidden(self, x)) for t in self.towers], 1).T
        ),
        "the towers stand in a plain Python list, which torch does not look into: their weights are never trained. "
        "Which container registers layers?": _model(
            towers=lambda D, H, T: [nn.Linear(H, 1) for _ in range(T)]
        ),
        "the bottom learns nothing: its output is detached. Through which tensor do the tasks train it?": _model(
            lambda self, x: torch.cat([t(_hidden(self, x).detach()) for t in self.towers], 1)
        ),
        "the ReLU comes before the bottom, on the input. What does Eq. 1 call f(x)?": _model(
            lambda self, x: torch.cat([t(self.bottom(torch.relu(x))) for t in self.towers], 1)
        ),
        "the towers have D inputs. How wide is the hidden layer that they read?": _model(
            towers=lambda D, H, T: nn.ModuleList(nn.Linear(D, 1) for _ in range(T))
        ),
        "the sizes of the bottom are swapped: H to D. How wide is x, and how wide is what the towers read?": _model(
            bottom=lambda D, H: nn.Linear(H, D)
        ),
    },
    also_right=[
        _model(lambda self, x: self.towers(_hidden(self, x)), towers=lambda D, H, T: nn.Linear(H, T)),
        _model(lambda self, x: torch.stack([t(_hidden(self, x)).squeeze(1) for t in self.towers], dim=1)),
        _model(lambda self, x: torch.stack([t(_hidden(self, x))[:, 0] for t in self.towers]).T),
        _model(
            lambda self, x: F.linear(
                F.relu(self.bottom(x)),
                torch.cat([t.weight for t in self.towers]),
                torch.cat([t.bias for t in self.towers]),
            )
        ),
        _model(towers=lambda D, H, T: nn.ModuleList(nn.Sequential(nn.Linear(H, 1)) for _ in range(T))),
    ],
)


# --- 1.10 the planted bug ----------------------------------------------------------------------------------


class TaskTowers(nn.Module):
    def __init__(self, H, T):
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(H, H), nn.ReLU(), nn.Linear(H, 1)) for _ in range(T)
        )

    def forward(self, h):
        return torch.cat([tower(h) for tower in self.towers], dim=1)


def _tower(H):
    return nn.Sequential(nn.Linear(H, H), nn.ReLU(), nn.Linear(H, 1))


def _towers(build, forward=None):
    def init(self, H, T):
        nn.Module.__init__(self)
        self.towers = build(H, T)

    return type("TaskTowers", (TaskTowers,), {"__init__": init} | ({"forward": forward} if forward else {}))


def _copies(H, T):
    one = _tower(H)
    return nn.ModuleList(copy.deepcopy(one) for _ in range(T))


def _shared_first_layer(H, T):
    first = nn.Linear(H, H)
    return nn.ModuleList(nn.Sequential(first, nn.ReLU(), nn.Linear(H, 1)) for _ in range(T))


def _shared_last_layer(H, T):
    last = nn.Linear(H, 1)
    return nn.ModuleList(nn.Sequential(nn.Linear(H, H), nn.ReLU(), last) for _ in range(T))


def _towers_draw(rng, B=None, T=None):
    B, T = some(rng, B, T)
    H = int(rng.integers(3, 6))
    return Draw({"h": rng.normal(size=(B, H)).astype(np.float32)}, build={"H": H, "T": T})


PLANTED_BUG = Exercise(
    id="1.10",
    title="the planted bug",
    how="module",
    reference=TaskTowers,
    shape="(B, T)",
    grads=["h"],
    draw=_towers_draw,
    sizes=ONE_ROW_ONE_TASK,
    mistakes={
        "the bug is still there: all towers use the same layers. How many different ids does `[id(t[0]) for t in towers]` show?": (
            _towers(lambda H, T: nn.ModuleList([_tower(H)] * T))
        ),
        "the towers still share their first layer. Which objects are made once, which once per task?": _towers(
            _shared_first_layer
        ),
        "the towers still share their last layer. Which objects are made once, which once per task?": _towers(
            _shared_last_layer
        ),
        "the towers stand in a plain Python list, which torch does not look into. Which container registers layers?": (
            _towers(lambda H, T: [_tower(H) for _ in range(T)])
        ),
        "there is one tower too many. How many tasks are there?": _towers(
            lambda H, T: nn.ModuleList(_tower(H) for _ in range(T + 1))
        ),
        "the towers lost their ReLU on the way. What did the tower look like before?": _towers(
            lambda H, T: nn.ModuleList(nn.Sequential(nn.Linear(H, H), nn.Linear(H, 1)) for _ in range(T))
        ),
        "the towers lost their hidden layer on the way. What did the tower look like before?": _towers(
            lambda H, T: nn.ModuleList(nn.Sequential(nn.Linear(H, 1)) for _ in range(T))
        ),
        "only one tower is left, and all tasks use it. Should two tasks give a user the same score?": _towers(
            lambda H, T: nn.ModuleList([_tower(H)]),
            lambda self, h: self.towers[0](h).expand(-1, 3),
        ),
    },
    also_right=[
        _towers(lambda H, T: nn.ModuleList([_tower(H) for _ in range(T)])),
        _towers(_copies),
        _towers(lambda H, T: nn.Sequential(*(_tower(H) for _ in range(T)))),
    ],
)
