"""Held under load: a training of many steps holds at its end what it held early on."""

from __future__ import annotations

import time
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


@pytest.mark.slow
@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.__name__)
def test_a_hundred_thousand_steps_leave_nothing_behind(load, tmp_path):
    step, begun = load(tmp_path), time.process_time()
    # The last 1,024 distributions are kept; five steps share one.
    settled = 6_000 if load is annealed else 1_000
    for number in range(100_000):
        step(number)
        if number == settled:
            early = held()
    late = held()
    seconds = time.process_time() - begun
    print(f"\n{load.__name__}, {seconds:.0f} s of CPU:\n  {early}\n  {late}")
    check_flat(early, late)
