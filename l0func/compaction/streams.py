"""Blocks that are added to a stream: it goes on where all units of a block close."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from l0func import random
from l0func.internal.outputs import visible_tensors
from l0func.internal.untyped import untyped
from l0func.pure.functional import Functional
from l0func.pure.inputs import Inputs
from l0func.pure.keyed import Keyed
from l0func.spec.plan import GateSpec

_Marks = dict[int, tuple[Tensor, frozenset[str]]]
"""For some tensors, by identity: the tensor, so that it stays alive, and its groups."""


def added_groups(
    function: Functional, inputs: Inputs, spec: GateSpec, groups: Collection[str]
) -> set[str]:
    """The groups whose readers' outputs reach the network's output only through a sum.

    The other summand depends on the inputs and not on the group's readers: it is the stream.

    Args:
        function: A pure function and its tensors.
        inputs: Example inputs.
        spec: The gate spec.
        groups: The groups to look at.
    """
    fn, params, buffers = function
    params = {path: p.detach() for path, p in params.items()}
    args, kwargs, *_ = inputs.copied()
    watch = _Sums()
    for plan in spec.parameters:
        readers = {b.gate for b in plan.bindings if b.multiplies and b.gate in groups}
        if readers and params[plan.path].dim() > 1:
            watch.mark(watch.weights, params[plan.path], frozenset(readers))
    for tensor in visible_tensors((args, kwargs)):
        watch.mark(watch.active, tensor, frozenset())
    with torch.no_grad(), Keyed(random.key(0)), watch:
        output, _ = fn.eval().run(params, buffers, *args, **kwargs)
    for tensor in visible_tensors(output):
        watch.blocked |= watch.groups_of(watch.blocks, [tensor])
    return watch.added - watch.blocked


class _Sums(TorchDispatchMode):
    """A context that follows the outputs of readers up to a sum.

    Attributes:
        weights: The readers' weights, and what is computed from them alone.
        blocks: The readers' outputs, and what is computed from them, up to a sum.
        active: All that depends on inputs.
        added: The groups with an output that is added to a stream.
        blocked: The groups with an output that meets the stream otherwise.
    """

    def __init__(self) -> None:
        cast("Any", super()).__init__()
        self.weights: _Marks = {}
        self.blocks: _Marks = {}
        self.active: _Marks = {}
        self.added: set[str] = set()
        self.blocked: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = visible_tensors((args, dict(kwargs or {})))
        output = func(*args, **(kwargs or {}))
        outputs = visible_tensors(output)
        weights = self.groups_of(self.weights, given)
        blocks = self.groups_of(self.blocks, given)
        active = [tensor for tensor in given if id(tensor) in self.active]
        if not active:
            self._note(self.weights, outputs, weights)
            return output
        for tensor in outputs:
            self.mark(self.active, tensor, frozenset())
        streams = [tensor for tensor in active if id(tensor) not in self.blocks]
        if weights or not streams:
            self._note(self.blocks, outputs, weights | blocks)
        elif blocks and _is_sum(func, streams, outputs):
            self.added |= blocks
            self._forget(outputs)
        elif blocks:
            self.blocked |= blocks
            self._forget(outputs)
        return output

    def mark(self, marks: _Marks, tensor: Tensor, groups: frozenset[str]) -> None:
        """Give a tensor a mark."""
        marks[id(tensor)] = (tensor, groups)

    def groups_of(self, marks: _Marks, tensors: Collection[Tensor]) -> frozenset[str]:
        """The groups that some tensors are marked with."""
        found: frozenset[str] = frozenset()
        for tensor in tensors:
            if id(tensor) in marks:
                found |= marks[id(tensor)][1]
        return found

    def _note(self, marks: _Marks, outputs: Collection[Tensor], groups: frozenset[str]) -> None:
        for tensor in outputs:
            if groups:
                self.mark(marks, tensor, groups)

    def _forget(self, outputs: Collection[Tensor]) -> None:
        """Take the marks off a sum that was written into the block's own output."""
        for tensor in outputs:
            self.blocks.pop(id(tensor), None)


def _is_sum(func: Any, streams: Collection[Tensor], outputs: Collection[Tensor]) -> bool:
    aten = untyped.ops.aten
    if func.overloadpacket not in (aten.add, aten.add_, aten.sub, aten.sub_, aten.rsub):
        return False
    return all(stream.shape == out.shape for stream in streams for out in outputs)
