"""Checks of gates, parameters, keys and estimators against a spec."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from l0func import random
from l0func.internal import names, tree
from l0func.internal.context import known_values
from l0func.internal.tree import Tree
from l0func.spec.plan import GateSpec, check_spec

Gates = dict[str, Tensor]


Masks = dict[str, Tensor]


MaskEstimator = Literal["louizos", "median", "mean", "count"]


ESTIMATORS: tuple[MaskEstimator, ...] = ("louizos", "median", "mean", "count")


def check_gates(gates: Tree, spec: GateSpec) -> Gates:
    """The gates as a flat dict, if names and shapes are those of the spec.

    Raises:
        ValueError: A name is missing or unknown, a shape differs, or gates are not of a floating
            type.
    """
    check_spec(spec)
    named = tree.leaves(gates, "gates")
    names.check_names(named, [gate.name for gate in spec.gates], "The spec's gates")
    for gate in spec.gates:
        log_alpha = named[gate.name]
        if tuple(log_alpha.shape) != gate.shape:
            raise ValueError(
                f"The spec has gates of shape {gate.shape} for {gate.name!r}; got "
                f"{tuple(log_alpha.shape)}. Gates and spec "
                "belong to different architectures: build both from the same params, or load the "
                "spec that was saved."
            )
        if not log_alpha.is_floating_point():
            raise ValueError(
                f"Gate locations are floating-point numbers; {gate.name!r} is {log_alpha.dtype}."
            )
    return named


def check_device(path: str, param: Tensor, gates: Tensor) -> None:
    """Refuse gates, or a mask of them, on another device than their parameter.

    Raises:
        ValueError: They are.
    """
    if param.device != gates.device:
        raise ValueError(
            f"The parameter {path!r} is on {param.device} and its gates are on {gates.device}. "
            f"Move both to one device, as in "
            "{name: log_alpha.to(device) for name, log_alpha in gates.items()}."
        )


def check_values(gates: Gates) -> None:
    """Refuse a NaN among gate locations; for functions that no transform maps.

    Raises:
        ValueError: A location is NaN.
    """
    for name, log_alpha in gates.items():
        bad = known_values(log_alpha.isnan().sum())
        if bad:
            raise ValueError(
                f"{bad} of {log_alpha.numel()} gate locations of {name!r} are NaN. Training "
                f"diverged: lower the learning "
                "rate of the gates, or go back to an earlier checkpoint."
            )


def check_estimator(estimator: str) -> None:
    """Refuse an unknown estimator.

    Raises:
        ValueError: It is none of the four.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(
            f"The estimators are {ESTIMATORS}; got "
            f"{estimator!r}{names.closest(estimator, ESTIMATORS)}."
        )


def check_single_key(key: Tensor) -> None:
    """Refuse what is not one key.

    Raises:
        TypeError: Not an int64 tensor.
        ValueError: Not of shape (2,).
    """
    random.check_key(key)
    if key.dim() != 1:
        raise ValueError(
            f"One key has shape (2,); got {tuple(key.shape)}. For a batch of keys use torch.vmap, "
            f"or l0func.per_example "
            "for one mask a row."
        )


def check_params(params: Tree, spec: GateSpec) -> dict[str, Tensor]:
    """The parameters as a flat dict, if names and shapes are those of the spec.

    Raises:
        ValueError: A name is missing or unknown, or a shape differs.
    """
    check_spec(spec)
    tensors = tree.leaves(params)
    names.check_names(tensors, [p.path for p in spec.parameters], "The spec's params")
    for p in spec.parameters:
        if tuple(tensors[p.path].shape) != p.shape:
            raise ValueError(
                f"The spec has {p.path!r} of shape {p.shape}; got {tuple(tensors[p.path].shape)}. "
                f"Params and spec belong to "
                "different architectures: build the spec from these params."
            )
    return tensors
