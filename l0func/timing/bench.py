"""The bench: smaller copies of a network, each timed in turn with a network of fixed size."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import nn

from l0func.pure.inputs import Inputs
from l0func.timing.clocks import Clock
from l0func.timing.layers import layer_times
from l0func.timing.networks import Networks, UnitCounts

_MOST_NETWORKS = 40
_FEWEST_NETWORKS = 20
_TURNS = 15
_FEWEST_TURNS = 3
_CALLS_IN_TURN = 1.5
"""A turn's time over that of one dense call: five calls of smaller networks."""


@contextmanager
def without_fast_path() -> Generator[None, None, None]:
    """A context where torch's encoder layers run written out, as those without heads do."""
    mha: Any = getattr(torch.backends, "mha", None)
    if mha is None:
        # torch 2.1 has no such switch.
        yield
        return
    was = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(was)


class TimedNetwork(NamedTuple):
    """A network of some size, its time and that of its layers, in milliseconds."""

    units: UnitCounts
    total: float
    layers: dict[str, float]


class _Turn(NamedTuple):
    """One time of a network relative to the reference's, and its layers' shares of it."""

    reference: float
    ratio: float
    shares: dict[str, float]


class Bench:
    """Times networks on inputs."""

    def __init__(self, networks: Networks, inputs: Inputs, clock: Clock) -> None:
        self._networks, self._inputs, self._clock = networks, inputs, clock

    def call(self, module: nn.Module) -> Any:
        """The module's output on copies of the inputs."""
        return self._ready(module)()

    def _ready(self, module: nn.Module) -> Callable[[], Any]:
        args, kwargs, *_ = self._inputs.copied()

        @torch.inference_mode()
        def call() -> Any:
            return module(*args, **kwargs)

        return call

    def runs(self, seconds: float) -> list[TimedNetwork]:
        """Networks of many sizes, timed for about so long."""
        dense = self._networks.function
        module = dense.fn.module(dense.params, dense.buffers)
        start = perf_counter()
        for _ in range(2):
            self._total(module)
        taken = _CALLS_IN_TURN * (perf_counter() - start) / 2
        affordable = int(seconds / taken)
        count = min(max(affordable // _FEWEST_TURNS, _FEWEST_NETWORKS), _MOST_NETWORKS)
        reference = self._networks.module(self._networks.uniform(0.5))
        found: list[tuple[UnitCounts, list[_Turn]]] = []
        start = perf_counter()
        for number, units in enumerate(self._networks.scattered(count), 1):
            until = start + seconds * number / count
            found.append((units, self._turns(units, reference, until)))
        unit = statistics.median(turn.reference for _, turns in found for turn in turns)
        return [_timed(units, turns, unit) for units, turns in found]

    def _turns(self, units: UnitCounts, reference: nn.Module, until: float) -> list[_Turn]:
        """Turns with one network until a time, within bounds of their number."""
        module = self._networks.module(units)
        self.call(module)
        turns: list[_Turn] = []
        while len(turns) < _FEWEST_TURNS or (len(turns) < _TURNS and perf_counter() < until):
            turns.append(self._turn(module, reference))
        return turns

    def _turn(self, module: nn.Module, reference: nn.Module) -> _Turn:
        self.call(reference)
        before = self._total(reference)
        self.call(module)
        total = self._total(module)
        layers = layer_times(module, self._ready(module), self._clock)
        whole = sum(layers.values())
        shares = {layer: ms / whole for layer, ms in layers.items()}
        return _Turn(before, total / before, shares)

    def _total(self, module: nn.Module) -> float:
        call = self._ready(module)
        self._clock.wait()
        start = self._clock.mark()
        call()
        (ms,) = self._clock.spans([start, self._clock.mark()])
        return ms


def _timed(units: UnitCounts, turns: Sequence[_Turn], unit: float) -> TimedNetwork:
    """The medians over turns; the layers' times add up to the whole."""
    total = unit * statistics.median(turn.ratio for turn in turns)
    layers = {layer for turn in turns for layer in turn.shares}
    shares: dict[str, float] = {}
    for layer in layers:
        shares[layer] = statistics.median(turn.shares.get(layer, 0.0) for turn in turns)
    whole = sum(shares.values())
    return TimedNetwork(
        units, total, {layer: total * share / whole for layer, share in shares.items()}
    )
