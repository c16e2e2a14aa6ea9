"""The gates of an L0Module under tensor parallelism, laid out by place_gates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import l0func as l0

pytest.importorskip("shards_here")

from one_mesh import mesh_of
from processes import processes
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

X = torch.linspace(-1, 1, 12 * 6).reshape(12, 6)
Y = torch.arange(12) % 3
PLAN = {"0": ColwiseParallel(), "2": RowwiseParallel()}
RULES = {
    "0.weight": [l0.axis(0), l0.element()],
    "0.bias": l0.element(),
    "2.weight": [l0.axis(1), l0.axis(0), l0.element()],
}


def _net() -> l0.L0Module:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    return l0.L0Module(layers, lam=1e-3, weight_decay=1e-2, rules=RULES, seed=0, rank=0)


def _trained(net: l0.L0Module) -> tuple[Any, Any, Any]:
    """The losses of three steps, the gates behind them and the fixed outputs."""
    sgd = torch.optim.SGD([*net.gates().values(), *net.weights().values()], 0.5, foreach=False)
    losses: list[float] = []
    for _ in range(3):
        loss = F.cross_entropy(net(X), Y) + net.regularization()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(float(loss.detach()))
    net.eval()
    state = {name: t.tolist() for name, t in l0.gather(net.state_dict()).items()}
    return losses, state, net(X).tolist()


def _check(size: int) -> tuple[Any, Any, Any, int]:
    net = _net()
    mesh = mesh_of((size,))
    layers: Any = net.module
    parallelize_module(layers, mesh, PLAN)
    net.place_gates()
    gates: Any = net.gates()
    assert all(isinstance(t, DTensor) for t in gates.values())
    net.place_gates()
    assert all(net.gates()[name] is t for name, t in gates.items())
    held = sum(t.to_local().numel() for t in gates.values())
    masks: Any = l0.sample_masks(net.key_of(1), gates, net.spec)
    whole = _net()
    wanted = l0.sample_masks(whole.key_of(1), whole.gates(), whole.spec)
    for path, mask in wanted.items():
        assert torch.equal(l0.gather(masks[path]), mask)
    return *_trained(net), held


@pytest.mark.parametrize("size", [2, 3])
def test_training_is_that_of_one_process_and_each_holds_its_part(size):
    losses, state, output = _trained(_net())
    answers = processes(size).run(_check, size)
    for own_losses, own_state, own_output, _ in answers:
        torch.testing.assert_close(own_losses, losses, atol=1e-6, rtol=0)
        assert own_state.keys() == state.keys()
        for name, values in state.items():
            mine = torch.tensor(own_state[name])
            torch.testing.assert_close(mine, torch.tensor(values), atol=2e-6, rtol=0, msg=name)
        mine = torch.tensor(own_output)
        torch.testing.assert_close(mine, torch.tensor(output), atol=2e-6, rtol=0)
    # All have the three gates on output rows; the others are shared out.
    total = 3 + 6 + 36 + 6 + 6 + 18
    assert sum(held for *_, held in answers) == total + 3 * (size - 1)


def _refused() -> str:
    net = _net()
    layers: Any = net.module
    fully_shard(layers[0], mesh=mesh_of((2,)))
    with pytest.raises(ValueError, match=r"'module\.0'.*\n?.*fully_shard\(net\)"):
        net.place_gates()
    return "refused"


def test_layers_of_fully_shard_are_refused_by_name():
    assert processes(2).run(_refused) == ["refused"] * 2


def test_gates_of_a_plain_module_stay_as_they_are():
    net = _net()
    gates = net.gates()
    net.place_gates()
    assert all(net.gates()[name] is t for name, t in gates.items())
