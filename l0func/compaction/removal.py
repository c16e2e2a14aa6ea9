"""A pure function without the slices that closed units have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from typing import Any, cast

import torch
from torch import Tensor

from l0func.compaction.resize import SubmoduleCut, rescaling, resize
from l0func.internal import names
from l0func.pure.functional import Functional, PureModule
from l0func.pure.part import Part
from l0func.spec.plan import GateSpec

KeptSlices = dict[str, dict[int, Tensor]]


def remove(
    fn: PureModule,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    spec: GateSpec,
    opens: Mapping[str, Tensor],
) -> Functional:
    """Take the slices of closed units out of every tensor, and set the attributes that forward
    reads its sizes from.

    Args:
        fn: A pure function.
        params: Its parameters, flat.
        buffers: Its buffers, flat.
        spec: The plan; only the gates of groups remove anything.
        opens: For each gate whether it is open, bool.

    Returns:
        The smaller function and its tensors, which are copies.

    Raises:
        ValueError: The slices contradict each other, or a module cannot do without some.
    """
    opens = {name: opened.cpu() for name, opened in opens.items()}
    kept = kept_slices(spec, opens)
    tensors = {**params, **buffers}
    parts = {path: resize(_submodule_cut(path, part, tensors, kept)) for path, part in fn.parts()}
    changed = _with_attributes(dict(fn.parts()), parts, spec, opens)
    factors = {
        at: factor
        for path, part in fn.parts()
        for at, factor in _factors(path, part, tensors, kept).items()
    }
    small = {
        path: _sliced(tensor, kept.get(path, {})) * factors.get(path, 1)
        for path, tensor in tensors.items()
    }
    resized = fn.resized({path: tuple(t.shape) for path, t in small.items()}, changed)
    return Functional(
        resized, {path: small[path] for path in params}, {path: small[path] for path in buffers}
    )


def kept_slices(spec: GateSpec, opens: Mapping[str, Tensor]) -> KeptSlices:
    """For every tensor and dimension that loses slices, which it keeps."""
    groups = {name for name, _ in spec.attrs}
    kept: KeptSlices = {}
    for p in (*spec.parameters, *spec.buffers):
        for binding in p.bindings:
            dim = getattr(binding.rule, "dim", None)
            if binding.gate not in groups or dim is None:
                continue
            along = (
                binding.rule.spread(opens[binding.gate].to(torch.float64), p.shape) > 0.5
            ).flatten()
            dim %= len(p.shape)
            if not bool(along.all()):
                of_path = kept.setdefault(p.path, {})
                of_path[dim] = of_path.get(dim, torch.ones_like(along)) & along
    return kept


def _submodule_cut(
    path: str, part: Part, tensors: Mapping[str, Tensor], kept: KeptSlices
) -> SubmoduleCut:
    paths = part.paths()
    own = {name: tensors[at] for name, at in paths.items()}
    return SubmoduleCut(
        path, part, own, {name: kept[at] for name, at in paths.items() if at in kept}
    )


def _factors(
    path: str, part: Part, tensors: Mapping[str, Tensor], kept: KeptSlices
) -> dict[str, float]:
    factors = rescaling(_submodule_cut(path, part, tensors, kept))
    return {at: factors[name] for name, at in part.paths().items() if name in factors}


def _sliced(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    if not kept:
        return tensor.detach().clone()
    for dim, keep in kept.items():
        tensor = tensor.detach().index_select(dim, keep.nonzero().flatten().to(tensor.device))
    return tensor


def _with_attributes(
    before: Mapping[str, Part], parts: dict[str, Part], spec: GateSpec, opens: Mapping[str, Tensor]
) -> dict[str, Part]:
    """The parts with what the groups say of attributes: how much of each an open unit stands for."""
    lost: dict[str, int] = {}
    for name, attrs in spec.attrs:
        for path, each in cast("dict[str, Any]", json.loads(attrs)).items():
            _check_attribute(name, path, each)
            lost[path] = lost.get(path, 0) + each * int((~opens[name]).sum())
    changed = dict(parts)
    for path, less in lost.items():
        module, *keys = _located(path, before)
        attributes = changed[module].attributes()
        value = _less(before[module].attributes(), keys, less, path)[keys[0]]
        if (
            attributes[keys[0]] not in (value, before[module].attributes()[keys[0]])
            and len(keys) == 1
        ):
            raise ValueError(
                f"A group's attrs make {path!r} {value}, and the slices that its tensors keep "
                f"make it {attributes[keys[0]]}. "
                "Leave it out of attrs: modules of torch follow their tensors."
            )
        changed[module] = changed[module].with_attribute(keys[0], value)
    return changed


def _check_attribute(group: str, path: str, each: Any) -> None:
    if not isinstance(each, int) or isinstance(each, bool):
        raise ValueError(
            f"attrs of a group are {{'module.attribute': how much of it one unit stands for}}, an "
            f"integer; group {group!r} "
            f"says {each!r} of {path!r}."
        )


def _located(path: str, parts: Mapping[str, Part]) -> list[str]:
    """A dotted path as the path of a module, an attribute of it, and keys into that."""
    steps = path.split(".")
    for length in range(len(steps) - 1, -1, -1):
        module = ".".join(steps[:length])
        if module in parts and steps[length] in parts[module].attributes():
            return [module, *steps[length:]]
    known = [
        f"{m}.{a}".strip(".")
        for m, part in parts.items()
        for a, v in part.attributes().items()
        if type(v) is int
    ]
    raise ValueError(
        f"A group's attrs name {path!r}, which no module has{names.closest(path, known)}."
    )


def _less(holder: Any, keys: list[str], less: int, path: str) -> Any:
    """A copy of a dict, list, tuple or object with the number at these keys made less."""
    kind = _kind(holder)
    if kind is tuple:
        return tuple(_less(list(holder), keys, less, path))
    changed = copy(holder)
    key: Any = int(keys[0]) if kind is list else keys[0]
    value = changed[key] if kind in (dict, list) else getattr(changed, key)
    if len(keys) > 1:
        value = _less(value, keys[1:], less, path)
    elif _kind(value) is int and value > less:
        value -= less
    else:
        raise ValueError(f"A group's attrs take {less} from {path!r}, which is {value!r}.")
    if kind in (dict, list):
        changed[key] = value
    else:
        setattr(changed, key, value)
    return changed


def _kind(value: Any) -> Any:
    return cast("Any", type(value))
