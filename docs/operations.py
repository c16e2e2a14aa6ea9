"""Writes the inventory of operations: ``python docs/operations.py`` writes operations.md here."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from l0func.tracing import transfers
from l0func.tracing.transfers import TRANSFERS, pointwise, transfer_for
from l0func.tracing.transfers.refusal import refuse

HERE = Path(__file__).parent
VERSION = "2.13"


def _loaded(path: Path) -> Any:
    """A module in a file, under a name of its own: this file has the name of one of them."""
    spec = importlib.util.spec_from_file_location(f"_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


FUNCTIONS: dict[str, dict[str, Any]] = _loaded(HERE / "functions.py").FUNCTIONS

# Views of sparse and nested tensors and of forward-mode gradients, and torch's own tests.
_NOT_LISTED = re.compile(
    r"_fw_primal|_make_dual|_unpack_dual|_neg_view|_test|_nested|_sparse|(c?col_|crow_|row_|_)?"
    r"(indices|values)$|coalesce|slice_inverse|_backward|^__|cudnn|miopen|equal$|pin_memory|conj_physical|fractional"
)

# A family of transfer functions: its units, when they are kept by name, and the test of a case.
_FAMILIES = {
    "pointwise": (
        "Operands at one place are one unit.",
        "A unit is spread over others, as in `h * h[..., :1]`.",
        "test_a_pointwise_operation_keeps_every_unit_in_its_place",
    ),
    "moves": (
        "Units move with the numbers.",
        "The move pads units to a fixed size, or mixes parameters.",
        "test_units_go_through_an_operation_along_other_dimensions",
    ),
    "copies": (
        "A copy has the same units; a new tensor of one's size has none.",
        "never",
        "test_units_go_through_an_operation_along_other_dimensions",
    ),
    "scatters": (
        "Values and their target are of the same units.",
        "Indices run along the units.",
        "test_units_go_through_an_operation_along_other_dimensions",
    ),
    "reductions": (
        "It runs along other dimensions, or inside a unit such as a head. A sum, a mean or a "
        "vector norm over units may scale them: that is a norm.",
        "It runs over units.",
        "test_units_go_through_an_operation_along_other_dimensions",
    ),
    "complex_numbers": (
        "Both parts of a complex number are of one unit.",
        "A transform runs over units.",
        "test_units_go_through_an_operation_along_other_dimensions",
    ),
    "matrix_products": (
        "A weight reads its input's units and makes new ones; a product of activations joins its "
        "sum into one unit.",
        "Neither side is followed, such as a product of two parameters.",
        "test_units_go_through_an_operation_along_other_dimensions",
    ),
    "convolutions": (
        "A kernel reads channels and makes channels; a group is one unit.",
        "Forward computes the kernel.",
        "",
    ),
    "embedding": ("The columns of the table are units.", "Forward computes the table.", ""),
    "norms": (
        "Each channel, or group of channels, is normalised by itself.",
        "It runs over units, as a LayerNorm does.",
        "test_channels_go_through_an_operation_on_images",
    ),
    "resampling": (
        "Each channel is resampled by itself.",
        "It runs over units.",
        "test_channels_go_through_an_operation_on_images",
    ),
    "patches": (
        "A channel is a unit in every place.",
        "Units are the points.",
        "test_channels_go_through_an_operation_on_images",
    ),
}

_HEAD = """# The operations that are known

This page is written by `docs/operations.py` from the code, with torch {version}. A test holds both
together. It lists **{count} operations**: {followed} that a trace follows, for `unit_groups` and
`compact`, and {others} functions of torch that run in a way of their own on gated parameters or
with keys. **{held} have a case each**, named beside them, and **{refusing} refuse a use by name**;
beside the other {silent} stands why they refuse none. Functions that torch composes of these, such
as `chunk`, are followed too.

An operation that is not listed keeps all units that go through it, and its name is in
`groups.refused`. Nothing is removed on the word of this table: every group passes a trial on
random weights first.

"""


def followed_names() -> list[str]:
    """The ATen operations that a trace follows on this torch."""
    names = set(pointwise_names())
    for name, transfer in TRANSFERS.items():
        if transfer is not refuse and any(_is_listed(op) for op in _overloads(name)):
            names.add(name)
    for name in _all_names():
        if any(_is_listed(op) and op.is_view for op in _overloads(name)):
            names.add(name)
    return sorted(names)


def pointwise_names() -> list[str]:
    """Those among them that combine numbers at one place."""
    names: set[str] = set()
    for name in _all_names():
        for op in _overloads(name):
            if _is_listed(op) and transfer_for(op) is pointwise.pointwise:
                names.add(name)
    return sorted(names)


def function_names() -> list[str]:
    """The torch functions that run in a way of their own on gated parameters or with keys."""
    return sorted({label for kind in FUNCTIONS.values() for label in kind})


def _all_names() -> Iterator[str]:
    found: set[str] = set()
    for full in torch._C._dispatch_get_all_op_names():
        namespace, _, name = full.partition("::")
        if namespace == "aten":
            found.add(name.partition(".")[0].removesuffix("_"))
    yield from sorted(found)


def _overloads(name: str) -> Iterator[Any]:
    for own in (name, f"{name}_"):
        packet = getattr(torch.ops.aten, own, None)
        for overload in packet.overloads() if packet is not None else ():
            if "out" not in overload:
                yield getattr(packet, overload)


def _is_listed(op: Any) -> bool:
    """Whether a network may call an operation, and torch does not compose it of others."""
    name = op.overloadpacket.__name__
    if _NOT_LISTED.search(name) or torch.Tag.nondeterministic_seeded in op.tags:
        return False
    try:
        return not torch._C._dispatch_has_kernel_for_dispatch_key(
            op.name(), "CompositeImplicitAutograd"
        )
    except RuntimeError:
        # TorchScript has it, for Python's own numbers.
        return False


def family_of(name: str) -> str:
    """The file with an operation's transfer function."""
    for module in pkgutil.iter_modules(transfers.__path__):
        loaded = importlib.import_module(f"{transfers.__name__}.{module.name}")
        if name in getattr(loaded, "TRANSFERS", {}):
            return module.name
    return "pointwise" if name in pointwise_names() else "moves"


def written() -> str:
    """The page."""
    followed, functions = followed_names(), function_names()
    count = len(followed) + len(functions)
    cases = function_cases()
    kept = refusals_of_operations()
    reasons = [*(kept.get(name, "none") for name in followed), *function_refusals().values()]
    silent = sum(reason.startswith("none") for reason in reasons)
    head = _HEAD.format(
        version=VERSION,
        count=count,
        followed=len(followed),
        others=len(functions),
        held=len(followed) + len(cases),
        refusing=count - silent,
        silent=silent,
    )
    by_family: dict[str, list[str]] = {}
    for name in followed:
        by_family.setdefault(family_of(name), []).append(name)
    parts = [head + "## Followed by a trace\n"]
    for family, names in by_family.items():
        parts.append(_section(family, names))
    parts.append(_functions(functions, cases))
    return "\n".join(parts)


def _section(family: str, names: list[str]) -> str:
    units, kept, test = _FAMILIES[family]
    lines = [f"### `{family}`\n", f"{units} Kept by name: {kept[0].lower()}{kept[1:]}\n"]
    head = "| operation | test in `tests/tracing/test_operations.py` | kept by its name |"
    lines += [head, "|---|---|---|"]
    kept_by_name = refusals_of_operations()
    for name in names:
        held = (
            f"`{test}[{name}]`"
            if test
            else "`test_the_tests_that_hold_the_other_operations_are_there`"
        )
        lines.append(f"| `{name}` | {held} | {kept_by_name.get(name, '')} |")
    return "\n".join([*lines, ""])


_KINDS = {
    "gated": (
        "A gated parameter gives the result of the product of weight and mask.",
        "tests/engine/test_ops.py",
        "Nothing is refused: arguments without a handler run on the product itself.",
    ),
    "draws": (
        "They draw from the key, in the law of torch.",
        "tests/engine/test_drawn.py",
        "Refused by name: a draw without a key.",
    ),
    "writes": (
        "They write a row's values into a row's tensor.",
        "tests/engine/test_written_in_place.py",
        "Refused by name: a write into a gated parameter, and values of single rows into a tensor "
        "that all rows share.",
    ),
    "fresh": (
        "A new tensor has its own values for each row.",
        "tests/engine/test_row_values.py",
        "Refused by name: a list of numbers that differ from row to row.",
    ),
    "reads": (
        "They read a value that all rows share.",
        "tests/engine/test_row_values.py",
        "Refused by name: a value that differs from row to row.",
    ),
    "written out": (
        "They run in plain operations, which torch.vmap and a trace follow.",
        "tests/pure/test_attention_written_out.py and tests/pure/test_recurrent_written_out.py",
        "Refused: packed sequences in rows.",
    ),
    "rows": (
        "They depend on what a row is, or on the trace.",
        "tests/engine/test_row_values.py and tests/test_bad_rows.py",
        "Refused: BatchNorm in chunks, InstanceNorm with running statistics, packed sequences.",
    ),
    "backwards": (
        "A backward pass inside the call.",
        "tests/engine/test_recompute.py",
        "",
    ),
    "refused": (
        "They draw from the global generator or rewrite their weight.",
        "tests/pure/test_refused_functions.py",
        "Refused by name.",
    ),
}
"""For each kind: its effect, the file that holds it, and its refusals."""


def function_cases() -> dict[str, str]:
    """For functions with a case that goes by their name: the test that has it."""
    cases: dict[str, str] = {}
    for name in _loaded(HERE.parent / "tests" / "operations_by_name.py").BY_NAME:
        cases[name] = "`test_ops_by_name.py`"
    for operation in _loaded(HERE.parent / "tests" / "operations.py").OPERATIONS:
        tensors = {"w": torch.ones(operation.weight), "b": torch.ones(operation.bias)}
        with _Called() as called:
            operation.run(tensors, torch.ones(operation.row))
        for label, function in FUNCTIONS["gated"].items():
            if function in called.functions:
                cases.setdefault(label, f"`test_ops.py`, {operation.name}")
    for label in FUNCTIONS["writes"]:
        test = "test_a_write_leaves_what_it_leaves_in_plain_torch"
        cases.setdefault(label, f"`{test}[{label}]`")
    for label in FUNCTIONS["draws"]:
        test = "test_a_draw_is_a_function_of_the_key_and_of_the_law_of_torch"
        cases.setdefault(label, f"`{test}[{label}]`")
    for label in _loaded(HERE.parent / "tests" / "own_functions.py").CASES:
        cases.setdefault(label, f"`test_a_function_gives_what_it_gives_in_plain_torch[{label}]`")
    for label in FUNCTIONS["refused"]:
        # The use that is refused is the only one.
        cases.setdefault(label, "`test_a_refused_function_is_named_and_draws_nothing`")
    known = set(function_names())
    return {label: case for label, case in cases.items() if label in known}


def function_refusals() -> dict[str, str]:
    """For each function: a use that it refuses, or why it refuses none."""
    found: dict[str, str] = {}
    refused = _loaded(HERE.parent / "tests" / "refused_uses.py")
    for label in FUNCTIONS["refused"]:
        found[label] = "every use"
    for label in FUNCTIONS["draws"]:
        found.setdefault(label, "a draw without a key")
    for label in FUNCTIONS["writes"]:
        found.setdefault(label, "a write into a gated parameter")
    for label in _loaded(HERE.parent / "tests" / "wrong_on_gated.py").WRONG:
        found.setdefault(label, "what torch refuses, on a gated parameter")
    for label, use in refused.USES.items():
        found.setdefault(label, use)
    for label, why in refused.NEVER.items():
        found.setdefault(label, f"none. {why}")
    known = set(function_names())
    return {label: use for label, use in found.items() if label in known and use}


def refusals_of_operations() -> dict[str, str]:
    """For each operation that a trace follows: where it keeps units by its name."""
    tests = HERE.parent / "tests"
    sys.path[:0] = [str(tests)]
    try:
        kept, writes = _loaded(tests / "kept_operations.py"), _loaded(tests / "traced_writes.py")
    finally:
        del sys.path[0]
    found = dict.fromkeys(kept.SPREAD, "a unit spread over others")
    found |= dict.fromkeys(kept.UNARY, "none: it takes one tensor")
    found |= dict.fromkeys(
        kept.MOVES_ONLY, "none: where a call fixes the number of units, a trial keeps them"
    )
    found |= dict.fromkeys(kept.ALONG, "units along its dimension")
    for name in writes.REFUSED:
        found.setdefault(name, "units along its dimension")
    return found


class _Called(TorchFunctionMode):
    """A context that notes the torch functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: set[Any] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.add(func)
        return func(*args, **(kwargs or {}))


def _functions(names: list[str], cases: dict[str, str]) -> str:
    lines, refusals = ["## With a way of their own\n"], function_refusals()
    listed: set[str] = set()
    for kind, functions in FUNCTIONS.items():
        does, file, refuses = _KINDS[kind]
        lines += [f"### {kind}\n", f"{does} {refuses} Held by {file}.\n"]
        lines += ["| from | function | case | refused |", "|---|---|---|---|"]
        for name in sorted(functions.keys() - listed):
            source, _, function = name.partition(": ")
            case, refusal = cases.get(name, ""), refusals.get(name, "")
            lines.append(f"| {source} | `{function}` | {case} | {refusal} |")
        listed |= functions.keys()
        lines.append("")
    return "\n".join(lines)


def names_on(text: str) -> set[str]:
    """The operations that a page lists."""
    followed = re.findall(r"^\| `(\w+)` \|", text, re.M)
    functions = re.findall(r"^\| ([\w.]+) \| `([^`]+)` \|", text, re.M)
    return {*followed, *(f"{source}: {function}" for source, function in functions)}


def version_here() -> str:
    """This torch's version, without its patch."""
    return ".".join(torch.__version__.split(".")[:2])


if __name__ == "__main__":
    (HERE / "operations.md").write_text(written())
