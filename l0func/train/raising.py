"""Gates raised to the share of a constraint; a gate that alone exceeds the target is passed over.

A large unit may be the likeliest closed one. Smaller units behind it open nevertheless: a closed
gate hardly learns, and the network would stay without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from l0func.costs.latency import LatencyTable
from l0func.gates.checks import Gates, MaskEstimator
from l0func.internal.context import known_values
from l0func.internal.shard_sums import full_sums
from l0func.internal.sharding import is_dtensor
from l0func.spec.plan import GateSpec
from l0func.train.ahead import ShareAhead, can_look_ahead, searched
from l0func.train.constraints import Constraint
from l0func.train.holding import ROUNDING, Enough, least_shift, raised

_MOST_ROUNDS = 16
"""At most so many gates are passed over in one step beside those that never fit."""


@dataclass(frozen=True)
class Raising:
    """How the gates of a constraint are raised.

    Args:
        constraint: The constraint.
        spec: The gate spec.
        estimator: The test-time gates.
        opens: ``opens(gates)``: 1 for each open gate, 0 for each closed one, NaN for a NaN.
        caps: For each gate vector the location that it is raised to.
    """

    constraint: Constraint
    spec: GateSpec
    estimator: MaskEstimator
    opens: Callable[[Gates], Gates]
    caps: Mapping[str, float]

    def share(self, gates: Gates) -> Tensor:
        """The share that stays."""
        return self.constraint.share(self.opens(gates), self.spec)

    def __call__(self, gates: Gates, now: Tensor, least: Tensor, most: Tensor) -> Gates:
        """Gates with a share of at least ``least``, or all that fit below ``most``.

        Args:
            gates: ``{gate name: log_alpha}``.
            now: The share for these gates.
            least: The share from which they are enough.
            most: The share that no single gate may step over.
        """
        knows_steps = self._knows_steps(gates)
        for _ in range(_MOST_ROUNDS):
            if known_values(now >= least):
                # The usual case, without the search, which costs many calls.
                break
            given, enough = searched(self.constraint, gates), Enough(self.share, least, most=most)
            if knows_steps:
                given = self._without_large(gates, most - now)
                highest = self.share(self._all_open(given))
                if known_values(highest <= now):
                    break
                enough = enough._replace(least=highest.minimum(least))
            if can_look_ahead(self.constraint, gates):
                at = ShareAhead(self.constraint, gates, self.spec, self.estimator)
                enough = enough._replace(at=at)
            shift = least_shift(given, self._own_caps, enough, now, self._numbers_open)
            moved = raised(gates, self._own_caps, shift)
            gates = self._without_passed_over(moved, gates, given) if knows_steps else moved
            # A second round may have nothing to do, and a map would search all the same.
            if not knows_steps or known_values(now) is None:
                break
            now = self.share(gates)
        return gates

    @property
    def _own_caps(self) -> dict[str, float]:
        return {name: self.caps[name] for name in self.constraint.gates}

    def _knows_steps(self, gates: Gates) -> bool:
        """Whether the share is a sum over products of gates, each open or not for itself.

        Milliseconds are a table, "count" orders the gates of a vector, and gates on shards would
        need messages for it.
        """
        is_table = isinstance(self.constraint.costs, LatencyTable)
        on_shards = any(is_dtensor(t) for t in gates.values())
        return not (is_table or on_shards or self.estimator == "count")

    def _without_large(self, gates: Gates, room: Tensor) -> Gates:
        """Gates, with a location of minus infinity for closed ones that alone exceed the room.

        The share is linear in each gate, so its slope is what that gate would add.
        """
        opens = self.opens(gates)
        steps = torch.func.grad(partial(self.constraint.share, spec=self.spec))(opens)
        without = dict(gates)
        for name in self.constraint.gates:
            is_large = (opens[name] == 0) & (steps[name] > room + ROUNDING)
            without[name] = torch.where(is_large, -torch.inf, gates[name])
        return without

    def _all_open(self, gates: Gates) -> Gates:
        """Gates raised to their caps, without those at minus infinity."""
        opened = dict(gates)
        for name, cap in self._own_caps.items():
            opened[name] = gates[name].where(gates[name].isneginf(), gates[name].clamp(min=cap))
        return opened

    def _without_passed_over(self, moved: Gates, gates: Gates, given: Gates) -> Gates:
        """Moved gates; those at minus infinity in ``given`` stay where they were."""
        kept = dict(moved)
        for name in self._own_caps:
            kept[name] = gates[name].where(given[name].isneginf(), moved[name])
        return kept

    def _numbers_open(self, each: Sequence[Gates]) -> list[Tensor]:
        """How many of the constraint's gates are open, for each of several gates."""
        names = self.constraint.gates
        opens = [self.opens(gates) for gates in each]
        sums = full_sums([own[name] for own in opens for name in names])
        count = len(names)
        parts = [sums[i * count : (i + 1) * count] for i in range(len(each))]
        return [torch.stack(list(part)).sum() for part in parts]
