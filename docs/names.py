"""Every public name in its section of the reference, with its docstring and its example."""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr
from typing import Any

from sphinx.pycode import ModuleAnalyzer

import l0func

SECTIONS = {
    "A module as a function": "make_functional init_params to_module",
    "The plan of the gates": "gate_spec GateSpec group element axis axes blocks tiles whole",
    "Gates and masks": (
        "init_gates compensate sample_masks mean_masks deterministic_masks apply_masks prune"
    ),
    "Running a gated function": "gated per_example arm use_kernel kernel_in_use",
    "What gates cost": (
        "penalty expected_l0 expected_l2 expected_sparsity squared_mean summary count_macs "
        "MacCounts expected_macs realised_macs latency_table LatencyTable expected_ms realised_ms"
    ),
    "Training": (
        "training Training TrainState optimizer Optimizer clip_norm lagrangian Lagrangian "
        "LagrangianState stack unstack diverged save_state load_state"
    ),
    "A module with gates": "L0Module",
    "A smaller network": "unit_groups UnitGroups compact refit resize_to",
    "Files": "save load to_sparse_csr",
    "Many processes": "all_reduce_mean place_gates gather check_agreement save_shards load_shards",
    "Distributions": (
        "GateDistribution HardConcrete BernoulliGate GaussianGate HardKuma CustomGate "
        "distributions.register distributions.from_dict distributions.DISTRIBUTIONS "
        "distributions.Estimator"
    ),
    "Keys and draws": (
        "random.key random.split random.fold_in random.row_keys random.uniform random.normal"
    ),
    "Schedules": (
        "schedules.linear schedules.cosine schedules.pieces schedules.repeated "
        "schedules.from_torch schedules.Schedule"
    ),
    "Pictures": (
        "plot.density plot.open_probability plot.trajectories plot.filters plot.widths "
        "plot.tradeoff"
    ),
    "Modules that compaction makes": (
        "smaller.FewerHeads smaller.UnequalRecurrent smaller.Constant"
    ),
    "Types": "Tree",
}
"""For each section of the reference its names, as a user writes them after ``l0func.``."""

_MODULES = ("distributions", "plot", "random", "schedules", "smaller")
_NOT_FOR_USERS = {"smaller.recurrent_names"}
DATA = {
    "Tree": "l0func.internal.tree",
    "distributions.DISTRIBUTIONS": "l0func.distributions.registry",
    "distributions.Estimator": "l0func.distributions.base",
    "schedules.Schedule": "l0func.schedules",
}
"""Names of values and types, and the module that documents each below its assignment."""


def is_data(name: str) -> bool:
    """Whether a name is a value or a type, not a function or class."""
    return name in DATA


def public_names() -> set[str]:
    """Every public name, as a user writes it after ``l0func.``."""
    names = {name for name in l0func.__all__ if name not in _MODULES}
    for place in _MODULES:
        module = importlib.import_module(f"l0func.{place}")
        for name in _names_of(module):
            if name not in names:
                names.add(f"{place}.{name}")
    return names - _NOT_FOR_USERS


def _names_of(module: Any) -> list[str]:
    """A module's ``__all__``, or else the functions, classes and aliases that it defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = [name for name, value in vars(module).items() if _is_own(module, name, value)]
    documented = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
    return own + [name for _, name in documented if name in vars(module)]


def _is_own(module: Any, name: str, value: Any) -> bool:
    is_object = inspect.isfunction(value) or inspect.isclass(value)
    return is_object and value.__module__ == module.__name__ and not name.startswith("_")


def value_of(name: str) -> Any:
    """The object that a public name means."""
    value: Any = l0func
    for part in name.split("."):
        value = getattr(value, part)
    return value


def docstring(name: str) -> str:
    """The documentation of a public name; empty where it has none."""
    if name not in DATA:
        return inspect.getdoc(value_of(name)) or ""
    found = ModuleAnalyzer.for_module(DATA[name]).find_attr_docs()
    return "\n".join(found.get(("", name.rpartition(".")[2]), []))


def faults() -> Iterator[str]:
    """A line for each public name that the reference lacks, or that lacks an example."""
    listed = " ".join(SECTIONS.values()).split()
    for name in sorted(public_names() - set(listed)):
        yield f"l0func.{name} is public, and no section of docs/names.py lists it"
    for name in sorted(set(listed) - public_names()):
        yield f"docs/names.py lists l0func.{name}, which is not public"
    for name in sorted(public_names()):
        text = docstring(name)
        if not text:
            yield f"l0func.{name} has no docstring"
        elif ">>>" not in text and not is_data(name):
            yield f"l0func.{name} has no example (a line with >>>) in its docstring"


def failed_examples() -> Iterator[str]:
    """What doctest says about each public name whose example fails or writes to stderr."""
    finder = doctest.DocTestFinder(recurse=False)
    # A line that says "this takes time" is for people, and no fault of an example. What torch says
    # of itself is not ours to mend.
    os.environ["L0FUNC_QUIET"] = "1"
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    for name in sorted(public_names()):
        if is_data(name):
            continue
        said = io.StringIO()
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        # Without names of the module: what is printed runs as it is printed.
        for test in finder.find(value_of(name), f"l0func.{name}", globs={}):
            with redirect_stderr(said):
                runner.run(test, out=said.write)
        if said.getvalue():
            yield f"l0func.{name}:\n{said.getvalue()}"
