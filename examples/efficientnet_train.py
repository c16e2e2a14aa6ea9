"""Training a network as it is, or behind gates; and the exact cut of its closed channels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from efficientnet_network import Data
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import l0func as l0

Tensors = dict[str, Tensor]
BATCH = 32
WEIGHTS_LR, GATES_LR = 1e-3, 0.2


class Steps(NamedTuple):
    """The training steps before the cuts, before and after each cut; and the calls to time."""

    dense: int
    gates: int
    tune: int
    timed: int


class Work(NamedTuple):
    """All that stays the same during a run."""

    data: Data
    device: str
    seed: int
    steps: Steps

    def images(self) -> Tensor:
        """A few test images, to trace and to compare networks with."""
        return self.data.x_test[:64].to(self.device)


class Gated(NamedTuple):
    """Gates on the channels of a network."""

    groups: l0.UnitGroups
    spec: l0.GateSpec
    counts: l0.MacCounts
    """Multiply-adds of one image."""


def channels(module: nn.Module, images: Tensor) -> Gated:
    """A gate for each channel that can go. A residual stream's channels go in all its blocks."""
    fn, params, buffers = l0.make_functional(module.eval())
    groups = l0.unit_groups(module, images[:2])
    spec = l0.gate_spec(params, groups=groups, buffers=buffers)
    return Gated(groups, spec, l0.count_macs(fn, params, buffers, images[:1]))


def trained(
    module: nn.Module,
    work: Work,
    steps: int,
    title: str,
    spec: l0.GateSpec | None = None,
    gates: Tensors | None = None,
    control: l0.Lagrangian | None = None,
) -> l0.TrainState:
    """The state after Adam on shifted images. BatchNorm sees the batch under its sampled gates."""
    # Depthwise convolutions on a CPU train twice as fast in this memory format.
    module = module.train().to(memory_format=torch.channels_last)
    fn, params, buffers = l0.make_functional(module)
    spec = spec or l0.gate_spec(params, {"*": None})
    params = l0.compensate(params, gates, spec) if gates else params
    apply = l0.gated(fn, spec)

    def loss(
        params: Tensors, gates: Tensors, buffers: Tensors, key: Tensor, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensors]:
        logits, buffers = apply.with_buffers(params, gates, buffers, key, x)
        return F.cross_entropy(logits, y), buffers

    half = (steps + 1) // 2
    rate = l0.schedules.cosine(WEIGHTS_LR, WEIGHTS_LR / 100, half, begin=steps - half)
    adams = [l0.optimizer(torch.optim.Adam, lr=lr, fused=True) for lr in (rate, GATES_LR)]
    init, step = l0.training(loss, *adams, control=control, donate=True)
    order_key, shift_key, gates_key = l0.random.split(l0.random.key(work.seed), 3)
    state = init(gates_key.to(work.device), params, gates or {}, buffers)
    for number in tqdm(range(steps), desc=title, unit="step", mininterval=1):
        order = l0.random.uniform(l0.random.fold_in(order_key, number), len(work.data.x))
        shifts = l0.random.fold_in(shift_key, number)
        x, y = work.data.batch(order.topk(BATCH).indices, shifts)
        state, _ = step(state, x.to(work.device), y.to(work.device))
    return state


def tuned(module: nn.Module, work: Work, steps: int, title: str) -> nn.Module:
    """The module after training without gates."""
    state = trained(module, work, steps, title)
    fn, _, _ = l0.make_functional(module.eval())
    return l0.to_module(fn, state.params, state.buffers)


class Cut(NamedTuple):
    """A network without its closed channels."""

    small: nn.Module
    widths: dict[str, int]
    """The channels of each group that stay."""
    channels: dict[str, int]
    """The channels of each group."""
    difference: float
    """The largest difference from the masked network's logits, as a share of the largest."""


def cut(
    module: nn.Module, params: Tensors, gates: Tensors, buffers: Tensors, gated: Gated, x: Tensor
) -> Cut:
    """The closed channels leave the network. It computes what it computes with zeros there."""
    fn, _, _ = l0.make_functional(module.eval())
    # The examples show the blocks on a residual stream, which may end as a whole.
    pure = l0.compact(fn, params, gates, buffers, gated.spec, example_inputs=x[:2])
    with torch.no_grad():
        masked = fn(l0.prune(params, gates, gated.spec), buffers, x)
        error = masked - pure.fn(pure.params, pure.buffers, x)
    difference = float(error.abs().max() / masked.abs().max())
    return Cut(l0.to_module(*pure), widths(gates, gated.spec), gated.groups.sizes, difference)


def widths(gates: Tensors, spec: l0.GateSpec) -> dict[str, int]:
    """The channels of each group that stay."""
    opens = {gate.name: gate.distribution.deterministic(gates[gate.name]) for gate in spec.gates}
    return {name: int((z != 0).sum()) for name, z in opens.items()}
