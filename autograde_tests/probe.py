"""Ask an answer a trial and return plain arrays. Knows nothing of what is right.

This half runs the student's code; ``verdict`` decides about the arrays. They share no objects, so that the
two can live in two processes.
"""

from __future__ import annotations

import contextlib
import copy
import io
import linecache
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from autograde_tests.exercise import Trial

HERE = os.path.dirname(os.path.abspath(__file__))
FINISHED = os.path.join(os.path.dirname(HERE), "mtlkit", "")  # where a checkout has it
LONGEST = 160  # characters of an error; torch explains some at length
SECONDS = 20.0  # for all trials of a check; a check takes well under two


@dataclass
class Reply:
    """What an answer did in one trial: arrays by name, or one failure in words.

    failure: "" | "blank" | "crash" | "type" | "parts" | "delegated" | "slow", with ``text`` for the reader.
    changed: the inputs that the answer modified.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    failure: str = ""
    text: str = ""
    changed: tuple[str, ...] = ()


class Wrong(Exception):
    """A failure of an answer with its kind (see ``Reply``)."""

    def __init__(self, failure: str, text: str) -> None:
        super().__init__(text)
        self.failure = failure


def ask(
    answer: object, how: str, trials: Sequence[Trial], device: torch.device, may_use: Sequence[str] = ()
) -> list[Reply]:
    """Put every trial to the answer; one reply each. Stops early once the answer is blank or too slow."""
    replies = []
    with _quiet(), _deadline(SECONDS), _one_thread():
        for trial in trials:
            torch.manual_seed(0)
            reply = _ask_once(answer, how, trial, device, may_use)
            replies.append(reply)
            if reply.failure in ("blank", "slow"):
                break
    return replies


def _ask_once(answer: object, how: str, trial: Trial, device: torch.device, may_use: Sequence[str]) -> Reply:
    reply = Reply()
    try:
        with _watch(may_use) as delegated:
            reply.arrays, reply.changed = PROBES[how](answer, trial, device)
    except Wrong as wrong:
        reply.failure, reply.text = wrong.failure, str(wrong)
    except NotImplementedError as error:
        # the stub's has no words; torch raises one with words when a container is called like a layer
        reply.failure, reply.text = ("crash", own_line(error)) if str(error) else ("blank", "")
    except _TooSlow:
        reply.failure, reply.text = "slow", f"it still ran after {SECONDS:.0f} seconds: an endless loop?"
    except (Exception, SystemExit) as error:
        reply.failure, reply.text = "crash", own_line(error)
    if delegated:
        reply.failure, reply.text, reply.arrays = "delegated", delegated[0], {}
    return reply


# --- the probes: how a kind of answer is asked -------------------------------------------------------------


def _function(answer: object, trial: Trial, device: torch.device) -> tuple[dict, tuple]:
    return _call(answer, trial, device, {})


def _module(answer: object, trial: Trial, device: torch.device) -> tuple[dict, tuple]:
    if not (isinstance(answer, type) and issubclass(answer, nn.Module)):
        raise Wrong("type", f"this exercise asks for a class (nn.Module), you gave {_name(answer)}")
    build = copy.deepcopy(dict(trial.build))
    module = answer(**build)
    dtype = getattr(torch, trial.dtype)
    module.to(device=device, dtype=dtype)
    load(module, trial.state)
    own = {f"{part}.{kind}": ts for (part, kind), ts in _grouped(module.state_dict(keep_vars=True)).items()}
    arrays, changed = _call(module, trial, device, own)
    return arrays, changed + tuple(k for k, v in trial.build.items() if not _equal(v, build[k]))


def _call(
    run: Callable, trial: Trial, device: torch.device, parameters: dict[str, list]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Outputs, gradients by the trial's inputs and by ``parameters``, and the inputs that were changed."""
    inputs = {k: _tensor(v, k in trial.grads, trial, device) for k, v in trial.inputs.items()}
    before = {k: v.detach().clone() if isinstance(v, Tensor) else copy.deepcopy(v) for k, v in inputs.items()}
    out = run(*inputs.values())
    arrays = _outputs(out) | _gradients(out, {k: inputs[k] for k in trial.grads} | parameters)
    return arrays, tuple(k for k, v in before.items() if not _equal(v, inputs[k]))


def _shared_model(answer: object, trial: Trial, device: torch.device) -> tuple[dict, tuple]:
    """A model with a bottom and a tower per task, and its losses (T,): answer(model, losses)."""
    given = {k: _tensor(v, False, trial, device) for k, v in trial.inputs.items()}
    features, tasks = given["bottom"].shape[1] - 1, given["towers"].shape[0]
    model = nn.Module()
    model.bottom = nn.Linear(features, given["bottom"].shape[0])
    model.towers = nn.ModuleList(nn.Linear(given["bottom"].shape[0], 1) for _ in range(tasks))
    model.to(device=device, dtype=given["x"].dtype)
    with torch.no_grad():
        for layer, weights in zip(
            [model.bottom, *model.towers], [given["bottom"], *given["towers"]], strict=True
        ):
            layer.weight.copy_(weights[..., :-1].reshape(layer.weight.shape))
            layer.bias.copy_(weights[..., -1].reshape(layer.bias.shape))
    hidden = torch.relu(model.bottom(given["x"]))
    predicted = torch.cat([tower(hidden) for tower in model.towers], dim=1)  # (B, T)
    losses = (predicted - given["labels"]).square().mean(dim=0)  # (T,)
    return _outputs(answer(model, losses)), ()


PROBES: dict[str, Callable] = {"function": _function, "module": _module, "shared model": _shared_model}


def load(module: nn.Module, state: dict[str, np.ndarray]) -> None:
    """Copy weights into a module whose parts have the right names, whatever their inner layout.

    Weights are matched part by part (the first name) and kind by kind (the last: weight, bias): T layers
    of width 1 and one layer of width T hold the same numbers.
    """
    own, given = _grouped(module.state_dict(keep_vars=True)), _grouped(state)
    seen = {part for part, _ in own}
    for (part, kind), arrays in given.items():
        if not hasattr(module, part):
            raise Wrong("parts", f"there is no self.{part}; keep the names of the parts that the text gives")
        mine = own.pop((part, kind), [])
        flat = np.concatenate([np.asarray(a).reshape(-1) for a in arrays])
        if sum(t.numel() for t in mine) != flat.size:
            have = sum(t.numel() for t in mine)
            if kind == "bias" and not mine and part in seen:
                raise Wrong(
                    "parts", f"self.{part} has no bias. What does `nn.Linear` hold beside its weight?"
                )
            hint = (
                _sizes(mine) if part in seen else "; is it a plain list? Then torch does not see its layers"
            )
            raise Wrong(
                "parts",
                f"self.{part} should hold {flat.size} numbers as {kind}{_sizes(arrays)}, "
                f"yours holds {have}{hint}",
            )
        with torch.no_grad():
            for tensor in mine:
                tensor.copy_(torch.from_numpy(flat[: tensor.numel()].reshape(tuple(tensor.shape))))
                flat = flat[tensor.numel() :]
    if own:
        part, kind = next(iter(own))
        raise Wrong("parts", f"self.{part} ({kind}) is a part that this model does not have")


def _sizes(tensors: Sequence) -> str:
    """How many of which shape: " (3 x (2, 4))"."""
    counts = Counter(tuple(tensor.shape) for tensor in tensors)
    return f" ({', '.join(f'{n} x {shape}' for shape, n in counts.items())})" if counts else ""


def _grouped(state: dict) -> dict[tuple[str, str], list]:
    groups: dict[tuple[str, str], list] = {}
    for name, value in state.items():
        parts = name.split(".")
        groups.setdefault((parts[0], parts[-1]), []).append(value)
    return groups


# --- between plain arrays and live tensors -----------------------------------------------------------------


def _tensor(value: object, grad: bool, trial: Trial, device: torch.device) -> object:
    if not isinstance(value, np.ndarray):
        return copy.deepcopy(value)  # a list that an answer changes must not reach the next trial
    tensor = torch.from_numpy(value.copy()).to(device)
    if tensor.is_floating_point():
        tensor = tensor.to(getattr(torch, trial.dtype))
    if trial.strided and tensor.dim():
        tensor = torch.stack([tensor, tensor], dim=-1)[..., 0]  # every second number of a wider block
    return tensor.requires_grad_(grad) if grad else tensor


def _outputs(out: object, name: str = "out") -> dict[str, np.ndarray]:
    """Results as arrays by name; a dict or a tuple gives one array per entry."""
    if name != "out" and (out is None or out is Ellipsis):
        raise Wrong("type", f"{name.removeprefix('out')} is still empty: it is {out}")
    if out is None:
        raise Wrong("type", "it returns None: is the `return` missing?")
    if isinstance(out, dict):
        return {k: v for key, value in out.items() for k, v in _outputs(value, f"{name}[{key!r}]").items()}
    if isinstance(out, (tuple, list)):
        return {k: v for i, value in enumerate(out) for k, v in _outputs(value, f"{name}[{i}]").items()}
    if isinstance(out, Tensor):
        if out.is_complex():
            raise Wrong("type", "it returns complex numbers: did you take the root of a negative one?")
        return {name: out.detach().cpu().numpy()}
    if isinstance(out, nn.Module):
        raise Wrong(
            "type",
            f"it returns {_name(out)}: `nn.{type(out).__name__}(...)` builds a layer and applies nothing. "
            "Call the layer, or torch's function of that name.",
        )
    if isinstance(out, (bool, int, float, str, np.ndarray, np.generic)):
        return {name: np.asarray(out)}
    raise Wrong("type", f"it returns {_name(out)}; a tensor or a number is expected")


def _gradients(out: object, wanted: dict[str, object]) -> dict[str, np.ndarray]:
    """Gradients of a fixed weighted sum of the output, flat, by name; absent where none arrives."""
    if not wanted:
        return {}
    if not isinstance(out, Tensor):
        raise Wrong("type", f"it returns {_name(out)}; a tensor is expected, so that gradients can flow")
    if not out.requires_grad:
        return {}
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=tuple(out.shape))).to(out)
    flat = [(name, t) for name, ts in wanted.items() for t in (ts if isinstance(ts, list) else [ts])]
    flat = [(name, t) for name, t in flat if isinstance(t, Tensor) and t.requires_grad]
    grads = torch.autograd.grad((out * weights).sum(), [t for _, t in flat], allow_unused=True)
    found: dict[str, list[np.ndarray]] = {}
    for (name, tensor), grad in zip(flat, grads, strict=True):
        grad = torch.zeros_like(tensor) if grad is None else grad
        found.setdefault(f"grad of {name}", []).append(grad.detach().cpu().numpy().reshape(-1))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _equal(a: object, b: object) -> bool:
    if not isinstance(a, Tensor):
        return a == b
    return a.shape == b.shape and torch.equal(
        torch.nan_to_num(a, nan=7.25), torch.nan_to_num(b.detach(), nan=7.25)
    )


def _name(value: object) -> str:
    return f"a {type(value).__module__}.{type(value).__name__}".replace("builtins.", "")


# --- around the student's code -----------------------------------------------------------------------------


def own_line(error: BaseException) -> str:
    """The error in one line, and the line of the student's own code that raised it."""
    first = str(error).splitlines()[0] if str(error) else ""
    first = first if len(first) <= LONGEST else f"{first[:LONGEST]} ..."
    what = f"{type(error).__name__}: {first}".rstrip(": ")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        ours = frame.filename.startswith(HERE) and "sheets" not in frame.filename
        inside = ours or frame.filename.startswith(FINISHED)
        if (
            inside
            or "site-packages" in frame.filename
            or frame.filename.startswith(("<frozen", "<mtlkit", sys.prefix))
        ):
            continue
        line = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
        return f"{what}\nin your line: {line}" if line else what
    return what


@contextlib.contextmanager
def _watch(may_use: Sequence[str]) -> Iterator[list[str]]:
    """Note which finished parts of mtlkit the answer calls, by whatever name it imported them."""
    seen: list[str] = []

    def profile(frame, event, _arg) -> None:
        if event != "call":
            return
        module = frame.f_globals.get("__name__", "")
        if not isinstance(module, str) or not module.startswith("mtlkit."):
            return
        caller = frame.f_back.f_globals.get("__name__", "") if frame.f_back else ""
        if str(caller).startswith("mtlkit."):
            return  # a helper of something the answer was allowed to call
        name = f"{module}.{frame.f_code.co_qualname}"
        if "<" not in name.rsplit(".", 1)[-1] and not name.startswith(tuple(may_use) or ("\0",)):
            seen.append(name)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield seen
    finally:
        sys.setprofile(before)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and on a busy machine threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _TooSlow(BaseException):
    """Raised inside the answer when its time is over; no Exception, so it is not caught by accident."""


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Interrupt the answer after ``seconds`` where the platform can (main thread, POSIX)."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings, progress bars and C++ lines off stderr: there they would cost points in nbgrader."""
    saved = os.dup(2)
    with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(sink.fileno(), 2)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
