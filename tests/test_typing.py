"""The types of the public names, as pyright shows them to a user's strict script."""

import inspect
import json
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from device import INITIALISERS_HAVE_KEYS
from torch import Tensor

docs = pytest.importorskip("docs.names", reason="the reference's names need sphinx")
SCRIPT = Path(__file__).parent / "typed" / "user.py"

# Types of what public functions return, as a user of plain tensors has them.
RESULTS = {
    "Functional": "l0func.pure.functional",
    "PureModule": "l0func.pure.functional",
    "Gated": "l0func.engine.gated",
    "PerExample": "l0func.engine.per_example",
    "Saved": "l0func.files.network",
    "Summary": "l0func.costs.summary",
    "SummaryRow": "l0func.costs.summary",
    "Init": "l0func.train.functions",
    "Step": "l0func.train.functions",
    "Update": "l0func.train.optimizer",
    "Hold": "l0func.train.lagrangian",
    "ClipNorm": "l0func.train.clipping",
}
GENERIC = {"Gated", "PerExample"}

# Each of them returns what a forward returns, and a module may return anything.
OF_A_FORWARD = {
    *("PureModule.__call__", "PureModule.output", "PureModule.run", "PureModule.with_buffers"),
    *("PureModule.forward", "L0Module.forward", "smaller.UnequalRecurrent.forward"),
}


@pytest.mark.skipif(not INITIALISERS_HAVE_KEYS, reason="torch 2.1's initialisers take no key")
def test_the_strict_script_runs_as_it_is_typed():
    made = runpy.run_path(str(SCRIPT))
    first, named = made["pruned"][0]
    assert (type(first), type(named)) == (Tensor, dict)


@pytest.mark.slow
def test_no_public_name_is_any_and_the_strict_script_has_no_errors(tmp_path):
    (tmp_path / "user.py").write_text("# pyright: strict\n" + SCRIPT.read_text())
    script, first, names = _every_name()
    (tmp_path / "names.py").write_text(script)
    found = _pyright(tmp_path)
    assert [d for d in found if d["severity"] == "error"] == []
    shown = {}
    for d in found:
        if d["severity"] == "information":
            name = names[d["range"]["start"]["line"] - first]
            shown[name] = d["message"].partition('" is "')[2][:-1]
    assert set(shown) == set(names)
    unknown = {name for name, text in shown.items() if _is_unknown(text)}
    assert unknown == OF_A_FORWARD, {name: shown[name] for name in unknown ^ OF_A_FORWARD}


def _every_name():
    """A script that reveals the type of each name, its first such line, and the names."""
    public = sorted(docs.public_names())
    classes = {name: f"l0.{name}" for name in public if inspect.isclass(docs.value_of(name))}
    for name in RESULTS:
        classes[name] = f"{name}[Tensor]" if name in GENERIC else name
    imports = [f"from {place} import {name}" for name, place in RESULTS.items()]
    values = {name: f"a{i}" for i, name in enumerate(classes)}
    parameters = [f"{values[name]}: {kind}" for name, kind in classes.items()]
    lines = ["import l0func as l0", *imports]
    lines += ["from torch import Tensor", f"def reveal({', '.join(parameters)}) -> None:"]
    others = [name for name in public if name not in classes and not docs.is_data(name)]
    revealed = {name: f"l0.{name}" for name in others}
    for name, value in values.items():
        for attribute in _attributes(_class_of(name)):
            revealed[f"{name}.{attribute}"] = f"{value}.{attribute}"
    first = len(lines)
    lines += [f"    reveal_type({expression})" for expression in revealed.values()]
    return "\n".join(lines), first, list(revealed)


def _class_of(name):
    return getattr(import_module(RESULTS[name]), name) if name in RESULTS else docs.value_of(name)


def _attributes(kind):
    """The names of the public attributes that the package's own classes give to a class."""
    own = [base for base in kind.__mro__ if base.__module__.startswith("l0func.")]
    names = {
        name for base in own for name in (*vars(base), *vars(base).get("__annotations__", {}))
    }
    return sorted(name for name in names if name == "__call__" or not name.startswith("_"))


def _is_unknown(text):
    """Whether a revealed type is Any or has it in its result; a dict of JSON values may."""
    text = text.removeprefix("Overload[")
    arguments = re.compile(r"\([^()]*\)")
    while arguments.search(text):
        text = arguments.sub("", text)
    return bool(re.search(r"\b(Any|Unknown)\b", text.replace("dict[str, Any]", "")))


def _pyright(folder):
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, "-p", str(folder)], cwd=folder, capture_output=True, text=True, check=False
    )
    return json.loads(done.stdout)["generalDiagnostics"]
