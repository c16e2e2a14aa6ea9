"""A state dict as the tensors of a pure function: one tensor for each path, ties included."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from l0func.internal import names, tree
from l0func.pure.eager import eager_paths
from l0func.pure.functional import Functional

_EXTRA_STATE = "_extra_state"


class StateTensors(NamedTuple):
    """A state, sorted by what a module has.

    Attributes:
        tensors: A tensor for every parameter and buffer, by its first path in the module.
        kept: The paths that the state leaves out; their tensors are the module's own.
        extra: What submodules keep beside tensors, by key; see ``nn.Module.set_extra_state``.
    """

    tensors: dict[str, Tensor]
    kept: frozenset[str]
    extra: dict[str, Any]


def state_tensors(module: nn.Module, function: Functional, state: Any) -> StateTensors:
    """The tensors of a state for a module's function.

    Tied tensors have several names in a module, and a state may have all of them or one. Buffers
    that are not persistent may be left out.

    Args:
        module: The module.
        function: The function that was made from it.
        state: ``{path: tensor}``, flat or nested.

    Raises:
        TypeError: The state is no mapping, or holds something else than tensors.
        ValueError: A name is missing or unknown, or names of one tensor have different values.
    """
    _check_not_module(state)
    extra = _extra_states(state)
    if extra:
        state = {key: value for key, value in state.items() if key not in extra}
    given = eager_paths(tree.leaves(state, "state"))
    first_paths = _first_paths(module)
    for name in given:
        if name not in first_paths:
            _check_no_gates(given)
            near = names.closest(name, first_paths.keys() - given.keys() or first_paths)
            raise ValueError(f"The state has {name!r}, and the module has no such tensor{near}.")
    tensors = _by_first_path(given, first_paths)
    own = {**function.params, **function.buffers}
    left_out = own.keys() - tensors.keys()
    optional = _not_persistent(module)
    for path in own:
        if path in left_out and path not in optional:
            near = names.closest(path, given)
            raise ValueError(f"The state has no {path!r}, which the module has{near} in it.")
    ordered = {path: tensors.get(path, own[path]) for path in own}
    _check_types(ordered, own)
    return StateTensors(ordered, frozenset(left_out), extra)


def _check_not_module(state: Any) -> None:
    if isinstance(state, nn.Module):
        raise TypeError(
            "state is a dict {path: tensor}, as from state_dict() or from a file; got the module "
            f"{type(state).__name__}. Pass its state_dict()."
        )


def _check_no_gates(given: Mapping[str, Any]) -> None:
    """Refuse an ``L0Module``'s own state, whose weights are those before its gates."""
    gates = [name for name in given if name.startswith("log_alpha.")]
    if gates and "key" in given:
        raise ValueError(
            f"The state is that of an L0Module: it has gates, such as {gates[0]!r}. Give the "
            "state of the smaller network, net.compacted().state_dict(); or load this state into "
            "an L0Module again."
        )


def _extra_states(state: Any) -> dict[str, Any]:
    if not isinstance(state, Mapping):
        return {}
    items = cast("Mapping[Any, Any]", state).items()
    return {key: value for key, value in items if str(key).endswith(_EXTRA_STATE)}


def _first_paths(module: nn.Module) -> dict[str, str]:
    """For every name of a tensor in a module the first name of the same tensor."""
    first: dict[int, str] = {}
    paths: dict[str, str] = {}
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for path, tensor in eager_paths(dict(named)).items():
        paths[path] = first.setdefault(id(tensor), path)
    return paths


def _by_first_path(
    given: Mapping[str, Tensor], first_paths: Mapping[str, str]
) -> dict[str, Tensor]:
    """The tensors by their first names.

    Raises:
        ValueError: The module ties two names, and the state has different tensors for them.
    """
    tensors: dict[str, Tensor] = {}
    found: dict[str, str] = {}
    for name, tensor in given.items():
        path = first_paths[name]
        if path in tensors and not _same_values(tensors[path], tensor):
            raise ValueError(
                f"The module ties {name!r} to {found[path]!r}, and the state has different "
                f"tensors for them, of shapes {tuple(tensor.shape)} and "
                f"{tuple(tensors[path].shape)}. Untie them in the module first."
            )
        found.setdefault(path, name)
        tensors[path] = tensor
    return tensors


def _same_values(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b))


def _not_persistent(module: nn.Module) -> Collection[str]:
    """The paths to buffers that a state dict leaves out."""
    found: dict[str, None] = {}
    modules = cast("Any", module).named_modules()
    for path, child in dict(modules).items():
        for name in child._non_persistent_buffers_set:
            found[f"{path}.{name}".strip(".")] = None
    return eager_paths(found)


def _check_types(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for path, tensor in tensors.items():
        expected = own[path]
        if tensor.dim() != expected.dim():
            raise ValueError(
                f"The state has {path!r} in shape {tuple(tensor.shape)}, and the module in "
                f"{tuple(expected.shape)}: with another number of dimensions."
            )
        if tensor.is_floating_point() != expected.is_floating_point() or (
            tensor.is_complex() != expected.is_complex()
        ):
            raise ValueError(
                f"The state has {path!r} in {tensor.dtype}, and the module in {expected.dtype}: "
                "another kind of number."
            )
