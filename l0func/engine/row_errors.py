"""Errors of vmap in the library's words; :class:`l0func.engine.per_example.PerExample` uses them.

torch speaks of batched tensors, and a user of ``per_example`` of rows: each example is one row,
with its own mask, and the module runs once for all rows.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from l0func.internal.arose import Passed, module_of, passed_by
from l0func.internal.source_line import source_line
from l0func.internal.untyped import untyped

_LOOP = (
    "run the rows one after another: torch.cat([apply(params, gates, buffers, key, x[i : i + 1]) "
    "for i, key in enumerate(keys)])"
)
_ONE_AT_A_TIME = (
    "run the rows one after another: l0func.per_example(apply, chunk_size=1), with one key for "
    "each row"
)


class _Reading(NamedTuple):
    """A text of vmap, its reason and what a user can write instead."""

    text: str
    reason: str
    advice: str


_READINGS = (
    _Reading(
        r"not possible because there exists a Tensor",
        "an operation in place writes the values of single rows into a tensor that all rows share",
        "Write the operation out of place, as in x = x + y, or write into x.clone()",
    ),
    _Reading(
        r"dynamic shape|differently shaped|boolean mask|size of the output equals the sum",
        "the shape of a result depends on values, and each row has its own",
        f"Write torch.where(mask, a, b) or x * mask, or {_ONE_AT_A_TIME}",
    ),
    _Reading(
        r"\.item\(\)|argument .* must be",
        "a Python number is needed for the whole call, and a tensor has a value for each row",
        "Keep the tensor and compute with it, or write int(n) or float(x), which reads a number "
        f"that all rows share; where it differs, also {_ONE_AT_A_TIME}",
    ),
    _Reading(
        r"FuncTorchBatched doesn't correspond",
        "this torch makes no tensor by the type of a row's tensor",
        "Write x.new_empty(shape) or x.new_tensor(data)",
    ),
    _Reading(
        r"data-dependent control flow",
        "Python branches on a value, and each row has its own",
        f"Compute both and write torch.where(condition, a, b), or {_ONE_AT_A_TIME}",
    ),
    _Reading(
        r"doesn't have storage|numpy",
        "the values leave torch, and each row has its own",
        f"Compute with torch alone, or {_ONE_AT_A_TIME}",
    ),
    _Reading(
        r"equal size, but got",
        "the shape of a result differs from row to row",
        "Give all rows results of one shape, padded if need be",
    ),
    _Reading(
        r"may have escaped",
        "a tensor from an earlier call was used; it belonged to a single row of that call, as "
        "the module saw it, and ended with the call",
        "Return such a tensor from forward, and per_example joins the rows",
    ),
)
_NO_OUT = "torch cannot write the rows of a result into an argument, out="
_NO_FUNCTION = re.compile(r"vmap over (\S+), but it does not have vmap support")
_VMAP_RULE = "Give it generate_vmap_rule = True, or a staticmethod vmap"
_NO_RULE = re.compile(r"(?:[Bb]atching rule not implemented for|rule for) (\S+?)\.?(?:\s|$|;)")
_VMAP = re.compile(
    r"vmap|[Bb]atching rule|[Ff]unc[Tt]orch|BatchedTensor|equal size, but got|storage"
)
# What torch 2.1 says of a row's tensor in a number's place; later it asks for item().
_NO_NUMBER = re.compile(r"must be (tuple of ints|int|float|Number), .*\bTensor\b")


def in_words_of_rows(error: RuntimeError | TypeError, /) -> ValueError | None:
    """The error for the user, or None if the error is not one of vmap.

    Args:
        error: An error out of ``torch.vmap``.
    """
    text = " ".join(str(error).split())
    expression = _NO_NUMBER if isinstance(error, TypeError) else _VMAP
    if not expression.search(text):
        return None
    line = source_line(error)
    reason, advice = _explained(text, passed_by(error), line)
    return ValueError(
        f"per_example runs the module once for all rows, each with its own mask, and {reason}"
        f"{line}. {advice}. (torch: {text[:160]})"
    )


def _explained(text: str, found: list[Passed], line: str) -> tuple[str, str]:
    """The reason for an error of vmap, and the advice."""
    for reading in _READINGS:
        if re.search(reading.text, text):
            return reading.reason, reading.advice
    function = _NO_FUNCTION.search(text)
    if function:
        return f"the torch.autograd.Function {function[1]} has no rule for rows", _VMAP_RULE
    no_rule = _NO_RULE.search(text)
    if no_rule and _writes_out(no_rule[1]):
        return _out(found, line)
    name = f"the operation {no_rule[1]}" if no_rule else "an operation"
    module = module_of(found)
    where = f", in {module}," if module and not line else ""
    return (
        f"torch cannot run {name}{where} in this way",
        f"Write it with other operations, or {_LOOP}",
    )


def _writes_out(name: str) -> bool:
    """Whether an operation, such as ``aten::add.out``, writes its result into an argument."""
    namespace, _, rest = name.partition("::")
    base, _, overload = rest.partition(".")
    packet = getattr(getattr(untyped.ops, namespace), base, None)
    operation = getattr(packet, overload or "default", None)
    return operation is not None and any(x.is_out for x in operation._schema.arguments)


def _out(found: list[Passed], line: str) -> tuple[str, str]:
    """The reason and the advice for an argument out=, of the user's or of torch's own code."""
    inner = found[0] if found else None
    if inner is None or not inner.by_torch or "out=" in line:
        return _NO_OUT, "Take the result that the function returns, without out="
    module = module_of(found)
    where = f" in {module}" if module else ""
    return (
        f"torch's own {inner.function}(){where} writes into an argument, out=, where torch cannot "
        "write the rows of a result",
        "Put that module in eval mode if it leaves this step out there, as spectral_norm does; or "
        "draw one mask for the batch: l0func.gated with one key, or L0Module(per_example=False)",
    )
