"""HoME, its ablations and its baselines: are its illnesses there, do its remedies help, does it win?

    python benchmarks/home.py [--seeds 10] [--path FOLDER] [--out FILE]
                   [--sections simulator kuairand longer experts loras collapse sensitivity]
    python benchmarks/home.py --tune [--seeds 1] [--out FILE]

simulator: all models on the log that `mtlkit.data.short_video` draws; a seed is another log, other starting
weights and another order of the rows, the same for all models. Figures are the expected AUC and GAUC on the
test days as a share of the Bayes ceiling: (AUC - 0.5) / (ceiling - 0.5), so they have no luck of the labels.
kuairand: the same models on KuaiRand-Pure's eight tasks, AUC and GAUC of the test days; a seed moves starting
weights and order.
Both end with the paper's claims (Wang et al., KDD 2025, section 4), each a paired difference over seeds of
the mean over tasks, and with the three illnesses that `mtlkit.illnesses` finds in the trained models.
longer: some of the models with more epochs: one setting for all need not be fair to all.
experts, loras: more experts ("HoME w/o fg", the paper's Table 2) and more LoRAs ("HoME w/o fg2", Table 3).
collapse: under which conditions a ReLU MMoE collapses, and what HoME's experts do there.
sensitivity: the simulator with other parameters.

Equal budget: the baselines have, within 5 %, as many parameters behind the embeddings as HoME, by the width
of their first layer. The ablations are HoME less a part, as in the paper, so they are smaller (printed).
A star means HoME's experts, Swish(BatchNorm(MLP)). "CGC* w/o shared" has no gates: an expert per task.
Settings were chosen on validation days, the same for all models; `--tune` prints that grid.
`--out FILE` keeps each finished run as a JSON line; a run that is in the file is not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from kuairand import figures
from reporting import Runs, markdown, run_sections
from scipy import stats

from mtlkit import data, illnesses, training
from mtlkit.data import Table
from mtlkit.data.kuairand_file import OUTCOMES
from mtlkit.models import (
    CGC,
    PLE,
    AdaTT,
    HoME,
    MMoE,
    Recommender,
    SharedBottom,
    count_parameters,
    match_width,
)

ROWS, FEW = 250_000, 100_000  # of a log; FEW for collapse and sensitivity
EXAMINED = 4096  # rows of the test days
# embedding 7 makes 72 inputs on the simulator, which 1, 2, 4 and 8 LoRAs divide
TRAINING = {
    "epochs": 3,
    "batch_size": 1024,
    "lr": 4e-3,
    "weight_decay": 0.1,
    "schedule": "one_cycle",
    "patience": None,
}
INPUTS = {"embedding": 7, "dropout": 0.0}
# KuaiRand: `kuairand.py`'s choices; its inputs are so wide that LoRAs of rank |v| / L would be most of HoME
ON_KUAIRAND = TRAINING | {"lr": 2e-3, "embedding": 8, "dropout": 0.2}
GRID = [{}, {"lr": 2e-3}, {"lr": 8e-3}, {"epochs": 2}, {"epochs": 5}, {"dropout": 0.1}]
TUNED = ("SharedBottom", "MMoE", "MMoE*", "PLE*", "HoME")
LONGER, LONG = ("SharedBottom", "MMoE", "MMoE*", "HoME"), 5

HOME = {
    "meta_shared_experts": 2,
    "meta_category_experts": 2,
    "shared_experts": 2,
    "category_experts": 1,
    "task_experts": 1,
    "levels": [[32], [32]],
    "tower": [16],
}
ABLATIONS = {
    "HoME": {},
    "HoME w/o fg2": {"feature_gates": (True, False)},
    "HoME w/o fg": {"feature_gates": (False, False)},
    "HoME w/o sg": {"self_gates": False},
    "HoME w/o mask": {"mask": False},
    "HoME w/o fg-sg": {"feature_gates": (False, False), "self_gates": False},
    "HoME w/o fg-sg-mask": {"feature_gates": (False, False), "self_gates": False, "mask": False},
}
STAR, TOWER = {"expert_norm": True}, {"tower": [16]}
# a model and its sizes, given the one width that is matched to HoME's budget
BASELINES: dict[str, tuple[type, Callable[[int], dict]]] = {
    "SharedBottom": (SharedBottom, lambda w: {"bottom": [w, w // 2]} | TOWER),
    "MMoE": (MMoE, lambda w: {"experts": 6, "expert": [w, 32]} | TOWER),
    "MMoE*": (MMoE, lambda w: {"experts": 6, "expert": [w, 32]} | TOWER | STAR),
    "CGC* w/o shared": (
        CGC,
        lambda w: {"shared_experts": 0, "task_experts": 1, "expert": [w, 32]} | TOWER | STAR,
    ),
    "CGC*": (CGC, lambda w: {"shared_experts": 2, "task_experts": 1, "expert": [w, 32]} | TOWER | STAR),
    "PLE*": (PLE, lambda w: {"shared_experts": 2, "task_experts": 1, "levels": [[w], [32]]} | TOWER | STAR),
    "AdaTT*": (
        AdaTT,
        lambda w: {"shared_experts": 2, "task_experts": 1, "levels": [[w], [32]]} | TOWER | STAR,
    ),
}
NAMES = [*BASELINES, *ABLATIONS]
DEEP = {
    "MMoE, 4 layers": (MMoE, lambda w: {"experts": 6, "expert": [w, w, w, 32]} | TOWER),
    "MMoE*, 4 layers": (MMoE, lambda w: {"experts": 6, "expert": [w, w, w, 32]} | TOWER | STAR),
}
# (what the paper says, better, worse): better > worse
CLAIMS = [
    ("HoME's experts help MMoE", "MMoE*", "MMoE"),
    ("without shared experts and gates, CGC* beats MMoE*", "CGC* w/o shared", "MMoE*"),
    ("PLE* beats MMoE*", "PLE*", "MMoE*"),
    ("AdaTT* beats MMoE*", "AdaTT*", "MMoE*"),
    *((f"HoME beats {name}", "HoME", name) for name in BASELINES),
    ("the mask helps", "HoME w/o fg-sg", "HoME w/o fg-sg-mask"),
    ("the mask helps the whole HoME", "HoME", "HoME w/o mask"),
    ("self gates help", "HoME w/o fg", "HoME w/o fg-sg"),
    ("self gates help the whole HoME", "HoME", "HoME w/o sg"),
    ("feature gates of level 1 help", "HoME w/o fg2", "HoME w/o fg"),
    ("feature gates of level 2 help", "HoME", "HoME w/o fg2"),
]
EQUAL = [
    ("shared experts do nothing in CGC*", "CGC*", "CGC* w/o shared"),
    ("HoME without its three parts is MMoE*", "HoME w/o fg-sg-mask", "MMoE*"),
]
TOP = illnesses.Thresholds().top
ILLS = {
    "top": "weight of a gate's top expert",
    "zeros": "zeros, worst expert",
    "scale": "largest / smallest expert",
    "monopoly": "monopoly of a shared expert",
    "neglect": "weight of a task's own experts, least",
}
COLLAPSE = {
    "top": ILLS["top"],
    "over": f"gates that give one expert > {TOP}",
    "same": "of these, the same expert",
    "zeros": ILLS["zeros"],
    "scale": ILLS["scale"],
}


class Bench:
    def __init__(self, path: str | None, out: Path | None) -> None:
        self.path, self.runs = path, Runs(out)
        self.key, self.kept = None, None

    def table(self, log: dict) -> Table:
        """The table of a log; the last one is kept."""
        if self.key != log:
            options = dict(log)
            if options.pop("name") == "kuairand":
                self.kept = data.kuairand(OUTCOMES, history=True, min_count=10, path=self.path)
            else:
                self.kept = data.short_video(**options)
            self.key = log
        return self.kept

    def run(
        self, name: str, seed: int, log: dict | None = None, changes: dict | None = None, **sizes
    ) -> dict:
        """One run's line. ``log``: options of the data; ``changes``: of the training; ``sizes``: of HoME."""
        log = {"name": "short_video", "rows": ROWS, "seed": seed} | (log or {})
        options = (ON_KUAIRAND if log["name"] == "kuairand" else TRAINING | INPUTS) | (changes or {})
        if log["name"] == "kuairand":
            log, sizes = {"name": "kuairand"}, {"rank": 16} | sizes
        asked = {"model": name, "seed": seed, "log": log} | options | sizes
        return self.runs.get(asked, lambda: self._made(name, seed, log, dict(options), sizes))

    def _made(self, name: str, seed: int, log: dict, options: dict, sizes: dict) -> dict:
        table = self.table(log)
        inputs = {key: options.pop(key) for key in INPUTS}
        in_width = len(table.fields) * inputs["embedding"] + len(table.dense_names)
        kind, shape = network(name, in_width, table, sizes)
        model = Recommender(table, kind, seed=seed, **inputs, **shape)
        training.fit(model, table, seed=seed, progress=False, **options)
        line = {"parameters": count_parameters(model.body), "ills": ills(model, table.part("test"))}
        if not table.probabilities:
            return line | figures(lambda part: training.predict(model, part), table)
        for name in ("validation", "test"):
            part = table.part(name)
            found = training.ceiling(part, training.predict(model, part))
            line[name] = found.to_dict(orient="index")
        return line


def network(name: str, in_width: int, table: Table, sizes: dict) -> tuple[type, dict]:
    """A class and its sizes; a baseline has HoME's number of parameters."""
    tasks, groups = len(table.tasks), [table.categories[task] for task in table.tasks]
    if name in ABLATIONS:
        return HoME, HOME | sizes | ABLATIONS[name] | {"groups": groups}
    kind, shape = (BASELINES | DEEP)[name]
    with torch.device("meta"):
        budget = count_parameters(HoME(in_width, tasks, **HOME | sizes, groups=groups))
    return kind, shape(match_width(lambda w: kind(in_width, tasks, **shape(w)), budget))


def ills(model: Recommender, part: Table) -> dict:
    """The numbers behind the three illnesses, worst level each, and what crosses a threshold."""
    part = part.rows(np.linspace(0, len(part) - 1, min(EXAMINED, len(part))).astype(int))
    ids, dense = torch.from_numpy(part.ids).long(), torch.from_numpy(part.dense)
    try:
        report = illnesses.examine(model, ids, dense, tasks=part.tasks)
    except ValueError:  # no gates
        return {}
    gates, experts = report.gates, report.experts
    last = gates.loc[gates.index.get_level_values("level").max()]
    rms = experts["rms"].groupby("level")
    found = {"zeros": experts["zeros"].max(), "scale": (rms.max() / rms.min().clip(lower=1e-30)).max()}
    choosing = gates[gates["sees"] > 1]
    if len(choosing):
        found["top"] = choosing["top"].groupby("level").mean().max()
        fallen = choosing[choosing["top"] > TOP]
        most = fallen.groupby("level")["top_expert"].agg(lambda e: e.value_counts().max())
        size = choosing.groupby("level").size()
        found["over"] = (fallen.groupby("level").size() / size).fillna(0).max()
        found["same"] = (most / size).fillna(0).max()
    mixed = experts["owner"].groupby("level").transform(lambda owner: (owner != "shared").any())
    several = experts[(experts["owners"] > 1) & mixed]
    if len(several):
        equal = 1 / several["owners"]
        found["monopoly"] = ((several["main_share"] - equal) / (1 - equal)).max()
    owning = last[(last["owns"] > 0) & (last["owns"] < last["sees"])]
    if len(owning):
        found["neglect"] = (owning["own"] + owning["added"]).min()
    found = {key: float(value) for key, value in found.items()}
    return found | {"names": sorted({finding.illness for finding in report.findings})}


def per_seed(lines: Sequence[dict], metric: str, part: str = "test") -> np.ndarray:
    """The mean over tasks, a number per seed."""
    return np.array([np.mean([task[metric] for task in line[part].values()]) for line in lines])


def mean_error(values: np.ndarray, sign: str = "") -> str:
    error = f" +- {stats.sem(values):.4f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.4f}{error}"


def verdict(difference: np.ndarray) -> str:
    """Whether better > worse, by a paired t-test at 5 %."""
    if len(difference) < 2:
        return "one seed"
    p = stats.ttest_1samp(difference, 0).pvalue
    if p >= 0.05:
        return f"not seen (p {p:.2f})"
    return f"{'holds' if difference.mean() > 0 else 'the contrary'} (p {p:.2g})"


def comparison(runs: dict[str, list[dict]], metrics: Sequence[str]) -> Iterator[str]:
    """Models, claims and illnesses."""
    tasks = list(runs["HoME"][0]["test"])
    seeds = len(runs["HoME"])
    for metric in metrics:
        yield f"\n{metric}, test days, mean over {seeds} seeds; last column: over tasks, +- standard error\n"
        cells = []
        for name, lines in runs.items():
            means = [f"{np.mean([line['test'][t][metric] for line in lines]):.4f}" for t in tasks]
            cells.append([name, f"{lines[0]['parameters']:,}", *means, mean_error(per_seed(lines, metric))])
        yield from markdown(["model", "parameters", *tasks, "mean"], cells)
    yield "\nThe paper's claims: paired differences of the means over tasks, +- standard error (above 0)\n"
    cells = []
    for text, better, worse in CLAIMS + EQUAL:
        row = [text, f"{better} - {worse}"]
        for metric in metrics:
            difference = per_seed(runs[better], metric) - per_seed(runs[worse], metric)
            row += [f"{mean_error(difference, '+')} ({(difference > 0).sum()})"]
            if (text, better, worse) in EQUAL:
                low, high = interval(difference)
                row += [f"95 %: {low:+.4f} to {high:+.4f}"]
            else:
                row += [verdict(difference)]
        cells.append(row)
    header = [word for metric in metrics for word in (metric, "verdict")]
    yield from markdown(["claim", "difference", *header], cells)
    yield from illness_table(runs)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return values.mean() - half, values.mean() + half


def illness_table(runs: dict[str, list[dict]]) -> Iterator[str]:
    yield "\nThe three illnesses: median over seeds (worst seed); runs in which a threshold is crossed\n"
    cells = [
        [name, *illness_cells(lines, ILLS)]
        for name, lines in runs.items()
        if any(line["ills"] for line in lines)
    ]
    yield from markdown(["model", *ILLS.values(), "crossed in runs"], cells)


def illness_cells(lines: Sequence[dict], columns: Iterable[str]) -> list[str]:
    """Median (worst seed) of each column, and which thresholds are crossed in how many runs."""
    found = [line["ills"] for line in lines if line["ills"]]
    row = []
    for key in columns:
        values = [ills[key] for ills in found if key in ills]
        worst = min if key == "neglect" else max
        row.append(f"{np.median(values):.3g} ({worst(values):.3g})" if values else "-")
    seen = [ill for ills in found for ill in ills["names"]]
    return [*row, ", ".join(f"{ill} {seen.count(ill)}" for ill in dict.fromkeys(seen)) or "none"]


def simulator(bench: Bench, seeds: int) -> Iterator[str]:
    runs: dict[str, list[dict]] = {name: [] for name in NAMES}
    for seed in range(seeds):  # seed by seed: an interrupted run has as many of each
        for name in NAMES:
            runs[name].append(bench.run(name, seed))
    yield f"\n## Simulator, {ROWS:,} rows, {seeds} seeds\n"
    yield from comparison(runs, ("auc_share", "gauc_share"))


def kuairand(bench: Bench, seeds: int) -> Iterator[str]:
    runs: dict[str, list[dict]] = {name: [] for name in NAMES}
    for seed in range(seeds):
        for name in NAMES:
            runs[name].append(bench.run(name, seed, {"name": "kuairand"}))
    yield f"\n## KuaiRand-Pure, eight tasks, {seeds} seeds\n"
    yield from comparison(runs, ("auc", "gauc"))


def longer(bench: Bench, seeds: int) -> Iterator[str]:
    """Whether one setting for all favours some: more epochs."""
    changes = {TRAINING["epochs"]: {}, LONG: {"epochs": LONG}}
    runs: dict[str, dict[int, list[dict]]] = {name: {n: [] for n in changes} for name in LONGER}
    for seed in range(seeds):
        for name in LONGER:
            for n, change in changes.items():
                runs[name][n].append(bench.run(name, seed, changes=change))
    # of each model the number of epochs that does better on the validation days
    best = {
        name: max(several, key=lambda n, by=several: per_seed(by[n], "auc_share", "validation").mean())
        for name, several in runs.items()
    }
    for metric in ("auc_share", "gauc_share"):
        yield f"\n## Trained longer, {seeds} seeds: {metric}, mean over tasks\n"
        cells = []
        for name, several in runs.items():
            short, long = (per_seed(lines, metric) for lines in several.values())
            row = [name, mean_error(short), mean_error(long), mean_error(long - short, "+"), str(best[name])]
            for own, other in ((LONG, LONG), (best["HoME"], best[name])):
                ahead = per_seed(runs["HoME"][own], metric) - per_seed(several[other], metric)
                row.append("" if name == "HoME" else f"{mean_error(ahead, '+')} {verdict(ahead)}")
            cells.append(row)
        header = [f"{n} epochs" for n in changes]
        ahead = [f"HoME - it, {LONG} epochs", "HoME - it, each at its better"]
        yield from markdown(["model", *header, "difference", "better (validation)", *ahead], cells)


def curve(
    bench: Bench, seeds: int, title: str, name: str, steps: dict[str, dict], base: str
) -> Iterator[str]:
    """A model with one number changed: mean, and the paired difference to the base."""
    runs: dict[str, list[dict]] = {step: [] for step in steps}
    for seed in range(seeds):
        for step, sizes in steps.items():
            runs[step].append(bench.run(name, seed, **sizes))
    yield f"\n## {title}\n"
    yield f"{name} on the simulator, {seeds} seeds: share of the ceiling, mean over tasks +- standard error\n"
    cells = []
    for step, lines in runs.items():
        row = [step, f"{lines[0]['parameters']:,}"]
        for metric in ("auc_share", "gauc_share"):
            difference = per_seed(lines, metric) - per_seed(runs[base], metric)
            row += [mean_error(per_seed(lines, metric)), "" if step == base else mean_error(difference, "+")]
        cells.append(row)
    header = ["AUC share", f"- that of {base}", "GAUC share", f"- that of {base}"]
    yield from markdown(["", "parameters", *header], cells)


def experts(bench: Bench, seeds: int) -> Iterator[str]:
    names = (
        "meta_shared_experts",
        "meta_category_experts",
        "shared_experts",
        "category_experts",
        "task_experts",
    )
    steps = {f"{n} in each group": dict.fromkeys(names, n) for n in (1, 2, 4)}
    return curve(bench, seeds, "Number of experts", "HoME w/o fg", steps, "1 in each group")


def loras(bench: Bench, seeds: int) -> Iterator[str]:
    # 2 is HoME's own number: its runs of the simulator stand in
    steps = {f"{n} of rank D/{n}": {"loras": n} if n != 2 else {} for n in (1, 2, 4, 8)}
    steps["2 of rank 8"] = {"rank": 8}
    return curve(bench, seeds, "Number of LoRAs", "HoME w/o fg2", steps, "2 of rank D/2")


def collapse(bench: Bench, seeds: int) -> Iterator[str]:
    raw, constant = {"raw_counts": True}, {"schedule": None}
    conditions = {
        "as above": ({}, {}),
        "learning rate 0.01, constant, 8 epochs": ({}, constant | {"lr": 1e-2, "epochs": 8}),
        "learning rate 0.1, constant": ({}, constant | {"lr": 0.1}),
        "raw counts": (raw, {}),
        "raw counts, learning rate 0.01, constant, 8 epochs": (raw, constant | {"lr": 1e-2, "epochs": 8}),
    }
    yield f"\n## Where does a ReLU MMoE collapse? {FEW:,} rows, {seeds} seeds: medians (worst seed)\n"
    cells = []
    for title, (log, changes) in conditions.items():
        names = ("MMoE", "MMoE*", "HoME", *(DEEP if not changes else ()))
        runs: dict[str, list[dict]] = {name: [] for name in names}
        for seed in range(seeds):
            for name in names:
                runs[name].append(bench.run(name, seed, {"rows": FEW} | log, changes))
        for name, lines in runs.items():
            share = np.median(per_seed(lines, "auc_share"))
            cells.append([title, name, f"{share:.3f}", *illness_cells(lines, COLLAPSE)])
    yield from markdown(["condition", "model", "AUC share", *COLLAPSE.values(), "crossed in runs"], cells)


def sensitivity(bench: Bench, seeds: int) -> Iterator[str]:
    logs = {
        "as above": {},
        "nothing in common (shared 0)": {"shared": 0.0},
        "all interest in common (shared 1)": {"shared": 1.0},
        "no conflict": {"conflict": 0.0},
        "conflict 2": {"conflict": 2.0},
        "revealed 0.8": {"revealed": 0.8},
    }
    names = ("SharedBottom", "MMoE", "MMoE*", "HoME")
    yield f"\n## Other logs, {FEW:,} rows, {seeds} seeds: share of the AUC ceiling, mean over tasks\n"
    cells = []
    for title, log in logs.items():
        runs: dict[str, list[dict]] = {name: [] for name in names}
        for seed in range(seeds):
            for name in names:
                runs[name].append(bench.run(name, seed, {"rows": FEW} | log))
        found = {name: per_seed(lines, "auc_share") for name, lines in runs.items()}
        row = [title, *(mean_error(values) for values in found.values())]
        for other in names[:-1]:
            difference = found["HoME"] - found[other]
            row.append(f"{mean_error(difference, '+')} {verdict(difference)}")
        cells.append(row)
    yield from markdown(["log", *names, *(f"HoME - {name}" for name in names[:-1])], cells)


def tune(bench: Bench, seeds: int) -> Iterator[str]:
    """The validation grid of the simulator."""
    yield f"\n## Validation days: share of the AUC ceiling, mean over tasks, {seeds} seeds; one change\n"
    cells = []
    for changes in GRID:
        found = [
            per_seed(
                [bench.run(name, seed, changes=changes) for seed in range(seeds)], "auc_share", "validation"
            )
            for name in TUNED
        ]
        title = ", ".join(f"{k} {v:g}" for k, v in changes.items()) or "settings"
        cells.append([title, *map(mean_error, found), f"{np.mean(found):.4f}"])
    yield from markdown(["change", *TUNED, "mean"], cells)


def main() -> None:
    sections = {
        "simulator": simulator,
        "kuairand": kuairand,
        "longer": longer,
        "experts": experts,
        "loras": loras,
        "collapse": collapse,
        "sensitivity": sensitivity,
    }
    run_sections(__doc__, Bench, sections, tune, seeds=10)


if __name__ == "__main__":
    main()
