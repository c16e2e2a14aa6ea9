"""A user's script in pyright's strict mode: what comes out of each main call has a type.

It also runs, so no type stands for a call that fails.
"""

from __future__ import annotations

import tempfile
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import assert_type

import l0func as l0

Named = dict[str, Tensor]
Nested = dict[str, dict[str, Tensor]]


class Weights(NamedTuple):
    """Parameters with names of their own."""

    matrix: Tensor
    bias: Tensor | None


mlp = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
x, y = torch.ones(8, 6), torch.zeros(8, dtype=torch.int64)
key = l0.random.key(0)
keys = l0.random.split(key, len(x))
assert_type(keys, Tensor)

fn, params, buffers = l0.make_functional(mlp)
assert_type((params, buffers), tuple[Named, Named])
spec = l0.gate_spec(params, {"*weight*": l0.element(), "*bias": None}, buffers=buffers)
assert_type(spec, l0.GateSpec)
gates = l0.init_gates(key, spec, droprate=0.2)
assert_type(gates, Named)

# A tree in the structure of another has its type.
masks = l0.sample_masks(key, gates, spec)
assert_type(masks, Named)
assert_type(l0.apply_masks(params, masks), Named)
assert_type(l0.prune(params, gates, spec), Named)
assert_type(l0.compensate(params, gates, spec), Named)
assert_type(l0.init_params(key, params, {"*.weight": "kaiming_normal_"}), Named)
assert_type(l0.gather((params, spec)), tuple[Named, l0.GateSpec])

# Trees may be nested, and made of dicts, lists, tuples and named tuples.
nested: Nested = {"0": {"weight": torch.ones(3, 2), "bias": torch.ones(3)}}
own = Weights(torch.ones(3, 2), None)
many = [(torch.ones(2), {"w": torch.ones(3)}), (torch.ones(2), {"v": torch.ones(3)})]
of_nested, of_own, of_many = l0.gate_spec(nested), l0.gate_spec(own), l0.gate_spec(many)
assert_type(l0.prune(nested, l0.init_gates(key, of_nested), of_nested), Nested)
assert_type(l0.compensate(own, l0.init_gates(key, of_own), of_own), Weights)
pruned = l0.prune(many, l0.init_gates(key, of_many), of_many)
assert_type(pruned, list[tuple[Tensor, Named]])

# A forward may return anything; a function of one's own returns what it says.
rows = l0.per_example(l0.gated(fn, spec))
assert_type(rows(params, gates, buffers, keys, x), Any)
assert_type(rows.with_buffers(params, gates, buffers, keys, x), tuple[Any, Named])


def squares(params: Named, buffers: Named, x: Tensor) -> Tensor:
    """A pure function."""
    return (x @ params["0.weight"].T).square().sum(1)


mine = l0.gated(squares, spec)
assert_type(mine(params, gates, buffers, key, x), Tensor)
assert_type(l0.per_example(mine)(params, gates, {}, keys, x), Tensor)
bernoulli = spec.with_distribution(l0.BernoulliGate())
assert_type(l0.arm(squares, bernoulli)(params, gates, buffers, key, x[:1]), Tensor)

assert_type(l0.expected_l0(gates, spec) + l0.expected_l2(params, gates, spec), Tensor)
assert_type(l0.summary(params, gates, spec).rows[0].name, str)
counts = l0.count_macs(fn, params, buffers, x[:1])
assert_type(counts.total, int)
assert_type(l0.expected_macs(gates, spec, counts), Tensor)
assert_type(l0.realised_macs(gates, spec, counts), int)


def loss(params: Named, gates: Named, buffers: Named, key: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The loss of README.md."""
    outputs = rows(params, gates, buffers, l0.random.split(key, len(x)), x)
    return F.cross_entropy(outputs, y) + l0.penalty(params, gates, spec, lam=2e-4)


adams = [l0.optimizer(torch.optim.Adam, lr=lr) for lr in (0.02, 0.1)]
init, step = l0.training(loss, *adams, average=0.9)
state = init(key, params, gates, buffers)
assert_type(state, l0.TrainState)
for _ in range(2):
    state, value = step(state, x, y)
    assert_type(value, Tensor)
assert_type(state.params["0.weight"], Tensor)
assert_type(state.averages["params"], Named)
assert_type(l0.prune(state.params, state.gates, spec), Named)
assert_type(l0.unstack(l0.stack([state, state])), list[l0.TrainState])
path = f"{tempfile.mkdtemp()}/state.safetensors"
l0.save_state(path, state, spec)
assert_type(l0.load_state(path, state, spec), l0.TrainState)


def loss_of_nested(
    params: Nested, gates: Named, buffers: None, key: Tensor, x: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss with metrics, of a nested tree."""
    masked = l0.apply_masks(params, l0.sample_masks(key, gates, of_nested))
    value = F.linear(x, masked["0"]["weight"], masked["0"]["bias"]).square().mean()
    return value, {"half": value / 2}


def price(params: Nested, gates: Named) -> Tensor:
    """A penalty."""
    return l0.penalty(params, gates, of_nested, lam=1e-3)


control = l0.lagrangian(of_nested, 0.5)
training = l0.training(
    loss_of_nested,
    *adams,
    penalty=price,
    clip=l0.clip_norm(1.0),
    control=control,
    has_aux=True,
)
nested_state = training.init(key, nested, l0.init_gates(key, of_nested), None)
assert_type(nested_state, l0.TrainState[Nested, Named, None])
nested_state, value, metrics = training.step(nested_state, x[:, :2])
assert_type(nested_state.params, Nested)
assert_type((value, metrics), tuple[Tensor, Any])

# The parts of a training, in a loop of one's own.
moved, moments = adams[0].update(params, adams[0].init(params), params, torch.tensor(0))
assert_type(moved, Named)
assert_type(moments["0.weight"], dict[str, Tensor | None] | None)
assert_type(l0.clip_norm(1.0)(params, gates), tuple[Named, Named])
held = l0.lagrangian(spec, 0.5)
assert_type(held.hold(held.init(gates), gates), Named)

# A smaller network.
groups = l0.unit_groups(mlp, x)
by_units = l0.gate_spec(params, groups=groups)
closed = {"0": torch.tensor([5.0, -5.0, 5.0, 5.0])}
assert_type(l0.refit(fn, params, closed, buffers, by_units, x), Named)
small = l0.compact(fn, params, closed, buffers, by_units)
assert_type(small.params, Named)
assert_type(l0.to_module(*small), nn.Module)
l0.save(path, params, closed, buffers, by_units)
assert_type(l0.load(path).gates, Named)

net = l0.L0Module(mlp, lam=2e-4, per_example=True, seed=0)
assert_type(net.regularization(), Tensor)
assert_type(net.weights(), Named)
