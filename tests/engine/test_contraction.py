"""The contractions that draw their masks as they go: against einsum on masks that are there,
chunked, compiled and refused.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import l0func as l0
from l0func import random
from l0func.engine.contraction import kernel, tiling
from l0func.engine.contraction.chunks import Contraction, Output
from l0func.engine.contraction.sweep import sweep
from l0func.kernels import choice, inductor
from l0func.kernels.inductor import inductor_in_use
from l0func.kernels.unfold import Unfold

DISTRIBUTIONS = [l0.HardConcrete(), l0.HardConcrete(0.5), l0.GaussianGate(), l0.HardKuma()]


@pytest.fixture(autouse=True)
def _kernel() -> Iterator[None]:
    yield
    l0.use_kernel("eager")


def factors(
    batch: int, shape: tuple[int, int, int], rows: int, repeat: int = 1
) -> dict[str, Tensor]:
    groups, out, into = shape
    torch.manual_seed(0)
    return {
        "la": torch.randn(groups, out, into // repeat, dtype=torch.float64),
        "a": torch.randn(shape, dtype=torch.float64),
        "x": torch.randn(batch, rows, into, dtype=torch.float64),
        "y": torch.randn(batch, groups, rows, out, dtype=torch.float64),
    }


def derivative(distribution: Any, order: int, u: Tensor, la: Tensor) -> Tensor:
    """The draw's derivative by differentiating its definition, again and again."""

    def f(la: Tensor) -> Tensor:
        return distribution.quantile(u, la)

    for _ in range(order):
        f = (lambda g: lambda la: torch.func.jvp(g, (la,), (torch.ones_like(la),))[1])(f)
    return f(la)


def by_hand(
    contraction: Contraction, output: Output, keys: Tensor, t: dict[str, Tensor]
) -> Tensor:
    """The contraction by einsum, over masks that are laid out."""
    z = []
    for key in keys:
        u = (
            random.uniform(key, contraction.first + t["la"].numel())[contraction.first :]
            .reshape(t["la"].shape)
            .double()
        )
        z.append(
            derivative(contraction.distribution, output.order, u, t["la"]).repeat_interleave(
                contraction.repeat, -1
            )
        )
    letters = {"y": "bgro", "x": "bri", "a": "goi"}
    given = [name for name in letters if name != output.kind]
    equation = ",".join(["bgoi", *(letters[name] for name in given)]) + "->" + letters[output.kind]
    return torch.einsum(equation, torch.stack(z), *(t[name] for name in given))


def swept(contraction: Contraction, output: Output, keys: Tensor, t: dict[str, Tensor]) -> Tensor:
    return sweep(
        contraction,
        output,
        keys,
        t["la"],
        *(None if name == output.kind else t[name] for name in ("a", "x", "y")),
    )


CASES = [
    ((1, 4, 8), 1, 1, 0),
    ((1, 5, 7), 1, 1, 0),
    ((1, 5, 7), 3, 1, 6),
    ((1, 4, 8), 1, 1, 4),
    ((1, 3, 12), 2, 4, 0),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
@pytest.mark.parametrize(("shape", "rows", "repeat", "first"), CASES)
def test_every_contraction_of_every_order_is_the_einsum_over_its_masks(
    distribution, shape, rows, repeat, first
):
    contraction = Contraction(distribution, shape, repeat, first)
    keys, t = random.split(random.key(2), 3), factors(3, shape, rows, repeat)
    for kind, order in product("yxa", range(4)):
        output = Output(kind, order)
        torch.testing.assert_close(
            swept(contraction, output, keys, t), by_hand(contraction, output, keys, t)
        )


@pytest.mark.parametrize("limit", [1, 8, 40, 1000])
def test_chunks_of_any_size_give_the_same(limit, monkeypatch):
    monkeypatch.setattr(tiling, "EAGER", limit)
    keys = random.split(random.key(2), 5)
    for shape, rows in (((1, 9, 7), 1), ((1, 10, 3), 2)):
        contraction, t = Contraction(l0.HardConcrete(), shape), factors(5, shape, rows)
        for output in (Output("y", 0), Output("x", 1), Output("a", 1)):
            torch.testing.assert_close(
                swept(contraction, output, keys, t), by_hand(contraction, output, keys, t)
            )


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("shape", "rows", "outputs"), [((1, 6, 8), 1, "y"), ((1, 5, 7), 1, "y"), ((1, 4, 6), 3, "ya")]
)
def test_compiled_it_is_the_same(shape, rows, outputs):
    contraction, t, keys = (
        Contraction(l0.HardConcrete(), shape),
        factors(3, shape, rows),
        random.split(random.key(2), 3),
    )
    t = {name: x.float() for name, x in t.items()}

    def loss(t: dict[str, Tensor]) -> Tensor:
        return (swept(contraction, Output("y", 0), keys, t) ** 2).sum()

    eager = swept(contraction, Output("y", 0), keys, t), torch.func.grad(loss)(t)
    l0.use_kernel("compiled")
    assert inductor_in_use()
    ours = (
        swept(contraction, Output("y", 0), keys, t),
        (torch.func.grad(loss)(t) if "a" in outputs or rows == 1 else eager[1]),
    )
    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)
    assert inductor_in_use()


@pytest.mark.compiles
def test_a_machine_without_a_compiler_says_so_once_and_runs_eagerly(monkeypatch):
    def broken(*a: Any, **k: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(kernel, "_compiled", broken)
    monkeypatch.setattr(inductor._state, "broken", False)
    contraction, t, keys = (
        Contraction(l0.HardConcrete(), (1, 4, 6)),
        factors(3, (1, 4, 6), 1),
        random.split(random.key(2), 3),
    )
    l0.use_kernel("compiled")
    with pytest.warns(UserWarning, match=r"compiled kernel does not build.*no compiler here"):
        first = swept(contraction, Output("y", 0), keys, t)
    # Warnings are errors here: a second one would fail.
    second = swept(contraction, Output("y", 0), keys, t)
    assert not inductor_in_use()
    torch.testing.assert_close(first, by_hand(contraction, Output("y", 0), keys, t))
    assert torch.equal(first, second)


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


@pytest.mark.parametrize(
    "u",
    [
        Unfold(4, (1, 1, 9), (1, 1, 3), (1, 1, 2), (0, 0, 1), (1, 1, 2), 2),
        Unfold(3, (1, 6, 5), (1, 2, 3), (1, 2, 1), (0, 1, 0), (1, 1, 2), 1),
        Unfold(2, (5, 6, 4), (2, 3, 2), (2, 1, 1), (1, 0, 1), (2, 1, 1), 1),
    ],
    ids=str,
)
def test_patches_make_a_convolution_and_images_are_their_adjoint(u: Unfold):
    x = torch.randn(2, u.channels, *u.space, dtype=torch.float64)
    w = torch.randn(6, u.channels // u.groups, *u.kernel, dtype=torch.float64)
    patches = u.patches(x)
    ours = torch.einsum("ngli,goi->ngol", patches, w.reshape(u.groups, 6 // u.groups, -1))
    theirs = F.conv3d(x, w, None, u.stride, u.padding, u.dilation, u.groups)
    torch.testing.assert_close(ours.reshape(theirs.shape), theirs)
    other = torch.randn_like(patches)
    torch.testing.assert_close((patches * other).sum(), (x * u.images(other)).sum())


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
