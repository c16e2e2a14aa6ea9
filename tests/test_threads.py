"""Threads, and processes forked from them, draw the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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

threads = [threading.Thread(target=draw) for _ in range(4)]
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
