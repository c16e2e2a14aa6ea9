"""The inventory: every operation that a trace follows has a case, and the page lists them all.

The oracle for a case is the operation itself. Without some of its units it gives what it gave with
all of them, where the trace says that these units are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from device import marked_on_cpu, seeded_generator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from traced_operations import (
    MOVES,
    NORMS,
    POOLS,
    PRODUCTS,
    REDUCTIONS,
    UNUSUAL,
    UNUSUAL_IMAGES,
    Case,
)
from traced_writes import COMPLEX, ELSEWHERE, REFUSED, UNUSUAL_WRITES, WRITES
from traces import Between, reason, sources, traced, units

import l0func as l0
from l0func.tracing.call import operation_name

ROOT = Path(__file__).parent.parent.parent
UNITS = 6
_spec = importlib.util.spec_from_file_location("operations_page", ROOT / "docs" / "operations.py")
page: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(page)

aten = torch.ops.aten
POINTWISE = page.pointwise_names()


class Names(TorchDispatchMode):
    """A context that notes the names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation_name(func)
        self.seen |= {name, name.removesuffix("_")}
        return func(*args, **(kwargs or {}))


def hidden(kind: str) -> Tensor:
    generator = seeded_generator(0)
    shape = (2, 3, UNITS) if kind == "tokens" else (2, UNITS, 4, 4)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 0.8 + 0.1


def check(name: str, function: Case, kind: str = "tokens") -> None:
    """A case of an operation is followed."""
    with Names() as names:
        function(hidden(kind))
    assert name in names.seen, sorted(names.seen)
    check_units(function, kind)


def check_units(function: Case, kind: str = "tokens") -> None:
    """A case is followed: its units are where removal finds them."""
    dim = 2 if kind == "tokens" else 1
    h = hidden(kind)
    whole = function(h)
    of_units = dim if kind == "images" else whole.dim() - 1
    columns = where_units_are(function, kind, whole.shape[of_units])
    for kept in ([0, 1, 2, 3, 4], [1, 4, 5], [2]):
        some = function(h.index_select(dim, torch.tensor(kept)))
        places = [i for i, unit in enumerate(columns) if unit in kept]
        expected = whole.index_select(of_units, torch.tensor(places))
        torch.testing.assert_close(some, expected, equal_nan=True)


def where_units_are(function: Case, kind: str, width: int) -> list[int]:
    if kind == "tokens":
        last: nn.Module = nn.Linear(width, 2)
        trace = traced(
            Between(nn.Linear(4, UNITS), after_sigmoid(function), last), torch.ones(2, 3, 4)
        )
    else:
        first, last = nn.Conv2d(1, UNITS, 1), Channels(width)
        trace = traced(Between(first, after_sigmoid(function), last), torch.ones(2, 1, 4, 4))
    columns = sources(trace)
    assert reason(trace, "first.weight") == ""
    assert set(columns) == set(range(UNITS))
    return columns


class Channels(nn.Module):
    """A reader of dimension 1, whatever follows it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, width))

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1) @ self.weight.T


def after_sigmoid(function: Case) -> Case:
    return lambda h: function(h.sigmoid()).to(h.dtype)


def pointwise_case(name: str) -> Case:
    """A call of a pointwise operation on values that differ between units."""
    packet = getattr(aten, name)
    for overload in packet.overloads():
        for as_type in (
            Tensor.double,
            lambda h: (h * 10).long(),
            lambda h: h.gt(0.5),
            lambda h: h + 2,
        ):
            case = called(getattr(packet, overload), as_type)
            if runs(case, name):
                return case
    raise AssertionError(f"no overload of {name!r} runs on plain values")


def called(op: Any, as_type: Callable[[Tensor], Tensor]) -> Case:
    def case(h: Tensor) -> Tensor:
        args, number = [], 0
        for argument in op._schema.arguments:
            kind = str(argument.type)
            if argument.kwarg_only or (argument.has_default_value() and "Tensor" not in kind):
                break
            if "Tensor" in kind:
                values = h if number == 0 else h * 0.5 + 0.1 * number
                args.append(values.gt(0.4) if argument.name == "condition" else as_type(values))
                number += 1
            else:
                args.append(2)
        out = op(*args)
        out = out[0] if isinstance(out, tuple | list) else out
        return out.abs() if out.is_complex() else out.to(torch.float64)

    return case


def runs(case: Case, name: str) -> bool:
    h = hidden("tokens")
    try:
        with Names() as names:
            out = case(h.clone())
    except Exception:
        return False
    return name in names.seen and isinstance(out, Tensor) and out.shape == h.shape


@pytest.mark.parametrize("name", POINTWISE)
def test_a_pointwise_operation_keeps_every_unit_in_its_place(name):
    case = pointwise_case(name)
    check(name, lambda h: case(h.clone()))


def here(cases: dict[str, Case]) -> dict[str, Case]:
    """The cases of operations that this torch has."""
    return {name: case for name, case in cases.items() if name in FOLLOWED}


FOLLOWED = set(page.followed_names())
OF_REDUCTIONS = {name: lambda h, f=f: h * f(h, 1) for name, f in REDUCTIONS.items()}
CASES = here({**MOVES, **PRODUCTS, **WRITES, **COMPLEX, **OF_REDUCTIONS})
IMAGES = here({**POOLS, **NORMS})
KEPT = {name: case for name, case in REFUSED.items() if hasattr(aten, name)}


@pytest.mark.parametrize("name", CASES)
def test_units_go_through_an_operation_along_other_dimensions(name):
    check(name, CASES[name])


def test_a_write_into_some_units_only_is_refused_by_the_trial():
    index = torch.zeros(2, 3, 2, dtype=torch.long)
    net = Between(
        nn.Linear(4, 6), lambda h: h.scatter(1, index, h[..., :2].exp()), nn.Linear(6, 2)
    )
    with pytest.raises(ValueError, match=r"'first.weight': a trial .* the outputs differ"):
        l0.unit_groups(net, torch.randn(2, 3, 4))


@pytest.mark.parametrize("name", marked_on_cpu(IMAGES, {"_batch_norm_no_update"}))
def test_channels_go_through_an_operation_on_images(name):
    check(name, IMAGES[name], "images")


@pytest.mark.parametrize(
    "function", [*UNUSUAL.values(), *UNUSUAL_WRITES.values()], ids=[*UNUSUAL, *UNUSUAL_WRITES]
)
def test_units_go_through_an_unusual_call(function):
    check_units(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h + h[0, 0, 0].masked_scatter(torch.tensor(True), h[0, 0]),
        lambda h: h[0].masked_scatter(torch.ones(2, 1, 1, dtype=torch.bool), h.exp()),
    ],
)
def test_a_masked_write_of_other_dimensions_is_refused(function):
    net = Between(nn.Linear(4, 6), function, nn.Linear(6, 2))
    with pytest.raises(ValueError, match=r"the operation 'masked_scatter', which cannot be"):
        l0.unit_groups(net, torch.randn(2, 3, 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h + h[0, 0, 0].scatter(0, torch.tensor([0]), h[0, 0, :1].exp()),
        lambda h: h + h[0, 0, 0].scatter(0, torch.tensor(0), h[0, 0, 0].exp()),
        lambda h: h + h[0, 0, 0].index_add(0, torch.tensor([0]), h[0, 0, 0].exp()),
        lambda h: h + h[0, 0, 0].index_fill(0, torch.tensor([0]), 2.0),
    ],
)
def test_a_write_into_a_number_keeps_its_unit_and_is_named(function):
    trace = traced(Between(nn.Linear(4, 6), function, nn.Linear(6, 2)), torch.ones(2, 3, 4))
    why = [trace.units.reason(unit) for unit in units(trace, "first.weight", 0)]
    assert "into a number without dimensions" in (why[0] or "")
    assert why[1:] == [None] * 5


@pytest.mark.parametrize("name", UNUSUAL_IMAGES)
def test_channels_go_through_an_unusual_call_on_images(name):
    check_units(UNUSUAL_IMAGES[name], "images")


@pytest.mark.parametrize("name", KEPT)
def test_an_operation_over_units_keeps_them_and_is_named(name):
    h = hidden("tokens")
    with Names() as names:
        width = REFUSED[name](h).shape[-1]
    assert name in names.seen, sorted(names.seen)
    net = Between(nn.Linear(4, UNITS), after_sigmoid(REFUSED[name]), nn.Linear(width, 2))
    trace = traced(net, torch.ones(2, 3, 4))
    reasons = {
        trace.units.reason(u) or ""
        for u in trace.units.roots(trace.slices["first.weight", 0].labels).tolist()
    }
    assert any(f"'{name}'" in why for why in reasons), reasons


def test_every_operation_that_a_trace_knows_has_a_case():
    held = {*POINTWISE, *CASES, *IMAGES, *ELSEWHERE}
    assert FOLLOWED - held == set()


def test_the_tests_that_hold_the_other_operations_are_there():
    for test in ELSEWHERE.values():
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(), test


def test_the_page_is_the_one_that_its_script_writes():
    text = (ROOT / "docs" / "operations.md").read_text()
    listed = page.names_on(text)
    assert len(listed) > 351
    assert set(page.function_cases()) <= set(page.function_names())
    known = {*page.followed_names(), *page.function_names()}
    if page.VERSION == page.version_here():
        assert text == page.written()
        assert len(page.followed_names()) + len(page.function_cases()) > 351
    else:
        # Another torch has some operations more or less.
        assert len(known & listed) > 0.9 * len(known)
