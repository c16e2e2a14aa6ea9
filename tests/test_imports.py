"""What ``import l0func`` brings with it, and what waits until torch's compiler is imported."""

from __future__ import annotations

import builtins
import subprocess
import sys

import pytest
from sampled import one_in, sampled

import l0func

COMPILED = """
import torch
from torch import nn

def check():
    # BatchNorm, entry gates and unit gates: every kind of function that is one node in a graph.
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, affine=False))
    fn, params, buffers = l0func.make_functional(net)
    rules = {"0.weight": [l0func.axis(0), l0func.element()]}
    spec = l0func.gate_spec(params, rules)
    gates = l0func.init_gates(l0func.random.key(0), spec)
    rows = l0func.per_example(l0func.gated(fn, spec))
    keys, x = l0func.random.split(l0func.random.key(1), 5), torch.randn(5, 4)
    compiled = torch.compile(rows, fullgraph=True, backend="eager")
    ours = compiled(params, gates, dict(buffers), keys, x)
    torch.testing.assert_close(ours, rows(params, gates, dict(buffers), keys, x))
    print("equal")
"""

ORDERS = {
    "the library first": "import l0func",
    "the compiler first": "import torch._dynamo, l0func",
    "another compilation first": (
        "import torch\ntorch.compile(lambda x: x + 1, backend='eager')(torch.ones(2))\n"
        "import l0func"
    ),
    "from eight threads": (
        "import importlib, threading\nimport torch\n"
        "names = ['torch._dynamo', 'l0func'] * 4\n"
        "threads = [threading.Thread(target=importlib.import_module, args=(n,)) for n in names]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\nimport l0func"
    ),
    "beside a finder that asks all others": (
        "import importlib.util, sys\nimport l0func\n"
        "class Asking:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch._dynamo':\n"
        "            finders = [f for f in sys.meta_path if f is not self]\n"
        "            found = [f.find_spec(name, path, target) for f in finders]\n"
        "            return next(spec for spec in found if spec is not None)\n"
        "sys.meta_path.insert(0, Asking())"
    ),
    "after a failed import": (
        "import sys\nimport l0func\nsys.modules['torch._dynamo.config'] = None\n"
        "try:\n    import torch._dynamo\nexcept ImportError:\n"
        "    del sys.modules['torch._dynamo.config']\n"
        "else:\n    raise SystemExit('the compiler was imported')"
    ),
}


def run(code: str) -> str:
    """What a fresh process prints."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_import_brings_no_compiler_with_it():
    heavy = ("torch._dynamo", "torch._inductor", "sympy", "numba", "matplotlib", "safetensors")
    heavy += ("triton",)
    code = (
        "import sys, torch; earlier = {*sys.modules}\nimport l0func\n"
        f"print([name for name in {heavy} if name in {{*sys.modules}} - earlier])"
    )
    assert run(code) == "[]\n"


def test_a_first_step_without_a_compiler_brings_none():
    code = (
        "import sys, torch, l0func\nnet = l0func.L0Module(torch.nn.Linear(3, 2), lam=0.01)\n"
        "earlier = {*sys.modules}\nnet(torch.ones(4, 3)).sum().backward()\n"
        "print([name for name in ('torch._dynamo', 'sympy') if name in {*sys.modules} - earlier])"
    )
    assert run(code) == "[]\n"


@pytest.mark.compiles
@pytest.mark.parametrize("order", sampled(ORDERS, one_in(6)))
def test_a_compiled_call_equals_an_eager_one_in_every_order_of_imports(order):
    assert run(f"{ORDERS[order]}\n{COMPILED}\ncheck()") == "equal\n"


def test_the_compiler_shows_its_own_loader_afterwards():
    code = (
        "import importlib.resources, inspect, sys, l0func, torch._dynamo as dynamo\n"
        "print(type(dynamo.__loader__).__name__, dynamo.__spec__.loader is dynamo.__loader__)\n"
        "print(len(inspect.getsource(dynamo)) > 0)\n"
        "print([f for f in sys.meta_path if type(f).__module__.startswith('l0func')])"
    )
    assert run(code) == "SourceFileLoader True\nTrue\n[]\n"


def test_a_star_import_hides_no_module_and_no_builtin_of_python():
    assert not {*l0func.__all__} & {*sys.stdlib_module_names, *dir(builtins)}
    code = "import random\nfrom l0func import *\nprint(random.__name__)"
    assert run(code) == "random\n"
    assert l0func.random.key(7).tolist() == [7, 0]
