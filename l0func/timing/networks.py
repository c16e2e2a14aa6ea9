"""Smaller copies of a network with chosen numbers of units, and the numbers to choose."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from l0func import random
from l0func.compaction.removal import remove
from l0func.pure.functional import Functional
from l0func.spec.plan import GateSpec

UnitCounts = dict[str, int]
"""``{group: number of open units}``."""


class Networks:
    """A network and its smaller copies.

    Args:
        function: The network, in eval mode.
        spec: Its groups' gates.
        multiple: The number of units in a group of more is a multiple of it, or all of them. A
            group of at most so many, such as attention heads, has any number.
    """

    def __init__(self, function: Functional, spec: GateSpec, multiple: int) -> None:
        self.function, self.spec = function, spec
        self.sizes = {gate.name: gate.size for gate in spec.gates}
        self._steps = {name: multiple if multiple < n else 1 for name, n in self.sizes.items()}

    def opens(self, units: Mapping[str, int]) -> dict[str, Tensor]:
        """The first units of each group are open."""
        opens: dict[str, Tensor] = {}
        for gate in self.spec.gates:
            numbers = torch.arange(gate.size, device="cpu").reshape(gate.shape)
            opens[gate.name] = numbers < units[gate.name]
        return opens

    def module(self, units: Mapping[str, int]) -> nn.Module:
        """The module with this many units; what loses nothing shares the network's memory."""
        small = remove(*self.function, self.spec, self.opens(units))
        module = small.fn.module(small.params, small.buffers)
        parameters = dict(module.named_parameters())
        for path, own in self.function.params.items():
            if small.params[path] is own and path in parameters:
                parameters[path].data = own
        return module.requires_grad_(False).eval()

    def at(self, shares: Mapping[str, float]) -> UnitCounts:
        """The allowed numbers nearest to shares between the lowest number (0) and all (1)."""
        return {name: self._allowed(name, share) for name, share in shares.items()}

    def uniform(self, share: float) -> UnitCounts:
        """The same share for every group."""
        return self.at(dict.fromkeys(self.sizes, share))

    def scattered(self, count: int) -> list[UnitCounts]:
        """The dense network, the smallest one, and others spread evenly over every group's range.

        Each group takes equally spaced numbers in an order of its own (a Latin hypercube).
        """
        others = max(count - 2, 1)
        orders: dict[str, Tensor] = {}
        for gate in self.spec.gates:
            key = random.fold_in(random.key(0), gate.stream)
            draws = random.uniform(key, (2, others))
            orders[gate.name] = (draws[0].argsort() + draws[1]) / others
        drawn = [self.uniform(1.0), self.uniform(0.0)]
        for i in range(others):
            drawn.append(self.at({name: float(order[i]) for name, order in orders.items()}))
        return drawn

    def _allowed(self, name: str, share: float) -> int:
        size, step = self.sizes[name], self._steps[name]
        lowest = min(step, size)
        units = lowest + share * (size - lowest)
        below = step * ((size - 1) // step)
        return size if units > (below + size) / 2 else max(lowest, step * round(units / step))
