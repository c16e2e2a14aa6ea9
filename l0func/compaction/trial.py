"""A trial: does the network without some units equal the pruned one?

``unit_groups`` returns only groups that passed a trial.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l0func import random
from l0func.compaction.examples import first_line, same_output
from l0func.compaction.removal import remove
from l0func.gates.checks import Gates
from l0func.gates.masks import deterministic_gates
from l0func.gates.prune import pruned_by
from l0func.internal import tree
from l0func.internal.names import stream
from l0func.pure.functional import Functional, PureModule
from l0func.spec.build import gate_spec
from l0func.spec.plan import GateSpec, GateVector, Group


@dataclass(frozen=True)
class Trial:
    """A network with random weights, from which a trial removes units.

    Build it with :func:`prepare_trial`.

    Attributes:
        fn: The pure function.
        params: Its random parameters, flat.
        buffers: Its random buffers, flat.
        inputs: Example inputs.
        tolerance: The largest difference between equal outputs, relative to the largest number.
    """

    fn: PureModule
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    inputs: tuple[Any, ...]
    tolerance: float

    def verification_error(self, groups: Mapping[str, Group]) -> str | None:
        """Compare the smaller network with the pruned one, for several choices of closed units.

        Returns:
            None if the two are always equal; otherwise the first difference or error, as text.
        """
        try:
            spec = gate_spec(self.params, groups=groups, buffers=self.buffers)
            sizes = [gate.shape[0] for gate in spec.gates]
            for closed in _closed_counts(sizes):
                if not self._is_exact(spec, closed):
                    return "the outputs differ from the pruned network's"
        except Exception as error:
            # A forward of unknown code may raise anything when its sizes change.
            return first_line(error)
        return None

    def _is_exact(self, spec: GateSpec, closed: Sequence[int]) -> bool:
        """Whether the smaller network equals the pruned one, with so many units closed."""
        gates = self._gates(spec, closed)
        z = deterministic_gates(gates, spec, "louizos")
        pruned = pruned_by(self.params, z, spec)
        expected = self.fn.with_buffers(pruned, self.buffers, *self.inputs)[0]
        opens = {name: value != 0 for name, value in z.items()}
        small = remove(self.fn, pruned, self.buffers, spec, opens)
        output = small.fn.with_buffers(small.params, small.buffers, *self.inputs)[0]
        return same_output(output, expected, self.tolerance)

    def _gates(self, spec: GateSpec, closed: Sequence[int]) -> Gates:
        device = next(iter(self.params.values())).device
        gates: Gates = {}
        for gate, count in zip(spec.gates, closed, strict=True):
            gates[gate.name] = _random_gates(gate, count).to(device, gate.dtype)
        return gates


def prepare_trial(function: Functional, inputs: tuple[Any, ...]) -> Trial:
    """A trial on these inputs, in float64 if the function's forward accepts that."""
    fn = function.fn
    params, buffers = _randomised(function.params), _randomised(function.buffers, noise=0.0)
    wide_params, wide_buffers, wide_inputs = tree.map_tensors(_wide, (params, buffers, inputs))
    try:
        fn.with_buffers(wide_params, wide_buffers, *wide_inputs)
    except RuntimeError:
        # Forward makes tensors of a fixed type.
        return Trial(fn, params, buffers, inputs, tolerance=1e-3)
    return Trial(fn, wide_params, wide_buffers, wide_inputs, tolerance=1e-7)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _randomised(tensors: Mapping[str, Tensor], noise: float = 0.03) -> dict[str, Tensor]:
    """Tensors in which no two channels are alike; integers stay.

    In a fresh BatchNorm all channels are alike, so that a trial could not tell them apart.
    """
    result = dict(tensors)
    for path, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        shape = tuple(tensor.shape)
        key = random.fold_in(random.key(0), stream(path))
        scale_key, noise_key = random.split(key, 2)
        scale = 0.5 + random.uniform(scale_key, shape).to(tensor)
        offset = random.normal(noise_key, shape).to(tensor)
        result[path] = tensor * scale + noise * offset
    return result


def _closed_counts(sizes: Sequence[int]) -> Iterator[list[int]]:
    """The numbers of units that a trial closes in each group.

    First half the units in every group, then all but one. Then one unit in some groups and none in
    the others, chosen so that any two groups lose different numbers at least once: a forward that
    splits its input into halves would accept equal losses.
    """
    yield [size // 2 for size in sizes]
    yield [size - 1 for size in sizes]
    numbers = range(1, len(sizes) + 1)
    for bit in range(len(sizes).bit_length()):
        yield [number >> bit & 1 for number in numbers]


def _random_gates(gate: GateVector, closed: int) -> Tensor:
    """Gate locations that close ``closed`` random gates and open the others to random degrees."""
    key = random.fold_in(random.key(1), stream(gate.name))
    u = random.uniform(key, gate.shape[0])
    rank = u.argsort().argsort()
    return torch.where(rank < closed, -20.0, 4 * u)
