"""FSDP2 and tensor parallelism on layers inside an L0Module, and over the whole of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import l0func as l0

pytest.importorskip("shards_here")

from one_mesh import mesh_of
from processes import processes
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

untyped_distributed: Any = distributed
X = torch.linspace(-1, 1, 12 * 6).reshape(12, 6)
Y = torch.arange(12) % 3
PLAN = {"0": ColwiseParallel(), "2": RowwiseParallel()}


def _net(**settings: Any) -> l0.L0Module:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    rules = {"0.weight": [l0.axis(0), l0.element()], "2.weight": l0.axis(1)}
    settings = {"weight_decay": 0.01, **settings}
    return l0.L0Module(net, lam=1e-3, rules=rules, seed=0, rank=0, **settings)


def _loss_and_slopes(net: Any, x: Any, y: Any) -> tuple[float, dict[str, Any]]:
    """The loss of a second forward, so that the first one's traces would show."""
    with torch.no_grad():
        net(x)
    loss = F.cross_entropy(net(x), y) + net.regularization()
    loss.backward()
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return float(loss.detach()), {name: g.tolist() for name, g in l0.gather(grads).items()}


def _sharded(way: str, size: int) -> Any:
    net = _net()
    mesh = mesh_of((size,))
    layers: Any = net.module
    if way in ("layers", "layers and whole"):
        fully_shard(layers[0], mesh=mesh)
        fully_shard(layers[2], mesh=mesh)
    if way == "block":
        fully_shard(layers, mesh=mesh)
    if way in ("layers and whole", "whole"):
        fully_shard(net, mesh=mesh)
    if way == "tensor parallel":
        parallelize_module(layers, mesh, PLAN)
    return net


def _check_way(way: str, size: int) -> tuple[float, dict[str, Any], Any]:
    net = _sharded(way, size)
    rank = untyped_distributed.get_rank()
    rows = slice(None) if way == "tensor parallel" else slice(rank, None, size)
    loss, slopes = _loss_and_slopes(net, X[rows], Y[rows])
    total = torch.tensor(loss)
    untyped_distributed.all_reduce(total)
    if "whole" not in way and way != "tensor parallel":
        # What FSDP was not given, it does not reduce: the gates are the caller's.
        for name in list(slopes):
            if "log_alpha" in name:
                own = torch.tensor(slopes[name])
                untyped_distributed.all_reduce(own)
                slopes[name] = (own / size).tolist()
    net.eval()
    return float(total) / size, slopes, net(X).tolist()


WAYS = ("layers", "block", "whole", "layers and whole", "tensor parallel")


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_losses_gradients_and_eval_outputs_are_those_of_one_process(way, size):
    net = _net()
    loss, slopes = _loss_and_slopes(net, X, Y)
    net.eval()
    output = net(X)
    for own_loss, own_slopes, own_output in processes(size).run(_check_way, way, size):
        assert abs(own_loss - loss) < 1e-6
        assert own_slopes.keys() == slopes.keys()
        for name, slope in slopes.items():
            own = torch.tensor(own_slopes[name])
            torch.testing.assert_close(own, torch.tensor(slope), atol=1e-6, rtol=0, msg=name)
        torch.testing.assert_close(torch.tensor(own_output), output, atol=1e-6, rtol=0)


def _check_refusals(way: str) -> str:
    net = _sharded(way, 2)
    net.per_example = True
    with pytest.raises(ValueError, match=r"torch\.vmap takes no DTensors"):
        net(X)
    with pytest.raises(ValueError, match=r"copy\.load_state_dict\(l0func\.gather"):
        net.compacted()
    whole = _net(droprate_init=0.4)
    assert not torch.equal(whole.gates()["2.weight"], _net().gates()["2.weight"])
    whole.load_state_dict(l0.gather(net.state_dict()))
    for name, gate in _net().gates().items():
        assert torch.equal(whole.gates()[name], gate)
    for path, p in _net().weights().items():
        assert torch.equal(whole.weights()[path], p)
    return "refused"


@pytest.mark.parametrize("way", ["layers", "tensor parallel"])
def test_rows_and_compacting_are_refused_and_gather_is_the_way(way):
    assert processes(2).run(_check_refusals, way) == ["refused"] * 2
