"""The house: every wing imports only those below it, files stay small, nothing heavy is needed."""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import l0func
from l0func.kernels.loading import load_kernels

ROOT = Path(l0func.__file__).parent
# For each wing or room below the wings, in docs/architecture.md's order, what it may import.
MAY_IMPORT = {
    "internal": "",
    "smaller": "",
    "kernels": "internal",
    "random": "internal kernels",
    "distributions": "random kernels internal",
    "pure": "random internal",
    "tracing": "pure random internal",
    "spec": "distributions internal",
    "gates": "spec distributions random kernels internal",
    "costs": "gates spec tracing pure internal",
    "engine": "gates spec pure distributions random kernels internal",
    "compaction": "gates spec tracing pure random internal smaller",
    "timing": "costs compaction gates spec pure random internal",
    "files": "gates spec internal",
    "sharding": "gates spec internal",
    "train": "costs files gates spec random internal",
}
ROOMS = ("__init__", "module", "plot", "schedules")
FILES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def module_of(path: Path) -> str:
    return f"l0func.{name_of(path)}".removesuffix(".__init__")


def wing_of(module: str) -> str:
    """The wing of a dotted module, empty outside of the package."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "l0func" else ""


def imported_by(node: ast.AST) -> set[str]:
    """The wings that one statement imports."""
    if isinstance(node, ast.Import):
        return {wing_of(alias.name) for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    if node.module == "l0func":
        return {alias.name for alias in node.names}
    return {wing_of(node.module or "")}


def imported(path: Path) -> set[str]:
    """The wings that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        found |= imported_by(node)
    return found - {""}


def names_defined_by(statement: ast.stmt) -> list[str]:
    """The names that a top-level statement defines: a function, a class or an assignment."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def files_of_names() -> dict[str, set[str]]:
    """For each top-level name of the package the files that define it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in FILES:
        for statement in ast.parse(path.read_text()).body:
            for name in names_defined_by(statement):
                found[name].add(name_of(path))
    del found["__all__"]
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_wing_imports_only_what_the_table_allows(path):
    wing = name_of(path).partition(".")[0]
    if wing in ROOMS:
        return
    assert imported(path) <= {wing, *MAY_IMPORT[wing].split()}


def test_the_table_has_no_cycle():
    below: set[str] = set()
    for wing, allowed in MAY_IMPORT.items():
        assert set(allowed.split()) <= below | {wing}, wing
        below.add(wing)


def test_the_files_import_each_other_without_a_cycle():
    known = {module_of(path) for path in FILES}
    graph: dict[str, set[str]] = {}
    for path in FILES:
        wanted: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    wanted.add(inner if inner in known else node.module)
        graph[module_of(path)] = wanted & known
    assert "l0func.module" in graphlib.TopologicalSorter(graph).static_order()


# What the library says where a compiler is installed and too old.
@pytest.mark.filterwarnings("ignore:(triton|numba) does not work here")
@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_module_is_hidden_by_a_function_of_its_name(path):
    for compiler in ("numba", "triton"):
        if f"by_{compiler}." in module_of(path) and load_kernels(compiler).kernels is None:
            pytest.skip(f"{compiler} is not installed, or is too old")
    module = importlib.import_module(module_of(path))
    parent, _, name = module_of(path).rpartition(".")
    assert not parent or getattr(sys.modules[parent], name) is module


@pytest.mark.parametrize("wing", [name for name in MAY_IMPORT if (ROOT / name).is_dir()])
def test_every_wing_says_what_it_is_for_and_has_tests_of_its_own(wing):
    assert (ROOT / wing / "__init__.py").read_text().startswith('"""')
    assert list((Path(__file__).parent / wing).glob("test_*.py"))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_small_and_only_one_knows_optree(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert ("import optree" in text) == (name_of(path) == "internal.tree")


def test_few_names_are_defined_in_two_files():
    repeated: dict[str, list[str]] = {}
    for name, files in files_of_names().items():
        # The backends share the names of their kernels, and a launch that of what it launches.
        own = [file for file in files if not file.startswith("kernels.by_")]
        if len(own) > 1:
            repeated[name] = own
    assert len(repeated) <= 10, repeated


def test_the_import_needs_torch_and_optree_only():
    code = (
        "import sys; sys.modules['numpy'] = None; sys.modules['matplotlib'] = None; "
        "sys.modules['sklearn'] = None\n"
        "import warnings; warnings.simplefilter('ignore')\n"
        "import torch, l0func as l0\n"
        "fn, params, buffers = l0.make_functional(torch.nn.Linear(3, 2))\n"
        "spec = l0.gate_spec(params)\n"
        "gates = l0.init_gates(l0.random.key(0), spec)\n"
        "rows = l0.per_example(l0.gated(fn, spec))\n"
        "print(rows(params, gates, buffers, l0.random.split(l0.random.key(1), 4), torch.ones(4, "
        "3)).shape)\n"
        "print(l0.random.uniform(l0.random.key(0), 3).tolist())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "torch.Size([4, 2])" in result.stdout
    assert str(l0func.random.uniform(l0func.random.key(0), 3).tolist()) in result.stdout


def test_every_public_name_is_documented_and_there():
    for name in l0func.__all__:
        assert getattr(l0func, name).__doc__, name


def test_the_package_shows_its_public_names_and_no_others():
    modules = {"distributions", "plot", "random", "schedules", "smaller"}
    assert set(dir(l0func)) == {*l0func.__all__, *modules, "__version__"}
    for name in dir(l0func):
        assert hasattr(l0func, name), name
