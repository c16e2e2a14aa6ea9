"""Runs of one network for distributed.py: under DDP, FSDP2, tensor parallelism, and alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F

import l0func as l0

LAM = 1e-5
RULES = {"*weight": l0.element(), "*bias": None}
RATES = {"params": 0.1, "gates": 1.0}
PLAN = {"0": ColwiseParallel(), "2": RowwiseParallel()}


def network() -> nn.Module:
    """An MLP for digits."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))


class ModuleRun:
    """An L0Module in a plain loop, where each rank has some rows of a batch.

    Under DDP every row has masks of its own; under FSDP2 a batch shares one mask, because
    torch.vmap, which maps over rows, takes no DTensors.
    """

    def __init__(self, module: nn.Module, way: str, mesh: Any) -> None:
        self.net: Any = l0.L0Module(module, LAM, rules=RULES, per_example=way == "DDP", seed=0)
        self.forward = self.net
        self.rank, self.size = (0, 1) if mesh is None else (mesh.get_rank(), mesh.size())
        if way == "DDP" and mesh is not None:
            # Otherwise the second step of a launch moves gradients within their bucket, and more
            # than two ranks then sum them in another order: a relaunch has other last bits.
            ddp = nn.parallel.DistributedDataParallel
            self.forward = ddp(self.net, find_unused_parameters=True)
        elif mesh is not None:
            layers = [layer for layer in self.net.module if isinstance(layer, nn.Linear)]
            for part in (*layers, self.net):
                fully_shard(part, mesh=mesh)
        self.spec = self.net.spec
        rates = zip((self.net.weights(), self.net.gates()), RATES.values(), strict=True)
        groups = [{"params": list(tree.values()), "lr": lr} for tree, lr in rates]
        self.sgd = torch.optim.SGD(groups, momentum=0.9)

    def output(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output for this rank's rows, and their numbers in the batch."""
        rows = torch.arange(len(x))[self.rank :: self.size]
        numbers = {"rows": rows} if self.net.per_example else {}
        return self.forward(x[rows], **numbers), rows

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """This rank's share of the loss before the step; the mean over ranks is the loss."""
        output, rows = self.output(x)
        # Both engines average over ranks, and a rank counts as much as it has rows.
        loss = F.cross_entropy(output, y[rows], reduction="sum") * self.size / len(x)
        (loss + self.net.regularization()).backward()
        self.sgd.step()
        self.sgd.zero_grad()
        return loss.detach()

    @property
    def state(self) -> l0.TrainState:
        """The run as a training state; its leaves are the module's own tensors."""
        trees = {"params": self.net.weights(), "gates": self.net.gates()}
        moments: dict[str, Any] = {}
        for part, tree in trees.items():
            # Before its first step the optimizer does not say what it will remember.
            moments[part] = {name: dict(self.sgd.state[p]) or None for name, p in tree.items()}
        step = torch.tensor(self.net.draws)
        rest: dict[str, Any] = {"buffers": {}, "averages": {}, "control": None}
        return l0.TrainState(step, self.net.key, **trees, moments=moments, **rest)

    @state.setter
    @torch.no_grad()
    def state(self, saved: l0.TrainState) -> None:
        for part, moments in saved.moments.items():
            for name, p in getattr(self.state, part).items():
                p.copy_(getattr(saved, part)[name])
                self.sgd.state[p] = moments[name]
        self.net.key, self.net.draws = saved.key, int(saved.step)


class PureRun:
    """Pure functions of parameters that tensor parallelism laid out, and gates as they are.

    Every rank has all rows, and holds, draws and moves the gates of its own weights alone.
    """

    def __init__(self, module: nn.Module, way: str, mesh: Any) -> None:
        if mesh is not None:
            parallelize_module(module, mesh, PLAN)
        fn, params, buffers = l0.make_functional(module)
        self.spec = l0.gate_spec(params, RULES)
        gates = l0.init_gates(l0.random.key(0), self.spec)
        placed = l0.place_gates(self.spec, params, gates)
        self.apply = l0.gated(fn, self.spec)
        sgds = [l0.optimizer(torch.optim.SGD, lr=lr, momentum=0.9) for lr in RATES.values()]
        init, self.update = l0.training(self.loss, *sgds, penalty=self.penalty)
        self.state = init(l0.random.key(1), params, placed, buffers)

    def loss(self, params: Any, gates: Any, buffers: Any, key: Tensor, *batch: Tensor) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.apply(params, gates, buffers, key, x), y)

    def penalty(self, params: Any, gates: Any) -> Tensor:
        return l0.penalty(params, gates, self.spec, lam=LAM)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss before the step."""
        self.state, loss = self.update(self.state, x, y)
        return loss


WAYS: dict[str, Any] = {"DDP": ModuleRun, "FSDP2": ModuleRun, "TP": PureRun}


def masks(way: str, mesh: Any) -> Tensor:
    """The first masks of a layer, as this rank's forward multiplies them."""
    if way == "TP":
        run = PureRun(network(), way, mesh)
        key = run.state.key_of(0)
        return l0.gather(l0.sample_masks(key, run.state.gates, run.spec))["0.weight"]
    # A layer of ones shows them: of a unit vector it makes a column of the mask.
    layer = nn.Linear(64, 96)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    run = ModuleRun(nn.Sequential(layer), way, mesh)
    with torch.no_grad():
        return run.output(torch.eye(64))[0]


def masks_are_equal(way: str, mesh: Any) -> bool:
    """Whether this rank's first masks are those of one process, bit for bit."""
    own, whole = masks(way, mesh), masks(way, None)
    if len(own) < len(whole):
        whole = whole[mesh.get_rank() :: mesh.size()]
    return torch.equal(own, whole)
