"""A function of tensors, recorded once as the kernels that it calls and then replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

# what this process has compiled, by all that the code depends on
_COMPILED: dict[tuple, Callable[..., object]] = {}


class Replayed:
    """Calls ``function(*tensors)`` by the kernels that it called when its arguments first had these shapes.

    An operation under `vmap` or `grad` costs several times what its kernel's own call does. The function's
    Python code runs once per set of shapes: what it decides from numbers is decided then.

    ``compile=True``: TorchInductor merges the kernels of the first set of shapes into fewer. Others, a last
    batch say, are replayed as they are: compiling takes longer than their few calls.
    """

    def __init__(self, function: Callable[..., object], compile: bool = False) -> None:
        self.function, self.compile = function, compile
        self.graphs: dict[tuple[torch.Size, ...], Callable[..., object]] = {}

    def __call__(self, *tensors: Tensor):
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in self.graphs:
            # fake tensors: recording changes nothing in place
            graph = make_fx(lambda *given: self.function(*given), tracing_mode="fake")(*tensors)
            merge = self.compile and not self.graphs
            self.graphs[shapes] = _compiled(graph, tensors) if merge else graph
        return self.graphs[shapes](*tensors)


def _compiled(graph: fx.GraphModule, tensors: tuple[Tensor, ...]) -> Callable[..., object]:
    """The graph by TorchInductor. Not by torch.compile, whose checks before each call cost a tenth of it."""
    layouts = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
    constants = str({name: value.tolist() for name, value in graph.named_buffers()})
    key = graph.code, layouts, constants, torch.get_num_threads()
    if key not in _COMPILED:
        from torch import _inductor  # takes seconds, as does the next one
        from torch._dynamo.utils import get_metrics_context

        # the processor's flags decide which vectors are used: trying each out with the C++ compiler takes
        # seconds on a machine that has compiled nothing yet
        options = {"cpp.vec_isa_ok": True}
        # what an earlier process has compiled is on disk, and is looked up only inside a tracing context;
        # torch 2.6 counts what that saves, and stops where nobody asked for the count
        fake = FakeTensorMode(shape_env=ShapeEnv())
        given = [fake.from_tensor(tensor, static_shapes=True) for tensor in tensors]
        with get_metrics_context(), tracing(TracingContext(fake)):
            _COMPILED[key] = _inductor.compile(graph, given, options)
    return _COMPILED[key]
