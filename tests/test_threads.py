"""Eight threads at once, and processes forked from them, compute what one thread does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.fsdp as fsdp
from comparing import equal
from device import INITIALISERS_HAVE_KEYS
from public_calls import CALLS, NOT_AT_ONCE, drawn_plots, run_once, saved_shards
from public_functions import functions_of_submodules

import l0func as l0

pytestmark = pytest.mark.on_cpu
THREADS = 8
HAS_SHARDS = hasattr(fsdp, "fully_shard")

FORK = """
import os, sys, threading, torch, l0func as l0

torch.set_num_threads(1)
params = {"w": torch.randn(40, 30)}
spec = l0.gate_spec(params)
gates = l0.init_gates(l0.random.key(0), spec)
rows = l0.per_example(l0.gated(lambda p, b, x: torch.nn.functional.linear(x, p["w"]), spec))
keys, x = l0.random.split(l0.random.key(1), 64), torch.randn(64, 30)
results = []
def draw():
    results.append(rows(params, gates, {}, keys, x))

threads = [threading.Thread(target=draw) for _ in range(8)]
[t.start() for t in threads], [t.join() for t in threads]
assert all(torch.equal(results[0], other) for other in results)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(rows(params, gates, {}, keys, x), results[0]) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process forks where its system can")
def test_threads_and_a_process_forked_after_them_draw_the_same():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_called_or_has_a_reason():
    names = " ".join([*CALLS.values(), *NOT_AT_ONCE.values()]).split()
    assert len(set(names)) == len(names)
    assert set(names) == {*l0.__all__, *functions_of_submodules()}


def in_threads(call: Callable[[int], Any]) -> list[Any]:
    """What a call gives in each of eight threads that start it at once."""
    start, results = threading.Barrier(THREADS), [None] * THREADS

    def run(number: int) -> None:
        start.wait()
        try:
            results[number] = call(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def _switching() -> Any:
    """An interpreter that changes threads often, and looks for a fault where it may be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def folder_of(folder: Path, *names: Any) -> Path:
    path = folder.joinpath(*map(str, names))
    path.mkdir(parents=True)
    return path


@pytest.mark.usefixtures("_switching")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_eight_threads_in_one_call_get_what_one_thread_gets(call, tmp_path):
    if call is run_once and not INITIALISERS_HAVE_KEYS:
        pytest.skip("torch 2.1's initialisers take no key")
    if call is saved_shards and not HAS_SHARDS:
        pytest.skip("before torch 2.6 no tensor is spread over processes")
    expected = call(folder_of(tmp_path, "alone"))
    filters = list(warnings.filters)
    for number, found in enumerate(in_threads(lambda n: call(folder_of(tmp_path, n)))):
        assert not isinstance(found, Exception), found
        assert equal(found, expected), number
    # matplotlib changes them by itself, and says that it is not for threads.
    if call is not drawn_plots:
        assert warnings.filters == filters


@pytest.mark.slow
@pytest.mark.usefixtures("_switching")
def test_eight_threads_in_different_calls_get_what_one_thread_gets(tmp_path):
    calls = list(CALLS)
    expected = [call(folder_of(tmp_path, "alone", call.__name__)) for call in calls]

    def every(number: int) -> list[Any]:
        found: list[Any] = [None] * len(calls)
        for step in range(10 * len(calls)):
            # Each thread begins elsewhere, and goes on in steps of its own.
            at = (number + step * (2 * number + 1)) % len(calls)
            found[at] = calls[at](folder_of(tmp_path, number, step))
            assert equal(found[at], expected[at]), calls[at].__name__
        return found

    for found in in_threads(every):
        assert not isinstance(found, Exception), found
    assert torch.get_default_dtype() == torch.float32
