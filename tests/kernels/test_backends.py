"""All backends: the same functions, called in the same way."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from l0func.kernels import by_torch


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
