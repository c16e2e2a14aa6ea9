"""Clocks for the functions in a forward: marks, and the milliseconds between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from time import perf_counter
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """A clock that makes marks and tells the time between them."""

    def wait(self) -> None:
        """Return when the device has nothing left to do."""
        ...

    def mark(self) -> Any:
        """A mark for now."""
        ...

    def spans(self, marks: Sequence[Any], /) -> list[float]:
        """The milliseconds between each mark and the next."""
        ...


class WallClock:
    """The processor's clock on the wall."""

    def wait(self) -> None:
        """A processor has nothing left to do when a call returns."""

    def mark(self) -> float:
        """Seconds."""
        return perf_counter()

    def spans(self, marks: Sequence[float], /) -> list[float]:
        """The milliseconds between each mark and the next."""
        return [1000 * (after - before) for before, after in pairwise(marks)]


class CudaClock:
    """Events in the current stream of a GPU: nothing waits until the spans are read.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def wait(self) -> None:
        """Return when the GPU is idle: launches then take their time, as in a single call."""
        torch.cuda.synchronize(self._device)

    def mark(self) -> torch.cuda.Event:
        """An event that the GPU passes once everything before it has run."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def spans(self, marks: Sequence[torch.cuda.Event], /) -> list[float]:
        """The milliseconds between each mark and the next."""
        self.wait()
        return [before.elapsed_time(after) for before, after in pairwise(marks)]


def clock_on(device: torch.device) -> Clock:
    """The clock for a device.

    Raises:
        ValueError: There is none.
    """
    if device.type == "cpu":
        return WallClock()
    if device.type == "cuda":
        return CudaClock(device)
    raise ValueError(
        f"Times are measured on the CPU and on CUDA devices; the module is on {device}. Move the "
        "module and the inputs: module.to('cpu')."
    )
