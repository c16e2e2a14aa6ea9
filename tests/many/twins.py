"""A small network beside its twin of DTensors: layouts over meshes, gates and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from layouts import laid_out, meshes
from processes import from_first
from torch.distributed.tensor import DTensor, Replicate, Shard

import l0func as l0
from l0func.costs.latency_text import LayerTime, WidthAxis
from l0func.costs.machine import Machine

NET = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
FN, NAMED, _ = l0.make_functional(NET)
X = torch.linspace(-1, 1, 4 * 5).reshape(4, 5)
COUNTS = l0.count_macs(FN, NAMED, {}, X)
_AXIS = WidthAxis("0.weight", 0, (1.0, 4.0, 7.0))
_LAYER = LayerTime("0", (0,), ((1.0,), (2.0,), (4.0,)))
TABLE = l0.LatencyTable(
    axes=(_AXIS,),
    layers=(_LAYER,),
    fixed=0.5,
    groups={"units": 7},
    shapes={path: tuple(t.shape) for path, t in NAMED.items()},
    machine=Machine.here(torch.device("cpu"), "torch.float32", "(4, 5)"),
    error=0.0,
    is_elsewhere=True,
)
UNITS = {"0.weight": l0.axis(0), "0.bias": l0.element()}
SPECS = {
    "entries": l0.gate_spec(NAMED, {"0.*": l0.element(), "2.weight": l0.element(), "*": None}),
    "units": l0.gate_spec(
        NAMED,
        {"*": None},
        groups={"units": l0.group(UNITS, {"2.weight": l0.axis(1)})},
        distribution=l0.GaussianGate(),
    ),
    "several": l0.gate_spec(
        NAMED,
        {
            "0.weight": [l0.axis(0), l0.axis(1)],
            "0.bias": l0.blocks(0, 7),
            "2.weight": [l0.element(), l0.axis(1, 0, 4)],
            "2.bias": l0.whole(),
        },
        distribution=l0.HardKuma(),
    ),
}
_ROWS, _COPIES = (Shard(0),), (Replicate(),)
ON_LINES = {
    "rows": dict.fromkeys(NAMED, _ROWS),
    "columns": {**dict.fromkeys(NAMED, _ROWS), "2.weight": (Shard(1),), "2.bias": _COPIES},
    "copies": dict.fromkeys(NAMED, _COPIES),
}
ON_GRIDS = {
    "copies of rows": dict.fromkeys(NAMED, (Replicate(), Shard(0))),
    "rows twice": dict.fromkeys(NAMED, (Shard(0), Shard(0))),
    "rows and columns": {
        **dict.fromkeys(NAMED, (Shard(0), Shard(0))),
        "2.weight": (Shard(0), Shard(1)),
        "2.bias": (Shard(0), Replicate()),
    },
}


Call = Callable[..., Any]


class Twin(NamedTuple):
    """Parameters and gates, whole and as DTensors."""

    name: str
    spec: l0.GateSpec
    params: dict[str, Any]
    gates: dict[str, Any]
    own_params: dict[str, Any]
    own_gates: dict[str, Any]
    own_x: Any

    def check(self, call: Call, *, bits: bool = False, laid: bool = True) -> None:
        """Compare what a call ``(params, gates, spec)`` returns for both, and its gradients.

        Args:
            call: The call.
            bits: Whether tensors have the same bits; else they are close.
            laid: Whether gradients are laid out as their leaves.
        """
        expected, slopes = from_first(lambda: _results(call, self.params, self.gates, self.spec))
        found, own_slopes = _results(call, self.own_params, self.own_gates, self.spec)
        assert len(found) == len(expected), self.name
        for own, whole in zip(found, expected, strict=True):
            _compare(own, whole, bits, self.name)
        leaves = _named(self.own_params, self.own_gates)
        for path, slope in slopes.items():
            own, placements = own_slopes[path], leaves[path].placements
            label = f"{self.name}: {path}"
            assert (own is None) == (slope is None), label
            if own is not None:
                assert not laid or own.placements == placements, label
                _compare(own.redistribute(placements=placements), slope, False, label)


def twins(size: int) -> Iterator[Twin]:
    """Every spec, each on another layout over the first mesh of a group."""
    mesh = meshes(size)[0]
    layouts = list((ON_LINES if mesh.ndim == 1 else ON_GRIDS).items())
    for number, (kind, spec) in enumerate(SPECS.items()):
        # Another pairing in each group.
        layout, placements = layouts[(number + size) % 3]
        gates = l0.init_gates(l0.random.key(0), spec, noise=2.0)
        params = {path: l0.random.normal(l0.random.key(3), t.shape) for path, t in NAMED.items()}
        own_params = {path: laid_out(t, mesh, placements[path]) for path, t in params.items()}
        own_gates = l0.place_gates(spec, own_params, gates)
        own_x = laid_out(X, mesh, [Replicate()] * mesh.ndim)
        yield Twin(f"{kind}: {layout}", spec, params, gates, own_params, own_gates, own_x)


def _results(call: Call, params: Any, gates: Any, spec: Any) -> Any:
    """The leaves of what a call returns, and the gradients of a weighted sum of them by path."""
    own_params, own_gates = _learned(params), _learned(gates)
    found = leaves_of(call(own_params, own_gates, spec))
    terms = [_weighted_sum(t) for t in found if isinstance(t, torch.Tensor) and t.requires_grad]
    named = _named(own_params, own_gates)
    if not terms:
        return found, dict.fromkeys(named)
    slopes = torch.autograd.grad(sum(terms), list(named.values()), allow_unused=True)
    values = [t.detach() if isinstance(t, torch.Tensor) else t for t in found]
    return values, dict(zip(named, slopes, strict=True))


def _learned(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: t.detach().requires_grad_() for name, t in tensors.items()}


def _named(params: dict[str, Any], gates: dict[str, Any]) -> dict[str, Any]:
    return params | {f"gate {name}": t for name, t in gates.items()}


def _weighted_sum(t: Any) -> Any:
    """The sum of a tensor's entries times weights; of a DTensor's in this process."""
    weights = torch.linspace(1, 2, t.numel()).reshape(t.shape)
    if isinstance(t, DTensor):
        weights, t = laid_out(weights, t.device_mesh, t.placements).to_local(), t.to_local()
    return (t * weights).sum()


def leaves_of(result: Any) -> list[Any]:
    """The tensors, numbers and texts in a result."""
    return torch.utils._pytree.tree_flatten(result)[0]


def _compare(own: Any, whole: Any, bits: bool, name: str) -> None:
    if not isinstance(whole, torch.Tensor):
        assert own == whole, name
        return
    if whole.dim() == 0:
        assert type(own) is torch.Tensor, f"{name}: a scalar is a {type(own).__name__}"
        number, expected = float(own), float(whole)
        assert abs(number - expected) <= 1e-6 * max(1.0, abs(expected)), name
        return
    mine, wanted = own, whole
    if isinstance(own, DTensor):
        assert not any(p.is_partial() for p in own.placements), name
        wanted = laid_out(wanted, own.device_mesh, own.placements).to_local()
        mine = mine.to_local()
    if bits:
        assert torch.equal(mine, wanted), name
    torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6, msg=lambda t: f"{name}: {t}")
