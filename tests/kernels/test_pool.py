"""Tiles on several threads: each runs once, errors and interrupts wait, and processes may fork."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from l0func.kernels.pool import LARGE, run_tiles

INTERRUPTED = """
import os, signal, threading, time, torch
from l0func.kernels.pool import LARGE, run_tiles

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off
torch.set_num_threads(3)
began, ended = [], []

def tile(i):
    began.append(i)
    time.sleep(0.3)
    ended.append(i)

def interrupt():
    # The second one comes while the first one waits.
    for _ in range(2):
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    run_tiles(tile, 1000, LARGE)
except KeyboardInterrupt:
    # This thread's own tile was interrupted; the two others had to end.
    raise SystemExit(0 if len(began) == 3 and len(ended) == 2 else 1)
raise SystemExit(2)
"""


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def threads_of(count: int, work: int) -> set[int]:
    """The threads that run tiles, where every thread has the time to take one."""
    seen: set[int] = set()

    def tile(_: int) -> None:
        seen.add(threading.get_ident())
        time.sleep(0.02)

    run_tiles(tile, count, work)
    return seen


@pytest.mark.parametrize("work", [0, LARGE - 1, LARGE, 10**12])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_every_tile_runs_exactly_once(count, work):
    ran: list[int] = []
    run_tiles(ran.append, count, work)
    assert sorted(ran) == list(range(count))


def test_large_work_runs_on_as_many_threads_as_torch_may_use():
    assert len(threads_of(12, LARGE)) == 3
    assert len(threads_of(2, LARGE)) == 2
    assert threads_of(12, LARGE - 1) == {threading.get_ident()}
    torch.set_num_threads(1)
    assert threads_of(12, LARGE) == {threading.get_ident()}


def test_no_thread_outlives_its_call():
    before = threading.active_count()
    threads_of(12, LARGE)
    assert threading.active_count() == before


@pytest.mark.parametrize("work", [0, LARGE])
def test_an_error_ends_the_call_after_the_tiles_that_run(work):
    running: set[int] = set()

    def tile(i: int) -> None:
        if i == 2:
            raise ZeroDivisionError("tile 2")
        running.add(i)
        time.sleep(0.05)
        running.remove(i)

    with pytest.raises(ZeroDivisionError, match="tile 2"):
        run_tiles(tile, 1000, work)
    assert not running


def test_an_interrupt_waits_until_no_thread_writes():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], check=False, timeout=60)
    assert done.returncode == 0


def test_eight_threads_may_call_at_once_and_from_inside_a_tile():
    def nested(_: int) -> int:
        inner: list[int] = []
        run_tiles(lambda i: run_tiles(inner.append, i + 1, LARGE), 4, LARGE)
        return len(inner)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(nested, range(40))) == [1 + 2 + 3 + 4] * 40


def test_one_thread_does_all_tiles_where_no_other_can_start(monkeypatch):
    def refused(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("l0func.kernels.pool.start_new_thread", refused)
    ran: list[int] = []
    run_tiles(ran.append, 20, LARGE)
    assert ran == list(range(20))
