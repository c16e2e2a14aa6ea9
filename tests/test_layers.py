"""The house: imports run downhill, files stay small, nothing heavy is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import l0func

ROOT = Path(l0func.__file__).parent
FLOORS = [
    {"answering", "transforms", "tree", "philox", "smaller", "kernels.unfold", "schedules"},
    {"random", "optimizer", "tracing.units", "kernels.choice", "distributions.smooth"},
    {"tracing.trace"},
    {"tracing.rules"},
    {"tracing.products", "tracing.steady"},
    {"tracing.dataflow"},
    {"tracing.layers"},
    {"functions.attention", "functions.dropout", "functions.embedding", "functions.linear", "functions.norm"},
    {"functions.recurrent", "distributions.quadrature"},
    {"distributions.base", "keyed", "rows"},
    {
        "distributions.hard_concrete",
        "distributions.gaussian_gate",
        "distributions.hard_kuma",
        "distributions.bernoulli",
        "functional",
    },
    {"distributions", "rules", "resize", "tracing.follow"},
    {"spec", "kernels.chunks", "parameter"},
    {"gates", "init", "removal", "grouping", "layout", "kernels.run", "ops.gaussian"},
    {"costs", "macs", "sparse", "kernels.sweep", "ops.views", "ops.embedding", "ops.attention", "ops.recurrent"},
    {"kernels.product"},
    {"ops.linear", "ops.conv"},
    {"ops", "ops.nested"},
    {"standins"},
    {"prune", "gated", "files", "lagrangian", "estimators"},
    {"summary", "structure", "state"},
    {"plot", "fold", "training", "checkpoint"},
    {"compact"},
    {"module"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """The modules of the library that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "l0func":
            base = (node.module or "").removeprefix("l0func").strip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".strip(".")
                found.add(inner if inner in FLOOR else base)
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("l0func.") for alias in node.names if alias.name.startswith("l0func")}
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_only_to_a_lower_floor(path):
    name = name_of(path)
    if name in ("functions", "tracing", "kernels"):
        assert imported(path) == set()
        return
    assert name in FLOOR, f"{name} has no floor: give it one in FLOORS"
    for other in imported(path):
        assert FLOOR[other] < FLOOR[name], f"{name} imports {other} from its own floor or above"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_small_and_only_one_knows_optree(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert ("import optree" in text) == (name_of(path) == "tree")


def test_the_import_needs_torch_and_optree_only():
    code = (
        "import sys; sys.modules['numpy'] = None; sys.modules['matplotlib'] = None; sys.modules['sklearn'] = None\n"
        "import warnings; warnings.simplefilter('ignore')\n"
        "import torch, l0func as l0\n"
        "fn, params, buffers = l0.make_functional(torch.nn.Linear(3, 2))\n"
        "spec = l0.gate_spec(params)\n"
        "gates = l0.init_gates(l0.random.key(0), spec)\n"
        "rows = l0.per_example(l0.gated(fn, spec))\n"
        "print(rows(params, gates, buffers, l0.random.split(l0.random.key(1), 4), torch.ones(4, 3)).shape)\n"
        "print(l0.random.uniform(l0.random.key(0), 3).tolist())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "torch.Size([4, 2])" in result.stdout
    assert str(l0func.random.uniform(l0func.random.key(0), 3).tolist()) in result.stdout


def test_every_public_name_is_documented_and_there():
    for name in l0func.__all__:
        assert getattr(l0func, name).__doc__, name
