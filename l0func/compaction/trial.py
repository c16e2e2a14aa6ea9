"""A trial of groups on a copy with random weights: does the network without some units equal the
pruned one?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from l0func import random
from l0func.compaction.removal import remove
from l0func.gates.masks import deterministic_gates
from l0func.gates.prune import prune
from l0func.internal import tree
from l0func.internal.names import stream
from l0func.pure.functional import Functional
from l0func.spec.build import gate_spec
from l0func.spec.plan import Group


class Trial:
    """A copy of a function with random weights, from which units are removed to see whether the
    rest stays as it was.
    """

    def __init__(self, function: Functional, inputs: tuple[Any, ...]) -> None:
        self.function = function
        self.inputs = inputs
        self.device = next((p.device for p in function.params.values()), None)
        wide = tree.map_tensors(_wide, (inputs, _shaken(function)))
        try:
            function.fn(*wide[1], *wide[0])
            self.inputs, (self.params, self.buffers) = wide
            self.tolerance = 1e-7
        except RuntimeError:
            # Forward makes tensors of a type of its own.
            self.params, self.buffers = _shaken(function)
            self.tolerance = 1e-3

    def problem(self, groups: Mapping[str, Group]) -> str | None:
        """What goes wrong when some units of these groups are removed; None if nothing does."""
        found = (self._problem(groups, lost) for lost in _losses(len(groups)))
        return next((problem for problem in found if problem is not None), None)

    def _problem(self, groups: Mapping[str, Group], lost: Callable[[int, int], int]) -> str | None:
        fn = self.function.fn
        try:
            spec = gate_spec(self.params, groups=groups, buffers=self.buffers)
            gates = {
                gate.name: _closed(gate.name, gate.shape[0], lost(i, gate.shape[0])).to(
                    self.device, gate.dtype
                )
                for i, gate in enumerate(spec.gates)
            }
            pruned = prune(self.params, gates, spec)
            expected = fn(pruned, self.buffers, *self.inputs)
            opens = {
                name: z != 0 for name, z in deterministic_gates(gates, spec, "louizos").items()
            }
            small, params, buffers = remove(fn, pruned, self.buffers, spec, opens)
            output = small(params, buffers, *self.inputs)
        except Exception as error:
            # Whatever a stranger's forward raises on other sizes is the reason.
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return (
            None
            if same_output(output, expected, self.tolerance)
            else "the outputs differ from the pruned network's"
        )


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _shaken(function: Functional) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and buffers that no two channels share: a fresh BatchNorm would not tell one from
    another.
    """

    def shake(path: str, tensor: Tensor, noise: float) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        u, n = random.split(random.fold_in(random.key(0), stream(path)), 2)
        scale = 0.5 + random.uniform(u, tuple(tensor.shape)).to(tensor)
        return tensor * scale + noise * random.normal(n, tuple(tensor.shape)).to(tensor)

    params = {path: shake(path, p, 0.03) for path, p in function.params.items()}
    return params, {path: shake(path, b, 0.0) for path, b in function.buffers.items()}


def _losses(groups: int) -> Iterator[Callable[[int, int], int]]:
    """Ways to lose units: from the number of a group and its size to how many it loses.

    Half of all, all but one, and then one unit of some groups, so that any two of them once lose
    different numbers: a forward that halves its input takes equal losses well.
    """
    yield lambda i, size: size // 2
    yield lambda i, size: size - 1
    for bit in range(groups.bit_length()):
        yield lambda i, size, bit=bit: (i + 1) >> bit & 1


def _closed(name: str, count: int, closed: int) -> Tensor:
    """Gates of which so many are closed, and the others open to a degree of their own."""
    u = random.uniform(random.fold_in(random.key(1), stream(name)), count)
    return torch.where(u.argsort().argsort() < closed, -20.0, 4 * u)


def same_output(output: Any, expected: Any, tolerance: float | None = None) -> bool:
    """Whether two outputs have the same shapes and numbers, up to a share of the largest; None is
    by the type.
    """
    pairs = [[t for _, t in tree.walk(o) if isinstance(t, Tensor)] for o in (output, expected)]
    if len(pairs[0]) != len(pairs[1]):
        return False
    for a, b in zip(*pairs, strict=True):
        if a.shape != b.shape:
            return False
        largest = float(b.double().abs().max()) if b.numel() else 0.0
        if not isfinite(largest):
            if not torch.allclose(a, b, equal_nan=True):
                return False
            continue
        share = tolerance or (1e-8 if b.dtype == torch.float64 else 1e-3)
        if b.numel() and not torch.allclose(a.double(), b.double(), rtol=0, atol=share * largest):
            return False
    return True
