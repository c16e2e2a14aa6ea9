"""All backends: the same functions, called in the same way."""

from __future__ import annotations

import inspect

import pytest

from l0func.kernels import by_torch
from l0func.kernels.loading import load_kernels

COMPILERS = ["numba", "triton"]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_backend_has_the_functions_of_torch_s_and_their_arguments(compiler):
    backend = load_kernels(compiler).kernels
    if backend is None:
        pytest.skip(f"this platform has no {compiler}")
    assert backend.__all__ == by_torch.__all__ == sorted(by_torch.__all__)
    for name in by_torch.__all__:
        ours = inspect.signature(getattr(backend, name))
        assert ours == inspect.signature(getattr(by_torch, name)), name
