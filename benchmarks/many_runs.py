"""Many small runs at once (`mtlkit.ensemble.fit_many`) against the plain loop over seeds.

The MMoE paper's synthetic regression at its size: 100 features, 8 experts of 16 units, towers of 8, batches
of 512, 1000 steps, a validation loss every 20 steps. The plain loop is what one writes first: a module with
a loop over its experts and its tasks, `torch.optim.Adam`, one seed after the other. All in one process, in
turns: after every part of stacked runs a seed of the plain loop; its time for all seeds is that of the first
(which pays for torch's start-up) and the mean of the others for each of the rest. Times include everything
but the making of the data: models, start-up, compiling, writing the weights back. TorchInductor keeps what it
compiles on disk; an empty TORCHINDUCTOR_CACHE_DIR shows the first use on a machine. The floor: the step's
matrix products alone, stacked, back to back.

    python benchmarks/many_runs.py --runs 200 --compile
"""

from __future__ import annotations

import argparse
import statistics

import torch
from peers import NaiveMMoE, Sizes
from reporting import seconds
from tqdm import tqdm

from mtlkit import data, training
from mtlkit.data import Table
from mtlkit.ensemble import fit_many
from mtlkit.models import MMoE, Recommender

SIZES = Sizes(batch=512, width=100, experts=8, expert=(16,), tasks=2, tower=(8,))
ROWS, HELD_OUT, LR = 20 * SIZES.batch, 2 * SIZES.batch, 1e-2


def tables(seeds: range) -> list[Table]:
    rows = ROWS + HELD_OUT
    split = (ROWS / rows, HELD_OUT / rows, 0)
    return [data.relatedness(0.5, rows=rows, fractions=split, seed=seed) for seed in seeds]


def model(table: Table, seed: int) -> Recommender:
    return Recommender(table, MMoE, seed=seed, experts=SIZES.experts, expert=SIZES.expert, tower=SIZES.tower)


def plain(table: Table, seed: int, epochs: int) -> None:
    """One run as one writes it first."""
    torch.manual_seed(seed)
    net = NaiveMMoE(SIZES)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    parts = [table.part("train"), table.part("validation")]
    (x, y), (held_out_x, held_out_y) = (
        (torch.from_numpy(p.dense), torch.from_numpy(p.label_matrix())) for p in parts
    )
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(SIZES.batch):
            optimizer.zero_grad()
            (net(x[batch]) - y[batch]).square().mean(dim=0).sum().backward()
            optimizer.step()
        with torch.no_grad():
            (net(held_out_x) - held_out_y).square().mean().item()


def stacked(some: list[Table], seeds: range, epochs: int, chunk: int | None, compile: bool) -> None:
    models = [model(table, seed) for seed, table in zip(seeds, some, strict=True)]
    options = {"epochs": epochs, "batch_size": SIZES.batch, "lr": LR, "progress": False}
    fit_many(models, some, seeds=seeds, chunk=chunk, compile=compile, **options)


def lone(table: Table, seed: int, epochs: int) -> None:
    options = {"epochs": epochs, "batch_size": SIZES.batch, "lr": LR, "progress": False}
    training.fit(model(table, seed), table, patience=None, seed=seed, **options)


def floor(runs: int, steps: int) -> float:
    """Seconds for the products of ``steps`` steps of ``runs`` runs: (out, in) @ (in, B), and twice back."""
    s, widths = SIZES, SIZES.experts * (SIZES.expert[-1] + SIZES.tasks)
    x, w = torch.randn(runs, s.batch, s.width), torch.randn(runs, widths, s.width)
    g = torch.randn(runs, widths, s.batch)  # the input needs no gradient: one product forward, one back

    def products() -> None:
        torch.bmm(w, x.transpose(1, 2))
        torch.bmm(g, x)

    return statistics.median(seconds(products) for _ in range(20)) * steps


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=50, help="of 20 steps each")
    parser.add_argument("--part", type=int, default=50, help="runs between two seeds of the plain loop")
    parser.add_argument("--chunk", type=int, help="runs that fit_many stacks at a time; else its own choice")
    parser.add_argument("--compile", action="store_true", help="a row with torch.compile, too")
    options = parser.parse_args()
    ways = {"stacked, eager": False} | ({"stacked, compiled": True} if options.compile else {})
    times: dict[str, list[float]] = {name: [] for name in ("plain loop", "training.fit", *ways)}
    parts = [range(s, min(s + options.part, options.runs)) for s in range(0, options.runs, options.part)]
    epochs = options.epochs
    for seeds in tqdm(parts, unit="part"):
        some = tables(seeds)
        times["plain loop"].append(seconds(lambda s=seeds[0], t=some[0]: plain(t, s, epochs)))
        times["training.fit"].append(seconds(lambda s=seeds[0], t=some[0]: lone(t, s, epochs)))
        for name, compiled in ways.items():
            arguments = (some, seeds, epochs, options.chunk, compiled)
            times[name].append(seconds(lambda a=arguments: stacked(*a)))
            times["plain loop"].append(seconds(lambda s=seeds[-1], t=some[-1]: plain(t, s, epochs)))
    steps = 20 * epochs
    whole = {name: sum(spent) for name, spent in times.items()}
    for name in ("plain loop", "training.fit"):
        spent = times[name]
        # the first pays for torch's own start-up, which happens once
        whole[name] = spent[0] + statistics.mean(spent[1:] or spent) * (options.runs - 1)
        print(
            f"{name}: {len(spent)} runs measured, {min(spent):.2f} to {max(spent):.2f} s each, "
            f"median {statistics.median(spent):.2f} s"
        )
    whole["floor"] = min(floor(chunk, steps) * options.runs / chunk for chunk in (10, 50))
    threads = torch.get_num_threads()
    print(f"\n{options.runs} runs of {steps} steps, torch {torch.__version__}, {threads} threads")
    print(f"{'':20}{'whole, s':>10}{'ms per run and step':>21}{'plain loop / it':>17}{'it / floor':>12}")
    for name, total in whole.items():
        each = 1e3 * total / options.runs / steps
        print(
            f"{name:20}{total:10.1f}{each:21.3f}{whole['plain loop'] / total:17.2f}"
            f"{total / whole['floor']:12.2f}"
        )


if __name__ == "__main__":
    main()
