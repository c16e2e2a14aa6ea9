"""A mask for every row over DTensors has the bits and the slopes of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import l0func as l0

pytest.importorskip("shards_here")

from layouts import laid_out
from one_mesh import mesh_of
from processes import processes
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

COLUMNWISE = {"0.weight": Shard(0), "0.bias": Shard(0)}
ROWWISE = {"2.weight": Shard(1), "2.bias": Replicate()}
X = torch.linspace(-1, 1, 5 * 6).reshape(5, 6)
SEQUENCES = torch.linspace(-1, 1, 5 * 2 * 6).reshape(5, 2, 6)
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


def _outcome(
    spec: Any, place: Any, inputs: Any = X, **settings: Any
) -> tuple[Any, dict[str, Any]]:
    """The outputs, and the slopes of a loss."""
    fn, params, buffers = l0.make_functional(_net())
    gates = l0.init_gates(l0.random.key(3), spec, noise=2.0)
    params, gates = place(params, gates)
    leaves = {"p": {k: v.detach().requires_grad_() for k, v in params.items()}}
    leaves["g"] = {k: v.detach().requires_grad_() for k, v in gates.items()}
    rows = l0.per_example(l0.gated(fn, spec, **settings))
    keys = l0.random.split(l0.random.key(4), len(X))
    x = inputs.clone().requires_grad_()
    output = rows(leaves["p"], leaves["g"], buffers, keys, x)
    F.cross_entropy(output.reshape(len(X), -1, 3).mean(1), Y).backward()
    grads = {f"{kind} {k}": v.grad for kind, of in leaves.items() for k, v in of.items()}
    grads["x"] = x.grad
    found = {k: g.tolist() for k, g in l0.gather(grads).items() if g is not None}
    return output.tolist(), found


def _check(name: str, shape: Any, settings: Any) -> tuple[Any, dict[str, Any]]:
    mesh = mesh_of(shape)
    spec = _spec(name)

    def place(params: Any, gates: Any) -> tuple[Any, Any]:
        own = {
            path: laid_out(p.detach(), mesh, _layout(path, shape)) for path, p in params.items()
        }
        return own, l0.place_gates(spec, own, gates)

    return _outcome(spec, place, **settings)


def _layout(path: str, shape: Any) -> Any:
    """By tensor parallelism; on two dimensions the first shards like FSDP."""
    own = {**COLUMNWISE, **ROWWISE}[path]
    return [own] if len(shape) == 1 else [Shard(0), own]


def _same(one: Any, other: Any) -> None:
    torch.testing.assert_close(torch.tensor(one), torch.tensor(other), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", SPECS)
def test_outputs_and_slopes_are_those_of_one_process(name, size):
    output, slopes = _outcome(_spec(name), lambda params, gates: (params, gates))
    for own_output, own_slopes in processes(size).run(_check, name, (size,), {}):
        _same(own_output, output)
        assert own_slopes.keys() == slopes.keys()
        for path, slope in slopes.items():
            _same(own_slopes[path], slope)


@pytest.mark.parametrize(
    ("name", "inputs"), [("entries", X), ("units and entries", X), ("entries", SEQUENCES)]
)
def test_local_reparameterisation_draws_the_noise_of_one_process(name, inputs):
    settings = {"sampling": "local_reparam", "inputs": inputs}
    output, slopes = _outcome(_spec(name), lambda params, gates: (params, gates), **settings)
    for own_output, own_slopes in processes(3).run(_check, name, (3,), settings):
        _same(own_output, output)
        for path, slope in slopes.items():
            _same(own_slopes[path], slope)


@pytest.mark.parametrize(
    ("name", "sampling"), [("units and entries", "exact"), ("entries", "local_reparam")]
)
def test_a_mesh_of_two_dimensions_changes_nothing(name, sampling):
    settings = {"sampling": sampling}
    output, slopes = _outcome(_spec(name), lambda params, gates: (params, gates), **settings)
    for own_output, own_slopes in processes(4).run(_check, name, (2, 2), settings):
        _same(own_output, output)
        for path, slope in slopes.items():
            _same(own_slopes[path], slope)


def _calls(place: Any) -> dict[str, Any]:
    """Several masks for a row, chunks, no rows, other operations, buffers, and training."""
    spec = _spec("units and entries")
    fn, params, buffers = l0.make_functional(_net())
    params, gates = place(params, l0.init_gates(l0.random.key(3), spec, noise=2.0))
    apply = l0.gated(fn, spec)
    rows, keys = l0.per_example(apply), l0.random.split(l0.random.key(4), len(X))
    several = l0.random.split(keys, 2)
    given = params, gates, buffers

    def read(params: Any, buffers: Any, x: Any) -> Any:
        return torch.relu(x @ params["0.weight"].T) @ params["2.weight"].mT + params["2.bias"]

    return {
        "several masks": rows(*given, several, X).tolist(),
        "chunks": l0.per_example(apply, chunk_size=2)(*given, keys, X).tolist(),
        "no rows": list(rows(*given, keys[:0], X[:0]).shape),
        "buffers": rows.with_buffers(*given, keys, X)[0].tolist(),
        "other operations": l0.per_example(l0.gated(read, spec))(*given, keys, X).tolist(),
        "training": _trained(rows, spec, *given),
    }


def _trained(rows: Any, spec: Any, params: Any, gates: Any, buffers: Any) -> Any:
    def loss(params: Any, gates: Any, buffers: Any, key: Any, x: Any, y: Any) -> Any:
        return F.cross_entropy(rows(params, gates, buffers, l0.random.split(key, len(x)), x), y)

    def penalty(params: Any, gates: Any) -> Any:
        return l0.penalty(params, gates, spec, lam=1e-3)

    sgd = l0.optimizer(torch.optim.SGD, lr=0.5)
    init, step = l0.training(loss, sgd, sgd, penalty=penalty)
    state = init(l0.random.key(1), params, gates, buffers)
    for _ in range(3):
        state, _ = step(state, X, Y)
    return l0.gather(state.gates)["u"].tolist()


def _calls_on_shards() -> dict[str, Any]:
    mesh = mesh_of((2,))

    def place(params: Any, gates: Any) -> tuple[Any, Any]:
        own = {path: laid_out(p.detach(), mesh, _layout(path, (2,))) for path, p in params.items()}
        return own, l0.place_gates(_spec("units and entries"), own, gates)

    return _calls(place)


def test_every_kind_of_call_is_that_of_one_process():
    expected = _calls(lambda params, gates: (params, gates))
    for own in processes(2).run(_calls_on_shards):
        assert own.keys() == expected.keys()
        for name, values in expected.items():
            _same(own[name], values)


def _refusals() -> str:
    mesh = mesh_of((2,))
    net, spec = _net(), _spec("entries")
    fn, whole, buffers = l0.make_functional(net)
    parallelize_module(net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    params = dict(net.named_parameters())
    plain = l0.init_gates(l0.random.key(3), spec)
    gates = l0.place_gates(spec, params, plain)
    keys = l0.random.split(l0.random.key(4), len(X))
    rows = l0.per_example(l0.gated(fn, spec))
    assert rows(params, gates, buffers, keys, X).shape == (5, 3)
    with pytest.raises(ValueError, match=r"'0\.weight' is a DTensor.*place_gates"):
        rows(params, plain, buffers, keys, X)
    with pytest.raises(ValueError, match=r"'0\.weight' is a plain tensor.*l0func\.gather"):
        rows(whole, gates, buffers, keys, X)
    turned = {**gates, "0.weight": laid_out(plain["0.weight"], mesh, [Shard(1)])}
    with pytest.raises(ValueError, match=r"do not hold what they multiply in '0\.weight'"):
        rows(params, turned, buffers, keys, X)
    with pytest.raises(ValueError, match=r"'0' in inputs is a DTensor.*l0func\.gather"):
        rows(params, gates, buffers, keys, laid_out(X, mesh, [Shard(0)]))
    with pytest.raises(TypeError, match=r"a function of l0func\.gated itself"):
        l0.per_example(lambda *given: rows.apply(*given))(params, gates, buffers, keys, X)
    with pytest.raises(ValueError, match="gate_dims"):
        l0.per_example(rows.apply, gate_dims=0)(params, gates, buffers, keys, X)
    hooked, _, _ = l0.make_functional(net)
    with pytest.raises(ValueError, match=r"'0' has hooks of parallelize_module"):
        l0.per_example(l0.gated(hooked, spec))(params, gates, buffers, keys, X)
    return "refused"


def test_what_cannot_be_mapped_is_refused_by_name():
    assert processes(2).run(_refusals) == ["refused"] * 2
