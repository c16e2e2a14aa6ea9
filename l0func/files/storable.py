"""Which tensors a safetensors file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from l0func.internal.kinds import other_form


def check_storable(tensors: Mapping[str, Tensor]) -> None:
    """Refuse a tensor that a safetensors file cannot hold.

    Args:
        tensors: ``{name: tensor}``; an error shows the name.

    Raises:
        ValueError: A tensor is sparse, nested or quantised, is on the meta device, or has a dtype
            that safetensors lacks.
    """
    for name, tensor in tensors.items():
        form = other_form(tensor)
        if form is not None:
            raise ValueError(f"A file holds dense tensors; {name!r} is {form}.")
        if tensor.is_meta:
            raise ValueError(
                f"A file holds values, and {name!r} is on the meta device, which holds none. Give "
                "the network its values first, as by init_params."
            )
        if not _has_type(tensor.dtype):
            raise ValueError(
                f"safetensors has no type for {tensor.dtype}, which {name!r} has. Convert it, or "
                "save torch.view_as_real of a complex tensor."
            )


@cache
def _has_type(dtype: torch.dtype) -> bool:
    library: Any = import_module("safetensors.torch")
    try:
        library.save({"x": torch.empty(1, dtype=dtype)})
    except (KeyError, ValueError, RuntimeError):
        return False
    return True
