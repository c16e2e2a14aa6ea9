"""Held under load: a training of many steps holds at its end what it held early on."""

from __future__ import annotations

import gc
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from loads import EVERY_DAY, LOADS, Held, annealed, held

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="what a process holds is read from /proc"
)


def check_flat(early: Held, late: Held) -> None:
    """A process holds no more than before."""
    assert late.tensors <= early.tensors
    assert late.files <= early.files
    assert late.threads <= early.threads
    assert late.graphs <= early.graphs
    # An interpreter makes and drops a few of its own.
    assert late.objects <= early.objects + 20
    assert late.kilobytes <= early.kilobytes + 4096


def test_a_hundred_steps_leave_nothing_behind(tmp_path):
    steps = [load(tmp_path) for load in EVERY_DAY]
    for number in range(101):
        for step in steps:
            step(number)
        if number == 50:
            early = held()
    check_flat(early, held())


def held_early_and_late(name: str, folder: Path) -> tuple[Held, Held, float]:
    """What 100,000 steps of a load hold early and at the end, and their seconds."""
    load = next(load for load in LOADS if load.__name__ == name)
    step, begun = load(folder), time.process_time()
    # The last 1,024 distributions are kept; five steps share one.
    settled = 6_000 if load is annealed else 1_000
    for number in range(100_000):
        step(number)
        if number == settled:
            early = held()
        if number % 1_000 == 0:
            # The memory of a process does not fall again after what waits for the collector.
            gc.collect()
    return early, held(), time.process_time() - begun


@pytest.mark.slow
@pytest.mark.parametrize("name", [load.__name__ for load in LOADS])
def test_a_hundred_thousand_steps_leave_nothing_behind(name, tmp_path):
    # In a process of its own: what an earlier load leaves free, the allocator fills unevenly.
    with get_context("spawn").Pool(1) as pool:
        early, late, seconds = pool.apply(held_early_and_late, (name, tmp_path))
    print(f"\n{name}, {seconds:.0f} s of CPU:\n  {early}\n  {late}")
    check_flat(early, late)
