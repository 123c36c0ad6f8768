"""A class that hands in the notebooks of the series: what each student wrote, and what it must cost.

An answer is the text that stands in the place of the master's solution region (the last one; a tuple for all
of them; None: left blank). What is not listed is the master's. `lost` is written by hand, never computed.
"""

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import nbformat
from nbformat import NotebookNode

from tools import sample_capstone, sample_home, sample_ple

ASSIGNMENTS = ("00_start", "01_shared_bottom", "02_mmoe", "03_ple", "04_home", "05_capstone")
ALL = (
    *("0.1", "0.2"),
    *("1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7", "1.8", "1.9", "1.10"),
    *("2.0", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.7", "2.8"),
    *("3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "3.7", "3.8", "3.9"),
    *("4.1", "4.2", "4.3", "4.4", "4.5", "4.6", "4.7", "4.8", "4.9", "4.10"),
    *("5.2", "5.3", "5.4", "5.5"),
)


@dataclass(frozen=True)
class Student:
    """id: the name in the gradebook. lost: the exercises without points. named: each is a named mistake."""

    id: str
    what: str
    answers: Mapping[str, str | tuple[str, ...] | None] = field(default_factory=dict)
    lost: Sequence[str] = ()
    named: bool = False
    edit: Callable[[NotebookNode], None] = lambda nb: None


def submission(student: Student, master: NotebookNode, released: NotebookNode) -> NotebookNode:
    """The released notebook with the student's answers and edits."""
    solved = {cell.id: cell.source for cell in master.cells}
    nb = nbformat.from_dict(released)
    for cell in nb.cells:
        if cell.id.startswith("answer_"):
            answer = student.answers.get(cell.id[7:].replace("_", "."), ())
            cell.source = cell.source if answer is None else _fill(solved[cell.id], answer)
    student.edit(nb)
    return nb


def _fill(source: str, answer: str | tuple[str, ...]) -> str:
    """The master's cell with the texts in place of its last solution regions, and without the marks."""
    regions = list(re.finditer(r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION\n?", source, re.M | re.S))
    texts = [answer] if isinstance(answer, str) else list(answer)
    own = [None] * (len(regions) - len(texts)) + texts
    for region, text in reversed(list(zip(regions, own, strict=True))):
        if text is not None:
            text = textwrap.indent(textwrap.dedent(text).strip("\n") + "\n", region[1])
        source = source[: region.start()] + (region[2] if text is None else text) + source[region.end() :]
    return source


def _delete(*ids: str) -> Callable[[NotebookNode], None]:
    def edit(nb: NotebookNode) -> None:
        nb.cells = [cell for cell in nb.cells if cell.id not in ids]

    return edit


def _overwrite(source: str, *ids: str) -> Callable[[NotebookNode], None]:
    def edit(nb: NotebookNode) -> None:
        for cell in nb.cells:
            cell.source = source if cell.id in ids else cell.source

    return edit


def _add_cells(nb: NotebookNode) -> None:
    """A helper above the first answer, a failing scratch cell below it, a note at the end."""
    first = next(i for i, cell in enumerate(nb.cells) if cell.id.startswith("answer_"))
    nb.cells.insert(first + 1, nbformat.v4.new_code_cell("print(scratch)"))
    nb.cells.insert(first, nbformat.v4.new_code_cell("def share(part, whole):\n    return part / whole"))
    nb.cells.append(nbformat.v4.new_markdown_cell("Done on Sunday."))


OTHER_WAYS = {
    "0.1": "return labels.masked_fill(~observed, 0).sum(dim=0).div(observed.sum(dim=0))",
    "0.2": """
        keys = ["outputs of all experts", "one batch of inputs", "labels of all tasks"]
        return dict(zip(keys, ["BEH", "BD", "BT"]))
        """,
    "1.1": """
        losses = []
        for z, y in zip(logits.T, labels.T):
            known = y == y  # NaN is not equal to itself
            if known.any():
                losses.append(F.binary_cross_entropy_with_logits(z[known], y[known]))
            else:
                losses.append(0 * z.sum())
        return torch.stack(losses)
        """,
    "1.2": """
        out = dense
        for f in range(ids.shape[1] - 1, -1, -1):
            out = torch.hstack([F.embedding(ids[:, f], self.tables[f].weight), out])
        return out
        """,
    "1.3": ("self.towers = nn.Linear(H, T)", "return self.towers(self.bottom(x).clamp(min=0))"),
    "1.4": """
        trained = ["the bottom", "the like tower", "the embedding of a user in the batch"]
        rest = ["the click tower", "the embedding of a user who is not in the batch"]
        rest.append("the bottom, when no row of the batch has a like label")
        return {key: 1 for key in trained} | {key: 0 for key in rest}
        """,
    "1.5": """
        rows = []
        for loss in losses:
            model.zero_grad()
            loss.backward(retain_graph=True)
            rows.append(torch.cat([p.grad.reshape(-1) for p in model.bottom.parameters()]))
        return torch.stack([torch.stack([F.cosine_similarity(a, b, dim=0) for b in rows]) for a in rows])
        """,
    "1.6": """
        wins = pairs = 0
        for p in scores[labels == 1].tolist():
            for n in scores[labels == 0].tolist():
                wins += (p > n) + 0.5 * (p == n)
                pairs += 1
        return wins / pairs
        """,
    "1.7": """
        groups = [(scores[users == u], labels[users == u]) for u in users.unique()]
        groups = [(s, y) for s, y in groups if len(y.unique()) == 2]
        return np.average([auc(s, y) for s, y in groups], weights=[len(y) for s, y in groups])
        """,
    "1.8": """
        angle = np.arccos(p)
        return c * np.cos(angle) * u1 + c * np.sin(angle) * u2
        """,
    "1.9": """
        answer = {"label correlation at p = 0.5 is": "below 0.5"}
        answer["lowest final loss at p"] = 1
        answer["highest final loss at p"] = 1 / 2
        return answer
        """,
    "1.10": """
        self.towers = nn.ModuleList()
        for _ in range(T):
            self.towers.append(nn.Sequential(nn.Linear(H, H), nn.ReLU(), nn.Linear(H, 1)))
        """,
    "2.0": 'return dict(zip(["missing label", "like loss", "conflict"], "bca"))',
    "2.1": """
        z = torch.einsum("bd,ed->be", x, W).exp()
        return z / z.sum(dim=1, keepdim=True)
        """,
    "2.2": (
        "self.experts = nn.ModuleList([nn.Sequential(nn.Linear(D, H), nn.ReLU()) for _ in range(E)])",
        "return torch.stack([expert(x) for expert in self.experts], dim=1)",
    ),
    "2.3": "return (weights.unsqueeze(3) * experts.unsqueeze(1)).sum(dim=2)",
    "2.4": """
        h = torch.stack([expert(x).clamp(min=0) for expert in self.experts], dim=1)
        out = []
        for gate, tower in zip(self.gates, self.towers):
            out.append(tower(torch.bmm(gate(x).softmax(1).unsqueeze(1), h)[:, 0]))
        return torch.hstack(out)
        """,
    "2.5": """
        entropy = torch.special.entr(weights).sum(dim=2)
        return {"entropy": entropy.mean(dim=0), "mean": weights.sum(dim=0) / len(weights)}
        """,
    "2.7": "return torch.stack([z.softmax(1) for z in self.gates(x).split(self.E, dim=1)], dim=1)",
}
GUESSED = """
return {
    "highest final loss at p": 1.0,
    "lowest final loss at p": 0.5,
    "label correlation at p = 0.5 is": "below 0.5",
}
"""
TRAINED = """
return {
    "the bottom": True,
    "the like tower": True,
    "the click tower": True,
    "the embedding of a user in the batch": True,
    "the embedding of a user who is not in the batch": False,
    "the bottom, when no row of the batch has a like label": False,
}
"""
SUMS = {
    "0.1": "return (labels * observed).sum(dim=0) / len(labels)",
    "1.1": """
        seen = ~labels.isnan()
        each = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
        return (each * seen).mean(dim=0)
        """,
    "1.2": """
        rows = [table(ids[:, f]) for f, table in enumerate(self.tables)]
        return torch.cat([sum(rows), dense], dim=1)
        """,
    "1.3": """
        h = torch.relu(self.bottom(x))
        return torch.cat([tower(h) for tower in self.towers], dim=1).sigmoid()
        """,
    "1.4": TRAINED,
    "1.5": """
        shared = list(model.bottom.parameters())
        rows = []
        for loss in losses:
            grads = torch.autograd.grad(loss, shared, retain_graph=True)
            rows.append(torch.cat([grad.flatten() for grad in grads]))
        g = torch.stack(rows)
        return g @ g.T
        """,
    "1.6": """
        positive, negative = scores[labels == 1], scores[labels == 0]
        return (positive[:, None] > negative[None, :]).float().mean()
        """,
    "1.7": """
        values = []
        for user in users.unique():
            mine = users == user
            if labels[mine].min() < labels[mine].max():
                values.append(metrics.auc(scores[mine], labels[mine]))
        return sum(values) / len(values)
        """,
    "1.8": "return c * (p * u1 + (1 - p) * u2)",
    "1.9": GUESSED,
    "1.10": """
        first = nn.Linear(H, H)
        self.towers = nn.ModuleList(nn.Sequential(first, nn.ReLU(), nn.Linear(H, 1)) for _ in range(T))
        """,
    "2.1": "return x @ W.T",
    "2.3": "return experts.mean(dim=1, keepdim=True).expand(-1, weights.shape[1], -1)",
    "2.5": """
        entropy = (weights * weights.log2()).nan_to_num().sum(dim=2)
        return {"mean": weights.mean(dim=0), "entropy": -entropy.mean(dim=0)}
        """,
    "2.7": "return self.gates(x).view(-1, self.T, self.E).sigmoid()",
    "2.0": 'return {"missing label": "a", "like loss": "c", "conflict": "a"}',
    "2.6": """
        return {
            "MMoE with one expert is": "Shared-Bottom",
            "MMoE with equal gate matrices is": "Shared-Bottom",
            "with gate matrices of zeros a task reads": "the mean of the experts",
            "experts and gates that all start equal will": "stay equal",
        }
        """,
    "2.8": """
        return {
            "highest loss at p = 0.5": "MMoE",
            "at p = 1 the losses of OMoE and MMoE are": "about equal",
            "from p = 0.5 to p = 1 the gates of the two tasks become": "more alike",
        }
        """,
}
AXES = {
    "0.1": "return (labels * observed).sum(dim=1) / observed.sum(dim=1)",
    "0.2": """
        return {
            "one batch of inputs": "BD",
            "labels of all tasks": "BT",
            "outputs of all experts": "EBH",
        }
        """,
    "1.1": """
        seen = ~labels.isnan()
        each = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
        return (each * seen).sum() / seen.sum()
        """,
    "1.2": "return torch.stack([table(ids[:, f]) for f, table in enumerate(self.tables)], dim=1)",
    "1.3": """
        h = torch.relu(self.bottom(x))
        return torch.stack([tower(h) for tower in self.towers], dim=1).squeeze()
        """,
    "1.5": """
        rows = []
        for loss in losses:
            rows.append(torch.autograd.grad(loss, model.bottom.weight, retain_graph=True)[0].flatten())
        g = F.normalize(torch.stack(rows), dim=1)
        return g @ g.T
        """,
    "1.6": """
        positive, negative = scores[labels == 1], scores[labels == 0]
        won = (positive[:, None] < negative[None, :]).sum()
        tied = (positive[:, None] == negative[None, :]).sum()
        return (won + 0.5 * tied) / (len(positive) * len(negative))
        """,
    "1.7": "return metrics.auc(scores, labels)",
    "1.8": "return c * (p * u2 + (1 - p**2) ** 0.5 * u1)",
    "1.10": """
        tower = nn.Sequential(nn.Linear(H, H), nn.ReLU(), nn.Linear(H, 1))
        self.towers = nn.ModuleList([tower] * T)
        """,
    "2.1": "return torch.softmax(x @ W.T, dim=0)",
    "2.2": "return torch.stack([torch.relu(expert(x)) for expert in self.experts], dim=0)",
    "2.7": "return self.gates(x).view(-1, self.T, self.E).softmax(dim=1)",
}
GAPS = {
    "1.1": """
        seen = ~labels.isnan()
        each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return (each * seen).sum(dim=0) / seen.sum(dim=0).clamp(min=1)
        """,
    "1.2": """
        rows = [table(ids[:, f]).detach() for f, table in enumerate(self.tables)]
        return torch.cat([*rows, dense], dim=1)
        """,
    "1.3": (
        "self.towers = nn.ModuleList([nn.Linear(H, 1)] * T)",
        "return torch.cat([tower(torch.relu(self.bottom(x))) for tower in self.towers], dim=1)",
    ),
    "1.5": """
        rows = []
        for loss in losses:
            loss.backward(retain_graph=True)
            rows.append(torch.cat([p.grad.flatten() for p in model.bottom.parameters()]))
        g = F.normalize(torch.stack(rows), dim=1)
        return g @ g.T
        """,
    "1.7": """
        total = 0.0
        for user in users.unique():
            mine = users == user
            one_class = labels[mine].min() == labels[mine].max()
            total += int(mine.sum()) * (0.5 if one_class else metrics.auc(scores[mine], labels[mine]))
        return total / len(users)
        """,
    "1.8": "return p * u1 + (1 - p**2) ** 0.5 * u2",
    "1.10": """
        self.towers = [nn.Sequential(nn.Linear(H, H), nn.ReLU(), nn.Linear(H, 1)) for _ in range(T)]
        """,
    "2.2": (
        "self.experts = nn.ModuleList([nn.Linear(D, H)] * E)",
        "return torch.stack([torch.relu(expert(x)) for expert in self.experts], dim=1)",
    ),
    "2.4": """
        h = torch.stack([torch.relu(expert(x)) for expert in self.experts], dim=1)
        w = self.gates[0](x).softmax(dim=1)
        return torch.cat([tower((w.unsqueeze(2) * h).sum(dim=1)) for tower in self.towers], dim=1)
        """,
    "2.5": """
        entropy = -(weights * weights.log()).sum(dim=2)
        return {"mean": weights.mean(dim=0), "entropy": entropy.mean(dim=0)}
        """,
}
CRASH = {
    "0.1": "return (labels * seen).sum(dim=0) / seen.sum(dim=0)",
    "0.2": 'return {"one batch of inputs": B + D}',
    "1.1": "return F.binary_cross_entropy_with_logits(logit, labels)",
    "1.2": "return torch.cat([self.tables[0](ids), dense], dim=1)",
    "1.3": "return self.towers[0](x)",
    "1.7": "return metrics.auc(scores[users], labels) / 0",
    "1.10": "self.tower = nn.Linear(H, 1)",
    "2.3": "return weights @ expert",
    "2.4": "return self.towers(x)",
}
NOISE = """
import sys
import warnings

from tqdm import tqdm

warnings.warn("this takes a while")
print("half way", file=sys.stderr)
for _ in tqdm(range(3)):
    pass
"""

CLASS = (
    Student("all_right", "everything as in the master"),
    Student(
        "other_ways",
        "everything right in another way",
        OTHER_WAYS | sample_ple.OTHER_WAYS | sample_home.OTHER_WAYS | sample_capstone.OTHER_WAYS,
    ),
    Student(
        "sums",
        "forgets to divide, adds what should stand side by side",
        SUMS,
        tuple(SUMS),
        named=True,
    ),
    Student(
        "axes",
        "wrong axes, swapped arguments",
        AXES,
        ("0.1", "0.2", "1.1", "1.2", "1.3", "1.5", "1.6", "1.7", "1.8", "1.10", "2.1", "2.2", "2.7"),
        named=True,
    ),
    Student(
        "gaps",
        "lost gradients, NaN, shared layers",
        GAPS,
        ("1.1", "1.2", "1.3", "1.5", "1.7", "1.8", "1.10", "2.2", "2.4", "2.5"),
        named=True,
    ),
    Student(
        "ple",
        "mixes up whom a gate sees and what a level reads",
        sample_ple.WRONG,
        tuple(sample_ple.WRONG),
        named=True,
    ),
    Student(
        "home",
        "norms, gates and inputs as public code has them",
        sample_home.WRONG,
        tuple(sample_home.WRONG),
        named=True,
    ),
    Student(
        "capstone",
        "a claim by a larger network, a list for nobody in particular",
        sample_capstone.WRONG,
        tuple(sample_capstone.WRONG),
        named=True,
    ),
    Student("blank", "hands in what was given out", dict.fromkeys(ALL), ALL),
    Student(
        "half_blank",
        "stops in the middle",
        dict.fromkeys(("0.2", "1.5", "1.6", "1.7", "1.8", "1.9", "1.10", "2.4", "2.5")),
        ("0.2", "1.5", "1.6", "1.7", "1.8", "1.9", "1.10", "2.4", "2.5"),
    ),
    Student("crash", "unknown names, shapes that do not fit", CRASH, tuple(CRASH)),
    Student(
        "syntax",
        "a bracket is open",
        {"0.1": "return (labels.sum(dim=0)", "1.1": "seen = ~labels.isnan(", "1.10": "for _ in range(T)"},
        ("0.1", "1.1", "1.10"),
    ),
    Student(
        "endless",
        "loops that never end",
        {"0.2": "while True:\n    pass", "1.8": "while True:\n    p = p"},
        ("0.2", "1.8"),
    ),
    Student(
        "delegates",
        "calls the finished part of mtlkit",
        {
            "1.1": """
                from mtlkit.losses import task_losses
                return task_losses(logits, labels, ["binary"] * logits.shape[1])
                """,
            "1.3": "return models.SharedBottom(x.shape[1], tasks=len(self.towers), bottom=[4])(x)",
            "1.5": "return diagnosis.gradient_cosine(losses, model.bottom.parameters())",
            "1.6": "return metrics.auc(scores, labels)",
            "1.7": "return metrics.gauc(scores, labels, users).value",
            "2.3": """
                from mtlkit import layers
                return layers.mix(weights, experts)
                """,
        },
        ("1.1", "1.3", "1.5", "1.6", "1.7", "2.3"),
    ),
    Student(
        "noisy",
        "warnings and a progress bar on stderr",
        {
            "0.1": NOISE + OTHER_WAYS["0.1"],
            "1.3": NOISE + "return torch.cat([t(torch.relu(self.bottom(x))) for t in self.towers], dim=1)",
            "1.8": NOISE + "return c * (p * u1 + (1 - p**2) ** 0.5 * u2)",
        },
    ),
    Student("deleted_check", "deletes two checks", edit=_delete("check_0_1", "check_1_2", "check_1_10")),
    Student(
        "edited_check",
        "empties checks, over a wrong answer and a right one",
        {"0.1": SUMS["0.1"], "1.1": SUMS["1.1"]},
        ("0.1", "1.1"),
        edit=_overwrite("pass", "check_0_1", "check_1_1", "check_1_2"),
    ),
    Student(
        "own_cells",
        "adds cells, one with a helper, one that fails",
        {
            "0.1": "return share((labels * observed).sum(dim=0), observed.sum(dim=0))",
            "1.8": "return c * (p * u1 + (1 - share(p, 1 / p if p else 1)) ** 0.5 * u2)",
        },
        edit=_add_cells,
    ),
    Student(
        "odd",
        "stops Python, waits for input, returns nothing, changes its input",
        {
            "0.2": "raise SystemExit",
            "1.1": "labels.nan_to_num_()\nreturn F.binary_cross_entropy_with_logits(logits, labels)",
            "1.2": "torch.cat([*(table(ids[:, f]) for f, table in enumerate(self.tables)), dense], dim=1)",
            "1.4": 'return input("which?")',
        },
        ("0.2", "1.1", "1.2", "1.4"),
    ),
)
