"""Exercise 4.4: who sees whom on the second level of HoME."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from autograde_tests.exercise import Draw, Exercise, Trial


def level_2(groups, own, local, shared):
    rows = []
    for t, category in enumerate(groups):
        row = [k == t for k in range(len(groups)) for _ in range(own)]
        row += [c == category for c in range(max(groups) + 1) for _ in range(local)]
        rows.append(row + [True] * shared)
    return torch.tensor(rows)  # (T, E)


def _rule(own=None, local=None, shared=None):
    """The matrix with another rule for one kind: own(t, k, groups), local(t, c, groups), shared(t) -> bool."""
    own = own or (lambda t, k, groups: k == t)
    local = local or (lambda t, c, groups: c == groups[t])
    shared = shared or (lambda t: True)

    def answer(groups, n_own, n_local, n_shared):
        T, C = len(groups), max(groups) + 1
        blocks = [
            torch.tensor([[own(t, k, groups) for k in range(T)] for t in range(T)]).repeat_interleave(
                n_own, 1
            ),
            torch.tensor([[local(t, c, groups) for c in range(C)] for t in range(T)]).repeat_interleave(
                n_local, 1
            ),
            torch.tensor([[shared(t)] for t in range(T)]).repeat_interleave(n_shared, 1),
        ]
        return torch.cat(blocks, 1)

    return answer


def _columns(groups, own, local, shared):
    """The three blocks of the right matrix."""
    return level_2(groups, own, local, shared).split(
        [len(groups) * own, (max(groups) + 1) * local, shared], 1
    )


def _blocks(copies):
    """The matrix with other copies of each owner's column: copies(block (T, owners), n)."""

    def answer(groups, own, local, shared):
        ones = [_columns(groups, 1, 1, 1)[kind] for kind in range(3)]
        return torch.cat([copies(b, n) for b, n in zip(ones, (own, local, shared), strict=True)], 1)

    return answer


def _order(*places):
    return lambda *sizes: torch.cat([_columns(*sizes)[place] for place in places], 1)


def _no_offset(groups, own, local, shared):
    """The columns of the categories begin at 0, on top of those of the tasks."""
    table = torch.zeros_like(level_2(groups, own, local, shared))
    for t, c in enumerate(groups):
        table[t, t * own : (t + 1) * own] = True
        table[t, c * local : (c + 1) * local] = True
        table[t, table.shape[1] - shared :] = True
    return table


def _next(t, groups):
    return (groups[t] + 1) % (max(groups) + 1)


def _draw(rng, T=None, own=None, local=None):
    T = T or int(rng.integers(5, 7))
    # every category has its tasks, not in the order of the tasks; the first task is not of category 0
    groups = [1, 0, 2, *rng.integers(0, 3, size=T - 3)] if T >= 3 else [1, 0][:T]
    n = [int(v) for v in rng.permutation([2, 3, 4])]
    sizes = {"groups": [int(c) for c in groups] if T > 1 else [0]}
    sizes |= {"own": n[0] if own is None else own, "local": n[1] if local is None else local}
    return Draw(sizes | {"shared": n[2]})


LEVEL_2 = Exercise(
    id="4.4",
    title="who sees whom on level 2",
    how="function",
    reference=level_2,
    shape="(T, E)",
    example=Trial(
        "long_view and complete_view are watch tasks, like is an interaction: one expert of each kind (worked by hand)",
        {"groups": [0, 0, 1], "own": 1, "local": 1, "shared": 1},
        want={"out": np.array([[1, 0, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1]])},
    ),
    draw=_draw,
    sizes={
        "random categories": {},
        "two tasks": {"T": 2},
        "one task": {"T": 1},
        "no experts of the tasks": {"own": 0},
        "no experts of the categories": {"local": 0},
    },
    real_valued=False,
    mistakes={
        "a task sees the experts of the next category. Which number stands in `groups` at its place?": _rule(
            local=lambda t, c, groups: c == _next(t, groups)
        ),
        "the number of the task is taken for its category. What does `groups` tell?": _rule(
            local=lambda t, c, groups: c == t % (max(groups) + 1)
        ),
        "a task sees the experts of every category. Whose experts does the mask hide?": _rule(
            local=lambda t, c, groups: True
        ),
        "a task sees the experts of all categories but its own. What does True mean?": _rule(
            local=lambda t, c, groups: c != groups[t]
        ),
        "no task sees its category's experts. For whom are they there?": _rule(
            local=lambda t, c, groups: False
        ),
        "a task sees its category's experts and those of the categories before it. Which one is its own?": _rule(
            local=lambda t, c, groups: c <= groups[t]
        ),
        "a task sees the own experts of all tasks of its category. Whose are they?": _rule(
            own=lambda t, k, groups: groups[k] == groups[t]
        ),
        "a task sees the own experts of all tasks. Whose experts does the mask hide?": _rule(
            own=lambda t, k, groups: True
        ),
        "a task sees the own experts of the others. What does True mean?": _rule(
            own=lambda t, k, groups: k != t
        ),
        "a task does not see its own experts. What is level 2 for?": _rule(own=lambda t, k, groups: False),
        "a task sees the own experts of the next task. Where does the part of task t begin?": _rule(
            own=lambda t, k, groups: k == (t + 1) % len(groups)
        ),
        "the shared experts are hidden. Who may see them?": _rule(shared=lambda t: False),
        "only the first task sees the shared experts. Who may see them?": _rule(shared=lambda t: t == 0),
        'every task sees every expert: that is the ablation "without mask". Whose experts does the mask hide?': (
            _rule(own=lambda t, k, groups: True, local=lambda t, c, groups: True)
        ),
        "True and False are swapped. What does True mean?": lambda *sizes: ~level_2(*sizes),
        "the shared experts stand first. In which order does the text put the columns?": _order(2, 0, 1),
        "the experts of the categories stand before those of the tasks. In which order does the text put them?": (
            _order(1, 0, 2)
        ),
        "the shared experts stand before those of the categories. In which order does the text put them?": (
            _order(0, 2, 1)
        ),
        "the columns of category 0 begin at column 0. How many columns stand before them?": _no_offset,
        "the copies of all owners alternate (`repeat`): 0, 1, 2, 0, 1, 2. In which order does the text put the columns?": (
            _blocks(lambda block, n: block.repeat(1, n))
        ),
        "the tasks' experts stand category by category. In which order does the text put the tasks?": (
            lambda groups, own, local, shared: torch.cat(
                [
                    torch.eye(len(groups))[:, sorted(range(len(groups)), key=groups.__getitem__)]
                    .repeat_interleave(own, 1)
                    .bool(),
                    *_columns(groups, own, local, shared)[1:],
                ],
                1,
            )
        ),
        "each category has one column. How many experts has a category?": (
            lambda groups, own, local, shared: level_2(groups, own, min(local, 1), shared)
        ),
        "each task has one column. How many experts has a task?": (
            lambda groups, own, local, shared: level_2(groups, min(own, 1), local, shared)
        ),
        "there is one shared column. How many shared experts are there?": (
            lambda groups, own, local, shared: level_2(groups, own, local, min(shared, 1))
        ),
        "each task has a block of its category's experts for itself: as many blocks as tasks. How many categories "
        "are there?": lambda groups, own, local, shared: torch.cat(
            [
                _columns(groups, own, local, shared)[0],
                torch.tensor(groups)[:, None].eq(torch.tensor(groups)).repeat_interleave(local, 1),
                _columns(groups, own, local, shared)[2],
            ],
            1,
        ),
        "there is a row for each category, as on level 1. Whose gates does level 2 have?": (
            lambda groups, own, local, shared: torch.stack(
                [level_2(groups, own, local, shared)[groups.index(c)] for c in sorted(set(groups))]
            )
        ),
        "there is a row too many: one that sees all experts. Which gates has the last level?": (
            lambda *sizes: F.pad(level_2(*sizes), (0, 0, 0, 1), value=True)
        ),
        "the matrix is (E, T). What are the rows: gates or experts?": lambda *sizes: level_2(*sizes).T,
    },
    also_right=[
        _rule(),
        lambda *sizes: level_2(*sizes).float(),
        lambda groups, own, local, shared: np.hstack(
            [
                np.kron(np.eye(len(groups)), np.ones((1, own))),
                np.repeat(np.eye(max(groups) + 1)[groups], local, axis=1),
                np.ones((len(groups), shared)),
            ]
        ),
        lambda groups, own, local, shared: torch.cat(
            [
                torch.eye(len(groups)).repeat_interleave(own, 1),
                F.one_hot(torch.tensor(groups), max(groups) + 1).repeat_interleave(local, 1),
                torch.ones(len(groups), shared),
            ],
            1,
        ).bool(),
    ],
)
