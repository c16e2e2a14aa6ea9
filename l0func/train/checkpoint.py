"""A training state in one file, to go on from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from l0func.files.network import read, safetensors
from l0func.internal import names, tree
from l0func.spec.plan import GateSpec, check_spec
from l0func.train.optimizer import Moments
from l0func.train.state import TrainState

_STATE_FORMAT = "l0func training 1"


def save_state(
    path: str | os.PathLike[str],
    state: TrainState,
    spec: GateSpec,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a training state, or a stack of them, to a safetensors file. A file that is there is
    replaced whole, or not at all.

    Args:
        path: The file.
        state: The state.
        spec: The plan of its gates.
        settings: JSON values that a run which goes on must share: the learning rates, the data,
            the number of members.

    Raises:
        TypeError: A setting is no JSON value; ``state`` is no training state, or ``spec`` no spec.
        ValueError: The gates are not the spec's.
        ImportError: safetensors is not there.
    """
    given: Any = state
    if not isinstance(given, TrainState):
        raise TypeError(
            f"save_state writes what training's init or step returned; got "
            f"{type(given).__name__}. See l0func.save."
        )
    check_spec(spec)
    gates = tree.leaves(state.gates, "gates")
    names.check_names(gates, [gate.name for gate in spec.gates], "The spec of this state")
    for gate in spec.gates:
        shape = tuple(gates[gate.name].shape)
        # Of a stack, members come first.
        if shape[len(shape) - len(gate.shape) :] != gate.shape:
            raise ValueError(
                f"The spec has {gate.name!r} of shape {gate.shape}; the state's is {shape}."
            )
    flat = {
        name: t.detach().clone().contiguous()
        for name, t in tree.leaves(state, "the state").items()
    }
    metadata = {
        "format": _STATE_FORMAT,
        "spec": spec.to_json(),
        "settings": json.dumps(dict(settings or {}), sort_keys=True),
    }
    place = Path(path)
    unfinished = place.with_name(place.name + ".part")
    safetensors().save_file(flat, unfinished, metadata=metadata)
    unfinished.replace(place)


def load_state(
    path: str | os.PathLike[str],
    state: TrainState,
    spec: GateSpec,
    settings: Mapping[str, Any] | None = None,
) -> TrainState:
    """What :func:`save_state` wrote, in the structure of a state, such as the one to start from.

    Args:
        path: The file.
        state: A state of the same run.
        spec: The plan of its gates.
        settings: What :func:`save_state` was given.

    Returns:
        The state, on the CPU.

    Raises:
        ValueError: The file is not whole, or not a training state; or it is of another spec, of
            other settings, or of other shapes or dtypes, which are named.
        ImportError: safetensors is not there.
    """
    metadata, flat = read(path)
    if metadata.get("format") != _STATE_FORMAT:
        raise ValueError(
            f"{path} is no training state: its metadata says "
            f"{metadata.get('format', 'nothing')!r}, not {_STATE_FORMAT!r}. "
            "A network that l0func.save wrote is read by l0func.load."
        )
    _check_spec(path, GateSpec.from_json(metadata["spec"]), spec)
    _check_settings(
        path, json.loads(metadata["settings"]), json.loads(json.dumps(dict(settings or {})))
    )
    moments: dict[str, Moments] = {
        part: {name: {} for name in of} for part, of in state.moments.items()
    }
    for name in [name for name in flat if name.startswith("moments.")]:
        _, part, rest = name.split(".", 2)
        leaf, _, kind = rest.rpartition(".")
        moments.setdefault(part, {}).setdefault(leaf, {})[kind] = flat.pop(name)
    like = tree.leaves(state._replace(moments={}), "the state")
    names.check_names(flat, like, f"The state in {path}, compared with this run's,")
    for name, t in flat.items():
        if t.shape != like[name].shape:
            raise ValueError(
                f"{path} has {name!r} of shape {tuple(t.shape)}; this run's is "
                f"{tuple(like[name].shape)}."
            )
        if t.dtype != like[name].dtype:
            raise ValueError(
                f"{path} has {name!r} as {t.dtype}; this run's is {like[name].dtype}."
            )
    _check_moments(path, moments, like)
    return tree.rebuild(state._replace(moments={}), flat)._replace(moments=moments)


def _check_spec(path: Any, saved: GateSpec, own: GateSpec) -> None:
    if saved == own:
        return
    for theirs, ours in zip(saved.gates, own.gates, strict=False):
        if theirs.distribution != ours.distribution and theirs.name == ours.name:
            raise ValueError(
                f"{path} is of another gate spec: {ours.name!r} is {theirs.distribution} there "
                f"and {ours.distribution} here. "
                "Load it with spec.with_distribution(...) of that distribution."
            )
    raise ValueError(f"{path} is of another gate spec:\n{saved}\nThis run has\n{own}")


def _check_moments(path: Any, moments: dict[str, Moments], like: Mapping[str, Tensor]) -> None:
    for part, of_part in moments.items():
        kinds = {frozenset(of_leaf) for of_leaf in of_part.values()}
        if len(kinds) > 1:
            raise ValueError(
                f"{path} remembers {[sorted(kind) for kind in kinds]} of different leaves of "
                f"{part}: it is not whole."
            )
        for leaf, of_leaf in of_part.items():
            if f"{part}.{leaf}" not in like:
                raise ValueError(f"{path} remembers {part}.{leaf}, which this run does not have.")
            for kind, t in of_leaf.items():
                if t.dim() > like[f"{part}.{leaf}"].dim():
                    raise ValueError(
                        f"{path} remembers a {kind} of shape {tuple(t.shape)} of {part}.{leaf}: "
                        f"it is another leaf's."
                    )


def _check_settings(path: Any, saved: dict[str, Any], own: dict[str, Any]) -> None:
    for name in sorted(saved.keys() | own.keys()):
        if saved.get(name) != own.get(name):
            raise ValueError(
                f"{path} is of a run with another configuration: {name} was {saved.get(name)!r} "
                f"and is {own.get(name)!r} here. "
                "Go on with the settings of the checkpoint, or start anew with another file."
            )
