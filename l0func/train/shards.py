"""A training state in a folder that all processes write, to continue at any number of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l0func.files.places import PathLike, shown_path
from l0func.internal import tree
from l0func.internal.groups import together
from l0func.internal.sharding import check_entries, is_dtensor
from l0func.internal.untyped import listed
from l0func.spec.plan import GateSpec
from l0func.train.checkpoint import check_format, counterpart, metadata_of, state_from
from l0func.train.shard_files import is_complete, read_parts, saved_shapes, write_parts
from l0func.train.state import AnyState, StateT

_TEXTS = ("format", "spec", "settings")
_PREFIX = "metadata."


def save_shards(
    folder: PathLike,
    state: AnyState,
    spec: GateSpec,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a training state with DTensors to a folder, by ``torch.distributed.checkpoint``.

    It is a collective: all processes of the group call it, and each writes the parts that it
    holds. Plain tensors are equal in all processes; one of them writes each. A run without a
    process group writes alone. The checkpoint counts once all have written. If a process ends
    before that, the folder has none, and :func:`load_shards` says so.

    Args:
        folder: A folder without a checkpoint, such as one for each step. It is made if needed.
        state: The state; its leaves are DTensors and plain tensors.
        spec: The gate spec.
        settings: JSON values that a later run must share to continue.

    Raises:
        TypeError: ``state`` is no training state, ``spec`` no spec, or a setting no JSON value.
        ValueError: The gates are not the spec's; the folder has a checkpoint; or this torch has no
            public ``torch.distributed.tensor``.
        OSError: A process could not write its part; all processes raise it.

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
        >>> folder = f"{tempfile.mkdtemp()}/step_0"
        >>> l0.save_shards(folder, state, spec)  # alone, without a process group
        >>> l0.load_shards(folder, state, spec).step
        tensor(0)
    """
    path = _path_of(folder)
    with together("save_shards", "folder", str(path)):
        texts = metadata_of(state, spec, settings)
        check_entries(tree.leaves(state, "the state"))
        _check_no_checkpoint(path, int(state.step))
    leaves: dict[str, Any] = dict(tree.leaves(state, "the state"))
    leaves |= {_PREFIX + name: _shard_bytes(text) for name, text in texts.items()}
    write_parts(path, leaves)


def load_shards(
    folder: PathLike,
    state: StateT,
    spec: GateSpec,
    settings: Mapping[str, Any] | None = None,
) -> StateT:
    """Read a training state that :func:`save_shards` wrote, at any number of processes.

    It is a collective, as :func:`save_shards` is.

    Args:
        folder: The folder.
        state: A state of this run, such as its first. The result has its structure, and every leaf
            its layout and its device.
        spec: The gate spec.
        settings: The settings that :func:`save_shards` got.

    Returns:
        The state; its tensors are new ones.

    Raises:
        ValueError: The folder has no whole checkpoint, or a file of it is missing or changed; or
            the checkpoint has another spec, other settings, other shapes or other dtypes, and the
            message names them.

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
        >>> folder = f"{tempfile.mkdtemp()}/step_1"
        >>> later, _ = step(state, torch.ones(4, 3))
        >>> l0.save_shards(folder, later, spec)
        >>> l0.load_shards(folder, state, spec).step
        tensor(1)
    """
    path = _path_of(folder)
    with together("load_shards", "folder", str(path)):
        check_entries(tree.leaves(state, "the state"))
        if not is_complete(path):
            raise ValueError(
                f"{path} has no whole checkpoint: all processes that run save_shards have to end "
                "it. Load an earlier one."
            )
        saved = saved_shapes(path)
    texts = _texts_of(path, saved)
    name = shown_path(folder)
    found = state_from(name, texts, saved, state, spec, settings)
    own = tree.leaves(state, "the state")
    wanted: dict[str, Tensor] = {}
    for leaf, t in tree.leaves(found, "the state").items():
        wanted[leaf] = _room_for(t, counterpart(t, leaf, own))
    read_parts(path, wanted)
    return tree.rebuild(found, wanted)


def _path_of(folder: PathLike) -> Path:
    given: Any = folder
    if not isinstance(given, str | bytes | os.PathLike):
        raise TypeError(
            "A folder is named by a str, bytes or an os.PathLike, the first argument; got "
            f"{type(given).__name__}."
        )
    return Path(shown_path(folder))


def _check_no_checkpoint(path: Path, step: int) -> None:
    if is_complete(path):
        raise ValueError(
            f"{path} has a checkpoint, and half a new one over it would be no checkpoint at all. "
            f"Give each step its own folder, such as {path.parent / f'step_{step}'}."
        )
    if path.is_file():
        raise ValueError(f"save_shards writes a folder, and a file stands at {path}.")


def _texts_of(path: Path, saved: dict[str, Tensor]) -> dict[str, str]:
    """The texts in a checkpoint; they are taken out of ``saved``."""
    found: dict[str, Any] = {}
    for name in _TEXTS:
        record = saved.pop(_PREFIX + name, None)
        if record is None:
            raise ValueError(f"{path} has no {name}: l0func.save_shards did not write it.")
        found[_PREFIX + name] = torch.empty(record.shape, dtype=torch.uint8, device="cpu")
    read_parts(path, found)
    try:
        texts = {name: _spec_text(found[_PREFIX + name]) for name in _TEXTS}
    except UnicodeDecodeError:
        raise ValueError(f"{path} has no texts: l0func.save_shards did not write it.") from None
    check_format(str(path), texts)
    return texts


def _shard_bytes(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")


def _spec_text(numbers: Tensor) -> str:
    return bytes(listed(numbers)).decode()


def _room_for(saved: Tensor, own: Tensor | None) -> Tensor:
    """An empty tensor for a saved one: laid out as this run's."""
    if own is None:
        return torch.empty(saved.shape, dtype=saved.dtype, device="cpu")
    if own.shape == saved.shape:
        return torch.empty_like(own.detach(), dtype=saved.dtype)
    if is_dtensor(own) and saved.dim() > 0:
        raise ValueError(
            f"A moment of shape {tuple(saved.shape)} belongs to a leaf of shape "
            f"{tuple(own.shape)}, and this run's state does not say how it is laid out: load it "
            "into a state after one step."
        )
    return torch.empty(saved.shape, dtype=saved.dtype, device=own.device)
