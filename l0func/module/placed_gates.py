"""Gates of an ``L0Module``, laid out over processes as the layers that they multiply."""

from __future__ import annotations

from typing import Any

from torch import nn

from l0func.internal.sharding import is_dtensor
from l0func.module import checkpoint
from l0func.module.shards import fsdp_paths
from l0func.module.wrapper import Wrapper
from l0func.sharding.place import place_gates


class PlacedGates(Wrapper):
    """A wrapper with gates that can be laid out over processes."""

    def place_gates(self) -> None:
        """Lay the gates out as the slices of the layers that ``parallelize_module`` laid out.

        Without it every process holds all gates and draws whole masks. After it each holds and
        draws the gates of its own slices; masks keep their bits, and a draw sends nothing. Costs
        are then collectives, which every process calls.

        Call it after ``parallelize_module`` and before the optimizer is made: the gates become
        new parameters, DTensors. Gates that multiply no DTensor stay as they are. See
        :func:`l0func.place_gates`.

        Raises:
            ValueError: A layer is managed by ``fully_shard``, which gathers its parameters for
                forward; or a gate multiplies a DTensor and a plain tensor.
        """
        own: Any = self
        sharded = fsdp_paths(self)
        if sharded:
            raise ValueError(
                f"place_gates follows parallelize_module, and fully_shard manages the module "
                f"{sharded[0]!r}: it has its parameters whole during forward. To share the gates "
                "out too, shard the whole: fully_shard(net)."
            )
        gates = own.gates()
        placed = place_gates(own.spec, own.weights(), gates)
        for name, log_alpha in placed.items():
            before = gates[name]
            if is_dtensor(log_alpha) and not is_dtensor(before):
                new = nn.Parameter(log_alpha.detach(), requires_grad=before.requires_grad)
                own.log_alpha[checkpoint.stored(name)] = new
