"""Every function that writes in place, against plain torch on masked values, and its refusals."""

from __future__ import annotations

from typing import Any

import pytest
import steps
import torch
from device import marked_on_cpu
from page_of_operations import page
from torch import Tensor
from torch.nn import functional as F
from written_in_place import NOT_IN_ROWS, WRITES, Write

import l0func as l0

# torch's notes on its own functions: vmap loops over some, and one may change.
pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    pytest.mark.filterwarnings("ignore:.*is in beta and the API may change"),
]

FUNCTIONS: dict[str, Any] = page.FUNCTIONS["writes"]
HIDDEN = {"dirac_", "eye_", "ones_", "zeros_"}
"""Initialisers that torch shows to no context: it shows the functions that they call."""


def name_of(label: str) -> str:
    return label.partition(": ")[2]


def takes_no_names() -> bool:
    """Whether this torch's rename_() leaves a tensor as it is, as torch 2.1's does not."""
    try:
        torch.ones(2, 3).rename_()
    except RuntimeError:
        return False
    return True


ON_CPU = {"Tensor: apply_", "Tensor: map_", "Tensor: map2_"}
"""torch runs Python functions of single numbers on the CPU alone."""
IN_THIS_TORCH = marked_on_cpu(
    [x for x in FUNCTIONS if x != "Tensor: rename_" or takes_no_names()], ON_CPU
)


def written(label: str, target: Tensor, h: Tensor) -> Tensor:
    """The target after a write into it."""
    arguments = WRITES.get(name_of(label), Write()).arguments(h)
    returned = FUNCTIONS[label](target, *arguments)
    assert returned is target or label not in ("Tensor: add_", "torch: exp_")
    return target


def step(label: str) -> steps.Step:
    target = WRITES.get(name_of(label), Write()).target

    def write(h: Tensor) -> Tensor:
        out = written(label, target(h), h)
        out = out.to_dense() if out.layout == torch.sparse_coo else out
        return out.double() + h.sum() * 0

    return write


@pytest.mark.parametrize("label", IN_THIS_TORCH)
def test_a_write_leaves_what_it_leaves_in_plain_torch(label):
    steps.check(step(label), rows=name_of(label) not in NOT_IN_ROWS)


@pytest.mark.parametrize("label", [x for x in FUNCTIONS if name_of(x) in NOT_IN_ROWS])
def test_a_write_that_vmap_cannot_do_is_refused_by_name(label):
    name = name_of(label)
    with pytest.raises(ValueError, match=rf"'{name}' changes .*single row.* {NOT_IN_ROWS[name]}"):
        steps.in_rows(step(label))


def with_row_values(label: str) -> bool:
    """Whether a case writes floats of a row, or integers that depend on them."""
    h, other = torch.full((1, *steps.SHAPE), 0.3), torch.full((1, *steps.SHAPE), 0.7)
    case = WRITES.get(name_of(label), Write())
    pairs = zip(case.arguments(h), case.arguments(other), strict=True)
    tensors = [(a, b) for a, b in pairs if isinstance(a, Tensor)]
    return any(a.layout == torch.strided and not torch.equal(a, b) for a, b in tensors)


SHARING = [
    label
    for label in FUNCTIONS
    if with_row_values(label) and name_of(label) not in {"map_", "map2_", "resize_as_"}
]


@pytest.mark.parametrize("label", SHARING)
def test_values_of_single_rows_are_not_written_into_a_tensor_that_all_rows_share(label):
    case = WRITES[name_of(label)]
    shared = case.target(torch.linspace(0.1, 0.9, 6, dtype=torch.float64).reshape(1, 2, 3))
    before = shared.clone()
    seen = steps.names_of_calls(FUNCTIONS[label], case)
    with pytest.raises(ValueError, match=rf"'({'|'.join(seen)})' writes values .*x = x \+ y"):
        steps.in_rows(lambda h: written(label, shared, h).double())
    assert torch.equal(shared, before)


@pytest.mark.parametrize("label", IN_THIS_TORCH)
def test_a_gated_parameter_is_not_written(label):
    case = WRITES.get(name_of(label), Write())
    h = steps.hidden(steps.inputs())[:1]
    target = case.target(h)
    target = target.to_dense() if target.layout == torch.sparse_coo else target
    # Bits have no gates: it is refused before torch looks at the type.
    weight = torch.randn(target.shape, dtype=torch.float64)
    weight = weight.expand(3, *weight.shape).clone() if weight.dim() < 2 else weight
    before = weight.clone()
    spec = l0.gate_spec({"w": weight}, {"w": l0.axis(0)})
    gates = l0.init_gates(l0.random.key(1), spec)

    def write(p: dict[str, Tensor], buffers: Any) -> Tensor:
        FUNCTIONS[label](p["w"], *case.arguments(h))
        return F.relu(p["w"])

    apply = l0.gated(write, spec)
    with pytest.raises(ValueError, match=r"writes into the gated parameter 'w'") as refusal:
        torch.vmap(lambda key: apply({"w": weight}, gates, {}, key))(steps.KEYS)
    names = steps.names_of_calls(FUNCTIONS[label], case)
    assert any(f"'{name}'" in str(refusal.value) for name in names)
    assert torch.equal(weight, before)
