"""The operators that l0func registers with torch: each is what its schema says of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import l0func as l0
from l0func import random
from l0func.module import apart

OPCHECK: Any = getattr(torch.library, "opcheck", None)
pytestmark = [
    pytest.mark.on_cpu,
    pytest.mark.skipif(OPCHECK is None, reason="torch.library.opcheck came with torch 2.5"),
]
UTILITIES = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_dynamic",
)


class Recorded(TorchDispatchMode):
    """A context that notes the calls of l0func's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "l0func":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


class Convolved(nn.Module):
    """A convolution in groups, and a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.conv(x)).mean((2, 3)))


GATES = [l0.HardConcrete(), l0.HardKuma(), l0.GaussianGate(), l0.BernoulliGate()]
INPUTS = {
    "matrix": (lambda: nn.Linear(3, 2), (4, 3)),
    "sequence": (lambda: nn.Linear(3, 2), (4, 5, 3)),
    "convolution": (Convolved, (3, 2, 4, 4)),
}


def contractions(make: Any, shape: tuple[int, ...], gate: Any, dtype: torch.dtype) -> list[Any]:
    """The operators' calls in a pass of rows, its gradient and the gradient's gradient."""
    fn, params, buffers = l0.make_functional(make().to(dtype))
    spec = l0.gate_spec(params, {"*weight": l0.element()}, distribution=gate)
    gates = l0.init_gates(random.key(0), spec)
    rows = l0.per_example(l0.gated(fn, spec))
    x = random.normal(random.key(1), shape).to(dtype).requires_grad_()
    keys = random.split(random.key(2), len(x))
    leaves = [*params.values(), *gates.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    with Recorded() as recorded:
        loss = rows(params, gates, buffers, keys, x).square().sum()
        grads = torch.autograd.grad(loss, [x, *leaves], create_graph=True)
        total: Any = sum(grad.square().sum() for grad in grads)
        torch.autograd.grad(total, [x, *leaves])
    return recorded.calls


def check(operator: Any, args: tuple[Any, ...]) -> None:
    """All that torch can check of one call of an operator."""
    plain = [arg.detach() if isinstance(arg, Tensor) else arg for arg in args]
    found = OPCHECK(operator, tuple(plain), test_utils=UTILITIES)
    assert found == dict.fromkeys(UTILITIES, "SUCCESS")
    # As a caller sees it who asks for a gradient: the operator has none, and says so.
    floats = [is_float(arg) for arg in plain]
    with_grad = [
        arg.clone().requires_grad_() if wants else arg
        for arg, wants in zip(plain, floats, strict=True)
    ]
    found = OPCHECK(operator, tuple(with_grad), test_utils="test_autograd_registration")
    assert found == {"test_autograd_registration": "SUCCESS"}


def is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def test_every_operator_that_is_registered_is_checked_here():
    names = torch._C._dispatch_get_all_op_names()
    found = {name for name in names if name.startswith("l0func::")}
    assert found == {"l0func::contract", "l0func::apart"}


def check_contractions(name: str, gate: l0.GateDistribution, dtype: torch.dtype) -> None:
    calls = contractions(*INPUTS[name], gate, dtype)
    # The results and their orders; a second call of a kind shows nothing new.
    kinds = {str(args[10:12]): (operator, args) for operator, args in calls}
    assert len(kinds) >= 5
    for operator, args in kinds.values():
        check(operator, args)


def test_a_contraction_is_what_its_schema_says():
    # By torch: numba takes seconds to build.
    l0.use_kernel("eager")
    check_contractions("convolution", GATES[0], torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gate", GATES, ids=lambda gate: type(gate).__name__)
@pytest.mark.parametrize("name", INPUTS)
def test_every_contraction_of_every_distribution_is_what_its_schema_says(name, gate, dtype):
    check_contractions(name, gate, dtype)


@pytest.mark.parametrize("has_rows", [False, True])
def test_a_comparison_of_keys_is_what_its_schema_says(has_rows, monkeypatch):
    # A number whose keys the processes have compared: the test has one process.
    monkeypatch.setattr(apart, "_NOTED" if has_rows else "_FOUND_APART", {5})
    check(torch.ops.l0func.apart.default, (random.key(0), 5, has_rows))
