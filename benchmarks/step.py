"""Time of one training step of MMoE: mtlkit against published packages, a naive loop and the GEMM floor.

    python benchmarks/step.py                      # teaching size: B 512, D 128, 8 experts [64, 32], 8 tasks
    python benchmarks/step.py --size large         # B 4096, D 512, [256, 128]
    python benchmarks/step.py --grid               # corners and centre of B, D, experts, tasks
    python benchmarks/step.py --compile --bf16     # more rows
    python benchmarks/step.py --cpu-time           # on a busy machine: one thread, its CPU time

A step is forward, cross-entropy, backward and Adam; the input needs a gradient, as an embedding would.
Same sizes, same process, one thread pool; the implementations take turns in an order shuffled every round.
A sample waits for a quiet moment and is dropped if other processes were busy during it (Linux only).

The peers come from the registry where you have them (they are not dependencies of mtlkit):
``pip install --no-deps torch-rechub deepctr-torch LibMTL``. They run as a user gets them, except that
DeepCTR-Torch's gates are made linear (``gate_dnn_hidden_units=()``), which is less work and the paper's
form; "no BN" is torch-rechub without its batch norms, which it cannot switch off: less work again. LibMTL's
experts and towers are the caller's modules, here nn.Sequential of Linear and ReLU.

The floor is the time of the step's multiplications as large square matrix products, and nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import os
import random
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit.models import MMoE


@dataclass(frozen=True)
class Sizes:
    batch: int = 512
    width: int = 128
    experts: int = 8
    expert: tuple[int, ...] = (64, 32)
    tasks: int = 8
    tower: tuple[int, ...] = (16,)

    def __str__(self) -> str:
        return (
            f"B {self.batch}, D {self.width}, {self.experts} experts {list(self.expert)}, "
            f"{self.tasks} tasks, towers {[*self.tower, 1]}"
        )

    def flops(self) -> float:
        """Of the matrix products of a step: forward, gradient of the inputs, gradient of the weights."""
        expert = sum(a * b for a, b in itertools.pairwise([self.width, *self.expert]))
        tower = sum(a * b for a, b in itertools.pairwise([self.expert[-1], *self.tower, 1]))
        gate, mix = self.width * self.experts, self.experts * self.expert[-1]
        return 3 * 2.0 * self.batch * (self.experts * expert + self.tasks * (gate + mix + tower))


TEACHING = Sizes()
LARGE = Sizes(batch=4096, width=512, expert=(256, 128), tower=(64,))


# --- the implementations: (module, whether its outputs are probabilities) ---------------------------


def mlp(in_width: int, widths: Sequence[int], out: bool = False) -> nn.Sequential:
    steps: list[nn.Module] = []
    for a, b in itertools.pairwise([in_width, *widths]):
        steps += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*steps, *([nn.Linear(widths[-1], 1)] if out else []))


class NaiveLoop(nn.Module):
    """What one writes first: a loop over experts, a loop over tasks."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp(s.width, s.expert) for _ in range(s.experts))
        self.gates = nn.ModuleList(nn.Linear(s.width, s.experts, bias=False) for _ in range(s.tasks))
        self.towers = nn.ModuleList(mlp(s.expert[-1], s.tower, out=True) for _ in range(s.tasks))

    def forward(self, x: Tensor) -> Tensor:
        outs = torch.stack([expert(x) for expert in self.experts], dim=1)  # (B, E, H)
        logits = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            weights = gate(x).softmax(dim=-1).unsqueeze(1)  # (B, 1, E)
            logits.append(tower(torch.bmm(weights, outs).squeeze(1)))
        return torch.cat(logits, dim=1)  # (B, T)


def ours(s: Sizes) -> tuple[nn.Module, bool]:
    return MMoE(s.width, s.tasks, experts=s.experts, expert=s.expert, tower=s.tower), False


def naive(s: Sizes) -> tuple[nn.Module, bool]:
    return NaiveLoop(s), False


def rechub(s: Sizes) -> tuple[nn.Module, bool]:
    from torch_rechub.basic.features import DenseFeature
    from torch_rechub.models.multi_task import MMOE

    class Peer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            tower = {"dims": list(s.tower)}
            self.body = MMOE(
                [DenseFeature("x", s.width)],
                ["classification"] * s.tasks,
                s.experts,
                {"dims": list(s.expert)},
                [tower] * s.tasks,
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.body({"x": x})

    return Peer(), True


def rechub_without_bn(s: Sizes) -> tuple[nn.Module, bool]:
    model, probabilities = rechub(s)
    for part in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        for i, step in enumerate(part):
            if isinstance(step, nn.BatchNorm1d | nn.Dropout):
                part[i] = nn.Identity()
    return model, probabilities


def deepctr(s: Sizes) -> tuple[nn.Module, bool]:
    import requests

    # it asks the registry for its latest version when imported
    get, requests.get = requests.get, lambda *a, **k: types.SimpleNamespace(status_code=404)
    try:
        from deepctr_torch.inputs import DenseFeat
        from deepctr_torch.models import MMOE
    finally:
        requests.get = get
    model = MMOE(
        [DenseFeat("x", s.width)],
        num_experts=s.experts,
        expert_dnn_hidden_units=s.expert,
        gate_dnn_hidden_units=(),
        tower_dnn_hidden_units=s.tower,
        task_types=["binary"] * s.tasks,
        task_names=[f"task_{t}" for t in range(s.tasks)],
    )
    return model, True


def libmtl(s: Sizes) -> tuple[nn.Module, bool]:
    # the package's __init__ wants an old torchvision for its image models; its MMoE does not
    if "LibMTL" not in sys.modules:
        found = importlib.util.find_spec("LibMTL")
        if found is None:
            raise ModuleNotFoundError("No module named 'LibMTL'")
        package = types.ModuleType("LibMTL")
        package.__path__ = list(found.submodule_search_locations or ())
        sys.modules["LibMTL"] = package
    architecture = importlib.import_module("LibMTL.architecture").MMoE
    tasks = [f"task_{t}" for t in range(s.tasks)]

    class Peer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            towers = nn.ModuleDict({task: mlp(s.expert[-1], s.tower, out=True) for task in tasks})
            self.body = architecture(
                tasks,
                lambda: mlp(s.width, s.expert),
                towers,
                rep_grad=False,
                multi_input=False,
                device=torch.device("cpu"),
                img_size=[s.width],
                num_experts=[s.experts],
            )
            self.body.decoders = towers

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat(list(self.body(x).values()), dim=1)

    return Peer(), False


PEERS = {
    "torch-rechub": rechub,
    "torch-rechub, no BN": rechub_without_bn,
    "deepctr-torch": deepctr,
    "LibMTL": libmtl,
}


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
    for _ in range(steps):
        step()
    seconds = clock() - start
    return seconds / steps, 0.0 if cpu_time else (busy_elsewhere() - before) / seconds


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
    for name, make in {"mtlkit": ours, "naive loop": naive, **PEERS}.items():
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
    peers = [row for row in rows if row.name in PEERS]
    if peers:
        best = min(peers, key=lambda row: row.median)
        print(f"fastest peer: {best.name}, {best.median / own:.2f} x the time of mtlkit")
    if not quiet:
        print("the machine was never quiet: medians are over all samples, other processes included")


def grid(sizes: Sizes) -> Iterator[Sizes]:
    """The corners and the centre of the grid."""
    for b, d, e, t in itertools.product((256, 8192), (64, 1024), (4, 16), (2, 16)):
        yield replace(sizes, batch=b, width=d, experts=e, tasks=t)
    yield replace(sizes, batch=1024, width=256, experts=8, tasks=8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["teaching", "large"], default="teaching")
    parser.add_argument("--grid", action="store_true", help="a line per size instead of one table")
    for name in ("batch", "width", "experts", "tasks"):
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
    parser.add_argument("--cpu-time", action="store_true", help="one thread, and its CPU time")
    args = parser.parse_args()
    if args.cpu_time:
        args.threads = 1
    if args.threads:
        torch.set_num_threads(args.threads)

    sizes = LARGE if args.size == "large" else TEACHING
    given = {k: getattr(args, k) for k in ("batch", "width", "experts", "expert", "tasks", "tower")}
    sizes = replace(sizes, **{k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if v})
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
                f"B {s.batch}, D {s.width}, E {s.experts}, T {s.tasks}: {1e3 * own:.2f} ms; "
                f"{', '.join(parts)}, floor {floor_seconds / own:.2f}{note}",
                flush=True,
            )
    for name, reason in missing.items():
        print(f"left out: {name} ({reason})")


if __name__ == "__main__":
    main()
