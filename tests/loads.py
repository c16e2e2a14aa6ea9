"""Work that a program repeats for days, and what it holds meanwhile."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import l0func as l0
from l0func import random

Load = Callable[[int], Any]
"""A step, given its number."""

KEY = random.key(3)
X = random.normal(random.key(5), (4, 3))
ROWS = len(X)


class Held(NamedTuple):
    """What a process holds."""

    tensors: int
    objects: int
    files: int
    threads: int
    graphs: int
    kilobytes: int


def held() -> Held:
    """What this process holds now, without what only waits for the collector."""
    gc.collect()
    objects = gc.get_objects()
    tensors = sum(issubclass(type(each), Tensor) for each in objects)
    # Not imported for this: that would be a load of its own.
    compiler = sys.modules.get("torch._dynamo.utils")
    graphs = 0 if compiler is None else compiler.counters["stats"]["unique_graphs"]
    files = len(list(Path("/proc/self/fd").iterdir()))
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    kilobytes, threads = (int(status[name].split()[0]) for name in ("VmRSS", "Threads"))
    assert threads >= threading.active_count()
    return Held(tensors, len(objects), files, threads, graphs, kilobytes)


def network() -> tuple[Any, Any, Any, Any]:
    """A function of one layer, its params, its gates and their spec."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fn, params, _ = l0.make_functional(nn.Linear(3, 2, bias=False))
    spec = l0.gate_spec(params)
    return fn, params, l0.init_gates(random.key(0), spec), spec


def batch(number: int) -> Tensor:
    """The inputs of a step; they change."""
    return X * (1 + number % 7)


def draws(folder: Path) -> Load:
    """Keys split and folded, and drawn from."""

    def step(number: int) -> None:
        key = random.fold_in(KEY, torch.tensor(number))
        one, two, three = random.split(random.fold_in(key, number), 3)
        random.uniform(one, (5, 3))
        random.normal(two, (4,))
        random.row_keys(three, torch.arange(ROWS))

    return step


def by_hand(run: Callable[..., Tensor], net: tuple[Any, Any, Any, Any]) -> Load:
    """Steps of plain gradient descent on the params and gates of a gated function."""
    _, params, gates, spec = net
    (path,), (name,) = params, gates
    leaves = [t.detach().requires_grad_() for t in (params[path], gates[name])]

    def step(number: int) -> None:
        own, locations = {path: leaves[0]}, {name: leaves[1]}
        output = run(own, locations, {}, random.fold_in(KEY, number), batch(number))
        loss = output.square().mean() + l0.penalty(own, locations, spec, 1e-3)
        grads = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            for leaf, grad in zip(leaves, grads, strict=True):
                leaf -= 1e-3 * grad

    return step


def gated(folder: Path) -> Load:
    """One mask for the batch."""
    net = network()
    return by_hand(l0.gated(net[0], net[3]), net)


def per_example(folder: Path) -> Load:
    """A mask for every example."""
    net = network()
    rows = l0.per_example(l0.gated(net[0], net[3]))

    def run(params: Any, gates: Any, buffers: Any, key: Tensor, x: Tensor) -> Tensor:
        return rows(params, gates, buffers, random.split(key, len(x)), x)

    return by_hand(run, net)


def module(folder: Path) -> Load:
    """An L0Module that torch's Adam trains; at times it is evaluated."""
    net = l0.L0Module(nn.Linear(3, 2, bias=False), 1e-3, seed=0)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step(number: int) -> None:
        adam.zero_grad()
        (net(batch(number)).square().mean() + net.regularization()).backward()
        adam.step()
        if number % 50 == 0:
            net.eval()(X)
            net.train()

    return step


def training_of(**settings: Any) -> tuple[Any, Any, Any]:
    """A training with a controller, an average and a clip; its first state; and the spec."""
    fn, params, gates, spec = network()
    apply = l0.gated(fn, spec)

    def loss(params: Any, gates: Any, buffers: Any, key: Tensor, x: Tensor) -> Tensor:
        return apply(params, gates, buffers, key, x).square().mean()

    adam = l0.optimizer(torch.optim.Adam, lr=1e-3)
    clip, control = l0.clip_norm(1.0), l0.lagrangian(spec, 0.5)
    training = l0.training(loss, adam, adam, clip=clip, control=control, average=0.9, **settings)
    return training, training.init(KEY, params, gates, {}), spec


def control(folder: Path) -> Load:
    """Training with everything; at times the state is saved and read."""
    training, first, spec = training_of()
    state = [first]

    def step(number: int) -> None:
        state[0], _ = training.step(state[0], batch(number))
        if number % 50 == 0:
            l0.save_state(folder / "state", state[0], spec)
            state[0] = l0.load_state(folder / "state", first, spec)

    return step


def compiled(folder: Path) -> Load:
    """The same training with a compiled gradient."""
    training, first, _ = training_of(compile=True)
    state = [first]

    def step(number: int) -> None:
        state[0], _ = training.step(state[0], batch(number))

    return step


def annealed(folder: Path) -> Load:
    """Gates with another temperature every fifth step."""
    fn, params, gates, spec = network()

    def step(number: int) -> Tensor:
        gate = l0.HardConcrete(temperature=0.9 - (number // 5) * 1e-6)
        run = l0.gated(fn, spec.with_distribution(gate))
        return run(params, gates, {}, random.fold_in(KEY, number), X)

    return step


EVERY_DAY = (draws, gated, per_example, module, control)
LOADS = (*EVERY_DAY, compiled, annealed)
