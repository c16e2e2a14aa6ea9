"""The contractions that draw their masks as they go: against einsum on masks that are there,
chunked, compiled and refused.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import product, starmap

import pytest
import torch
from contractions import by_hand, masks, operands, without
from sampled import one_in, sampled
from torch import Tensor

import l0func as l0
from l0func import random
from l0func.distributions.identities import distribution_of
from l0func.engine.contraction.sweep import sweep
from l0func.kernels import choice, fused
from l0func.kernels.contraction import Contraction, Operands, Output

DISTRIBUTIONS = [l0.HardConcrete(), l0.HardConcrete(0.5), l0.GaussianGate(), l0.HardKuma()]
CASES = [
    ((4, 8), 1, 1, 0),
    ((5, 7), 1, 1, 0),
    ((5, 7), 3, 1, 6),
    ((4, 8), 1, 1, 4),
    ((3, 12), 2, 4, 0),
]


def swept(contraction: Contraction, output: Output, keys: Tensor, given: Operands) -> Tensor:
    return sweep(contraction, output, keys, *without(given, output.kind))


@pytest.mark.parametrize("kernel", ["eager", "auto"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
@pytest.mark.parametrize(
    ("shape", "rows", "repeat", "first"), sampled(starmap(pytest.param, CASES), one_in(2))
)
def test_every_contraction_of_every_order_is_the_einsum_over_its_masks(
    shape, rows, repeat, first, distribution, kernel
):
    l0.use_kernel(kernel)
    contraction = Contraction(distribution, shape, repeat, first)
    keys, given = random.split(random.key(2), 3), operands(contraction, 3, rows)
    for order in range(4):
        z = masks(contraction, order, keys, given.log_alpha)
        for output in [Output(kind, order) for kind in ("y", "x", "a")]:
            ours = swept(contraction, output, keys, given)
            torch.testing.assert_close(ours, by_hand(contraction, output, z, given))


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


@pytest.mark.parametrize("kernel", ["eager", "auto"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [lambda: torch.nn.Linear(7, 5), lambda: torch.nn.Conv1d(2, 3, 2)])
def test_a_half_precision_module_computes_in_float32_and_answers_in_its_own(make, dtype, kernel):
    l0.use_kernel(kernel)
    fn, params, buffers = l0.make_functional(make().to(dtype))
    spec = l0.gate_spec(params)
    gates = l0.init_gates(random.key(0), spec)
    rows = l0.per_example(l0.gated(fn, spec))
    x = torch.randn(4, 7) if params["weight"].dim() == 2 else torch.randn(4, 2, 6)
    x, keys = x.to(dtype), random.split(random.key(1), 4)
    ours = rows(params, gates, buffers, keys, x)
    wide = {name: p.float() for name, p in params.items()}
    theirs = rows(wide, gates, buffers, keys, x.float())
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), theirs, rtol=2e-2, atol=2e-2)


@dataclass(frozen=True)
class LogisticGate(l0.CustomGate):
    """A clipped logistic variable, of a user."""

    scale: float = 0.3

    def draw(self, u, log_alpha):
        return 0.5 + log_alpha + self.scale * torch.logit(u)

    def survival(self, t, log_alpha):
        return torch.sigmoid((0.5 + log_alpha - t) / self.scale)


@pytest.mark.compiles
@pytest.mark.parametrize("rows", [1, 3])
def test_gates_of_a_user_are_fused_and_stay_the_same(rows):
    contraction = Contraction(LogisticGate(), (6, 9), in_graph=True)
    keys, given = random.split(random.key(2), 3), operands(contraction, 3, rows)
    for kind, order in product("yxa", (0, 1)):
        output = Output(kind, order)
        l0.use_kernel("eager")
        alone = swept(contraction, output, keys, given)
        l0.use_kernel("auto")
        torch.testing.assert_close(swept(contraction, output, keys, given), alone)


@pytest.mark.compiles
def test_equal_gates_of_a_user_share_one_compilation():
    shared = fused._compiled(LogisticGate(0.3), (0, 1))
    assert fused._compiled(LogisticGate(0.3), (0, 1)) is shared
    assert fused._compiled(LogisticGate(0.4), (0, 1)) is not shared


@pytest.mark.compiles
def test_gates_that_do_not_compile_are_drawn_by_single_operations(monkeypatch):
    def broken_call(*a, **k):
        def broken(*a, **k):
            raise RuntimeError("no compiler here")

        return broken

    fused._compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", broken_call)
    monkeypatch.setattr(fused._COMPILER, "works", True)
    contraction = Contraction(LogisticGate(), (6, 9), in_graph=True)
    keys, given = random.split(random.key(2), 3), operands(contraction, 3, 1)
    output = Output("y", 0)
    l0.use_kernel("auto")
    with pytest.warns(UserWarning, match="does not build gates on this machine.*no compiler here"):
        first = swept(contraction, output, keys, given)
    # Warnings are errors here: a second one would fail.
    assert torch.equal(swept(contraction, output, keys, given), first)
    z = masks(contraction, 0, keys, given.log_alpha)
    torch.testing.assert_close(first, by_hand(contraction, output, z, given))
    fused._compiled.cache_clear()


@pytest.mark.compiles
@pytest.mark.parametrize(
    "distribution", sampled([l0.HardConcrete(), LogisticGate()], one_in(2)), ids=repr
)
def test_inside_a_compiler_it_is_the_same(distribution):
    spec = l0.gate_spec({"w": torch.ones(6, 9)}, distribution=distribution)
    gates = l0.init_gates(random.key(0), spec)
    rows = l0.per_example(l0.gated(lambda p, b, x: torch.nn.functional.linear(x, p["w"]), spec))
    keys, x, params = random.split(random.key(1), 4), torch.randn(4, 9), {"w": torch.ones(6, 9)}

    def loss(gates):
        return (rows(params, gates, {}, keys, x) ** 2).sum()

    l0.use_kernel("auto")
    ours = torch.compile(torch.func.grad(loss), fullgraph=True)(gates)
    torch.testing.assert_close(ours, torch.func.grad(loss)(gates), rtol=1e-4, atol=1e-5)


def test_distributions_have_texts_that_depend_on_their_settings_alone():
    gate = l0.HardConcrete(0.5)
    assert distribution_of(gate.identity) == gate
    assert gate.identity == l0.HardConcrete(0.5).identity != l0.HardConcrete().identity
    with pytest.raises(KeyError, match="process has no such distribution"):
        distribution_of("{}")


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


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("rule", [l0.element(), l0.axes(0, 1)], ids=str)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_inputs_or_outputs_has_gradients(sizes, rule):
    fn, params, buffers = l0.make_functional(torch.nn.Linear(*sizes))
    spec = l0.gate_spec(params, {"weight": rule, "bias": l0.element()})
    gates = {g.name: torch.zeros(g.shape, requires_grad=True) for g in spec.gates}
    params = {path: p.requires_grad_() for path, p in params.items()}
    rows = l0.per_example(l0.gated(fn, spec))
    keys = random.split(random.key(0), 4)
    output = rows(params, gates, buffers, keys, torch.ones(4, sizes[0]))
    assert output.shape == (4, sizes[1])
    leaves = [*params.values(), *gates.values()]
    grads = torch.autograd.grad(output.sum(), leaves, allow_unused=True, materialize_grads=True)
    assert [grad.shape for grad in grads] == [leaf.shape for leaf in leaves]
