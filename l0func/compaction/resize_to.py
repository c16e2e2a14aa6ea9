"""``resize_to`` gives a dense module the shapes and values of a smaller state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from l0func.compaction.constants import constants_in
from l0func.compaction.examples import check_rows
from l0func.compaction.near_sizes import near_sizes
from l0func.compaction.removal import remove
from l0func.compaction.resize import resize
from l0func.compaction.size_attributes import with_near_sizes
from l0func.compaction.state_chains import check_chains
from l0func.compaction.state_cuts import state_cuts
from l0func.compaction.state_groups import open_units
from l0func.compaction.state_layers import check_layers_without_tensors
from l0func.compaction.state_norms import with_norm_eps
from l0func.compaction.state_tensors import state_tensors
from l0func.compaction.units import groups_in
from l0func.internal.whole import check_whole
from l0func.pure.functional import Functional, PureModule, make_functional
from l0func.pure.inputs import read_examples
from l0func.spec.build import gate_spec
from l0func.spec.rules import Shape
from l0func.tracing.follow import follow


def resize_to(module: nn.Module, state: Any, *, example_inputs: Any = None) -> nn.Module:
    """A smaller module with the shapes and values of a state that compaction left.

    Save a compacted module as a state dict, by ``save_pretrained`` or by :func:`l0func.save`. In
    another process build the module in its full size, and give it that state. No code is
    pickled. Layers of torch, recurrent layers and attention included, become what
    :func:`l0func.compact` makes of them. Head counts and other sizes in attributes follow from
    their names and from the tensors near them. Where these do not say enough, the call is refused;
    with example inputs the units are found by a trace instead, as :func:`l0func.unit_groups`
    finds them.

    Args:
        module: The module in its full size. It is not changed.
        state: ``{path: tensor}`` for all its parameters and persistent buffers, flat or nested;
            for a file of :func:`l0func.save` ``{**saved.params, **saved.buffers}``.
        example_inputs: Inputs of forward, two rows or more, as for :func:`l0func.compact`.

    Returns:
        A new module with copies of the state's tensors, in the state's dtypes, on the module's
        device, in its train or eval mode.

    Raises:
        TypeError: ``module`` is not an eager nn.Module, or the state holds other things than
            tensors.
        ValueError: A name is missing or unknown; a tensor is larger than the module's; shapes fit
            no removal of units; or an attribute's new size does not follow from them. The message
            names the tensor, the module or the attribute.

    Example:
        >>> import l0func as l0
        >>> from torch import nn
        >>> import torch
        >>> def network(width):
        ...     return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
        >>> small = network(3)
        >>> module = l0.resize_to(network(8), small.state_dict())
        >>> module[0]
        Linear(in_features=4, out_features=3, bias=True)
        >>> bool(torch.equal(module(torch.ones(1, 4)), small(torch.ones(1, 4))))
        True
    """
    check_whole("resize_to", module=module, state=state)
    function = make_functional(module)
    fn, params, buffers = function
    with torch.no_grad():
        given = state_tensors(module, function, state)
        own = {**params, **buffers}
        if example_inputs is None:
            small_fn = _resized(fn, own, given.tensors)
        else:
            small_fn = _resized_by_groups(function, example_inputs, given.tensors)
        placed = _on_devices_of(own, given.tensors)
    small_params = {path: placed[path] for path in params}
    small_buffers = {path: placed[path] for path in buffers}
    small = small_fn.module(small_params, small_buffers)
    for key, value in given.extra.items():
        small.get_submodule(key.rpartition(".")[0]).set_extra_state(value)
    return small


def _resized(
    fn: PureModule, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> PureModule:
    """The function for the state's shapes, by the shapes alone."""
    parts = dict(fn.parts())
    changed = constants_in(parts, own, tensors)
    for cut in state_cuts(parts, own, tensors):
        if cut.path not in changed:
            changed[cut.path] = with_norm_eps(cut, resize(cut))
    after = _shapes_of(tensors)
    check_chains(parts, _shapes_of(own), after)
    near = near_sizes(parts, _shapes_of(own), after)
    check_layers_without_tensors(parts, near)
    for path in parts:
        changed[path] = with_near_sizes(path, changed[path], near, refuse=True)
    return fn.resized(after, changed)


def _resized_by_groups(
    function: Functional, examples: Any, tensors: Mapping[str, Tensor]
) -> PureModule:
    """The function for the state's shapes, by the units that a trace finds.

    Raises:
        ValueError: The shapes fit no removal of units.
    """
    fn, params, buffers = Functional(function.fn.eval(), *function[1:])
    inputs = read_examples(fn, examples)
    check_rows(inputs)
    trace = follow(fn, params, buffers, inputs)
    groups = groups_in(Functional(fn, params, buffers), inputs, trace)
    spec = gate_spec(params, groups=groups, buffers=buffers)
    own = {**params, **buffers}
    after = _shapes_of(tensors)
    small = remove(function.fn, params, buffers, spec, open_units(spec, own, after))
    near = near_sizes(dict(fn.parts()), _shapes_of(own), after)
    parts = {path: with_near_sizes(path, part, near) for path, part in small.fn.parts()}
    return small.fn.resized(after, parts | constants_in(parts, own, tensors))


def _shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {path: tuple(tensor.shape) for path, tensor in tensors.items()}


def _on_devices_of(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the devices of the module's own; a module on meta gets them as they are."""
    placed: dict[str, Tensor] = {}
    for path, tensor in tensors.items():
        device = own[path].device
        placed[path] = tensor if device.type == "meta" else tensor.to(device)
    return placed
