"""Types for gates and masks, and checks that gates, parameters and keys fit a spec."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Literal

import torch
from torch import Tensor

from l0func import random
from l0func.internal import names, tree
from l0func.internal.context import known_values
from l0func.internal.kinds import (
    check_can_be_gated,
    check_has_shape,
    has_finite_sum,
    not_finite,
)
from l0func.internal.shard_sums import full_sums
from l0func.internal.sharding import check_entries
from l0func.internal.stacked import stack_words
from l0func.internal.tree import Pytree
from l0func.spec.parts import ParameterPlan
from l0func.spec.plan import GateSpec, GateVector, check_spec

Gates = dict[str, Tensor]
"""``{gate name: log_alpha}``, or another value for each gate."""

Masks = dict[str, Tensor]
"""``{parameter path: mask}``."""

MaskEstimator = Literal["louizos", "median", "mean", "count"]
"""The name of a test-time gate."""

ESTIMATORS: tuple[MaskEstimator, ...] = ("louizos", "median", "mean", "count")


_SAME_RULES = (
    "Gates go with the spec that they were made from: spec of init_gates(key, spec), or net.spec "
    "for net.gates() of an L0Module."
)


def check_gates(gates: Pytree, spec: GateSpec) -> Gates:
    """The gates as a flat dict, if they fit the spec.

    Raises:
        ValueError: A name is missing or unknown, a shape differs, gates are not floating-point
            numbers, or a gate vector is a partial sum over processes.
    """
    check_spec(spec)
    named = tree.leaves(gates, "gates")
    known, others = [gate.name for gate in spec.gates], {"params": _paths(spec)}
    names.check_argument(named, known, "spec", "gates", _SAME_RULES, others)
    check_entries(named)
    for gate in spec.gates:
        if tuple(named[gate.name].shape) != gate.shape:
            raise _other_shape(gate, named, spec)
        _check_floats(gate, named[gate.name])
    return named


def _other_shape(gate: GateVector, named: Gates, spec: GateSpec) -> ValueError:
    stack = stack_words("gates", {gate.name: gate.shape for gate in spec.gates}, named)
    other = (
        "Gates and spec belong to different architectures: build both from the same params, or "
        "load the spec that was saved."
    )
    return ValueError(
        f"The spec has gates of shape {gate.shape} for {gate.name!r}; got "
        f"{tuple(named[gate.name].shape)}. {stack or other}"
    )


def _check_floats(gate: GateVector, log_alpha: Tensor) -> None:
    if not log_alpha.is_floating_point():
        raise ValueError(
            f"Gate locations are floating-point numbers; {gate.name!r} is {log_alpha.dtype}."
        )


def check_device(path: str, param: Tensor, gates: Tensor) -> None:
    """Refuse gates, or a mask, on another device than their parameter.

    Args:
        path: The parameter's path, for the message.
        param: The parameter.
        gates: Its gates or its mask.

    Raises:
        ValueError: The gates are on another device than the parameter.
    """
    if param.device != gates.device:
        raise ValueError(
            f"The parameter {path!r} is on {param.device} and its gates are on {gates.device}. "
            "Move both to one device, as in {name: log_alpha.to(device) for name, log_alpha in "
            "gates.items()}."
        )


def check_devices(params: Mapping[str, Tensor], gates: Gates, spec: GateSpec) -> None:
    """Refuse a parameter on another device than one of its gates.

    Raises:
        ValueError: The two devices differ.
    """
    for p in spec.gated():
        for binding in p.bindings:
            check_device(p.path, params[p.path], gates[binding.gate])


def check_values(gates: Gates) -> None:
    """Refuse a NaN among gate locations.

    Under a transform or a compiler the values are unknown, and nothing is checked.

    Raises:
        ValueError: A location is NaN.
    """
    counts = full_sums(log_alpha.isnan() for log_alpha in gates.values())
    for (name, log_alpha), count in zip(gates.items(), counts, strict=True):
        bad = known_values(count)
        if bad:
            raise ValueError(
                f"{bad} of {log_alpha.numel()} gate locations of {name!r} are NaN. Training "
                "diverged: lower the learning rate of the gates, or go back to an earlier "
                "checkpoint."
            )


def check_finite(params: Mapping[str, Tensor]) -> None:
    """Refuse a NaN or an infinity among parameters.

    Behind a closed gate it would be 0 after pruning and NaN before. Under a transform or a
    compiler the values are unknown, and nothing is checked.

    Raises:
        ValueError: A parameter has an entry that is no finite number.
    """
    numbers = {path: t for path, t in params.items() if t.is_floating_point() or t.is_complex()}
    unsure = {path: t for path, t in numbers.items() if not has_finite_sum(t)}
    counts = full_sums(map(not_finite, unsure.values()))
    for (path, param), count in zip(unsure.items(), counts, strict=True):
        bad = known_values(count)
        if bad:
            # isfinite reads a tensor twice, and another thread may write it in between.
            [again] = full_sums([not_finite(param.detach().clone())])
            bad = known_values(again)
        if bad:
            raise ValueError(
                f"{bad} of {param.numel()} entries of the parameter {path!r} are NaN or infinite. "
                "Training diverged: lower the learning rate, or go back to an earlier checkpoint."
            )


def check_can_learn(gates: Gates) -> None:
    """Refuse gates that an optimizer would not move.

    Raises:
        ValueError: Gates have 16 bits; an optimizer's steps are smaller than their last digit.
    """
    for name, log_alpha in gates.items():
        if log_alpha.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"Gates learn in float32: the gates {name!r} are {log_alpha.dtype}, and an "
                "optimizer's steps are smaller than their last digit, so that they would never "
                "move. Convert them, as in {name: log_alpha.float() for name, log_alpha in "
                "gates.items()}; the parameters may stay short."
            )


def check_estimator(estimator: str) -> None:
    """Refuse an unknown estimator.

    Raises:
        ValueError: The name is none of the four.
    """
    if estimator not in ESTIMATORS:
        near = names.closest(estimator, ESTIMATORS, cutoff=0.6)
        hint = _density_hint(estimator)
        raise ValueError(f"The estimators are {ESTIMATORS}; got {estimator!r}{near}.{hint}")


def _density_hint(estimator: object) -> str:
    """The advice for a share in the place of an estimator."""
    if isinstance(estimator, bool) or not isinstance(estimator, Real | Mapping):
        return ""
    return f" A share that stays is given by name, where a function takes it: density={estimator}."


def check_single_key(key: Tensor) -> None:
    """Refuse anything but a single key.

    Raises:
        TypeError: The key is not an int64 tensor.
        ValueError: Its shape is not ``(2,)``.
    """
    random.check_key(key)
    if key.dim() != 1:
        raise ValueError(
            f"One key has shape (2,); got {tuple(key.shape)}. For a batch of keys use torch.vmap, "
            "or l0func.per_example for one mask a row."
        )


def check_params(params: Pytree, spec: GateSpec) -> dict[str, Tensor]:
    """The parameters as a flat dict, if they fit the spec.

    Raises:
        ValueError: A name is missing or unknown, a shape differs, a gated parameter is sparse, or
            a parameter is a partial sum over processes.
    """
    check_spec(spec)
    tensors = tree.leaves(params)
    known, others = _paths(spec), {"gates": [gate.name for gate in spec.gates]}
    # Counted first: the compiler of torch 2.9 compares no sets, and all is well in most calls.
    has_more = len(tensors) > len(known) and tensors.keys() > set(known)
    advice = names.OF_A_STATE if has_more else ""
    names.check_argument(tensors, known, "spec", "params", advice, others)
    check_entries(tensors)
    for p in spec.parameters:
        tensor = tensors[p.path]
        check_has_shape(p.path, tensor)
        if p.bindings:
            check_can_be_gated(p.path, tensor, multiplied=p.multiplied)
        _check_shape(p, tensors, spec)
    return tensors


def check_gated_shapes(params: Pytree, spec: GateSpec) -> None:
    """Refuse gated parameters of other shapes than the spec's; others may have any.

    Raises:
        ValueError: A shape differs.
    """
    tensors = tree.leaves(params)
    for p in spec.gated():
        if p.path in tensors:
            _check_shape(p, tensors, spec)


def _check_shape(p: ParameterPlan, tensors: Mapping[str, Tensor], spec: GateSpec) -> None:
    shape = tuple(tensors[p.path].shape)
    if shape == p.shape:
        return
    stack = stack_words("params", {p.path: p.shape for p in spec.parameters}, tensors)
    other = "Params and spec belong to different architectures: build the spec from these params."
    raise ValueError(f"The spec has {p.path!r} of shape {p.shape}; got {shape}. {stack or other}")


def _paths(spec: GateSpec) -> list[str]:
    return [p.path for p in spec.parameters]
