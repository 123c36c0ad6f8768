"""Time of one training step: mtlkit against published packages, a naive loop and the GEMM floor.

    python benchmarks/step.py                      # teaching size: B 512, D 128, 8 experts [64, 32], 8 tasks
    python benchmarks/step.py --size large         # B 4096, D 512, [256, 128]
    python benchmarks/step.py --model ple          # 2 levels, 2 experts per task and 2 shared, [64, 32]
    python benchmarks/step.py --model ple --grid   # 2, 8 and 16 tasks of both sizes
    python benchmarks/step.py --model home         # 2 experts per task, category and for all; MMoE beside
    python benchmarks/step.py --grid               # corners and centre of B, D, experts, tasks
    python benchmarks/step.py --compile --bf16     # more rows
    python benchmarks/step.py --returned-memory    # without device.keep_freed_memory: a loop of your own
    python benchmarks/step.py --cpu-time           # on a busy machine: one thread, its CPU time

A step is forward, cross-entropy, backward and Adam; the input needs a gradient, as an embedding would.
Same sizes, same process, one thread pool; the implementations take turns in an order shuffled every round.
A sample waits for a quiet moment and is dropped if other processes were busy during it (Linux only).

The implementations, and what was done to the peers, are in peers.py.

The floor is the time of the step's multiplications as large square matrix products, and nothing else.
Beside HoME stands mtlkit's MMoE of the same sizes: its step should cost no more than the ratio of the two
models' multiplications explains.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from peers import LARGE, PEERS, TEACHING, Sizes, naive, ours
from torch import nn
from torch.nn import functional as F

from mtlkit.device import keep_freed_memory

# --- timing -----------------------------------------------------------------------------------------


def stepper(
    model: nn.Module, probabilities: bool, s: Sizes, fused: bool | None, autocast: bool
) -> Callable[[], object]:
    """One training step on a fixed batch."""
    x = torch.randn(s.batch, s.width, requires_grad=True)
    y = (torch.rand(s.batch, s.tasks) < 0.3).float()
    loss_of = F.binary_cross_entropy if probabilities else F.binary_cross_entropy_with_logits
    optimizer = torch.optim.Adam(model.parameters(), fused=fused)

    def step() -> None:
        x.grad = None
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            out = model(x)
        loss_of(out.float(), y).backward()
        optimizer.step()

    return step


def floor(s: Sizes) -> Callable[[], object]:
    """One large matrix product; its time is scaled by the step's multiplications."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return lambda: torch.mm(a, b)


def busy_elsewhere() -> float:
    """CPU seconds that other processes have used so far (0 where the system does not tell)."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    ticks = [int(v) for v in stat.read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK") - time.process_time()


def sample(step: Callable[[], object], steps: int, cpu_time: bool) -> tuple[float, float]:
    """Seconds per step, and the share of a core that others used meanwhile."""
    clock = time.process_time if cpu_time else time.perf_counter
    before, start = busy_elsewhere(), clock()
    for done in range(1, steps + 1):  # noqa: B007
        step()
        if clock() - start > 0.5:  # one long step, or a machine that is far too busy
            break
    seconds = clock() - start
    return seconds / done, 0.0 if cpu_time else (busy_elsewhere() - before) / seconds


def wait_until_quiet(quiet: float, deadline: float) -> None:
    """Sleep until others leave the machine alone for a moment, at most until ``deadline``."""
    while time.perf_counter() < deadline:
        before = busy_elsewhere()
        time.sleep(0.03)
        if busy_elsewhere() - before <= 0.03 * quiet:
            return


def measure(
    steps: dict[str, Callable[[], object]], args: argparse.Namespace
) -> tuple[dict[str, list[float]], bool]:
    """``--rounds`` samples by name, and whether they are quiet: none of others' work in between.

    Waits ``--patience`` seconds in all for quiet moments; after that, noise is better than nothing.
    """
    lengths = {}
    for name, step in steps.items():
        for _ in range(2):  # warm up: allocator, thread pool, Adam's state
            step()
        # a few hundredths of a second, so that the system's clock ticks resolve a neighbour's load
        once = min(sample(step, 1, args.cpu_time)[0] for _ in range(3))
        lengths[name] = max(1, round(0.06 / max(once, 1e-6)))
    clean: dict[str, list[float]] = {name: [] for name in steps}
    every: dict[str, list[float]] = {name: [] for name in steps}
    deadline = time.perf_counter() + args.patience
    order = list(steps)
    for turn in itertools.count():
        random.Random(turn).shuffle(order)
        for name in order:
            if not args.cpu_time:
                wait_until_quiet(args.quiet, deadline)
            seconds, foreign = sample(steps[name], lengths[name], args.cpu_time)
            every[name].append(seconds)
            if foreign <= args.quiet:
                clean[name].append(seconds)
        fewest = min(len(v) for v in clean.values())
        late = time.perf_counter() > deadline and turn + 1 >= args.rounds
        if fewest >= args.rounds or late:
            quiet = fewest >= max(3, args.rounds // 3)
            return (clean if quiet else every), quiet
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class Row:
    name: str
    median: float  # seconds per step
    low: float  # quartiles
    high: float


def compare(s: Sizes, args: argparse.Namespace, missing: dict[str, str]) -> tuple[list[Row], float, bool]:
    """A row per implementation, the floor in seconds, and whether the samples are quiet."""
    torch.manual_seed(0)
    steps = {}
    for name, make in {"mtlkit": ours, "naive loop": naive, **PEERS[s.model]}.items():
        if name in missing:
            continue
        try:
            model, probabilities = make(s)
        except ImportError as reason:
            missing[name] = str(reason)
            continue
        fused = True if args.adam == "fused" else None
        steps[name] = stepper(model, probabilities, s, fused, autocast=False)
        if name in ("mtlkit", "naive loop"):
            if args.compile:
                torch._dynamo.reset()
                compiled = torch.compile(make(s)[0])
                steps[f"{name}, compiled"] = stepper(compiled, probabilities, s, fused, autocast=False)
            if args.bf16:
                steps[f"{name}, bf16"] = stepper(make(s)[0], probabilities, s, fused, autocast=True)
    if s.model == "home":
        model, probabilities = ours(replace(s, model="mmoe"))
        fused = True if args.adam == "fused" else None
        steps["mtlkit's MMoE"] = stepper(model, probabilities, s, fused, autocast=False)
    steps["floor"] = floor(s)
    samples, quiet = measure(steps, args)
    rows = []
    for name, seconds in samples.items():
        quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
        rows.append(Row(name, statistics.median(seconds), quartiles[0], quartiles[2]))
    product = rows.pop().median
    return rows, product * s.flops() / (2 * 1024**3), quiet


def report(s: Sizes, rows: list[Row], floor_seconds: float, quiet: bool) -> None:
    by_name = {row.name: row for row in rows}
    own, loop = by_name["mtlkit"].median, by_name["naive loop"].median
    print(f"\n{s}; {s.flops() / 1e9:.2f} GFLOP a step")
    print(f"{'':24}{'median ms':>10}{'quartiles':>16}{'/ mtlkit':>10}{'/ naive':>9}{'/ floor':>9}")
    for row in rows:
        spread = f"{1e3 * row.low:.2f}-{1e3 * row.high:.2f}"
        print(
            f"{row.name:24}{1e3 * row.median:10.2f}{spread:>16}{row.median / own:10.2f}"
            f"{row.median / loop:9.2f}{row.median / floor_seconds:9.2f}"
        )
    print(f"{'floor':24}{1e3 * floor_seconds:10.2f}")
    if s.model == "home":
        flops, seconds = s.flops() / replace(s, model="mmoe").flops(), own / by_name["mtlkit's MMoE"].median
        print(f"HoME / MMoE: {flops:.2f} x the multiplications, {seconds:.2f} x the time")
    peers = [row for row in rows if row.name in PEERS[s.model]]
    if peers:
        best = min(peers, key=lambda row: row.median)
        print(f"fastest peer: {best.name}, {best.median / own:.2f} x the time of mtlkit")
    if not quiet:
        print("the machine was never quiet: medians are over all samples, other processes included")


def grid(sizes: Sizes) -> Iterator[Sizes]:
    """MMoE: the corners and the centre of a grid. PLE, HoME: both sizes with few and with many tasks."""
    if sizes.model != "mmoe":
        for size, t in itertools.product((TEACHING, LARGE), (2, 8, 16)):
            yield replace(size, model=sizes.model, tasks=t)
        return
    for b, d, e, t in itertools.product((256, 8192), (64, 1024), (4, 16), (2, 16)):
        yield replace(sizes, batch=b, width=d, experts=e, tasks=t)
    yield replace(sizes, batch=1024, width=256, experts=8, tasks=8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["mmoe", "ple", "home"], default="mmoe")
    parser.add_argument("--size", choices=["teaching", "large"], default="teaching")
    parser.add_argument("--grid", action="store_true", help="a line per size instead of one table")
    for name in ("batch", "width", "experts", "tasks", "own", "shared", "levels", "loras"):
        parser.add_argument(f"--{name}", type=int, help="instead of --size's")
    parser.add_argument("--expert", type=int, nargs="+", help="hidden widths of an expert")
    parser.add_argument("--tower", type=int, nargs="+", help="hidden widths of a tower, its logit apart")
    parser.add_argument("--adam", choices=["default", "fused"], default="default", help="the same for all")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile of mtlkit and of the naive loop"
    )
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast of mtlkit and the naive loop")
    parser.add_argument("--rounds", type=int, default=15, help="samples per row")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for quiet, per size")
    parser.add_argument("--quiet", type=float, default=0.15, help="cores that others may use in a sample")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--returned-memory", action="store_true", help="the system takes freed memory back")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, and its CPU time")
    args = parser.parse_args()
    if args.cpu_time:
        args.threads = 1
    if not args.returned_memory:
        keep_freed_memory()  # as training.fit does, here for all of them
    if args.threads:
        torch.set_num_threads(args.threads)

    sizes = LARGE if args.size == "large" else TEACHING
    given = {field.name: getattr(args, field.name) for field in fields(Sizes)}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if v is not None}
    sizes = replace(sizes, **given)
    missing: dict[str, str] = {}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, Adam {args.adam}")
    if not args.grid:
        report(sizes, *compare(sizes, args, missing))
    else:
        print("mtlkit in ms; the others as multiples of it")
        for s in grid(sizes):
            rows, floor_seconds, quiet = compare(s, args, missing)
            own = rows[0].median
            parts = [f"{row.name} {row.median / own:.2f}" for row in rows[1:]]
            note = "" if quiet else " (never quiet)"
            print(
                f"{s}: {1e3 * own:.2f} ms; {', '.join(parts)}, floor {floor_seconds / own:.2f}{note}",
                flush=True,
            )
    for name, reason in missing.items():
        print(f"left out: {name} ({reason})")


if __name__ == "__main__":
    main()
