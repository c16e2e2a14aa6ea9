"""A training state in one file, to go on from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l0func import tree
from l0func.files import read, safetensors
from l0func.optimizer import Moments
from l0func.spec import GateSpec
from l0func.state import TrainState

_FORMAT = "l0func training 1"


def save_state(
    path: str | os.PathLike[str], state: TrainState, spec: GateSpec, settings: Mapping[str, Any] | None = None
) -> None:
    """Write a training state, or a stack of them, to a safetensors file. A file that is there is replaced whole, or not at all.

    Args:
        path: The file.
        state: The state.
        spec: The plan of its gates.
        settings: JSON values that a run which goes on must share: the learning rates, the data, the number of members.

    Raises:
        TypeError: A setting is no JSON value.
        ImportError: safetensors is not there.
    """
    flat = {name: t.detach().clone().contiguous() for name, t in tree.leaves(state, "the state").items()}
    metadata = {"format": _FORMAT, "spec": spec.to_json(), "settings": json.dumps(dict(settings or {}), sort_keys=True)}
    place = Path(path)
    unfinished = place.with_name(place.name + ".part")
    safetensors().save_file(flat, unfinished, metadata=metadata)
    unfinished.replace(place)


def load_state(
    path: str | os.PathLike[str], state: TrainState, spec: GateSpec, settings: Mapping[str, Any] | None = None
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
        ValueError: The file is not whole, or not a training state; or it is of another spec, of other settings, or of other
            shapes, which are named.
        ImportError: safetensors is not there.
    """
    metadata, flat = read(path)
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{path} is no training state: its metadata says {metadata.get('format', 'nothing')!r}, not {_FORMAT!r}. "
            "A network that l0func.save wrote is read by l0func.load."
        )
    if GateSpec.from_json(metadata["spec"]) != spec:
        raise ValueError(f"{path} is of another gate spec:\n{GateSpec.from_json(metadata['spec'])}\nThis run has\n{spec}")
    _check_settings(path, json.loads(metadata["settings"]), json.loads(json.dumps(dict(settings or {}))))
    moments: dict[str, Moments] = {part: {name: {} for name in of} for part, of in state.moments.items()}
    for name in [name for name in flat if name.startswith("moments.")]:
        _, part, rest = name.split(".", 2)
        leaf, _, kind = rest.rpartition(".")
        moments.setdefault(part, {}).setdefault(leaf, {})[kind] = flat.pop(name)
    like = tree.leaves(state._replace(moments={}), "the state")
    tree.check_names(flat, like, f"The state in {path}, compared with this run's,")
    for name, t in flat.items():
        if t.shape != like[name].shape:
            raise ValueError(f"{path} has {name!r} of shape {tuple(t.shape)}; this run's is {tuple(like[name].shape)}.")
    return tree.rebuild(state._replace(moments={}), flat)._replace(moments=moments)


def _check_settings(path: Any, saved: dict[str, Any], own: dict[str, Any]) -> None:
    for name in sorted(saved.keys() | own.keys()):
        if saved.get(name) != own.get(name):
            raise ValueError(
                f"{path} is of a run with another configuration: {name} was {saved.get(name)!r} and is {own.get(name)!r} here. "
                "Go on with the settings of the checkpoint, or start anew with another file."
            )
