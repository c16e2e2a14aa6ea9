"""A training state in one safetensors file, to continue the run from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from l0func.files.places import PathLike, shown_path
from l0func.files.spec_text import spec_of_file, text_of_spec
from l0func.files.storage import Format, read_tensors, warn_unless_vouched, write_tensors
from l0func.internal import names, tree
from l0func.internal.strict_json import shown
from l0func.internal.tree import Pytree
from l0func.internal.whole import check_whole
from l0func.spec.differences import another_distribution
from l0func.spec.plan import GateSpec, check_spec
from l0func.train.optimizer import Moments
from l0func.train.saved_moments import SavedMoments, check_saved_moments
from l0func.train.state import AnyState, StateT, TrainState

_STATE = Format(
    name="l0func training 1",
    fields=("spec", "settings"),
    otherwise="is no training state",
    hint="A network that l0func.save wrote is read by l0func.load.",
    check=spec_of_file,
)


def save_state(
    path: PathLike,
    state: AnyState,
    spec: GateSpec,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a training state or a stack to a safetensors file.

    An existing file is replaced whole, or not at all. The file has a digest of everything
    in it, and :func:`load_state` refuses it if anything has changed.

    Args:
        path: The file.
        state: The state.
        spec: The gate spec.
        settings: JSON values that a later run must share to continue: the learning rates, the
            data, the member count.

    Raises:
        TypeError: A setting is no JSON value; ``path`` is no path, ``state`` no training state, or
            ``spec`` no spec.
        ValueError: The gates are not the spec's; a distribution is not registered; a folder or a
            device stands at the path. Nothing is written then.
        OSError: The file cannot be written; an earlier one is as it was.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> import tempfile
        >>> fn, params, buffers = l0.make_functional(torch.nn.Linear(3, 2))
        >>> spec = l0.gate_spec(params)
        >>> gates = l0.init_gates(l0.random.key(0), spec)
        >>> apply = l0.gated(fn, spec)
        >>> def loss(params, gates, buffers, key, x):
        ...     return apply(params, gates, buffers, key, x).square().mean()
        >>> sgd = l0.optimizer(torch.optim.SGD, lr=0.1)
        >>> init, step = l0.training(loss, sgd, sgd)
        >>> state = init(l0.random.key(1), params, gates, buffers)
        >>> path = f"{tempfile.mkdtemp()}/state.safetensors"
        >>> l0.save_state(path, state, spec, {"lr": 0.1})
        >>> l0.load_state(path, state, spec, {"lr": 0.1}).step
        tensor(0)
    """
    _check_is_state(state, "save_state")
    check_whole("save_state", state=state)
    metadata = metadata_of(state, spec, settings)
    write_tensors(path, tree.leaves(state, "the state"), metadata)


def metadata_of(
    state: AnyState, spec: GateSpec, settings: Mapping[str, Any] | None
) -> dict[str, str]:
    """What a checkpoint says about its tensors, as texts.

    Raises:
        TypeError: ``state`` is no training state, ``spec`` no spec, or a setting no JSON value.
        ValueError: The gates are not the spec's; a distribution is not registered.
    """
    _check_is_state(state, "save_shards")
    check_spec(spec)
    _check_gates(state.gates, spec)
    return {
        "format": _STATE.name,
        "spec": text_of_spec(spec),
        "settings": _settings_as_text(settings),
    }


def check_format(name: str, metadata: Mapping[str, str]) -> None:
    """Refuse a checkpoint that says it is something else.

    Raises:
        ValueError: Its format is not that of training states.
    """
    if metadata["format"] != _STATE.name:
        found = shown(metadata["format"])
        raise ValueError(
            f"{name} {_STATE.otherwise}: its metadata says {found}, not {_STATE.name!r}."
        )


def load_state(
    path: PathLike,
    state: StateT,
    spec: GateSpec,
    settings: Mapping[str, Any] | None = None,
) -> StateT:
    """Read a training state that :func:`save_state` wrote.

    Args:
        path: The file.
        state: A state from the same run, such as its first. The result has its structure.
        spec: The gate spec.
        settings: The settings that :func:`save_state` got.

    Returns:
        The state. Every tensor is on the device that it has in ``state``, and a moment that
        ``state`` lacks on that of its leaf; a count of steps that it lacks, and what it has on
        the meta device, is on the CPU.

    Raises:
        TypeError: ``path`` is no path, or a setting is no JSON value.
        ValueError: The file is not whole, no longer what was saved, or no training state; or it
            has another spec, other settings, other shapes or other dtypes, and the message names
            them.
        OSError: The file does not exist, or cannot be read.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> import tempfile
        >>> fn, params, buffers = l0.make_functional(torch.nn.Linear(3, 2))
        >>> spec = l0.gate_spec(params)
        >>> gates = l0.init_gates(l0.random.key(0), spec)
        >>> apply = l0.gated(fn, spec)
        >>> def loss(params, gates, buffers, key, x):
        ...     return apply(params, gates, buffers, key, x).square().mean()
        >>> sgd = l0.optimizer(torch.optim.SGD, lr=0.1)
        >>> init, step = l0.training(loss, sgd, sgd)
        >>> state = init(l0.random.key(1), params, gates, buffers)
        >>> path = f"{tempfile.mkdtemp()}/state.safetensors"
        >>> later, _ = step(state, torch.ones(4, 3))
        >>> l0.save_state(path, later, spec)
        >>> l0.load_state(path, state, spec).step
        tensor(1)
    """
    check_whole("load_state", state=state)
    contents = read_tensors(path, _STATE)
    name = shown_path(path)
    saved = state_from(name, contents.metadata, contents.tensors, state, spec, settings)
    warn_unless_vouched(name, contents)
    own = tree.leaves(state, "the state")
    leaves = tree.leaves(saved, "the state").items()
    return tree.rebuild(saved, {leaf: _on_its_device(t, leaf, own) for leaf, t in leaves})


def counterpart(saved: Tensor, name: str, own: Mapping[str, Tensor]) -> Tensor | None:
    """This run's tensor at a path; for a moment that has not begun, its leaf; for a count, None.

    torch counts steps on the CPU, also those of a leaf that is a single number.
    """
    if name in own:
        return own[name]
    leaf_name, _, kind = name.removeprefix("moments.").rpartition(".")
    leaf = own.get(leaf_name)
    if leaf is None or saved.dim() > 0:
        return leaf
    return None if leaf.dim() > 0 or kind == "step" else leaf


def _on_its_device(t: Tensor, name: str, own: Mapping[str, Tensor]) -> Tensor:
    like = counterpart(t, name, own)
    return t if like is None or like.is_meta else t.to(like.device)


def state_from(
    name: str,
    metadata: Mapping[str, str],
    saved: Mapping[str, Tensor],
    state: StateT,
    spec: GateSpec,
    settings: Mapping[str, Any] | None,
) -> StateT:
    """A saved state, if it fits this run.

    Args:
        name: The file's name, for messages.
        metadata: What it says about its tensors, as :func:`metadata_of` gives it.
        saved: Its tensors by path; only shapes and dtypes are read.
        state: A state from this run.
        spec: The gate spec of this run.
        settings: The settings of this run.

    Raises:
        ValueError: It has another spec, other settings, other shapes or other dtypes.
    """
    found = spec_of_file(metadata, f"{name} has no valid gate spec")
    _check_spec_of_file(name, found, spec)
    own_settings = json.loads(_settings_as_text(settings))
    _check_settings(name, _settings_of_file(name, metadata), own_settings)
    moments = _moments_of(name, saved)
    tensors = {leaf: t for leaf, t in saved.items() if not leaf.startswith("moments.")}
    start = state._replace(moments={})
    expected = tree.leaves(start, "the state")
    _check_tensors(name, tensors, expected)
    # Tensors of shards are not read yet.
    has_begun = saved["step"].is_meta or int(saved["step"]) > 0
    check_saved_moments(name, moments, state, expected, has_begun=has_begun)
    kept: dict[str, Moments] = {}
    for section, of_section in state.moments.items():
        found = moments.get(section, {})
        kept[section] = {
            leaf: _with_names(own, found.get(leaf)) for leaf, own in of_section.items()
        }
    return tree.rebuild(start, tensors)._replace(moments=kept)


def _with_names(
    own: Mapping[str, Tensor | None] | None, saved: Mapping[str, Tensor] | None
) -> dict[str, Tensor | None] | None:
    """The saved moments of a leaf, with the names of what a step will make."""
    if own is None:
        return None if saved is None else {**saved}
    return {**dict.fromkeys(own), **(saved or {})}


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


def _settings_of_file(path: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    # The digest vouches for them, and they are compared with the caller's only. So they may be
    # all that JSON writes, such as a seed with more than 64 bits.
    try:
        found = json.loads(metadata["settings"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has no valid settings: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} has no valid settings: they are a record; got {shown(found)}.")
    return cast("dict[str, Any]", found)


def _moments_of(path: str, saved: Mapping[str, Tensor]) -> SavedMoments:
    """The saved moments, under ``"params"`` and ``"gates"``."""
    moments: SavedMoments = {}
    for full, t in saved.items():
        if not full.startswith("moments."):
            continue
        _, section, rest = (*full.split(".", 2), "")[:3]
        leaf, _, name = rest.rpartition(".")
        if not (section and name):
            raise ValueError(
                f"{path} has a tensor {full!r}; a moment is named moments.SECTION.LEAF.KIND."
            )
        moments.setdefault(section, {}).setdefault(leaf, {})[name] = t
    return moments


def _check_is_state(state: Any, caller: str) -> None:
    if not isinstance(state, TrainState):
        raise TypeError(
            f"{caller} writes a training state, from training's init or step; got "
            f"{type(state).__name__}. See l0func.save for networks."
        )


def _check_gates(gates: Pytree, spec: GateSpec) -> None:
    named = tree.leaves(gates, "gates")
    known = [gate.name for gate in spec.gates]
    names.check_names(named, known, "the state's gates", "the spec's gates")
    for gate in spec.gates:
        shape = tuple(named[gate.name].shape)
        # In a stack the dimension of members comes first.
        if shape[len(shape) - len(gate.shape) :] != gate.shape:
            raise ValueError(
                f"The spec has {gate.name!r} of shape {gate.shape}; the state's is {shape}."
            )


def _check_spec_of_file(path: Any, saved: GateSpec, own: GateSpec) -> None:
    if saved == own:
        return
    difference = another_distribution(saved, own)
    if difference is not None:
        raise ValueError(
            f"{path} is of another gate spec: {difference} Load it with "
            "spec.with_distribution(...) of that distribution."
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
    names.check_names(saved, expected, f"the state in {path}", "this run's")
    for name, t in saved.items():
        own = expected[name]
        if t.shape != own.shape:
            raise ValueError(
                f"{path} has {name!r} of shape {tuple(t.shape)}; this run's is {tuple(own.shape)}."
            )
        if t.dtype != own.dtype:
            raise ValueError(f"{path} has {name!r} as {t.dtype}; this run's is {own.dtype}.")
