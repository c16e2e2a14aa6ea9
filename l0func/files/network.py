"""One file for a network, trained or half trained: safetensors, with the plan of its gates as
metadata.
"""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from typing import Any, NamedTuple

from torch import Tensor

from l0func.gates.checks import check_gates, check_params, check_values
from l0func.internal import tree
from l0func.internal.tree import Tree
from l0func.spec.plan import GateSpec

_NETWORK_FORMAT = "l0func 1"


class Saved(NamedTuple):
    """What :func:`load` returns."""

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
    """Write parameters, gates and buffers to a safetensors file, and the spec with its
    distributions as its metadata.

    Args:
        path: The file.
        params: Parameters, flat or nested.
        gates: ``{gate name: log_alpha}``.
        buffers: Buffers.
        spec: The plan.
        extra: Any other tensors to go on from, such as ``optimizer.state_dict()["state"]``, flat
            or nested.

    Raises:
        ValueError: The trees do not fit the spec, or a gate is NaN; nothing is written then.
        ImportError: safetensors is not there.
    """
    tensors, named, state = (
        check_params(params, spec),
        check_gates(gates, spec),
        tree.leaves(buffers, "buffers"),
    )
    check_values(named)
    others = {} if extra is None else tree.leaves(extra, "extra")
    parts = {"params": tensors, "gates": named, "buffers": state, "extra": others}
    # Contiguous copies: safetensors refuses views and tensors that share memory, as expanded and
    # tied ones do.
    flat = {
        f"{part}/{name}": t.detach().clone().contiguous()
        for part, of in parts.items()
        for name, t in of.items()
    }
    safetensors().save_file(
        flat, path, metadata={"format": _NETWORK_FORMAT, "spec": spec.to_json()}
    )


def load(path: str | PathLike[str]) -> Saved:
    """What :func:`save` wrote, on the CPU: enough to train on, or to compact.

    Args:
        path: The file.

    Returns:
        ``params, gates, buffers, spec, extra``; all trees flat.

    Raises:
        ValueError: The file is not one that ``save`` wrote, or its gates are NaN.
        ImportError: safetensors is not there.
    """
    metadata, flat = read(path)
    known = ("params", "gates", "buffers", "extra")
    foreign = [name for name in flat if name.partition("/")[0] not in known]
    if metadata.get("format") != _NETWORK_FORMAT or "spec" not in metadata or foreign:
        raise ValueError(
            f"{path} was not written by l0func.save: its metadata says "
            f"{metadata.get('format', 'nothing')!r}, not {_NETWORK_FORMAT!r}. "
            "A plain state_dict is read by safetensors.torch.load_file."
        )
    spec = GateSpec.from_json(metadata["spec"])
    parts: dict[str, dict[str, Tensor]] = {"params": {}, "gates": {}, "buffers": {}, "extra": {}}
    for name, tensor in flat.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    saved = Saved(parts["params"], parts["gates"], parts["buffers"], spec, parts["extra"])
    check_params(saved.params, spec)
    check_values(check_gates(saved.gates, spec))
    # In the order of the spec: safetensors sorts by size of the type and by name.
    return saved._replace(
        params={p.path: saved.params[p.path] for p in spec.parameters},
        gates={gate.name: saved.gates[gate.name] for gate in spec.gates},
    )


def read(path: str | PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file.

    Raises:
        ValueError: The file is not whole.
        ImportError: safetensors is not there.
    """
    library = safetensors()
    try:
        with _opened(path) as file:
            metadata: dict[str, str] = file.metadata() or {}
        return metadata, library.load_file(path)
    except import_module("safetensors").SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}.") from None


def _opened(path: str | PathLike[str]) -> Any:
    return import_module("safetensors").safe_open(path, framework="pt")


def safetensors() -> Any:
    """The library, imported where it is needed.

    Raises:
        ImportError: It is not there.
    """
    try:
        return import_module("safetensors.torch")
    except ImportError:
        raise ImportError("Files need safetensors: pip install 'l0func[files]'.") from None
