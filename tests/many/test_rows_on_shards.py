"""A mask for every row over DTensors has the bits and the slopes of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import l0func as l0

pytest.importorskip("torch.distributed.tensor.debug", reason="torch has no public DTensors")

from layouts import laid_out
from processes import processes
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard

COLUMNWISE = {"0.weight": Shard(0), "0.bias": Shard(0)}
ROWWISE = {"2.weight": Shard(1), "2.bias": Replicate()}
X = torch.linspace(-1, 1, 5 * 6).reshape(5, 6)
Y = torch.arange(5) % 3
GROUP = l0.group({"0.weight": l0.axis(0), "0.bias": l0.element()}, {"2.weight": l0.axis(1)})
SPECS: dict[str, Any] = {
    "entries": ({"*": l0.element()}, {}),
    "lines": ({"*.weight": [l0.axis(0), l0.axis(1)], "*": None}, {}),
    "units": ({"*": None}, {"u": GROUP}),
    "units and entries": ({"*.weight": [l0.element(), l0.axis(0)], "*": None}, {"u": GROUP}),
    "others": ({"0.weight": l0.blocks(0, 2), "2.weight": l0.tiles(1, 2), "*": l0.whole()}, {}),
}


def _net() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def _spec(name: str, distribution: Any = None) -> Any:
    rules, groups = SPECS[name]
    params = dict(_net().named_parameters())
    chosen = {} if distribution is None else {"distribution": distribution}
    return l0.gate_spec(params, rules, groups=groups, **chosen)


def _outcome(spec: Any, place: Any, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """The outputs, and the slopes of a loss."""
    fn, params, buffers = l0.make_functional(_net())
    gates = l0.init_gates(l0.random.key(3), spec, noise=2.0)
    params, gates = place(params, gates)
    leaves = {"p": {k: v.detach().requires_grad_() for k, v in params.items()}}
    leaves["g"] = {k: v.detach().requires_grad_() for k, v in gates.items()}
    rows = l0.per_example(l0.gated(fn, spec, **settings))
    keys = l0.random.split(l0.random.key(4), len(X))
    x = X.clone().requires_grad_()
    output = rows(leaves["p"], leaves["g"], buffers, keys, x)
    F.cross_entropy(output, Y).backward()
    grads = {f"{kind} {k}": v.grad for kind, of in leaves.items() for k, v in of.items()}
    grads["x"] = x.grad
    found = {k: g.tolist() for k, g in l0.gather(grads).items() if g is not None}
    return output.tolist(), found


def _check(name: str, size: int, settings: Any) -> tuple[Any, dict[str, Any]]:
    mesh = init_device_mesh("cpu", (size,))
    spec = _spec(name)

    def place(params: Any, gates: Any) -> tuple[Any, Any]:
        layout = {**COLUMNWISE, **ROWWISE}
        own = {path: laid_out(p.detach(), mesh, [layout[path]]) for path, p in params.items()}
        return own, l0.place_gates(spec, own, gates)

    return _outcome(spec, place, **settings)


def _same(one: Any, other: Any) -> None:
    torch.testing.assert_close(torch.tensor(one), torch.tensor(other), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", SPECS)
def test_outputs_and_slopes_are_those_of_one_process(name, size):
    output, slopes = _outcome(_spec(name), lambda params, gates: (params, gates))
    for own_output, own_slopes in processes(size).run(_check, name, size, {}):
        _same(own_output, output)
        assert own_slopes.keys() == slopes.keys()
        for path, slope in slopes.items():
            _same(own_slopes[path], slope)


@pytest.mark.parametrize("name", ["entries", "units and entries"])
def test_local_reparameterisation_draws_the_noise_of_one_process(name):
    settings = {"sampling": "local_reparam"}
    output, slopes = _outcome(_spec(name), lambda params, gates: (params, gates), **settings)
    for own_output, own_slopes in processes(3).run(_check, name, 3, settings):
        _same(own_output, output)
        for path, slope in slopes.items():
            _same(own_slopes[path], slope)
