"""A network in one safetensors file, trained or half trained, with its gate spec as metadata."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import NamedTuple

from torch import Tensor

from l0func.files.storable import check_storable
from l0func.files.storage import read_tensors, write_tensors
from l0func.gates.checks import check_finite, check_gates, check_params, check_values
from l0func.internal import tree
from l0func.internal.tree import Tree
from l0func.spec.plan import GateSpec

_NETWORK_FORMAT = "l0func 1"
_SECTIONS = ("params", "gates", "buffers", "extra")


class Saved(NamedTuple):
    """A network that :func:`load` read from a file; all trees are flat."""

    params: dict[str, Tensor]
    gates: dict[str, Tensor]
    buffers: dict[str, Tensor]
    spec: GateSpec
    extra: dict[str, Tensor]


def save(
    path: str | PathLike[str],
    params: Tree,
    gates: Tree,
    buffers: Tree,
    spec: GateSpec,
    extra: Tree | None = None,
) -> None:
    """Write a network to a safetensors file: params, gates, buffers and the gate spec.

    Args:
        path: The file.
        params: Parameters, flat or nested.
        gates: ``{gate name: log_alpha}``.
        buffers: Buffers.
        spec: The gate spec; it becomes the metadata of the file.
        extra: Any other tensors to go on from, such as ``optimizer.state_dict()["state"]``, flat
            or nested.

    Raises:
        ValueError: The trees do not fit the spec, a gate is NaN, or a parameter has an entry that
            is NaN or infinite; nothing is written then.
        ImportError: safetensors is not installed.
    """
    sections = {
        "params": check_params(params, spec),
        "gates": check_gates(gates, spec),
        "buffers": tree.leaves(buffers, "buffers"),
    }
    check_values(sections["gates"])
    check_finite(sections["params"])
    sections["extra"] = {} if extra is None else tree.leaves(extra, "extra")
    metadata = {"format": _NETWORK_FORMAT, "spec": spec.to_json()}
    joined = _joined_sections(sections)
    check_storable(joined)
    write_tensors(path, joined, metadata)


def load(path: str | PathLike[str]) -> Saved:
    """Read a network that :func:`save` wrote, to train it further or to compact it.

    Args:
        path: The file.

    Returns:
        ``params, gates, buffers, spec, extra``, on the CPU; all trees flat.

    Raises:
        ValueError: :func:`save` did not write the file, or its gates are NaN.
        ImportError: safetensors is not installed.
    """
    metadata, tensors = read_tensors(path)
    _check_is_network(path, metadata, tensors)
    spec = GateSpec.from_json(metadata["spec"])
    sections = _split_sections(tensors)
    params, gates = sections["params"], sections["gates"]
    check_params(params, spec)
    check_values(check_gates(gates, spec))
    # safetensors sorts by the size of the type and by name; a spec keeps the network's order.
    params = {p.path: params[p.path] for p in spec.parameters}
    gates = {gate.name: gates[gate.name] for gate in spec.gates}
    return Saved(params, gates, sections["buffers"], spec, sections["extra"])


def _joined_sections(sections: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One flat dict with names such as ``params/layer.weight``."""
    joined: dict[str, Tensor] = {}
    for section, named in sections.items():
        for name, t in named.items():
            joined[f"{section}/{name}"] = t
    return joined


def _split_sections(joined: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The sections again: the inverse of :func:`_joined_sections`."""
    sections: dict[str, dict[str, Tensor]] = {section: {} for section in _SECTIONS}
    for path, t in joined.items():
        section, _, name = path.partition("/")
        sections[section][name] = t
    return sections


def _check_is_network(
    path: str | PathLike[str], metadata: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> None:
    sections = {name.partition("/")[0] for name in tensors}
    is_ours = metadata.get("format") == _NETWORK_FORMAT and "spec" in metadata
    if not is_ours or not sections <= set(_SECTIONS):
        raise ValueError(
            f"{path} was not written by l0func.save: its metadata says "
            f"{metadata.get('format', 'nothing')!r}, not {_NETWORK_FORMAT!r}. "
            "A plain state_dict is read by safetensors.torch.load_file."
        )
