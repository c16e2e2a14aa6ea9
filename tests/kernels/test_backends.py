"""All backends: the same functions, called in the same way."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
import torch
from torch.overrides import TorchFunctionMode

import l0func as l0
from l0func.kernels import by_torch
from l0func.kernels.backends import kernels_for
from l0func.kernels.contraction import Contraction, Operands, Output


@pytest.mark.parametrize("compiler", ["numba", "triton"])
def test_a_backend_has_the_functions_of_torch_s_and_their_arguments(compiler):
    try:
        backend = import_module(f"l0func.kernels.by_{compiler}.api")
    except ImportError as error:
        pytest.skip(f"{compiler} is missing or old: {error}")
    assert backend.__all__ == by_torch.__all__ == sorted(by_torch.__all__)
    for name in by_torch.__all__:
        ours = inspect.signature(getattr(backend, name))
        assert ours == inspect.signature(getattr(by_torch, name)), name


class Counted(TorchFunctionMode):
    """Counts the torch functions that run in it."""

    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_a_mode_for_torch_functions_sees_nothing_of_a_kernel():
    keys = l0.random.split(l0.random.key(0), 3)
    la, x = torch.zeros(4, 5), torch.ones(3, 1, 5)
    kernels = kernels_for(keys, la)
    if kernels is by_torch:
        pytest.skip("nothing compiles here")
    contraction, given = Contraction(l0.HardConcrete(), (4, 5)), Operands(la, la, x, None)
    outputs = [Output("y", 0)]
    wanted = kernels.contract(contraction, outputs, keys, given)
    with Counted() as mode:
        found = kernels.contract(contraction, outputs, keys, given)
        kernels.uniforms(keys[:, None], (7,))
    assert mode.calls == 1, "only keys[:, None] is ours"
    assert torch.equal(found[0], wanted[0])
