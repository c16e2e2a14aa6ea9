"""The contractions that draw their masks as they go: against einsum on masks that are there,
chunked, compiled and refused.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from contractions import by_hand, operands, without
from torch import Tensor

import l0func as l0
from l0func import random
from l0func.engine.contraction.sweep import sweep
from l0func.kernels import choice
from l0func.kernels.contraction import Contraction, Operands, Output

DISTRIBUTIONS = [l0.HardConcrete(), l0.HardConcrete(0.5), l0.GaussianGate(), l0.HardKuma()]
CASES = [
    ((4, 8), 1, 1, 0),
    ((5, 7), 1, 1, 0),
    ((5, 7), 3, 1, 6),
    ((4, 8), 1, 1, 4),
    ((3, 12), 2, 4, 0),
]


@pytest.fixture(autouse=True)
def _kernel() -> Iterator[None]:
    yield
    l0.use_kernel("eager")


def swept(contraction: Contraction, output: Output, keys: Tensor, given: Operands) -> Tensor:
    return sweep(contraction, output, keys, *without(given, output.kind))


@pytest.mark.parametrize("kernel", ["eager", "auto"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
@pytest.mark.parametrize(("shape", "rows", "repeat", "first"), CASES)
def test_every_contraction_of_every_order_is_the_einsum_over_its_masks(
    shape, rows, repeat, first, distribution, kernel
):
    l0.use_kernel(kernel)
    contraction = Contraction(distribution, shape, repeat, first)
    keys, given = random.split(random.key(2), 3), operands(contraction, 3, rows)
    for kind, order in product("yxa", range(4)):
        output = Output(kind, order)
        torch.testing.assert_close(
            swept(contraction, output, keys, given), by_hand(contraction, output, keys, given)
        )


def test_a_kernel_is_one_of_three():
    with pytest.raises(
        ValueError, match=r"use_kernel takes one of \('auto', 'eager', 'compiled'\); got 'fast'"
    ):
        l0.use_kernel("fast")
    result = subprocess.run(
        [sys.executable, "-c", "import l0func"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, choice.VARIABLE: "fast"},
    )
    assert "The environment variable L0FUNC_KERNEL takes one of" in result.stderr


PEAK = """
import re, sys, torch, l0func as l0

def status(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1)) / 1024

params = {"w": torch.randn(300, 400)}
spec = l0.gate_spec(params)
gates = l0.init_gates(l0.random.key(0), spec)
rows = l0.per_example(l0.gated(lambda p, b, x: torch.nn.functional.linear(x, p["w"]), spec))
keys, x = l0.random.split(l0.random.key(1), 512), torch.randn(512, 400)
torch.func.grad(lambda g: rows(params, g, {}, keys[:4], x[:4]).sum())(gates)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
torch.func.grad(lambda g: rows(params, g, {}, keys, x).sum())(gates)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"),
    reason="the peak of a process is read where Linux keeps it",
)
def test_the_memory_of_a_batch_is_not_that_of_its_masks():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    # All masks of 512 rows are 246 MB, and what draws and differentiates them several times that.
    assert float(done.stdout) < 40
