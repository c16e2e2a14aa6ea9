"""Whole tensors from DTensors: the library's only function that moves tensors over processes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from l0func.internal import tree
from l0func.internal.sharding import is_dtensor
from l0func.internal.torch_version import check_torch
from l0func.internal.tree import LEAVES, Values
from l0func.internal.untyped import loose
from l0func.spec.plan import GateSpec


def gather(values: Values, /) -> Values:
    """The same pytree with a plain tensor, whole, for every DTensor in it.

    It is a collective: every process of the DTensors' meshes calls it, with the same pytree. Each
    then has all entries of all tensors. A partial sum is summed. What is no DTensor stays the
    object that it is.

    :func:`l0func.compact`, :func:`l0func.save` and other functions that need whole tensors refuse
    DTensors: they take the result.

    Args:
        values: Any pytree: a dict with params or gates, a
            :class:`~l0func.train.state.TrainState`, a tuple of several, one DTensor.

    Returns:
        A pytree of the same structure.

    Raises:
        TypeError: A leaf is an object with tensors that cannot be seen, such as a module: gather
            its ``state_dict()``.
        ValueError: This torch has no public ``torch.distributed.tensor``.

    Example:
        >>> import l0func as l0
        >>> import torch
        >>> l0.gather({"w": torch.ones(2)})
        {'w': tensor([1., 1.])}
    """
    for path, leaf in tree.walk(values):
        _check_leaf(path, leaf)
    return tree.map_tensors(_whole, values)


def _check_leaf(path: str, leaf: Any) -> None:
    if isinstance(leaf, (*LEAVES, GateSpec)):
        if is_dtensor(leaf):
            check_torch()
        return
    kind = type(leaf).__name__
    where = f" at {path!r}" if path else ""
    way = "Gather its state_dict()" if isinstance(leaf, nn.Module) else "Gather its tensors"
    raise TypeError(
        f"gather takes pytrees of tensors, such as dicts and training states; it got an object of "
        f"type {kind}{where}. {way}."
    )


def _whole(tensor: Tensor) -> Tensor:
    return loose(tensor).full_tensor() if is_dtensor(tensor) else tensor
