"""A call of a custom Function under a transform of torch.func, inside the modes around it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from l0func.internal.untyped import untyped

_functions: Any = import_module("torch._functorch.autograd_function")
_pyfunctorch: Any = import_module("torch._functorch.pyfunctorch")

custom_function_call: Any = _functions.custom_function_call
"""torch's operator for a custom Function under a transform."""


def run_custom(kind: Any, *args: Any, **named: Any) -> Any:
    """The operator's result; a mode that is active stays active inside the Function."""
    if not untyped._C._are_functorch_transforms_active():
        return kind.apply(*args, **named)
    return _pyfunctorch.dispatch_functorch(custom_function_call, (kind, *args), named)
