"""A network in one safetensors file, trained or half trained, with its gate spec as metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from l0func.files.places import PathLike, shown_path, text_of_path
from l0func.files.spec_text import spec_of_file, text_of_spec
from l0func.files.storage import Format, read_tensors, warn_unless_vouched, write_tensors
from l0func.gates.checks import check_finite, check_gates, check_params, check_values
from l0func.internal import tree
from l0func.internal.tree import Tree
from l0func.internal.whole import check_whole
from l0func.spec.plan import GateSpec

_NETWORK = Format(
    name="l0func 1",
    fields=("spec",),
    otherwise="was not written by l0func.save",
    hint="A plain state_dict is read by safetensors.torch.load_file, a training state by "
    "l0func.load_state.",
    check=spec_of_file,
)
_SECTIONS = ("params", "gates", "buffers", "extra")


class Saved(NamedTuple):
    """A network that :func:`load` read from a file; all trees are flat."""

    params: dict[str, Tensor]
    gates: dict[str, Tensor]
    buffers: dict[str, Tensor]
    spec: GateSpec
    extra: dict[str, Tensor]


def save(
    path: PathLike,
    params: Tree,
    gates: Tree,
    buffers: Tree,
    spec: GateSpec,
    extra: Tree | None = None,
) -> None:
    """Write a network to a safetensors file: params, gates, buffers and the gate spec.

    The file is replaced whole or not at all; a run that ends early leaves the old file. It has a
    digest of everything in it, and :func:`load` refuses it if anything has changed. Other readers
    of safetensors files read it too.

    Args:
        path: The file.
        params: Parameters, flat or nested.
        gates: ``{gate name: log_alpha}``.
        buffers: Buffers.
        spec: The gate spec; it becomes the metadata of the file.
        extra: Any other tensors to go on from, such as ``optimizer.state_dict()["state"]``, flat
            or nested.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: The trees do not fit the spec, a gate is NaN, or a parameter is NaN or
            infinite; a tensor is sparse or has no values; a distribution is not registered; a
            folder or a device stands at the path. Nothing is written then.
        OSError: The file cannot be written; an earlier one is as it was.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> import tempfile
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.tensor([-3.0, 3.0])}
        >>> path = f"{tempfile.mkdtemp()}/net.safetensors"
        >>> l0.save(path, params, gates, {}, spec)
        >>> l0.load(path).gates
        {'w': tensor([-3.,  3.])}
    """
    # First: with the path last, every later check would speak of another argument.
    text_of_path(path)
    check_whole("save", params=params, gates=gates, buffers=buffers, extra=extra)
    sections = {
        "params": check_params(params, spec),
        "gates": check_gates(gates, spec),
        "buffers": tree.leaves(buffers, "buffers"),
    }
    check_values(sections["gates"])
    check_finite(sections["params"])
    sections["extra"] = {} if extra is None else tree.leaves(extra, "extra")
    _check_owned_buffers(sections["buffers"], spec)
    metadata = {"format": _NETWORK.name, "spec": text_of_spec(spec)}
    write_tensors(path, _joined_sections(sections), metadata)


def load(path: PathLike) -> Saved:
    """Read a network that :func:`save` wrote, to train it further or to compact it.

    Args:
        path: The file.

    Returns:
        ``params, gates, buffers, spec, extra``, on the CPU; all trees flat.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: :func:`save` did not write the file, or the file is not whole or no longer
            what was saved; its spec is refused, or its gates are NaN.
        OSError: The file does not exist, or cannot be read.

    Example:
        >>> import torch
        >>> import l0func as l0
        >>> import tempfile
        >>> params = {"w": torch.ones(2, 3)}
        >>> spec = l0.gate_spec(params, {"w": l0.axis(0)})
        >>> gates = {"w": torch.tensor([-3.0, 3.0])}
        >>> path = f"{tempfile.mkdtemp()}/net.safetensors"
        >>> l0.save(path, params, gates, {}, spec)
        >>> saved = l0.load(path)
        >>> saved.spec == spec
        True
    """
    contents = read_tensors(path, _NETWORK)
    name = shown_path(path)
    spec = spec_of_file(contents.metadata, f"{name} has no valid gate spec")
    sections = _split_sections(name, contents.tensors)
    try:
        params = check_params(sections["params"], spec)
        gates = check_gates(sections["gates"], spec)
        check_values(gates)
        _check_owned_buffers(sections["buffers"], spec)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    warn_unless_vouched(name, contents)
    # A spec keeps the network's order, whoever wrote the file.
    params = {p.path: params[p.path] for p in spec.parameters}
    gates = {gate.name: gates[gate.name] for gate in spec.gates}
    return Saved(params, gates, sections["buffers"], spec, sections["extra"])


def _check_owned_buffers(buffers: Mapping[str, Tensor], spec: GateSpec) -> None:
    """Refuse an owned buffer with another shape than the spec's; it may be absent."""
    for plan in spec.buffers:
        shape = tuple(buffers[plan.path].shape) if plan.path in buffers else plan.shape
        if shape != plan.shape:
            raise ValueError(
                f"The spec has the buffer {plan.path!r} of shape {plan.shape}; got {shape}."
            )


def _joined_sections(sections: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One flat dict with names such as ``params/layer.weight``."""
    joined: dict[str, Tensor] = {}
    for section, named in sections.items():
        for name, t in named.items():
            joined[f"{section}/{name}"] = t
    return joined


def _split_sections(path: str, joined: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The sections again: the inverse of :func:`_joined_sections`."""
    sections: dict[str, dict[str, Tensor]] = {section: {} for section in _SECTIONS}
    for full, t in joined.items():
        section, slash, name = full.partition("/")
        if section not in sections or not slash:
            raise ValueError(
                f"{path} {_NETWORK.otherwise}: it has a tensor {full!r}, and a "
                f"network's tensors are in {_SECTIONS}."
            )
        sections[section][name] = t
    return sections
