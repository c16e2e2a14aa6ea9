"""What gates cost a process in each layout, measured: bytes held, and collectives of a step."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from typing import Any

import torch
from one_mesh import mesh_of
from sent import Message, Sent
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import l0func as l0

RULES: dict[str, Any] = {"element": l0.element(), "rows": l0.axis(0), "columns": l0.axis(1)}
untyped_distributed: Any = distributed


def held_and_sent(
    layout: str, rules: list[str], shape: tuple[int, int]
) -> list[tuple[int, int, list[tuple[str, int]]]]:
    """For a weight of this shape, gated by each rule: the cost of its gates.

    Returns:
        The bytes that this process holds; the difference in the number of collectives of a step;
        and the kind and the bytes of each collective that is new or larger.
    """
    step = {"reduce": _reduced}.get(layout, _module_step if layout in MODULES else _placed)
    _, without, plain_count = step(layout, None, shape)
    found: list[Any] = []
    for rule in rules:
        held, with_gates, count = step(layout, RULES[rule], shape)
        found.append((held, count - plain_count, _added(with_gates, without)))
    return found


def _added(messages: list[Message], without: list[Message]) -> list[tuple[str, int]]:
    """The bytes that messages have more, by kind."""
    sizes: Counter[str] = Counter()
    for sign, own in ((1, messages), (-1, without)):
        for message in own:
            sizes[message.kind] += sign * message.size
    return sorted((kind, size) for kind, size in sizes.items() if size)


def _bytes(t: torch.Tensor) -> int:
    own: Any = t.to_local() if isinstance(t, DTensor) else t
    return own.numel() * own.element_size()


def _held_for(gates: list[Any]) -> int:
    """The bytes of gates, their gradients and Adam's moments after a step."""
    adam = torch.optim.Adam(gates, lr=0.01, foreach=False)
    adam.step()
    total = 0
    for gate in gates:
        moments = [adam.state[gate][name] for name in ("exp_avg", "exp_avg_sq")]
        total += sum(map(_bytes, (gate, gate.grad, *moments)))
    return total


MODULES = ("ddp", "whole", "layers", "parallel")


def _module_step(layout: str, rule: Any, shape: tuple[int, int]) -> Any:
    torch.manual_seed(0)
    layers: Any = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False))
    net: Any = layers
    if rule is not None:
        net = l0.L0Module(layers, lam=1e-3, rules={"*": rule}, seed=0, rank=0)
        layers = net.module
    mesh = mesh_of((distributed.get_world_size(),))
    run: Any = nn.parallel.DistributedDataParallel(net) if layout == "ddp" else net
    if layout == "layers":
        fully_shard(layers[0], mesh=mesh)
    if layout in ("layers", "whole"):
        fully_shard(net, mesh=mesh)
    if layout == "parallel":
        parallelize_module(layers, mesh, {"0": ColwiseParallel()})

    if layout == "ddp":
        # DistributedDataParallel rebuilds its buckets after the first step.
        _backward(run, net, shape)
        net.zero_grad()
    with CommDebugMode() as counts, Sent() as sent:
        _backward(run, net, shape)
    held = 0 if rule is None else _held_for(list(net.gates().values()))
    del run
    gc.collect()
    return held, sent.messages, _moving(counts)


def _backward(run: Any, net: Any, shape: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        # torch warns of writes into a layer's output, which is a view; nothing writes here.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module")
        loss = run(torch.ones(2, shape[1])).square().sum()
    if isinstance(net, l0.L0Module):
        # After forward, where FSDP has the gates whole: before it, their sums are collectives.
        loss = loss + net.regularization()
    with warnings.catch_warnings():
        # CommDebugMode hooks every module, and torch warns of its hook where x has no gradient.
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        loss.backward()


def _moving(counts: Any) -> int:
    """The collectives that CommDebugMode saw, without DistributedDataParallel's first numbers."""
    seen = {str(op): n for op, n in counts.get_comm_counts().items()}
    return sum(n for op, n in seen.items() if "broadcast" not in op)


MESHES: dict[str, Any] = {
    "placed": ((-1,), [Shard(0)]),
    "copies": ((2, -1), [Replicate(), Shard(0)]),
    "square": ((2, -1), [Shard(0), Shard(1)]),
}


def _placed(layout: str, rule: Any, shape: tuple[int, int]) -> Any:
    if rule is None:
        # The gates' own collectives are all that there are: the loss needs none.
        return 0, [], 0
    sizes, placements = MESHES[layout]
    count = distributed.get_world_size() // (2 if len(sizes) > 1 else 1)
    mesh = mesh_of(tuple(count if n < 0 else n for n in sizes))
    weight = distribute_tensor(torch.ones(shape), mesh, placements, src_data_rank=None)
    spec = l0.gate_spec({"w": torch.ones(shape)}, {"w": rule})
    gates = l0.place_gates(spec, {"w": weight}, l0.init_gates(l0.random.key(0), spec))
    leaves = {name: t.detach().requires_grad_() for name, t in gates.items()}
    with CommDebugMode() as counts, Sent() as sent:
        masked: Any = l0.apply_masks(
            {"w": weight}, l0.sample_masks(l0.random.key(1), leaves, spec)
        )
        masked["w"].to_local().square().sum().backward()
    return _held_for(list(leaves.values())), sent.messages, _moving(counts)


def _reduced(layout: str, rule: Any, shape: tuple[int, int]) -> Any:
    params = {"w": torch.ones(shape)}
    spec = l0.gate_spec(params, {"w": rule})
    gates = l0.init_gates(l0.random.key(0), spec)
    slopes: list[Any] = []

    def loss(params: Any, gates: Any, buffers: Any, key: Any, x: Any) -> Any:
        masked: Any = l0.apply_masks(params, l0.sample_masks(key, gates, spec))
        return (x @ masked["w"].T).square().mean()

    def clip(weights: Any, gates: Any) -> Any:
        slopes.extend(gates.values())
        return weights, gates

    adam = l0.optimizer(torch.optim.Adam, lr=0.01)
    init, step = l0.training(loss, adam, adam, reduce=l0.all_reduce_mean, clip=clip)
    state = init(l0.random.key(1), params, gates, {})
    with CommDebugMode() as counts, Sent() as sent:
        state, _ = step(state, torch.ones(2, shape[1]))
    held = sum(map(_bytes, [*state.gates.values(), *slopes]))
    for moments in state.moments["gates"].values():
        held += sum(_bytes(moments[name]) for name in ("exp_avg", "exp_avg_sq"))
    return held, sent.messages, _moving(counts)
