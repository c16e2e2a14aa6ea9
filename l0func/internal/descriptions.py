"""Torch functions that describe a tensor and ignore its values.

Gated parameters answer them from their weight. To the guard of a pure function they are no reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from l0func.internal.untyped import TENSOR

_PROPERTIES = (
    "shape",
    "dtype",
    "device",
    "ndim",
    "layout",
    "is_sparse",
    "is_cuda",
    "is_meta",
    "is_quantized",
    "requires_grad",
)
_DESCRIBING_METHODS = (
    "__len__",
    "dim",
    "size",
    "numel",
    "nelement",
    "ndimension",
    "is_floating_point",
    "is_complex",
    "element_size",
    "get_device",
)


def _describing() -> Iterator[Any]:
    for name in _PROPERTIES:
        yield getattr(TENSOR, name).__get__
    for name in _DESCRIBING_METHODS:
        yield getattr(TENSOR, name)
    yield torch.numel
    yield torch.is_floating_point


DESCRIPTIONS = frozenset(_describing())
"""Functions that describe a tensor (shape, dtype, device) and never read its values."""
