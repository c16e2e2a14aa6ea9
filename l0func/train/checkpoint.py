"""A training state in one safetensors file, to continue the run from there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from l0func.files.storage import read_tensors, write_tensors
from l0func.internal import names, tree
from l0func.internal.tree import Tree
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
    """Write a training state or a stack to a safetensors file.

    An existing file is replaced whole, or not at all.

    Args:
        path: The file.
        state: The state.
        spec: The gate spec.
        settings: JSON values that a later run must share to continue: the learning rates, the
            data, the member count.

    Raises:
        TypeError: A setting is no JSON value; ``state`` is no training state, or ``spec`` no spec.
        ValueError: The gates are not the spec's.
        ImportError: safetensors is not installed.
    """
    _check_is_state(state)
    check_spec(spec)
    _check_gates(state.gates, spec)
    metadata = {
        "format": _STATE_FORMAT,
        "spec": spec.to_json(),
        "settings": _settings_as_text(settings),
    }
    place = Path(path)
    unfinished = place.with_name(place.name + ".part")
    write_tensors(unfinished, tree.leaves(state, "the state"), metadata)
    unfinished.replace(place)


def load_state(
    path: str | os.PathLike[str],
    state: TrainState,
    spec: GateSpec,
    settings: Mapping[str, Any] | None = None,
) -> TrainState:
    """Read a training state that :func:`save_state` wrote.

    Args:
        path: The file.
        state: A state from the same run, such as its first. The result has its structure.
        spec: The gate spec.
        settings: The settings that :func:`save_state` got.

    Returns:
        The state, on the CPU.

    Raises:
        ValueError: The file is not whole, or no training state; or it has another spec, other
            settings, other shapes or other dtypes, and the message names them.
        ImportError: safetensors is not installed.
    """
    metadata, saved = read_tensors(path)
    _check_is_state_file(path, metadata)
    _check_spec_of_file(path, GateSpec.from_json(metadata["spec"]), spec)
    own_settings = json.loads(_settings_as_text(settings))
    _check_settings(path, json.loads(metadata["settings"]), own_settings)
    # A first state has no moments yet, so their names come from the file.
    moments = _moments_of(saved, state.moments)
    tensors = {name: t for name, t in saved.items() if not name.startswith("moments.")}
    start = state._replace(moments={})
    expected = tree.leaves(start, "the state")
    _check_tensors(path, tensors, expected)
    _check_moments(path, moments, state.moments, expected)
    return tree.rebuild(start, tensors)._replace(moments=moments)


def _settings_as_text(settings: Mapping[str, Any] | None) -> str:
    texts: list[str] = []
    for name, value in sorted((settings or {}).items(), key=lambda pair: str(pair[0])):
        try:
            texts.append(json.dumps({name: value}, sort_keys=True)[1:-1])
        except (TypeError, ValueError):
            raise TypeError(
                f"Settings are JSON values: numbers, texts, lists and dicts; {name!r} is "
                f"{value!r}."
            ) from None
    return "{" + ", ".join(texts) + "}"


def _moments_of(
    saved: Mapping[str, Tensor], expected: Mapping[str, Moments]
) -> dict[str, Moments]:
    """The saved moments, under ``"params"`` and ``"gates"``; empty ones where nothing is saved."""
    moments: dict[str, Moments] = {}
    for section, leaves in expected.items():
        moments[section] = {leaf: {} for leaf in leaves}
    for path, t in saved.items():
        if path.startswith("moments."):
            _, section, rest = path.split(".", 2)
            leaf, _, name = rest.rpartition(".")
            moments.setdefault(section, {}).setdefault(leaf, {})[name] = t
    return moments


def _check_is_state(state: Any) -> None:
    if not isinstance(state, TrainState):
        raise TypeError(
            f"save_state writes a training state, from training's init or step; got "
            f"{type(state).__name__}. See l0func.save for networks."
        )


def _check_gates(gates: Tree, spec: GateSpec) -> None:
    named = tree.leaves(gates, "gates")
    names.check_names(named, [gate.name for gate in spec.gates], "The spec of this state")
    for gate in spec.gates:
        shape = tuple(named[gate.name].shape)
        # In a stack the dimension of members comes first.
        if shape[len(shape) - len(gate.shape) :] != gate.shape:
            raise ValueError(
                f"The spec has {gate.name!r} of shape {gate.shape}; the state's is {shape}."
            )


def _check_is_state_file(path: Any, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != _STATE_FORMAT:
        raise ValueError(
            f"{path} is no training state: its metadata says "
            f"{metadata.get('format', 'nothing')!r}, not {_STATE_FORMAT!r}. "
            "A network that l0func.save wrote is read by l0func.load."
        )


def _check_spec_of_file(path: Any, saved: GateSpec, own: GateSpec) -> None:
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


def _check_settings(path: Any, saved: dict[str, Any], own: dict[str, Any]) -> None:
    for name in sorted(saved.keys() | own.keys()):
        before = _shown(saved, name)
        now = _shown(own, name)
        if before != now and (name not in saved or name not in own or saved[name] != own[name]):
            raise ValueError(
                f"{path} is of a run with another configuration: {name} was {before} and is "
                f"{now} here. "
                "Go on with the settings of the checkpoint, or start anew with another file."
            )


def _shown(settings: Mapping[str, Any], name: str) -> str:
    # As text: a NaN does not equal itself, and None is not a missing setting.
    return repr(settings[name]) if name in settings else "not given"


def _check_tensors(path: Any, saved: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    names.check_names(saved, expected, f"The state in {path}, compared with this run's,")
    for name, t in saved.items():
        own = expected[name]
        if t.shape != own.shape:
            raise ValueError(
                f"{path} has {name!r} of shape {tuple(t.shape)}; this run's is {tuple(own.shape)}."
            )
        if t.dtype != own.dtype:
            raise ValueError(f"{path} has {name!r} as {t.dtype}; this run's is {own.dtype}.")


def _check_moments(
    path: Any,
    moments: Mapping[str, Moments],
    own: Mapping[str, Moments],
    expected: Mapping[str, Tensor],
) -> None:
    for section, of_section in moments.items():
        _check_whole(path, section, of_section)
        for leaf, of_leaf in of_section.items():
            name = f"{section}.{leaf}"
            if name not in expected:
                raise ValueError(f"{path} remembers {name}, which this run does not have.")
            own_names = sorted(own.get(section, {}).get(leaf, of_leaf) or of_leaf)
            if of_leaf and sorted(of_leaf) != own_names:
                raise ValueError(
                    f"{path} remembers {sorted(of_leaf)} of {name}, and this run's state has "
                    f"{own_names}: the file is of another optimizer. Build the training with the "
                    "optimizers that wrote it."
                )
            _check_moments_of_leaf(path, name, of_leaf, expected[name])


def _check_whole(path: Any, section: str, moments: Moments) -> None:
    """Refuse a file with different moments for different leaves."""
    kinds = {frozenset(of_leaf) for of_leaf in moments.values()}
    if len(kinds) > 1:
        raise ValueError(
            f"{path} remembers {[sorted(kind) for kind in kinds]} of different leaves of "
            f"{section}: it is not whole."
        )


def _check_moments_of_leaf(
    path: Any, name: str, moments: Mapping[str, Tensor], leaf: Tensor
) -> None:
    for kind, t in moments.items():
        if t.dim() > leaf.dim():
            raise ValueError(
                f"{path} remembers a {kind} of shape {tuple(t.shape)} of {name}: it is another "
                "leaf's."
            )
