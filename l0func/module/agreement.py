"""The public check that processes hold the same spec, key, gates or ``L0Module``."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from l0func.internal.groups import ProcessGroup, check_member
from l0func.module.l0_module import L0Module
from l0func.sharding.agreement import compare

_SETTINGS = ("lam", "weight_decay", "per_example", "sampling", "estimator", "training")


def check_agreement(*, group: ProcessGroup | None = None, **things: Any) -> None:
    """Refuse to go on where processes hold different values.

    A process with another seed draws other masks, and nothing shows it: not the loss, and not an
    error. Call this once before training, or every so many steps. It reads each tensor once, and
    gathers 32 bytes of each process; only processes that disagree send more, to say on what. It is
    a collective: every process of the group calls it, with the same names.

    Values of tensors are compared bit for bit. A DTensor is compared by its dtype, shape and
    layout, and each piece of it among the processes of the group that hold this piece: copies
    along a replicated dimension of the mesh, as in hybrid sharding. A piece that one process alone
    holds has nothing to be compared with. Terms of a partial sum are not compared.

    Args:
        group: The process group; None is the whole world.
        **things: Values under names of your choice: a key, a gate spec, a pytree of tensors such
            as gates or a :class:`~l0func.train.state.TrainState`, a number, a text; an
            :class:`L0Module`, also inside of ``DistributedDataParallel``, by its spec, key, number
            of draws, settings, gates, weights and buffers.

    Raises:
        RuntimeError: ``torch.distributed`` has no group yet.
        TypeError: A value is something else.
        ValueError: Two processes hold different values, and the message names the parts and the
            processes, in all of them; nothing is given to compare; or this process is not in the
            group.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> from torch import distributed
        >>> store = distributed.HashStore()
        >>> distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> spec = l0.gate_spec({"w": torch.ones(3)})
        >>> l0.check_agreement(spec=spec, key=l0.random.key(0))  # silent: all agree
        >>> distributed.destroy_process_group()
    """
    check_member("check_agreement", group)
    parts: dict[str, Any] = {}
    for name, value in things.items():
        parts |= _parts_of_module(name, value) if isinstance(value, nn.Module) else {name: value}
    if not parts:
        raise ValueError(
            "check_agreement compares what it is given, and it was given nothing. Name the "
            "values, as in check_agreement(spec=spec, key=key, gates=gates)."
        )
    compare(parts, group)


def _parts_of_module(name: str, module: nn.Module) -> dict[str, Any]:
    if isinstance(module, nn.parallel.DistributedDataParallel):
        inner: nn.Module = cast("Any", module).module
        return _parts_of_module(name, inner)
    if not isinstance(module, L0Module):
        return {name: module.state_dict()}
    parts: dict[str, Any] = {f"{name}.spec": module.spec, f"{name}.key": module.key}
    parts[f"{name}.draws"] = module.draws
    for setting in _SETTINGS:
        parts[f"{name}.{setting}"] = getattr(module, setting)
    parts[f"{name}.gates"] = module.gates()
    parts[f"{name}.weights"] = module.weights()
    parts[f"{name}.buffers"] = dict(module.module.named_buffers())
    return parts
