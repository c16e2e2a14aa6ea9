"""FSDP2 over tensor parallelism inside an L0Module, on a mesh of two by two processes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

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
RULES = {
    "0.weight": [l0.axis(0), l0.element()],
    "0.bias": l0.element(),
    "2.weight": [l0.axis(1), l0.element()],
}


def _net() -> l0.L0Module:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return l0.L0Module(layers, lam=1e-3, rules=RULES, seed=0, rank=0)


def _laid_out(way: str) -> Any:
    net = _net()
    mesh = mesh_of((2, 2), ("data", "tensor"))
    layers: Any = net.module
    parallelize_module(layers, mesh["tensor"], PLAN)
    if way in ("layers", "layers and whole"):
        fully_shard(layers[0], mesh=mesh["data"])
        fully_shard(layers[2], mesh=mesh["data"])
    if way == "block":
        fully_shard(layers, mesh=mesh["data"])
    if way in ("layers and whole", "whole"):
        fully_shard(net, mesh=mesh["data"])
    return net


class _Products(TorchFunctionMode):
    """Notes the weights of all linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            self.weights.append(args[1].detach().clone())
        return func(*args, **kwargs or {})


def _steps(net: l0.L0Module, x: Any, y: Any) -> tuple[float, list[Any], dict[str, Any]]:
    """The loss, masked weights and slopes of a second forward: the first one's traces show."""
    with torch.no_grad():
        net(x)
    with _Products() as products:
        output = net(x)
    loss = F.cross_entropy(output, y) + net.regularization()
    loss.backward()
    masked = [t.tolist() for t in l0.gather(products.weights)]
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    slopes = {name: g.tolist() for name, g in l0.gather(grads).items()}
    return float(loss.detach()), masked, slopes


def _check(way: str) -> tuple[float, list[Any], dict[str, Any], Any]:
    with warnings.catch_warnings():
        # torch warns of the views that its own tensor parallelism returns.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module")
        return _checked(way)


def _checked(way: str) -> tuple[float, list[Any], dict[str, Any], Any]:
    net = _laid_out(way)
    data = untyped_distributed.get_rank() // 2
    loss, masked, slopes = _steps(net, X[data::2], Y[data::2])
    losses = torch.tensor(loss)
    untyped_distributed.all_reduce(losses)
    if "whole" not in way:
        # What FSDP was not given, it does not reduce: the gates are the caller's.
        for name in [name for name in slopes if "log_alpha" in name]:
            own = torch.tensor(slopes[name])
            untyped_distributed.all_reduce(own)
            slopes[name] = (own / 4).tolist()
    net.eval()
    return float(losses) / 4, masked, slopes, net(X).tolist()


@pytest.mark.parametrize("way", ["layers", "block", "whole", "layers and whole"])
def test_masks_are_those_of_one_process_and_so_are_losses_gradients_and_eval_outputs(way):
    net = _net()
    loss, masked, slopes = _steps(net, X, Y)
    assert any(number == 0 for row in masked[0] for number in row)
    net.eval()
    output = net(X)
    for own_loss, own_masked, own_slopes, own_output in processes(4).run(_check, way):
        assert own_masked == masked
        assert abs(own_loss - loss) < 1e-6
        assert own_slopes.keys() == slopes.keys()
        for name, slope in slopes.items():
            own = torch.tensor(own_slopes[name])
            torch.testing.assert_close(own, torch.tensor(slope), atol=1e-6, rtol=0, msg=name)
        torch.testing.assert_close(torch.tensor(own_output), output, atol=1e-6, rtol=0)
