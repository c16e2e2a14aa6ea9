"""Forwards of an ``L0Module`` over layers that ``fully_shard`` or ``parallelize_module`` laid out.

Gates that are plain tensors are equal in all processes, and every process draws whole masks. Of
gates that are DTensors each draws its own. A mask is multiplied into the part of the parameter
that the process holds. FSDP has whole parameters during a layer's forward only: there the mask
waits until FSDP has gathered them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from l0func.engine.gated import Gated
from l0func.gates.checks import Masks
from l0func.gates.masks import apply_masks, deterministic_masks, sample_masks
from l0func.internal import tree
from l0func.internal.context import compiling
from l0func.internal.kinds import real_dtype
from l0func.internal.sharding import is_dtensor, layout_of, shard_dim
from l0func.internal.torch_version import distributed_tensor
from l0func.internal.tree import Pytree
from l0func.internal.untyped import loose


class Late(NamedTuple):
    """A parameter of a module that FSDP shards; FSDP has it whole during forward only."""

    path: str
    """Its path among the parameters."""

    owner: int
    """The number of the module that FSDP gathers as one."""

    holder: int
    """The number of the module that has it."""

    name: str
    """Its name there."""


def late_parameters(modules: Mapping[str, nn.Module], params: Mapping[str, Tensor]) -> list[Late]:
    """The parameters that FSDP gathers in the forward of a module among these."""
    kind = _fsdp_kind()
    if kind is None:
        return []
    owners = {path: i for i, (path, m) in enumerate(modules.items()) if isinstance(m, kind)}
    paths = {id(p): path for path, p in params.items()}
    found: list[Late] = []
    for holder, (path, module) in enumerate(modules.items()):
        owner = _nearest(path, owners)
        if owner is None:
            continue
        for name, p in vars(module)["_parameters"].items():
            if p is not None:
                found.append(Late(paths[id(p)], owner, holder, name))
    return found


def _fsdp_kind() -> type | None:
    """The class of modules that FSDP2 manages; None before torch's part for it is imported."""
    return getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)


def fsdp_paths(module: nn.Module) -> list[str]:
    """The paths of the modules in a tree that ``fully_shard`` manages."""
    kind = _fsdp_kind()
    if kind is None:
        return []
    own: Any = module
    return [path for path, child in own.named_modules() if isinstance(child, kind)]


def _nearest(path: str, owners: Mapping[str, int]) -> int | None:
    """The number of the module at a path, or of the nearest one above it, among the owners."""
    while path not in owners:
        if not path:
            return None
        path = path.rpartition(".")[0]
    return owners[path]


def has_shards(params: Mapping[str, Tensor], late: Sequence[Late]) -> bool:
    """Whether a module's forward meets parameters that processes share out."""
    return bool(late) or any(map(is_dtensor, params.values()))


def resizable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors that FSDP may hold: machine code would fix the size of their memory.

    FSDP frees gathered parameters by a resize, and numpy allows none of memory that it has seen.
    """
    if compiling() or "torch.distributed.fsdp" not in sys.modules:
        return tensors
    return {name: t if is_dtensor(t) else t.clone() for name, t in tensors.items()}


def check_one_mask_for_all(per_example: bool) -> None:
    """Refuse a mask for every row over DTensors.

    Raises:
        ValueError: ``per_example`` is set.
    """
    if per_example:
        raise ValueError(
            "per_example=True maps forward over rows, and torch.vmap takes no DTensors: the "
            "wrapped module has layers from fully_shard or parallelize_module. Set "
            "net.per_example = False, or use DistributedDataParallel, with whole parameters in "
            "every process."
        )


@contextmanager
def naming_uneven(
    params: Mapping[str, Tensor], late: Sequence[Late]
) -> Generator[None, None, None]:
    """A context that names parameters cut into unequal parts where torch fails at them.

    torch takes such parts in some calls. But it guesses the size of the whole from a layer's local
    output as that of equal parts.

    Raises:
        ValueError: torch raised an error of its own, and a parameter is cut into unequal parts.
    """
    try:
        yield
    except RuntimeError as error:
        waiting = {entry.path for entry in late}
        for path, p in params.items():
            uneven = None if path in waiting or not is_dtensor(p) else _uneven_dim(p)
            if uneven is not None:
                raise ValueError(_uneven_text(path, p, *uneven)) from error
        raise


def _uneven_dim(param: Tensor) -> tuple[int, int] | None:
    """A dimension of a DTensor that its processes do not share equally, and their number."""
    layout = layout_of(param)
    for placement, count in zip(layout.placements, layout.mesh.shape, strict=True):
        dim = shard_dim(placement)
        if dim is not None and param.shape[dim] % count:
            return dim, count
    return None


def _uneven_text(path: str, param: Tensor, dim: int, count: int) -> str:
    size = param.shape[dim]
    fitting = max(size // count, 1) * count
    return (
        f"The parameter {path!r} of shape {tuple(param.shape)} is cut over {count} processes "
        f"along dimension {dim}, and {count} does not divide its size {size}: torch's parallel "
        "layers failed. "
        f"Give that dimension a multiple of {count}, such as {fitting} or {fitting + count}, or "
        "leave the layer out of parallelize_module's plan."
    )


class GatedShards(Gated[Any]):
    """A gated function whose parameters may be DTensors."""

    late: Sequence[Late] = ()
    masks: Masks

    def _masked(self, params: Pytree, gates: Pytree, key: Tensor | None) -> Pytree:
        if key is None:
            masks = deterministic_masks(gates, self.spec, self.estimator)
        else:
            masks = sample_masks(key, gates, self.spec)
        waiting = {entry.path for entry in self.late}
        self.masks = {path: mask for path, mask in masks.items() if path in waiting}
        tensors = tree.leaves(params)
        plain: Masks = {}
        for path, mask in masks.items():
            if path in waiting:
                continue
            if is_dtensor(tensors[path]) and not is_dtensor(mask):
                tensors[path] = times(tensors[path], mask)
            else:
                plain[path] = mask
        return apply_masks(tensors, plain)


def times(param: Tensor, mask: Tensor | None) -> Tensor:
    """A parameter times its whole mask; a DTensor's process multiplies the part that it holds."""
    if mask is None:
        return param
    factor = mask.to(real_dtype(param.dtype))
    if is_dtensor(param):
        mesh = loose(param).device_mesh
        home = distributed_tensor()
        copies = [home.Replicate()] * mesh.ndim
        # Backward, the slopes of all parts are put together: every process has them all.
        factor = home.DTensor.from_local(factor, mesh, copies, run_check=False)
    return param * factor


def wait_for_gathering(
    late: Sequence[Late],
    masks: Callable[[], Masks],
    modules: Sequence[nn.Module],
    clones: Sequence[nn.Module],
) -> None:
    """Let the clones' forwards multiply masks into the parameters that FSDP has gathered by then.

    Args:
        late: The parameters.
        masks: Gives their masks, by path.
        modules: The modules, in which FSDP puts the whole parameters.
        clones: The clones of one call, in the same order.
    """
    for number in {entry.owner for entry in late}:
        own = [entry for entry in late if entry.owner == number]
        clone = clones[number]
        vars(clone)["forward"] = _Waiting(clone.forward, own, masks, modules, clones)


class _Waiting(NamedTuple):
    """The forward of a clone that FSDP gathers parameters for."""

    forward: Callable[..., Any]
    late: Sequence[Late]
    masks: Callable[[], Masks]
    modules: Sequence[nn.Module]
    clones: Sequence[nn.Module]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # After FSDP's hook, so that it still waits for these slopes in its backward hook.
        masks = self.masks()
        before: list[Any] = []
        for entry in self.late:
            table = vars(self.clones[entry.holder])["_parameters"]
            gathered = vars(self.modules[entry.holder])["_parameters"][entry.name]
            before.append(table[entry.name])
            table[entry.name] = times(gathered, masks.get(entry.path))
        try:
            return self.forward(*args, **kwargs)
        finally:
            for entry, old in zip(self.late, before, strict=True):
                vars(self.clones[entry.holder])["_parameters"][entry.name] = old
