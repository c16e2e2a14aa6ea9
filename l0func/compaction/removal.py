"""Remove closed units from a pure function: slice its tensors and resize its submodules."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from l0func.compaction.attributes import with_group_attributes
from l0func.compaction.cut import SubmoduleCut
from l0func.compaction.resize import rescaling, resize
from l0func.compaction.scaling import scaling_of
from l0func.pure.functional import Functional, PureModule
from l0func.pure.part import Part
from l0func.spec.plan import Binding, GateSpec
from l0func.spec.rules import Shape, axis

KeptSlices = dict[str, dict[int, Tensor]]
"""For each tensor and each dimension that loses slices a bool vector: True where they are kept."""


def remove(
    fn: PureModule,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    spec: GateSpec,
    opens: Mapping[str, Tensor],
) -> Functional:
    """Remove the closed units' slices from every tensor, and resize the submodules to fit.

    Attributes that forward reads sizes from, such as head counts, become lower too.

    Args:
        fn: A pure function.
        params: Its parameters, flat.
        buffers: Its buffers, flat.
        spec: The gate spec; only group gates remove slices.
        opens: For each gate vector a bool tensor: True where the gate is open.

    Returns:
        The smaller function and its tensors. A tensor that loses nothing is the given one.

    Raises:
        ValueError: The slices contradict each other, or a module cannot lose some.
    """
    opens = {name: opened.cpu() for name, opened in opens.items()}
    return cut_out(
        Functional(fn, dict(params), dict(buffers)), kept_slices(spec, opens), spec, opens
    )


def cut_out(
    function: Functional, kept: KeptSlices, spec: GateSpec, opens: Mapping[str, Tensor]
) -> Functional:
    """:func:`remove` where the kept slices are known already; ``opens`` are on the CPU."""
    fn, params, buffers = function
    tensors = {**params, **buffers}
    submodules = dict(fn.parts())
    cuts = _submodule_cuts(submodules, tensors, kept)
    resized = {cut.path: resize(cut) for cut in cuts}
    resized = with_group_attributes(submodules, resized, spec, opens)
    factors = _rescaling_factors(cuts)
    small: dict[str, Tensor] = {}
    for path, tensor in tensors.items():
        sliced = _sliced(tensor, kept.get(path, {}))
        small[path] = sliced * factors[path] if path in factors else sliced
    scaling = scaling_of(spec, tensors, small)
    small, resized = scaling.of_tensors(small), scaling.of_attributes(resized, tensors)
    shapes = {path: tuple(tensor.shape) for path, tensor in small.items()}
    small_fn = fn.resized(shapes, resized)
    small_params = {path: small[path] for path in params}
    small_buffers = {path: small[path] for path in buffers}
    return Functional(small_fn, small_params, small_buffers)


def kept_slices(
    spec: GateSpec, opens: Mapping[str, Tensor], *, multiplied_only: bool = False
) -> KeptSlices:
    """The slices that every tensor keeps; dimensions that lose none are left out.

    Args:
        spec: The gate spec.
        opens: For each gate vector a bool tensor: True where the gate is open.
        multiplied_only: Whether to count owned slices as kept.
    """
    groups = {name for name, _ in spec.attrs}
    found: KeptSlices = {}
    for p in (*spec.parameters, *spec.buffers):
        for binding in p.bindings:
            dim: int | None = getattr(binding.rule, "dim", None)
            if binding.gate not in groups or dim is None:
                continue
            if multiplied_only and not binding.multiplies:
                continue
            kept = _kept_by(binding, p.shape, opens)
            if bool(kept.all()):
                continue
            of_tensor = found.setdefault(p.path, {})
            dim %= len(p.shape)
            of_tensor[dim] = of_tensor[dim] & kept if dim in of_tensor else kept
    return found


def _kept_by(binding: Binding, shape: Shape, opens: Mapping[str, Tensor]) -> Tensor:
    """A bool vector along the rule's dimension: True where the slice has an open gate or none."""
    opened, rule = opens[binding.gate], binding.rule
    if isinstance(rule, axis) and (rule.start, rule.stop) == (0, None):
        return opened.to(torch.bool)
    return (rule.spread(opened.to(torch.float64), shape) > 0.5).flatten()


def _submodule_cuts(
    submodules: Mapping[str, Part], tensors: Mapping[str, Tensor], kept: KeptSlices
) -> list[SubmoduleCut]:
    cuts: list[SubmoduleCut] = []
    for path, part in submodules.items():
        own: dict[str, Tensor] = {}
        kept_indices: dict[str, dict[int, Tensor]] = {}
        for name, tensor_path in part.paths().items():
            own[name] = tensors[tensor_path]
            if tensor_path in kept:
                kept_indices[name] = kept[tensor_path]
        cuts.append(SubmoduleCut(path, part, own, kept_indices))
    return cuts


def _rescaling_factors(cuts: list[SubmoduleCut]) -> dict[str, float]:
    """Factors that make up for lost slices, by the tensors' paths."""
    factors: dict[str, float] = {}
    for cut in cuts:
        paths = cut.part.paths()
        for name, factor in rescaling(cut).items():
            factors[paths[name]] = factor
    return factors


def _sliced(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    tensor = tensor.detach()
    for dim, keep in kept.items():
        indices = keep.nonzero().flatten().to(tensor.device)
        tensor = tensor.index_select(dim, indices)
    return tensor
