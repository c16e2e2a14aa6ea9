"""Run a pure function once and follow its units through every operation.

``follow`` is the entrance to this folder: compaction and costs call it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from l0func import random
from l0func.internal import tree
from l0func.internal.interception import Interception
from l0func.internal.outputs import hidden_in, place_of, visible_leaves, visible_tensors
from l0func.pure.example_kinds import explained_kinds
from l0func.pure.functional import PureModule
from l0func.pure.inputs import Inputs
from l0func.pure.keyed import Keyed
from l0func.pure.written_out.mode import WrittenOut
from l0func.tracing.trace import Trace
from l0func.tracing.tracer import Tracer


def follow(
    fn: PureModule,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    inputs: Inputs,
) -> Trace:
    """Trace one call on these inputs, in fn's own train or eval modes.

    Args:
        fn: A pure function.
        params: Its parameters, flat.
        buffers: Its buffers, flat.
        inputs: Its inputs, on the device of the parameters. The call works on copies.

    Returns:
        The trace: the units, and where each parameter makes and reads them.

    Raises:
        ValueError: Forward branches on data: it reads numbers out of a tensor that depends on
            inputs or parameters.
    """
    # Fresh objects: the tracer finds tensors by identity, and a caller may pass the same tensor
    # twice, for example as a parameter and as an input.
    params, buffers = _fresh(dict(params)), _fresh(dict(buffers))
    args, kwargs, *_ = inputs.copied()
    tensors = {**params, **buffers}
    shapes = {path: tuple(t.shape) for path, t in tensors.items()}
    tracer = Tracer(shapes)
    for path, tensor in tensors.items():
        tracer.begin_parameter(path, tensor)
    for tensor in _all_tensors((args, kwargs)):
        tracer.begin_input(tensor)
    modes = (WrittenOut(), _RMSNorms(tracer), Keyed(random.key(0)), tracer)
    kinds = explained_kinds(inputs, tensors)
    with torch.no_grad(), kinds, inputs.explained(), ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        output, _ = fn.run(params, buffers, *args, **kwargs)
    return tracer.finish(_places(output), hidden_in(output, "output"))


def _places(output: Any) -> list[tuple[str, Tensor]]:
    """The tensors in an output, each with its place."""
    found: list[tuple[str, Tensor]] = []
    for trail, leaf in visible_leaves(output):
        if isinstance(leaf, Tensor):
            found.append((place_of("output", trail), leaf))
    return found


def _fresh(value: Any) -> Any:
    """A pytree with a new tensor object for each tensor; memory is shared."""
    return tree.map_tensors(Tensor.detach, value)


def _all_tensors(inputs: Any) -> list[Tensor]:
    hidden = [tensor for tensor, _ in hidden_in(inputs, "inputs")]
    return visible_tensors(inputs) + hidden


class _RMSNorms(Interception):
    """A context that follows an RMSNorm as one operation."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__(HANDLERS)
        self.tracer = tracer


def _rms_norm(
    mode: _RMSNorms,
    func: Any,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    return mode.tracer.rms_norm(func, input, normalized_shape, weight, eps)


HANDLERS: dict[Any, Callable[..., Any]] = {}
for _module in (F, torch):
    # torch 2.1 has no RMSNorm.
    if hasattr(_module, "rms_norm"):
        HANDLERS[_module.rms_norm] = _rms_norm
